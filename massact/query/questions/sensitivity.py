"""Which label wins at every coherence floor from 60 to 80, and where the winner flips."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby, pairwise
from math import comb
from typing import ClassVar, Unpack

from massact._lazy import Mask, Numbers, np
from massact.domain import floor_warning
from massact.errors import UsageError
from massact.query import tables
from massact.query.answers import Answers
from massact.query.groups import ComparableGroups, Side, slices, strata, told_apart, usual_notes
from massact.query.load import AtManyFloors, Needs
from massact.query.question import pattern, question
from massact.query.rows import Answer, Column, GroupRow, Point, Status
from massact.query.same_vector import is_one
from massact.query.stats.paired import QuestionScores

# halves of the questions

N_SPLITS = 200  # ways to halve the questions that are looked at, at most; all of them where there are no more
LEAST_QUESTIONS = 4
_SEED = 20_251_109
_SAME = 1e-9  # points within which two means are one: sums of the same scores in another order differ by rounding


@dataclass(frozen=True, slots=True, kw_only=True)
class HalvesRow(GroupRow):
    """One model, trait and position: which label wins on halves of its questions, everything picked anew."""

    columns: ClassVar[tuple[Column, ...]] = (
        *tables.PLACE,
        tables.number_column("agreement", ".0%", "halves agree"),
        tables.text_column("winner", "most often best"),
        tables.number_column("share", ".0%", "of halves"),
        tables.text_column("runner_up", "then"),
        tables.number_column("runner_up_share", ".0%", "of halves"),
        tables.number_column("floor", "g", is_shared=True),
        tables.number_column("n_splits", "d", "splits", is_optional=True),
        *tables.SETTING,
    )

    floor: float
    """Least coherence that counts, of each half by itself, 0 to 100."""
    n_questions: int
    n_splits: int
    agreement: float
    """Share of the splits whose two halves have the same winner, 0 to 1: how far the questions agree, and no chance
    that the winner is the best label."""
    winner: str | None
    """The label that wins on most halves; `None`: nothing is coherent on most of them."""
    share: float
    """Share of the halves that it wins, 0 to 1; no chance either: halves of the same questions share their luck, so
    that of labels that are alike one may win most of them."""
    runner_up: str | None = None
    runner_up_share: float = 0.0


def halves(all_strata: Iterable[ComparableGroups], *, floor: float, scores: QuestionScores) -> tuple[HalvesRow, ...]:
    """The winners on halves of the questions; `scores` are of all evaluations, incoherent ones too."""
    found = (_halves_row(stratum, floor, scores) for stratum in all_strata if stratum.slices)
    return tuple(row for row in found if row is not None)


def _halves_row(stratum: ComparableGroups, floor: float, scores: QuestionScores) -> HalvesRow | None:
    found, ties = [], list[tuple[float, float, bool, str, str]]()
    for label, part in stratum.slices.items():
        points = part.points.with_delta()
        of_label, coherence = scores.deltas(part, points.run_ids()), scores.coherences(points.run_ids())
        if of_label is None or coherence is None:
            continue
        found.append((of_label, coherence))
        ties += [(size, layer, taken, label, key) for size, layer, taken, key in points.ties()]
    if not ties or found[0][0].shape[1] < LEAST_QUESTIONS:
        return None
    order = sorted(range(len(ties)), key=ties.__getitem__)  # of equal deltas the first is the best
    labels = [ties[index][3] for index in order]
    deltas, coherences = (np.concatenate(some)[order] for some in zip(*found, strict=True))
    n_questions = deltas.shape[1]
    first = np.array(list(_splits(n_questions)))
    pairs = [_winners(labels, deltas, coherences, half, floor) for half in (first, ~first)]
    won = Counter(pairs[0] + pairs[1])
    of_one = _of_one_vector(stratum, floor, [label for label, _ in won.most_common() if label is not None])
    pairs = [[of_one.get(label, label) for label in half] for half in pairs]
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


def _of_one_vector(stratum: ComparableGroups, floor: float, labels: Sequence[str]) -> dict[str | None, str]:
    """By label the first of those whose best is of the same vector."""
    firsts: list[Side] = []
    found: dict[str | None, str] = {}
    for label in labels:
        if (best := stratum.best(label, floor)) is not None:
            side = stratum.side(label, best)
            firsts.append(next((first for first in firsts if is_one(first, side)), side))
            found[label] = firsts[-1].label
    return found


def _splits(n: int) -> Iterator[list[bool]]:
    """The first half of each split; of an odd number the half is the smaller one."""
    if comb(n, n // 2) <= 2 * N_SPLITS:
        chosen: Iterable[Iterable[int]] = combinations(range(n), n // 2)
        if n % 2 == 0:  # the other half of each of these comes by itself
            chosen = (combination for combination in combinations(range(n), n // 2) if combination[0] == 0)
    else:
        rng = np.random.default_rng(_SEED)
        chosen = (rng.permutation(n)[: n // 2].tolist() for _ in range(N_SPLITS))
    for some in chosen:
        members = set(some)
        yield [index in members for index in range(n)]


def _winners(labels: list[str], deltas: Numbers, coherences: Numbers, half: Mask, floor: float) -> list[str | None]:
    """The label of the best coherent evaluation on each half `[n_splits, n_questions]`; of equal ones the first."""
    scored = ~np.isnan(deltas) & ~np.isnan(coherences)
    weights = half.T.astype(float)
    counts = scored @ weights
    with np.errstate(divide="ignore", invalid="ignore"):
        delta = (np.where(scored, deltas, 0.0) @ weights) / counts
        coherence = (np.where(scored, coherences, 0.0) @ weights) / counts
    delta = np.where((counts > 0) & (coherence >= floor - _SAME), delta, -np.inf)
    best = (delta >= delta.max(axis=0) - _SAME).argmax(axis=0)
    return [labels[index] if np.isfinite(delta[index, split]) else None for split, index in enumerate(best.tolist())]


FLOORS = tuple(float(floor) for floor in range(60, 81))
"""Coherence, 0 to 100. Write-ups of one study have used 68, 70 and 77."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SensitivityRow(GroupRow):
    """Consecutive floors at which one evaluation is the best of a model, trait and position. The fields from `label` to
    `run_id` are the winner's; `None` where nothing qualifies."""

    columns: ClassVar[tuple[Column, ...]] = (
        *tables.PLACE,
        tables.number_column("floor_from", "g"),
        tables.number_column("floor_to", "g", "to"),
        tables.LABEL,
        *tables.POINT,
        tables.FLIPS,
        tables.STATUS,
        tables.miss_column(is_optional=True),
        *tables.SETTING,
    )

    floor_from: float
    """The first of the floors asked about, 0 to 100."""
    floor_to: float
    """The last of them; between two floors that were asked about nothing is claimed."""
    status: Status
    label: str | None = None
    layer: int | None = None
    coefficient: float | None = None
    delta: float | None = None
    coherence_mean: float | None = None
    key: str | None = None
    run_id: str | None = None
    flips: bool = False
    """Whether another label won at the floors just below, of another vector."""
    at_grid_end: bool = False
    """Whether no larger, or no smaller, coefficient was scored at its layer, so that one may be better."""
    winner: Point | None = None
    nearest_miss: Point | None = None
    """The most coherent evaluation below the first floor; only where nothing qualifies."""
    nearest_miss_label: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SensitivityAnswer(Answer[SensitivityRow]):
    """The answer of `sensitivity`; its `floor` is the lowest of the floors."""

    floors: tuple[float, ...] = ()
    halves: tuple[HalvesRow, ...] = ()
    """The winners on halves of the questions, where the store has scores by question."""


