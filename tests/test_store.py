"""One contract over every run store: what a query sees, whatever holds the runs."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from massact.schema import Kind, Scores, Tag, encode_scores
from massact.store import RunStore, open_store
from tests.store_fixtures import (
    EXPERIMENT,
    Filled,
    Filler,
    evaluation_row,
    row_tags,
    stage_row,
    tracking_server,
)

SCORES = Scores((1.0, None, 3.5, 4.0), (91.0, 92.0, None, 94.0))


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Filled:
    filler = Filler(f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db")
    home, elsewhere, deleted = (
        filler.client.create_experiment(name) for name in ("home", "elsewhere", "deleted")
    )
    _fill_evaluations(filler, home, elsewhere, deleted)
    _fill_failures(filler, home)
    _fill_scores(filler, home)
    for name, kind, key, at in (
        ("calibration old", Kind.CALIBRATION, "c1", 1000),
        ("calibration", Kind.CALIBRATION, "c1", 2000),
        ("extraction", Kind.EXTRACTION, "x1", 1000),
    ):
        filler.run(name, home, tags=row_tags(stage_row(kind, key)), at=at)
    baseline = evaluation_row(key="b1", kind=Kind.BASELINE)
    filler.run("baseline", home, tags=row_tags(baseline))
    for name, status, at in (
        ("phase1", "FAILED", 1000),
        ("phase2", "FINISHED", 2000),
        ("phase3", None, 3000),
    ):
        tags = {Tag.KIND.value: "phase", Tag.EXPERIMENT.value: EXPERIMENT, Tag.PHASE.value: name}
        filler.run(name, home, tags=tags, status=status, at=at)
    filler.client.delete_experiment(deleted)
    return filler.filled


def _fill_evaluations(filler: Filler, home: str, elsewhere: str, deleted: str) -> None:
    first = row_tags(evaluation_row(key="k1", delta=1.0))
    filler.run("k1 old", home, tags=first, at=1000)
    filler.run("k1", home, tags=row_tags(evaluation_row(key="k1", delta=2.0)), at=2000)
    filler.client.delete_run(filler.run("k1 deleted", home, tags=first, at=3000))
    for name in ("k2 a", "k2 b"):  # a tie in time: the greater run id counts
        filler.run(name, home, tags=row_tags(evaluation_row(key="k2")), at=1500)
    filler.run("running", home, tags=row_tags(evaluation_row(key="k3")), status=None)
    filler.run("killed", home, tags=row_tags(evaluation_row(key="k4")), status="KILLED")
    filler.run("in a deleted experiment", deleted, tags=row_tags(evaluation_row(key="k5")))
    filler.run("of another file", home, tags=row_tags(evaluation_row(key="k6", experiment="other")))
    filler.run("elsewhere", elsewhere, tags=row_tags(evaluation_row(key="k7")), at=1700)
    for name, text in (("bad 1", "not json"), ("bad 2", '{"kind":"evaluation"}'), ("bad 3", "[]")):
        filler.run(name, home, tags={**first, Tag.ROW.value: text}, at=5000)
    nan = first[Tag.ROW.value].replace('"coherence_mean":80.0', '"coherence_mean":NaN')
    filler.run("bad 4", home, tags={**first, Tag.ROW.value: nan}, at=5001)
    words = first[Tag.ROW.value].replace('"coherence_mean":80.0', '"coherence_mean":"high"')
    filler.run("bad 5", home, tags={**first, Tag.ROW.value: words}, at=5001)


def _fill_failures(filler: Filler, home: str) -> None:
    retried, lost = (row_tags(evaluation_row(key=key, delta=None)) for key in ("k1", "f1"))
    error = Tag.ERROR.value
    filler.run("failed, then done", home, tags={**retried, error: "once"}, status="FAILED", at=500)
    filler.run("failed old", home, tags={**lost, error: "first"}, status="FAILED", at=1000)
    filler.run("failed", home, tags={**lost, error: "out of memory"}, status="FAILED", at=2000)
    filler.run("failed, then killed", home, tags=lost, status="KILLED", at=3000)
    silent = row_tags(evaluation_row(key="f2", delta=None))
    filler.run("failed without a word", home, tags=silent, status="FAILED", at=2500)


def _fill_scores(filler: Filler, home: str) -> None:
    tagged = row_tags(evaluation_row(key="s1"), **{Tag.SCORES.value: encode_scores(SCORES) or ""})
    other = {"trait_score": [(0, 50.0)]}
    filler.run("tagged", home, tags=tagged, at=1800, steps=other)
    steps = {
        "trait_score": [(0, 7.0), (0, 1.0), (1, math.nan), (2, 3.5), (3, 4.0), (4, 99.0)],
        "coherence_score": [(0, 91.0), (1, 92.0), (2, math.inf), (3, 94.0)],
    }
    filler.run("stepped", home, tags=row_tags(evaluation_row(key="s2")), at=1810, steps=steps)
    broken = row_tags(evaluation_row(key="s3"), **{Tag.SCORES.value: '{"trait":"1234","coherence":[]}'})
    filler.run("broken tag", home, tags=broken, at=1820, steps=steps)
    filler.run("unscored", home, tags=row_tags(evaluation_row(key="s4")), at=1830)


@pytest.fixture(scope="module")
def server(filled: Filled, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with tracking_server(filled.uri, tmp_path_factory.mktemp("server")) as address:
        yield address


@pytest.fixture(params=["sql", pytest.param("rest", marks=pytest.mark.slow)])
def store(request: pytest.FixtureRequest, filled: Filled) -> Iterator[RunStore]:
    found = open_store(filled.uri if request.param == "sql" else request.getfixturevalue("server"))
    yield found
    found.close()


def names(filled: Filled, run_ids: list[str]) -> list[str]:
    known = {run_id: name for name, run_id in filled.runs.items()}
    return [known[run_id] for run_id in run_ids]


def test_each_key_counts_once_with_its_newest_finished_run(store: RunStore, filled: Filled) -> None:
    found = store.evaluations(EXPERIMENT)
    k2 = max(("k2 a", "k2 b"), key=lambda name: filled.runs[name])
    scored = ["tagged", "stepped", "broken tag", "unscored"]
    assert names(filled, [one.run_id for one in found]) == [k2, "elsewhere", *scored, "k1"]
    newest = found[-1]
    assert (newest.status, newest.finished_at, newest.row) == (
        "FINISHED",
        2000,
        evaluation_row(key="k1", delta=2.0),
    )


def test_rows_that_cannot_be_read_are_counted_once(store: RunStore, filled: Filled) -> None:
    assert store.warnings == []
    store.evaluations(EXPERIMENT)
    store.finished_keys(EXPERIMENT)
    first = min(filled.runs[f"bad {i}"] for i in (1, 2, 3))
    assert store.warnings == [f"5 runs hold a row that cannot be read, left out (first: {first})"]


def test_failures_are_those_that_nothing_finished(store: RunStore, filled: Filled) -> None:
    found = store.failures(EXPERIMENT)
    assert [(one.row.key, one.error, one.finished_at) for one in found] == [
        ("f1", "out of memory", 2000),
        ("f2", "", 2500),
    ]
    assert names(filled, [found[0].run_id]) == ["failed"]


def test_baselines_and_stages_are_apart_from_evaluations(store: RunStore, filled: Filled) -> None:
    assert [one.row.key for one in store.baselines(EXPERIMENT)] == ["b1"]
    calibrations = store.stages(Kind.CALIBRATION, EXPERIMENT)
    assert names(filled, [one.run_id for one in calibrations]) == ["calibration"]
    assert calibrations[0].row == stage_row(Kind.CALIBRATION, "c1")
    assert [one.row for one in store.stages(Kind.EXTRACTION, EXPERIMENT)] == [
        stage_row(Kind.EXTRACTION, "x1")
    ]
    with pytest.raises(ValueError, match="not a stage"):
        store.stages(Kind.EVALUATION, EXPERIMENT)


def test_phases_are_there_in_any_status(store: RunStore, filled: Filled) -> None:
    found = store.phases(EXPERIMENT)
    assert [(one.phase, one.status, one.started_at, one.finished_at) for one in found] == [
        ("phase1", "FAILED", 900, 1000),
        ("phase2", "FINISHED", 1900, 2000),
        ("phase3", "RUNNING", 2900, None),
    ]


def test_a_key_is_finished_only_if_a_query_can_read_it(store: RunStore, filled: Filled) -> None:
    found = store.finished_keys(EXPERIMENT)
    assert sorted(found) == ["b1", "c1", "k1", "k2", "k7", "s1", "s2", "s3", "s4", "x1"]
    assert found["k1"] == filled.runs["k1"]


def test_scores_come_from_the_tag_or_else_from_the_steps(store: RunStore, filled: Filled) -> None:
    asked = ["tagged", "stepped", "broken tag", "unscored", "running", "k1 deleted", "bad 1"]
    found = store.scores([*(filled.runs[name] for name in asked), "no-such-run", "not a run id'"])
    assert found == {
        filled.runs["tagged"]: SCORES,
        filled.runs["stepped"]: SCORES,
        filled.runs["broken tag"]: SCORES,
        filled.runs["unscored"]: Scores((None,) * 4, (None,) * 4),
    }
    assert store.scores([]) == {}


def test_another_experiment_is_not_mixed_in(store: RunStore, filled: Filled) -> None:
    assert [one.row.key for one in store.evaluations("other")] == ["k6"]
    assert store.evaluations("no 'such' experiment") == []
    assert store.warnings == []


@pytest.mark.slow
def test_both_readers_give_the_very_same(
    filled: Filled, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # pages of two, so that the answers go over many pages
    monkeypatch.setattr("massact.store.rest._PAGE", 2)
    monkeypatch.setattr("massact.store.rest._EXPERIMENTS_PAGE", 2)
    monkeypatch.setattr("massact.store.rest._IDS_PER_QUERY", 2)
    monkeypatch.setattr("massact.store.rest._HISTORY_PAGE", 2)
    monkeypatch.setattr("massact.store.sql._IDS_PER_QUERY", 2)
    by_sql, by_rest = open_store(filled.uri), open_store(server + "/")
    for question in ("evaluations", "baselines", "failures", "phases", "finished_keys"):
        assert getattr(by_sql, question)(EXPERIMENT) == getattr(by_rest, question)(EXPERIMENT), question
    assert by_sql.scores(filled.runs.values()) == by_rest.scores(filled.runs.values())
    assert by_sql.warnings == by_rest.warnings


def test_reading_changes_nothing(filled: Filled) -> None:
    database = Path(filled.uri.removeprefix("sqlite:///"))
    before = database.read_bytes()
    store = open_store(filled.uri)
    store.evaluations(EXPERIMENT)
    store.scores(filled.runs.values())
    store.close()
    assert database.read_bytes() == before
