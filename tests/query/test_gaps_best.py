"""gaps and best: what counts, what wins, what is said where nothing does."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from massact.cli.questions import render
from massact.domain import Group
from massact.query.questions.best import BestRow, ask_best
from massact.query.questions.gaps import GapRow, ask_gaps
from massact.query.rows import to_json
from massact.store.read.base import Stored
from massact.store.schema import EvaluationRow, Kind
from tests.support.store_fixtures import answers_of, evaluated, evaluation_row, failed, stored

FLOOR = 68.0


def group(label: str = "probe", **changes: str) -> Group:
    return Group(**{"model": "gemma", "trait": "refusal", "position": "response[:5]", "label": label, **changes})


def the_best(rows: Sequence[Stored[EvaluationRow]], **changes: Any) -> BestRow:
    floor = changes.pop("floor", FLOOR)
    (row,) = ask_best.of(answers_of(rows, **changes), floor).rows
    return row


def the_gap(rows: Sequence[Stored[EvaluationRow]], **changes: Any) -> GapRow:
    floor = changes.pop("floor", FLOOR)
    (row,) = ask_gaps.of(answers_of(rows, **{"groups": (group(),), **changes}), floor).rows
    return row


def where(row: Any) -> tuple[Any, ...]:
    return (row.layer, row.coefficient, row.delta)


# The two defects of the plan's own script.


def test_an_incoherent_row_with_a_high_delta_seen_first_hides_nothing() -> None:
    rows = [
        evaluated(coefficient=2000, coherence_mean=20.0, delta=80.0),
        evaluated(coefficient=1000, coherence_mean=75.0, delta=30.0),
    ]
    for arrived in (rows, rows[::-1]):
        gap = the_gap(arrived)
        assert gap.status == "ok"
        assert gap.best is not None
        assert where(gap.best) == (15, 1000, 30.0)
        assert gap.nearest_miss is None


def test_the_miss_that_is_reported_is_the_most_coherent_not_the_first() -> None:
    rows = [evaluated(coefficient=c, coherence_mean=h) for c, h in ((2000, 20.0), (1200, 66.0), (1500, 40.0))]
    for arrived in (rows, rows[::-1]):
        miss = the_gap(arrived).nearest_miss
        assert miss is not None
        assert (miss.coefficient, miss.coherence_mean) == (1200, 66.0)


# best


def test_the_floor_itself_counts() -> None:
    assert the_best([evaluated(coherence_mean=68.0)]).status == "ok"
    assert the_best([evaluated(coherence_mean=67.9)]).status == "below_floor"


def test_a_best_carries_what_is_asked_of_it() -> None:
    row = the_best([evaluated("mean_diff_top1", 12, 900.0, relative_strength=0.8, n_dims_cleaned=1)])
    assert (row.model, row.trait, row.position, row.label) == ("gemma", "refusal", "response[:5]", "mean_diff_top1")
    assert (row.method, row.cleaning, row.scope, row.n_dims) == ("mean_diff", "after", "uniform", 1)
    assert where(row) == (12, 900.0, 20.0)
    assert (row.trait_mean, row.coherence_mean, row.baseline_trait_mean, row.n_scored) == (30.0, 80.0, 10.0, 4)
    assert (row.judge, row.direction, row.relative_strength) == ("likelihood", "positive", 0.8)
    assert (row.key, row.run_id) == ("mean_diff_top1-12-900", "run-setting-1-mean_diff_top1-12-900")


def test_ties_go_to_the_smaller_coefficient_then_the_lower_layer_then_the_key() -> None:
    tied = [evaluated(layer=15, coefficient=1200), evaluated(layer=15, coefficient=-1000), evaluated(layer=16)]
    assert where(the_best(tied)) == (15, -1000, 20.0)
    twins = [evaluated(key=key) for key in "ba"]
    assert the_best(twins).key == "a"


def test_a_negative_direction_prefers_the_smaller_delta() -> None:
    rows = [evaluated(coefficient=c, delta=d, direction="negative") for c, d in ((1, -5.0), (2, -30.0), (3, 40.0))]
    assert the_best(rows).delta == -30.0


def test_nothing_coherent_is_an_answer_with_the_nearest_miss() -> None:
    row = the_best([evaluated(coherence_mean=h, coefficient=c) for c, h in ((1000, 60.0), (1200, 40.0))])
    assert (row.status, row.delta, row.layer, row.trait_mean, row.run_id) == ("below_floor", None, None, None, None)
    assert row.nearest_miss is not None
    assert row.nearest_miss.coherence_mean == 60.0


def test_nearest_misses_tie_to_the_better_delta_then_as_bests_do() -> None:
    low: dict[str, Any] = {"coherence_mean": 60.0}
    rows = [
        evaluated(coefficient=1, delta=None, **low),
        evaluated(coefficient=2, delta=10.0, **low),
        evaluated(coefficient=4, delta=20.0, **low),
        evaluated(coefficient=3, layer=16, delta=20.0, **low),
        evaluated(coefficient=3, layer=15, delta=20.0, **low),
    ]
    miss = the_best(rows).nearest_miss
    assert miss is not None
    assert where(miss) == (15, 3, 20.0)


def test_what_is_unscored_is_neither_coherent_nor_a_miss() -> None:
    unscored = evaluated(coherence_mean=None, trait_mean=None, delta=None)
    answer = ask_best.of(answers_of([unscored]), FLOOR)
    assert (answer.rows[0].status, answer.rows[0].nearest_miss) == ("missing", None)
    assert answer.notes == ("1 evaluation lacks a coherence or a delta: counted neither as coherent nor as a miss",)
    assert the_best([evaluated(delta=None)]).status == "missing"
    assert the_gap([unscored]).n_unscored == 1


def test_declared_groups_come_first_then_any_other_found() -> None:
    rows = [evaluated("probe"), evaluated("gradient"), evaluated("mean_diff")]
    answer = ask_best.of(answers_of(rows, groups=(group("probe_top2"), group("probe"))), FLOOR)
    assert [(row.label, row.status, row.is_declared) for row in answer.rows] == [
        ("probe_top2", "missing", True),
        ("probe", "ok", True),
        ("gradient", "ok", False),
        ("mean_diff", "ok", False),
    ]
    assert (answer.rows[0].method, answer.rows[0].cleaning, answer.rows[0].n_dims) == ("probe", "after", 2)
    assert answer.rows[0].delta is None
    assert answer.notes == ("2 groups are in the store that the experiment file does not declare",)


# what counts


def test_a_key_counts_once_with_its_newest_run() -> None:
    old, new = evaluation_row(key="k", delta=50.0), evaluation_row(key="k", delta=10.0)
    rows = [stored(new, run_id="b", finished_at=2000), stored(old, run_id="c", finished_at=1000)]
    assert (the_best(rows).delta, the_gap(rows).n_evaluated) == (10.0, 1)
    tied = [stored(new, run_id="b"), stored(old, run_id="a")]
    assert the_best(tied).delta == 10.0


def test_unfinished_rows_and_baselines_do_not_count() -> None:
    running = Stored("r", "RUNNING", None, evaluation_row())
    baseline = stored(replace(evaluation_row(), kind=Kind.BASELINE))
    assert the_gap([running, baseline]).status == "missing"
    assert ask_best.of(answers_of([running, baseline]), FLOOR).rows == ()


# settings


def test_settings_are_answered_apart_and_said_in_words() -> None:
    rows = [
        stored(evaluation_row(delta=50.0), run_id="old", finished_at=1000),
        stored(
            evaluation_row(key="n", setting="setting-2", judge="openai:gpt", delta=9.0), run_id="n", finished_at=2000
        ),
    ]
    answer = ask_best.of(answers_of(rows), FLOOR)
    assert [(row.judge, row.setting, row.delta) for row in answer.rows] == [
        ("openai:gpt", "setting-2", 9.0),
        ("likelihood", "setting-1", 50.0),
    ]
    assert answer.notes == (
        "gemma, refusal: evaluated in 2 settings, answered separately and never mixed; they differ in judge "
        "(likelihood, openai:gpt)",
    )


def test_a_difference_that_rows_do_not_hold_is_no_guess() -> None:
    answer = ask_best.of(answers_of([evaluated(), evaluated(key="n", setting="setting-2")]), FLOOR)
    assert "they differ in what the runs do not tell" in answer.notes[0]
    assert {row.differs["setting"] for row in answer.rows} == {"setting-1", "setting-2"}


@pytest.mark.parametrize(
    ("field", "one", "other"),
    [
        ("trait_digest", "d1", "d2"),
        ("chat_template_digest", "d1", "d2"),
        ("model_variant", "instruct", "lora"),
        ("n_questions", 5, 100),
        ("prompt_set", "pv", "v3c"),
        ("temperature", 0.0, 0.7),
    ],
)
def test_the_field_that_differs_is_named_and_told_in_every_row(field: str, one: Any, other: Any) -> None:
    rows = [evaluated(**{field: one}), evaluated(key="n", setting="setting-2", **{field: other})]
    answer = ask_best.of(answers_of(rows), FLOOR)
    assert answer.notes[0].endswith(f"they differ in {field} ({one}, {other})".replace("0.0", "0"))
    assert {row.differs[field] for row in answer.rows} == {one, other}
    assert all(list(row.differs) == [field] for row in answer.rows)
    assert sorted(answer.to_frame()[field]) == sorted([one, other])
    assert {row[field] for row in json.loads(to_json(answer))["rows"]} == {one, other}
    assert {row[field] for row in csv.DictReader(io.StringIO(render(answer, "csv")))} == {str(one), str(other)}
    header = {"n_questions": "questions"}.get(field, field.replace("_", " "))
    assert header in render(answer, "table").splitlines()[2]
    assert header in render(answer, "markdown").splitlines()[0]


def test_an_adapter_is_told_from_the_weights_below_it() -> None:
    commit = "a" * 40
    rows = [
        evaluated(model_revision=f"{commit}+adapter:{'b' * 64}"),
        evaluated(key="m", setting="setting-2", model_revision=f"{commit}+adapter:{'b' * 63}c"),
        evaluated(key="n", setting="setting-3", model_revision=commit),
    ]
    answer = ask_best.of(answers_of(rows), FLOOR)
    assert {row.differs["adapter"] for row in answer.rows} == {"b" * 64, "b" * 63 + "c", "none"}
    assert "they differ in adapter (bbbbbbbb...bbbbbbbb, bbbbbbbb...bbbbbbbc, none)" in answer.notes[0]
    assert len({line.split()[0] for line in render(answer, "table").splitlines()[3:]}) == 3


def test_baselines_of_one_setting_tell_its_rows_apart() -> None:
    answer = ask_best.of(answers_of([evaluated(), evaluated(key="n", baseline_trait_mean=12.0, delta=18.0)]), FLOOR)
    assert {row.differs["baseline_trait_mean"] for row in answer.rows} == {10.0, 12.0}
    assert "baseline" in render(answer, "table").splitlines()[2]


@pytest.mark.parametrize(("old", "new", "n_remaining"), [(80.0, 30.0, 1), (30.0, 80.0, 0)])
def test_the_setting_run_last_decides_whether_a_group_is_filled(old: float, new: float, n_remaining: int) -> None:
    rows = [
        stored(evaluation_row(coherence_mean=old), run_id="old", finished_at=1000),
        stored(evaluation_row(key="n", setting="setting-0", coherence_mean=new), run_id="new", finished_at=2000),
    ]
    answer = ask_gaps.of(answers_of(rows, groups=(group(),)), FLOOR)
    assert [(row.setting, row.is_current) for row in answer.rows] == [("setting-0", True), ("setting-1", False)]
    assert len(answer.remaining) == n_remaining


# gaps


def test_a_group_without_anything_is_missing() -> None:
    row = the_gap([evaluated("mean_diff")])
    assert (row.status, row.n_evaluated, row.best, row.judge) == ("missing", 0, None, None)


def test_a_group_that_only_failed_shows_the_newest_error() -> None:
    failures = [failed(key="a", error="first"), failed(key="b", error="last", finished_at=2000)]
    row = the_gap([], failures=failures)
    assert (row.status, row.n_failed, row.error) == ("failed", 2, "last")


def test_a_failure_beside_results_does_not_hide_them() -> None:
    answers = {h: the_gap([evaluated(coherence_mean=h)], failures=[failed(key="f")]) for h in (80.0, 60.0)}
    assert {h: (row.status, row.n_failed) for h, row in answers.items()} == {80.0: ("ok", 1), 60.0: ("below_floor", 1)}


def test_the_answer_keeps_the_order_of_the_matrix_and_counts_what_remains() -> None:
    declared = [group("probe"), group("mean_diff"), group("gradient")]
    answer = ask_gaps.of(
        answers_of([evaluated("mean_diff"), evaluated("gradient", coherence_mean=10.0)], groups=tuple(declared)), FLOOR
    )
    assert [(row.label, row.status) for row in answer.rows] == [
        ("probe", "missing"),
        ("mean_diff", "ok"),
        ("gradient", "below_floor"),
    ]
    assert [row.label for row in answer.remaining] == ["probe", "gradient"]
    assert answer.rows[1].brackets[0].try_next == (250, 397, 630, 1260, 1590, 2000), "its grid has one coefficient"


def test_a_gap_says_which_baseline_it_was_compared_with() -> None:
    (row,) = ask_gaps.of(
        answers_of([evaluated(baseline_trait_mean=7.5)], groups=(Group("gemma", "refusal", "response[:5]", "probe"),)),
        FLOOR,
    ).rows
    assert row.baseline_trait_mean == 7.5


def test_positions_come_in_the_order_that_people_count_in() -> None:
    rows = [evaluated(position=f"response[:{n}]", key=str(n)) for n in (10, 5, 20)]
    assert [row.position for row in ask_best.of(answers_of(rows), FLOOR).rows] == [
        "response[:5]",
        "response[:10]",
        "response[:20]",
    ]
