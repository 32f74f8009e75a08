"""An evaluation or a baseline with scores of too few of its responses is no result."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import massact
from massact.domain import Group
from massact.plot.sources import evidence_of
from massact.query import Evaluations, Filters
from massact.query.questions.best import ask_best
from massact.query.questions.gaps import ask_gaps
from massact.query.questions.runs import ask_runs
from massact.store.schema import Points, point_of
from massact.store.schema.declared import Declared, encode_declared
from massact.store.schema.points import has_enough_scores
from massact.store.write.client import connect
from massact.sweep.reuse import known_results
from tests.support.store_fixtures import answers_of, evaluated, evaluation_row

FLOOR = 68.0
FILE = """\
{"type": "header", "trait": "demo/kind", "steering_model": "org/tiny-it", "eval": {"model": "j", "method": "logprob"}, \
"prompts_file": "q.json", "n_questions": 20}
{"type": "baseline", "result": {"trait_mean": 10.0, "coherence_mean": 90.0, "n": BASE}, \
"timestamp": "2026-01-01T00:00:00"}
"""
LINE = """\
{"result": {"trait_mean": TRAIT, "coherence_mean": 80.0, "n": N}, "config": {"vectors": [{"layer": 9, "component": \
"residual", "position": "response[:5]", "method": "probe", "weight": WEIGHT}]}, "timestamp": "2026-01-01T01:00:00"}
"""


def imported(folder: Path, *, base: int = 20) -> str:
    """A store with a result of 20 of 20 responses and a better one of 1 of 20."""
    file = folder / "steering/demo/kind/instruct/response__5/steering/results.jsonl"
    file.parent.mkdir(parents=True)
    lines = [LINE.replace("TRAIT", t).replace("WEIGHT", w).replace(" N}", f" {n}}}") for t, w, n in
             (("40.0", "6.0", "20"), ("95.0", "9.0", "1"))]  # fmt: skip
    file.write_text(FILE.replace("BASE", str(base)) + "".join(lines))
    from click.testing import CliRunner

    from massact.cli.app import cli

    uri = f"sqlite:///{folder / 'mlflow.db'}"
    done = CliRunner().invoke(cli, ["import", str(folder / "steering"), "--experiment", "x", "--tracking-uri", uri])
    assert done.exit_code == 0, done.output
    return uri


def test_the_bound_itself_counts_and_untold_counts_are_taken_as_told() -> None:
    assert has_enough_scores(8, 2, 0.8)
    assert not has_enough_scores(7, 3, 0.8)
    assert has_enough_scores(0, 0, 0.8), "an imported file that does not say"
    assert not has_enough_scores(0, 4, 0.5)
    assert has_enough_scores(1, 19, 0.0)
    assert has_enough_scores(np.array([1.0, 19.0]), np.array([19.0, 1.0]), 0.8).tolist() == [False, True]


def test_one_of_twenty_scored_does_not_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    uri = imported(tmp_path)
    answer = massact.best("x", tracking_uri=uri)
    assert [(one.status, one.coefficient, one.delta) for one in answer.rows] == [("ok", 6.0, 30.0)]
    assert answer.least_scored == 0.8
    (note,) = (note for note in answer.notes if note.startswith("1 evaluation has scores of too few responses"))
    assert note.endswith("no result; imported, so that they cannot be judged here")
    (asked,) = massact.best("x", tracking_uri=uri, least_scored=0.05).rows
    assert (asked.coefficient, asked.delta) == (9.0, 85.0)
    listed = massact.runs("x", tracking_uri=uri, sort="coefficient").rows
    assert [(one.status, one.delta, one.n_scored) for one in listed] == [("ok", 30.0, 20), ("unscored", 85.0, 1)]


def test_a_baseline_with_too_few_scores_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    answer = massact.best("x", tracking_uri=imported(tmp_path, base=2))
    assert [(one.status, one.delta) for one in answer.rows] == [("missing", None)]
    assert any("the baseline has scores of 2 of 20 responses, too few" in note for note in answer.notes)


def test_a_group_with_nothing_else_is_a_gap_that_says_so() -> None:
    short = evaluated("probe", n_scored=1, n_unscored=19, delta=85.0)
    group = Group("gemma", "refusal", "response[:5]", "probe")
    answer = ask_gaps.of(answers_of([short], groups=(group,)), FLOOR)
    (row,) = answer.rows
    assert (row.status, row.best, row.n_unscored, row.n_short) == ("missing", None, 1, 1)
    assert answer.remaining == (row,)
    assert any("the next sweep, or massact rejudge, has the others judged" in note for note in answer.notes)
    assert ask_best.of(answers_of([short]), FLOOR).rows[0].status == "missing"
    (listed,) = ask_runs.of(answers_of([short]), FLOOR).rows
    assert (listed.status, listed.delta) == ("unscored", 85.0), "shown as it is stored"
    whole = Evaluations.of([short], least_scored=0.0)
    assert ask_best.of(answers_of(whole), FLOOR).rows[0].delta == 85.0


def test_what_is_scored_too_little_is_not_finished() -> None:
    row = evaluation_row()
    baseline = replace(row, key="baseline", trait_mean=10.0, n_scored=4)

    def finished(**changes: object) -> bool:
        some = replace(row, **changes)  # type: ignore[arg-type]
        points = Points.of([one for one in [point_of(some, "r", 1)] if one is not None])
        return known_results(points, 0.9999, model="gemma", trait="refusal", baseline=baseline).has(row.key)

    assert finished()
    assert not finished(n_scored=1, n_unscored=3)
    assert not finished(delta=None)
    assert not finished(baseline_trait_mean=40.0), "compared with another baseline than the store's"
    baseline = replace(baseline, n_scored=1, n_unscored=3)
    assert not finished()


def test_a_figure_of_a_bare_name_takes_the_floor_that_best_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    uri = imported(tmp_path)
    client = connect(uri)
    (home,) = [one for one in client.search_experiments() if one.name == "x"]
    for key, value in encode_declared(Declared("x", 85.0, ("kind",), (), {}), at=1).items():
        client.set_experiment_tag(home.experiment_id, key, value)
    answer = massact.best("x", tracking_uri=uri)
    assert (answer.floor, [row.status for row in answer.rows]) == (85.0, ["below_floor"])
    assert evidence_of("x", uri, Filters(), None).floor == 85.0
    assert evidence_of("x", uri, Filters(), 70.0).floor == 70.0
