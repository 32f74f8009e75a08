"""Stored results as the cells they are of, as their runs hold them: to be judged again, or on other questions."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property

from massact.config import ModelConfig, TraitConfig
from massact.domain import Cell, Geometry, Response, Timing
from massact.errors import DataError, MassactError, MissingPrerequisiteError, UsageError
from massact.evaluation import Evaluation, FailedCell, PlannedCell
from massact.judges import Exchange
from massact.keys import cell_key
from massact.metrics import DEFAULT_METRIC_TOKENS, Measured
from massact.models.chat import find_marks
from massact.store.read.base import Stored
from massact.store.responses import read_responses
from massact.store.schema import Artifact, EvaluationRow, Kind, Tag, is_scored, stored_cell
from massact.store.schema.points import has_enough_scores
from massact.store.tensors import read_tensor
from massact.store.write.evaluations import Baseline, Place, RunMaker, baseline_of
from massact.store.write.tracker import OpenRun
from massact.sweep.context import Session, ready_judge
from massact.vectors.methods import vector_digest

NOT_NAMED = "the experiment file does not name its model or trait any more"
IMPORTED = "imported, so that what exactly was measured is not known"
NOT_TOLD = (
    "what it was evaluated with cannot be told: an older version evaluated it, and the trait's dataset or the "
    "model's chat template has changed since"
)


@dataclass(frozen=True, slots=True)
class Subject:
    """What the experiment file has of a row's model and trait."""

    model: ModelConfig
    trait: TraitConfig


@dataclass(frozen=True)
class Moved:
    """A stored result's cell in another setting: under another judge, on other questions, or for another trait."""

    source: Stored[EvaluationRow]
    subject: Subject
    cell: Cell
    reused_from: str | None = None
    """Of a result that was taken over: the key, in that setting, of the one that it follows."""

    @cached_property
    def key(self) -> str:
        return cell_key(self.cell)

    @cached_property
    def baseline_key(self) -> str:
        return cell_key(replace(self.cell, steering=None))


def subject_of(session: Session, row: EvaluationRow) -> Subject | None:
    """The model and trait of a row; `None` where the experiment file names them no more."""
    experiment = session.experiment
    try:
        subject = Subject(experiment.model(row.model), experiment.trait(row.trait))
    except UsageError:
        return None
    return subject if subject.model.instruct.name == row.model_variant else None


class LeftOutError(MassactError):
    """A stored result that nothing can be made of; the text is the reason."""


@contextmanager
def counting(left_out: Counter[str]) -> Iterator[None]:
    """Count what nothing can be made of, by the reason."""
    try:
        yield
    except LeftOutError as error:
        left_out[str(error)] += 1


def stored_subject(session: Session, row: EvaluationRow | None) -> tuple[Subject, Cell]:
    """What the experiment file has of a row's model and trait, and the row's cell; LeftOutError where there is none."""
    if row is None:
        raise LeftOutError("its row cannot be read: see massact doctor")
    if row.origin == "imported":
        raise LeftOutError(IMPORTED)
    if (subject := subject_of(session, row)) is None:
        raise LeftOutError(NOT_NAMED)
    if (cell := stored_cell(row) or stored_cell(row, told_by_files(session, subject))) is None:
        raise LeftOutError(NOT_TOLD)
    return subject, cell


def told_by_files(session: Session, subject: Subject) -> dict[str, str]:
    """What rows of earlier versions do not tell of their cells, as the files of today have it."""
    described = session.models.description(subject.model, subject.model.instruct)
    dataset = session.datasets.of(subject.trait).digest
    return {"trait_digest": dataset, "chat_template_digest": described.chat_template_digest}


def stored_plan(session: Session, cell: Cell, stored: Stored[EvaluationRow]) -> PlannedCell:
    """A cell ready to be evaluated, with the vector and the geometry that its run keeps; else a MassactError."""
    row, vector = stored.row, None
    if row.layer is not None:
        vector = read_tensor(session.stores.fetch(stored.run_id, Artifact.VECTOR), "vector")
        if vector_digest(vector) != row.vector_digest:
            raise DataError("its vector is another one: see massact doctor")
    energy, cosine = row.massive_energy, row.cosine_to_uncleaned
    geometry = None if energy is None or cosine is None else Geometry(energy, cosine, row.relative_strength)
    return PlannedCell(cell, vector, geometry, row.n_dims_cleaned)


