"""Names of every param, metric, tag and artifact in the run store, with typed round trips.

The one file that both sides share: `massact.tracking` writes what is named here, `massact.store`
reads it. MLflow gives every param back as a string and cannot filter params by range, so an
evaluation is kept three times over: as params and metrics for people, per question as stepped
metrics, and whole as one compact JSON row in a tag, which is what the readers read.
"""

import json
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any

from massact.domain import AllDims, Direction

SCHEMA_VERSION = 1
TAG_LIMIT = 8000
"""Characters of a tag's value that MLflow keeps; it cuts longer ones without a word."""


class Kind(StrEnum):
    """`massact.kind` of a run."""

    PHASE = "phase"
    CALIBRATION = "calibration"
    EXTRACTION = "extraction"
    BASELINE = "baseline"
    EVALUATION = "evaluation"
    REPORT = "report"


class Tag(StrEnum):
    """Tags that massact sets. Those of MLflow's own that it sets too are in `MlflowTag`."""

    KIND = "massact.kind"
    EXPERIMENT = "massact.experiment"
    KEY = "massact.key"
    LABEL = "massact.label"
    SCHEMA = "massact.schema_version"
    ROW = "massact.row"
    SCORES = "massact.scores"
    PHASE = "massact.phase"
    PARENT = "massact.parent"
    ERROR = "massact.error"
    GIT_DIRTY = "massact.git_dirty"
    VERDICT = "massact.verdict"
    """Prefix of a phase's verdicts: `massact.verdict.<name>`."""


class MlflowTag(StrEnum):
    """Tags that MLflow gives a meaning."""

    PARENT = "mlflow.parentRunId"
    NAME = "mlflow.runName"
    USER = "mlflow.user"
    SOURCE = "mlflow.source.name"
    SOURCE_TYPE = "mlflow.source.type"
    GIT_COMMIT = "mlflow.source.git.commit"
    NOTE = "mlflow.note.content"
    TABLES = "mlflow.loggedArtifacts"


class Artifact(StrEnum):
    """Paths of artifacts within a run."""

    CALIBRATION = "calibration.json"
    ACTIVATIONS = "activations"
    VECTORS = "vectors"
    VECTOR = "vector.safetensors"
    RESPONSES = "responses.json"
    REPORT_HTML = "report.html"
    REPORT_MARKDOWN = "report.md"


TRAIT_SCORE, COHERENCE_SCORE = "trait_score", "coherence_score"
"""Per-question metrics, stepped by the question's index; an unscored question has no step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRow:
    """An evaluation, or a baseline (steering fields `None`), as the run store holds it."""

    kind: Kind
    experiment: str
    key: str
    setting: str
    """Digest of what evaluations must share to be compared; see `massact.keys.setting_digest`."""
    model: str
    """The model's name in the experiment file."""
    model_variant: str
    model_id: str
    model_revision: str
    dtype: str
    trait: str
    judge: str
    judge_model: str
    judge_prompt: str
    question_set: str
    """Digest of the question set."""
    subset: int
    n_questions: int
    max_new_tokens: int
    temperature: float
    seed: int
    position: str | None = None
    label: str | None = None
    method: str | None = None
    cleaning: str | None = None
    scope: str | None = None
    n_dims: int | AllDims | None = None
    n_dims_cleaned: int | None = None
    """How many dims were zeroed in the end (the list may be shorter than asked)."""
    layer: int | None = None
    coefficient: float | None = None
    component: str | None = None
    direction: Direction | None = None
    steered_tokens: str | None = None
    vector_digest: str | None = None
    baseline_key: str | None = None
    baseline_trait_mean: float | None = None
    trait_mean: float | None = None
    coherence_mean: float | None = None
    delta: float | None = None
    """`trait_mean` minus the baseline's."""
    trait_std: float | None = None
    coherence_std: float | None = None
    n_scored: int = 0
    n_unscored: int = 0
    tokens_per_second: float | None = None
    generation_seconds: float | None = None
    judge_seconds: float | None = None
    massive_energy: float | None = None
    cosine_to_uncleaned: float | None = None
    relative_strength: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRow:
    """A calibration or an extraction as the run store holds it."""

    kind: Kind
    experiment: str
    key: str
    """Digest of everything that decides its outcome, as with a cell."""
    model: str
    model_variant: str
    model_id: str
    model_revision: str
    dtype: str
    n_layers: int
    d_model: int
    trait: str | None = None
    position: str | None = None
    calibration_key: str | None = None
    """Of an extraction: the calibration whose massive dims its vectors were cleaned by."""
    labels: tuple[str, ...] = ()
    """Of an extraction: the labels it holds vectors of."""
    massive_dims: tuple[int, ...] = ()
    """Of a calibration: the uniform list."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Per-question scores of one evaluation, 0 to 100, in the question set's order; `None` unscored."""

    trait: tuple[float | None, ...]
    coherence: tuple[float | None, ...]


