"""Ctrl-C on real processes: the first finishes the cells in hand, the second stops at once."""

import signal
import time
from collections.abc import Iterator

import pytest

from tests.support.judge_server import JudgeServer
from tests.support.judged_place import N_CELLS, Place
from tests.support.prepared import PreparedStores

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, prepared_stores: PreparedStores) -> Iterator[Place]:
    with JudgeServer() as judge:
        yield Place(tmp_path_factory.mktemp("interrupt"), judge, prepared_stores)


ON_RAY = ("--executor", "ray", "--workers", "2")


@pytest.mark.parametrize(
    ("grid", "number", "code", "executor"),
    [(2, signal.SIGINT, 130, ()), (3, signal.SIGTERM, 143, ()), (4, signal.SIGTERM, 143, ON_RAY)],
    ids=["int", "term", "ray"],
)
def test_the_first_finishes_the_cells_in_hand(
    place: Place, grid: int, number: signal.Signals, code: int, executor: tuple[str, ...]
) -> None:
    place.use_grid(grid)
    place.let(8)
    process = place.sweep(*executor)
    process.send_signal(number)
    said = process.read_until("once more stops at once")
    place.let()
    errors = said + process.communicate(timeout=150)[1]
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    assert "interrupted: finishing the cells in hand; once more stops at once" in errors
    found = place.n_found
    assert 0 < found < N_CELLS, errors
    assert f"interrupted: {found} of {N_CELLS} cells finished; run the same command again to go on" in errors
    assert place.phase_status() == "KILLED"
    assert not list((place.folder / ".massact/spool").iterdir()), "everything was sent"
    assert len(place.asked) - place.n_asked <= 4 * (found + 1), "what was paid for is in the store"

    again = place.start("phase1", "--max-rounds", "0")
    _, errors = again.communicate(timeout=60)
    assert f"{N_CELLS} cells: {found} finished already, {N_CELLS - found} evaluated" in errors
    assert place.n_found == N_CELLS


@pytest.mark.parametrize(("grid", "executor"), [(1, ()), (5, ON_RAY)], ids=["local", "ray"])
def test_the_second_stops_at_once_and_loses_nothing_that_was_finished(
    place: Place, grid: int, executor: tuple[str, ...]
) -> None:
    place.use_grid(grid)
    place.let(8)
    process = place.sweep(*executor)
    n_asked, deadline = place.n_asked + 8, time.monotonic() + 60
    while len(place.asked) <= n_asked and time.monotonic() < deadline:  # the judge hangs
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    said = process.read_until("once more stops at once")
    assert process.poll() is None, "the first waits for the cells in hand"
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    errors = said + process.communicate(timeout=25)[1]
    assert time.monotonic() - began < 10
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert "run the same command again to go on" in errors
    assert place.phase_status() == "KILLED"

    place.let()
    again = place.start("phase1", "--max-rounds", "0")
    _, errors = again.communicate(timeout=60)
    assert again.returncode == 0, errors
    assert place.n_found == N_CELLS


def test_a_step_without_cells_stops_at_the_first(place: Place) -> None:
    place.use_grid(1)
    file = place.folder / "small.yaml"
    text = file.read_text()
    assert "max_new_tokens: 8}" in text
    file.write_text(text.replace("max_new_tokens: 8}", "max_new_tokens: 1000}"))  # a calibration that takes long

    def calibrations() -> list[str]:
        return [one.status for one in place.store().phases("small") if one.phase == "calibrate"]

    n_before = len(calibrations())
    process = place.start("calibrate")
    deadline = time.monotonic() + 60
    while len(calibrations()) == n_before and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert calibrations()[n_before:] == ["KILLED"]
