"""Slices that two judges scored: alike in everything but the judge, and cut to what both saw."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from massact.query.evaluations import PointSet
from massact.query.selection import Slice
from massact.query.setting_fields import JUDGE_FIELDS, SETTING_FIELDS, setting_value
from massact.schema import EvaluationRow, StoredPoint

_BUT_THE_JUDGE = tuple(name for name in SETTING_FIELDS if name not in JUDGE_FIELDS)
"""What two settings share that differ in the judge alone."""
_KEPT_LATER = ("trait_digest", "chat_template_digest")

Scored = dict[tuple[str | None, int, float], StoredPoint]
"""Points by what they were steered with: vector, layer and coefficient."""


@dataclass(frozen=True, slots=True)
class JudgedTwice:
    """What two judges made of the same evaluations of one group."""

    a: Slice
    """As the judge saw them that scored first."""
    b: Slice
    """As the judge saw them that scored last."""
    scored_a: Scored
    scored_b: Scored
    """Of the same places as `scored_a`, in the same order."""
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
        return f"{a.judge} (prompt {_start(a)})", f"{b.judge} (prompt {_start(b)})"


def judged_twice(parts: Iterable[Slice]) -> Iterator[JudgedTwice]:
    """Of the slices of a group, the one run last first, each earlier judge's with the last one's."""
    alike: dict[tuple[object, ...], list[Slice]] = defaultdict(list)
    parts = list(parts)
    # what earlier versions did not keep is no difference where all that keep it have one value
    alone = {
        name for name in _KEPT_LATER if len({setting_value(part.sample, name) for part in parts} - {None}) < 2
    }
    deciding = [name for name in _BUT_THE_JUDGE if name not in alone]
    for part in parts:
        others = alike[tuple(setting_value(part.sample, name) for name in deciding)]
        if len(part.points) and _judge_of(part) not in map(_judge_of, others):
            others.append(part)
    for last, *earlier in alike.values():
        yield from (_pair(one, last) for one in earlier)


def _pair(a: Slice, b: Slice) -> JudgedTwice:
    of_a, of_b = _by_steering(a.points), _by_steering(b.points)
    both = [place for place in of_a if place in of_b]
    scored_a, scored_b = ({place: side[place] for place in both} for side in (of_a, of_b))
    n_alone = len(of_a.keys() ^ of_b.keys())
    return JudgedTwice(_only(a, scored_a), _only(b, scored_b), scored_a, scored_b, n_alone)


def _by_steering(points: PointSet) -> Scored:
    return {(point.vector_digest, point.layer, point.coefficient): point for point in points}


def _only(part: Slice, scored: Scored) -> Slice:
    """The slice with those points alone."""
    import numpy as np

    wanted = {point.run_id for point in scored.values()}
    all_points, indices = part.points.all, part.points.indices
    kept = [all_points.run_ids[index] in wanted for index in indices.tolist()]
    return replace(part, points=PointSet(all_points, indices[np.array(kept, dtype=bool)]))


def _judge_of(part: Slice) -> tuple[str | None, ...]:
    return (part.sample.judge, part.sample.judge_model, part.sample.judge_prompt)


def _start(row: EvaluationRow) -> str:
    return (row.judge_prompt or "")[:8]
