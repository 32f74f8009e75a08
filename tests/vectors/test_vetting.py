"""Vetting: what a judge finds wanting is left out, counted by its reason, and never half-written."""

import json
import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from massact.cli.app import cli
from massact.config import Experiment, load_experiment
from massact.config.parse import with_validation_split
from massact.data.prompt_files import Prompt
from massact.data.traits import TraitDataset, load_trait
from massact.domain import JudgeIdentity
from massact.errors import ConfigError, DataError, UsageError
from massact.judges import Exchange, Verdict
from massact.keys import digest, digest_text
from massact.labels import format_label
from massact.models.load import load_model
from massact.models.prompting import encode_chat, encode_text
from massact.store.read.base import Stored
from massact.store.schema import Kind, StageRow
from massact.store.write.stages import Sources, continuation_bytes, count_metrics, sources_note
from massact.sweep.context import Session
from massact.sweep.stored_extractions import is_meant, newest_extractions, other_settings, vetting_words
from massact.vectors.activations import PromptStatus, decide_statuses, split_sides
from massact.vectors.extract import Contrast, Vetting, encode_prompts, read_contrast, vet
from massact.vectors.streams import Continued
from massact.workflow.extract import _extraction_cell as extraction_cell
from massact.workflow.extract import extraction_recipes
from tests.support.small_plan import EXPERIMENT as WHOLE_EXPERIMENT
from tests.support.tiny import tiny_model

T, V = PromptStatus.TRAIN, PromptStatus.VALIDATION
EXPERIMENT = re.sub(r"probe\w*, ", "", WHOLE_EXPERIMENT).replace(", probe]", "]").replace("[1, 2, all]", "[1]")
"""Without probes, which take longest to make."""


