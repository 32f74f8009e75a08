"""Whole rows: all that the run store holds of a run, as one compact JSON in the tag `massact.row`."""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from functools import partial
from itertools import chain
from typing import Any, Literal, TypeVar

from massact.domain import AllDims, Direction, Mode
from massact.json_text import parse_json, parse_object, read_as
from massact.store.schema.names import TAG_LIMIT, Kind, Tag


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What every row has."""

    kind: Kind
    experiment: str
    key: str  # digest of everything that decides its outcome
    cell: str | None = field(default=None, compare=False, repr=False)
    """The canonical JSON whose SHA-256 is the key (of a screening: of what was given up), kept beside the row; `None`
    where the run does not hold it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRow(Row):
    """An evaluation, or a baseline (steering fields `None`), as the run store holds it."""

    setting: str  # digest of what evaluations must share to be compared; see `massact.keys.setting_digest`
    model: str  # the model's name in the experiment file
    model_variant: str
    model_id: str
    trait: str
    judge: str
    model_revision: str | None = None  # this and the next eight are `None` only where an imported file does not tell
    dtype: str | None = None
    judge_model: str | None = None
    judge_prompt: str | None = None
    question_set: str | None = None  # digest of the question set; of an imported row, the name of its file
    subset: int | None = None
    n_questions: int | None = None
    prompt_set: str | None = None  # of an imported row: the folder that its file lay in
    trait_digest: str | None = None
    """Of the trait's contrastive prompts and definition; `None` also where an older version measured."""
    chat_template_digest: str | None = None
    thinking: str | None = None
    template_arguments: str | None = None
    vector_source: str | None = None  # of an imported row: what its header says of where the vectors are from
    max_new_tokens: int | None = None
    temperature: float | None = None
    seed: int | None = None
    origin: Literal["imported"] | None = None
    position: str | None = None
    label: str | None = None
    method: str | None = None
    cleaning: str | None = None
    scope: str | None = None
    n_dims: int | AllDims | None = None
    n_dims_cleaned: int | None = None
    """How many dims were zeroed, or kept, in the end (the list may be shorter than asked)."""
    cleaning_mode: Mode | None = None
    """`keep`: all other dims were zeroed; `winsorise`: activations were cut off at `quantile`."""
    quantile: float | None = None
    layer: int | None = None
    coefficient: float | None = None
    component: str | None = None
    direction: Direction | None = None
    operator: str | None = None
    """What is done with the vector; `None` where an earlier version added it, and of an imported row."""
    operator_source: str | None = None  # SHA-256 of the experiment's own file that defines it
    steered_tokens: str | None = None
    vector_digest: str | None = None
    n_vectors: int = 1  # how many vectors steered at once; `layer` and `coefficient` are those of the first
    n_directions: int = 1  # of `replace`: how many directions its subspace has
    depth: str | None = None  # how the coefficient lies over depth; `None`: the same at each layer
    decay: float | None = None  # what is left of the change at each token of the response; `None`: all
    gate: str | None = None  # name of the gate that had to be open to a prompt; `None`: there was none
    vector_seed: int | None = None  # of a random direction; `None`: the experiment's
    prompting_digest: str | None = None  # of what stood before every question in a vector's place
    baseline_key: str | None = None
    baseline_trait_mean: float | None = None
    trait_mean: float | None = None
    coherence_mean: float | None = None
    delta: float | None = None
    trait_std: float | None = None
    coherence_std: float | None = None
    n_scored: int = 0
    n_unscored: int = 0
    unscored_because: str | None = None  # of an imported row: why a mean is missing that its file has a word for
    tokens_per_second: float | None = None
    generation_seconds: float | None = None
    judge_seconds: float | None = None
    massive_energy: float | None = None
    cosine_to_uncleaned: float | None = None
    relative_strength: float | None = None
    confirm_share: float | None = None
    """Share of the trait's questions that take no part in choosing winners; `None`: all of them do."""
    confirms: str | None = None
    """Of a confirmation: the key of the evaluation, or of the baseline, that it repeats on those questions."""
    same_as: str | None = None
    """Label whose result at this place this one was taken over from, since their vectors are alike; `None`: this was
    evaluated itself. Nothing was generated for it, so it has no timings and no responses of its own."""
    same_as_key: str | None = None
    """Key of the evaluation that it was taken over from: its responses are the ones that were scored."""
    same_as_cosine: float | None = None
    metrics: Mapping[str, float] | None = field(default=None, hash=False)
    """Means over the responses, by name (`massact.metrics`); `None` where an earlier version measured none."""
    metric_tokens: int | None = None  # first tokens of a response that `kl` and `perplexity` read
    metric_sources: Mapping[str, str] | None = field(default=None, hash=False)
    """SHA-256 of the file of each metric that is a function of the experiment's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRow(Row):
    """A calibration or an extraction as the run store holds it."""

    model: str
    model_variant: str
    model_id: str
    n_layers: int
    model_revision: str | None = None
    """This, `dtype` and `d_model` are `None` only where an imported file does not tell."""
    dtype: str | None = None
    d_model: int | None = None
    origin: Literal["imported"] | None = None
    trait: str | None = None
    position: str | None = None
    calibration_key: str | None = None
    """Of an extraction: the calibration whose massive dims its vectors were cleaned by."""
    validation_split: float | None = None
    """Of an extraction: share of each side kept for validation; `None` where an older version made it."""
    vetting: str | None = None  # of an extraction: how its continuations were vetted; `None`: they were not
    labels: tuple[str, ...] = ()
    massive_dims: tuple[int, ...] = ()  # of a calibration: the uniform list


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedRow(Row):
    """A figure from a write-up, as it was printed. What the write-up does not give is `None`."""

    source: str
    model: str  # as printed, such as `google/gemma-3-4b`
    trait: str
    position: str
    label: str  # in its one spelling where it is a label of ours, else as printed
    layer: int | None = None
    coefficient: float | None = None
    trait_mean: float | None = None
    coherence_mean: float | None = None
    delta: float | None = None
    baseline_trait_mean: float | None = None
    coherence_floor: float | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AgreementRow(Row):
    """A judge held against people: one of its two scores beside theirs of the same responses."""

    trait: str
    score: Literal["trait", "coherence"]
    judge: str
    judge_model: str
    judge_prompt: str  # these three are the judge's identity, as an evaluation's row has it
    n_responses: int  # that have a score of the judge and of a person
    n_questions: int
    n_annotators: int
    n_bands: int  # equal bands of 0 to 100 that the kappas count by
    verdict: Literal["agrees", "disagrees", "cannot say"]
    pearson: float | None = None
    """As all figures -1 to 1; `None` where it is not defined. The limits hold it in 95 of 100 sets of questions."""
    pearson_low: float | None = None
    pearson_high: float | None = None
    spearman: float | None = None
    spearman_low: float | None = None
    spearman_high: float | None = None
    kappa: float | None = None  # Cohen's, by band
    kappa_low: float | None = None
    kappa_high: float | None = None
    weighted_kappa: float | None = None  # with quadratic weights
    weighted_kappa_low: float | None = None
    weighted_kappa_high: float | None = None
    people: float | None = None
    """Weighted kappa between two people, the mean over all pairs; `None`: no two scored the same responses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CapabilityRow(Row):
    """What an intervention costs on a task of lm-evaluation-harness."""

    evaluation_key: str  # key of the evaluation whose intervention it is
    task: str
    metric: str
    n_documents: int
    value: float  # the metric's mean over the documents, steered, in points (hundredths)
    unsteered: float
    delta: float  # steered minus unsteered, in points: what it costs where it is negative
    delta_low: float  # of the interval that holds the delta in 95 of 100 sets of documents
    delta_high: float
    settings: str  # how the task was run, as canonical JSON