_PARAMS = (
    "model", "model_variant", "model_id", "model_revision", "dtype", "trait", "position", "label", "method",
    "cleaning", "scope", "n_dims", "layer", "coefficient", "component", "direction", "steered_tokens",
    "question_set", "subset", "n_questions", "max_new_tokens", "temperature", "seed", "judge", "judge_model",
    "judge_prompt", "vector_digest",
)  # fmt: skip
_METRICS = (
    "trait_mean", "coherence_mean", "delta", "baseline_trait_mean", "trait_std", "coherence_std", "n_scored",
    "n_unscored", "tokens_per_second", "generation_seconds", "judge_seconds", "massive_energy",
    "cosine_to_uncleaned", "relative_strength", "n_dims_cleaned", "layer", "coefficient",
)  # fmt: skip


def format_param(value: object) -> str:
    """A param's text: whole floats without `.0`, so that people read `800` as they wrote it."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def evaluation_params(row: EvaluationRow) -> dict[str, str]:
    """Params of an evaluation's run: what people filter and compare by."""
    values = ((name, getattr(row, name)) for name in _PARAMS)
    return {name: format_param(value) for name, value in values if value is not None}


def evaluation_metrics(row: EvaluationRow) -> dict[str, float]:
    """Metrics of an evaluation's run; a missing value is absent, never zero."""
    values = ((name, getattr(row, name)) for name in _METRICS)
    return {name: float(value) for name, value in values if value is not None}


def encode_row(row: EvaluationRow | StageRow) -> str:
    """The compact JSON of a row, for the tag `massact.row`.

    Raises:
        ValueError: longer than a tag may be, or with a number that JSON does not have.
    """
    values = {name: value for name, value in asdict(row).items() if value is not None}
    text = json.dumps(values, separators=(",", ":"), allow_nan=False)
    if len(text) > TAG_LIMIT:
        raise ValueError(
            f"the row of {row.kind} {row.key[:12]} takes {len(text)} characters, {TAG_LIMIT} fit in a tag"
        )
    return text


def decode_evaluation(text: str) -> EvaluationRow:
    """The row that `encode_row` wrote. Fields that a later version added are passed over.

    Raises:
        ValueError, TypeError: not such a row.
    """
    values = _known_fields(EvaluationRow, text)
    for name in _METRICS:
        if not isinstance(values.get(name, 0), int | float | None):
            raise TypeError(f"{name} is no number: {values[name]!r}")
    return EvaluationRow(**{**values, "kind": Kind(values["kind"])})


def decode_stage(text: str) -> StageRow:
    """The row of a calibration or an extraction that `encode_row` wrote.

    Raises:
        ValueError, TypeError: not such a row.
    """
    values = _known_fields(StageRow, text)
    for name in ("labels", "massive_dims"):
        if name in values:
            values[name] = tuple(values[name])
    return StageRow(**{**values, "kind": Kind(values["kind"])})


def encode_scores(scores: Scores) -> str | None:
    """Per-question scores as JSON for the tag `massact.scores`; `None` where they do not fit in a tag."""
    rounded = {name: [_rounded(v) for v in getattr(scores, name)] for name in ("trait", "coherence")}
    text = json.dumps(rounded, separators=(",", ":"), allow_nan=False)
    return text if len(text) <= TAG_LIMIT else None


def decode_scores(text: str) -> Scores:
    """The scores that `encode_scores` wrote.

    Raises:
        ValueError, TypeError, KeyError: not such scores.
    """
    values = json.loads(text, parse_constant=_refuse_constant)
    if not isinstance(values, dict):
        raise TypeError(f"not per-question scores: {text[:80]!r}")
    trait, coherence = _score_list(values["trait"]), _score_list(values["coherence"])
    if len(trait) != len(coherence):
        raise ValueError(f"{len(trait)} trait scores, but {len(coherence)} of coherence")
    return Scores(trait, coherence)


def _score_list(values: object) -> tuple[float | None, ...]:
    if not isinstance(values, list) or any(v is not None and not isinstance(v, int | float) for v in values):
        raise TypeError(f"not a list of scores: {str(values)[:80]}")
    return tuple(values)


def _rounded(score: float | None) -> float | None:
    # judges give at most four decimals; more would only make the tag longer
    return None if score is None else round(score, 4)


def _known_fields(cls: type[EvaluationRow] | type[StageRow], text: str) -> dict[str, Any]:
    values = json.loads(text, parse_constant=_refuse_constant)
    if not isinstance(values, dict) or "kind" not in values:
        raise ValueError(f"not a row of ours: {text[:80]!r}")
    names = {field.name for field in fields(cls)}
    return {name: value for name, value in values.items() if name in names}


def _refuse_constant(name: str) -> float:
    # Python reads NaN where JSON has none; a mean of NaN would be neither above nor below a floor
    raise ValueError(f"{name} is no number of JSON's")
