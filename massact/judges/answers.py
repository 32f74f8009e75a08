"""What a local model would answer to prompts: the probabilities of the first thing it writes. No text is generated."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from massact.judges.integers import NEGLIGIBLE, IntegerTokens, Tokens
from massact.judges.reading import BLANKS, TOP_LOGPROBS
from massact.judges.shared_prefix import Prefix, Prompts, common_start
from massact.models.blocks import text_config
from massact.models.cache import check_cacheable
from massact.models.load import SteerableModel
from massact.models.memory import is_out_of_memory, measure_memory
from massact.models.rows import Row
from massact.models.turns import turn

_ROWS = 64
"""Prompts side by side at most, unless told otherwise: more are hardly faster."""
_MOST_BLANKS = 2
"""How many blanks an answer may begin with."""
Top = Sequence[tuple[str, float]]
"""Texts that an answer may begin with, and their probabilities."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The beginning of an answer, as `massact.judges.reading.read_weights` takes it."""

    text: str
    """The most probable one."""
    top: Top
    failure: str | None = None
    """Why there is no answer."""


class Answerer:
    """Reads prompts with one model, many side by side."""

    def __init__(self, model: SteerableModel, *, batch_rows: int = 0) -> None:
        """
        Raises:
            ModelError: the model has layers whose state cannot be shared.
        """
        check_cacheable(model.model)
        self._model = model
        with turn(model.model):  # tokenizers are not to be used by two threads at once
            self._integers = IntegerTokens.of(model.tokenizer)
        self._rows_at_most = batch_rows or _ROWS
        self._longest = getattr(text_config(model.model), "max_position_embeddings", None)

    def answer(self, prompts: Sequence[Tokens]) -> list[Answer]:
        """One answer a prompt, in order. Prompts that begin alike share the reading of that."""
        found: dict[int, Answer] = {}
        waiting: dict[int, Tokens] = {}
        for i, prompt in enumerate(prompts):
            problem = self._problem(prompt)
            if problem is None:
                waiting[i] = prompt
            else:
                found[i] = Answer("", (), problem)
        with torch.inference_mode():
            for _ in range(_MOST_BLANKS + 1):
                again: dict[int, Tokens] = {}
                for i, answer in self._read_all(waiting):
                    if isinstance(answer, int):
                        again[i] = (*waiting[i], answer)
                    else:
                        found[i] = answer
                waiting = again
        for i in waiting:
            found[i] = Answer("", (), "the judge's answer begins with blanks alone")
        return [found[i] for i in range(len(prompts))]

    def _problem(self, prompt: Tokens) -> str | None:
        if self._longest and len(prompt) + _MOST_BLANKS + 2 > self._longest:
            return f"the prompt has {len(prompt)} tokens, and the judging model takes {self._longest} with its answer"
        return None

    def _read_all(self, waiting: Mapping[int, Tokens]) -> Iterator[tuple[int, "Answer | int"]]:
        """The answers, batch by batch; in place of one, the blank that it begins with."""
        if not waiting:
            return
        order = sorted(waiting, key=lambda i: len(waiting[i]))
        with turn(self._model.model):
            prefix = Prefix(self._model, common_start(list(waiting.values())))
        start = 0
        while start < len(order):
            batch = order[start : start + self._rows_at_most]
            # a turn a batch: a generator that waits for the model goes on between two
            with turn(self._model.model):
                batch = batch[: self._fitting([waiting[i] for i in batch])]
                answers = self._batch(prefix, [waiting[i] for i in batch])
            if answers is None:
                continue
            yield from zip(batch, answers, strict=True)
            start += len(batch)

    def _fitting(self, prompts: Sequence[Tokens]) -> int:
        memory = measure_memory(self._model, None)
        return max(1, memory.fitting([Row(prompt) for prompt in prompts], self._room))

    @property
    def _room(self) -> int:
        return max((len(stem) for stem in self._integers.stems), default=1)

    def _batch(self, prefix: Prefix, prompts: Sequence[Tokens]) -> "list[Answer | int] | None":
        """The answers of one batch; `None` where memory ran out and the next is to be smaller."""
        try:
            return self._read(Prompts(self._model, prefix, prompts, room=self._room))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(prompts) == 1:
                return [Answer("", (), f"a prompt of {len(prompts[0])} tokens does not fit in the memory")]
        # outside the handler, whose traceback holds on to the tensors of the batch
        self._rows_at_most = max(1, len(prompts) // 2)
        if self._model.device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def _read(self, prompts: Prompts) -> "list[Answer | int]":
        first = prompts.first
        likeliest = first.argmax(dim=-1).tolist()
        is_finite = first.isfinite().all(dim=-1).tolist()
        tops = self._integer_tops(prompts) if self._integers.stems else self._token_tops(first)
        answers: list[Answer | int] = []
        for token, finite, top in zip(likeliest, is_finite, tops, strict=True):
            text = self._text(token)
            if not finite:
                answers.append(Answer("", (), "the judging model gives no finite probabilities"))
            elif not text.strip(BLANKS) and token not in self._model.end_tokens:
                answers.append(token)
            else:
                answers.append(Answer(text, top))
        return answers

    def _token_tops(self, first: torch.Tensor) -> list[Top]:
        top = first.topk(min(TOP_LOGPROBS, first.shape[1]))
        return [
            [(self._text(token), weight) for token, weight in zip(tokens, weights, strict=True)]
            for tokens, weights in zip(top.indices.tolist(), top.values.tolist(), strict=True)
        ]

    def _integer_tops(self, prompts: Prompts) -> list[Top]:
        """Every integer with its probability, of each prompt."""
        integers = self._integers
        rows: list[dict[Tokens, dict[int, float]]] = [
            {(): one} for one in _columns(prompts.first, integers.beginning)
        ]
        reached: list[dict[Tokens, float]] = [{(): 1.0} for _ in rows]
        for stem in integers.stems:
            found = None
            for i, (after, weights) in enumerate(zip(rows, reached, strict=True)):
                weight = weights.get(stem[:-1], 0.0) * after.get(stem[:-1], {}).get(stem[-1], 0.0)
                if weight < NEGLIGIBLE:
                    continue
                found = found or _columns(prompts.after(stem), integers.continuing)
                weights[stem], after[stem] = weight, found[i]
        return [[(str(n), weight) for n, weight in integers.weights(after).items()] for after in rows]

    def _text(self, token: int) -> str:
        return str(self._model.tokenizer.decode([token]))


def _columns(probabilities: torch.Tensor, tokens: Sequence[int]) -> list[dict[int, float]]:
    """Of each row, the probabilities of some tokens."""
    chosen = probabilities[:, list(tokens)].double().tolist()
    return [dict(zip(tokens, row, strict=True)) for row in chosen]
