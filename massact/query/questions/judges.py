"""One set of responses under two judges: what each calls the best, and which winners flip."""

import statistics
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Unpack

from massact._lazy import np
from massact.domain import Direction, Group
from massact.query.answers import Answers
from massact.query.evaluations import PointSet
from massact.query.groups import GroupInSetting, Side, is_at_floor, natural_order, slices, strata, told_apart
from massact.query.load import About
from massact.query.question import question
from massact.query.rows import Answer, Column, PlaceRow, Point, Status
from massact.query.same_vector import is_one
from massact.query.settings import JUDGE_FIELDS, SETTING_FIELDS, setting_value
from massact.query.tables import FLIPS, LABEL, PLACE, number_column, point_column, text_column
from massact.store.schema import StoredPoint
from massact.words import counted

_LEAST_FOR_RANKS = 3  # evaluations below which a rank correlation says nothing


_JUDGES = (text_column("judge_a", "judge A", is_shared=True), text_column("judge_b", "judge B", is_shared=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgesRow(PlaceRow):
    """One group under two judges; only evaluations that both scored are looked at."""

    columns: ClassVar[tuple[Column, ...]] = (
        *PLACE,
        *_JUDGES,
        LABEL,
        number_column("n_shared", "d", "shared"),
        point_column("best_a", "A: best delta", "status_a"),
        point_column("best_b", "B: best delta", "status_b"),
        FLIPS,
        number_column("loss", ".1f"),
        number_column("trait_shift", "+.1f", "trait B - A", is_optional=True),
        number_column("coherence_shift", "+.1f", "coherence B - A", is_optional=True),
        number_column("rank_correlation", ".2f", "rank corr.", is_optional=True),
    )

    label: str
    judge_a: str
    """The judge that scored first; with the start of its prompts' digest where both have one name."""
    judge_b: str
    """The judge that scored last."""
    n_shared: int
    """Evaluations that both scored: of one vector, layer and coefficient."""
    status_a: Status
    status_b: Status
    best_a: Point | None = None
    """The best as judge A sees it, among the shared ones."""
    best_b: Point | None = None
    flips: bool = False
    """Whether the two bests lie at different layers or coefficients."""
    loss: float | None = None
    """What following A costs in B's eyes: B's delta of its own best over B's delta of A's best, 0 or more;
    `None` where one has no best or B finds A's best incoherent."""
    trait_shift: float | None = None
    """Mean of B's `trait_mean` minus A's, over the shared ones."""
    coherence_shift: float | None = None
    """The same of `coherence_mean`."""
    rank_correlation: float | None = None
    """Spearman's, of the two judges' deltas, -1 to 1; `None` below three shared ones, or where one is constant."""
    direction: Direction | None = None
    setting_a: str | None = None
    setting_b: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgesWinner(PlaceRow):
    """Which label wins at one model, trait and position under two judges, over shared evaluations."""

    columns: ClassVar[tuple[Column, ...]] = (
        *PLACE,
        *_JUDGES,
        text_column("label_a", "A: winner"),
        text_column("label_b", "B: winner"),
        point_column("best_a", "A: delta"),
        point_column("best_b", "B: delta"),
        FLIPS,
    )

    judge_a: str
    judge_b: str
    label_a: str | None = None
    """The label with the best delta as judge A sees it; `None` where nothing qualifies."""
    label_b: str | None = None
    best_a: Point | None = None
    best_b: Point | None = None
    flips: bool = False
    """Whether another label wins, of another vector; a label against none is a flip too."""
    setting_a: str | None = None
    setting_b: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgesAnswer(Answer[JudgesRow]):
    """The answer of `judges`."""

    winners: tuple[JudgesWinner, ...] = ()


_BUT_THE_JUDGE = tuple(name for name in SETTING_FIELDS if name not in JUDGE_FIELDS)
"""What two settings share that differ in the judge alone."""
_KEPT_LATER = ("trait_digest", "chat_template_digest")


@dataclass(frozen=True, slots=True)
class JudgedTwice:
    """What two judges made of the same evaluations of one group."""

    a: GroupInSetting
    """As the judge saw them that scored first."""
    b: GroupInSetting
    """As the judge saw them that scored last."""
    scored: Sequence[tuple[StoredPoint, StoredPoint]]
    """What was steered alike, by vector, layer and coefficient, as the first and as the last judge scored it."""
    n_alone: int
    """Evaluations that only one of the two scored."""

    @property
    def names(self) -> tuple[str, str]:
        """What the two judges are called; what tells them apart is added where their names do not."""
        a, b = self.a.sample, self.b.sample
        if a.judge != b.judge:
            return a.judge, b.judge
        if a.judge_model != b.judge_model:
            return f"{a.judge} ({a.judge_model})", f"{b.judge} ({b.judge_model})"
        return f"{a.judge} (prompt {(a.judge_prompt or '')[:8]})", f"{b.judge} (prompt {(b.judge_prompt or '')[:8]})"


def judged_twice(parts: Iterable[GroupInSetting]) -> Iterator[JudgedTwice]:
    """Of the slices of a group, the one run last first, each earlier judge's with the last one's."""
    alike: dict[tuple[object, ...], list[GroupInSetting]] = defaultdict(list)
    parts = list(parts)
    # what earlier versions did not keep is no difference where all that keep it have one value
    alone = {name for name in _KEPT_LATER if len({setting_value(part.sample, name) for part in parts} - {None}) < 2}
    deciding = [name for name in _BUT_THE_JUDGE if name not in alone]
    for part in parts:
        others = alike[tuple(setting_value(part.sample, name) for name in deciding)]
        if len(part.points) and _judge_of(part) not in map(_judge_of, others):
            others.append(part)
    for last, *earlier in alike.values():
        yield from (_pair(side, last) for side in earlier)


def _pair(a: GroupInSetting, b: GroupInSetting) -> JudgedTwice:
    of_a, of_b = (
        {(point.vector_digest, point.layer, point.coefficient): point for point in side.points} for side in (a, b)
    )
    both = [(of_a[place], of_b[place]) for place in of_a if place in of_b]
    first, last = _only(a, {point.run_id for point, _ in both}), _only(b, {point.run_id for _, point in both})
    return JudgedTwice(first, last, both, len(of_a.keys() ^ of_b.keys()))


def _only(part: GroupInSetting, wanted: Collection[str]) -> GroupInSetting:
    kept = [run_id in wanted for run_id in part.points.run_ids()]
    return replace(part, points=PointSet(part.points.all, part.points.indices[np.array(kept, dtype=bool)]))


def _judge_of(part: GroupInSetting) -> tuple[str | None, ...]:
    return (part.sample.judge, part.sample.judge_model, part.sample.judge_prompt)


@question("judges", is_across_settings=True)
def ask_judges(answers: Answers, floor: float, /, **_about: Unpack[About]) -> JudgesAnswer:
    """The winners under two judges of the same responses, and which of them flip.

    Only evaluations that both judges scored count, so that neither has the larger choice. Another judge's
    scores come from `massact rejudge`.

    \b
    Example:
      massact judges --judge openai:gpt-4.1-mini --judge hf:./judge
    """
    pairs = [pair for parts in slices(answers.side_by_side).values() for pair in judged_twice(parts)]
    shared = [pair for pair in pairs if pair.scored]
    winners = _winners(shared, floor)
    rows = [_row(pair, floor) for pair in shared]
    rows.sort(key=lambda row: natural_order(row.model, row.trait, row.position, row.judge_a, row.judge_b, row.label))
    answer = JudgesAnswer(
        question="judges",
        floor=floor,
        rows=tuple(row for row in rows if answers.shows(row.label)),
        notes=(*_notes(pairs), *map(_in_words, winners)),
        winners=winners,
    )
    scored_last: dict[Group, list[GroupInSetting]] = defaultdict(list)
    for pair in shared:
        scored_last[pair.b.group].append(pair.b)
    return told_apart(answer, scored_last)


def _row(pair: JudgedTwice, floor: float) -> JudgesRow:
    a, b = pair.a, pair.b
    best_a, best_b = a.best(floor), b.best(floor)
    judge_a, judge_b = pair.names
    return JudgesRow(
        **asdict(a.group),
        judge_a=judge_a,
        judge_b=judge_b,
        n_shared=len(pair.scored),
        status_a=a.status(floor),
        status_b=b.status(floor),
        best_a=best_a,
        best_b=best_b,
        flips=(best_a and best_a.spot) != (best_b and best_b.spot),
        loss=_loss(best_a, best_b, pair, floor),
        trait_shift=_shift(pair, "trait_mean"),
        coherence_shift=_shift(pair, "coherence_mean"),
        rank_correlation=_rank_correlation(pair),
        direction=b.sample.direction,
        setting_a=a.setting,
        setting_b=b.setting,
    )


def _loss(best_a: Point | None, best_b: Point | None, pair: JudgedTwice, floor: float) -> float | None:
    if best_a is None or best_b is None or best_b.delta is None:
        return None
    same = next(b for a, b in pair.scored if a.run_id == best_a.run_id)
    if same.delta is None or not is_at_floor(same, floor):
        return None
    return abs(best_b.delta - same.delta)  # B's own best is never the worse one


def _shift(pair: JudgedTwice, name: str) -> float | None:
    found = [b - a for a, b in _both(pair, name)]
    return statistics.fmean(found) if found else None


def _rank_correlation(pair: JudgedTwice) -> float | None:
    known = _both(pair, "delta")
    a, b = zip(*known, strict=True) if known else ((), ())
    if len(known) < _LEAST_FOR_RANKS or 1 in (len(set(a)), len(set(b))):
        return None
    from scipy.stats import spearmanr

    return float(spearmanr(a, b).statistic)


def _both(pair: JudgedTwice, name: str) -> list[tuple[float, float]]:
    """A figure as A and as B has it, of the evaluations where both have one."""
    found = ((getattr(a, name), getattr(b, name)) for a, b in pair.scored)
    return [(a, b) for a, b in found if a is not None and b is not None]


def _winners(pairs: Sequence[JudgedTwice], floor: float) -> tuple[JudgesWinner, ...]:
    """By model, trait, position and pair of judges the label that each calls the best."""
    by_judges: dict[tuple[str, ...], list[JudgedTwice]] = defaultdict(list)
    for pair in pairs:
        by_judges[(*pair.names, pair.a.setting, pair.b.setting)].append(pair)
    found = []
    for told, some in by_judges.items():
        about: dict[str, Any] = dict(zip(("judge_a", "judge_b", "setting_a", "setting_b"), told, strict=True))
        of_a = _best_labels({pair.a.group: [pair.a] for pair in some}, floor)
        of_b = _best_labels({pair.b.group: [pair.b] for pair in some}, floor)
        for place, a in of_a.items():
            b, at = of_b[place], dict(zip(("model", "trait", "position"), place, strict=True))
            flips = bool(a or b) and not (a and b and is_one(a, b))
            bests = {"label_a": a and a.label, "label_b": b and b.label, "best_a": a and a.best, "best_b": b and b.best}
            found.append(JudgesWinner(**about | at | bests, flips=flips))
    return tuple(sorted(found, key=lambda row: (row.model, row.trait, row.position, row.judge_a, row.setting_b)))


def _best_labels(
    by_group: Mapping[Group, Sequence[GroupInSetting]], floor: float
) -> dict[tuple[str, str, str], Side | None]:
    found: dict[tuple[str, str, str], Side | None] = {}
    for stratum in strata(by_group):
        place = (stratum.model, stratum.trait, stratum.position)
        if found.get(place) is None:  # of several baselines the first with a winner
            ranked = stratum.ranked(floor)
            found[place] = stratum.side(*ranked[0]) if ranked else None
    return found


def _notes(pairs: Sequence[JudgedTwice]) -> Iterator[str]:
    if not pairs:
        yield (
            "no two judges scored evaluations that are alike in everything else: massact rejudge --judge NAME "
            "scores the stored responses with another judge"
        )
    n_alone = sum(pair.n_alone for pair in pairs)
    if n_alone:
        yield f"{counted(n_alone, 'evaluation')} left out, which one judge of a pair alone has scored"


def _in_words(row: JudgesWinner) -> str:
    label_a, label_b = (label or "nothing at the floor" for label in (row.label_a, row.label_b))
    if not row.flips:
        same = "" if label_a == label_b else f"{label_b}, of the same vector, "
        return f"{row.place}: {label_a} under {row.judge_a} and {same}under {row.judge_b}"
    return f"{row.place}: the winner flips from {label_a} under {row.judge_a} to {label_b} under {row.judge_b}"
