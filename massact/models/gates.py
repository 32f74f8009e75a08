"""Gates: which rows of a batch are steered, told by their prompts (CAST, arXiv:2409.05907)."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from massact.domain import Gate
from massact.models.blocks import record
from massact.models.load import SteerableModel
from massact.models.prompting import Row
from massact.models.support import reading_arguments
from massact.vectors.positions import parse_position


class GateReader:
    """Opens the gates of a model's rows; what it has read of a prompt it keeps. A prompt is read alone and unsteered,
    so that whether a gate is open to it hangs on nothing else, and a row to which it is closed is the baseline's, bit
    for bit."""

    def __init__(self, model: SteerableModel) -> None:
        self._model = model
        self._read: dict[tuple[int, str, tuple[int, ...]], torch.Tensor] = {}

    def opened(self, rows: Sequence[Row]) -> list[Row]:
        """The rows, unsteered where their gate is closed."""
        return [row if self._is_open(row) else replace(row, intervention=None) for row in rows]

    def _is_open(self, row: Row) -> bool:
        intervention = row.intervention
        if intervention is None or intervention.gate is None or intervention.condition is None:
            return True
        gate, mean = intervention.gate, self._mean(intervention.gate, row.prompt[: len(row.prompt) - row.n_drawn])
        value = float(mean @ intervention.condition.float().cpu() / (mean.norm() if gate.measure == "cosine" else 1.0))
        # NaN, where the window has no token, opens none
        return value >= gate.threshold if gate.opens == "above" else value <= gate.threshold

    def _mean(self, gate: Gate, prompt: tuple[int, ...]) -> torch.Tensor:
        """The mean stream `[d_model]` over a gate's window of a prompt, float32 on the CPU."""
        place = (gate.layer, gate.position, prompt)
        if place not in self._read:
            tokens, streams = torch.tensor([prompt], device=self._model.device), dict[int, torch.Tensor]()
            with torch.inference_mode(), record(self._model.blocks, streams.__setitem__):
                self._model.model(input_ids=tokens, **reading_arguments(self._model.model, torch.ones_like(tokens)))
            window = parse_position(gate.position).tokens(len(prompt), len(prompt))
            self._read[place] = streams[gate.layer][0, window].float().mean(0).cpu()
        return self._read[place]
