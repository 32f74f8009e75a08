"""Winners on other questions: what remains of each delta, who wins there, and what is not confirmed."""

import csv
import io
import json
from dataclasses import replace
from typing import Any

import pytest

import massact
from massact.cli.questions import render
from massact.query import Answers, Evaluations, Filters
from massact.query.answers import Confirmed
from massact.query.questions.best import ask_best
from massact.query.questions.confirmations import ConfirmationRow, ConfirmationsAnswer, ask_confirmations
from massact.query.questions.runs import ask_runs
from massact.query.stats.means import bounded_mean_interval
from massact.store.schema import Declared, encode_point, point_of
from tests.support.confirmation_rows import Scored, all_confirmed, chosen, confirmed, rows_of, scores_of
from tests.support.store_fixtures import answers_of

FLOOR = 68.0
PROBE = chosen("probe", 1000, (30, 36, 33, 28, 34, 31))
MEAN_DIFF = chosen("mean_diff", 1200, (25, 40, 30, 20, 36, 35))
BEHIND = chosen("mean_diff_top1", 900, (2, 3, 1, 2, 2, 3))
WORSE = chosen("probe", 500, (20, 22, 21, 20, 22, 21))
GRID = [PROBE, MEAN_DIFF, BEHIND, WORSE]


def ask(*cells: Scored, grid: list[Scored] | None = None, **options: Any) -> ConfirmationsAnswer:
    found = GRID if grid is None else grid
    floor, is_split = options.pop("floor", FLOOR), options.pop("is_split", False)
    scores = options.pop("scores", scores_of(found))
    answers = answers_of(rows_of(found), confirmed=all_confirmed(*cells), choosing_scores=scores, **options)
    declared = Declared("x", floor, (), (), {}, confirm_share=0.4 if is_split else None)
    return ask_confirmations.of(replace(answers, declared=declared), floor)


def by_label(answer: ConfirmationsAnswer) -> dict[str, ConfirmationRow]:
    return {row.label: row for row in answer.rows}


def test_a_winner_and_its_ties_are_shown_with_what_remains() -> None:
    answer = ask(confirmed(PROBE, (20, 30, 25, 25)), confirmed(MEAN_DIFF, (30, 32, 31, 31)))
    probe, mean_diff = answer.rows
    assert [(row.label, row.standing, row.status) for row in answer.rows] == [
        ("probe", "winner", "confirmed"),
        ("mean_diff", "tied", "confirmed"),
    ]
    assert (probe.selected_delta, probe.confirmed_delta) == (pytest.approx(32.0), pytest.approx(25.0))
    assert (probe.shrinkage, mean_diff.shrinkage) == (pytest.approx(7.0), pytest.approx(0.0))
    # the baseline scored 20, 22, 18 and 20: that of another question is at most 20 + 3.1824 * 1.6330 * sqrt(5 / 4)
    limits = bounded_mean_interval((20, 30, 25, 25), -25.81, 100, confidence=0.95)
    assert (probe.confirmed_low, probe.confirmed_high) == pytest.approx(limits, abs=0.01)
    assert probe.confirmed_note is None
    assert (probe.n_selecting, probe.n_confirming) == (6, 4)
    assert (probe.baseline_trait_mean, probe.confirmed_baseline_trait_mean) == (11.0, 20.0)
    assert (probe.selected_rank, probe.confirmed_rank) == (1, 2)
    assert (probe.run_id, probe.confirmed_run_id) == (PROBE[0].run_id, confirmed(PROBE, (0,) * 4)[0].run_id)
    (place,) = answer.places
    assert (place.winner, place.confirmed_winner) == ("probe", "mean_diff")
    assert (place.wins_again, place.order_changed) == (False, True)
    assert (place.n_cells, place.n_confirmed, place.mean_shrinkage) == (2, 2, pytest.approx(3.5))
    assert answer.notes == ()


def test_the_selected_figures_are_those_of_best() -> None:
    expected = {row.label: row for row in ask_best.of(answers_of(rows_of(GRID), scores=scores_of(GRID)), FLOOR).rows}
    for row in ask().rows:
        mine = expected[row.label]
        assert (row.key, row.selected_delta, row.selected_low, row.selected_high, row.standing) == (
            mine.key, mine.delta, mine.delta_low, mine.delta_high, mine.standing,
        )  # fmt: skip


def test_a_lead_that_no_judge_can_tell_is_none() -> None:
    answer = ask(confirmed(PROBE, (20, 30, 25, 25)), confirmed(MEAN_DIFF, (20.4, 30.4, 25.4, 25.4)))
    (place,) = answer.places
    assert (place.confirmed_winner, place.wins_again, place.order_changed) == ("probe", True, False)