RowT = TypeVar("RowT", bound=Row)
_BESIDE = "cell"
_PARAMS = (
    "model", "model_variant", "model_id", "model_revision", "dtype", "trait", "position", "label", "method",
    "cleaning", "cleaning_mode", "quantile", "scope", "n_dims", "layer", "coefficient", "component", "direction",
    "operator", "operator_source", "steered_tokens", "question_set", "subset", "n_questions", "prompt_set",
    "max_new_tokens", "temperature", "seed", "judge", "thinking", "template_arguments", "judge_model", "judge_prompt",
    "vector_digest", "origin", "n_vectors", "n_directions", "depth", "decay", "gate", "confirm_share", "confirms",
    "same_as", "same_as_key", "unscored_because", "vector_seed", "prompting_digest", "metric_tokens",
)  # fmt: skip
_METRICS = (
    "trait_mean", "coherence_mean", "delta", "baseline_trait_mean", "trait_std", "coherence_std", "n_scored",
    "n_unscored", "tokens_per_second", "generation_seconds", "judge_seconds", "massive_energy",
    "cosine_to_uncleaned", "relative_strength", "n_dims_cleaned", "layer", "coefficient", "same_as_cosine",
)  # fmt: skip


def format_param(value: object) -> str:
    """A param's text: whole floats without `.0`, so that people read `800` as they wrote it."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def row_params(row: Row, names: Iterable[str]) -> dict[str, str]:
    """Fields of a row as params of its run."""
    return {name: format_param(value) for name in names if (value := getattr(row, name)) is not None}


def evaluation_params(row: EvaluationRow) -> dict[str, str]:
    """Params of an evaluation's run: what people filter and compare by."""
    usual = {name for name in ("n_vectors", "n_directions") if getattr(row, name) == 1}
    return row_params(row, (name for name in _PARAMS if name not in usual))


