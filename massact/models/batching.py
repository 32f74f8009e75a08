"""One model for many askers at a time: rows of whoever asks are generated side by side, each with its intervention.

Rows are generated in rounds. Whoever asks in the midst of one joins the next, which begins soon: those that go on
are read again with what they have said (`Row.n_drawn`), which changes nothing of what they say.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from massact.domain import Generation
from massact.errors import MassactError
from massact.models.generate import Generator, NotFiniteError, Row
from massact.models.load import SteerableModel, model_lock
from massact.models.thinking import closing_tokens

_LEAST_STEPS = 16
"""Tokens of a round before others may join: reading the rows again costs about one step for each prompt."""


@dataclass(slots=True, eq=False)
class Ask:
    """One response that is asked for. What is read of it while it is generated only grows."""

    row: Row
    max_new_tokens: int
    temperature: float
    notify: Callable[[], None]  # called in another thread whenever the response has grown, and when it is over
    said: tuple[int, ...] = ()
    is_over: bool = False
    error: Exception | None = None  # why it cannot be generated
    is_cancelled: bool = False  # set by whoever asked: nobody waits for more of it
    is_thought_closed: bool = False

    def left(self, budget: int | None) -> int:
        """Tokens until it is looked at anew: when a thought has had so many, or the response is as long as may be."""
        if budget is not None and budget < self.max_new_tokens and not self.is_thought_closed:
            return budget - len(self.said)
        return self.max_new_tokens - len(self.said)

    def grow(self, said: tuple[int, ...], *, is_over: bool = False, error: Exception | None = None) -> None:
        """Take what it says by now, if that is more."""
        if not self.is_over and (len(said) > len(self.said) or is_over):
            self.said, self.error, self.is_over = max(self.said, said, key=len), error, is_over
            self.notify()


class Batcher:
    """Generates what is asked for in a thread of its own, until it is closed."""

    def __init__(self, model: SteerableModel, *, batch_rows: int | None = None, most: int = 512) -> None:
        """`most`: responses that may be asked for at once."""
        self._model, self._generator, self._most = model, Generator(model, batch_rows=batch_rows), most
        self._changed, self._waiting, self._going = threading.Condition(), list[Ask](), list[Ask]()
        self._is_closed = False
        self._thread = threading.Thread(target=self._work, name="massact-batches", daemon=True)
        self._thread.start()

    def ask(self, ask: Ask) -> bool:
        """Have it generated; False: too many are, and it is not."""
        with self._changed:
            if len(self._waiting) + len(self._going) >= self._most:
                return False
            self._waiting.append(ask)
            self._changed.notify()
        return True

    def close(self) -> None:
        """End after the step in hand; what is not over by then is over with an error."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._going or self._is_closed)
                self._going, self._waiting = [ask for ask in self._going + self._waiting if not ask.is_over], []
                going = self._going
            if self._is_closed:
                for ask in going:
                    ask.grow((), is_over=True, error=MassactError("the server is stopping"))
                return
            if going:
                alike = [ask for ask in going if ask.temperature == going[0].temperature]
                batch = alike[: self._generator.batch_rows]
                try:
                    self._round(batch)
                except Exception as error:
                    for ask in batch:
                        ask.grow((), is_over=True, error=error)
                # the others come first the next time
                with self._changed:
                    self._going = [ask for ask in going if ask not in batch] + batch

    def _round(self, batch: list[Ask]) -> None:
        """Generate until all of them are over, or others wait."""
        budget = self._model.chat.budget
        for ask in batch:  # a thought that has had its tokens is ended, as `generate_thinking` does
            if budget is not None and ask.left(budget) <= 0 and not ask.is_thought_closed:
                ask.is_thought_closed = True
                ask.said = (*ask.said, *closing_tokens(self._model, ask.said))[: ask.max_new_tokens]
        begun, left = [ask.said for ask in batch], [ask.left(budget) for ask in batch]
        is_broken_off = False

        def look(index: int, tokens: tuple[int, ...], has_ended: bool) -> bool:
            nonlocal is_broken_off
            ask = batch[index]
            said = begun[index] + tokens[: left[index]]
            ask.grow(said, is_over=(has_ended and len(tokens) <= left[index]) or len(said) >= ask.max_new_tokens)
            is_broken_off |= len(tokens) >= _LEAST_STEPS and bool(self._waiting or len(self._going) > len(batch))
            return len(tokens) >= left[index] or ask.is_cancelled or is_broken_off or self._is_closed

        rows = [replace(ask.row, prompt=ask.row.prompt + ask.said, n_drawn=len(ask.said)) for ask in batch]
        errors: dict[int, Exception] = {}
        settings = Generation(max(1, *left), batch[0].temperature)
        try:
            with model_lock(self._model.model):
                said = list(self._generator.generate(rows, settings, look=look))
        except NotFiniteError as error:
            errors = {i: MassactError(error.reason(i)) for i, tokens in enumerate(error.said) if tokens is None}
            said = [tokens or () for tokens in error.said]
        for i, ask in enumerate(batch):
            tokens = said[i][: left[i]]
            has_ended = len(tokens) < left[i] and not is_broken_off
            is_full = len(begun[i] + tokens) >= ask.max_new_tokens
            is_over = has_ended or is_full or ask.is_cancelled or i in errors
            ask.grow(begun[i] + tokens, is_over=is_over, error=errors.get(i))
