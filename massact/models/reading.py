"""How the steered and the unsteered model read a response: KL divergence and log-probabilities, token by token.

The response is forced upon both. Of the steered one the logits are kept while it generates, or it reads the response
once more; the unsteered one reads all rows of a batch at once, each distinct prompt once.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import torch

from massact.models.blocks import steer, text_config
from massact.models.cache import RowCache, with_cache
from massact.models.decode import branching, edits_of, pad, plan_branching, steered_of
from massact.models.load import SteerableModel
from massact.models.prompting import Row
from massact.models.support import Sharing, reading_arguments, sharing_of

_MOST_LOGITS = {"cuda": 1 << 28}
_MOST_LOGITS_ELSEWHERE = 1 << 24  # logits that are made at once
_COMPARED_AT_ONCE = 1 << 21  # logits: each takes some twenty bytes while they are compared


@dataclass(frozen=True, slots=True)
class Likelihoods:
    """What the first tokens of a response are to both models; empty where it has none."""

    kl: tuple[float, ...] = ()
    """KL divergence of the steered from the unsteered distribution of each token, nats, at temperature 1."""
    log_probabilities: tuple[float, ...] = ()  # of each token under the unsteered model, nats


Said = Sequence[tuple[int, ...] | None]


def _plainly(model: SteerableModel, rows: Sequence[Row], n_last: int) -> torch.Tensor:
    """The same of rows of one length, without anything that rows share."""
    tokens, width = torch.tensor([row.prompt for row in rows], device=model.device), len(rows[0].prompt)
    edits, steered = edits_of(rows, model.device), steered_of(rows, width, width, model.device)
    with steer(model.blocks, {layer: partial(edit, shares=steered) for layer, edit in edits.items()}):
        arguments = reading_arguments(model.model, torch.ones_like(tokens), n_logits=n_last)
        logits: torch.Tensor = model.model(input_ids=tokens, **arguments).logits[:, -n_last:]
    return logits


def _with_said(row: Row, said: tuple[int, ...], n_tokens: int) -> Row:
    """A row that has said its first tokens but the last; what is missing is filled, which no earlier token sees."""
    head = (*said, *[0] * n_tokens)[: n_tokens - 1]
    return Row((*row.prompt, *head), row.intervention, row.draw, row.n_drawn + len(head))


class ResponseReader:
    """Reads responses with one model; it keeps what the unsteered one has read of the prompts."""

    def __init__(self, model: SteerableModel) -> None:
        self._model = model
        self.sharing: Sharing = sharing_of(model.model)
        self._places: dict[tuple[int, ...], int] = {}  # of each prompt in what was read of them
        self._trunk: tuple[RowCache, torch.Tensor, torch.Tensor] | None = None

    def read(
        self,
        rows: Sequence[Row],
        said: Said,
        n_tokens: int,
        kept: torch.Tensor | None = None,
        *,
        bare: Sequence[tuple[int, ...]] | None = None,
    ) -> list[Likelihoods]:
        """The likelihoods of the first `n_tokens` of what rows said. `kept`: logits of the steered model for them,
        `[n_rows, n_tokens, vocabulary]`; `None`: it reads them again. `bare`: the prompt of each row as the unsteered
        model is asked it; `None`: in the same way."""
        found: list[Likelihoods] = []
        longest = max((len(row.prompt) for row in rows), default=0) + n_tokens
        is_shared = bare is None and self.sharing.allows(longest)
        if is_shared:
            self._read_prompts(list(dict.fromkeys(row.prompt for row in rows)))
        size = _MOST_LOGITS.get(self._model.device.type, _MOST_LOGITS_ELSEWHERE)
        at_once = max(1, size // n_tokens // text_config(self._model.model).vocab_size)
        for start in range(0, len(rows), at_once):
            some, texts = rows[start : start + at_once], [tokens or () for tokens in said[start : start + at_once]]
            if kept is not None:
                steered = kept[start : start + at_once]
            else:
                again = [_with_said(row, tokens, n_tokens) for row, tokens in zip(some, texts, strict=True)]
                steered = self.logits(again, n_tokens)
            if is_shared:
                unsteered = self._unsteered(some, texts, n_tokens)
            else:
                asked = [row.prompt for row in some] if bare is None else bare[start : start + at_once]
                again = [_with_said(Row(prompt), tokens, n_tokens) for prompt, tokens in zip(asked, texts, strict=True)]
                unsteered = self.logits(again, n_tokens)
            found += compared(steered, unsteered, texts)
        return found

    @torch.inference_mode()
    def logits(self, rows: Sequence[Row], n_last: int) -> torch.Tensor:
        """Logits of what follows each of the last tokens of the rows' prompts, `[n_rows, n_last, vocabulary]`. `rows`:
        with what they have said so far at their prompts' ends (`Row.n_drawn`)."""
        model = self._model
        if self.sharing.allows(max(len(row.prompt) for row in rows)):
            plan = plan_branching(rows, len(model.blocks), model.device)
            tokens, mask = pad(plan.prompts, model.device)
            places = (mask.cumsum(-1) - 1).clamp_min(0)
            arguments = {"position_ids": places, "use_cache": False, "logits_to_keep": n_last}
            with branching(model.blocks, plan):
                shared: torch.Tensor = model.model(input_ids=tokens, attention_mask=mask, **arguments).logits
            return shared[:, -n_last:]
        found: dict[int, torch.Tensor] = {}
        order = sorted(range(len(rows)), key=lambda i: len(rows[i].prompt))
        for _, group in groupby(order, key=lambda i: len(rows[i].prompt)):
            alike = list(group)
            for some in ([i] for i in alike) if self.sharing.n_rows == 1 else [alike]:
                found |= zip(some, _plainly(model, [rows[i] for i in some], n_last), strict=True)
        return torch.stack([found[i] for i in range(len(rows))])

    def next_log_probabilities(self, rows: Sequence[Row], tokens: Sequence[Sequence[int]]) -> list[list[float]]:
        """Of each row's tokens the log-probability as the next one, nats. Raises ValueError: they are not finite."""
        found: list[list[float]] = []
        size = _MOST_LOGITS.get(self._model.device.type, _MOST_LOGITS_ELSEWHERE)
        at_once = max(1, size // text_config(self._model.model).vocab_size)
        for start in range(0, len(rows), at_once):
            some = torch.tensor(tokens[start : start + at_once], device=self._model.device)
            of_all = self.logits(rows[start : start + at_once], 1)[:, -1].float().log_softmax(-1)
            found += of_all.gather(-1, some).tolist()
        if not all(math.isfinite(value) for values in found for value in values):
            raise ValueError(f"{self._model.identity.id}: its logits are NaN or infinite: use a smaller coefficient")
        return found

    @torch.inference_mode()
    def _unsteered(self, rows: Sequence[Row], said: Sequence[tuple[int, ...]], n_tokens: int) -> torch.Tensor:
        if self._trunk is None:
            raise RuntimeError("no prompts were read")
        trunk, mask, first = self._trunk
        device = self._model.device
        places = torch.tensor([self._places[row.prompt] for row in rows], device=device)
        first, mask = first[places], mask[places]
        if n_tokens == 1:
            return first
        width, model = mask.shape[1], self._model.model
        cache = RowCache(text_config(model), len(rows), width + n_tokens - 1)
        cache.take(trunk, places)
        heads = [[*tokens_of, *[0] * n_tokens][: n_tokens - 1] for tokens_of in said]
        output = model(
            input_ids=torch.tensor(heads, device=device),
            attention_mask=torch.cat([mask, mask.new_ones(len(rows), n_tokens - 1)], dim=1),
            position_ids=mask.sum(-1, keepdim=True) + torch.arange(n_tokens - 1, device=device),
            **(with_cache(model, cache) | {"logits_to_keep": n_tokens - 1}),
        )
        return torch.cat([first, output.logits], dim=1)

    @torch.inference_mode()
    def _read_prompts(self, prompts: Sequence[tuple[int, ...]]) -> None:
        """Keep what the unsteered model reads in prompts: its cache, their mask, and the logits of what follows."""
        if set(prompts) <= set(self._places):
            return
        model = self._model.model
        tokens, mask = pad(prompts, self._model.device)
        cache = RowCache(text_config(model), len(prompts), tokens.shape[1])
        cache.begin(len(prompts))
        output = model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp_min(0),
            **with_cache(model, cache),
        )
        self._places = {prompt: place for place, prompt in enumerate(prompts)}
        self._trunk = (cache, mask, output.logits[:, -1:])


