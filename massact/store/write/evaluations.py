"""A result as a row of the run store (what its cell tells, what it is looked for by, what came of it), and as a run."""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from massact.evaluation import Evaluation, FailedCell, PlannedCell
from massact.keys import cell_json, cell_key, digest_text, screening_key, setting_digest
from massact.store.responses import response_bytes
from massact.store.schema.cells import cell_fields
from massact.store.schema.names import Artifact, Kind, MlflowTag, Tag
from massact.store.schema.rows import EvaluationRow, Scores, evaluation_params, run_name
from massact.store.write.client import parent_tags, provenance_tags, row_run
from massact.store.write.finished_run import FinishedRun
from massact.store.write.run_writer import evaluation_run, label_tags
from massact.store.write.stages import tensor_bytes
from massact.store.write.tracker import OpenRun


@dataclass(frozen=True, slots=True)
class Place:
    """The names under which people look for a result; none of them is part of a cell's identity."""

    experiment: str
    model: str
    model_variant: str
    n_questions: int
    attention: str | None = None  # how the model computed attention, such as `eager`; `None` where nothing was computed
    unused_settings: str = ""  # what the model's checkpoint asks of generation that was not obeyed, such as `top_p=0.8`
    confirm_share: float | None = None
    """Share of the trait's questions that take no part in choosing winners; `None`: all of them do."""
    kind: Kind | None = None  # of its results, where they are no points of the grid


@dataclass(frozen=True, slots=True)
class Baseline:
    """The unsteered result that evaluations are compared with."""

    key: str
    trait_mean: float | None


def baseline_of(evaluation: Evaluation) -> Baseline:
    """A baseline's result as what evaluations are compared with."""
    return Baseline(cell_key(evaluation.cell), _rounded(evaluation.summary.trait_mean))


def evaluation_row(
    place: Place, evaluation: Evaluation, baseline: Baseline | None, *, confirms: str | None = None
) -> EvaluationRow:
    """The row of a finished evaluation, or of a baseline where `baseline` is `None`. `confirms`: the key of what it
    repeats on other questions, which makes it a confirmation."""
    summary, timing = evaluation.summary, evaluation.timing
    # rounded as its own row is, or evaluations logged before and after a restart would differ in it
    before = _rounded(baseline.trait_mean) if baseline else None
    delta = None if before is None or summary.trait_mean is None else summary.trait_mean - before
    measured = evaluation.measured
    has_read = bool(summary.metrics.keys() & {"kl", "perplexity"})
    return _row(
        place,
        evaluation.planned,
        confirms,
        baseline_key=baseline.key if baseline else None,
        baseline_trait_mean=before,
        delta=delta,
        **{**asdict(summary), "metrics": dict(summary.metrics) or None},
        metric_tokens=measured.n_tokens if has_read else None,
        metric_sources=dict(measured.sources) or None,
        tokens_per_second=round(timing.tokens_per_second, 1),
        generation_seconds=round(timing.generation_seconds, 4),
        judge_seconds=round(timing.judge_seconds, 4),
        **_geometry_fields(evaluation.planned),
    )


def evaluation_scores(evaluation: Evaluation) -> Scores:
    """Per-question scores, in the question set's order."""
    responses = evaluation.responses
    metrics = {name: tuple(response.metrics.get(name) for response in responses) for name in evaluation.summary.metrics}
    return Scores(
        tuple(response.trait for response in responses), tuple(response.coherence for response in responses), metrics
    )


_RESULT = (
    "baseline_key", "baseline_trait_mean", "delta", "trait_mean", "coherence_mean", "trait_std", "coherence_std",
    "n_scored", "n_unscored", "metrics", "metric_tokens", "metric_sources",
)  # fmt: skip
"""What a row says of responses and their scores."""


def _geometry_fields(planned: PlannedCell) -> dict[str, float | None]:
    return asdict(planned.geometry) if planned.geometry else {}


def _rounded(value: Any) -> Any:
    # no judge and no vector is exact to more; MLflow's table shows every digit that is stored
    return round(value, 6) if isinstance(value, float) else value


def _row(place: Place, planned: PlannedCell, confirms: str | None, **result: Any) -> EvaluationRow:
    cell, text = planned.cell, cell_json(planned.cell)
    kind = place.kind or (Kind.EVALUATION if confirms is None else Kind.CONFIRMATION)
    if cell.is_baseline and kind in (Kind.EVALUATION, Kind.CONTROL):
        kind = Kind.BASELINE
    return EvaluationRow(
        kind=kind,
        experiment=place.experiment,
        key=digest_text(text),
        cell=text,
        setting=setting_digest(cell),
        model=place.model,
        model_variant=place.model_variant,
        n_questions=place.n_questions,
        n_dims_cleaned=planned.n_dims_cleaned,
        confirm_share=place.confirm_share,
        confirms=confirms,
        **cell_fields(cell),
        **{name: _rounded(value) for name, value in result.items()},
    )


# Results as finished runs.

_ERROR_LIMIT = 1000  # characters of an error that its tag keeps, as with every failed run


def _now() -> int:
    return int(time.time() * 1000)


