"""An evaluation as questions see it: the least that finds, ranks and names it, in one small tag.

A question over 100,000 evaluations should take a second. Their whole rows take 120 MB, their params and metrics
four million table rows; a point takes some 350 characters (`massact.store.schema.points`) and is ranked by columns."""

import base64
import hashlib
import json
import math
import struct
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import compress
from typing import Any, NamedTuple

from massact._lazy import Indices, Mask, Numbers, np
from massact.json_text import parse_json
from massact.store.schema.names import POINT_TAG, Kind
from massact.store.schema.rows import EvaluationRow

RunText = tuple[str, int | None, str]  # a run's id, its end in milliseconds since 1970, and the tag's text
Place = tuple[str, str, str, str, str]
"""Setting, model, trait, position and label: a group in one setting; `StoredPoint.place`."""


class StoredPoint(NamedTuple):
    """A finished evaluation: its run, its place in the grid, and what came of it; means are 0 to 100."""

    run_id: str
    finished_at: int  # milliseconds since 1970; -1 where the run has no end
    setting: str
    model: str
    trait: str
    position: str
    label: str
    baseline_trait_mean: float | None
    layer: int
    n_dims_cleaned: int | None
    vector_digest: str | None
    key: str
    coefficient: float
    trait_mean: float | None
    coherence_mean: float | None
    delta: float | None
    n_scored: int
    n_unscored: int
    relative_strength: float | None
    same_as: str | None = None  # label whose result this one was taken over from, since their vectors are alike
    same_as_cosine: float | None = None
    metrics: Mapping[str, float] | None = None  # means by name; see `massact.metrics`

    @property
    def place(self) -> Place:
        """Setting, model, trait, position and label."""
        return self[2:7]


NUMBERS = ("coefficient", "baseline_trait_mean", "trait_mean", "coherence_mean", "delta", "relative_strength")
COUNTS = ("n_scored", "n_unscored")
_OTHER_COLUMNS = {*NUMBERS, *COUNTS, "layer"}
MARKS = ("same_as", "same_as_cosine")  # what the third line ends with where a result was taken over from another label
HEAD = ("setting", "model", "trait", "position", "label", "layer", "n_dims_cleaned", "vector_digest", *MARKS)
"""What the third line holds, after the experiment's name; without the marks where there are none."""


