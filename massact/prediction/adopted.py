"""The prior that was adopted, as JSON: numbers alone, checked strictly, so that reading one runs nothing."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from massact.errors import DataError
from massact.json_text import parse_json
from massact.prediction.forms import METHOD, NAMES, RIDGE, STRENGTH, Ridge, Term, by_strength
from massact.prediction.prior import Expectation, VectorFacts

FORMAT = "massact-coefficient-prior/1"


@dataclass(frozen=True, slots=True)
class Strength:
    """One relative strength for all vectors."""

    value: float

    def __call__(self, facts: VectorFacts) -> float:
        """Log of the coefficient that is expected of a vector."""
        return math.log(self.value) + by_strength(facts)


Form = Strength | Ridge


@dataclass(frozen=True, slots=True)
class Part:
    """What is expected of one target, and how far off it was on models and traits that were left out."""

    form: Form
    spread: float
    """Standard deviation of the log error, above 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdoptedPrior:
    """Expects what was adopted on an experiment's evaluations; satisfies `massact.prediction.prior.Prior`."""

    experiment: str
    floor: float
    """The coherence floor that cliffs and bests were found at, 0 to 100."""
    n_cases: int
    n_groups: int
    best: Part
    cliff: Part
    source: str = "the adopted prior"

    def expect(self, facts: VectorFacts) -> Expectation:
        """See `Prior`.

        Raises:
            ValueError: the vector lies in massive dims alone, so that no coefficient has a strength.
        """
        if not facts.unit_strength > 0:
            raise ValueError(
                "the vector lies in massive dims alone: no coefficient moves the rest of the stream"
            )
        best, cliff = (math.exp(part.form(facts)) for part in (self.best, self.cliff))
        # two regressions know nothing of each other, but what is beyond the cliff is never the best
        return Expectation(min(best, cliff), cliff, max(self.best.spread, self.cliff.spread), self.source)


def format_prior(prior: AdoptedPrior) -> str:
    """The prior as JSON text, the same for the same prior."""
    head = {name: getattr(prior, name) for name in ("experiment", "floor", "n_cases", "n_groups")}
    parts = {name: _part_json(getattr(prior, name)) for name in ("best", "cliff")}
    return json.dumps({"format": FORMAT, **head, **parts}, indent=2, allow_nan=False) + "\n"


def _part_json(part: Part) -> dict[str, Any]:
    form = STRENGTH if isinstance(part.form, Strength) else RIDGE
    return {"form": form, "spread": part.spread, **asdict(part.form)}


def parse_prior(text: str, source: str) -> AdoptedPrior:
    """The prior in a JSON text of `format_prior`.

    Args:
        source: what expects it, in words.

    Raises:
        DataError: it is anything else, down to a key too many or a number that is not finite.
    """
    try:
        found = _object(parse_json(text), "the prior")
        _take(found, "format", lambda value, _what: _one_of(value, FORMAT))
        prior = AdoptedPrior(
            experiment=_take(found, "experiment", _text),
            floor=_take(found, "floor", lambda value, what: _number(value, what, low=0, high=100)),
            n_cases=_take(found, "n_cases", _count),
            n_groups=_take(found, "n_groups", _count),
            best=_take(found, "best", _part),
            cliff=_take(found, "cliff", _part),
            source=source,
        )
        _end(found, "the prior")
    except (ValueError, OverflowError, RecursionError) as error:
        raise DataError(f"not a prior of massact predict: {error}") from error
    return prior


def _part(value: object, what: str) -> Part:
    found = _object(value, what)
    form = _take(found, "form", lambda value, _what: _one_of(value, STRENGTH, RIDGE))
    spread = _take(found, "spread", _positive)
    if form == STRENGTH:
        part = Part(Strength(_take(found, "value", _positive)), spread)
    else:
        part = Part(Ridge(_take(found, "intercept", _number), _take(found, "terms", _terms)), spread)
    _end(found, what)
    return part


def _terms(value: object, what: str) -> tuple[Term, ...]:
    if not isinstance(value, list):
        raise ValueError(f"{what}: {_shown(value)} is not a list")  # noqa: TRY004  one kind of error for all
    terms = tuple(_term(one, f"{what}[{index}]") for index, one in enumerate(value))
    if len({term.name for term in terms}) < len(terms):
        raise ValueError(f"{what}: a feature is there twice")
    return terms


def _term(value: object, what: str) -> Term:
    found = _object(value, what)
    name = _take(found, "name", _text)
    if name not in NAMES and not name.startswith(METHOD):
        raise ValueError(f"{what}: there is no feature {name!r}")
    kinds = {field.name: _number for field in fields(Term) if field.name != "name"} | {"deviation": _positive}
    term = Term(name=name, **{key: _take(found, key, kind) for key, kind in kinds.items()})
    if term.low > term.high:
        raise ValueError(f"{what}: low {term.low:g} is above high {term.high:g}")
    _end(found, what)
    return term


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what}: {_shown(value)} is not an object")  # noqa: TRY004  one kind of error for all
    return dict(value)


def _take(found: dict[str, Any], key: str, check: Callable[[object, str], Any]) -> Any:
    if key not in found:
        raise ValueError(f"{key!r} is missing")
    return check(found.pop(key), key)


def _end(found: Mapping[str, object], what: str) -> None:
    if found:
        raise ValueError(f"{what}: unknown key {sorted(found)[0]!r}")


def _number(value: object, what: str, *, low: float = -math.inf, high: float = math.inf) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(f"{what}: {_shown(value)} is not a number")  # noqa: TRY004  one kind of error for all
    number = float(value)
    if not (math.isfinite(number) and low <= number <= high):
        raise ValueError(f"{what}: {_shown(value)} is out of range")
    return number


def _positive(value: object, what: str) -> float:
    number = _number(value, what)
    if number <= 0:
        raise ValueError(f"{what}: {_shown(value)} is not above 0")
    return number


def _count(value: object, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{what}: {_shown(value)} is not a whole number above 0")
    return value


def _text(value: object, what: str) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{what}: {_shown(value)} is not a text")
    return value


def _one_of(value: object, *choices: str) -> str:
    if value not in choices:
        raise ValueError(f"{_shown(value)} is not {' or '.join(choices)}")
    return str(value)


def _shown(value: object) -> str:
    return repr(value)[:60]
