"""What an outage of the judge left without scores: whether a result counts, and judging its stored responses again."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from massact.domain import Response, Timing
from massact.errors import MassactError, MissingPrerequisiteError
from massact.judges import Exchange
from massact.phases.judged import ready_judge
from massact.phases.recast import Subject
from massact.phases.session import Session
from massact.pipeline.evaluate import Evaluation, FailedCell, PlannedCell
from massact.schema import Artifact, EvaluationRow
from massact.schema.points import has_enough_scores
from massact.tracking.rows import Baseline, baseline_of
from massact.tracking.tensors import read_responses
from massact.tracking.tracker import OpenRun

RESPONSES_AT_ONCE = 256
"""Responses that the judge is given at a time, in whole evaluations."""


@dataclass(frozen=True, slots=True)
class Again:
    """A stored result with the scores that it lacked, as far as the judge now gave them."""

    run_id: str
    """That holds the responses."""
    evaluation: Evaluation


def judged_again(
    session: Session, parent: OpenRun, subject: Subject, stored: Mapping[str, PlannedCell]
) -> Iterator[Again]:
    """Stored results whose responses without scores are judged again: nothing is generated.

    Args:
        stored: cells by the run that holds their result; one whose responses were not kept is passed over.

    Raises:
        JudgeError: the judge as a whole cannot be used.
    """
    with session.store() as store:
        rows = store.rows(stored)
    batch: list[Again] = []
    for run_id, planned in stored.items():
        if session.interruption.is_requested:
            break
        held = _read(session, run_id, planned, rows.get(run_id))
        if held is None:
            continue
        batch.append(held)
        if sum(map(_n_unscored, batch)) >= RESPONSES_AT_ONCE:
            yield from _judged(session, parent, subject, batch)
            batch = []
    yield from _judged(session, parent, subject, batch)


def _read(session: Session, run_id: str, planned: PlannedCell, row: EvaluationRow | None) -> Again | None:
    if row is None or row.same_as is not None:
        return None
    try:
        responses = read_responses(session.fetch(run_id, Artifact.RESPONSES))
    except MassactError:
        return None  # they were not kept (--save-responses)
    if len(responses) != row.n_questions:
        return None
    seconds = row.generation_seconds or 0.0
    timing = Timing(seconds, row.judge_seconds or 0.0, round((row.tokens_per_second or 0.0) * seconds))
    return Again(run_id, Evaluation(planned, responses, timing))


def _judged(session: Session, parent: OpenRun, subject: Subject, batch: list[Again]) -> Iterator[Again]:
    asked = [one for held in batch for one in held.evaluation.responses if _is_unscored(one)]
    if asked:
        judge = ready_judge(session, parent, subject.trait, subject.model)
        began = time.perf_counter()
        verdicts = iter(judge.score([Exchange(one.question, one.response) for one in asked]))
        seconds = (time.perf_counter() - began) / len(batch)
    for held in batch:
        found = held.evaluation
        if _n_unscored(held):
            responses = tuple(
                _with_verdict(one, verdicts) if _is_unscored(one) else one for one in found.responses
            )
            spent = replace(found.timing, judge_seconds=found.timing.judge_seconds + seconds)
            found = replace(found, responses=responses, timing=spent)
        yield replace(held, evaluation=found)


def _with_verdict(response: Response, verdicts: Iterator[object]) -> Response:
    verdict = next(verdicts)
    names = ("trait", "coherence", "reason")
    return replace(response, **{name: getattr(verdict, name) for name in names})


def _is_unscored(response: Response) -> bool:
    return response.trait is None or response.coherence is None


def _n_unscored(held: Again) -> int:
    return sum(map(_is_unscored, held.evaluation.responses))


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
