"""A line of `results.jsonl`, as trait-interp's `utils/steering_results.py` writes it, as frozen values."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, BinaryIO

from massact.domain import COMPONENT, Direction
from massact.errors import UsageError, lfs_advice
from massact.json_text import JsonError, parse_json
from massact.labels import normalise_label
from massact.store.schema.rows import MOST
from massact.vectors.positions import parse_position

# One line of a file as a JSON document in one spelling, or the reason why it is none.

MAX_LINE_BYTES = 10_000_000  # a longer line is refused unread: no result takes a hundredth of it
_MAX_EXACT = 2.0**53
_BOM = b"\xef\xbb\xbf"


class LineError(ValueError):
    """A line that cannot be imported, raised by whatever reads a part of it; the message is the reason."""


def read_lines(file: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Line numbers, from 1, and lines; `None` for one longer than `MAX_LINE_BYTES`, passed over unread."""
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        is_whole = len(line) <= MAX_LINE_BYTES
        rest = line
        while not rest.endswith(b"\n") and len(rest) > MAX_LINE_BYTES:
            rest = file.readline(MAX_LINE_BYTES + 1)
        yield number, (line.removeprefix(_BOM) if number == 1 else line) if is_whole else None


def parse_document(line: bytes | None, *, allow_nan: bool = False) -> dict[str, Any]:
    """The JSON object of a line, numbers in one spelling (`800.0` as 800)."""
    if line is None:
        raise LineError(f"the line is longer than {MAX_LINE_BYTES // 1_000_000} MB")
    if advice := lfs_advice(line):
        raise LineError(advice)
    try:
        document = parse_json(line, allow_nan=allow_nan)
    except JsonError as error:
        raise LineError(f"not JSON: {error}") from error
    if not isinstance(document, dict):
        raise LineError("not a JSON object")
    spelled: dict[str, Any] = _mapped(document, _spelled)
    return spelled


def without_nan(value: Any) -> Any:
    """A document with `None` for each NaN, which no digest and no other reader's JSON knows."""
    return _mapped(value, lambda leaf: None if isinstance(leaf, float) and math.isnan(leaf) else leaf)


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, dict):
        return {change(key): _mapped(inner, change) for key, inner in value.items()}
    return [_mapped(inner, change) for inner in value] if isinstance(value, list) else change(value)


def _spelled(leaf: Any) -> Any:
    """A whole number as an integer; what no store can keep is refused."""
    if isinstance(leaf, str) and "\0" in leaf:
        raise LineError("a text holds a NUL, which no store can keep")
    if not isinstance(leaf, float) or math.isnan(leaf):
        return leaf
    if math.isinf(leaf):
        raise LineError(f"{'-' if leaf < 0 else ''}Infinity is not a number that JSON has")
    return int(leaf) if leaf.is_integer() and abs(leaf) < _MAX_EXACT else leaf


OWN = "massact"  # the object that massact's own export adds to a line; no other reader of the format looks at it
MAX_LAYER = 100_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_VECTOR_FIELDS = ("layer", "component", "position", "method", "weight")


@dataclass(frozen=True, slots=True)
class Header:
    """The header of a file. What it does not tell is `None`."""

    document: Mapping[str, Any] | None = None
    """The header as it was written, without `massact`; `None` where the file has none."""
    extra: Mapping[str, Any] | None = None  # its `massact` object, in a file of our own export
    trait: str | None = None
    direction: Direction | None = None
    steering_model: str | None = None
    judge_model: str | None = None
    judge_method: str | None = None
    prompts_file: str | None = None
    n_questions: int | None = None

    @property
    def vector_source(self) -> Any:
        return (self.document or {}).get("vector_source")


@dataclass(frozen=True, slots=True)
class Vector:
    layer: int
    component: str
    position: str | None  # in its one spelling; `None` where the line does not tell
    method: str  # as written, such as `probe_postclean_u2`
    label: str  # the method in its one spelling where it is a label of ours, else as written
    weight: float
    extra: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Result:
    """What came of it; scores are 0 to 100, `None` where nothing was scored."""

    trait_mean: float | None
    coherence_mean: float | None
    trait_std: float | None
    n: int | None  # how many responses have a trait score
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class ResultLine:
    """A baseline (no vectors) or an evaluation."""

    document: Mapping[str, Any]  # the whole line, numbers in one spelling
    result: Result
    trait_judge: str | None
    timestamp: str | None
    finished_at: int | None  # the timestamp in milliseconds since 1970; one without a zone counts as UTC
    vectors: tuple[Vector, ...] = ()
    config: Mapping[str, Any] | None = None  # what the config of an evaluation holds beside its vectors

    @property
    def is_baseline(self) -> bool:
        return not self.vectors


def parse_line(document: Mapping[str, Any]) -> Header | ResultLine:
    """What a line of trait-interp's holds."""
    return _header(document) if document.get("type") == "header" else parse_result_line(document)


def _header(document: Mapping[str, Any]) -> Header:
    direction = document.get("direction")
    if "direction" in document and direction not in ("positive", "negative"):
        raise LineError(f"header: direction {direction!r} is neither 'positive' nor 'negative'")
    judge = _mapping(document, "eval") or {}
    extra = document.get(OWN)
    return Header(
        document=without_nan({name: value for name, value in document.items() if name != OWN}),
        extra=extra if isinstance(extra, dict) else None,
        direction=direction,
        judge_model=_text(judge, "model"),
        judge_method=_text(judge, "method"),
        **{name: _text(document, name) for name in ("trait", "steering_model", "prompts_file")},
        n_questions=_count(document, "n_questions"),
    )


