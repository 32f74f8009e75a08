"""What becomes of each contrastive prompt: training, validation, or left out, and why."""

from collections import Counter
from collections.abc import Sequence
from enum import StrEnum

from massact.errors import DataError

MIN_TRAIN = 2
"""Training prompts that a side needs at least."""


class PromptStatus(StrEnum):
    """What became of a prompt at one window."""

    TRAIN = "train"
    VALIDATION = "validation"
    FAILED = "failed vetting"
    UNSCORED = "unscored"
    PAIR = "pair dropped"
    """The other prompt of its pair was left out."""
    NO_WINDOW = "no token in the window"


LEFT_OUT = (PromptStatus.FAILED, PromptStatus.UNSCORED, PromptStatus.PAIR, PromptStatus.NO_WINDOW)
PromptStatuses = tuple[PromptStatus, ...]
Dropped = Sequence[PromptStatus | None]
"""Of one side's prompts: why each was left out so far, `None` where it was not."""
_ADVICE = {
    PromptStatus.FAILED: "lower extraction.vetting.positive_at_least or raise negative_at_most, or write clearer "
    "prompts",
    PromptStatus.UNSCORED: "see what the judge makes of plain texts (massact judge-check)",
    PromptStatus.PAIR: "use extraction.vetting.filter: independent",
    PromptStatus.NO_WINDOW: "use a wider window or more prompts, since continuations ended before the position window",
}


def decide_statuses(
    dropped: tuple[Dropped, Dropped],
    has_window: tuple[Sequence[bool], Sequence[bool]],
    validation_split: float,
    *,
    paired: bool = False,
) -> tuple[PromptStatuses, PromptStatuses]:
    """The status of every prompt of the positive and the negative side.

    Of what is kept the last share of each side is for validation, so that pairs stay together as long as
    both sides keep as many prompts.

    Args:
        dropped: what vetting left out.
        has_window: whether a prompt's window holds a token.
        validation_split: share of each side, 0 to 0.5.
        paired: whether prompt i of one side is left out with prompt i of the other.

    Raises:
        DataError: fewer than two training prompts remain on a side; the message says what fell by what.
    """
    first, second = (
        [why or (None if there else PromptStatus.NO_WINDOW) for why, there in zip(*one, strict=True)]
        for one in zip(dropped, has_window, strict=True)
    )
    if paired:
        first, second = pair_up(first, second)
    positive, negative = _split(first, validation_split), _split(second, validation_split)
    if min(positive.count(PromptStatus.TRAIN), negative.count(PromptStatus.TRAIN)) < MIN_TRAIN:
        raise DataError(_too_few(positive, negative))
    return positive, negative


def pair_up(
    positive: Dropped, negative: Dropped
) -> tuple[list[PromptStatus | None], list[PromptStatus | None]]:
    """Leave out what belongs to something that is left out."""
    return _with_partner(positive, negative), _with_partner(negative, positive)


def _with_partner(side: Dropped, others: Dropped) -> list[PromptStatus | None]:
    return [why or (PromptStatus.PAIR if other else None) for why, other in zip(side, others, strict=True)]


def _split(side: Dropped, validation_split: float) -> PromptStatuses:
    n_kept = sum(why is None for why in side)
    n_train = n_kept - round(n_kept * validation_split)
    statuses, n_seen = [], 0
    for why in side:
        statuses.append(why or (PromptStatus.TRAIN if n_seen < n_train else PromptStatus.VALIDATION))
        n_seen += why is None
    return tuple(statuses)


def _too_few(positive: PromptStatuses, negative: PromptStatuses) -> str:
    counts = Counter(
        (side, status)
        for side, statuses in (("positive", positive), ("negative", negative))
        for status in statuses
    )
    fell = [
        f"{counts['positive', status]} positive and {counts['negative', status]} negative: {status}"
        for status in LEFT_OUT
        if counts["positive", status] or counts["negative", status]
    ]
    advice = [
        text for status, text in _ADVICE.items() if counts["positive", status] or counts["negative", status]
    ]
    n_positive, n_negative = (side.count(PromptStatus.TRAIN) for side in (positive, negative))
    return (
        f"{n_positive} positive and {n_negative} negative prompts remain for training, "
        f"two of each are needed (of {len(positive)} and {len(negative)}; left out: {'; '.join(fell) or 'none'}). "
        f"What helps: {'; '.join(advice) or 'more prompts'}"
    )