@dataclass(frozen=True, slots=True)
class Points:
    """Many points, by column: a hundred thousand are ranked in a few milliseconds."""

    run_ids: list[str]
    finished_at: Indices  # milliseconds since 1970; -1 where the run has no end
    keys: list[str]
    heads: list[list[Any]]  # the distinct third lines: `HEAD`, in its order
    head: Indices  # of each point, the index of its head
    numbers: dict[str, Numbers]  # `NUMBERS`, `COUNTS`, `layer` and metrics by name; NaN where missing
    told: "Points | None" = None  # the same as the store tells it, where `counting` took figures out
    short: Mask | None = None  # which of them have scores of too few responses; `None`: none has
    doubtful: Mask | None = None  # which of them do not count as coherent, whatever their mean; `None`: none of them

    @classmethod
    def of(cls, points: Iterable[StoredPoint]) -> "Points":
        """The same by column."""
        points = list(points)
        metrics = dict.fromkeys(name for point in points for name in point.metrics or ())
        columns: dict[str, list[float | None]] = {
            **{name: [getattr(point, name) for point in points] for name in (*NUMBERS, *COUNTS, "layer")},
            **{name: [(point.metrics or {}).get(name) for point in points] for name in metrics},
        }
        heads: dict[tuple[Any, ...], int] = {}
        head = [heads.setdefault(tuple(getattr(p, name) for name in HEAD), len(heads)) for p in points]
        return cls(
            [point.run_id for point in points],
            np.array([point.finished_at for point in points], dtype=np.int64),
            [point.key for point in points],
            [list(head) for head in heads],
            np.array(head, dtype=np.intp),
            {name: np.array([*map(or_nan, column)], dtype=np.float64) for name, column in columns.items()},
        )

    def __len__(self) -> int:
        return len(self.run_ids)

    def __iter__(self) -> Iterator[StoredPoint]:
        return map(self.at, range(len(self)))

    def at(self, index: int) -> StoredPoint:
        """One point."""
        values = dict(zip(HEAD, self.heads[self.head[index]], strict=True))
        numbers = {name: float(self.numbers[name][index]) for name in NUMBERS}
        values |= {name: None if math.isnan(number) else number for name, number in numbers.items()}
        values |= {name: int(self.numbers[name][index]) for name in COUNTS}
        told = ((name, float(self.numbers[name][index])) for name in self.metric_names)
        metrics = {name: value for name, value in told if not math.isnan(value)} or None
        run_id, finished_at = self.run_ids[index], int(self.finished_at[index])
        return StoredPoint(run_id=run_id, finished_at=finished_at, key=self.keys[index], metrics=metrics, **values)

    @property
    def metric_names(self) -> list[str]:
        """The metrics that any of them has."""
        return [name for name in self.numbers if name not in _OTHER_COLUMNS]

    def column(self, name: str) -> Numbers:
        """One of the numbers; NaN where missing, as everywhere of a metric that none has."""
        return self.numbers[name] if name in self.numbers else np.full(len(self), np.nan)

    def by_place(self) -> dict[Place, Indices]:
        """The indices of the points of each place."""
        places: dict[Place, int] = {}
        of_head = [places.setdefault(tuple(head[:5]), len(places)) for head in self.heads]
        if not of_head:
            return {}
        place = np.array(of_head, dtype=np.intp)[self.head]
        order = np.argsort(place, kind="stable")
        starts = np.searchsorted(place[order], np.arange(1, len(places)))
        by_place = zip(places, np.split(order, starts), strict=True)
        return {name: indices for name, indices in by_place if len(indices)}

    def newest(self) -> "Points":
        """Of each key the newest run alone (by end, then run id)."""
        last = dict(zip(self.keys, range(len(self)), strict=True))
        if len(last) == len(self):
            return self
        several: dict[str, list[int]] = {}
        for index, key in enumerate(self.keys):
            if last[key] != index:
                several.setdefault(key, [last[key]]).append(index)
        is_newest = np.ones(len(self), dtype=bool)
        for indices in several.values():
            is_newest[indices] = False
            is_newest[max(indices, key=lambda i: (self.finished_at[i], self.run_ids[i]))] = True
        return self.where(is_newest)

    def joined(self, others: Sequence[StoredPoint]) -> "Points":
        """These and others."""
        return Points.of([*self, *others]) if others else self

    def counting(self, least_scored: float, without_baseline: Container[str] = ()) -> "Points":
        """The same as questions count it: what is scored too little has no figure, and without a baseline no delta. A
        setting in `without_baseline` has one that is scored too little; `least_scored` is a share, 0 to 1."""
        numbers = self.numbers
        short = ~has_enough_scores(numbers["n_scored"], numbers["n_unscored"], least_scored)
        alone = np.array([head[0] in without_baseline for head in self.heads], dtype=bool)[self.head]
        if not (short | alone).any():
            return self
        coherence = np.where(short, np.nan, numbers["coherence_mean"])
        delta = np.where(short | alone, np.nan, numbers["delta"])
        metrics = {name: np.where(short, np.nan, numbers[name]) for name in self.metric_names}
        counted = {**numbers, "coherence_mean": coherence, "delta": delta, **metrics}
        return replace(self, numbers=counted, told=self, short=short)

    def doubting(self, run_ids: Container[str]) -> "Points":
        """The same where some runs more do not count as coherent."""
        doubtful = np.array([run_id in run_ids for run_id in self.run_ids], dtype=bool)
        return replace(self, doubtful=doubtful if self.doubtful is None else doubtful | self.doubtful)

    def where(self, mask: Mask) -> "Points":
        """Those that a mask admits."""
        run_ids, keys = (list(compress(texts, mask.tolist())) for texts in (self.run_ids, self.keys))
        numbers = {name: column[mask] for name, column in self.numbers.items()}
        return Points(run_ids, self.finished_at[mask], keys, self.heads, self.head[mask], numbers)


def has_enough_scores(n_scored: Any, n_unscored: Any, least_scored: float) -> Any:
    """Whether so many of the responses have scores; of numbers, or of whole columns. Where neither is counted, as in
    some imported files, a result is taken as it is told."""
    return n_scored >= least_scored * (n_scored + n_unscored) - 1e-9