class ScriptedJudge:
    """Scores a response `s70` with 70; `none` has no score."""

    def __init__(self) -> None:
        self.asked: list[Exchange] = []

    identity = JudgeIdentity("scripted", "m", "p")

    def prepare(self) -> None:
        """Nothing to load."""

    def score(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
        self.asked += exchanges
        return [_verdict(one.response) for one in exchanges]


def _verdict(response: str) -> Verdict:
    if response == "none":
        return Verdict(None, 80.0, "the judge was silent")
    return Verdict(float(response[1:]), None if response == "s61" else 90.0)


def _contrast(positive: Sequence[str], negative: Sequence[str]) -> Contrast:
    judged = (*positive, *negative)
    prompts = tuple(Prompt(f"p{i}", "a system prompt", f"line {i + 1}") for i in range(len(judged)))
    texts = tuple(Continued((1,), (2,)) for _ in judged)
    return Contrast(prompts, len(positive), texts, tuple(f"read {i}" for i in range(len(judged))), judged)


def _vet(positive: Sequence[str], negative: Sequence[str], *, paired: bool = False) -> Vetting:
    contrast = _contrast(positive, negative)
    return vet(contrast, ScriptedJudge(), positive_at_least=60, negative_at_most=40, paired=paired)  # type: ignore[arg-type]


# the rule


def test_a_threshold_itself_passes_and_a_missing_score_does_not() -> None:
    vetting = _vet(["s60", "s59.99", "none", "s100"], ["s40", "s40.01", "none", "s0"])
    assert vetting.dropped == ([None, PromptStatus.FAILED, PromptStatus.UNSCORED, None],) * 2
    assert vetting.verdicts[2].reason == "the judge was silent"


def test_a_missing_coherence_drops_nothing() -> None:
    assert _vet(["s61"], ["s0"]).dropped == ([None], [None])


def test_pairs_fall_together_each_with_its_own_reason() -> None:
    positive, negative = _vet(["s90", "s10", "s90", "none"], ["s0", "s0", "none", "s99"], paired=True).dropped
    assert positive == [None, PromptStatus.FAILED, PromptStatus.PAIR, PromptStatus.UNSCORED]
    assert negative == [None, PromptStatus.PAIR, PromptStatus.UNSCORED, PromptStatus.FAILED]


def test_sides_of_other_lengths_are_no_pairs() -> None:
    with pytest.raises(DataError, match="2 positive and 1 negative prompts are no pairs"):
        _vet(["s90", "s90"], ["s0"], paired=True)
    assert _vet(["s90", "s90"], ["s0"]).dropped == ([None, None], [None])


def test_the_judge_reads_the_prompt_without_its_system_prompt_and_the_longer_text() -> None:
    judge = ScriptedJudge()
    contrast = _contrast(["s90"] * 70, ["s0"] * 70)  # more than one batch
    seen: list[int] = []

    @contextmanager
    def progress(_what: str, total: int) -> Iterator[Callable[[int], None]]:
        seen.append(total)
        yield seen.append

    vet(contrast, judge, positive_at_least=60, negative_at_most=40, paired=False, progress=progress)  # type: ignore[arg-type]
    assert judge.asked == [Exchange(f"p{i}", "s90" if i < 70 else "s0") for i in range(140)]
    assert (seen[0], sum(seen[1:])) == (140, 140)


def test_a_contrast_without_a_text_for_the_judge_is_a_mistake_of_the_caller() -> None:
    contrast = replace(_contrast(["s90"], ["s0"]), judged=None)
    with pytest.raises(ValueError, match="without a judge"):
        vet(contrast, ScriptedJudge(), positive_at_least=60, negative_at_most=40, paired=False)  # type: ignore[arg-type]


# what becomes of each prompt


def test_the_last_share_of_what_is_kept_is_for_validation() -> None:
    dropped = ([None, PromptStatus.FAILED, None, None, None, None], [None] * 4)
    there = ([True] * 5 + [False], [True] * 4)
    positive, negative = decide_statuses(dropped, there, 0.25)
    assert positive == (T, PromptStatus.FAILED, T, T, V, PromptStatus.NO_WINDOW)
    assert negative == (T, T, T, V)


@pytest.mark.parametrize("split", [0.0, 0.1, 0.2, 0.3, 0.5])
def test_pairs_stay_together_in_the_split(split: float) -> None:
    generator = torch.Generator().manual_seed(1)
    why = [PromptStatus.FAILED, PromptStatus.UNSCORED, None, None, None, None, None]
    n = 40
    dropped = tuple([why[i] for i in torch.randint(len(why), (n,), generator=generator)] for _ in range(2))
    there = tuple((torch.rand(n, generator=generator) > 0.1).tolist() for _ in range(2))
    positive, negative = decide_statuses(dropped, there, split, paired=True)  # type: ignore[arg-type]
    kept = (T, V)
    assert [status in kept and status for status in positive] == [status in kept and status for status in negative]
    assert positive.count(T) > 2
    assert (positive.count(V) > 0) == (split > 0)
    assert PromptStatus.PAIR in positive
    assert PromptStatus.PAIR in negative


def test_too_few_say_what_fell_by_what_and_what_helps() -> None:
    dropped = ([PromptStatus.FAILED, PromptStatus.UNSCORED, None, None], [None, None, None, PromptStatus.FAILED])
    there = ([True, True, True, False], [True] * 4)
    with pytest.raises(DataError) as caught:
        decide_statuses(dropped, there, 0.0)
    message = str(caught.value)
    assert message.startswith("1 positive and 3 negative prompts remain for training, two of each are needed")
    for said in (
        "of 4 and 4",
        "1 positive and 1 negative: failed vetting",
        "1 positive and 0 negative: unscored",
        "1 positive and 0 negative: no token in the window",
        "positive_at_least",
        "wider window",
    ):
        assert said in message
    assert "pair dropped" not in message


def test_activations_are_those_of_the_prompts_that_are_kept() -> None:
    rows = torch.arange(12.0)[:, None, None].expand(12, 2, 3).clone()
    rows[4] = torch.nan
    statuses = ((PromptStatus.FAILED, T, T, V, PromptStatus.NO_WINDOW, T), (T, PromptStatus.PAIR, T, T, V, V))
    made = split_sides(rows[:6], rows[6:], 0.25, statuses=statuses)
    assert made.train[:, 0, 0].tolist() == [1, 2, 5, 6, 8, 9]
    assert made.validation[:, 0, 0].tolist() == [3, 10, 11]
    assert (made.n_train_positive, made.n_validation_positive, made.n_dropped) == (3, 1, 3)


# what is kept of it


def _sources(*, vetted: bool) -> Sources:
    contrast = _contrast(["s90", "none"], ["s0", "s99"])
    if not vetted:
        return Sources(replace(contrast, judged=None), ((T, PromptStatus.NO_WINDOW), (T, V)))
    statuses = ((T, PromptStatus.UNSCORED), (T, PromptStatus.FAILED))
    return Sources(contrast, statuses, _vet(["s90", "none"], ["s0", "s99"]), "in these words", ("a doubt",))


def test_the_table_holds_every_prompt_with_its_scores_and_its_fate() -> None:
    table = json.loads(continuation_bytes(_sources(vetted=True)))
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert [(row["side"], row["trait_score"], row["kept"], row["fate"]) for row in rows] == [
        ("positive", 90.0, True, "train"),
        ("positive", None, False, "unscored"),
        ("negative", 0.0, True, "train"),
        ("negative", 99.0, False, "failed vetting"),
    ]
    assert rows[1]["unscored_because"] == "the judge was silent"
    assert rows[3] == {
        "side": "negative",
        "place": "line 4",
        "system_prompt": "a system prompt",
        "prompt": "p3",
        "continuation": "read 3",
        "judged_text": "s99",
        "trait_score": 99.0,
        "coherence_score": 90.0,
        "unscored_because": None,
        "kept": False,
        "fate": "failed vetting",
    }


def test_without_vetting_the_table_has_no_scores() -> None:
    table = json.loads(continuation_bytes(_sources(vetted=False)))
    assert [row[5:] for row in table["data"]] == [
        [None, None, None, None, True, "train"],
        [None, None, None, None, False, "no token in the window"],
        [None, None, None, None, True, "train"],
        [None, None, None, None, True, "validation"],
    ]


def test_counts_are_by_side_and_reason() -> None:
    assert count_metrics(_sources(vetted=False)) == {
        "n_kept_positive": 1,
        "n_dropped_positive_no_window": 1,
        "n_kept_negative": 2,
    }
    counted = count_metrics(_sources(vetted=True))
    assert counted["n_kept_positive"] == counted["n_kept_negative"] == 1
    assert {name: n for name, n in counted.items() if n and name.startswith("n_dropped")} == {
        "n_dropped_positive_unscored": 1,
        "n_dropped_negative_vetting": 1,
    }


def test_the_note_tells_counts_vetting_and_doubts() -> None:
    note = sources_note(_sources(vetted=True))
    assert "| positive | 2 | 1 | 0 | 0 | 1 | 0 | 0 |" in note
    assert "| negative | 2 | 1 | 0 | 1 | 0 | 0 | 0 |" in note
    assert "Vetted: in these words." in note
    assert note.endswith("- a doubt")


# continuing


def _dataset(positive: Sequence[Prompt], negative: Sequence[Prompt]) -> TraitDataset:
    return TraitDataset(Path("d"), tuple(positive), tuple(negative), "a definition", ("q",))


def _numbered(n: int, first: int) -> list[Prompt]:
    return [
        Prompt(" ".join(f"t{3 + (first + i * 7 + j) % 50}" for j in range(3 + i % 4)), place=f"line {i + 1}")
        for i in range(n)
    ]


def test_a_judges_longer_text_leaves_what_is_read_as_it_is() -> None:
    model, dataset = tiny_model("llama"), _dataset(_numbered(6, 0), _numbered(6, 20))
    plain = read_contrast(model, dataset, max_new_tokens=5)[0]
    longer = read_contrast(model, dataset, max_new_tokens=5, judged_tokens=12)[0]
    assert longer.texts == plain.texts
    assert longer.continuations == plain.continuations
    assert plain.judged is None
    assert longer.judged is not None
    for read, judged in zip(longer.continuations, longer.judged, strict=True):
        assert str(judged).startswith(read)
    assert any(len(str(judged)) > len(read) for read, judged in zip(longer.continuations, longer.judged, strict=True))


def test_a_judge_may_read_less_than_is_extracted_from() -> None:
    model, dataset = tiny_model("llama"), _dataset(_numbered(3, 0), _numbered(3, 20))
    made = read_contrast(model, dataset, max_new_tokens=8, judged_tokens=2)[0]
    assert made.texts == read_contrast(model, dataset, max_new_tokens=8)[0].texts
    assert made.judged is not None
    assert max(len(str(text).split()) for text in made.judged) <= 2


def test_a_prompt_too_long_for_the_model_is_told_with_file_and_line() -> None:
    long = Prompt(" ".join(["t5"] * 250), place="line 9")
    dataset = _dataset(_numbered(2, 0), [*_numbered(2, 20), long])
    with pytest.raises(DataError, match=r"negative\.txt, line 9: a prompt of 251 tokens .* of 6 .* 256 positions"):
        read_contrast(tiny_model("llama"), dataset, max_new_tokens=6)
    read_contrast(tiny_model("llama"), dataset, max_new_tokens=5)


def test_without_a_chat_template_a_system_prompt_stands_before_a_blank_line() -> None:
    model = load_model("toy:gemma-3-base")
    dataset = _dataset([Prompt("I said", "Be kind.")], [Prompt("I said")])
    asked = encode_prompts(model, dataset.prompts, is_chat=dataset.is_chat)
    assert asked == [encode_text(model, "Be kind.\n\nI said"), encode_text(model, "I said")]


def test_with_a_chat_template_system_prompts_put_both_sides_into_it() -> None:
    model = load_model("toy:gemma-3-instruct")
    dataset = _dataset([Prompt("I said", "Be kind.")], [Prompt("I said")])
    asked = encode_prompts(model, dataset.prompts, is_chat=dataset.is_chat)
    assert asked == [encode_chat(model, "I said", "Be kind."), encode_chat(model, "I said")]
    plain = _dataset([Prompt("I said")], [Prompt("You said")])
    asked = encode_prompts(model, plain.prompts, is_chat=plain.is_chat)
    assert asked == [encode_text(model, "I said"), encode_text(model, "You said")]


# the experiment file


def _experiment(folder: Path, extraction: str = "") -> Experiment:
    file = folder / "small.yaml"
    file.write_text(EXPERIMENT.replace("  layer_dims: [1]\n", f"  layer_dims: [1]\n{extraction}"))
    return load_experiment(file)


def test_vetting_is_off_unless_asked_for_and_has_usual_thresholds(tmp_path: Path) -> None:
    assert _experiment(tmp_path).extraction.vetting is None
    vetting = _experiment(tmp_path, "  vetting: {}\n").extraction.vetting
    assert vetting is not None
    assert asdict(vetting) == {
        "positive_at_least": 60,
        "negative_at_most": 40,
        "filter": "independent",
        "max_new_tokens": 64,
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("true", "True is not a section"),
        ("{positive_at_least: 101}", "vetting.positive_at_least: 101 is not a number from 0 to 100"),
        ("{negative_at_most: -1}", "vetting.negative_at_most: -1 is not a number"),
        ("{positive_at_least: 30}", "negative_at_most 40 is not below positive_at_least 30"),
        ("{negative_at_most: 60}", "vetting.negative_at_most: negative_at_most 60 is not below"),
        ("{filter: both}", "'both' is not allowed; write paired or independent"),
        ("{max_new_tokens: 0}", "0 is not a whole number of at least 1"),
        ("{treshold: 5}", "unknown key"),
    ],
)
def test_a_senseless_vetting_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"small.yaml, line 18: extraction.*{said}"):
        _experiment(tmp_path, f"  vetting: {text}\n")


