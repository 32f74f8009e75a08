"""Which results count: a floor of coherence, or a limit of a metric, on the one scale that everything ranks by."""

import math
import re
from collections.abc import Mapping
from typing import Any, Protocol, TypeVar, cast

from massact.domain import DEFAULT_COHERENCE_FLOOR, Response
from massact.errors import UsageError

COHERENCE = "coherence"
LEAST_LIMIT = 1e-30  # what is divided by less and squared is no number any more
_RULE = re.compile(r"\s*([a-z][a-z0-9_]*)\s*(<=|>=)\s*([0-9.eE+-]+)\s*", re.ASCII)
RULE_PATTERN = r"^\s*([0-9.]+|[a-z][a-z0-9_]*\s*(<=|>=)\s*[0-9.eE+-]+)\s*$"
"""How a floor is written, as JSON Schema takes it."""
Value = TypeVar("Value")  # a number, or an array of them


class Measured(Protocol):
    """What has a coherence and metrics: a row, a point or a summary."""

    @property
    def coherence_mean(self) -> float | None: ...
    @property
    def metrics(self) -> Mapping[str, float] | None: ...


def _written(limit: float) -> str:
    return f"{limit:g}" if float(f"{limit:g}") == limit else repr(limit)


def value_of(measured: Measured, metric: str) -> float | None:
    """A metric of a result, or its coherence; `None` where it lacks that."""
    return measured.coherence_mean if metric == COHERENCE else (measured.metrics or {}).get(metric)


class Floor(float):
    """The least that counts, a number on the scale of coherence. A metric is put on that scale so that its limit is 68:
    where it may be `limit` at most, 100 is none of it, and where it must be so at least, 0 is. Statistics, searches and
    figures of coherence hold for it so; its own limit is shown."""

    metric: str
    limit: float  # in the metric's own unit; of coherence 0 to 100
    is_most: bool  # whether the metric may be so large at most; else it must be so at least

    def __new__(
        cls, value: float, metric: str = COHERENCE, limit: float | None = None, *, is_most: bool = False
    ) -> "Floor":
        self = super().__new__(cls, value)
        self.metric, self.limit, self.is_most = metric, float(value if limit is None else limit), is_most
        return self

    @classmethod
    def of(cls, metric: str, limit: float, *, is_most: bool = False) -> "Floor":
        """A floor of a metric, or of coherence. Raises UsageError: a limit that makes no sense."""
        if metric == COHERENCE:
            if is_most or not 0 <= limit <= 100:
                raise UsageError(f"coherence floor {limit:g}: coherence runs from 0 to 100, and must be so at least")
            return cls(limit)
        if not LEAST_LIMIT <= limit < math.inf:
            raise UsageError(f"floor of {metric} {limit:g}: write a limit above 0, of {LEAST_LIMIT:g} at least")
        return cls(DEFAULT_COHERENCE_FLOOR, metric, limit, is_most=is_most)

    @classmethod
    def read(cls, text: str | float) -> "Floor":
        """A floor as it is written: `68`, `kl<=0.3` or `distinct_2>=0.6`. Raises UsageError: it is none."""
        if isinstance(text, Floor):
            return text
        rule = _RULE.fullmatch(str(text))
        try:
            if rule is None:
                return cls.of(COHERENCE, float(text))
            return cls.of(rule[1], float(rule[3]), is_most=rule[2] == "<=")
        except ValueError:
            raise UsageError(
                f"floor {text!r}: write a coherence of 0 to 100, or a metric's limit such as kl<=0.3 or distinct_2>=0.6"
            ) from None

    @property
    def is_coherence(self) -> bool:
        return self.metric == COHERENCE

    @property
    def rule(self) -> str:
        """As `read` takes it: `coherence>=68`, `kl<=0.3`."""
        return f"{self.metric}{'<=' if self.is_most else '>='}{_written(self.limit)}"

    @property
    def reach(self) -> str:
        """In words, after "at": `coherence 68`, `kl 0.3 or less`."""
        return f"{self.metric} {_written(self.limit)}" + (
            "" if self.is_coherence else f" or {'less' * self.is_most or 'more'}"
        )

    @property
    def name(self) -> str:
        """In words: `coherence floor 68`, `floor kl 0.3 or less`."""
        return f"coherence floor {self:g}" if self.is_coherence else f"floor {self.reach}"

    @property
    def bound(self) -> str:
        """In words, after "at": `coherence 68 or more`, `kl 0.3 or less`."""
        return self.reach + " or more" * self.is_coherence

    def measure(self, value: Value) -> Value:
        """Values of what it is of, on its scale: a number or an array of any."""
        if self.is_coherence:
            return value
        share = cast(Any, value) / self.limit
        return cast(Value, 100 - (100 - DEFAULT_COHERENCE_FLOOR) * share if self.is_most else self * share)

    def value_of(self, measured: Measured) -> float | None:
        """What it is of, as a result has it in its own unit; `None` where it lacks that."""
        return value_of(measured, self.metric)

    def measure_of(self, measured: Measured) -> float | None:
        """The same on its scale, at least 0."""
        value = self.value_of(measured)
        return value if value is None or self.is_coherence else max(0.0, self.measure(value))

    def of_response(self, response: Response) -> float | None:
        """What it is of, of one response."""
        return response.coherence if self.is_coherence else response.metrics.get(self.metric)

    def shown(self, value: float | None) -> str:
        """A value of what it is of."""
        return "" if value is None else f"{value:.1f}" if self.is_coherence else f"{value:.3g}"

    def is_lacking(self, measured: Measured) -> bool:
        """Whether a result lacks the metric that the floor is of, and so can neither count nor be a miss."""
        return not self.is_coherence and self.value_of(measured) is None

    def is_met(self, measured: Measured) -> bool | None:
        """Whether a result counts; `None` where it lacks what the floor is of."""
        measure = self.measure_of(measured)
        return None if measure is None else measure >= self

    def value_at(self, measure: float) -> float:
        """The value of what it is of that has a measure."""
        if self.is_coherence:
            return measure
        share = (100 - measure) / (100 - DEFAULT_COHERENCE_FLOOR) if self.is_most else measure / float(self)
        return self.limit * share

    def __format__(self, spec: str) -> str:
        return super().__format__(spec) if self.is_coherence else self.reach

    def __eq__(self, other: object) -> bool:
        """Two floors are one where they ask the same; a plain number is one of coherence."""
        if not isinstance(other, Floor):
            return self.is_coherence and float(self) == other
        return self.rule == other.rule

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(float(self)) if self.is_coherence else hash(self.rule)


DEFAULT_FLOOR = Floor(DEFAULT_COHERENCE_FLOOR)


def as_floor(floor: float) -> Floor:
    """A number as the floor of coherence that it is."""
    return floor if isinstance(floor, Floor) else Floor(floor)