def compared(steered: torch.Tensor, unsteered: torch.Tensor, said: Sequence[tuple[int, ...]]) -> Iterator[Likelihoods]:
    """Both models' logits `[n_rows, n_tokens, vocabulary]` as the likelihoods of what was said."""
    _, n_tokens, vocabulary = steered.shape
    at_once = max(1, _COMPARED_AT_ONCE // (n_tokens * vocabulary))
    for start in range(0, len(said), at_once):
        some = slice(start, start + at_once)
        yield from _compared(steered[some], unsteered[some], said[some])


def _compared(steered: torch.Tensor, unsteered: torch.Tensor, said: Sequence[tuple[int, ...]]) -> Iterator[Likelihoods]:
    n_tokens = steered.shape[1]
    tokens = torch.tensor([[*tokens_of, *[0] * n_tokens][:n_tokens] for tokens_of in said], device=steered.device)
    q = unsteered.float().log_softmax(-1)
    picked = q.gather(-1, tokens[..., None])[..., 0]
    for response, kl, of_tokens in zip(said, divergence(steered, q).tolist(), picked.tolist(), strict=True):
        yield Likelihoods(tuple(kl[: len(response)]), tuple(of_tokens[: len(response)]))


def divergence(steered: torch.Tensor, unsteered: torch.Tensor) -> torch.Tensor:
    """KL(steered || unsteered) over the last dimension, nats; of logits, and of log-probabilities."""
    p = steered.float().log_softmax(-1)
    return (p.exp() * (p - unsteered)).sum(-1).clamp_min(0)
