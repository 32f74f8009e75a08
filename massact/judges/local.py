"""A judge that is a causal language model in this process: `hf:MODEL`, or `self`, the steered model unsteered.

It is asked what an API judge is asked, in the model's own chat template, and its answer is never written out. Where
the tokenizer has a token for every integer, the 20 most probable tokens of the answer's first position go through
`massact.judges.reading.read_weights`, as those of a server do. Where it takes several tokens for one (Gemma and
Qwen write a digit a token), the integers' own probabilities do; `massact.judges.integers` has the formula. A blank
that the answer begins with is passed over. Scores are rounded to `DECIMALS`, and do not depend on the batch beyond
the rounding of the dtype.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from massact.domain import JudgeIdentity
from massact.judges.base import Exchange, Usage, Verdict
from massact.judges.integers import NEGLIGIBLE, IntegerTokens, Tokens
from massact.judges.reading import BLANKS, TOP_LOGPROBS, Reading, read_weights
from massact.judges.rubric import Rubric
from massact.judges.source import ModelSource
from massact.keys import digest
from massact.models.blocks import text_config
from massact.models.cache import check_cacheable, is_out_of_memory, measure_memory, with_cache
from massact.models.load import SteerableModel
from massact.models.model_lock import turn
from massact.models.prompting import Row, encode_question

# Prompts read side by side: what they begin with alike is computed once, whatever their lengths.

PrefixTokens = tuple[int, ...]


class Prefix:
    """Keys and values of tokens that several prompts begin with; none where it is empty."""

    def __init__(self, model: SteerableModel, tokens: PrefixTokens) -> None:
        self.tokens = tokens
        self.layers: list[tuple[torch.Tensor, torch.Tensor]] = []
        """Of each layer `[1, heads, tokens, head_dim]`, twice."""
        if tokens:
            cache = _Cache(model, capacity=len(tokens))
            ids = torch.tensor([tokens], device=model.device)
            model.model(input_ids=ids, **with_cache(model.model, cache))
            self.layers = [(layer.keys, layer.values) for layer in cache.rows]


def common_start(prompts: Sequence[PrefixTokens]) -> PrefixTokens:
    """What all prompts begin with, and at least one token short of each."""
    first, last = min(prompts), max(prompts)  # in the order of tuples all others lie between them
    n_alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
    return first[: min(n_alike, min(map(len, prompts)) - 1)]


class Prompts:
    """A batch of prompts that were read, and can be gone on from."""

    def __init__(
        self, model: SteerableModel, prefix: Prefix, prompts: Sequence[PrefixTokens], *, room: int
    ) -> None:
        """Read the prompts.

        Args:
            prefix: what each of them begins with.
            room: tokens that will be put after a prompt at once, at most.
        """
        self._model, device = model, model.device
        self._lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        self._width = max(map(len, prompts))
        begin = len(prefix.tokens)
        self._starts = [self._width - len(prompt) for prompt in prompts]
        self._cache = _Cache(model, capacity=self._width + room)
        self._cache.begin(prefix, self._starts)
        read = [((0,) * start + prompt)[begin:] for start, prompt in zip(self._starts, prompts, strict=True)]
        self.first = self._run(torch.tensor(read, device=device), begin)
        """`[n_prompts, n_tokens]` probabilities, float32, of what follows each prompt."""

    def after(self, tokens: PrefixTokens) -> torch.Tensor:
        """`[n_prompts, n_tokens]` probabilities, float32, of what follows the same tokens after every prompt."""
        ids = torch.tensor([tokens] * len(self._starts), device=self._model.device)
        try:
            return self._run(ids, self._width)
        finally:
            self._cache.rewind(self._width)

    def _run(self, ids: torch.Tensor, begin: int) -> torch.Tensor:
        """Probabilities after tokens that stand from `begin` on, counted from the left of the padded rows."""
        places = torch.arange(begin + ids.shape[1], device=ids.device)
        own = places[None, :] - (self._width - self._lengths)[:, None]
        output = self._model.model(
            input_ids=ids,
            attention_mask=(own >= 0).long(),
            position_ids=own[:, begin:].clamp_min(0),
            **with_cache(self._model.model, self._cache),
        )
        return torch.softmax(output.logits[:, -1].float(), dim=-1)


class _Cache(Cache):
    """A cache of whole layers: sliding ones keep everything, their mask leaves out what the window does."""

    def __init__(self, model: SteerableModel, *, capacity: int) -> None:
        n_layers = text_config(model.model).num_hidden_layers
        self.rows = [_Layer(capacity) for _ in range(n_layers)]
        super().__init__(layers=[*self.rows])

    def begin(self, prefix: Prefix, starts: Sequence[int]) -> None:
        """Put the prefix into every row, from where the row starts to as many tokens as the prefix has."""
        if prefix.layers:
            for layer, (keys, values) in zip(self.rows, prefix.layers, strict=True):
                layer.fill(keys, values, starts, len(prefix.tokens))

    def rewind(self, length: int) -> None:
        """Forget all after the first `length` tokens."""
        for layer in self.rows:
            layer.length = length


class _Layer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    keys: torch.Tensor
    values: torch.Tensor
    is_sliding = False
    is_croppable = False

    def __init__(self, capacity: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._capacity = capacity
        self.length = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Make room for as many rows as are given."""
        self._make_room(key_states, value_states, len(key_states))

    def _make_room(self, keys: torch.Tensor, values: torch.Tensor, n_rows: int) -> None:
        # zeros: padding is masked, but NaN times 0 is NaN
        self.keys, self.values = (
            like.new_zeros(n_rows, like.shape[1], self._capacity, like.shape[3]) for like in (keys, values)
        )
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True

    def fill(self, keys: torch.Tensor, values: torch.Tensor, starts: Sequence[int], end: int) -> None:
        """Begin rows with one row's keys and values."""
        self._make_room(keys, values, len(starts))
        for start, first, last in _runs(starts):
            n_kept = max(0, end - start)
            self.keys[first:last, :, start : start + n_kept] = keys[:, :, :n_kept]
            self.values[first:last, :, start : start + n_kept] = values[:, :, :n_kept]
        self.length = end

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep new keys and values `[rows, heads, tokens, head_dim]`; gives all that are to be attended."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self.length + key_states.shape[2]
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of what is attended."""
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        """How many tokens are kept."""
        return self.length

    def get_max_length(self) -> int:
        """How many can be kept."""
        return self._capacity


def _runs(values: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Equal neighbours: the value, where they begin and where they end."""
    first = 0
    for place in range(1, len(values) + 1):
        if place == len(values) or values[place] != values[first]:
            yield values[first], first, place
            first = place


