"""Responses that a report shows side by side: the baseline, the best, and the same vector over the cliff."""

from collections.abc import Iterable, Iterator

from massact.errors import MassactError
from massact.phases.session import Session
from massact.query import Answers, BestRow
from massact.query.selection import is_below_floor
from massact.report import Sample
from massact.schema import Artifact, EvaluationRow, StoredPoint
from massact.store.base import Stored
from massact.tracking.tensors import read_responses


def pick_samples(
    session: Session, answers: Answers, baselines: Iterable[Stored[EvaluationRow]]
) -> Iterator[Sample]:
    """Per model, the response to the first question of each of the three, where responses were kept."""
    floor = session.experiment.coherence_floor
    bests = [
        row for row in answers.best(floor).rows if row.status == "ok" and row.method != "random_baseline"
    ]
    for model in session.experiment.models:
        for one in baselines:
            if one.row.model == model.name:
                yield from _first(session, one.run_id, f"{model.name}: baseline")
        mine = [row for row in bests if row.model == model.name]
        if not mine:
            continue
        top = max(mine, key=lambda row: (row.delta or 0.0) * (-1 if row.direction == "negative" else 1))
        place = f"{model.name}: {top.label} at {top.position}, layer {top.layer}, coefficient"
        run_id = _run_with_responses(answers.evaluations, top)
        yield from _first(session, run_id or "", f"{place} {top.coefficient:g} (best)")
        over = _over_cliff(answers.evaluations, top, floor)
        if over is not None:
            run_id = _run_with_responses(answers.evaluations, over)
            yield from _first(session, run_id or "", f"{place} {over.coefficient:g} (over the cliff)")


def _run_with_responses(points: Iterable[StoredPoint], one: BestRow | StoredPoint) -> str | None:
    """The run whose responses were scored: of a result that was taken over, that of the other label."""
    if one.same_as is None:
        return one.run_id
    place = (one.setting, one.model, one.trait, one.position, one.same_as, one.layer, one.coefficient)
    return next(
        (
            point.run_id
            for point in points
            if (*point.place, point.layer, point.coefficient) == place and point.delta == one.delta
        ),
        None,
    )


def _over_cliff(points: Iterable[StoredPoint], best: BestRow, floor: float) -> StoredPoint | None:
    """The smallest coefficient beyond the best, of the same vector, whose text is below the floor."""
    beyond = [
        point
        for point in points
        if (point.setting, point.vector_digest) == (best.setting, best.vector_digest)
        and (point.label, point.position, point.layer) == (best.label, best.position, best.layer)
        and abs(point.coefficient) > abs(best.coefficient or 0.0)
        and is_below_floor(point, floor)
    ]
    return min(beyond, key=lambda point: abs(point.coefficient), default=None)


def _first(session: Session, run_id: str, title: str) -> Iterator[Sample]:
    try:
        response = read_responses(session.tracker.fetch(run_id, Artifact.RESPONSES))[0]
    except MassactError:
        return  # its responses were not kept, which --save-responses decides
    yield Sample(
        title=title,
        question=response.question,
        response=response.response,
        trait=response.trait,
        coherence=response.coherence,
        run_id=run_id,
    )
