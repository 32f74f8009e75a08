"""Metrics of every evaluation, cheap and without a judge: functions of how one response was read.

massact's own are below; others are entry points (`massact.metrics`) or `module:function` in the experiment file."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real

from massact.errors import ConfigError
from massact.plugins import call_outside, load_plugin, own_digest, plugin_names

DEFAULT_METRICS = ("kl", "perplexity", "distinct_2", "longest_loop", "length")
"""Those of an experiment file that names none."""
NEUTRAL = "kl_neutral"  # the one that reads prompts of its own
METRICS = ("kl", NEUTRAL, "perplexity", "distinct_1", "distinct_2", "distinct_3", "longest_loop", "length")
"""massact's own metrics."""
DEFAULT_METRIC_TOKENS = 8  # tokens of a response, from its first on, that `kl` and `perplexity` read
METRIC_NAME = re.compile(r"[a-z][a-z0-9_]*", re.ASCII)
_LONGEST_UNIT = 16


@dataclass(frozen=True, slots=True)
class Reading:
    """One response, and how the steered and the unsteered model read it."""

    question: str
    response: str
    tokens: tuple[int, ...]  # that were generated, thoughts too, without the one that ended them
    log_probabilities: tuple[float, ...] = ()  # of the first tokens under the unsteered model, nats
    kl: tuple[float, ...] = ()
    """KL divergence of the steered from the unsteered next-token distribution at each of them, nats."""
    neutral_kl: tuple[float, ...] = ()
    """The same of neutral prompts, a mean over a few tokens for each; the same for all responses of an evaluation."""


Metric = Callable[[Reading], float | None]


def kl(reading: Reading) -> float | None:
    """Mean KL(steered || unsteered) over the first tokens of the response, nats."""
    return _mean(reading.kl)


def perplexity(reading: Reading) -> float | None:
    """Of the first tokens of the response under the unsteered model: exp of their mean negative log-probability."""
    mean = _mean(reading.log_probabilities)
    return None if mean is None else math.exp(min(-mean, 700.0))


def distinct(tokens: Sequence[int], n: int) -> float | None:
    """Share of n-grams that stand for the first time (distinct-n; Li et al. 2016, arXiv:1510.03055)."""
    grams = list(zip(*(tokens[i:] for i in range(n)), strict=False))
    return len(set(grams)) / len(grams) if grams else None


def longest_loop(reading: Reading) -> float:
    """Tokens of the longest stretch in which up to 16 tokens are repeated at once; 0: none is."""
    tokens, longest = reading.tokens, 0
    for unit in range(1, min(_LONGEST_UNIT, len(tokens) // 2) + 1):
        run = 0
        for a, b in zip(tokens, tokens[unit:], strict=False):
            run = run + 1 if a == b else 0
            if run >= unit and run + unit > longest:
                longest = run + unit
    return longest


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


_OWN: Mapping[str, Metric] = {
    "kl": kl,
    NEUTRAL: lambda reading: _mean(reading.neutral_kl),  # the same over answers to neutral prompts
    "perplexity": perplexity,
    "distinct_1": lambda reading: distinct(reading.tokens, 1),
    "distinct_2": lambda reading: distinct(reading.tokens, 2),
    "distinct_3": lambda reading: distinct(reading.tokens, 3),
    "longest_loop": longest_loop,
    "length": lambda reading: len(reading.tokens),
}
_OF_TEXT = {name for name in METRICS if name not in ("kl", "perplexity")}


def all_metrics() -> tuple[str, ...]:
    """Every metric, massact's own first."""
    return (*METRICS, *plugin_names("metrics"))


@dataclass(frozen=True, slots=True)
class Measured:
    """What is measured of each response."""

    names: tuple[str, ...] = ()
    n_tokens: int = DEFAULT_METRIC_TOKENS  # that are read, from the first on; 0: all
    sources: Mapping[str, str] = field(default_factory=dict, hash=False)
    """SHA-256 of the file of each metric that is a function of the experiment's own."""

    @classmethod
    def by(cls, names: Sequence[str], n_tokens: int) -> "Measured":
        """By metrics as they are now."""
        digests = {name: own_digest("metrics", name) for name in names}
        return cls(tuple(names), n_tokens, {name: digest for name, digest in digests.items() if digest})

    def n_read(self, n_most: int) -> int:
        """How many tokens of responses of so many at most are read by the models; 0: no metric asks for that."""
        return 0 if set(self.names) <= _OF_TEXT else min(self.n_tokens or n_most, n_most)

    def of(self, reading: Reading) -> dict[str, float | None]:
        """The metrics of a response; `None` where one has no value. Raises ConfigError: a metric of the experiment's
        own, or of a package, fails or gives no number."""
        return {name: _value(name, reading) for name in self.names}


NOT_MEASURED = Measured()


def _value(name: str, reading: Reading) -> float | None:
    metric: Metric = _OWN.get(name) or load_plugin("metrics", name)
    value = call_outside(f"the metric {name}", lambda: metric(reading), ConfigError)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ConfigError(f"the metric {name} gave {value!r}: it must give a number, or None where it has none")
    return rounded(float(value))


def rounded(value: float) -> float | None:
    """A value as it is kept, six digits of it and six decimals; `None`: NaN or infinite."""
    return round(float(f"{value:.6g}"), 6) + 0.0 if math.isfinite(value) else None


def means(values: Sequence[Mapping[str, float | None]]) -> dict[str, float]:
    """The mean of each metric over the responses that have it."""
    found: dict[str, list[float]] = {}
    for metrics in values:
        for name, value in metrics.items():
            if value is not None:
                found.setdefault(name, []).append(value)
    averages = {name: rounded(sum(of) / len(of)) for name, of in found.items()}
    return {name: mean for name, mean in averages.items() if mean is not None}