@pytest.mark.parametrize("share", [-0.1, 0.6, float("nan")])
def test_a_senseless_split_is_refused(tmp_path: Path, share: float) -> None:
    with pytest.raises(UsageError, match=r"--val-split .*from 0 to 0\.5"):
        with_validation_split(_experiment(tmp_path), share)


# which extraction is meant


def _key(session: Session, judge: JudgeIdentity | None = None) -> str:
    trait = session.experiment.traits[0]
    return digest_text(extraction_cell(session, tiny_model("llama"), trait, "response[:5]", "c", judge))


def test_an_extractions_key_is_as_it_was_unless_something_new_decides_it(tmp_path: Path) -> None:
    experiment = _experiment(tmp_path)
    session = Session(experiment, "")
    recipes = sorted(_labels(session))
    before = digest(
        {
            "kind": "extraction",
            "model": {"id": "tiny-llama", "revision": "0", "dtype": "float32"},
            "trait": "refusal",
            "dataset": load_trait("toy:refusal").digest,
            "position": "response[:5]",
            "max_new_tokens": 5,
            "validation_split": 0.1,
            "seed": 0,
            "calibration": "c",
            "labels": recipes,
        }
    )
    judge = JudgeIdentity("j", "m", "p")
    assert _key(session) == before
    keys = {before, _key(Session(with_validation_split(experiment, 0.2), ""))}
    for text in ("{}", "{filter: paired}", "{positive_at_least: 70}", "{max_new_tokens: 32}"):
        vetted = Session(_experiment(tmp_path, f"  vetting: {text}\n"), "")
        keys.add(_key(vetted, judge))
    keys.add(_key(Session(_experiment(tmp_path, "  vetting: {}\n"), ""), JudgeIdentity("j", "m", "other")))
    assert len(keys) == 7