def is_scored(row: EvaluationRow, least_scored: float) -> bool:
    """Whether a row has scores of enough of its responses to be a result."""
    return bool(has_enough_scores(row.n_scored, row.n_unscored, least_scored))


def or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def point_of(row: EvaluationRow, run_id: str, finished_at: int | None) -> StoredPoint | None:
    """The point of a whole row; `None` for a row that is not a point of the grid."""
    if not is_point(row):
        return None
    names = StoredPoint._fields[2:]  # as a row calls them
    return StoredPoint(run_id, -1 if finished_at is None else finished_at, *(getattr(row, n) for n in names))


def is_point(row: EvaluationRow) -> bool:
    """Whether a row is a point of the grid: no second chance to win, nothing that was asked less than others."""
    if row.kind in (Kind.CONFIRMATION, Kind.SCREENING, Kind.CONTROL, Kind.SIDE_EFFECT):
        return False
    return None not in (row.position, row.label, row.layer, row.coefficient)


# The text of the tag that holds a point, in three lines: the numbers (little-endian, in base64: `_RECORD`), the key,
# and as JSON what all coefficients of a layer share, which is parsed once for all of them; in a fourth line metrics:
# their names, and their values as the numbers are. The tag's key carries a
# digest of the experiment's name, since MLflow indexes tags by key: another experiment's evaluations cost nothing.

POINT_VERSION = 1
POINT_LIMIT = 2000  # of a point's text, in bytes: a row of an index in PostgreSQL holds 2,700 (docs/service.md, tuning)
_RECORD = struct.Struct("<B6d2i")
"""Version, `NUMBERS` (NaN where missing), `COUNTS`: 57 bytes, so that base64 needs no padding."""
_WIDTH = _RECORD.size // 3 * 4
_HEAD_TYPES: tuple[frozenset[type[Any]], ...] = (
    *[frozenset({str})] * 6,
    frozenset({int}),
    frozenset({int, type(None)}),
    frozenset({str, type(None)}),
    frozenset({str, type(None)}),
    frozenset({float, int, type(None)}),
)
_LENGTHS = {len(_HEAD_TYPES), len(_HEAD_TYPES) - len(MARKS)}


@cache
def point_tag(experiment: str) -> str:
    """Key of the tag that holds the points of an experiment's evaluations."""
    return f"{POINT_TAG}.{experiment_digest(experiment)}"


def experiment_digest(experiment: str) -> str:
    """What stands for an experiment's name in keys of tags, which are too short for some names."""
    return hashlib.sha256(experiment.encode()).hexdigest()[:12]


def encode_point(row: EvaluationRow) -> str | None:
    """The tag's text for an evaluation; `None` for a row that is no point of the grid, or has names too long: its run
    is read from its row. Raises ValueError: a number that is NaN or infinite."""
    if not is_point(row):
        return None
    values = [getattr(row, name) for name in NUMBERS]
    if any(value is not None and not math.isfinite(value) for value in values):
        raise ValueError(f"evaluation {row.key[:12]}: a number is NaN or infinite: {values}")
    record = _RECORD.pack(POINT_VERSION, *map(or_nan, values), row.n_scored, row.n_unscored)
    head = [row.experiment, *(getattr(row, name) for name in HEAD)]
    if row.same_as is None:
        del head[-len(MARKS) :]  # as every version wrote it
    lines = [base64.b64encode(record).decode(), row.key, json.dumps(head, separators=(",", ":"))]
    if row.metrics:
        if not all(map(math.isfinite, row.metrics.values())):
            raise ValueError(f"a metric is NaN or infinite: {row.metrics}")
        figures = struct.pack(f"<{len(row.metrics)}d", *row.metrics.values())
        # a multiple of three bytes, so that no padding stands in the midst of many
        lines.append(f"{','.join(row.metrics)} {base64.b64encode(figures + bytes(-len(figures) % 3)).decode()}")
    text = "\n".join(lines)
    return text if len(text.encode()) <= POINT_LIMIT else None


def decode_points(experiment: str, runs: Sequence[RunText]) -> tuple[Points, list[str]]:
    """The points of runs, and the ids of runs whose tag is not a point of this experiment."""
    try:
        return _decode(experiment, runs), []
    except ValueError:
        good, bad = [], []
    for run in runs:  # at least one is none: find which
        try:
            _decode(experiment, [run])
        except ValueError:
            bad.append(run[0])
        else:
            good.append(run)
    return _decode(experiment, good), bad


