"""Giving up on a hopeless cell after a part of its questions, by a test that a cell which could still win passes."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from massact.domain import DEFAULT_CONFIDENCE, Response, Timing
from massact.evaluation import Evaluation

LEAST_SPREAD = 10.0
"""Standard deviation of coherence over questions that is allowed for at least, in points: alike answers may be luck."""


@dataclass(frozen=True, slots=True)
class Screening:
    """How a cell is looked at before it is given all of its questions."""

    n_first: int
    """Questions that are asked first, from the first on."""
    floor: float
    """Least mean coherence that counts, 0 to 100."""
    confidence: float = DEFAULT_CONFIDENCE
    """Chance that a cell which is at or above the floor over all questions is not given up."""


@dataclass(frozen=True, slots=True)
class StoppedCell:
    """A cell that was given up."""

    evaluation: Evaluation
    """Of the questions that were asked."""
    reason: str


def coherence_bound(coherences: Sequence[float], n_questions: int, confidence: float) -> float:
    """The greatest mean coherence over all questions that the first ones leave room for.

    A one-sided prediction bound for a mean over a finite population, of which k of n are known: m + t s
    sqrt(1/k - 1/n), with Student's t of k - 1 degrees of freedom at that confidence (Cochran, "Sampling
    Techniques", 1977, section 2.8). s is no less than `LEAST_SPREAD`. Never more than what is reached if every
    other question scores 100.

    Args:
        coherences: of the k questions asked, at least two.
    """
    from scipy.special import stdtrit

    k, mean = len(coherences), statistics.fmean(coherences)
    certain = (math.fsum(coherences) + 100 * (n_questions - k)) / n_questions
    spread = max(statistics.stdev(coherences), LEAST_SPREAD)
    bound = mean + float(stdtrit(k - 1, confidence)) * spread * math.sqrt(1 / k - 1 / n_questions)
    return min(bound, certain)


def stop_reason(responses: Sequence[Response], n_questions: int, screening: Screening) -> str | None:
    """Why a cell is hopeless; `None` where it could still be coherent, or a response was not scored."""
    coherences = [one.coherence for one in responses if one.coherence is not None]
    if len(coherences) < max(2, len(responses)):
        return None
    bound = coherence_bound(coherences, n_questions, screening.confidence)
    if bound >= screening.floor:
        return None
    return (
        f"coherence {statistics.fmean(coherences):.1f} over the first {len(coherences)} of {n_questions} questions: "
        f"over all of them it is at most {bound:.1f} (confidence {screening.confidence:g}), below the floor of "
        f"{screening.floor:g}"
    )


def joined(first: Evaluation, rest: Evaluation) -> Evaluation:
    """One evaluation of a cell whose questions were asked in two parts."""
    a, b = first.timing, rest.timing
    timing = Timing(
        a.generation_seconds + b.generation_seconds,
        a.judge_seconds + b.judge_seconds,
        a.n_tokens + b.n_tokens,
    )
    return Evaluation(first.planned, first.responses + rest.responses, timing)
