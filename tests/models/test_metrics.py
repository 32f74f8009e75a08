"""Metrics: what each is of a response, by hand; what one of the experiment's own may give."""

import math
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from massact.config import load_experiment
from massact.errors import ConfigError
from massact.floors import Floor
from massact.metrics import DEFAULT_METRICS, METRICS, Measured, Reading, distinct, longest_loop, means
from massact.plugins import forget_own
from massact.query.load import declared_by_file

FILE = """\
name: small
traits: {refusal: {dataset: "toy:refusal"}}
models:
  toy: {instruct: {model: "toy:gemma-3-instruct"}, layers: "2", coefficients: [8]}
judge: likelihood
"""
OWN = """\
def shouting(reading):
    return sum(c.isupper() for c in reading.response) / (len(reading.response) or 1)

def kl(reading):
    return 0.0

def delta(reading):
    return 0.0

def wrong(reading):
    return "much"

def failing(reading):
    return 1 / 0

def nothing(reading):
    return None

def infinite(reading):
    return float("inf")
"""


@pytest.fixture(autouse=True)
def _forgetting(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Without the folders and modules of other tests."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "my_code", raising=False)
    yield
    forget_own()


def reading(*tokens: int, text: str = "", kl: tuple[float, ...] = (), likelihoods: tuple[float, ...] = ()) -> Reading:
    return Reading("q", text, tokens, likelihoods, kl, (0.5, 1.5))


def own(folder: Path, metrics: str, more: str = "") -> Path:
    (folder / "my_code.py").write_text(OWN)
    (folder / "small.yaml").write_text(f"{FILE}metrics: {metrics}\n{more}")
    return folder / "small.yaml"


def test_each_metric_is_what_it_says() -> None:
    found = Measured(METRICS).of(reading(1, 2, 1, 2, 3, kl=(0.1, 0.3), likelihoods=(-1.0, -3.0)))
    assert found == {
        "kl": 0.2,
        "kl_neutral": 1.0,
        "perplexity": pytest.approx(math.exp(2), rel=1e-5),
        "distinct_1": 0.6,
        "distinct_2": 0.75,
        "distinct_3": 1.0,
        "longest_loop": 4.0,
        "length": 5.0,
    }
    nothing = Measured(METRICS).of(Reading("q", "", ()))
    assert {name for name, value in nothing.items() if value is None} == {*METRICS} - {"longest_loop", "length"}


@pytest.mark.parametrize(
    ("tokens", "loop"),
    [("", 0), ("a", 0), ("ab", 0), ("aa", 2), ("aaaa", 4), ("abab", 4), ("xababa", 5), ("abcabc", 6), ("abcab", 0),
     ("aabb", 2), ("xyzzzzab", 4), ("abcdeabcdeabcd", 14)],
)  # fmt: skip
def test_the_longest_loop(tokens: str, loop: int) -> None:
    assert longest_loop(reading(*map(ord, tokens))) == loop


def test_distinct_n_of_too_few_tokens_is_none() -> None:
    assert distinct((1,), 2) is None
    assert distinct((1, 1, 1), 2) == 0.5


def test_means_are_over_the_responses_that_have_a_value() -> None:
    assert means([{"kl": 1.0, "length": 2.0}, {"kl": None, "length": 4.0}, {}]) == {"kl": 1.0, "length": 3.0}
    assert means([{"kl": None}]) == {}


def test_models_read_only_what_a_metric_asks_for() -> None:
    assert Measured(("length", "distinct_2", "kl_neutral")).n_read(64) == 0
    assert Measured(("kl",)).n_read(64) == 8
    assert Measured(("my_own",), 0).n_read(64) == 64
    assert Measured(("perplexity",), 100).n_read(64) == 64


def test_a_file_without_metrics_has_the_usual_ones_and_may_have_none(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(FILE)
    assert load_experiment(tmp_path / "small.yaml").metrics == DEFAULT_METRICS
    assert load_experiment(own(tmp_path, "[]")).metrics == ()


def test_a_metric_of_the_experiments_own_is_used_and_its_file_recorded(tmp_path: Path) -> None:
    experiment = load_experiment(own(tmp_path, '[kl, "my_code:shouting"]', "metric_tokens: 4\n"))
    assert (experiment.metrics, experiment.metric_tokens) == (("kl", "shouting"), 4)
    measured = Measured.by(experiment.metrics, 4)
    assert measured.of(reading(1, text="ABcd", kl=(2.0,))) == {"kl": 2.0, "shouting": 0.5}
    before = measured.sources["shouting"]
    (tmp_path / "my_code.py").write_text(OWN + "# another\n")
    load_experiment(tmp_path / "small.yaml")
    assert Measured.by(("shouting",), 4).sources["shouting"] != before


@pytest.mark.parametrize(
    ("metrics", "more", "problem"),
    [
        ("[entropy]", "", "'entropy' is not allowed; write kl"),
        ("[kl, kl]", "", "twice"),
        ('["my_code:kl"]', "", "a metric cannot be called 'kl'"),
        ('["my_code:delta"]', "", "a metric cannot be called 'delta'"),
        ('["my_code:absent"]', "", "has no absent"),
        ('["no_code:kl"]', "", "there is no file"),
        ("[kl]", "metric_tokens: -1\n", "metric_tokens"),
        ("[kl]", "floor: {metric: perplexity, at_most: 20}\n", "perplexity is not measured: write it under metrics"),
        ("[kl]", "floor: {metric: kl, at_most: 0.3, at_least: 0.1}\n", "write one limit, at_most or at_least"),
        ("[kl]", "floor: {metric: kl}\n", "write one limit"),
        ("[kl]", "floor: {metric: kl, at_most: 0}\n", "write a limit above 0"),
        ("[kl]", "floor: {metric: coherence, at_most: 3}\n", "coherence runs from 0 to 100"),
        ("[kl]", "floor: {metric: kl, at_most: 0.3}\ncoherence_floor: 68\n", "there is a coherence_floor too"),
        ("[kl]", "floor: 0.3\n", "is not a section"),
    ],
)
def test_what_is_wrong_is_refused(metrics: str, more: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=problem):
        load_experiment(own(tmp_path, metrics, more))


@pytest.mark.parametrize("name", ["wrong", "failing"])
def test_a_metric_that_fails_or_gives_no_number_is_named(name: str, tmp_path: Path) -> None:
    load_experiment(own(tmp_path, f'["my_code:{name}"]'))
    with pytest.raises(ConfigError, match=f"the metric {name} (gave 'much'|failed: ZeroDivisionError.*my_code.py)"):
        Measured((name,)).of(reading(1))


@pytest.mark.parametrize("name", ["nothing", "infinite"])
def test_no_value_is_no_zero(name: str, tmp_path: Path) -> None:
    load_experiment(own(tmp_path, f'["my_code:{name}"]'))
    assert Measured((name,)).of(reading(1)) == {name: None}


def test_a_floor_of_a_metric_is_declared(tmp_path: Path) -> None:
    file = own(tmp_path, "[kl]", "floor: {metric: kl, at_most: 0.3}\n")
    assert load_experiment(file).coherence_floor == Floor.of("kl", 0.3, is_most=True)
    declared = declared_by_file(file)
    assert declared is not None
    assert declared.floor == Floor.of("kl", 0.3, is_most=True)
    (tmp_path / "small.yaml").write_text(FILE + "floor: {metric: coherence, at_least: 70}\n")
    assert load_experiment(file).coherence_floor == 70.0