def _read_floors(text: str) -> tuple[float, ...]:
    first, dash, last = text.partition("-")
    if not dash or not all(end.isascii() and end.isdigit() and len(end) <= 3 for end in (first, last)):
        raise ValueError("is not FIRST-LAST, such as 60-80")
    if not int(first) <= int(last) <= 100:
        raise UsageError(f"floors {text!r}: write two whole numbers of 0 to 100, the lower first, such as 60-80")
    return tuple(float(floor) for floor in range(int(first), int(last) + 1))


def _write_floors(floors: Sequence[float]) -> str:
    text = f"{floors[0]:g}-{floors[-1]:g}" if floors else ""
    if not floors or _read_floors(text) != tuple(floors):
        raise ValueError("no range")
    return text


@question(
    "sensitivity",
    pattern(
        "floors",
        "coherence floors to ask at, every whole number of the range",
        "^[0-9]{1,3}-[0-9]{1,3}$",
        _read_floors,
        write=_write_floors,
        metavar="FIRST-LAST",
    ),
    needs=lambda **_: Needs(scores="all"),
    no_floor="sensitivity asks at many floors: give --floors FIRST-LAST instead of --floor",
)
def ask_sensitivity(
    answers: Answers, floor: float, /, *, floors: Iterable[float] = FLOORS, **_about: Unpack[AtManyFloors]
) -> SensitivityAnswer:
    """Which label wins at every coherence floor, and where the winner flips.

    A conclusion that holds at 68 and not at 70 is none; nor one that holds for one half of the questions and
    not for the other, which is looked at at the experiment file's floor. --floor is not used here.

    \b
    Example:
      massact sensitivity --floors 60-80 --position 'response[:5]'
    """
    ladder = _ladder(floors)
    by_group = slices(answers.evaluations)
    all_strata = strata(by_group, answers.groups)
    answered = [_runs(stratum, ladder) for stratum in all_strata]
    alone = "only the labels asked for compete: others may be ahead of them"
    notes = (
        *filter(None, [floor_warning(ladder[-1])]),
        *usual_notes(by_group),
        *(f"{name}: {_in_words(runs, ladder)}" for name, runs in zip(_names(all_strata), answered, strict=True)),
        *([alone] if answers.filters.labels else []),
    )
    answer = SensitivityAnswer(
        question="sensitivity",
        floor=ladder[0],
        rows=tuple(row for runs in answered for row in runs),
        notes=notes,
        floors=ladder,
        halves=halves(strata(by_group), floor=floor, scores=answers.scores) if answers.scores else (),
    )
    return told_apart(answer, by_group)


