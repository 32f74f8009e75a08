"""The judge `choices`: how likely the model itself finds the answer that matches the trait; no judging model, no text.

The log-odds of the matching answer against the other are taken with the choices as they stand and swapped, and their
mean is what counts: what the model has for (A), or for the first choice, whatever it says, cancels. CAA
(arXiv:2312.06681) asks in one order.
"""

import math
import re
from collections.abc import Sequence

from massact.config import JudgeConfig
from massact.domain import JudgeIdentity
from massact.judges import Exchange, Subject, Usage, Verdict
from massact.keys import digest

VERSION = 1  # raised with every change of how answers are scored
_NUMBER = r"(-?\d+\.\d+)"
_ANSWER = re.compile(rf"log p, matching and other: {_NUMBER}, {_NUMBER}; swapped: {_NUMBER}, {_NUMBER}")


def choice_text(as_asked: Sequence[float], swapped: Sequence[float]) -> str:
    """What stands for the response: log-probabilities of the matching answer and the other, in both orders, nats."""
    (a, b), (c, d) = as_asked, swapped
    return f"log p, matching and other: {a:.6f}, {b:.6f}; swapped: {c:.6f}, {d:.6f}"


class ChoicesJudge:
    """Scores what `choice_text` wrote; `massact.judges.Judge`. The trait score is the probability of the matching
    answer, one of the two, in percent; coherence the share of all probability that both have together, a mean over the
    orders: what is left of it the model would say instead."""

    identity = JudgeIdentity("choices", "log-odds", digest({"version": VERSION}))

    def __init__(self) -> None:
        self.usage = Usage()

    def prepare(self) -> None:
        return

    def score(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
        """The verdict of each exchange."""
        return [_verdict(one.response) for one in exchanges]


def _verdict(response: str) -> Verdict:
    found = _ANSWER.fullmatch(response.strip())
    if found is None:
        return Verdict(None, None, "no probabilities of two answers: the judge choices reads no text")
    matching, other, swapped_matching, swapped_other = map(float, found.groups())
    odds = (matching - other + swapped_matching - swapped_other) / 2
    mass = sum(map(math.exp, (matching, other, swapped_matching, swapped_other))) / 2
    return Verdict(100 / (1 + math.exp(max(-700.0, min(700.0, -odds)))), min(100.0, 100 * mass))


def open_choices_judge(_config: JudgeConfig, _subject: Subject) -> ChoicesJudge:
    """See `massact.judges.open_judge`."""
    return ChoicesJudge()