def parse_result_line(document: Mapping[str, Any]) -> ResultLine:
    kind = document.get("type")
    if "type" in document and kind not in ("baseline", "evaluation"):
        raise LineError(f"unknown type {kind!r}: a line is a header, a baseline or an evaluation")
    if not isinstance(document.get("result"), dict):
        raise LineError("no `result`")
    timestamp = _text(document, "timestamp")
    vectors: tuple[Vector, ...] = ()
    config: dict[str, Any] | None = None
    if kind != "baseline":
        vectors = _vectors(document)
        config = {name: value for name, value in document["config"].items() if name != "vectors"}
    return ResultLine(
        document=without_nan(document),
        result=_result(document["result"]),
        trait_judge=_text(_mapping(document, "eval") or {}, "trait_judge"),
        timestamp=timestamp,
        finished_at=None if timestamp is None else milliseconds(timestamp),
        vectors=vectors,
        config=without_nan(config),
    )


def milliseconds(timestamp: str) -> int:
    """An ISO timestamp in milliseconds since 1970; without a zone it counts as UTC."""
    try:
        moment = datetime.fromisoformat(timestamp)
        at = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH
    except (ValueError, OverflowError) as error:
        raise LineError(f"timestamp {timestamp!r} is not an ISO time such as 2026-01-11T09:08:38") from error
    if at < timedelta(0):
        raise LineError(f"timestamp {timestamp!r} lies before 1970")
    return at // timedelta(milliseconds=1)


def _vectors(document: Mapping[str, Any]) -> tuple[Vector, ...]:
    config = document.get("config")
    vectors = config.get("vectors") if isinstance(config, dict) else None
    if not isinstance(config, dict) or not isinstance(vectors, list):
        raise LineError("no `config.vectors`")
    if not vectors:
        raise LineError("`config.vectors` is empty: an evaluation is steered by a vector")
    component = _text(config, "component") or COMPONENT
    return tuple(_vector(fields, component) for fields in vectors)


def _vector(fields: object, component: str) -> Vector:
    if not isinstance(fields, dict):
        raise LineError("`config.vectors` holds something that is not an object")
    layer, method, position = fields.get("layer"), _text(fields, "method"), _text(fields, "position")
    if not isinstance(layer, int) or isinstance(layer, bool) or not 0 <= layer <= MAX_LAYER:
        raise LineError(f"layer {layer!r} is not a whole number from 0")
    if not method:
        raise LineError("a vector without a method")
    label = method
    with suppress(UsageError):  # no label of ours: kept as it is written
        label = normalise_label(method)
    try:
        position = None if position is None else str(parse_position(position))
    except UsageError as error:
        raise LineError(f"position {position!r} is not a window such as response[:5]") from error
    return Vector(
        layer=layer,
        component=_text(fields, "component") or component,
        position=position,
        method=method,
        label=label,
        weight=_finite(fields.get("weight"), "weight") + 0.0,  # -0.0 and 0.0 are one coefficient
        extra=without_nan({name: value for name, value in fields.items() if name not in _VECTOR_FIELDS}),
    )


def _result(fields: Mapping[str, Any]) -> Result:
    fields, nans = without_nans(fields, ("trait_mean", "coherence_mean", "trait_std"))
    missing, spread = [name for name in nans if name != "trait_std"], fields.get("trait_std")
    reason = f"the file has NaN, the mean of no scores, as {' and '.join(missing)}" if missing else None
    std = None if spread is None else _finite(spread, "trait_std")
    return Result(score(fields, "trait_mean"), score(fields, "coherence_mean"), std, _count(fields, "n"), reason)


def score(fields: Mapping[str, Any], name: str) -> float | None:
    """A score of a document, 0 to 100; `None` where it is missing."""
    value = None if fields.get(name) is None else _finite(fields[name], name)
    if value is not None and not 0 <= value <= 100:
        raise LineError(f"{name} {fields[name]!r} is not within 0 to 100")
    return value


def without_nans(fields: Mapping[str, Any], names: Sequence[str]) -> tuple[Mapping[str, Any], list[str]]:
    """A document in which those of some fields that are NaN are missing, and which these are."""
    nans = [name for name in names if isinstance(value := fields.get(name), float) and math.isnan(value)]
    return {**fields, **dict.fromkeys(nans)}, nans


def _finite(value: object, name: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise LineError(f"{name} {value!r} is not a number")
    if math.isnan(value):
        raise LineError(f"{name} is NaN")
    return float(value)


def _field(fields: Mapping[str, Any], name: str, *, kind: type[Any], what: str) -> Any:
    """A field of a kind; `None` where it is missing."""
    value = fields.get(name)
    if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
        raise LineError(f"{name} {value!r} is not {what}")
    return value


_text, _mapping = partial(_field, kind=str, what="a text"), partial(_field, kind=dict, what="an object")


def _count(fields: Mapping[str, Any], name: str) -> int | None:
    value: int | None = _field(fields, name, kind=int, what="a count")
    if value is not None and not 0 <= value <= MOST:
        raise LineError(f"{name} {value!r} is not a count")
    return value
