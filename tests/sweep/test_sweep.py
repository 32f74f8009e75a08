"""The pipeline of a sweep: the judge works beside the generator, in order, never twice on equal text."""

import threading
from collections.abc import Callable, Iterator, Sequence

import pytest

from massact.errors import JudgeError
from massact.evaluation import Evaluation, FailedCell, PlannedCell
from massact.judges import Exchange, Verdict
from massact.judges.caching import CachingJudge
from massact.sweep.executors.base import AHEAD, THREAD, Generated
from massact.sweep.executors.local import CellGenerator, evaluate_cells
from tests.support.sweep_cells import IDENTITY, cells
from tests.support.tiny import tiny_model

QUESTIONS = ("t5 t6 t7", "t9 t11")


class Judge:
    """Scores by a function, and keeps what it was asked."""

    identity = IDENTITY

    def __init__(self, before: Callable[[int], None] = lambda _n: None) -> None:
        self.before = before
        self.asked: list[list[Exchange]] = []

    def score(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
        self.before(len(self.asked))
        self.asked.append(list(exchanges))
        return [Verdict(float(len(one.response)), 50.0) for one in exchanges]


class Spy:
    """Counts the batches that were generated, and runs a function before each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, before: Callable[[int], None] = lambda _n: None) -> None:
        self.count = 0
        real = CellGenerator._generate

        def generate(generator: CellGenerator, batch: Sequence[PlannedCell]) -> Iterator[Generated]:
            before(self.count)
            self.count += 1
            return real(generator, batch)

        monkeypatch.setattr(CellGenerator, "_generate", generate)


def _wait(event: threading.Event) -> None:
    assert event.wait(20), "it did not happen beside the other thread"


def test_a_batch_is_judged_while_the_next_is_generated(monkeypatch: pytest.MonkeyPatch) -> None:
    generating, judging = threading.Event(), threading.Event()

    def before_judging(n: int) -> None:
        if n == 0:
            judging.set()
            _wait(generating)  # only comes while this batch is being judged

    def before_generating(n: int) -> None:
        if n == 1:
            _wait(judging)
            generating.set()

    Spy(monkeypatch, before_generating)
    results = list(evaluate_cells(tiny_model("llama"), cells(3), QUESTIONS, Judge(before_judging), batch_rows=2))
    assert [one.planned.cell.steering.coefficient for one in results if one.planned.cell.steering] == [0, 1, 2]


def test_the_generator_runs_no_more_than_a_few_batches_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    hold = threading.Event()
    spy = Spy(monkeypatch)
    ahead: list[int] = []

    def before_judging(n: int) -> None:
        if n == 0:
            hold.wait(1.0)  # long enough for ten batches
            ahead.append(spy.count)

    list(evaluate_cells(tiny_model("llama"), cells(10), QUESTIONS, Judge(before_judging), batch_rows=2))
    # one is judged, some wait, and one was generated and waits for room
    assert ahead[0] <= 1 + AHEAD + 1
    assert spy.count == 10


def test_results_come_while_the_sweep_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    spy = Spy(monkeypatch)
    results = evaluate_cells(tiny_model("llama"), cells(20), QUESTIONS, Judge(), batch_rows=2)
    next(results)
    assert spy.count <= AHEAD + 3
    assert len(list(results)) == 19


def test_no_new_batch_is_begun_once_it_should_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    spy = Spy(monkeypatch)
    results = list(
        evaluate_cells(
            tiny_model("llama"),
            cells(9),
            QUESTIONS,
            Judge(),
            batch_rows=2,
            take=lambda left, n: left[:n] if spy.count < 3 else (),
        )
    )
    assert len(results) == 3, "what was begun is finished, and nothing more"


def test_what_was_judged_before_the_judge_was_lost_is_kept() -> None:
    def lose(n: int) -> None:
        if n == 2:
            raise JudgeError("no credit left")

    results: list[Evaluation | FailedCell] = []
    sweeping = evaluate_cells(tiny_model("llama"), cells(6), QUESTIONS, Judge(lose), batch_rows=2)
    with pytest.raises(JudgeError, match="no credit"):
        results.extend(sweeping)
    assert len(results) == 2


def test_what_was_generated_before_a_fault_of_ours_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(n: int) -> None:
        if n == 3:
            raise TypeError("a fault")

    Spy(monkeypatch, fail)
    results: list[Evaluation | FailedCell] = []
    with pytest.raises(TypeError, match="a fault"):
        results.extend(evaluate_cells(tiny_model("llama"), cells(6), QUESTIONS, Judge(), batch_rows=2))
    assert len(results) == 3


def test_a_cell_that_cannot_be_generated_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    bad = cells(5)[3]
    real = CellGenerator._generate

    def generate(generator: CellGenerator, batch: Sequence[PlannedCell]) -> Iterator[Generated]:
        if any(one.cell == bad.cell for one in batch):
            raise RuntimeError("out of memory")
        return real(generator, batch)

    monkeypatch.setattr(CellGenerator, "_generate", generate)
    results = list(evaluate_cells(tiny_model("llama"), cells(5), QUESTIONS, Judge(), batch_rows=10))
    assert [type(one) for one in results] == [Evaluation, Evaluation, Evaluation, FailedCell, Evaluation]


def test_the_thread_ends_with_the_sweep() -> None:
    results = evaluate_cells(tiny_model("llama"), cells(6), QUESTIONS, Judge(), batch_rows=2)
    next(results)
    results.close()
    for thread in threading.enumerate():
        if thread.name.startswith(THREAD):
            thread.join(20)
            assert not thread.is_alive()


def test_equal_text_is_judged_once() -> None:
    judge = Judge()
    caching = CachingJudge(judge)
    a, b = Exchange("q", "one"), Exchange("q", "other")
    assert [one.trait for one in caching.score([a, b, a])] == [3, 5, 3]
    assert [one.trait for one in caching.score([b, Exchange("qo", "ne")])] == [5, 2]
    assert judge.asked == [[a, b], [Exchange("qo", "ne")]]
    assert caching.identity == IDENTITY


def test_a_missing_score_is_asked_for_again() -> None:
    class Flaky(Judge):
        def score(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
            self.asked.append(list(exchanges))
            return [Verdict(1.0, None if len(self.asked) == 1 else 2.0, "busy") for _ in exchanges]

    judge = Flaky()
    caching = CachingJudge(judge)
    (first,), (second,), (third,) = (caching.score([Exchange("q", "r")]) for _ in range(3))
    assert (first.coherence, second.coherence, third.coherence) == (None, 2.0, 2.0)
    assert len(judge.asked) == 2


def test_a_judge_that_gives_too_few_verdicts_fails_the_cell() -> None:
    class Short(Judge):
        def score(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
            return super().score(exchanges)[1:]

    (result,) = evaluate_cells(tiny_model("llama"), cells(1), QUESTIONS, Short(), batch_rows=2)
    assert isinstance(result, FailedCell)
    assert "1 verdicts for 2" in result.error