def _labels(session: Session) -> list[str]:
    return [format_label(recipe) for recipe in extraction_recipes(session)]


class _Stages:
    """As much of a run store as is asked here."""

    def __init__(self, *rows: StageRow) -> None:
        self._stored = [Stored(f"run{i}", "FINISHED", i, row) for i, row in enumerate(rows)]

    def stages(self, _kind: Kind, _experiment: str) -> list[Stored[StageRow]]:
        return self._stored


def _row(split: float | None = 0.1, vetting: str | None = None) -> StageRow:
    return StageRow(
        kind=Kind.EXTRACTION, experiment="small", key=f"{split} {vetting}", model="toy", model_variant="base",
        model_id="m", n_layers=8, trait="refusal", position="response[:5]", validation_split=split, vetting=vetting,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "meant"),
    [
        ([_row(0.1), _row(0.2)], "run0"),
        ([_row(0.2), _row(0.1)], "run1"),
        ([_row(0.1), _row(0.1), _row(0.3)], "run1"),
        ([_row(None), _row(0.2)], "run0"),
        ([_row(0.1), _row(0.1, "vetted")], "run0"),
    ],
)
def test_the_newest_extraction_with_the_wanted_settings_is_meant(
    tmp_path: Path, rows: list[StageRow], meant: str
) -> None:
    experiment, store = _experiment(tmp_path), _Stages(*rows)
    place = ("toy", "refusal", "response[:5]")
    assert newest_extractions(experiment, store)[place].run_id == meant  # type: ignore[arg-type]
    newest = newest_extractions(experiment, store, any_settings=True)[place]  # type: ignore[arg-type]
    assert newest.run_id == f"run{len(rows) - 1}"


