"""A judge that is a causal language model in this process: `hf:MODEL`, or `self`, the steered model unsteered.

It is asked what an API judge is asked, in the model's own chat template, and its answer is never written out. Where
the tokenizer has a token for every integer, the 20 most probable tokens of the answer's first position go through
`massact.judges.reading.read_weights`, as those of a server do. Where it takes several tokens for one (Gemma and
Qwen write a digit a token), the integers' own probabilities do; `massact.judges.integers` has the formula. A blank
that the answer begins with is passed over. Scores are rounded to `DECIMALS`, and do not depend on the batch beyond
the rounding of the dtype.
"""

import math
from collections.abc import Iterable, Sequence

from massact.domain import JudgeIdentity
from massact.judges.answers import Answer, Answerer
from massact.judges.base import Exchange, Verdict
from massact.judges.reading import Reading, read_weights
from massact.judges.rubric import Rubric
from massact.judges.source import ModelSource
from massact.judges.usage import Usage
from massact.keys import digest
from massact.models.load import SteerableModel
from massact.models.prompting import encode_question
from massact.models.turns import turn

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
