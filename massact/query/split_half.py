"""Whether the winner is the same for one half of the questions and for the other."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import TYPE_CHECKING

from massact.domain import Direction
from massact.query.rows import SettingRow
from massact.query.same_vector import Side, is_one
from massact.query.selection import Stratum
from massact.query.stats.paired import QuestionScores

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]

N_SPLITS = 200
"""Ways to halve the questions that are looked at, at most; all of them where there are no more."""
LEAST_QUESTIONS = 4
_SEED = 20_251_109


@dataclass(frozen=True, slots=True, kw_only=True)
class HalvesRow(SettingRow):
    """One model, trait and position: which label wins on halves of its questions, everything picked anew."""

    model: str
    trait: str
    position: str
    floor: float
    """Least coherence that counts, of each half by itself, 0 to 100."""
    n_questions: int
    n_splits: int
    agreement: float
    """Share of the splits whose two halves have the same winner, 0 to 1."""
    winner: str | None
    """The label that wins on most halves; `None`: nothing is coherent on most of them."""
    share: float
    """Share of the halves that it wins, 0 to 1."""
    runner_up: str | None = None
    runner_up_share: float = 0.0
    judge: str | None = None
    direction: Direction | None = None
    setting: str | None = None
    baseline_trait_mean: float | None = None


def halves(all_strata: Iterable[Stratum], *, floor: float, scores: QuestionScores) -> tuple[HalvesRow, ...]:
    """The winners on halves of the questions, where the store has scores by question.

    Args:
        floor: least mean coherence that counts, 0 to 100.
        scores: of all evaluations, incoherent ones too.
    """
    found = (_row(stratum, floor, scores) for stratum in all_strata if stratum.slices)
    return tuple(row for row in found if row is not None)


def _row(stratum: Stratum, floor: float, scores: QuestionScores) -> HalvesRow | None:
    import numpy as np

    labels: list[str] = []
    deltas, coherences = [], []
    for label, part in sorted(stratum.slices.items()):
        run_ids = part.points.runs_with_delta()
        of_label, coherence = scores.deltas(part, run_ids), scores.coherences(run_ids)
        if of_label is None or coherence is None:
            continue
        labels += [label] * len(run_ids)
        deltas.append(of_label)
        coherences.append(coherence)
    if not labels or deltas[0].shape[1] < LEAST_QUESTIONS:
        return None
    n_questions = deltas[0].shape[1]
    first = np.array(list(_splits(n_questions)))
    pairs = [
        _winners(labels, np.concatenate(deltas), np.concatenate(coherences), half, floor)
        for half in (first, ~first)
    ]
    won = Counter(pairs[0] + pairs[1])
    one = _of_one_vector(stratum, floor, [label for label, _ in won.most_common() if label is not None])
    pairs = [[one.get(label, label) for label in half] for half in pairs]
    (winner, n), *rest = Counter(pairs[0] + pairs[1]).most_common(2)
    n_splits = len(first)
    return HalvesRow(
        **stratum.fields(),
        floor=floor,
        n_questions=n_questions,
        n_splits=n_splits,
        agreement=sum(a == b for a, b in zip(*pairs, strict=True)) / n_splits,
        winner=winner,
        share=n / (2 * n_splits),
        runner_up=rest[0][0] if rest else None,
        runner_up_share=rest[0][1] / (2 * n_splits) if rest else 0.0,
    )


def _of_one_vector(stratum: Stratum, floor: float, labels: Sequence[str]) -> dict[str | None, str]:
    """By label the first of those whose best is of the same vector."""
    firsts: list[Side] = []
    found: dict[str | None, str] = {}
    for label in labels:
        if (best := stratum.best(label, floor)) is not None:
            side = Side(label, best, stratum.slices[label].points)
            firsts.append(next((first for first in firsts if is_one(first, side)), side))
            found[label] = firsts[-1].label
    return found


def _splits(n: int) -> Iterator[list[bool]]:
    """The first half of each split; of an odd number the half is the smaller one."""
    import numpy as np

    if comb(n, n // 2) <= 2 * N_SPLITS:
        chosen: Iterable[Iterable[int]] = combinations(range(n), n // 2)
        if n % 2 == 0:  # the other half of each of these comes by itself
            chosen = (one for one in combinations(range(n), n // 2) if one[0] == 0)
    else:
        rng = np.random.default_rng(_SEED)
        chosen = (rng.permutation(n)[: n // 2].tolist() for _ in range(N_SPLITS))
    for some in chosen:
        members = set(some)
        yield [index in members for index in range(n)]


def _winners(
    labels: list[str], deltas: "Numbers", coherences: "Numbers", half: "NDArray[np.bool_]", floor: float
) -> list[str | None]:
    """The label of the best coherent evaluation on each half `[n_splits, n_questions]`."""
    import numpy as np

    scored = ~np.isnan(deltas) & ~np.isnan(coherences)
    weights = half.T.astype(float)
    counts = scored @ weights
    with np.errstate(divide="ignore", invalid="ignore"):
        delta = (np.where(scored, deltas, 0.0) @ weights) / counts
        coherence = (np.where(scored, coherences, 0.0) @ weights) / counts
    delta = np.where((counts > 0) & (coherence >= floor), delta, -np.inf)
    best = delta.argmax(axis=0)
    return [
        labels[index] if np.isfinite(delta[index, split]) else None
        for split, index in enumerate(best.tolist())
    ]