def test_other_settings_are_told_with_what_to_do(tmp_path: Path) -> None:
    experiment = _experiment(tmp_path)
    said = other_settings(_row(0.2), experiment)
    assert said is not None
    assert "split of 0.2, the experiment file says 0.1: pass --val-split 0.2" in said
    assert "--val-split says 0.3" in str(other_settings(_row(0.2), with_validation_split(experiment, 0.3)))
    vetted = _experiment(tmp_path, "  vetting: {}\n")
    assert "extracted with no vetting, the experiment file asks for vetting (positive >= 60" in str(
        other_settings(_row(), vetted)
    )
    assert is_meant(_row(vetting=vetting_words(vetted)), vetted)
    assert not is_meant(_row(vetting=vetting_words(vetted)), experiment)


def test_a_dry_run_of_the_whole_plan_tells_what_vetting_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _experiment(tmp_path, "  vetting: {}\n")
    line = ["--dry-run", "--experiment", "small.yaml", "--tracking-uri", f"sqlite:///{tmp_path}/none.db"]
    assert "Vetting an extraction comes on top" in (whole := CliRunner().invoke(cli, ["main", *line]).output)
    assert ": 200 judge calls at most" in whole
    assert "Vetting" not in CliRunner().invoke(cli, ["phase1", *line]).output


def test_pairs_are_checked_before_anything_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in {"positive.txt": "a\nb", "negative.txt": "c", "definition.txt": "d"}.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "steering.json").write_text('{"questions": ["q", "r"]}')
    _experiment(tmp_path, "  vetting: {filter: paired}\n")
    file = tmp_path / "small.yaml"
    file.write_text(file.read_text().replace("toy:refusal", "./"))
    line = ["calibrate", "--experiment", "small.yaml", "--tracking-uri", f"sqlite:///{tmp_path}/none.db"]
    result = CliRunner().invoke(cli, line)
    assert result.exit_code == 2
    assert "holds 2 prompts and negative.txt 1" in result.output
    assert result.output.count("2 positive and 1 negative prompts are few") == 1
    assert not (tmp_path / "none.db").exists()


# with an embedded model