def evaluation_metrics(row: EvaluationRow) -> dict[str, float]:
    """Metrics of an evaluation's run; a missing value is absent, never zero."""
    values = ((name, getattr(row, name)) for name in _METRICS)
    return {name: float(value) for name, value in values if value is not None} | dict(row.metrics or {})


def run_name(row: EvaluationRow) -> str:
    """A name that tells a run in the UI's list from its neighbours."""
    again = f"{row.kind.replace('_', ' ')} · " if row.kind not in (Kind.EVALUATION, Kind.BASELINE) else ""
    if row.layer is None:
        return f"{again}{row.label or 'baseline'} · {row.model} · {row.trait}"
    position = (row.position or "").removeprefix("response")
    other = f" · {row.trait}" if row.kind is Kind.SIDE_EFFECT else ""
    return f"{again}{row.label} {position} · L{row.layer} · c={row.coefficient or 0:g} · {row.model}{other}"


def encode_row(row: Row) -> str:
    """The compact JSON of a row; ValueError or TypeError where it is too long for a tag, or could not be read back."""
    told = (
        (field.name, getattr(row, field.name)) for field in fields(row) if field.name != _BESIDE
    )  # asdict copies values
    values = {name: value for name, value in told if value is not None}
    text = json.dumps(values, separators=(",", ":"), allow_nan=False)
    if len(text) > TAG_LIMIT:
        raise ValueError(f"the row of {row.kind} {row.key[:12]} takes {len(text)} characters, {TAG_LIMIT} fit in a tag")
    decode_row(type(row), text)
    return text


MOST = 2**31 - 1  # of a count: what fits in the 32 bits that a point and a database have for it


def decode_row(cls: type[RowT], text: str, cell: str | None = None) -> RowT:
    """The row that `encode_row` wrote, without what a later version added, and the cell; ValueError, TypeError else."""
    values = parse_object(text)
    if "kind" not in values:
        raise ValueError(f"not a row of ours: {text[:80]!r}")
    for name, value in values.items():
        if name.startswith("n_") and type(value) is int and not 0 <= value <= MOST:
            raise ValueError(f"{name} is no count from 0 to {MOST}: {value}")
    row: RowT = read_as(cls, {**values, _BESIDE: cell})
    return row


