"""What is expected of a ladder before any coefficient of it was tried."""

import json
import math
from dataclasses import asdict, dataclass, replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from massact.errors import DataError
from massact.json_text import parse_json, read_as


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
        """What to expect of the ladder of a vector. Raises ValueError: it lies in massive dims alone."""
        unit = facts.unit_strength
        if not unit > 0:
            raise ValueError("the vector lies in massive dims alone: no coefficient moves the rest of the stream")
        return Expectation(self.best / unit, self.cliff / unit, self.spread, self.source)


# The prior that was adopted, as JSON: numbers alone, checked strictly, so that reading one runs nothing.


@dataclass(frozen=True, slots=True)
class Part:
    """What is expected of one target, and how far off it was on models and traits that were left out."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    value: PositiveFloat  # the relative strength of all vectors
    spread: PositiveFloat  # standard deviation of the log error
    form: Literal["relative_strength"] = "relative_strength"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdoptedPrior:
    """Expects what was adopted on an experiment's evaluations."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    format: Literal["massact-coefficient-prior/1"] = "massact-coefficient-prior/1"
    experiment: Annotated[str, Field(min_length=1)]
    floor: Annotated[float, Field(ge=0, le=100)]  # the coherence floor that cliffs and bests were found at
    n_cases: PositiveInt
    n_groups: PositiveInt
    max_new_tokens: PositiveInt | None = None
    """Of the longest responses that it was found on: longer ones break earlier; `None`: an earlier version adopted it,
    which did not tell."""
    best: Part
    cliff: Part
    source: str = "the adopted prior"

    def expect(self, facts: VectorFacts) -> Expectation:
        """What to expect of the ladder of a vector. What is beyond the cliff is never the best, though the two were
        fitted apart. Raises ValueError: the vector lies in massive dims alone."""
        best, cliff = min(self.best.value, self.cliff.value), self.cliff.value
        spread = max(self.best.spread, self.cliff.spread)
        return RelativeStrengthPrior(best, cliff, spread, self.source).expect(facts)


Prior = RelativeStrengthPrior | AdoptedPrior


def format_prior(prior: AdoptedPrior) -> str:
    """The prior as JSON text, the same for the same prior."""
    document = asdict(prior)
    del document["source"]
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def parse_prior(text: str, source: str) -> AdoptedPrior:
    """The prior in a JSON text of `format_prior`. Raises DataError: it is none."""
    try:
        prior: AdoptedPrior = read_as(AdoptedPrior, parse_json(text))
    except ValueError as error:
        raise DataError(f"not a prior of massact predict: {error}") from error
    return replace(prior, source=source)
