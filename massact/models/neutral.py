"""How far steering moves the model on prompts that ask for nothing: KL over the first tokens of neutral answers."""

from collections.abc import Sequence
from pathlib import Path

from massact.config import CalibrationConfig
from massact.domain import Generation
from massact.models.generate import Generator
from massact.models.load import SteerableModel
from massact.models.prompting import Intervention, Row, encode_chat
from massact.models.reading import ResponseReader

N_PROMPTS, N_TOKENS = 8, 4
"""Prompts, and tokens of the unsteered model's answers, of which the distributions are compared."""


class NeutralPrompts:
    """The unsteered model's answers to neutral prompts, which are forced upon it steered."""

    def __init__(self, model: SteerableModel) -> None:
        self._model, self._reader = model, ResponseReader(model)
        self._prompts: list[tuple[int, ...]] = []
        self._said: list[tuple[int, ...]] = []

    def kl(self, generator: Generator, interventions: Sequence[Intervention | None]) -> list[tuple[float, ...]]:
        """Of each intervention the mean KL(steered || unsteered) over the answer to each prompt, nats."""
        if not self._prompts:
            texts = Path(CalibrationConfig().prompts).read_text(encoding="utf-8").splitlines()[:N_PROMPTS]
            self._prompts = [encode_chat(self._model, text) for text in texts]
            self._said = generator.generate([Row(prompt) for prompt in self._prompts], Generation(N_TOKENS))
        rows = [Row(prompt, intervention) for intervention in interventions for prompt in self._prompts]
        read = self._reader.read(generator.opened(rows), self._said * len(interventions), N_TOKENS)
        means = [sum(reading.kl) / len(reading.kl) if reading.kl else None for reading in read]
        n = len(self._prompts)
        return [
            tuple(mean for mean in means[start : start + n] if mean is not None) for start in range(0, len(means), n)
        ]
