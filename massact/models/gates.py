"""Gates: which rows of a batch are steered, told by their prompts (CAST, arXiv:2409.05907)."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from massact.models.blocks import record
from massact.models.load import SteerableModel
from massact.models.prompting import Intervention, Row
from massact.models.support import reading_arguments
from massact.vectors.positions import parse_position


class GateReader:
    """Opens the gates of a model's rows; what it has read of a prompt it keeps.

    A prompt is read alone and unsteered, so that whether a gate is open to it hangs on nothing else, and a row to which
    it is closed is the baseline's, bit for bit.
    """

    def __init__(self, model: SteerableModel) -> None:
        self._model = model
        self._read: dict[tuple[int, str, tuple[int, ...]], torch.Tensor] = {}

    def opened(self, rows: Sequence[Row]) -> list[Row]:
        """The rows, unsteered where their gate is closed."""
        return [row if self._is_open(row) else replace(row, intervention=None) for row in rows]

    def _is_open(self, row: Row) -> bool:
        one = row.intervention
        if one is None or one.gate is None:
            return True
        value = gate_value(one, self._mean(one, row.prompt[: len(row.prompt) - row.n_drawn]))
        return value >= one.gate.threshold if one.gate.opens == "above" else value <= one.gate.threshold

    def _mean(self, one: Intervention, prompt: tuple[int, ...]) -> torch.Tensor:
        """The mean stream `[d_model]` over the gate's window of a prompt, float32 on the CPU."""
        assert one.gate is not None
        place = (one.gate.layer, one.gate.position, prompt)
        if place not in self._read:
            tokens, streams = torch.tensor([prompt], device=self._model.device), dict[int, torch.Tensor]()
            with torch.inference_mode(), record(self._model.blocks, streams.__setitem__):
                self._model.model(input_ids=tokens, **reading_arguments(self._model.model, torch.ones_like(tokens)))
            window = parse_position(one.gate.position).tokens(len(prompt), len(prompt))
            self._read[place] = streams[one.gate.layer][0, window].float().mean(0).cpu()
        return self._read[place]


def gate_value(one: Intervention, mean: torch.Tensor) -> float:
    """What is held against the threshold of a row's gate; NaN, which opens none, where the window has no token."""
    assert one.gate is not None
    assert one.condition is not None
    along = mean @ one.condition.float().cpu()
    return float(along / mean.norm() if one.gate.measure == "cosine" else along)
