"""Many askers of one model: whoever asks, and whenever, is told what the model says to them alone."""

import threading
import time
from collections.abc import Iterator

import pytest

from massact.domain import Generation
from massact.models.batching import Ask, Batcher
from massact.models.generate import Generator, Row
from massact.models.load import model_lock
from massact.models.prompting import Intervention
from tests.support.tiny import prompts, tiny_model, unit

N_TOKENS = 24


@pytest.fixture(params=["llama", "gpt_neox"])
def batcher(request: pytest.FixtureRequest) -> Iterator[Batcher]:
    made = Batcher(tiny_model(request.param), batch_rows=5)
    yield made
    made.close()


def rows(n: int) -> list[Row]:
    steered = [None, *(Intervention(i % 4, unit(i), 3.0 * i) for i in range(1, n))]
    return [Row(prompt, one, i) for i, (prompt, one) in enumerate(zip(prompts(n), steered, strict=True))]


class Asked:
    """What is asked for, and a way to wait for it."""

    def __init__(self, row: Row, n_tokens: int = N_TOKENS, temperature: float = 0.0) -> None:
        self.over, self.grown = threading.Event(), list[int]()
        self.ask = Ask(row, n_tokens, temperature, self._note)

    def _note(self) -> None:
        self.grown.append(len(self.ask.said))
        if self.ask.is_over:
            self.over.set()

    def said(self) -> tuple[int, ...]:
        assert self.over.wait(60)
        assert self.ask.error is None
        return self.ask.said


def alone(batcher: Batcher, row: Row, n_tokens: int = N_TOKENS, temperature: float = 0.0) -> tuple[int, ...]:
    with model_lock(batcher._model.model):
        (said,) = Generator(batcher._model).generate([row], Generation(n_tokens, temperature))
    return said


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_each_is_told_what_the_model_says_to_it_alone_however_many_ask(batcher: Batcher, temperature: float) -> None:
    lengths = [N_TOKENS - i for i in range(9)]
    asked = [Asked(row, n, temperature) for row, n in zip(rows(9), lengths, strict=True)]
    for one in asked:
        assert batcher.ask(one.ask)
        time.sleep(0.005)  # they come one after another, in the midst of rounds
    for row, n, one in zip(rows(9), lengths, asked, strict=True):
        assert one.said() == alone(batcher, row, n, temperature)
        assert one.grown == sorted(one.grown)


def test_askers_of_several_temperatures_take_turns(batcher: Batcher) -> None:
    asked = [Asked(row, temperature=i % 2) for i, row in enumerate(rows(6))]
    for one in asked:
        batcher.ask(one.ask)
    for i, (row, one) in enumerate(zip(rows(6), asked, strict=True)):
        assert one.said() == alone(batcher, row, temperature=i % 2)


def test_two_with_the_same_prompt_and_intervention_may_want_different_lengths(batcher: Batcher) -> None:
    row = rows(2)[1]
    asked = [Asked(row, n) for n in (4, 20, 4)]
    for one in asked:
        batcher.ask(one.ask)
    whole = alone(batcher, row, 20)
    assert [one.said() for one in asked] == [whole[:4], whole, whole[:4]]


def test_whoever_does_not_wait_any_more_holds_nobody_up(batcher: Batcher) -> None:
    gone, stays = Asked(rows(2)[0], 200), Asked(rows(2)[1])
    batcher.ask(gone.ask)
    gone.ask.is_cancelled = True
    batcher.ask(stays.ask)
    assert stays.said() == alone(batcher, rows(2)[1])
    assert gone.over.wait(60)
    assert len(gone.ask.said) < 200


def test_what_cannot_be_generated_is_an_error_of_that_one_alone() -> None:
    model = tiny_model("llama")
    broken = Intervention(1, unit(1) * float("nan"), 1.0)
    batcher = Batcher(model)
    bad, good = Asked(Row(prompts(1)[0], broken)), Asked(rows(2)[1])
    for one in (bad, good):
        batcher.ask(one.ask)
    assert good.said() == alone(batcher, rows(2)[1])
    assert bad.over.wait(60)
    assert "not finite in float32 at layer 1" in str(bad.ask.error)
    batcher.close()


def test_too_many_are_refused_and_who_waits_at_the_end_is_told() -> None:
    batcher = Batcher(tiny_model("llama"), most=1)
    with batcher._changed:  # nothing is begun meanwhile
        first, second = Asked(rows(2)[0], 100_000), Asked(rows(2)[1])
        assert batcher.ask(first.ask)
        assert not batcher.ask(second.ask)
        batcher._is_closed = True
    batcher.close()
    assert first.over.wait(60)
    assert "stopping" in str(first.ask.error)
