"""What the tests of the query API ask about: one experiment of ours in two MLflow experiments, and every question."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from massact.server.answering import served
from massact.store.schema import Declared, DeclaredPhase, EvaluationRow, Kind, Scores, Tag, encode_declared
from massact.store.schema.rows import encode_scores
from tests.support.confirmation_rows import BASE, Scored, chosen, confirmed, confirmed_baseline
from tests.support.store_fixtures import EXPERIMENT, Filled, Filler, evaluation_row, point_tags, row_tags

SECRET = "secret experiment"
LABELS = ("probe", "mean_diff", "mean_diff_cleaned", "mean_diff_preclean", "probe_cleaned", "probe_preclean")
GAINS = (20, 24, 23, 18, 24, 21)

ASKED: list[tuple[str, dict[str, Any]]] = [
    ("gaps", {}),
    ("gaps", {"phase": "phase1", "floor": 90}),
    ("best", {}),
    ("best", {"intervals": "false", "label": ["probe", "mean_diff"], "layer": 15}),
    ("compare", {}),
    ("compare", {"pair": ["probe:mean_diff", "mean_diff:gradient"], "model": "gemma"}),
    ("curve", {}),
    ("curve", {"method": "probe", "when": "before", "scope": "uniform", "trait": "refusal"}),
    ("coefficients", {"position": "response[:5]"}),
    ("sensitivity", {}),
    ("sensitivity", {"floors": "70-72", "judge": "likelihood"}),
    ("judges", {}),
    ("confirmations", {}),
    ("costs", {}),
    ("effects", {"floor": 60}),
    ("runs", {}),
    ("runs", {"sort": "delta", "limit": 3}),
]
"""Questions with their parameters, each at least once."""


def command_line(question: str, given: Mapping[str, Any]) -> list[str]:
    """The same question as arguments of the command."""
    line = [question]
    for name, value in given.items():
        if name == "intervals":
            line += [] if value == "true" else ["--no-intervals"]
            continue
        for one in value if isinstance(value, list) else [value]:
            line += [f"--{name}", str(one)]
    return line


def fill(uri: str, *, homes: Iterable[str] = ("public", "private")) -> Filled:
    """The experiment, with the same run ids in whatever database; of its two MLflow experiments those named."""
    filler = Filler(uri, ids_by_name=True)
    for home in homes:
        home_id = filler.client.create_experiment(home)
        (_fill_public if home == "public" else _fill_private)(filler, home_id)
    return filler.filled


def _fill_public(filler: Filler, home: str) -> None:
    _evaluate(filler, home, "baseline", _baseline(), Scores(BASE, (90.0,) * 6))
    for place, label in enumerate(LABELS):
        for layer in (15, 16):
            for step, coefficient in enumerate((1000.0, 1200.0, 1500.0)):
                gains = [gain + 2 * place + 3 * step + layer - 15 for gain in GAINS]
                coherence = (85.0, 75.0, 50.0)[step]
                key = f"{label} {layer} {coefficient:g}"
                _write(filler, home, _at(layer, chosen(label, coefficient, gains, coherence=coherence, key=key)))
    for step, coefficient in enumerate((1000.0, 1200.0)):
        key, other = (f"judged {coefficient:g}", {"setting": "setting-2", "judge": "another", "judge_model": "other"})
        gains = [gain + (30, -9)[step] for gain in GAINS]
        _write(filler, home, chosen("probe", coefficient, gains, key=key, **other))
    _write(filler, home, confirmed_baseline())
    winner = _at(16, chosen("probe_preclean", 1200.0, GAINS, key="probe_preclean 16 1200"))
    _write(filler, home, confirmed(winner, (20, 30, None, 25)))
    failure = evaluation_row("gradient", key="failed", trait_mean=None, coherence_mean=None, delta=None, n_scored=0)
    filler.run("failed", home, tags=row_tags(failure, **{Tag.ERROR.value: "out of memory"}), status="FAILED")
    filler.run("of another tool", home, tags={})
    _declare(filler, home, (*LABELS, "gradient", "probe_top1"), at=10)


def _fill_private(filler: Filler, home: str) -> None:
    """All that would change an answer, if it were read."""
    best = _at(17, chosen("probe", 900.0, [gain + 50 for gain in GAINS], key="secret best"))
    _write(filler, home, best)
    newer = chosen("mean_diff", 1000.0, [gain + 40 for gain in GAINS], key="mean_diff 15 1000")
    _write(filler, home, newer, at=9000)  # of a key that the other one has too
    _write(filler, home, chosen("mean_diff_top1", 950.0, GAINS, key="secret label"))
    _write(filler, home, chosen("probe", 950.0, GAINS, key="secret model", model="secret-model"))
    _write(filler, home, confirmed(best, (50, 60, 55, 45), key="secret confirmed"))
    failure = evaluation_row("gradient", key="secret failed", trait_mean=None, coherence_mean=None, delta=None)
    filler.run("secret failed", home, tags=row_tags(failure), status="FAILED", at=5000)
    filler.run("secret of another tool", home, tags={})
    unreadable = {**row_tags(evaluation_row(key="secret")), Tag.ROW.value: "?"}
    filler.run("secret unreadable", home, tags=unreadable)
    _write(filler, home, chosen("probe", 1000.0, GAINS, key="of another", experiment=SECRET))
    _declare(filler, home, ("probe", "secret-label"), at=99)


def _baseline() -> EvaluationRow:
    return replace(confirmed_baseline()[0].row, kind=Kind.BASELINE, key="baseline", confirms=None, setting="setting-1")


def _at(layer: int, scored: Scored) -> Scored:
    stored, scores = scored
    row = replace(stored.row, layer=layer, vector_digest=f"vector-{stored.row.label}-{layer}")
    return replace(stored, row=row), scores


def _write(filler: Filler, home: str, scored: Scored, *, at: int = 1000) -> None:
    stored, scores = scored
    _evaluate(filler, home, f"{stored.row.key} {at}", stored.row, scores, at=at)


def _evaluate(filler: Filler, home: str, name: str, row: EvaluationRow, scores: Scores, *, at: int = 1000) -> None:
    tags = point_tags(row) if row.kind == Kind.EVALUATION else row_tags(row)
    filler.run(name, home, tags={**tags, Tag.SCORES.value: encode_scores(scores) or ""}, at=at)


def _declare(filler: Filler, home: str, labels: tuple[str, ...], *, at: int) -> None:
    phases = tuple(
        DeclaredPhase(name, ("gemma",), ("response[:5]",), labels[: -1 if name == "phase1" else None])
        for name in ("phase1", "phase2")
    )
    declared = Declared(EXPERIMENT, 70.0, ("refusal",), phases, {"gemma": (100.0, 5000.0)}, 0.4)
    for key, value in encode_declared(declared, at=at).items():
        filler.client.set_experiment_tag(home, key, value)


def every_question_is_asked() -> bool:
    """Whether a question that was added is tested too."""
    return {name for name, _ in ASKED} == set(served())