decode_evaluation = partial(decode_row, EvaluationRow)
decode_stage = partial(decode_row, StageRow)
_ROWS: Mapping[Kind | None, type[Row]] = {
    Kind.CALIBRATION: StageRow,
    Kind.EXTRACTION: StageRow,
    Kind.PUBLISHED: PublishedRow,
    Kind.AGREEMENT: AgreementRow,
    Kind.CAPABILITY: CapabilityRow,
}  # of all other kinds evaluations


def row_of(kind: Kind | None, tags: Mapping[str, str]) -> Any:
    """The row of a run of a kind (`None`: of any that holds an evaluation's); `None`: not readable, or of another."""
    with suppress(ValueError, TypeError):
        row = decode_row(_ROWS.get(kind, EvaluationRow), tags.get(Tag.ROW, ""), tags.get(Tag.CELL))
        return row if kind in (None, row.kind) else None
    return None


# Per-question scores, as one compact JSON in the tag `massact.scores`.

_TEXTS_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Scores:
    """Per-question scores of one evaluation, 0 to 100, in the question set's order; `None` unscored."""

    trait: tuple[float | None, ...]
    coherence: tuple[float | None, ...]
    metrics: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict, hash=False)
    """Of each metric likewise, each in a tag of its own; read only where they are asked for."""


def encode_scores(scores: Scores) -> str | None:
    """Per-question scores as JSON for the tag `massact.scores`; `None` where they do not fit in a tag."""
    # judges give at most four decimals; more would only make the tag longer
    rounded = {
        name: [None if score is None else round(score, 4) for score in getattr(scores, name)]
        for name in ("trait", "coherence")
    }
    text = json.dumps(rounded, separators=(",", ":"), allow_nan=False)
    return text if len(text) <= TAG_LIMIT else None


def encode_metrics(scores: Scores) -> dict[str, str]:
    """Metrics by question as the tags `massact.scores.NAME`, each a JSON list; one that does not fit is left out."""
    texts = {name: json.dumps(values, separators=(",", ":")) for name, values in scores.metrics.items()}
    return {metric_tag(name): text for name, text in texts.items() if len(text) <= TAG_LIMIT}


def metric_tag(name: str) -> str:
    """The tag that holds a metric's values by question."""
    return f"{Tag.SCORES}.{name}"


def decode_metric(text: str) -> tuple[float | None, ...]:
    """The values that `encode_metrics` wrote. Raises ValueError, TypeError: no such values."""
    values: tuple[float | None, ...] = read_as(tuple[float | None, ...], parse_json(text))
    return values


def decode_scores(text: str) -> Scores:
    """The scores that `encode_scores` wrote. Raises ValueError, TypeError, KeyError: not such scores."""
    return _decode_together([text])[0]


def decode_many_scores(texts: Sequence[str]) -> list[Scores | None]:
    """What `decode_scores` says of each text, `None` where it refuses; together they take a fifth of the time."""
    decoded: list[Scores | None] = []
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        some = texts[start : start + _TEXTS_AT_ONCE]
        try:
            decoded += _decode_together(some)
        except (ValueError, TypeError, KeyError):  # at least one is none: find which
            decoded += (
                [None] if len(some) == 1 else chain.from_iterable(decode_many_scores([scores]) for scores in some)
            )
    return decoded


def _decode_together(texts: Sequence[str]) -> list[Scores]:
    parsed = parse_json(f"[{','.join(texts)}]")
    if len(parsed) != len(texts):
        raise ValueError("not one object a text")
    if set(map(type, parsed)) != {dict}:
        raise TypeError(f"not per-question scores: {texts[0][:80]!r}")
    pairs = [(scores["trait"], scores["coherence"]) for scores in parsed]
    if set(map(type, chain.from_iterable(pairs))) != {list}:
        raise TypeError("not a list of scores")
    values = chain.from_iterable(chain.from_iterable(pairs))
    if not set(map(type, values)) <= {float, int, type(None)}:
        raise TypeError("a score of the wrong type")
    if any(len(trait) != len(coherence) for trait, coherence in pairs):
        raise ValueError("scores of trait and coherence differ in number")
    return [Scores(tuple(trait), tuple(coherence)) for trait, coherence in pairs]
