"""A judge that is a causal language model in this process: `hf:MODEL`, or `self`, the steered model unsteered.

It is asked what an API judge is asked, in the model's own chat template, and its answer is never written out. Where the
tokenizer has a token for every integer, the 20 most probable tokens of the answer's first position go through
`massact.judges.reading.read_weights`, as those of a server do. Where it takes several tokens for one (Gemma and Qwen
write a digit a token), the integers' own probabilities do (`IntegerTokens`). A blank that the answer begins with is
passed over. Scores are rounded to `DECIMALS`, and do not depend on the batch beyond the rounding of the dtype."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile
from typing import Any

import torch

from massact.config import AdapterConfig, JudgeConfig, LoadConfig
from massact.domain import JudgeIdentity
from massact.errors import ConfigError
from massact.judges import Exchange, ModelSource, Subject, Usage, Verdict
from massact.judges.reading import BLANKS, TOP_LOGPROBS, Reading, read_weights
from massact.judges.rubric import Rubric
from massact.keys import digest
from massact.models.blocks import text_config
from massact.models.cache import RowCache, is_out_of_memory, measure_memory, with_cache
from massact.models.load import SteerableModel, describe, load_model, model_lock, read_description
from massact.models.prompting import Row, encode_chat
from massact.models.support import reading_arguments, sharing_of

NEGLIGIBLE = 1e-5
"""What an answer begins with is not followed further below this probability; its integers are left out."""

Tokens = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class IntegerTokens:
    """The integers 0 to 100 in the tokens of one tokenizer, and what they weigh where it takes several for one.

    With t_1 ... t_m the tokens of an integer, p the model's probabilities and N the tokens that continue a number,

        P(integer) = p(t_1) p(t_2 | t_1) ... p(t_m | t_1 ... t_m-1) stop
        stop       = 1 - sum over t in N of p(t | t_1 ... t_m) where another integer begins with t_1 ... t_m, else 1

    so that 8 weighs what neither 80 nor 85 takes. Spellings of one integer, ` 85` and `85`, add up. A number that
    goes on beyond 100 counts for 10 not at all, and for 11 to 99 as if it had ended: nothing is read after them."""

    values: Mapping[Tokens, int]  # of each spelling its integer
    stems: tuple[Tokens, ...]
    """What spellings begin with and go on after, the shorter first; empty where each is a single token."""
    continuing: tuple[int, ...]  # the tokens that continue a number

    @classmethod
    def of(cls, tokenizer: Any) -> "IntegerTokens":
        """Read off what the tokenizer makes of each integer, alone and after a blank."""
        values: dict[Tokens, int] = {}
        for value in range(101):
            for text in (str(value), f" {value}"):
                tokens = _without_blanks(tokenizer, text)
                # a tokenizer that knows no blank, or no digits, has something else for them
                if tokenizer.decode(list(tokens)).strip(BLANKS) == text.strip():
                    values[tokens] = value
        stems = {spelling[:n] for spelling in values for n in range(1, len(spelling))}
        continuing = {token for spelling in values for token in spelling[1:]}
        return cls(values, tuple(sorted(stems, key=lambda s: (len(s), s))), tuple(sorted(continuing)))

    @property
    def beginning(self) -> tuple[int, ...]:
        return tuple(sorted({spelling[0] for spelling in self.values}))

    def weights(self, after: Mapping[Tokens, Mapping[int, float]]) -> dict[int, float]:
        """Probability by integer. `after`: probability by token: of the `beginning` ones at the answer's first position
        (the key `()`), and of the `continuing` ones after each stem that was followed."""
        weight_of: dict[int, float] = {}
        for spelling, value in self.values.items():
            weight = 1.0
            for n, token in enumerate(spelling):
                weight *= after[spelling[:n]][token] if spelling[:n] in after else 0.0
            if spelling in self.stems:
                weight *= max(0.0, 1.0 - sum(after[spelling].values())) if spelling in after else 0.0
            weight_of[value] = weight_of.get(value, 0.0) + weight
        return weight_of


def _without_blanks(tokenizer: Any, text: str) -> Tokens:
    """The tokens of a text from the first on that is more than a blank."""
    tokens = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
    written = tokenizer.convert_ids_to_tokens(list(tokens))
    n_blank = next((n for n, token in enumerate(written) if token.strip(BLANKS)), len(tokens))
    return tokens[n_blank:]


@lru_cache(maxsize=1)
def hub_source(
    reference: str, *, revision: str | None, options: LoadConfig, adapter: AdapterConfig | None = None
) -> ModelSource:
    """A model of the judge's own, loaded when it is first needed and kept: one for all traits."""
    described = read_description(reference, revision=revision, adapter=adapter, options=options)

    @lru_cache(maxsize=1)
    def load() -> SteerableModel:
        return load_model(reference, revision=revision, adapter=adapter, options=options)

    # where the files do not tell its dtype, only the loaded model does
    return ModelSource(lambda: described or describe(load()), load)