def place_of(row: EvaluationRow) -> Place:
    """The names that a stored result is kept under."""
    names = (row.experiment, row.model, row.model_variant, row.n_questions or 0)
    return Place(*names, confirm_share=row.confirm_share)


def stored_by_key(session: Session, kind: Kind) -> dict[str, Stored[EvaluationRow]]:
    """The newest finished run of each result of a kind, whatever scores it has, by key."""
    with session.stores.read() as store:
        return {evaluation.row.key: evaluation for evaluation in store.evaluations(session.experiment.name, kind)}


def find_baseline(session: Session, key: str) -> Stored[EvaluationRow] | None:
    """The newest finished run of a baseline, whatever scores it has."""
    return stored_by_key(session, Kind.BASELINE).get(key)


RESPONSES_AT_ONCE = 256  # responses that the judge is given at a time, in whole evaluations


@dataclass(frozen=True, slots=True)
class Again:
    """A stored result with the scores that it lacked, as far as the judge now gave them."""

    run_id: str  # that holds the responses
    evaluation: Evaluation
    has_texts: bool = True
    """Whether its responses were kept; of others the scores alone are known, and it can only be compared anew."""
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def unscored(self) -> list[Response]:
        """The responses that the judge is asked about."""
        return [response for response in self.evaluation.responses if _is_unscored(response)] if self.has_texts else []


def judged_again(
    session: Session,
    parent: OpenRun,
    subject: Subject,
    stored: Mapping[str, PlannedCell],
    *,
    say: Callable[[str], None] | None = None,
) -> Iterator[Again]:
    """Stored results whose responses without scores are judged again: nothing is generated. `stored` has cells by the
    run that holds their result; one whose responses were not kept comes as it is where it has enough scores, and else
    is passed over, of which `say` is told."""
    with session.stores.read() as store:
        rows = store.rows(stored)
    batch: list[Again] = []
    for run_id, planned in stored.items():
        if session.interruption.is_requested:
            break
        held = _held(session, run_id, planned, rows.get(run_id), say)
        if held is None:
            continue
        batch.append(held)
        if sum(max(len(result.unscored), 1) for result in batch) >= RESPONSES_AT_ONCE:
            yield from judged(session, parent, subject, batch)
            batch = []
    yield from judged(session, parent, subject, batch)


def _held(
    session: Session, run_id: str, planned: PlannedCell, row: EvaluationRow | None, say: Callable[[str], None] | None
) -> Again | None:
    if row is None or row.same_as is not None:
        return None
    try:
        held = read_again(session, run_id, planned, row)
    except MassactError as error:
        if say is not None:
            say(f"warning: run {run_id}: {error}")
        return None  # they were not kept (--save-responses)
    return held if len(held.evaluation.responses) == row.n_questions else None


def read_again(session: Session, run_id: str, planned: PlannedCell, row: EvaluationRow) -> Again:
    """A stored result as that of a cell: without scores where another judge gave them. It comes without texts where
    those were not kept and it has scores enough; else that they cannot be read is an error."""
    is_own = cell_key(planned.cell) == row.key
    has_texts, judge_seconds = True, row.judge_seconds or 0.0
    try:
        responses = read_responses(session.stores.fetch(run_id, Artifact.RESPONSES))
    except MassactError:
        if not is_own or not is_scored(row, session.experiment.least_scored):
            raise
        with session.stores.read() as store:
            found = store.with_metrics(store.scores([run_id]), row.metrics or ())
        if run_id not in found:
            raise
        scores = found[run_id]
        has_texts, reason = False, f"told by run {run_id}"
        responses = tuple(
            Response(
                "", "", *pair, None if None not in pair else reason,
                metrics={name: of[n] for name, of in scores.metrics.items() if n < len(of)},
            )
            for n, pair in enumerate(zip(scores.trait, scores.coherence, strict=True))
        )  # fmt: skip
    if not is_own:
        responses = tuple(replace(said, trait=None, coherence=None, reason=None) for said in responses)
        judge_seconds = 0.0
    seconds = row.generation_seconds or 0.0
    timing = Timing(seconds, judge_seconds, round((row.tokens_per_second or 0.0) * seconds))
    n_read = DEFAULT_METRIC_TOKENS if row.metric_tokens is None else row.metric_tokens
    measured = Measured(tuple(row.metrics or ()), n_read, row.metric_sources or {})
    evaluation = Evaluation(planned, responses, timing, measured=measured)
    return Again(run_id, evaluation, has_texts, session.stores.tracker.tags(run_id))


