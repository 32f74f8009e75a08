"""Generating rows of one length by transformers' own `generate`: its cache, its positions, no padding.

The way of models that keep other things than keys (state spaces, linear attention, convolutions), that count positions
from the left, or that were never held against transformers; and of rows beyond a length from which a model reads a
token differently for how long its row is.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from massact.domain import Generation
from massact.models.blocks import steer
from massact.models.decode import Enough, choose, draws_of, edits_of, end_tokens, is_end, steered_of
from massact.models.load import SteerableModel
from massact.models.prompting import Row


def generate_plainly(
    model: SteerableModel, rows: Sequence[Row], settings: Generation, enough: Enough | None = None
) -> torch.Tensor:
    """What rows say, as `Batch.written`. A row that has ended, or says enough, goes on unread until all have. `rows`:
    of prompts of one length."""
    prompts = torch.tensor([row.prompt for row in rows], device=model.device)
    choice = _Choice(model, rows, settings, enough)
    n_prompt, edits = prompts.shape[1], edits_of(rows, model.device)
    steered = steered_of(rows, n_prompt, n_prompt + settings.max_new_tokens, model.device)

    def edit(layer: int, stream: torch.Tensor) -> torch.Tensor:
        end = n_prompt + choice.n_chosen
        return edits[layer](stream, None if steered is None else steered[:, end - stream.shape[1] : end])

    _reset_ropes(model.model)
    with steer(model.blocks, {layer: partial(edit, layer) for layer in edits}), _no_settings(model.model):
        model.model.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            max_new_tokens=settings.max_new_tokens,
            do_sample=False,
            use_cache=True,
            logits_processor=LogitsProcessorList([choice]),
            stopping_criteria=StoppingCriteriaList([_AllEnded(choice)]),
        )
    return choice.written


class _Choice(LogitsProcessor):
    """Chooses tokens as everywhere here, and leaves transformers nothing else to choose."""

    def __init__(self, model: SteerableModel, rows: Sequence[Row], settings: Generation, enough: Enough | None) -> None:
        self._settings, self._ends, self._enough = settings, end_tokens(model), enough
        self._draws = draws_of(rows, settings, model.device)
        self.n_chosen = 0
        self.written = torch.full((len(rows), settings.max_new_tokens), -1, device=model.device)
        self.ended = torch.zeros(len(rows), dtype=torch.bool, device=model.device)

    def __call__(self, _input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        step = torch.tensor([self.n_chosen], device=scores.device)
        chosen = choose(scores[:, None], self._draws, self._settings, step)
        self.written[:, self.n_chosen] = chosen
        self.ended |= is_end(chosen, self._ends)
        self.n_chosen += 1
        if self._enough is not None:
            self.ended |= self._enough(self.written).to(self.ended.device)
        return scores.scatter_(1, chosen.clamp_min(0)[:, None], torch.inf)  # a copy of transformers' own


class _AllEnded(StoppingCriteria):
    def __init__(self, choice: _Choice) -> None:
        self._choice = choice

    def __call__(self, input_ids: torch.Tensor, _scores: Any, **_: Any) -> torch.Tensor:
        return self._choice.ended.all().expand(len(input_ids))


@contextmanager
def _no_settings(model: Any) -> Iterator[None]:
    """Without what the checkpoint's generation_config.json asks for, which `generate` would fill in."""
    asked, model.generation_config = model.generation_config, GenerationConfig()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        model.generation_config = asked


def _reset_ropes(model: torch.nn.Module) -> None:
    """Forget how long a row was read before: dynamic rotary embeddings keep the frequencies of the longest one."""
    part: Any
    for part in model.modules():
        if getattr(part, "max_seq_len_cached", 0) > getattr(part, "original_max_seq_len", torch.inf):
            part.inv_freq = part.original_inv_freq.to(part.inv_freq.device)
            part.max_seq_len_cached = part.original_max_seq_len
