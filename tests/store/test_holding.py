"""An interruption that comes while a run is made or ended: it waits, and no run is left open by it."""

import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

from massact.store.retry import held_back
from massact.store.write.tracker import Tracker


@pytest.fixture
def tracker(uri: str) -> Tracker:
    return Tracker(uri, "study", floor=70.0)


def _interrupt_after(call: Callable[..., Any]) -> Callable[..., Any]:
    def interrupted(*arguments: Any, **options: Any) -> Any:
        result = call(*arguments, **options)
        signal.raise_signal(signal.SIGINT)
        return result

    return interrupted


def _statuses(tracker: Tracker) -> list[str]:
    return [run.info.status for run in tracker._client.search_runs([tracker.experiment_id])]


def test_one_that_comes_when_the_run_is_just_made_kills_it(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracker._client, "create_run", _interrupt_after(tracker._client.create_run))
    entered = False
    with pytest.raises(KeyboardInterrupt), tracker.phase("calibrate", params={}):
        entered = True
    assert not entered
    assert _statuses(tracker) == ["KILLED"]


def test_one_that_comes_while_the_run_ends_does_not_undo_it(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt), tracker.phase("calibrate", params={}):
        monkeypatch.setattr(tracker._client, "set_terminated", _interrupt_after(tracker._client.set_terminated))
    assert _statuses(tracker) == ["FINISHED"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_waits_and_the_second_takes_effect_at_once(number: signal.Signals) -> None:
    came: list[str] = []
    before = signal.signal(number, lambda *_: came.append("taken"))
    try:
        with held_back():
            signal.raise_signal(number)
            came.append("waited")
        assert came == ["waited", "taken"]
        with held_back():
            signal.raise_signal(number)
            signal.raise_signal(number)
            came.append("after the second")
        assert came[2:] == ["taken", "after the second"]
        signal.raise_signal(number)
        assert came[4:] == ["taken"], "the handler of before is back"
    finally:
        signal.signal(number, before)


def test_what_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with held_back():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_outside_the_main_thread_it_leaves_signals_alone() -> None:
    seen: list[object] = []

    def work() -> None:
        with held_back():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)]


def test_an_interruption_within_a_statement_waits_for_its_end(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sqlalchemy.engine.default import DefaultDialect

    execute = DefaultDialect.do_execute
    n_left = [3]

    def interrupted(self: Any, cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        execute(self, cursor, statement, parameters, context)
        if statement.startswith("SELECT") and n_left[0]:
            n_left[0] -= 1
            if not n_left[0]:
                signal.raise_signal(signal.SIGINT)

    def work() -> None:
        with tracker.phase("calibrate", params={}) as run:
            monkeypatch.setattr(DefaultDialect, "do_execute", interrupted)
            for value in ("a", "b", "c"):
                tracker.set_tag(run, "mlflow.note.content", value)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert not n_left[0]
    monkeypatch.undo()
    assert _statuses(tracker) == ["KILLED"]