def test_what_falls_below_the_floor_does_not_win() -> None:
    answer = ask(confirmed(PROBE, (40, 40, 41, 40), coherence=60.0), confirmed(MEAN_DIFF, (5, 5, 6, 5)))
    assert [(row.holds_floor, row.confirmed_rank) for row in answer.rows] == [(False, None), (True, 1)]
    (place,) = answer.places
    assert (place.confirmed_winner, place.wins_again, place.order_changed) == ("mean_diff", False, None)
    nothing = ask(*(confirmed(one, (5, 5, 6, 5), coherence=60.0) for one in (PROBE, MEAN_DIFF)))
    assert (nothing.places[0].confirmed_winner, nothing.places[0].wins_again) == (None, False)


def test_for_a_negative_direction_shrinkage_is_towards_nothing() -> None:
    grid = [chosen("probe", 1000, (-5, -7, -6, -6, -7, -5), direction="negative")]
    answer = ask(confirmed(grid[0], (-4, -4, -5, -3)), grid=grid)
    (row,) = answer.rows
    assert (row.standing, row.selected_delta, row.confirmed_delta) == ("winner", -6.0, -4.0)
    assert row.shrinkage == pytest.approx(2.0), "it fell by two points less"
    # four deltas near -4 leave a share of 1 - 0.04 ** (1 / 4) to others, of -100 at most
    assert row.confirmed_low == pytest.approx(-4 - 0.5528 * 96, abs=0.1)
    assert row.confirmed_high is not None
    assert row.confirmed_high > 0


def test_what_is_open_is_said() -> None:
    answer = ask(confirmed(MEAN_DIFF, (30, 32, 31, 31)))
    assert [row.status for row in answer.rows] == ["unconfirmed", "confirmed"]
    assert answer.places[0].wins_again is None
    assert answer.notes == ("1 winner or tied label is not confirmed yet: run massact confirm",)
    assert ask().notes == ("2 winners and tied labels are not confirmed yet: run massact confirm",)


def test_unscored_responses_are_neither_zero_nor_confirmed() -> None:
    answer = ask(confirmed(PROBE, (None,) * 4), confirmed(MEAN_DIFF, (30, None, 31, None)))
    probe, mean_diff = answer.rows
    assert (probe.status, probe.confirmed_delta, probe.shrinkage, probe.holds_floor) == (
        "unscored", None, None, None,
    )  # fmt: skip
    assert (mean_diff.status, mean_diff.n_confirming) == ("confirmed", 2)
    assert mean_diff.confirmed_low is None, "two questions give no interval"
    assert mean_diff.confirmed_note == "fewer than 3 questions have a score of it and of its baseline"


def test_the_label_that_wins_now_is_corrected_for_having_been_picked() -> None:
    answer = ask(confirmed(PROBE, (20, 30, 25, 25)), confirmed(MEAN_DIFF, (30, 32, 31, 31)))
    mean_diff, (place,) = answer.rows[1], answer.places
    assert place.confirmed_winner == "mean_diff"
    assert place.confirmed_winner_high == mean_diff.confirmed_high
    low, _ = bounded_mean_interval((30, 32, 31, 31), -25.81, 100, confidence=0.975)
    assert place.confirmed_winner_low == pytest.approx(low, abs=0.01)
    assert place.confirmed_winner_low is not None
    assert mean_diff.confirmed_low is not None
    assert place.confirmed_winner_low < mean_diff.confirmed_low
    # means 25 and 31, variance 18, of which noise gives 4 / 3
    assert place.confirmed_winner_delta == pytest.approx(28 + (1 - 4 / 3 / 18) * 3)
    alone = ask(confirmed(PROBE, (20, 30, 25, 25)))
    assert alone.places[0].confirmed_winner_low == alone.rows[0].confirmed_low
    assert alone.places[0].confirmed_winner_delta == pytest.approx(25.0)


def test_a_cell_that_won_once_is_told_from_those_that_win() -> None:
    answer = ask(confirmed(WORSE, (20, 20, 21, 19)), confirmed(PROBE, (20, 30, 25, 25)))
    past = answer.rows[-1]
    assert (past.label, past.coefficient, past.status, past.standing) == ("probe", 500.0, "outdated", None)
    assert past.shrinkage == pytest.approx(past.selected_delta - 20.0 if past.selected_delta else 0.0)
    assert any("1 confirmed cell is neither a winner nor tied" in note for note in answer.notes)
    assert answer.places[0].n_cells == 2


def test_only_the_newest_questions_count() -> None:
    old = confirmed(PROBE, (0, 0, 1, 0), setting="fewer questions", finished_at=1500)
    answer = ask(old, confirmed(MEAN_DIFF, (30, 32, 31, 31)))
    assert by_label(answer)["probe"].status == "unconfirmed"
    assert any("1 confirmation on other questions than the newest, left out" in note for note in answer.notes)