def _decode(experiment: str, runs: Sequence[RunText]) -> Points:
    if not runs:
        return Points.of(())
    # by columns, a call for all: a hundred thousand calls cost more than what they decode
    run_ids, ends, texts = zip(*runs, strict=True)
    lines = [text.split("\n", 3) for text in texts]
    if not set(map(len, lines)) <= {3, 4}:
        raise ValueError("a point has three lines, or four")
    numbers, keys, thirds = zip(*(line[:3] for line in lines), strict=True)
    records = base64.b64decode("".join(numbers), validate=True)
    if set(map(len, numbers)) != {_WIDTH} or len(records) != _RECORD.size * len(runs):
        raise ValueError("a point's numbers are of another length")
    heads: dict[str, int] = {}
    head = np.array([heads.setdefault(third, len(heads)) for third in thirds], dtype=np.intp)
    parsed = _parse_heads(experiment, list(heads))
    layers = np.array([head[HEAD.index("layer")] for head in parsed], dtype=np.float64)
    ended = np.array([-1 if end is None else end for end in ends], dtype=np.int64)
    columns = _numbers(records) | {"layer": layers[head]} | _metrics([line[3:] for line in lines])
    return Points(list(run_ids), ended, list(keys), parsed, head, columns)


def _metrics(lines: Sequence[Sequence[str]]) -> dict[str, Numbers]:
    """The columns of all metrics that any of the fourth lines has."""
    by_names: dict[str, tuple[list[int], list[str]]] = {}
    for index, line in enumerate(lines):
        if line:
            names, _, values = line[0].rpartition(" ")
            places, texts = by_names.setdefault(names, ([], []))
            places.append(index)
            texts.append(values)
    columns: dict[str, Numbers] = {}
    for text, (places, texts) in by_names.items():
        names_of = text.split(",")
        width = -(-8 * len(names_of) // 3) * 3
        records = base64.b64decode("".join(texts), validate=True)
        if len(records) != width * len(places) or set(map(len, texts)) != {width // 3 * 4}:
            raise ValueError("a point's metrics are of another length")
        table = np.frombuffer(records, dtype=np.uint8).reshape(-1, width)[:, : 8 * len(names_of)]
        values_of = np.ascontiguousarray(table).view("<f8")
        if not np.isfinite(values_of).all() or _OTHER_COLUMNS & set(names_of):
            raise ValueError("a point's metrics are not finite, or have names of other figures")
        for name, column in zip(names_of, values_of.T, strict=True):
            columns.setdefault(name, np.full(len(lines), np.nan))[places] = column
    return columns


def _numbers(records: bytes) -> dict[str, Numbers]:
    types = [("version", "u1"), *((n, "<f8") for n in NUMBERS), *((n, "<i4") for n in COUNTS)]
    table = np.frombuffer(records, dtype=types)
    if (table["version"] != POINT_VERSION).any():
        raise ValueError("a point of another version")
    columns = {name: table[name].astype(np.float64) for name in NUMBERS + COUNTS}
    if any(np.isinf(column).any() for column in columns.values()) or np.isnan(columns["coefficient"]).any():
        raise ValueError("a point with an infinite number or without a coefficient")
    return columns


def _parse_heads(experiment: str, texts: Sequence[str]) -> list[list[Any]]:
    parsed = parse_json(f"[{','.join(texts)}]")
    if len(parsed) != len(texts) or set(map(type, parsed)) != {list}:
        raise ValueError("not one list a line")
    if not set(map(len, parsed)) <= _LENGTHS:
        raise ValueError("a list of the wrong length")
    parsed = [head + [None] * (len(_HEAD_TYPES) - len(head)) for head in parsed]
    columns = list(zip(*parsed, strict=True))
    if set(columns[0]) != {experiment}:
        raise ValueError(f"not a point of {experiment!r}")
    if any(not set(map(type, column)) <= types for column, types in zip(columns, _HEAD_TYPES, strict=True)):
        raise ValueError("a value of the wrong type")
    return [head[1:] for head in parsed]
