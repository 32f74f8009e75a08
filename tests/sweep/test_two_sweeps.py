"""Two sweeps of one experiment at once: the cells are shared, a dead one is not waited for, and it is said."""

import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from massact.store.read import stored_runs
from massact.store.schema import Kind, Tag
from tests.support.judge_server import JudgeServer, Reply, Request, completion, score_70_and_90
from tests.support.judged_place import N_CELLS, Place, is_canary
from tests.support.prepared import PreparedStores
from tests.support.processes import Process
from tests.support.store_fixtures import Server

pytestmark = pytest.mark.slow

PHASE = ("phase1", "--batch-rows", "2", "--max-rounds", "0")


@pytest.fixture(scope="module", params=["sqlite", "http"])
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, prepared_stores: PreparedStores
) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("two")
    with ExitStack() as open_now:
        server = Server(folder) if request.param == "http" else None
        if server is not None:
            open_now.callback(server.kill)
        judge = open_now.enter_context(JudgeServer())
        yield Place(folder, judge, prepared_stores, server)


def _keys(place: Place, kind: Kind) -> Counter[str]:
    """How often each key was finished, straight from the store."""
    runs = stored_runs(place.uri, "small", kind, tags=(Tag.KEY,))
    return Counter(run.tags[Tag.KEY] for run in runs)


def _n_at_work(place: Place) -> int:
    """How many sweeps have said in the store that they are there, those that were killed among them."""
    return place.count(
        f"SELECT COUNT(*) FROM runs JOIN tags USING (run_uuid) WHERE status = 'RUNNING' AND key = '{Tag.SWEEP}'"
    )


def _n_finished(place: Place) -> int:
    """How many evaluations have been finished."""
    return place.count(
        "SELECT COUNT(*) FROM runs JOIN tags USING (run_uuid) "
        f"WHERE status = 'FINISHED' AND key = '{Tag.KIND}' AND value = '{Kind.EVALUATION}'"
    )


def _ended(*processes: Process) -> list[str]:
    """What each said, once it has ended well."""
    said = []
    for process in processes:
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors
        said.append(errors)
    return said


def _evaluated(text: str) -> int:
    """Of the line that sums up a sweep."""
    found = re.search(r"(\d+) evaluated", text)
    assert found is not None, text
    return int(found[1])


def test_two_equal_sweeps_do_everything_once(place: Place) -> None:
    place.use_grid(1)
    place.let(0)  # so that the first is still at work when the second begins
    before = _keys(place, Kind.EVALUATION)
    n_dead = _n_at_work(place)
    both = (place.start(*PHASE), place.start(*PHASE))
    _until(lambda: _n_at_work(place) == n_dead + len(both))
    place.seconds = 0.05
    place.let()
    said = _ended(*both)
    new = _keys(place, Kind.EVALUATION) - before
    assert sorted(new.values()) == [1] * N_CELLS
    assert list(_keys(place, Kind.BASELINE).values()) == [1]
    assert sum(map(_evaluated, said)) == N_CELLS
    assert any("at work on the same cells: they are shared with it" in text for text in said), said
    assert all("by another sweep" in text for text in said if _evaluated(text) < N_CELLS), said
    assert len(place.asked) - place.n_asked <= 4 * (N_CELLS + 1)  # two questions, two prompts each


def test_two_rejudgings_pay_once(place: Place) -> None:
    if not place.store().evaluations("small"):
        _ended(place.start(*PHASE))
    command, n_cells = ("rejudge", "--judge", "openai:another"), len(place.store().evaluations("small"))
    before, n_before = _keys(place, Kind.EVALUATION), len(place.asked)
    place.seconds = 0.05
    _ended(place.start(*command), place.start(*command))
    new = _keys(place, Kind.EVALUATION) - before
    assert len(new) == n_cells >= N_CELLS
    assert set(new.values()) == {1}
    assert len(place.asked) - n_before <= 4 * (len(new) + 1)


@pytest.mark.parametrize(("grid", "number"), [(2, signal.SIGKILL), (3, signal.SIGINT)], ids=["kill", "int"])
def test_the_other_does_what_is_left_when_one_ends_early(place: Place, grid: int, number: signal.Signals) -> None:
    place.use_grid(grid)
    before = _keys(place, Kind.EVALUATION)
    n_dead, n_before = _n_at_work(place), _n_finished(place)
    place.let(6)  # the baseline and part of a cell, so that it is still at work when the second begins
    first = place.sweep()
    second = place.start(*PHASE)
    _until(lambda: _n_at_work(place) == n_dead + 2)
    place.let(24)
    _until(lambda: _n_finished(place) > n_before + 3)
    first.send_signal(number)
    place.let()
    (said,) = _ended(second)
    first.communicate(timeout=60)
    # without what a sweep that was killed before had left to send
    keys = place.keys
    new = Counter({key: n for key, n in (_keys(place, Kind.EVALUATION) - before).items() if key in keys})
    assert len(new) == N_CELLS
    n_twice = sum(new.values()) - N_CELLS
    assert n_twice <= (4 if number == signal.SIGKILL else 0), "more than the cells in hand"
    assert "shared with it" in said


def test_what_an_outage_left_without_scores_is_judged_again_by_one_of_two(place: Place) -> None:
    place.use_grid(4)

    def outage(asked: Request) -> Reply:
        """The baseline is judged, or where it was before some cells; of all others nothing is."""
        is_spared = is_canary(asked) or len(place.asked) - place.n_asked <= 4
        return score_70_and_90(asked) if is_spared else completion("I cannot say.")

    place.judge.answer = outage
    try:
        _ended(place.start(*PHASE))
    finally:
        place.judge.answer = place._answer
    ours = {one.run_id: one.row for one in place.store().evaluations("small")}
    short = {row.key: run_id for run_id, row in ours.items() if row.n_unscored}
    assert len(short) > N_CELLS // 2
    place.seconds = 0.2
    before = _keys(place, Kind.EVALUATION)
    said = _ended(place.start(*PHASE), place.start(*PHASE))
    assert _keys(place, Kind.EVALUATION) - before == Counter(dict.fromkeys(short, 1))
    assert sum(max(map(int, re.findall(r"(\d+) judged again", text)), default=0) for text in said) == len(short)
    assert sum(map(_evaluated, said)) == 0
    runs = stored_runs(place.uri, "small", Kind.EVALUATION, tags=(Tag.KEY, Tag.REJUDGED))
    keys = place.keys
    again = {
        key: run.tags[Tag.REJUDGED] for run in runs if Tag.REJUDGED in run.tags and (key := run.tags[Tag.KEY]) in keys
    }
    assert again == short
    rows = [one.row for one in place.store().evaluations("small") if one.row.key in short]
    (mean,) = {one.row.trait_mean for one in place.store().baselines("small")}
    assert {(row.n_unscored, row.baseline_trait_mean) for row in rows} == {(0, mean)}


def _until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)
