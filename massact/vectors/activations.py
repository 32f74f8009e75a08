"""What becomes of each contrastive prompt: its activations are for training, for validation, or left out."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch

from massact.domain import NEUTRAL_METHOD
from massact.errors import DataError

MIN_TRAIN = 2  # training prompts that a side needs at least


class PromptStatus(StrEnum):
    """What became of a prompt at one window."""

    TRAIN = "train"
    VALIDATION = "validation"
    FAILED = "failed vetting"
    UNSCORED = "unscored"
    PAIR = "pair dropped"  # the other prompt of its pair was left out
    NO_WINDOW = "no token in the window"


LEFT_OUT = (PromptStatus.FAILED, PromptStatus.UNSCORED, PromptStatus.PAIR, PromptStatus.NO_WINDOW)
PromptStatuses = tuple[PromptStatus, ...]
Dropped = Sequence[PromptStatus | None]  # of one side's prompts: why each was left out so far, `None` where it was not
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
    """The fate of every prompt of the positive and the negative side.
    Of what is kept the last share of each side is for validation, so that pairs stay together as long as both sides
    keep as many prompts.
    `dropped`: what vetting left out. `has_window`: whether a prompt's window holds a token. `validation_split`: share
    of each side, 0 to 0.5. `paired`: whether prompt i of one side is left out with prompt i of the other.
    Raises DataError: fewer than two training prompts remain on a side; the message says what fell by what."""
    first, second = (
        [why or (None if there else PromptStatus.NO_WINDOW) for why, there in zip(*side, strict=True)]
        for side in zip(dropped, has_window, strict=True)
    )
    if paired:
        first, second = pair_up(first, second)
    positive, negative = _split(first, validation_split), _split(second, validation_split)
    if min(positive.count(PromptStatus.TRAIN), negative.count(PromptStatus.TRAIN)) < MIN_TRAIN:
        raise DataError(_too_few(positive, negative))
    return positive, negative


def pair_up(positive: Dropped, negative: Dropped) -> tuple[list[PromptStatus | None], list[PromptStatus | None]]:
    """Leave out what belongs to something that is left out."""
    first, second = (
        [why or (PromptStatus.PAIR if other else None) for why, other in zip(side, others, strict=True)]
        for side, others in ((positive, negative), (negative, positive))
    )
    return first, second


def _split(side: Dropped, validation_split: float) -> PromptStatuses:
    n_kept = sum(why is None for why in side)
    n_train = n_kept - round(n_kept * validation_split)
    fates, n_seen = [], 0
    for why in side:
        fates.append(why or (PromptStatus.TRAIN if n_seen < n_train else PromptStatus.VALIDATION))
        n_seen += why is None
    return tuple(fates)


def _too_few(positive: PromptStatuses, negative: PromptStatuses) -> str:
    counts = {fate: (positive.count(fate), negative.count(fate)) for fate in PromptStatus}
    lost = [fate for fate in LEFT_OUT if any(counts[fate])]
    fell = [f"{counts[fate][0]} positive and {counts[fate][1]} negative: {fate}" for fate in lost]
    n_train = counts[PromptStatus.TRAIN]
    return (
        f"{n_train[0]} positive and {n_train[1]} negative prompts remain for training, two of each are needed (of "
        f"{len(positive)} and {len(negative)}; left out: {'; '.join(fell) or 'none'}). What helps: "
        f"{'; '.join(_ADVICE[fate] for fate in lost) or 'more prompts'}"
    )


@dataclass(frozen=True, slots=True)
class Activations:
    """Activations of contrastive prompts averaged over one position window."""

    train: torch.Tensor  # `[n_train, n_layers, d_model]`, float32, the positive side's rows first
    validation: torch.Tensor  # `[n_validation, n_layers, d_model]`, float32, the positive side's rows first
    n_train_positive: int
    n_validation_positive: int
    n_dropped: int  # prompts left out: their window held no token, or vetting dropped them
    neutral: torch.Tensor | None = None
    """`[n_neutral, n_layers, d_model]`, float32, of neutral prompts; `None`: they were not read."""

    def neutral_at(self, layer: int) -> torch.Tensor:
        """Activations of neutral prompts at a layer, `[n_neutral, d_model]`. Raises DataError: they were not read."""
        if self.neutral is None:
            raise DataError(
                f"{NEUTRAL_METHOD} needs activations of neutral prompts, which were not read: write it under "
                "extraction.methods and run massact extract; in Python give massact.extract(…, neutral=[…])"
            )
        return self.neutral[:, layer]

    def sides(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Training activations of the positive and the negative side at a layer, `[n, d_model]` each."""
        rows = self.train[:, layer]
        return rows[: self.n_train_positive], rows[self.n_train_positive :]

    def validation_sides(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The same of the validation split."""
        rows = self.validation[:, layer]
        return rows[: self.n_validation_positive], rows[self.n_validation_positive :]


def split_sides(
    positive: torch.Tensor,
    negative: torch.Tensor,
    validation_split: float,
    *,
    statuses: tuple[PromptStatuses, PromptStatuses] | None = None,
    is_paired: bool = False,
    neutral: torch.Tensor | None = None,
) -> Activations:
    """Leave out prompts without a window, and keep the last share of each side for validation.
    `positive`: `[n, n_layers, d_model]`, NaN rows where the window held no token. `negative`: the same of the other
    side. `validation_split`: share of each side, 0 to 0.5. `statuses`: what becomes of each prompt, where that is
    decided already. `is_paired`: whether prompt i of one side falls with prompt i of the other, where that is not
    decided. `neutral`: the same of neutral prompts, which all are kept but those without a window; `None`: not read.
    Raises DataError: fewer than two training prompts remain on a side, or no neutral one."""
    if neutral is not None:
        neutral = neutral[has_window(neutral)]
        if not len(neutral):
            raise DataError(f"no neutral prompt has a token in the window, as {NEUTRAL_METHOD} needs: use a wider one")
    sides = (positive, negative)
    if statuses is None:
        nothing = [None] * len(positive), [None] * len(negative)
        there = has_window(positive), has_window(negative)
        statuses = decide_statuses(nothing, there, validation_split, paired=is_paired)
    train, validation = (
        [side[[status is part for status in own]] for side, own in zip(sides, statuses, strict=True)]
        for part in (PromptStatus.TRAIN, PromptStatus.VALIDATION)
    )
    n_kept = sum(len(rows) for rows in (*train, *validation))
    return Activations(
        train=torch.cat(train).contiguous(),
        validation=torch.cat(validation).contiguous(),
        n_train_positive=len(train[0]),
        n_validation_positive=len(validation[0]),
        n_dropped=len(positive) + len(negative) - n_kept,
        neutral=neutral,
    )


def has_window(rows: torch.Tensor) -> list[bool]:
    """Whether each prompt's window held a token: `rows` is `[n, n_layers, d_model]`, NaN where it did not."""
    return list((~rows.isnan().flatten(1).any(dim=1)).tolist())
