"""Responses that a report shows side by side: the baseline, the best, and the same vector over the cliff."""

import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from massact.domain import Response
from massact.errors import MassactError
from massact.phases.session import Session
from massact.query import Answers, BestRow
from massact.query.selection import is_below_floor
from massact.report import Sample, SampleRole
from massact.schema import Artifact, EvaluationRow, StoredPoint
from massact.store.base import Stored
from massact.tracking.tensors import read_responses


def pick_samples(
    session: Session, answers: Answers, baselines: Iterable[Stored[EvaluationRow]]
) -> Iterator[Sample]:
    """Per model and trait the answers to one question of each of the three, where responses were kept."""
    baselines = list(baselines)
    floor = session.experiment.coherence_floor
    # without the scores by question, which nothing here needs
    rows = replace(answers, scores=None).best(floor).rows
    bests = [row for row in rows if row.status == "ok" and row.method != "random_baseline"]
    for model in session.experiment.models:
        for trait in session.experiment.traits:
            mine = [row for row in bests if (row.model, row.trait) == (model.name, trait.name)]
            if mine:
                sign = -1 if trait.direction == "negative" else 1
                top = max(mine, key=lambda row: sign * (row.delta or 0.0))
                yield from _of_place(session, answers, baselines, top)
            else:
                place = _Place(session, f"{model.name}, {trait.name}")
                for one in baselines:
                    if (one.row.model, one.row.trait) == (model.name, trait.name):
                        place.judge = one.row.judge
                        yield from place.sample(one.run_id, "baseline", "unsteered")


def _of_place(
    session: Session, answers: Answers, baselines: Iterable[Stored[EvaluationRow]], top: BestRow
) -> Iterator[Sample]:
    trait = f", {top.trait}" if len(session.experiment.traits) > 1 else ""
    place = _Place(session, f"{top.model}{trait}: {top.label} at {top.position}, layer {top.layer}")
    used = answers.evaluations.samples[top.setting or ""]
    place.judge = used.judge
    floor = session.experiment.coherence_floor
    over = _over_cliff(answers, top, floor)
    over_run = None if over is None else _run_with_responses(answers, over)
    place.ask_what_broke(over_run, floor)
    for one in baselines:
        if one.row.key == used.baseline_key:
            yield from place.sample(one.run_id, "baseline", "unsteered")
    yield from place.sample(_run_with_responses(answers, top), "best", f"coefficient {top.coefficient:g}")
    if over is not None:
        yield from place.sample(over_run, "over the cliff", f"coefficient {over.coefficient:g}")


@dataclass
class _Place:
    """Where samples stand side by side: all answer the question of the first."""

    session: Session
    name: str
    judge: str | None = None
    question: str | None = None

    def ask_what_broke(self, run_id: str | None, floor: float) -> None:
        """Choose the question whose answer broke as much as the run's answers did on the mean."""
        scored = [(one, one.coherence) for one in self._responses(run_id) if one.coherence is not None]
        below = [(one, coherence) for one, coherence in scored if coherence < floor]
        if below:
            mean = statistics.fmean(coherence for _, coherence in scored)
            self.question = min(below, key=lambda pair: abs(pair[1] - mean))[0].question

    def _responses(self, run_id: str | None) -> list[Response]:
        """What a run kept; nothing where it kept none, which `--save-responses` decides."""
        if run_id is None:
            return []
        try:
            return list(read_responses(self.session.fetch(run_id, Artifact.RESPONSES)))
        except MassactError:
            return []

    def sample(self, run_id: str | None, role: SampleRole, how: str) -> Iterator[Sample]:
        """The run's response to the question of the place, if it kept any."""
        responses = self._responses(run_id)
        if not responses:
            return
        same = (one for one in responses if one.question == self.question)
        response = next(same, responses[0])
        self.question = self.question or response.question
        yield Sample(
            title=f"{role[0].upper()}{role[1:]}: {how}",
            question=response.question,
            response=response.response,
            trait=response.trait,
            coherence=response.coherence,
            run_id=run_id or "",
            place=self.name,
            role=role,
            judge=self.judge,
        )


def _run_with_responses(answers: Answers, one: BestRow | StoredPoint) -> str | None:
    """The run whose responses were scored: of a result that was taken over, that of the other label."""
    if one.same_as is None:
        return one.run_id
    at = (one.layer, one.coefficient, one.delta)
    points = _points(answers, one, one.same_as)
    return next(
        (point.run_id for point in points if (point.layer, point.coefficient, point.delta) == at), None
    )


def _over_cliff(answers: Answers, best: BestRow, floor: float) -> StoredPoint | None:
    """The smallest coefficient beyond the best, of the same vector, whose text is below the floor."""
    beyond = [
        point
        for point in _points(answers, best, best.label)
        if (point.vector_digest, point.layer) == (best.vector_digest, best.layer)
        and abs(point.coefficient) > abs(best.coefficient or 0.0)
        and is_below_floor(point, floor)
    ]
    return min(beyond, key=lambda point: abs(point.coefficient), default=None)


def _points(answers: Answers, one: BestRow | StoredPoint, label: str) -> Iterable[StoredPoint]:
    """The evaluations of a label where another's result is."""
    return answers.evaluations.by_place.get(
        (one.setting or "", one.model, one.trait, one.position, label), ()
    )
