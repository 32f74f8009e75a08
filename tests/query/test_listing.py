"""runs: every evaluation that counts, filtered, sorted and limited."""

from typing import Any, get_args

import pytest

from massact.errors import UsageError
from massact.query.questions.runs import SORTS, RunRow, SortBy, ask_runs
from massact.store.read.base import Stored
from massact.store.schema import EvaluationRow
from tests.support.store_fixtures import answers_of, evaluated, evaluation_row, failed, stored

FLOOR = 68.0


def listed(rows: list[Stored[EvaluationRow]], **changes: Any) -> tuple[RunRow, ...]:
    answers = answers_of(rows, failures=tuple(changes.pop("failures", ())))
    return ask_runs.of(answers, changes.pop("floor", FLOOR), **changes).rows


def test_a_row_holds_what_was_measured() -> None:
    one = stored(evaluation_row("probe", 15, 1200, key="k"), run_id="r", finished_at=1_769_688_000_123)
    assert listed([one]) == (
        RunRow(
            model="gemma",
            trait="refusal",
            position="response[:5]",
            label="probe",
            layer=15,
            coefficient=1200.0,
            status="ok",
            trait_mean=30.0,
            coherence_mean=80.0,
            delta=20.0,
            n_scored=4,
            n_unscored=0,
            judge="likelihood",
            direction="positive",
            setting="setting-1",
            baseline_trait_mean=10.0,
            finished_at="2026-01-29T12:00:00.123Z",
            key="k",
            run_id="r",
        ),
    )


@pytest.mark.parametrize(
    ("coherence", "delta", "status"),
    [
        (68.0, 5.0, "ok"),
        (67.9, 5.0, "below_floor"),
        (67.9, None, "below_floor"),
        (68.0, None, "unscored"),
        (None, 5.0, "unscored"),
    ],
)
def test_what_an_evaluation_comes_to(coherence: float | None, delta: float | None, status: str) -> None:
    (row,) = listed([evaluated(coherence_mean=coherence, delta=delta)])
    assert row.status == status


def test_each_key_is_listed_once_and_failed_ones_with_their_error() -> None:
    rows = [
        stored(evaluation_row("probe", key="k"), run_id="old", finished_at=1),
        stored(evaluation_row("probe", key="k"), run_id="new", finished_at=2),
    ]
    found = listed(rows, failures=[failed("mean_diff", key="f", error="out of memory", finished_at=3)])
    assert [(row.run_id, row.status, row.error) for row in found] == [
        ("failed-f-3", "failed", "out of memory"),
        ("new", "ok", None),
    ]
    assert (found[0].delta, found[0].trait_mean, found[0].coherence_mean) == (None, None, None)
    assert (found[0].layer, found[0].coefficient, found[0].finished_at) == (15, 1000.0, "1970-01-01T00:00:00.003Z")


def by(sort: str, rows: list[Stored[EvaluationRow]], **changes: Any) -> list[str]:
    return [row.key for row in listed(rows, sort=sort, **changes)]


def test_orders_with_what_is_missing_last() -> None:
    rows = [
        stored(evaluation_row("probe", 14, 900, key="a", delta=5.0, coherence_mean=70.0), finished_at=1),
        stored(evaluation_row("probe", 13, -900, key="b", delta=9.0, coherence_mean=None), finished_at=3),
        stored(evaluation_row("probe", 15, 100, key="c", delta=None, coherence_mean=90.0), finished_at=2),
    ]
    assert by("finished", rows) == ["b", "c", "a"]
    assert by("delta", rows) == ["b", "a", "c"]
    assert by("coherence", rows) == ["c", "a", "b"]
    assert by("coefficient", rows) == ["b", "c", "a"]
    assert by("layer", rows) == ["b", "a", "c"]
    lost = failed("probe", key="d", finished_at=9)
    assert by("delta", rows, failures=[lost]) == ["b", "a", "c", "d"]
    unfinished = stored(evaluation_row("probe", key="e"), finished_at=-1)
    assert by("finished", [*rows, unfinished])[-1] == "e"


def test_the_better_delta_is_by_direction_and_ties_keep_the_order_of_the_place() -> None:
    rows = [
        evaluated("probe", key="b", delta=-5.0, direction="negative"),
        evaluated("probe", key="a", delta=-9.0, direction="negative"),
        evaluated("gradient", key="c", delta=-9.0, direction="negative"),
    ]
    assert by("delta", rows) == by("delta", rows[::-1]) == ["c", "a", "b"]


def test_a_limit_says_how_many_it_leaves_out() -> None:
    rows = [stored(evaluation_row(key=f"k{i}"), finished_at=i) for i in range(5)]
    answer = ask_runs.of(answers_of(rows), FLOOR, limit=2)
    assert [row.key for row in answer.rows] == ["k4", "k3"]
    assert answer.notes == ("3 of 5 evaluations left out by the limit of 2",)
    assert ask_runs.of(answers_of(rows), FLOOR, limit=5).notes == ()


def test_an_order_or_limit_that_is_none_is_refused() -> None:
    assert get_args(SortBy) == SORTS
    with pytest.raises(UsageError, match="cannot sort by 'name'; there is finished, delta"):
        listed([], sort="name")
    with pytest.raises(UsageError, match="limit 0"):
        listed([], limit=0)


def test_settings_are_told_apart() -> None:
    rows = [evaluated(), evaluated(setting="other", judge="openai:x", key="o")]
    answer = ask_runs.of(answers_of(rows), FLOOR)
    assert {row.judge for row in answer.rows} == {"likelihood", "openai:x"}
    assert "evaluated in 2 settings" in answer.notes[0]
    assert list(answer.to_frame()["judge"]) == [row.judge for row in answer.rows]


def test_a_time_that_is_no_date_is_missing() -> None:
    (row,) = listed([stored(evaluation_row(), finished_at=10**18)])
    assert row.finished_at is None


def test_rows_that_lack_a_baseline_are_listed_beside_those_that_have_one() -> None:
    rows = [
        evaluated(key="a", baseline_trait_mean=None, delta=None, n_dims_cleaned=None, vector_digest=None),
        evaluated(key="b", baseline_trait_mean=10.0, n_dims_cleaned=3, vector_digest="v"),
    ]
    assert {row.key for row in ask_runs.of(answers_of(rows), 68.0).rows} == {"a", "b"}
