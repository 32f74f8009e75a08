"""One contract over every run store: what a query sees, whatever holds the runs."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from massact.store.read import RunStore, open_source, open_store
from massact.store.read.base import UNENDED
from massact.store.schema import Kind, Scores, Tag, point_of
from tests.support.postgres_server import PostgresServer
from tests.support.store_contents import SCORES, confirmation_row, fill, published_row, screening_row
from tests.support.store_fixtures import EXPERIMENT, Filled, evaluation_row, stage_row, tracking_server


@dataclass
class Place:
    """A tracking URI and what lies there."""

    uri: str
    filled: Filled


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> Place:
    filled = fill(f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db")
    return Place(filled.uri, filled)


@pytest.fixture(scope="module")
def postgresql(postgres: PostgresServer) -> Place:
    filled = fill(postgres.migrated())
    return Place(filled.uri, filled)


@pytest.fixture(scope="module")
def rest(sqlite: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A tracking server before the SQLite file."""
    with tracking_server(sqlite.uri, tmp_path_factory.mktemp("server")) as address:
        yield Place(address, sqlite.filled)


@pytest.fixture(scope="module")
def served(sqlite: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A tracking server with the query API before the SQLite file."""
    with tracking_server(sqlite.uri, tmp_path_factory.mktemp("server"), app="massact") as address:
        yield Place(address, sqlite.filled)


@pytest.fixture(scope="module")
def served_postgresql(postgresql: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The same before PostgreSQL."""
    with tracking_server(postgresql.uri, tmp_path_factory.mktemp("server"), app="massact") as address:
        yield Place(address, postgresql.filled)


@pytest.fixture(scope="module")
def rest_postgresql(postgresql: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A tracking server before PostgreSQL."""
    with tracking_server(postgresql.uri, tmp_path_factory.mktemp("server")) as address:
        yield Place(address, postgresql.filled)


@pytest.fixture(
    scope="module",
    params=[
        "sqlite",
        pytest.param("postgresql", marks=pytest.mark.slow),
        pytest.param("rest", marks=pytest.mark.slow),
        pytest.param("served", marks=pytest.mark.slow),
    ],
)
def place(request: pytest.FixtureRequest) -> Place:
    found: Place = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def filled(place: Place) -> Filled:
    return place.filled


@pytest.fixture
def store(place: Place) -> Iterator[RunStore]:
    found = open_store(place.uri)
    yield found
    found.close()


def names(filled: Filled, run_ids: list[str]) -> list[str]:
    known = {run_id: name for name, run_id in filled.runs.items()}
    return [known[run_id] for run_id in run_ids]


def test_each_key_counts_once_with_its_newest_finished_run(store: RunStore, filled: Filled) -> None:
    found = store.evaluations(EXPERIMENT)
    k2 = max(("k2 a", "k2 b"), key=lambda name: filled.runs[name])
    points = ["point", "point of NaN", "without a point"]
    scored = ["tagged", "stepped", "broken tag", "unscored"]
    assert names(filled, [one.run_id for one in found]) == [k2, *points, "elsewhere", *scored, "k1"]
    newest = found[-1]
    assert (newest.status, newest.finished_at, newest.row) == ("FINISHED", 2000, evaluation_row(key="k1", delta=2.0))


def test_rows_that_cannot_be_read_are_counted_once(store: RunStore, filled: Filled) -> None:
    assert store.warnings == []
    store.evaluations(EXPERIMENT)
    store.finished_keys(EXPERIMENT)
    first = filled.runs["bad 0"]
    assert store.warnings == [f"5 runs hold a row that cannot be read, left out (first: {first})"]


def test_failures_are_those_that_nothing_finished(store: RunStore, filled: Filled) -> None:
    found = store.failures(EXPERIMENT)
    assert [(one.row.key, one.error, one.finished_at) for one in found] == [
        ("p3", "", 1000),
        ("f1", "out of memory", 2000),
        ("f2", "", 2500),
    ]
    assert names(filled, [found[1].run_id]) == ["failed"]


def test_baselines_and_stages_are_apart_from_evaluations(store: RunStore, filled: Filled) -> None:
    assert [one.row.key for one in store.baselines(EXPERIMENT)] == ["b1"]
    calibrations = store.stages(Kind.CALIBRATION, EXPERIMENT)
    assert names(filled, [one.run_id for one in calibrations]) == ["calibration"]
    assert calibrations[0].row == stage_row(Kind.CALIBRATION, "c1")
    assert [one.row for one in store.stages(Kind.EXTRACTION, EXPERIMENT)] == [stage_row(Kind.EXTRACTION, "x1")]
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
    assert sorted(found) == ["b1", "c1", "k1", "k2", "k7", "p1", "p5", "p6", "s1", "s2", "s3", "s4", "x1"]
    assert found["k1"] == filled.runs["k1"]


@pytest.mark.parametrize("are_many", [False, True])
def test_scores_come_from_the_tag_or_else_from_the_steps(
    store: RunStore, filled: Filled, monkeypatch: pytest.MonkeyPatch, are_many: bool
) -> None:
    if are_many:
        monkeypatch.setattr("massact.store.read.sql._FEW", 0)
        store.points(EXPERIMENT)  # over a server, scores that came with these are not asked for again
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
    assert [one.row.key for one in store.evaluations("other")] == ["k6", "p7"]
    assert sorted(one.key for one in store.points("other")) == ["k6", "p7"]
    assert store.evaluations("no 'such' experiment") == []
    assert store.warnings == []


def test_the_experiments_of_a_store_are_known_by_name(store: RunStore) -> None:
    assert store.experiments() == sorted([EXPERIMENT, "other"])


def test_points_are_evaluations_of_the_grid(store: RunStore, filled: Filled) -> None:
    found = {one.key: one for one in store.points(EXPERIMENT)}
    assert sorted(found) == ["k1", "k2", "k7", "p1", "p5", "p6", "s1", "s2", "s3", "s4"]
    numbers = {"trait_mean": 0.1 + 0.2, "coherence_mean": 1 / 3, "delta": -1e-17}
    row = evaluation_row(key="p1", coefficient=1 / 7, **numbers)
    assert found["p1"] == point_of(row, filled.runs["point"], 1600)
    newest = {"k1": "k1", "p5": "point of NaN", "p6": "without a point"}
    assert names(filled, [found[key].run_id for key in newest]) == list(newest.values())
    assert (found["p5"].coherence_mean, found["p6"].delta) == (80.0, 7.0)


def test_the_whole_row_of_a_point_is_there(store: RunStore, filled: Filled) -> None:
    asked = ["k1", "point old", "running", "bad 0", "baseline"]
    found = store.rows([filled.runs[name] for name in asked])
    assert found == {
        filled.runs["k1"]: evaluation_row(key="k1", delta=2.0),
        filled.runs["point old"]: evaluation_row(key="p1", delta=99.0),
        filled.runs["baseline"]: evaluation_row(key="b1", kind=Kind.BASELINE),
    }


def test_published_figures_are_apart(store: RunStore, filled: Filled) -> None:
    found = store.published(EXPERIMENT)
    assert [(one.row, one.run_id) for one in found] == [(published_row(28.3), filled.runs["published"])]


def test_confirmations_are_apart(store: RunStore, filled: Filled) -> None:
    (one,) = store.confirmations(EXPERIMENT)
    assert (one.row, one.run_id) == (confirmation_row(delta=0.1 + 0.2), filled.runs["confirmation"])
    assert store.scores([one.run_id]) == {one.run_id: SCORES}


def test_what_was_given_up_is_apart(store: RunStore, filled: Filled) -> None:
    (one,) = store.screenings(EXPERIMENT)
    assert (one.row, one.run_id) == (screening_row(), filled.runs["screening"])
    assert "given-up-1" not in store.finished_keys(EXPERIMENT)


def test_runs_of_other_tools_are_counted_where_ours_lie(store: RunStore) -> None:
    assert store.count_foreign(EXPERIMENT) == 3  # one lies beside an evaluation that has no point
    assert store.count_foreign("no such experiment") == 0


KINDS = tuple(kind.value for kind in Kind)


def raw(place: Place) -> dict[str, Any]:
    """All that a check-up reads beside the answers of questions."""
    source = open_source(place.uri)
    try:
        unended = source.runs(EXPERIMENT, kind=None, statuses=UNENDED, tags=(Tag.KEY,))
        pages = list(source.pages(EXPERIMENT, KINDS, tags=(Tag.KIND, Tag.KEY, "no such tag")))
        return {
            "finished": sorted((run for page in pages for run in page), key=lambda run: run.run_id),
            "unended": sorted(unended, key=lambda run: run.run_id),
            "child ends": source.last_child_ends([*place.filled.runs.values(), "no-such-run", "no run id'"]),
        }
    finally:
        source.close()


def test_a_check_up_sees_every_finished_run_of_ours_superseded_ones_too(place: Place) -> None:
    found = raw(place)["finished"]
    expected = {
        "k1 old", "k1", "k2 a", "k2 b", "elsewhere", *(f"bad {i}" for i in range(5)), "point", "point old",
        "point broken", "point of NaN", "point overtaken", "without a point", "tagged", "stepped", "broken tag",
        "unscored", "confirmation old", "confirmation", "screening", "calibration old", "calibration",
        "extraction", "baseline", "published old", "published",
        "phase2",
    }  # fmt: skip
    assert set(names(place.filled, [run.run_id for run in found])) == expected
    assert len(found) == len(expected)
    (one,) = [run for run in found if run.run_id == place.filled.runs["k1 old"]]
    assert (one.status, one.started_at, one.finished_at) == ("FINISHED", 900, 1000)
    assert one.tags == {Tag.KIND.value: "evaluation", Tag.KEY.value: "k1"}
    assert one.artifact_uri.endswith(f"/{one.run_id}/artifacts")
    source = open_source(place.uri)
    calibrations = [run for page in source.pages(EXPERIMENT, ("calibration",), tags=()) for run in page]
    source.close()
    assert sorted(names(place.filled, [run.run_id for run in calibrations])) == ["calibration", "calibration old"]
    assert [run.tags for run in calibrations] == [{}, {}]


def test_a_check_up_sees_runs_of_ours_without_an_end(place: Place) -> None:
    found = raw(place)["unended"]
    assert set(names(place.filled, [run.run_id for run in found])) == {"running", "point running", "phase3"}
    assert {run.status for run in found} == {"RUNNING"}
    assert {run.finished_at for run in found} == {None}
    assert [run.tags for run in found if run.run_id == place.filled.runs["running"]] == [{Tag.KEY.value: "k3"}]


def test_the_last_end_below_a_run_is_known(place: Place) -> None:
    runs = place.filled.runs
    assert raw(place)["child ends"] == {runs["phase3"]: 3500, runs["phase1"]: 1200}


def answers(uri: str, filled: Filled) -> dict[str, Any]:
    """All that a store says."""
    store = open_store(uri)
    try:
        asked = (
            "points",
            "evaluations",
            "baselines",
            "confirmations",
            "screenings",
            "failures",
            "published",
            "phases",
            "finished_keys",
        )
        found = {name: getattr(store, name)(EXPERIMENT) for name in (*asked, "count_foreign")}
        found["points"] = sorted(found["points"])
        stages = {kind: store.stages(kind, EXPERIMENT) for kind in (Kind.CALIBRATION, Kind.EXTRACTION)}
        runs = list(filled.runs.values())
        whole = {"rows": store.rows(runs), "scores": store.scores(runs), "warnings": store.warnings}
        return found | stages | whole
    finally:
        store.close()


@pytest.mark.slow
@pytest.mark.parametrize("many_pages", [False, True])
def test_every_reader_gives_the_very_same(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, many_pages: bool
) -> None:
    if many_pages:
        # several pages of everything: there are more than forty runs, three experiments, six steps
        pages = {"_PAGE": 5, "_EXPERIMENTS_PAGE": 2, "_IDS_PER_QUERY": 5, "_HISTORY_PAGE": 2}
        for name, size in pages.items():
            monkeypatch.setattr(f"massact.store.read.rest.{name}", size)
        monkeypatch.setattr("massact.store.read.sql._IDS_PER_QUERY", 2)
        monkeypatch.setattr("massact.store.read.sql._ROWS_PER_FETCH", 2)
        monkeypatch.setattr("massact.store.read.sql._FEW", 0)
        monkeypatch.setattr("massact.store.read.sql._MANY", 0)
    names = ("sqlite", "postgresql", "rest", "rest_postgresql", "served", "served_postgresql")
    first, *others = (request.getfixturevalue(name) for name in names)
    expected = answers(first.uri, first.filled)
    for place in others:
        assert place.filled.runs == first.filled.runs
        assert answers(place.uri + ("/" if place.uri.startswith("http") else ""), place.filled) == expected
        assert _without_places(raw(place)) == _without_places(raw(first))


def _without_places(found: dict[str, Any]) -> dict[str, Any]:
    """Each store has its own place for artifacts."""
    return {
        key: [replace(run, artifact_uri="") for run in runs] if isinstance(runs, list) else runs
        for key, runs in found.items()
    }


def test_reading_changes_nothing(sqlite: Place) -> None:
    database = Path(sqlite.uri.removeprefix("sqlite:///"))
    before = database.read_bytes()
    answers(sqlite.uri, sqlite.filled)
    raw(sqlite)
    assert database.read_bytes() == before
    assert [path.name for path in database.parent.iterdir()] == [database.name]
