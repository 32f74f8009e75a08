"""gaps and best agree with a brute-force oracle, in whatever order the rows arrive."""

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from massact.domain import Group
from massact.query.questions.best import ask_best
from massact.query.questions.gaps import ask_gaps
from massact.store.read.base import Failure, Stored
from massact.store.schema import EvaluationRow
from tests.support.store_fixtures import answers_of, evaluation_row, failed, stored

FLOOR = 68.0


def group(label: str = "probe", **changes: str) -> Group:
    return Group(**{"model": "gemma", "trait": "refusal", "position": "response[:5]", "label": label, **changes})


COHERENCES = st.one_of(st.none(), st.sampled_from([40.0, 60.0, 67.5, 68.0, 68.5, 90.0]))
DELTAS = st.one_of(st.none(), st.sampled_from([-20.0, 0.0, 5.0, 5.5, 30.0]))


@st.composite
def stores(draw: st.DrawFn) -> list[Stored[EvaluationRow]]:
    rows = []
    for index in range(draw(st.integers(0, 14))):
        setting, direction = draw(st.sampled_from([("setting-1", "positive"), ("setting-2", "negative")]))
        row = evaluation_row(
            draw(st.sampled_from(["probe", "mean_diff"])),
            draw(st.integers(14, 16)),
            draw(st.sampled_from([-300.0, -100.0, 100.0, 300.0, 1000.0])),
            setting=setting,
            direction=direction,
            coherence_mean=draw(COHERENCES),
            delta=draw(DELTAS),
        )
        keyed = replace(row, key=f"{setting}-{row.key}")
        rows.append(stored(keyed, run_id=f"run-{index:02}", finished_at=draw(st.integers(1, 3))))
    return rows


def oracle_counted(rows: list[Stored[EvaluationRow]]) -> list[EvaluationRow]:
    """Each key's newest row, found by comparing every run with every other."""
    return [
        one.row
        for one in rows
        if not any(
            two.row.key == one.row.key and (two.finished_at, two.run_id) > (one.finished_at, one.run_id) for two in rows
        )
    ]


def oracle_best(rows: list[EvaluationRow]) -> EvaluationRow | None:
    """The row that no other beats, found by comparing every row with every other."""
    allowed = [row for row in rows if row.coherence_mean is not None and row.coherence_mean >= FLOOR]
    allowed = [row for row in allowed if row.delta is not None]

    def beats(a: EvaluationRow, b: EvaluationRow) -> bool:
        assert a.delta is not None
        assert b.delta is not None
        assert a.coefficient is not None
        assert b.coefficient is not None
        assert a.layer is not None
        assert b.layer is not None
        if a.delta != b.delta:
            return a.delta > b.delta if a.direction == "positive" else a.delta < b.delta
        if abs(a.coefficient) != abs(b.coefficient):
            return abs(a.coefficient) < abs(b.coefficient)
        return (a.layer, a.key) < (b.layer, b.key)

    unbeaten = [row for row in allowed if not any(beats(other, row) for other in allowed)]
    assert len(unbeaten) == bool(allowed)
    return unbeaten[0] if unbeaten else None


@pytest.mark.slow
@given(stores(), st.randoms(use_true_random=False))
def test_the_order_in_which_rows_arrive_changes_nothing(rows: list[Stored[EvaluationRow]], rng: random.Random) -> None:
    groups = [group("probe"), group("mean_diff"), group("gradient")]
    failures: list[Failure] = [failed(key="f1"), failed("mean_diff", key="f2"), failed("gradient", key="f3")]
    shuffled, shuffled_failures = list(rows), list(failures)
    rng.shuffle(shuffled)
    rng.shuffle(shuffled_failures)
    assert ask_gaps.of(answers_of(rows, failures=tuple(failures), groups=tuple(groups)), FLOOR) == ask_gaps.of(
        answers_of(shuffled, failures=tuple(shuffled_failures), groups=tuple(groups)), FLOOR
    )
    assert ask_best.of(answers_of(rows, groups=tuple(groups)), FLOOR) == ask_best.of(
        answers_of(shuffled, groups=tuple(groups)), FLOOR
    )


@given(stores())
def test_best_and_gaps_agree_with_a_brute_force_oracle(rows: list[Stored[EvaluationRow]]) -> None:
    counted = oracle_counted(rows)
    answered = {(row.label, row.setting): row for row in ask_best.of(answers_of(rows), FLOOR).rows}
    gap_rows = ask_gaps.of(answers_of(rows, groups=(group("probe"), group("mean_diff"))), FLOOR).rows
    assert {(row.label, row.setting) for row in counted} == set(answered)
    for (label, setting), answer in answered.items():
        here = [row for row in counted if (row.label, row.setting) == (label, setting)]
        expected = oracle_best(here)
        misses = [row.coherence_mean for row in here if row.coherence_mean is not None and row.coherence_mean < FLOOR]
        assert answer.key == (expected.key if expected else None)
        assert answer.status == ("ok" if expected else "below_floor" if misses else "missing")
        shows_miss = answer.nearest_miss.coherence_mean if answer.nearest_miss else None
        assert shows_miss == (max(misses) if misses and not expected else None)
        (gap,) = [row for row in gap_rows if (row.label, row.setting) == (label, setting)]
        assert (gap.status, gap.nearest_miss, gap.n_evaluated) == (answer.status, answer.nearest_miss, len(here))
        assert (gap.best.key if gap.best else None) == answer.key