# Prompts read side by side: what they begin with alike is computed once, whatever their lengths. Rows are padded on
# the left, so that a row's tokens keep their distances (sliding windows count them). A row's cache then holds the
# shared keys and values from where the row begins, and the model reads as many last tokens of each row as the longest
# row has beyond the prefix: of a shorter row that is the end of the prefix once more.


class Prefix:
    """Keys and values of tokens that several prompts begin with; none where it is empty."""

    def __init__(self, model: SteerableModel, tokens: Tokens) -> None:
        self.tokens = tokens
        self.cache = RowCache(text_config(model.model), 1, len(tokens))
        if tokens:
            ids = torch.tensor([tokens], device=model.device)
            model.model(input_ids=ids, **with_cache(model.model, self.cache))


def common_start(prompts: Sequence[Tokens]) -> Tokens:
    """What all prompts begin with, and at least one token short of each."""
    first, last = min(prompts), max(prompts)  # in the order of tuples all others lie between them
    n_alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
    return first[: min(n_alike, min(map(len, prompts)) - 1)]


class Prompts:
    """A batch of prompts that were read, and can be gone on from."""

    def __init__(self, model: SteerableModel, prefix: Prefix, prompts: Sequence[Tokens], *, room: int) -> None:
        """Read prompts that all begin with a prefix, with room for so many tokens after each."""
        self._model, device = model, model.device
        self._lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        self._width = max(map(len, prompts))
        begin = len(prefix.tokens)
        self._starts = [self._width - len(prompt) for prompt in prompts]
        self._cache = RowCache(text_config(model.model), len(prompts), self._width + room)
        if prefix.tokens:
            self._cache.share(prefix.cache, self._starts)
        read = [((0,) * start + prompt)[begin:] for start, prompt in zip(self._starts, prompts, strict=True)]
        self.first = self._run(torch.tensor(read, device=device), begin)
        """`[n_prompts, n_tokens]` probabilities, float32, of what follows each prompt."""

    def after(self, tokens: Tokens) -> torch.Tensor:
        """`[n_prompts, n_tokens]` probabilities, float32, of what follows the same tokens after every prompt."""
        ids = torch.tensor([tokens] * len(self._starts), device=self._model.device)
        try:
            return self._run(ids, self._width)
        finally:
            self._cache.rewind(self._width)

    def _run(self, ids: torch.Tensor, begin: int) -> torch.Tensor:
        """Probabilities after tokens that stand from `begin` on, counted from the left of the padded rows."""
        places = torch.arange(begin + ids.shape[1], device=ids.device)
        positions = places[None, :] - (self._width - self._lengths)[:, None]
        output = self._model.model(
            input_ids=ids,
            attention_mask=(positions >= 0).long(),
            position_ids=positions[:, begin:].clamp_min(0),
            **with_cache(self._model.model, self._cache),
        )
        return torch.softmax(output.logits[:, -1].float(), dim=-1)


class PlainPrompts:
    """The same of prompts that are read one by one and from their beginning, by models that are not to be batched."""

    def __init__(self, model: SteerableModel, prompts: Sequence[Tokens]) -> None:
        self._model, self._prompts = model, prompts
        self.first = self.after(())

    def after(self, tokens: Tokens) -> torch.Tensor:
        """See `Prompts`."""
        read, model = [], self._model
        for prompt in self._prompts:
            ids = torch.tensor([(*prompt, *tokens)], device=model.device)
            output = model.model(input_ids=ids, **reading_arguments(model.model, torch.ones_like(ids)))
            read.append(torch.softmax(output.logits[:, -1].float(), dim=-1))
        return torch.cat(read)


# What a local model would answer to prompts: the probabilities of the first thing it writes. No text is generated.

_ROWS = 64  # prompts side by side at most, unless told otherwise: more are hardly faster
_MOST_BLANKS = 2  # how many blanks an answer may begin with
Top = Sequence[tuple[str, float]]  # texts that an answer may begin with, and their probabilities


