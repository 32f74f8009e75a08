"""What is expected of a ladder before any coefficient of it was tried."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from massact.errors import DataError
from massact.json_text import parse_json


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorFacts:
    """What is known of a unit vector and its layer without steering by it."""

    unit_strength: float  # relative strength of coefficient 1: ‖v without massive dims‖ / mean ‖h without massive dims‖
    norm: float  # mean L2 norm of a token's activation at the layer


@dataclass(frozen=True, slots=True)
class Expectation:
    """Where a ladder's best coefficient and its coherence cliff are expected, as sizes (above 0)."""

    best: float  # the coefficient of the best delta at or above the floor
    cliff: float  # the coefficient where coherence falls below the floor
    spread: float
    """Standard deviation of the logarithm of either; ln 1.16 means within a factor of 1.16, two times in three."""
    source: str  # what expects it, in words


class Prior(Protocol):
    """Expects something of a vector."""

    def expect(self, facts: VectorFacts) -> Expectation:
        """What to expect of the ladder of a vector."""


@dataclass(frozen=True, slots=True)
class RelativeStrengthPrior:
    """The best coefficient lies at one relative strength for all methods, layers and models.
    The defaults agree with the embedded Gemma 3 and with the published figures of Gemma 3. Within a model `spread` is
    about right; another model may have another strength (the embedded Gemma 2 takes half as much again), which `massact
    predict` measures (docs/design/prediction.md)."""

    best: float = 0.82
    cliff: float = 1.03
    spread: float = math.log(1.16)
    source: str = "relative strength"

    def expect(self, facts: VectorFacts) -> Expectation:
        unit = facts.unit_strength
        if not unit > 0:
            raise ValueError("the vector lies in massive dims alone: no coefficient moves the rest of the stream")
        return Expectation(self.best / unit, self.cliff / unit, self.spread, self.source)


# The prior that was adopted, as JSON: numbers alone, checked strictly, so that reading one runs nothing.

FORMAT = "massact-coefficient-prior/1"
_FORM = "relative_strength"


@dataclass(frozen=True, slots=True)
class Part:
    """What is expected of one target, and how far off it was on models and traits that were left out."""

    value: float  # the relative strength of all vectors
    spread: float  # standard deviation of the log error, above 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AdoptedPrior:
    """Expects what was adopted on an experiment's evaluations; satisfies `Prior`."""

    experiment: str
    floor: float  # the coherence floor that cliffs and bests were found at, 0 to 100
    n_cases: int
    n_groups: int
    max_new_tokens: int | None = None
    """Of the longest responses that it was found on: longer ones break earlier; `None`: not told."""
    best: Part
    cliff: Part
    source: str = "the adopted prior"

    def expect(self, facts: VectorFacts) -> Expectation:
        """See `Prior`. What is beyond the cliff is never the best, though the two were fitted apart."""
        best, cliff = min(self.best.value, self.cliff.value), self.cliff.value
        spread = max(self.best.spread, self.cliff.spread)
        return RelativeStrengthPrior(best, cliff, spread, self.source).expect(facts)


def format_prior(prior: AdoptedPrior) -> str:
    """The prior as JSON text, the same for the same prior."""
    head = {name: getattr(prior, name) for name in ("experiment", "floor", "n_cases", "n_groups", "max_new_tokens")}
    parts = {
        name: {"form": _FORM, "spread": part.spread, "value": part.value}
        for name, part in (("best", prior.best), ("cliff", prior.cliff))
    }
    return json.dumps({"format": FORMAT, **head, **parts}, indent=2, allow_nan=False) + "\n"


def parse_prior(text: str, source: str) -> AdoptedPrior:
    """The prior in a JSON text of `format_prior`."""
    try:
        document = parse_json(text)
        if isinstance(document, dict):  # an earlier version did not tell it
            document.setdefault("max_new_tokens", None)
        fields = _checked(document, "the prior", _PRIOR)
        parts = {name: _checked(fields[name], name, _PART) for name in ("best", "cliff")}
    except (ValueError, RecursionError) as error:
        raise DataError(f"not a prior of massact predict: {error}") from error
    best, cliff = (Part(float(part["value"]), float(part["spread"])) for part in parts.values())
    return AdoptedPrior(
        experiment=fields["experiment"],
        floor=float(fields["floor"]),
        n_cases=fields["n_cases"],
        n_groups=fields["n_groups"],
        max_new_tokens=fields["max_new_tokens"],
        best=best,
        cliff=cliff,
        source=source,
    )


_Rule = tuple[Callable[[Any], object], str]  # what holds of a value, and what is said where it does not
_ANY: _Rule = (lambda _value: True, "")
_NUMBER: _Rule = (lambda value: type(value) in (int, float), "is not a number")
_POSITIVE: _Rule = (lambda value: value > 0, "is not above 0")
_COUNT: _Rule = (lambda value: type(value) is int and value > 0, "is not a whole number above 0")
_PRIOR: dict[str, tuple[_Rule, ...]] = {
    "format": ((lambda value: value == FORMAT, f"is not {FORMAT}"),),
    "experiment": ((lambda value: isinstance(value, str) and value, "is not a text"),),
    "floor": (_NUMBER, (lambda value: 0 <= value <= 100, "is out of range")),
    "n_cases": (_COUNT,),
    "n_groups": (_COUNT,),
    "max_new_tokens": ((lambda value: value is None or _COUNT[0](value), _COUNT[1]),),
    "best": (_ANY,),
    "cliff": (_ANY,),
}
_PART: dict[str, tuple[_Rule, ...]] = {
    "form": (
        (lambda value: value != "ridge", "was adopted by an earlier version; this one does not know it"),
        (lambda value: value == _FORM, f"is not {_FORM}"),
    ),
    "spread": (_NUMBER, _POSITIVE),
    "value": (_NUMBER, _POSITIVE),
}


def _checked(value: object, what: str, rules: Mapping[str, Sequence[_Rule]]) -> dict[str, Any]:
    """An object that has these keys and no others, each with a value as its rules say; numbers are finite."""
    if not isinstance(value, dict):
        raise ValueError(f"{what}: {repr(value)[:60]} is not an object")  # noqa: TRY004  one kind of error for all
    for key, of_key in rules.items():
        if key not in value:
            raise ValueError(f"{what}: {key!r} is missing")
        for holds, complaint in of_key:
            if not holds(value[key]):
                raise ValueError(f"{what}, {key}: {repr(value[key])[:60]} {complaint}")
    for key in value.keys() - rules.keys():
        raise ValueError(f"{what}: unknown key {key!r}")
    return value
