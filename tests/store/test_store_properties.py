"""Whatever happens to a run store, in whatever order: its answers are those of a brute-force oracle."""

import shutil
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import massact
from massact.domain import Group
from massact.query import Answers, Point
from massact.store.read import open_store
from tests.support import oracle
from tests.support.store_events import Ask, histories
from tests.support.store_fixtures import EXPERIMENT
from tests.support.store_world import Store

DECLARED = [
    ("gemma", "refusal", "response[:5]", "probe"),
    ("gemma", "refusal", "response[:5]", "mean_diff_cleaned"),
    ("gemma", "refusal", "response[:10]", "mean_diff"),
    ("another", "refusal", "response[:10]", "mean_diff_preclean"),
]
PAIRS = [("mean_diff_preclean", "mean_diff_cleaned"), ("probe", "mean_diff")]
Rows = list[tuple[Any, ...]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory for the stores of all examples."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_id(point: Point | None) -> str | None:
    return None if point is None else point.run_id


def group(row: Any) -> tuple[str, ...]:
    return (row.model, row.trait, row.position, row.label)


def stratum(row: Any) -> tuple[Any, ...]:
    return (row.model, row.trait, row.position, row.setting, row.baseline_trait_mean)


def gaps(answers: Answers, floor: float) -> Rows:
    return [
        (
            *group(row), row.setting, row.baseline_trait_mean, row.status, run_id(row.best), run_id(row.nearest_miss),
            row.n_evaluated, row.n_unscored, row.n_failed, row.is_current,
            tuple((bracket.layer, bracket.low, bracket.high) for bracket in row.brackets),
        )
        for row in massact.gaps.of(answers, floor).rows
    ]  # fmt: skip


def best(answers: Answers, floor: float) -> Rows:
    return [
        (
            *group(row), row.setting, row.baseline_trait_mean, row.status, row.run_id, row.delta,
            run_id(row.nearest_miss), row.is_declared,
        )
        for row in massact.best.of(answers, floor).rows
    ]  # fmt: skip


def compare(answers: Answers, floor: float) -> Rows:
    return [
        (
            *stratum(row), row.label_a, row.label_b, row.status_a, row.status_b, run_id(row.best_a),
            run_id(row.best_b), row.difference, row.better,
        )
        for row in massact.compare.of(answers, floor, pairs=PAIRS).rows
    ]  # fmt: skip


def curve(answers: Answers, floor: float) -> Rows:
    rows = massact.curve.of(answers, floor, method="mean_diff").rows
    return [(*stratum(row), row.n_dims, row.status, run_id(row.best), run_id(row.nearest_miss)) for row in rows]


def runs(answers: Answers, floor: float) -> Rows:
    found = massact.runs.of(answers, floor).rows
    return [(r.finished_at, r.run_id, r.key, r.status, r.error, r.baseline_trait_mean) for r in found]


def iso(milliseconds: int) -> str:
    ended = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return ended.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def in_any_order(rows: Rows) -> list[str]:
    return sorted(map(repr, rows))


def by_group(rows: Rows) -> Rows:
    """In the order of groups; the settings of a group stay as they were, the one run last first."""
    return sorted(rows, key=lambda row: row[:4])


def check(store: Store, floor: float) -> None:
    """Ask the store, and the oracle."""
    declared = [Group(*one) for one in DECLARED]
    with closing(open_store(store.uri)) as opened:
        answers = replace(Answers.from_store(opened, EXPERIMENT), groups=tuple(declared))
    history = store.history
    assert gaps(answers, floor) == oracle.gaps(history, DECLARED, floor)
    found = best(answers, floor)
    assert by_group(found) == by_group(oracle.best(history, DECLARED, floor))
    assert [row[:4] for row in found if row[-1]] == [row[:4] for row in gaps(answers, floor)]
    compared = oracle.compare(history, DECLARED, floor, PAIRS)
    assert in_any_order(compare(answers, floor)) == in_any_order(compared)
    assert in_any_order(curve(answers, floor)) == in_any_order(oracle.curve(history, DECLARED, floor))
    listed = runs(answers, floor)
    expected = [(iso(end), *rest) for end, *rest in oracle.runs(history, floor)]
    assert in_any_order(listed) == in_any_order(expected)
    assert [row[0] for row in listed] == sorted((row[0] for row in expected), reverse=True)


def live_through(events: list[Any], template: Path, folder: Path, seed: int) -> None:
    """A new store, everything that happens to it, and its answers whenever it is asked."""
    own = Path(mkdtemp(dir=folder))
    store = Store(template, own, seed)
    try:
        for event in events:
            if isinstance(event, Ask):
                check(store, event.floor)
            else:
                store.do(event)
    finally:
        shutil.rmtree(own)


SEEDS = st.integers(0, 2**32)
SHARED: Any = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
}


@pytest.mark.slow
@settings(max_examples=15, **SHARED)
@given(events=histories(max_size=20), seed=SEEDS)
def test_the_answers_are_those_of_the_oracle(
    migrated_database: Path, folder: Path, events: list[Any], seed: int
) -> None:
    live_through(events, migrated_database, folder, seed)


@pytest.mark.slow
@settings(max_examples=30, **SHARED)
@given(events=histories(max_size=40), seed=SEEDS)
def test_the_answers_are_those_of_the_oracle_in_long_histories(
    migrated_database: Path, folder: Path, events: list[Any], seed: int
) -> None:
    live_through(events, migrated_database, folder, seed)