# What a local model would answer to prompts: the probabilities of the first thing it writes. No text is generated.

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


LOCAL_VERSION = 1
"""Raised with every change of how a local model's answer is read."""
DECIMALS = 4


class LocalJudge:
    """Scores by a local model's probabilities; satisfies `massact.judges.base.Judge`."""

    def __init__(self, name: str, source: ModelSource, rubric: Rubric, *, batch_rows: int = 0) -> None:
        """
        Args:
            name: the judge as the experiment file names it.
            batch_rows: prompts read side by side at most; 0: as many as are of use.
        """
        self._name, self._source, self._rubric = name, source, rubric
        self._batch_rows = batch_rows
        self._usage = Usage()

    @property
    def identity(self) -> JudgeIdentity:
        """`model` names id, revision and dtype; `prompt_digest` also counts the chat template."""
        described = self._source.describe()
        model, asked = described.identity, {
            "rubric": self._rubric.digest,
            "chat_template": described.chat_template_digest,
            "reading": LOCAL_VERSION,
        }  # fmt: skip
        return JudgeIdentity(self._name, f"{model.id}@{model.revision} {model.dtype}", digest(asked))

    @property
    def usage(self) -> Usage:
        """An answer counts as the one token that is read of it at least."""
        return self._usage

    def prepare(self) -> None:
        """Load the model."""
        self._source.load()

    def score(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
        """One verdict per exchange, in order; equal prompts are read once.

        Raises:
            ModelError: the model cannot be loaded, or is of a kind that cannot judge.
        """
        if not exchanges:
            return []
        asked = [self._rubric.prompts(exchange) for exchange in exchanges]
        model = self._source.load()
        answerer = Answerer(model, batch_rows=self._batch_rows)
        # prompts of one kind begin alike
        read = [self._read(model, answerer, kind) for kind in zip(*asked, strict=True)]
        return [
            self._rubric.verdict([found[prompt] for found, prompt in zip(read, prompts, strict=True)])
            for prompts in asked
        ]

    def _read(self, model: SteerableModel, answerer: Answerer, prompts: Iterable[str]) -> dict[str, Reading]:
        distinct = list(dict.fromkeys(prompts))
        with turn(model.model):
            encoded = [encode_question(model, prompt) for prompt in distinct]
        answers = answerer.answer(encoded)
        self._usage += Usage(sum(map(len, encoded)), len(encoded), len(encoded))
        return {prompt: _reading(answer) for prompt, answer in zip(distinct, answers, strict=True)}


def _reading(answer: Answer) -> Reading:
    if answer.failure is not None:
        return Reading(None, answer.failure)
    reading = read_weights(answer.text, answer.top)
    if reading.score is None or not math.isfinite(reading.score):
        return Reading(None, reading.reason or "the judge's score is no number")
    return Reading(round(reading.score, DECIMALS))