def judged(session: Session, parent: OpenRun, subject: Subject, batch: Sequence[Again]) -> Iterator[Again]:
    """The same results once the judge was asked about their responses without scores, all at once."""
    unscored = [response for held in batch for response in held.unscored]
    seconds = 0.0
    if unscored:
        judge = ready_judge(session, parent, subject.trait, subject.model)
        began = time.perf_counter()
        verdicts = iter(judge.score([_exchange(said) for said in unscored]))
        seconds = (time.perf_counter() - began) / len(batch)
    for held in batch:
        evaluation = held.evaluation
        if held.unscored:
            responses = tuple(
                replace(said, **asdict(next(verdicts))) if _is_unscored(said) else said for said in evaluation.responses
            )
            spent = replace(evaluation.timing, judge_seconds=evaluation.timing.judge_seconds + seconds)
            evaluation = replace(evaluation, responses=responses, timing=spent)
        yield replace(held, evaluation=evaluation)


def put_again(session: Session, parent: OpenRun, place: Place, held: Again, baseline: Baseline | None) -> None:
    """Write a result that was judged again: how its text came about is told as by the run that it comes from."""
    place = replace(
        place,
        attention=held.tags.get(Tag.ATTENTION.value),
        unused_settings=held.tags.get(Tag.UNUSED_SETTINGS.value, ""),
    )
    keeps = held.has_texts and place.kind is not Kind.SIDE_EFFECT  # whose texts lie where they were generated
    make = RunMaker(place=place, parent=parent, baseline=baseline, keep_responses=keeps)
    whole = make(held.evaluation)
    tagged = replace(whole, tags={**whole.tags, Tag.REJUDGED.value: held.run_id})
    session.stores.spool.put(tagged, experiment_id=parent.experiment_id)


def _exchange(response: Response) -> Exchange:
    """What is judged again; what an earlier version kept has its thought in the response."""
    marks = find_marks(response.response) if response.thinking is None else None
    if marks is None:
        return Exchange(response.question, response.response, response.thinking, response.is_answered)
    thought, answer = marks.split(response.response)
    return Exchange(response.question, (answer or "").strip(), thought, answer is not None)


def _is_unscored(response: Response) -> bool:
    return response.trait is None or response.coherence is None


def is_short(session: Session, evaluation: Evaluation) -> bool:
    """Whether a result has scores of too few of its responses to count."""
    summary = evaluation.summary
    return not has_enough_scores(summary.n_scored, summary.n_unscored, session.experiment.least_scored)


def checked_baseline(session: Session, model: str, result: Evaluation | FailedCell) -> Baseline:
    """A baseline's result as what evaluations are compared with; MissingPrerequisiteError where it cannot be."""
    if isinstance(result, FailedCell):
        raise MissingPrerequisiteError(f"the baseline of {model} could not be evaluated: {result.error}")
    n_unanswered = sum(not response.is_answered for response in result.responses)
    if is_short(session, result) and n_unanswered and not session.workload.force:
        raise MissingPrerequisiteError(
            f"the baseline of {model} has no answer in {n_unanswered} of its {len(result.responses)} responses: their "
            "thoughts had not ended when their tokens did. Write a larger generation.max_new_tokens, or a number of "
            f"tokens as models.{model}.thinking, after which a thought is ended"
        )
    if is_short(session, result) and not session.workload.force:
        raise MissingPrerequisiteError(
            f"the baseline of {model} lacks scores of {result.summary.n_unscored} of its {len(result.responses)} "
            f"responses, too many to compare anything with it (least_scored {session.experiment.least_scored:g}): "
            "see massact judge-check; the same command has them judged again, --force evaluates all the same"
        )
    return baseline_of(result)
