"""Steered generation: rows of one batch may carry different prompts, vectors, layers and coefficients.

A grid of cells is therefore one batch. Rows are left-padded; rows that have ended leave the batch.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from massact.domain import Generation
from massact.models.hooks import steer
from massact.models.load import SteerableModel

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Push:
    """What is added to one row's residual stream at one layer."""

    layer: int
    vector: torch.Tensor
    """Unit vector `[d_model]`, float32."""
    coefficient: float


@dataclass(frozen=True, slots=True)
class Row:
    """One response to be generated."""

    prompt: tuple[int, ...]
    push: Push | None = None
    """`None` leaves the model as it is."""
    draw: int = 0
    """Distinguishes the random draws of rows that share a seed; the index of the question."""


def generate(
    model: SteerableModel,
    rows: Sequence[Row],
    settings: Generation,
    *,
    batch_rows: int,
    progress: Progress | None = None,
) -> list[tuple[int, ...]]:
    """Response tokens of every row, in order, without the token that ended them.

    Args:
        model: the model to steer.
        rows: what to generate.
        settings: greedy where the temperature is 0, else sampled with the seed and each row's draw.
        batch_rows: how many rows are generated side by side at most.
        progress: called with the number of rows that a batch has finished.
    """
    responses: list[tuple[int, ...]] = []
    for start in range(0, len(rows), batch_rows):
        batch = rows[start : start + batch_rows]
        responses.extend(_Batch(model, batch, settings).run())
        if progress is not None:
            progress(len(batch))
    return responses


class _Batch:
    """Rows that are generated side by side; `live` holds the indices of those that have not ended."""

    def __init__(self, model: SteerableModel, rows: Sequence[Row], settings: Generation) -> None:
        from transformers import DynamicCache

        self.model = model
        self.settings = settings
        self.tokens, self.mask = _left_pad(model, rows)
        self.additions = _additions(rows, model.shape.d_model, model.device)
        self.draws = _draws(rows, settings, model.device) if settings.temperature > 0 else None
        self.ends = torch.tensor(sorted(model.end_tokens), device=model.device)
        self.cache = DynamicCache(config=model.model.config)
        self.live = torch.arange(len(rows), device=model.device)
        self.written = torch.full((len(rows), settings.max_new_tokens), -1, device=model.device)

    @torch.inference_mode()
    def run(self) -> list[tuple[int, ...]]:
        positions = (self.mask.cumsum(-1) - 1).clamp_min(0)
        inputs = self.tokens
        with steer(self.model.blocks, self.additions):
            for step in range(self.settings.max_new_tokens):
                chosen = self._choose(self._logits(inputs, positions), step)
                self.written[self.live, step] = chosen
                going = ~torch.isin(chosen, self.ends)
                n_going = int(going.sum())
                if n_going == 0:
                    break
                if n_going < len(going):
                    self._keep(going.nonzero().flatten())
                    chosen, positions = chosen[going], positions[going]
                inputs, positions = chosen[:, None], positions[:, -1:] + 1
                self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], dim=1)
        return [self._response(row) for row in self.written.tolist()]

    def _logits(self, inputs: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        output = self.model.model(
            input_ids=inputs,
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: torch.Tensor = output.logits[:, -1].float()
        return logits

    def _choose(self, logits: torch.Tensor, step: int) -> torch.Tensor:
        if self.draws is None:
            return logits.argmax(-1)
        # inverse of the cumulative distribution: one uniform draw per row and step, whatever the batch
        cumulative = (logits / self.settings.temperature).softmax(-1).cumsum(-1)
        draw = self.draws[self.live, step : step + 1] * cumulative[:, -1:]
        return torch.searchsorted(cumulative, draw).flatten().clamp_max(logits.shape[-1] - 1)

    def _keep(self, rows: torch.Tensor) -> None:
        self.live, self.mask = self.live[rows], self.mask[rows]
        self.cache.batch_select_indices(rows)
        for layer, addition in self.additions.items():
            self.additions[layer] = addition[rows]

    def _response(self, tokens: list[int]) -> tuple[int, ...]:
        end = next((i for i, token in enumerate(tokens) if token < 0 or token in self.model.end_tokens), None)
        return tuple(tokens[:end])


def _left_pad(model: SteerableModel, rows: Sequence[Row]) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(len(row.prompt) for row in rows)
    tokens = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        tokens[i, width - len(row.prompt) :] = torch.tensor(row.prompt)
        mask[i, width - len(row.prompt) :] = 1
    return tokens.to(model.device), mask.to(model.device)


def _additions(rows: Sequence[Row], d_model: int, device: torch.device) -> dict[int, torch.Tensor]:
    additions: dict[int, torch.Tensor] = {}
    for i, push in _pushes(rows):
        if push.layer not in additions:
            additions[push.layer] = torch.zeros(len(rows), 1, d_model)
        additions[push.layer][i, 0] = push.coefficient * push.vector.float().cpu()
    return {layer: addition.to(device) for layer, addition in additions.items()}


def _pushes(rows: Sequence[Row]) -> Iterator[tuple[int, Push]]:
    return ((i, row.push) for i, row in enumerate(rows) if row.push is not None)


def _draws(rows: Sequence[Row], settings: Generation, device: torch.device) -> torch.Tensor:
    draws = [
        torch.rand(
            settings.max_new_tokens,
            generator=torch.Generator().manual_seed(settings.seed * 1_000_003 + row.draw),
        )
        for row in rows
    ]
    return torch.stack(draws).to(device)