def vector_files(row: EvaluationRow, planned: PlannedCell) -> dict[str, bytes]:
    """The file of a cell's vector, or of what stands before its questions; nothing for a baseline."""
    if planned.before:
        return {Artifact.PROMPTING.value: json.dumps(planned.before, ensure_ascii=False, indent=1).encode()}
    if planned.vector is None:
        return {}
    return {Artifact.VECTOR.value: tensor_bytes({"vector": planned.vector}, vector_provenance(row))}


def vector_provenance(row: EvaluationRow) -> dict[str, object]:
    """What the header of a vector's file says of it."""
    names = (
        "model", "model_id", "model_revision", "trait", "position", "label", "method", "cleaning", "scope",
        "n_dims", "layer", "component", "vector_digest",
    )  # fmt: skip
    return {name: getattr(row, name) for name in names}


# An evaluation whose result is that of another label, since their vectors are alike: nothing was generated for it.


@dataclass(frozen=True, slots=True)
class Source:
    """The evaluation whose result is taken over."""

    run_id: str
    row: EvaluationRow
    scores: Scores | None


def taken_over_run(
    place: Place, planned: PlannedCell, source: Source, likeness: float, *, parent: OpenRun
) -> FinishedRun:
    """The run of a cell that takes over a result: its own key, vector and geometry, the other's scores. It has no
    timings and no responses: its note says where they lie. `likeness` is that of the two vectors."""
    row = _row(
        place,
        planned,
        None,
        **{name: getattr(source.row, name) for name in _RESULT},
        **_geometry_fields(planned),
        same_as=source.row.label,
        same_as_key=source.row.key,
        same_as_cosine=likeness,
    )
    now = _now()
    note = (
        f"The same as {source.row.label}: their vectors have cosine {likeness:.4f}, so this cell was not evaluated "
        f"itself. Figures and scores are those of run {source.run_id}, which has the responses."
    )
    tags, files = parent_tags(parent.run_id) | {MlflowTag.NOTE.value: note}, vector_files(row, planned)
    return evaluation_run(row, source.scores, started_at=now, finished_at=now, tags=tags, files=files)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunMaker:
    """Makes the finished run of a result, with its artifacts: the same in this process or in another one. The run of an
    evaluation ends at `finished_at`, and began as long before as its generation and its judge took."""

    place: Place
    parent: OpenRun
    baseline: Baseline | None = None  # `None` for a baseline, and for a failure, which is compared with nothing
    keep_responses: bool = True
    confirms: str | None = None
    """Key of the evaluation that it repeats on other questions, which makes it a confirmation."""
    finished_at: int = field(default_factory=_now)
    """Milliseconds since 1970: the same wherever the run is made, or a spool could not tell that it is the same."""
    provenance: Mapping[str, str] = field(default_factory=provenance_tags)
    """Who ran what: the command, not the machine that a cell was evaluated on."""

    def __call__(self, result: Evaluation | FailedCell) -> FinishedRun:
        """The run; ValueError where its row does not fit in a tag."""
        run = self._failed(result) if isinstance(result, FailedCell) else self._evaluated(result)
        own = {key: value for key, value in run.tags.items() if key not in provenance_tags()}
        return replace(run, tags={**self.provenance, **own})

    def _evaluated(self, evaluation: Evaluation) -> FinishedRun:
        """Of a cell that was given up on a part of its questions only the reason and the scores are kept."""
        row, name = evaluation_row(self.place, evaluation, self.baseline, confirms=self.confirms), ""
        timing, files, note = evaluation.timing, _reason_files(evaluation), ""
        if evaluation.given_up:
            if self.baseline is None:
                raise ValueError("a cell is given up by comparing it with a baseline")
            n_asked = len(evaluation.responses)
            row = replace(row, kind=Kind.SCREENING, key=screening_key(row.key), n_questions=n_asked)
            name, note = "given up · ", f"Given up: {evaluation.given_up}."
        else:
            if self.keep_responses:
                files = {Artifact.RESPONSES.value: response_bytes(evaluation.responses)}
            files |= vector_files(row, evaluation.planned)
        tags = {
            Tag.ATTENTION.value: self.place.attention,
            Tag.UNUSED_SETTINGS.value: self.place.unused_settings,
            MlflowTag.NOTE.value: note,
        }
        began = self.finished_at - round((timing.generation_seconds + timing.judge_seconds) * 1000)
        about: Any = {"name": name + run_name(row), "started_at": began, "finished_at": self.finished_at}
        told = parent_tags(self.parent.run_id) | {key: text for key, text in tags.items() if text}
        return evaluation_run(row, evaluation_scores(evaluation), **about, tags=told, files=files)

    def _failed(self, failed: FailedCell) -> FinishedRun:
        row = _row(self.place, failed.planned, self.confirms, n_unscored=self.place.n_questions)
        name, error = run_name(row), {Tag.ERROR.value: failed.error[:_ERROR_LIMIT]}
        tags, params = label_tags(row) | error | parent_tags(self.parent.run_id), evaluation_params(row)
        return row_run(row, name, ended_at=self.finished_at, tags=tags, params=params, status="FAILED")


def _reason_files(evaluation: Evaluation) -> dict[str, bytes]:
    """The file of why responses that are not kept have no score; nothing where all have one."""
    unscored = [[r.question, r.reason] for r in evaluation.responses if None in (r.trait, r.coherence)]
    if not unscored:
        return {}
    table = {"columns": ["question", "reason"], "data": unscored}
    return {Artifact.UNSCORED.value: json.dumps(table, ensure_ascii=False).encode()}