def test_a_confirmation_without_its_evaluation_is_counted() -> None:
    answer = ask(confirmed(chosen("gradient", 700, (1,) * 6), (1, 1, 1, 2)), confirmed(PROBE, (20, 30, 25, 25)))
    assert "gradient" not in by_label(answer)
    assert any("1 confirmation is of evaluations that are not in the run store" in n for n in answer.notes)


def test_without_a_split_there_is_nothing_to_confirm() -> None:
    grid = [chosen("probe", 1000, (30, 36, 33, 28, 34, 31), confirm_share=None)]
    answer = ask(grid=grid)
    assert (answer.rows, answer.places) == ((), ())
    assert "declare `questions: {confirm: SHARE}`" in answer.notes[0]
    assert ask(grid=grid, is_split=True).notes == ()


def test_where_no_winner_can_be_told_it_says_so() -> None:
    answer = ask_confirmations.of(
        answers_of(rows_of(GRID), confirmed=Confirmed(), choosing_scores=scores_of([])), FLOOR
    )
    assert answer.rows == ()
    assert "gemma, refusal, response[:5]: no winner can be told" in answer.notes[0]


def test_labels_and_layers_choose_what_is_shown_and_not_who_won() -> None:
    whole = Answers(
        evaluations=Evaluations.of(rows_of(GRID)),
        confirmed=all_confirmed(confirmed(MEAN_DIFF, (30, 32, 31, 31))),
        choosing_scores=scores_of(GRID),
        coefficient_ranges={},
    )
    shown = massact.confirmations.of(whole.only(Filters(labels=("mean_diff",), layers=(15,))), FLOOR)
    (row,) = shown.rows
    assert (row.label, row.standing, row.selected_rank) == ("mean_diff", "tied", 2)
    assert shown.places[0].winner == "probe"
    nothing = massact.confirmations.of(whole.only(Filters(labels=("mean_diff_top1",))), FLOOR)
    assert (nothing.rows, nothing.places) == ((), ())


def test_a_confirmation_is_no_second_chance_to_win() -> None:
    again = confirmed(MEAN_DIFF, (90, 90, 90, 90))[0]
    assert encode_point(again.row) is None
    assert point_of(again.row, again.run_id, 1) is None
    for question in (ask_best, ask_runs):
        with_it, without = (answers_of(rows) for rows in ([*rows_of(GRID), again], rows_of(GRID)))
        assert question.of(with_it, FLOOR) == question.of(without, FLOOR)


def test_it_prints_in_every_format() -> None:
    answer = ask(confirmed(PROBE, (20, 30, 25, 25), coherence=60.0))
    table = render(answer, "table").splitlines()
    assert max(map(len, table)) <= 120
    probe, place = [line.split() for line in table if line.startswith("probe")]
    assert probe[1:7] == ["winner", "below", "floor", "15", "1000", "+32.0"]
    assert place[1:5] == ["1", "of", "2", "no"], "no label holds the floor, so that none is named"
    (tied,) = [line.split() for line in table if line.startswith("mean_diff")]
    assert tied[1:3] == ["tied", "unconfirmed"]
    first, *rows = csv.DictReader(io.StringIO(render(answer, "csv")))
    assert (first["confirmed_delta"], first["holds_floor"], rows[0]["confirmed_delta"]) == ("25.0", "false", "")
    assert render(answer, "markdown").count("\n| ---") == 2, "one of cells, one of places"
    assert json.loads(render(answer, "json"))["places"][0]["wins_again"] is False


def test_the_best_of_noise_shrinks_and_steady_cells_do_not() -> None:
    """Twelve labels that are all alike: what the winner is ahead by is luck, which other questions do not have."""
    import numpy as np

    rng = np.random.default_rng(7)
    labels = [
        f"{method}{end}" for method in ("probe", "mean_diff", "gradient") for end in ("", "_top1", "_top2", "_top3")
    ]
    shrinkages, covered = [], 0
    n_worlds = 60
    for _ in range(n_worlds):
        grid = [chosen(label, 1000, rng.normal(20, 15, 6).tolist()) for label in labels]
        again = [confirmed(one, rng.normal(20, 15, 4).tolist()) for one in grid]
        winner = ask(*again, grid=grid).rows[0]
        assert winner.standing == "winner"
        assert winner.shrinkage is not None
        assert winner.confirmed_low is not None
        assert winner.confirmed_high is not None
        shrinkages.append(winner.shrinkage)
        covered += winner.confirmed_low <= 20 <= winner.confirmed_high
    # the largest of 12 means that scatter by 15 / sqrt(6) lies 1.63 such above their mean
    assert np.mean(shrinkages) == pytest.approx(1.63 * 15 / 6**0.5, abs=3.0)
    assert covered >= 0.85 * n_worlds
