"""Vetting: continuations that do not show what their side should are left out before vectors are made.

trait-interp does the same with the same thresholds (60 and 40); see docs/data.md for what differs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from massact.errors import DataError
from massact.judges.base import Exchange, Judge, Verdict
from massact.pipeline.contrast import Contrast
from massact.pipeline.progress import Progress, silent
from massact.pipeline.splitting import Dropped, Fate, pair_up

_BATCH = 64
"""Continuations handed to the judge at a time, so that one sees how far it is."""


@dataclass(frozen=True, slots=True)
class Vetting:
    """What a judge found of a contrast."""

    verdicts: tuple[Verdict, ...] = field(repr=False)
    """One per prompt, the positive side's first."""
    dropped: tuple[Dropped, Dropped] = field(repr=False)
    """Of each side's prompts: why vetting leaves it out, `None` where it does not."""


def vet(
    contrast: Contrast,
    judge: Judge,
    *,
    positive_at_least: float,
    negative_at_most: float,
    paired: bool,
    progress: Progress = silent,
) -> Vetting:
    """Have every continuation scored, and decide which prompts are left out.

    A judge reads the prompt without its system prompt, which would tell it what to expect. Only the trait
    score counts. A continuation without one is left out as unscored: missing is neither a pass nor a zero.

    Args:
        positive_at_least: trait score, 0 to 100, that a positive prompt's continuation needs.
        negative_at_most: trait score, 0 to 100, that a negative prompt's continuation may have.
        paired: whether prompt i of both sides is left out where either is.

    Raises:
        ValueError: the contrast holds no text for a judge.
        DataError: pairs are wanted of sides that differ in length.
        JudgeError: the judge cannot be used at all.
    """
    if contrast.judged is None:
        raise ValueError("this contrast was continued without a judge in mind")
    positive, negative = contrast.sides
    if paired and len(positive) != len(negative):
        raise DataError(f"{len(positive)} positive and {len(negative)} negative prompts are no pairs")
    exchanges = [
        Exchange(prompt.text, text) for prompt, text in zip(contrast.prompts, contrast.judged, strict=True)
    ]
    verdicts = _score(judge, exchanges, progress)
    dropped = (
        [_why(verdicts[i], lowest=positive_at_least) for i in positive],
        [_why(verdicts[i], highest=negative_at_most) for i in negative],
    )
    if paired:
        dropped = pair_up(*dropped)
    return Vetting(tuple(verdicts), dropped)


def _score(judge: Judge, exchanges: Sequence[Exchange], progress: Progress) -> list[Verdict]:
    verdicts: list[Verdict] = []
    with progress("vetting continuations", len(exchanges)) as advance:
        for start in range(0, len(exchanges), _BATCH):
            batch = exchanges[start : start + _BATCH]
            verdicts += judge.score(batch)
            advance(len(batch))
    return verdicts


def _why(verdict: Verdict, *, lowest: float = 0.0, highest: float = 100.0) -> Fate | None:
    if verdict.trait is None:
        return Fate.UNSCORED
    return None if lowest <= verdict.trait <= highest else Fate.FAILED