class Answerer:
    """Reads prompts with one model, many side by side."""

    def __init__(self, model: SteerableModel, *, batch_rows: int = 0) -> None:
        self._model = model
        self._sharing = sharing_of(model.model)
        with model_lock(model.model):  # tokenizers are not to be used by two threads at once
            self._integers = IntegerTokens.of(model.tokenizer)
        self._rows_at_most = batch_rows or _ROWS
        self._longest = model.shape.max_positions

    def answer(self, prompts: Sequence[Tokens]) -> list[Reading]:
        """The reading of an answer to each prompt, in order; what prompts begin with alike is read once."""
        answers: dict[int, Reading] = {}
        waiting: dict[int, Tokens] = {}
        for i, prompt in enumerate(prompts):
            problem = self._problem(prompt)
            if problem is None:
                waiting[i] = prompt
            else:
                answers[i] = Reading(None, problem)
        with torch.inference_mode():
            for _ in range(_MOST_BLANKS + 1):
                again: dict[int, Tokens] = {}
                for i, answer in self._read_all(waiting):
                    if isinstance(answer, int):
                        again[i] = (*waiting[i], answer)
                    else:
                        answers[i] = answer
                waiting = again
        for i in waiting:
            answers[i] = Reading(None, "the judge's answer begins with blanks alone")
        return [answers[i] for i in range(len(prompts))]

    def _problem(self, prompt: Tokens) -> str | None:
        if self._longest and len(prompt) + _MOST_BLANKS + 2 > self._longest:
            return f"the prompt has {len(prompt)} tokens, and the judging model takes {self._longest} with its answer"
        return None

    def _read_all(self, waiting: Mapping[int, Tokens]) -> Iterator[tuple[int, Reading | int]]:
        """The answers, batch by batch; in place of one, the blank that it begins with."""
        if not waiting:
            return
        order = sorted(waiting, key=lambda i: len(waiting[i]))
        with model_lock(self._model.model):
            prompts = list(waiting.values())
            prefix = Prefix(self._model, common_start(prompts) if self._shares(prompts) else ())
        start = 0
        while start < len(order):
            batch = order[start : start + self._rows_at_most]
            # a turn a batch: a generator that waits for the model goes on between two
            with model_lock(self._model.model):
                memory = measure_memory(self._model, None)
                rows = [Row(waiting[i]) for i in batch]
                batch = batch[: max(1, memory.fitting(rows, self._room))]
                answers = self._batch(prefix, [waiting[i] for i in batch])
            if answers is None:
                continue
            yield from zip(batch, answers, strict=True)
            start += len(batch)

    def _shares(self, prompts: Sequence[Tokens]) -> bool:
        return self._sharing.allows(max(map(len, prompts)) + self._room + _MOST_BLANKS)

    @property
    def _room(self) -> int:
        return max((len(stem) for stem in self._integers.stems), default=1)

    def _batch(self, prefix: Prefix, prompts: Sequence[Tokens]) -> list[Reading | int] | None:
        """The answers of one batch; `None` where memory ran out and the next is to be smaller."""
        try:
            if self._shares(prompts):
                return self._read(Prompts(self._model, prefix, prompts, room=self._room))
            return self._read(PlainPrompts(self._model, prompts))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(prompts) == 1:
                return [Reading(None, f"a prompt of {len(prompts[0])} tokens does not fit in the memory")]
        # outside the handler, whose traceback holds on to the tensors of the batch
        self._rows_at_most = max(1, len(prompts) // 2)
        if self._model.device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def _read(self, prompts: Prompts | PlainPrompts) -> list[Reading | int]:
        first = prompts.first
        likeliest = first.argmax(dim=-1).tolist()
        is_finite = first.isfinite().all(dim=-1).tolist()
        tops = self._integer_tops(prompts) if self._integers.stems else self._token_tops(first)
        answers: list[Reading | int] = []
        for token, finite, top in zip(likeliest, is_finite, tops, strict=True):
            text = self._text(token)
            if not finite:
                answers.append(Reading(None, "the judging model gives no finite probabilities"))
            elif not text.strip(BLANKS) and token not in self._model.end_tokens:
                answers.append(token)
            else:
                answers.append(_reading(text, top))
        return answers

    def _token_tops(self, first: torch.Tensor) -> list[Top]:
        top = first.topk(min(TOP_LOGPROBS, first.shape[1]))
        return [
            [(self._text(token), weight) for token, weight in zip(tokens, weights, strict=True)]
            for tokens, weights in zip(top.indices.tolist(), top.values.tolist(), strict=True)
        ]

    def _integer_tops(self, prompts: Prompts | PlainPrompts) -> list[Top]:
        """Every integer with its probability, of each prompt."""
        integers = self._integers
        rows: list[dict[Tokens, dict[int, float]]] = [
            {(): column} for column in _columns(prompts.first, integers.beginning)
        ]
        reached: list[dict[Tokens, float]] = [{(): 1.0} for _ in rows]
        for stem in integers.stems:
            columns = None
            for i, (after, weights) in enumerate(zip(rows, reached, strict=True)):
                weight = weights.get(stem[:-1], 0.0) * after.get(stem[:-1], {}).get(stem[-1], 0.0)
                if weight < NEGLIGIBLE:
                    continue
                columns = columns or _columns(prompts.after(stem), integers.continuing)
                weights[stem], after[stem] = weight, columns[i]
        return [[(str(n), weight) for n, weight in integers.weights(after).items()] for after in rows]

    def _text(self, token: int) -> str:
        return str(self._model.tokenizer.decode([token]))


def _columns(probabilities: torch.Tensor, tokens: Sequence[int]) -> list[dict[int, float]]:
    """Of each row, the probabilities of some tokens."""
    chosen = probabilities[:, list(tokens)].double().tolist()
    return [dict(zip(tokens, row, strict=True)) for row in chosen]


LOCAL_VERSION = 1  # raised with every change of how a local model's answer is read
DECIMALS = 4


class LocalJudge:
    """Scores by a local model's probabilities; satisfies `massact.judges.Judge`."""

    def __init__(self, name: str, source: ModelSource, rubric: Rubric, *, batch_rows: int = 0) -> None:
        """`name` is the judge's in the experiment file; `batch_rows` prompts are read at a time, 0: what is of use."""
        self._name, self._source, self._rubric = name, source, rubric
        self._batch_rows = batch_rows
        self.usage = Usage()  # an answer counts as the one token that is read of it at least

    @property
    def identity(self) -> JudgeIdentity:
        """`model` names id, revision and dtype; `prompt_digest` also counts the chat template."""
        described = self._source.describe()
        model, asked = described.identity, {
            "rubric": self._rubric.digest,
            "chat_template": described.chat_template_digest,
            "reading": LOCAL_VERSION,
            **({"thinking": "off"} if described.unasked_chat.thinking == "off" else {}),
        }  # fmt: skip
        return JudgeIdentity(self._name, f"{model.id}@{model.revision} {model.dtype}", digest(asked))

    def prepare(self) -> None:
        self._source.load()

    def score(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
        """One verdict per exchange, in order; equal prompts are read once."""
        if not exchanges:
            return []
        asked = [self._rubric.prompts(exchange) for exchange in exchanges]
        model = self._source.load()
        answerer = Answerer(model, batch_rows=self._batch_rows)
        # prompts of one kind begin alike
        read = [self._read(model, answerer, kind) for kind in zip(*asked, strict=True)]
        return [
            self._rubric.verdict([readings[prompt] for readings, prompt in zip(read, prompts, strict=True)])
            for prompts in asked
        ]

    def _read(self, model: SteerableModel, answerer: Answerer, prompts: Iterable[str]) -> dict[str, Reading]:
        distinct = list(dict.fromkeys(prompts))
        with model_lock(model.model):
            encoded = [encode_chat(model, prompt, chat=model.unasked_chat) for prompt in distinct]
        readings = answerer.answer(encoded)
        self.usage += Usage(sum(map(len, encoded)), len(encoded), len(encoded))
        return dict(zip(distinct, readings, strict=True))


def _reading(text: str, top: Top) -> Reading:
    reading = read_weights(text, top)
    if reading.score is None or not math.isfinite(reading.score):
        return Reading(None, reading.reason or "the judge's score is no number")
    return Reading(round(reading.score, DECIMALS))


def open_hub_judge(config: JudgeConfig, subject: Subject) -> LocalJudge:
    """`hf:MODEL`; see `massact.judges.open_judge`."""
    source = hub_source(subject.resolve(config.model), revision=config.revision, options=config.load)
    return LocalJudge(config.name, source, Rubric.of(config, subject), batch_rows=config.batch_rows)


def open_self_judge(config: JudgeConfig, subject: Subject) -> LocalJudge:
    """`self`; likewise."""
    if subject.steered is None:
        raise ConfigError("the judge self is the steered model: name the model whose responses it is to judge")
    rubric = Rubric.of(config, subject)
    return LocalJudge(config.name, subject.steered, rubric, batch_rows=config.batch_rows)
