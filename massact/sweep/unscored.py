"""What an outage of the judge left without scores: whether a result counts, and judging its stored responses again."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from massact.domain import Response, Timing
from massact.errors import MassactError, MissingPrerequisiteError
from massact.evaluation import Evaluation, FailedCell, PlannedCell
from massact.judges import Exchange
from massact.store.schema import Artifact, EvaluationRow, Tag, is_scored
from massact.store.schema.points import has_enough_scores
from massact.store.write.evaluations import evaluation_whole_run
from massact.store.write.rows import Baseline, Place, baseline_of
from massact.store.write.tensors import read_responses
from massact.store.write.tracker import OpenRun
from massact.sweep.recast import Subject
from massact.workflow.accounting import ready_judge
from massact.workflow.context import Session

RESPONSES_AT_ONCE = 256
"""Responses that the judge is given at a time, in whole evaluations."""


@dataclass(frozen=True, slots=True)
class Again:
    """A stored result with the scores that it lacked, as far as the judge now gave them."""

    run_id: str
    """That holds the responses."""
    evaluation: Evaluation
    has_texts: bool = True
    """Whether its responses were kept; of others the scores alone are known, and it can only be compared anew."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Of that run."""


def judged_again(
    session: Session, parent: OpenRun, subject: Subject, stored: Mapping[str, PlannedCell]
) -> Iterator[Again]:
    """Stored results whose responses without scores are judged again: nothing is generated.

    Args:
        stored: cells by the run that holds their result; one whose responses were not kept comes as it is where it has
            enough scores, and is passed over else.

    Raises:
        JudgeError: the judge as a whole cannot be used.
    """
    with session.store() as store:
        rows = store.rows(stored)
    batch: list[Again] = []
    for run_id, planned in stored.items():
        if session.interruption.is_requested:
            break
        held = _held(session, run_id, planned, rows.get(run_id))
        if held is None:
            continue
        batch.append(held)
        if sum(map(size, batch)) >= RESPONSES_AT_ONCE:
            yield from judged(session, parent, subject, batch)
            batch = []
    yield from judged(session, parent, subject, batch)


def _held(session: Session, run_id: str, planned: PlannedCell, row: EvaluationRow | None) -> Again | None:
    if row is None or row.same_as is not None:
        return None
    try:
        held = read_again(session, run_id, planned, row)
    except MassactError:
        return None  # they were not kept (--save-responses)
    return held if len(held.evaluation.responses) == row.n_questions else None


def read_again(
    session: Session, run_id: str, planned: PlannedCell, row: EvaluationRow, *, needs_texts: bool = False
) -> Again:
    """A stored result; without its texts where they were not kept, are not needed, and it has enough scores.

    Raises:
        MassactError: its responses cannot be read, and its scores do not suffice.
    """
    has_texts = True
    try:
        responses = read_responses(session.fetch(run_id, Artifact.RESPONSES))
    except MassactError:
        if needs_texts or not is_scored(row, session.experiment.least_scored):
            raise
        with session.store() as store:
            scores = store.scores([run_id]).get(run_id)
        if scores is None:
            raise
        has_texts, reason = False, f"told by run {run_id}"
        pairs = zip(scores.trait, scores.coherence, strict=True)
        responses = tuple(Response("", "", *pair, None if None not in pair else reason) for pair in pairs)
    seconds = row.generation_seconds or 0.0
    timing = Timing(seconds, row.judge_seconds or 0.0, round((row.tokens_per_second or 0.0) * seconds))
    return Again(run_id, Evaluation(planned, responses, timing), has_texts, session.tracker.tags(run_id))


def without_scores(held: Again) -> Again:
    """The same for another judge."""
    cleared = (replace(one, trait=None, coherence=None, reason=None) for one in held.evaluation.responses)
    timing = replace(held.evaluation.timing, judge_seconds=0.0)
    return replace(held, evaluation=replace(held.evaluation, responses=tuple(cleared), timing=timing))


def judged(session: Session, parent: OpenRun, subject: Subject, batch: Sequence[Again]) -> Iterator[Again]:
    """The same results once the judge was asked about their responses without scores, all at once.

    Raises:
        JudgeError: the judge as a whole cannot be used.
    """
    asked = [
        one for held in batch if held.has_texts for one in held.evaluation.responses if _is_unscored(one)
    ]
    if asked:
        judge = ready_judge(session, parent, subject.trait, subject.model)
        began = time.perf_counter()
        verdicts = iter(judge.score([Exchange(one.question, one.response) for one in asked]))
        seconds = (time.perf_counter() - began) / len(batch)
    for held in batch:
        found = held.evaluation
        if _n_to_ask(held):
            responses = tuple(
                _with_verdict(one, verdicts) if _is_unscored(one) else one for one in found.responses
            )
            spent = replace(found.timing, judge_seconds=found.timing.judge_seconds + seconds)
            found = replace(found, responses=responses, timing=spent)
        yield replace(held, evaluation=found)


def put_again(session: Session, parent: OpenRun, place: Place, one: Again, baseline: Baseline | None) -> None:
    """Write a result that was judged again: how its text came about is told as by the run that it comes from."""
    place = replace(
        place,
        attention=one.tags.get(Tag.ATTENTION.value),
        unused_settings=one.tags.get(Tag.UNUSED_SETTINGS.value, ""),
    )
    whole, _ = evaluation_whole_run(
        place, one.evaluation, baseline=baseline, keep_responses=one.has_texts, parent=parent
    )
    tagged = replace(whole, tags={**whole.tags, Tag.REJUDGED.value: one.run_id})
    session.spool.put(tagged, experiment_id=parent.experiment_id)


def _with_verdict(response: Response, verdicts: Iterator[object]) -> Response:
    verdict = next(verdicts)
    names = ("trait", "coherence", "reason")
    return replace(response, **{name: getattr(verdict, name) for name in names})


def _is_unscored(response: Response) -> bool:
    return response.trait is None or response.coherence is None


def size(held: Again) -> int:
    """What a result takes of a batch: the responses that the judge is asked about, 1 at least."""
    return max(_n_to_ask(held), 1)


def _n_to_ask(held: Again) -> int:
    return sum(map(_is_unscored, held.evaluation.responses)) if held.has_texts else 0


def is_short(session: Session, evaluation: Evaluation) -> bool:
    """Whether a result has scores of too few of its responses to count."""
    found = evaluation.summary
    return not has_enough_scores(found.n_scored, found.n_unscored, session.experiment.least_scored)


def checked_baseline(session: Session, model: str, result: Evaluation | FailedCell) -> Baseline:
    """A baseline's result as what evaluations are compared with.

    Raises:
        MissingPrerequisiteError: it could not be evaluated, or has scores of too few responses.
    """
    if isinstance(result, FailedCell):
        raise MissingPrerequisiteError(f"the baseline of {model} could not be evaluated: {result.error}")
    if is_short(session, result):
        found = result.summary
        raise MissingPrerequisiteError(
            f"the baseline of {model} lacks scores of {found.n_unscored} of its {len(result.responses)} responses, too "
            f"many to compare anything with it (least_scored {session.experiment.least_scored:g}): see massact "
            "judge-check; the same command has them judged again"
        )
    return baseline_of(result)