def _ladder(floors: Iterable[float]) -> tuple[float, ...]:
    ladder = tuple(sorted({float(floor) for floor in floors}))
    if not ladder:
        raise UsageError("no coherence floor to ask about: name at least one between 0 and 100")
    for floor in ladder:
        if not 0 <= floor <= 100:
            raise UsageError(f"coherence floor {floor:g}: coherence runs from 0 to 100")
    return ladder


_Win = tuple[Status, str | None, Point | None]
"""What a model, trait and position come to at one floor: the winner and its best, or why there is none."""


def _win(stratum: ComparableGroups, floor: float) -> _Win:
    if ranked := stratum.ranked(floor):
        return ("ok", *ranked[0])
    is_below = any(part.status(floor) == "below_floor" for part in stratum.slices.values())
    return ("below_floor" if is_below else "missing", None, None)


def _runs(stratum: ComparableGroups, ladder: Sequence[float]) -> list[SensitivityRow]:
    """One row for each maximal run of floors with one winner (or with one reason for none)."""
    found: list[SensitivityRow] = []
    wins = ((floor, _win(stratum, floor)) for floor in ladder)
    for _, same in groupby(wins, key=lambda win: (*win[1][:2], win[1][2].key if win[1][2] else None)):
        (first, win), *rest = same
        found.append(_row(stratum, win, (first, rest[-1][0] if rest else first), found[-1] if found else None))
    return found


def _row(
    stratum: ComparableGroups, win: _Win, floors: tuple[float, float], below: SensitivityRow | None
) -> SensitivityRow:
    status, label, point = win
    misses = [(name, stratum.nearest_miss(name, floors[0])) for name in sorted(stratum.slices)]
    known = [(name, miss) for name, miss in misses if miss is not None and status == "below_floor"]
    miss_label, miss = max(known, key=lambda entry: entry[1].coherence_mean or 0.0, default=(None, None))
    # another label wins than at the floors below, of another vector; that none is coherent any more is told by the
    # status: nothing took the winner's place
    flips = False
    if below and below.label and below.winner and label and point:
        flips = not is_one(stratum.side(below.label, below.winner), stratum.side(label, point))
    return SensitivityRow(
        **stratum.fields(),
        floor_from=floors[0],
        floor_to=floors[1],
        status=status,
        label=label,
        **({name: getattr(point, name) for name in _OF_WINNER} if point else {}),
        flips=flips,
        winner=point,
        nearest_miss=miss,
        nearest_miss_label=miss_label,
    )


_OF_WINNER = ("layer", "coefficient", "delta", "coherence_mean", "key", "run_id", "at_grid_end")


def _in_words(runs: Sequence[SensitivityRow], ladder: Sequence[float]) -> str:
    """Where the best label flips, how often, and from where on nothing is coherent."""
    between = f"between {ladder[0]:g} and {ladder[-1]:g}"
    best = runs[0].label
    if best is None:
        is_low = any(run.status == "below_floor" for run in runs)
        why = "nothing that can be ranked reaches the floor" if is_low else "nothing that counts was evaluated"
        return f"{why}, {between}"
    flips = [f"at floor {b.floor_from:g} from {a.label} to {b.label}" for a, b in pairwise(runs) if b.flips]
    if not flips:
        same = dict.fromkeys(run.label for run in runs if run.label not in (None, best))
        also = "".join(f", or {label} of the same vector" for label in same)
        words = f"no flip {between}; the best label is {best}{also}"
    elif len(flips) == 1:
        words = f"the best label flips {flips[0]}"
    else:
        words = f"the best label flips {len(flips)} times: {', '.join(flips)}"
    end = next((run.floor_from for run in runs if run.label is None), None)
    return words if end is None else f"{words}; nothing that can be ranked reaches floor {end:g} or more"


def _names(all_strata: Sequence[ComparableGroups]) -> Iterator[str]:
    """What the notes call each; with setting and baseline where a place has several."""
    counts = Counter(group.place for group in all_strata)
    for stratum in all_strata:
        baseline = "no baseline" if stratum.baseline_trait_mean is None else f"baseline {stratum.baseline_trait_mean:g}"
        yield (
            stratum.place
            if counts[stratum.place] == 1
            else f"{stratum.place}, setting {(stratum.setting or '')[:8]}, {baseline}"
        )