@pytest.fixture
def massact(uri: str, tmp_path: Path) -> Callable[..., Result]:
    """A command on a calibrated store of its own, in the working directory; `extraction` goes into the file."""

    def run(*arguments: str, extraction: str = "") -> Result:
        _experiment(tmp_path, extraction)
        result = CliRunner().invoke(cli, [*arguments, "--experiment", "small.yaml", "--tracking-uri", uri])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    assert run("calibrate").exit_code == 0
    return run


def _runs(folder: Path) -> list[dict[str, Any]]:
    """The extractions in the store, the oldest first."""
    database = sqlite3.connect(folder / "store.db")
    found = database.execute(
        "select r.run_uuid, r.artifact_uri, r.status from runs r join tags t on t.run_uuid = r.run_uuid "
        "where t.key = 'massact.kind' and t.value = 'extraction' order by r.start_time"
    ).fetchall()
    return [
        {
            "artifacts": Path(place.removeprefix("file://")),
            "status": status,
            "metrics": dict(
                database.execute("select key, value from latest_metrics where run_uuid = ?", (run,)).fetchall()
            ),
            "tags": dict(database.execute("select key, value from tags where run_uuid = ?", (run,)).fetchall()),
        }
        for run, place, status in found
    ]


@pytest.mark.slow
def test_a_vetted_extraction_keeps_what_it_read_and_what_fell(massact: Callable[..., Result], tmp_path: Path) -> None:
    result = massact("extract", extraction="  vetting: {filter: paired, max_new_tokens: 16}\n")
    assert "response[:5]: 95 of 100 positive and 95 of 100 negative prompts kept" in result.output
    (run,) = _runs(tmp_path)
    metrics = {name: value for name, value in run["metrics"].items() if name.startswith("n_") and value}
    assert metrics == {
        "n_train": 170,  # 95 - round(9.5) = 85 a side
        "n_dropped": 10,
        "n_kept_positive": 95,
        "n_kept_negative": 95,
        "n_dropped_positive_vetting": 5,
        "n_dropped_negative_pair": 5,
        "n_vectors": metrics["n_vectors"],
    }
    table = json.loads((run["artifacts"] / "continuations.json").read_text())
    assert len(table["data"]) == 200
    assert json.loads(run["tags"]["mlflow.loggedArtifacts"]) == [{"path": "continuations.json", "type": "table"}]
    assert (
        "Vetted: positive >= 60, negative <= 40, paired, 16 tokens read by likelihood."
        in (run["tags"]["mlflow.note.content"])
    )
    again = massact("extract", extraction="  vetting: {filter: paired, max_new_tokens: 16}\n")
    assert "extracted already" in again.output
    assert len(_runs(tmp_path)) == 1


@pytest.mark.slow
def test_where_too_little_is_left_nothing_is_written(massact: Callable[..., Result], tmp_path: Path) -> None:
    result = massact(
        "extract", extraction="  vetting: {positive_at_least: 100, negative_at_most: 0, max_new_tokens: 8}\n"
    )
    assert result.exit_code == 2
    assert "prompts remain for training, two of each are needed (of 100 and 100" in result.output
    assert _runs(tmp_path) == []
    assert "activations not found" in massact("phase1").output


@pytest.mark.slow
def test_phases_use_the_split_that_they_name_and_no_other(massact: Callable[..., Result], tmp_path: Path) -> None:
    assert massact("extract", "--val-split", "0.2").exit_code == 0
    refused = massact("phase1")
    assert refused.exit_code == 1
    assert "extracted with a validation split of 0.2, the experiment file says 0.1" in refused.output
    assert "--val-split 0.2" in refused.output
    grid = ("evaluate", "--method", "mean_diff", "--position", "response[:5]", "--coefficients", "8", "--layers", "2")
    assert "validation split of 0.2" in massact(*grid).output
    assert massact(*grid, "--val-split", "0.2").exit_code == 0
    assert massact("extract").exit_code == 0
    assert "1 cell: 0 finished already, 1 evaluated" in massact(*grid).output  # other vectors, another cell
    assert "1 cell: 1 finished already, 0 evaluated" in massact(*grid, "--val-split", "0.2").output
    assert [run["metrics"]["n_train"] for run in _runs(tmp_path)] == [160, 180]
    metadata = json.loads((_runs(tmp_path)[0]["artifacts"] / "activations" / "metadata.json").read_text())
    assert (metadata["n_validation_pos"], metadata["n_validation_neg"]) == (20, 20)
