"""Intervals, standings and tests in the answers of `best` and `compare`."""

import random
from dataclasses import replace
from typing import Any

import pytest

import massact
from massact.domain import Group
from massact.query import Answers, Evaluations, Filters
from massact.query.groups import slices, strata
from massact.query.questions.best import ask_best
from massact.query.questions.compare import ComparisonRow, ask_compare
from massact.query.questions.sensitivity import HalvesRow, halves
from massact.query.rows import Point
from massact.query.stats.paired import QuestionScores, at_matched_coherence
from massact.store.read.base import Stored
from massact.store.schema import EvaluationRow, Scores
from tests.support.store_fixtures import answers_of, evaluated

FLOOR = 68.0
N_QUESTIONS = 10
BASE = tuple(float(10 + i % 3) for i in range(N_QUESTIONS))
BASE_MEAN = sum(BASE) / N_QUESTIONS


def scored(
    label: str, coefficient: float, gains: list[float], *, coherence: float = 80.0, **changes: Any
) -> tuple[Stored[EvaluationRow], Scores]:
    """An evaluation with a gain over the baseline for each question."""
    trait = tuple(base + gain for base, gain in zip(BASE, gains, strict=True))
    delta = sum(gains) / N_QUESTIONS
    fields = {
        "baseline_trait_mean": BASE_MEAN,
        "delta": delta,
        "trait_mean": BASE_MEAN + delta,
        "coherence_mean": coherence,
    }
    return evaluated(label, 15, coefficient, **{**fields, **changes}), Scores(trait, (coherence,) * N_QUESTIONS)


def noisy(mean: float, step: float = 7.0, shift: int = 0) -> list[float]:
    """Gains with this mean, each question's another."""
    wave = [step * ((3 * (i + shift)) % 10 - 4.5) for i in range(N_QUESTIONS)]
    return [mean + one for one in wave]


def scores_of(evaluations: list[tuple[Stored[EvaluationRow], Scores]]) -> QuestionScores:
    by_run = {one.run_id: scores for one, scores in evaluations}
    return QuestionScores(by_run, {"baseline": Scores(BASE, (90.0,) * N_QUESTIONS)})


def rows_of(evaluations: list[tuple[Stored[EvaluationRow], Scores]]) -> list[Stored[EvaluationRow]]:
    return [one for one, _ in evaluations]


GRID = [
    scored("probe", 1000, noisy(30)),
    scored("probe", 1200, noisy(33, shift=2)),
    scored("probe", 1500, noisy(60), coherence=40.0),
    scored("mean_diff", 1000, noisy(31, shift=5)),
    scored("mean_diff_top1", 1000, noisy(2, step=1.0)),
]


def test_every_best_has_an_interval_that_allows_for_the_picking() -> None:
    answer = ask_best.of(answers_of(rows_of(GRID), scores=scores_of(GRID)), FLOOR)
    probe = next(row for row in answer.rows if row.label == "probe")
    alone = ask_best.of(answers_of(rows_of(GRID[1:2]), scores=scores_of(GRID)), FLOOR).rows[0]
    assert probe.coefficient == alone.coefficient == 1200
    assert probe.delta_low is not None
    assert probe.delta_high is not None
    assert probe.delta_unbiased is not None
    assert alone.delta_low is not None
    assert probe.delta_low < probe.delta_unbiased < 33.0 < probe.delta_high
    assert alone.delta_unbiased == pytest.approx(33.0), "one evaluation was not picked"
    assert probe.delta_low < alone.delta_low


def test_labels_have_a_standing() -> None:
    answer = ask_best.of(answers_of(rows_of(GRID), scores=scores_of(GRID)), FLOOR)
    assert {row.label: row.standing for row in answer.rows} == {
        "probe": "winner",
        "mean_diff": "tied",
        "mean_diff_top1": "behind",
    }


def test_for_a_negative_direction_the_smaller_delta_wins() -> None:
    grid = [
        scored("probe", 1000, [-gain for gain in noisy(8, step=0.5)], direction="negative"),
        scored("mean_diff", 1000, noisy(2, step=0.2), direction="negative"),
    ]
    answer = ask_best.of(answers_of(rows_of(grid), scores=scores_of(grid)), FLOOR)
    probe = next(row for row in answer.rows if row.label == "probe")
    assert probe.standing == "winner"
    assert probe.delta_low is not None
    assert probe.delta_high is not None
    assert probe.delta_low < -8 < probe.delta_high < 0


def test_a_delta_has_no_more_room_than_the_baseline_leaves() -> None:
    grid = [scored("probe", 1000, [89.0 - base for base in BASE]), scored("probe", 1200, noisy(85, step=0.5))]
    (row,) = ask_best.of(answers_of(rows_of(grid), scores=scores_of(grid)), FLOOR).rows
    assert row.delta_high is not None
    assert row.delta_high <= 100 - (BASE_MEAN - 1)


def test_the_winner_was_picked_among_the_evaluations_of_all_labels() -> None:
    grid = [scored("probe", 1000.0 + at, noisy(30, shift=at)) for at in range(4)]
    others = [scored(f"probe_top{n}", 1000, noisy(29, shift=n + 4)) for n in (1, 2, 3)]
    alone = ask_best.of(answers_of(rows_of(grid), scores=scores_of(grid)), FLOOR).rows[0]
    answer = ask_best.of(answers_of(rows_of([*grid, *others]), scores=scores_of([*grid, *others])), FLOOR)
    winner = next(row for row in answer.rows if row.standing == "winner")
    assert (winner.label, winner.run_id) == ("probe", alone.run_id)
    assert winner.delta_low is not None
    assert alone.delta_low is not None
    assert winner.delta_low < alone.delta_low


def test_without_scores_by_question_it_says_that_it_cannot() -> None:
    answer = ask_best.of(answers_of(rows_of(GRID), scores=QuestionScores({}, {})), FLOOR)
    assert all(row.delta_low is None and row.standing is None for row in answer.rows)
    assert any("3 bests have no interval" in note for note in answer.notes)


def test_a_baseline_of_other_scores_is_not_used() -> None:
    wrong = QuestionScores(
        scores_of(GRID).evaluations, {"baseline": Scores((50.0,) * N_QUESTIONS, (90.0,) * N_QUESTIONS)}
    )
    assert ask_best.of(answers_of(rows_of(GRID), scores=wrong), FLOOR).rows[0].delta_low is None


def test_without_scores_nothing_is_added() -> None:
    answer = ask_best.of(answers_of(rows_of(GRID)), FLOOR)
    assert answer.notes == ()
    assert all(row.delta_low is None for row in answer.rows)


def test_a_difference_is_tested_by_question() -> None:
    pairs = [("probe", "mean_diff"), ("probe", "mean_diff_top1")]
    answer = ask_compare.of(answers_of(rows_of(GRID), scores=scores_of(GRID)), FLOOR, pairs=pairs)
    near, far = answer.rows
    assert near.n_questions == far.n_questions == N_QUESTIONS
    assert near.p_value is not None
    assert far.p_value is not None
    assert near.p_value > 0.5
    assert far.p_value < 0.05
    assert far.p_corrected == pytest.approx(2 * far.p_value), "two pairs were asked about"
    assert far.difference_low is not None
    assert far.difference_high is not None
    assert 0 < far.difference_low < 31 < far.difference_high


def test_one_vector_is_not_tested_against_itself() -> None:
    grid = [
        scored("mean_diff_cleaned", 1000, noisy(30), vector_digest="v"),
        scored("mean_diff_preclean", 1000, noisy(20), vector_digest="v"),
    ]
    (row,) = ask_compare.of(
        answers_of(rows_of(grid), scores=scores_of(grid)), FLOOR, pairs=[("mean_diff_preclean", "mean_diff_cleaned")]
    ).rows
    assert row.same_vector == "same vector: equal digest"
    assert row.p_value is None


def test_a_declared_pair_that_was_not_run_is_not_tested() -> None:
    groups = [Group("gemma", "refusal", "response[:5]", "gradient")]
    (row,) = ask_compare.of(
        answers_of(rows_of(GRID), groups=tuple(groups), scores=scores_of(GRID)), FLOOR, pairs=[("probe", "gradient")]
    ).rows
    assert (row.status_b, row.p_value, row.matched_difference) == ("missing", None, None)


def point(coefficient: float, coherence: float, delta: float, layer: int = 15) -> Point:
    row = evaluated("probe", layer, coefficient, coherence_mean=coherence, delta=delta).row
    return Point(
        layer=layer, coefficient=coefficient, trait_mean=None, coherence_mean=coherence, delta=delta,
        baseline_trait_mean=None, n_scored=4, n_unscored=0, n_dims_cleaned=None, relative_strength=None,
        vector_digest="v", key=row.key, run_id=row.key,
    )  # fmt: skip


def test_the_less_coherent_label_is_read_where_it_is_as_coherent_as_the_other() -> None:
    a = point(1000, 90.0, 20.0)
    curve = [point(500, 100.0, 10.0), point(1500, 80.0, 30.0), point(2000, 70.0, 50.0), point(1000, 60.0, 99.0, 3)]
    found = at_matched_coherence(a, [a], curve[2], curve)
    assert found is not None
    # at 1500 between its neighbours: coherence 100 - 30 * 2/3 and delta 10 + 40 * 2/3; at 90 half way from there to 500
    assert (found.coherence, found.delta_a) == (90.0, 20.0)
    assert found.delta_b == pytest.approx((10 + 10 + 40 * 2 / 3) / 2)
    assert found.slope == pytest.approx((found.delta_b - 50) / 20)
    # at 1500 (1/3)² + (2/3)² of the noise of one evaluation, half way from there to 500 (1 + 5/9) / 2; at a all of it
    assert found.noise == pytest.approx(((7 / 9 + 1) / 2) ** 0.5)


def test_what_lies_beside_a_best_is_read_as_it_is_expected_and_not_as_it_came_out() -> None:
    a, curve = point(1000, 90.0, 20.0), [point(500, 90.0, 60.0), point(1000, 80.0, 80.0)]
    found = at_matched_coherence(a, [a], curve[1], curve, expected={curve[0].run_id: 25.0})
    assert found is not None
    assert (found.delta_a, found.delta_b) == (20.0, 25.0)


def test_a_lucky_best_is_read_from_the_evaluations_around_it() -> None:
    curve = [point(500, 95.0, 10.0), point(1000, 99.0, 60.0), point(1500, 85.0, 30.0)]
    other = [point(500, 95.0, 10.0), point(1000, 90.0, 20.0), point(1500, 85.0, 30.0)]
    found = at_matched_coherence(curve[1], curve, other[2], other, at_zero=100.0)
    assert found is not None
    assert (found.coherence, found.delta_a, found.delta_b) == (90.0, 20.0, 20.0)


def test_like_coherence_is_asked_about_where_the_gap_is_more_than_noise() -> None:
    def pair(coherences: tuple[float, ...]) -> ComparisonRow:
        grid = [
            scored("probe", 1000, noisy(20, step=1.0), coherence=90.0),
            scored("probe", 1500, noisy(0, step=1.0), coherence=80.0),
            scored("mean_diff", 1500, noisy(30, step=1.0, shift=3), coherence=80.0),
            scored("mean_diff", 1000, noisy(20, step=1.0, shift=5), coherence=90.0),
            scored("mean_diff", 500, noisy(10, step=1.0, shift=5), coherence=100.0),
        ]
        (first, scores), *rest = grid
        grid = [(first, Scores(scores.trait, coherences)), *rest]
        answers = answers_of(rows_of(grid), scores=scores_of(grid))
        (row,) = ask_compare.of(answers, FLOOR, pairs=[("probe", "mean_diff")]).rows
        return row

    clear = pair((89.0, 91.0, 90.0, 88.0, 92.0, 89.5, 90.5, 87.0, 93.0, 90.0))
    assert clear.matched_difference == pytest.approx(0.0, abs=0.1)
    assert clear.matched_low is not None
    assert clear.matched_high is not None
    assert clear.matched_low < 0 < clear.matched_high < 10
    unclear = pair((100.0, 60.0, 100.0, 95.0, 100.0, 55.0, 100.0, 98.0, 100.0, 92.0))
    assert unclear.matched_difference is None
    assert unclear.difference == pytest.approx(-10.0)


def test_it_is_said_that_few_questions_cannot_show_a_difference() -> None:
    short = [(one, Scores(scores.trait[:5], scores.coherence[:5])) for one, scores in GRID]
    few = QuestionScores({one.run_id: scores for one, scores in short}, {"baseline": Scores(BASE[:5], (90.0,) * 5)})
    rows = [replace(one, row=replace(one.row, baseline_trait_mean=sum(BASE[:5]) / 5)) for one in rows_of(GRID)]
    answer = ask_compare.of(answers_of(rows, scores=few), FLOOR, pairs=[("probe", "mean_diff_top1")])
    assert answer.rows[0].p_value is not None
    (note,) = [note for note in answer.notes if "p-value" in note]
    assert "over 5 questions no p-value is below 0.062" in note
    assert "more questions are needed" in note
    whole = ask_compare.of(
        answers_of(rows_of(GRID), scores=scores_of(GRID)), FLOOR, pairs=[("probe", "mean_diff_top1")]
    )
    assert not any("p-value" in note for note in whole.notes)


def test_where_the_ranges_do_not_overlap_nothing_is_read() -> None:
    a, b = point(1000, 90.0, 20.0), point(2000, 70.0, 50.0)
    assert at_matched_coherence(a, [a], b, [b, point(1500, 85.0, 30.0)]) is None
    assert at_matched_coherence(a, [a], b, [b, point(-500, 95.0, 30.0)]) is None, "of the other sign"


def halved(grid: list[tuple[Stored[EvaluationRow], Scores]]) -> HalvesRow:
    (row,) = halves(strata(slices(Evaluations.of(rows_of(grid)))), floor=FLOOR, scores=scores_of(grid))
    return row


def test_a_winner_that_every_half_confirms() -> None:
    row = halved([scored("probe", 1000, [50.0] * N_QUESTIONS), scored("mean_diff", 1000, noisy(10, step=1.0))])
    assert (row.n_questions, row.n_splits) == (10, 126), "each way to halve ten questions, once"
    assert (row.winner, row.share, row.agreement, row.runner_up) == ("probe", 1.0, 1.0, None)


def test_two_labels_that_share_the_questions_never_agree() -> None:
    first = [40.0] * 5 + [0.0] * 5
    row = halved([scored("probe", 1000, first), scored("mean_diff", 1000, first[::-1])])
    assert row.agreement < 0.2
    assert row.share == pytest.approx(row.runner_up_share, abs=0.01)


def test_halves_that_two_labels_of_one_vector_win_agree() -> None:
    first = [40.0] * 5 + [0.0] * 5
    row = halved([scored("mean_diff_cleaned", 1000, first), scored("mean_diff_preclean", 1000, first[::-1])])
    assert (row.agreement, row.share, row.runner_up) == (1.0, 1.0, None)
    assert row.winner in ("mean_diff_cleaned", "mean_diff_preclean")


@pytest.mark.parametrize(("probe", "mean_diff", "winner"), [(900, 1000, "probe"), (1000, 900, "mean_diff")])
def test_of_equal_deltas_the_smaller_coefficient_wins_as_in_best(probe: float, mean_diff: float, winner: str) -> None:
    row = halved([scored("probe", probe, [40.0] * N_QUESTIONS), scored("mean_diff", mean_diff, [40.0] * N_QUESTIONS)])
    assert (row.winner, row.share) == (winner, 1.0)


def test_of_equal_deltas_and_coefficients_the_lower_layer_wins() -> None:
    probe, (mean_diff, scores) = (scored(label, 1000, [40.0] * N_QUESTIONS) for label in ("probe", "mean_diff"))
    higher = replace(mean_diff, row=replace(mean_diff.row, layer=16))
    assert halved([probe, (higher, scores)]).winner == "probe", "and not the first of the alphabet"


def test_each_half_looks_at_its_own_coherence() -> None:
    grid = [scored("probe", 1000, [50.0] * N_QUESTIONS)]
    one, of_one = grid[0]
    broken = Scores(of_one.trait, (100.0,) * 5 + (40.0,) * 5)
    row = halved([(one, broken)])
    assert row.agreement < 1.0, "where the broken questions crowd one half nothing is coherent there"
    assert row.winner == "probe"


def test_many_questions_are_split_at_random_and_always_alike() -> None:
    gains = [float(i % 7) for i in range(30)]
    base = (10.0,) * 30
    one = evaluated("probe", 15, 1000, baseline_trait_mean=10.0)
    scores = QuestionScores(
        {one.run_id: Scores(tuple(10.0 + g for g in gains), (80.0,) * 30)}, {"baseline": Scores(base, (90.0,) * 30)}
    )
    rows = [halves(strata(slices(Evaluations.of([one]))), floor=FLOOR, scores=scores) for _ in range(2)]
    assert rows[0] == rows[1]
    assert rows[0][0].n_splits == 200


def test_without_scores_by_question_there_are_no_halves() -> None:
    assert halves(strata(slices(Evaluations.of(rows_of(GRID)))), floor=FLOOR, scores=QuestionScores({}, {})) == ()


def test_standings_are_among_all_labels_of_a_place_whatever_is_shown() -> None:
    every = Answers(evaluations=Evaluations.of(rows_of(GRID)), scores=scores_of(GRID), coefficient_ranges={})
    whole = {row.run_id: row.standing for row in massact.best.of(every, FLOOR).rows}
    for labels in (("mean_diff",), ("mean_diff_top1",), ("probe", "mean_diff_top1")):
        answer = massact.best.of(every.only(Filters(labels=labels)), FLOOR)
        assert {row.run_id: row.standing for row in answer.rows} == {
            row.run_id: whole[row.run_id] for row in answer.rows
        }
        is_told = any("the winner is not shown: gemma, refusal, response[:5]: probe" in one for one in answer.notes)
        assert is_told == ("probe" not in labels)


def test_what_a_layer_filter_shows_is_set_beside_the_winner_of_the_place() -> None:
    lower = scored("probe", 900, noisy(1, step=1.0))
    lower = (replace(lower[0], row=replace(lower[0].row, layer=14)), lower[1])
    grid = [*GRID, lower]
    every = Answers(evaluations=Evaluations.of(rows_of(grid)), scores=scores_of(grid), coefficient_ranges={})
    answer = massact.best.of(every.only(Filters(layers=(14,))), FLOOR)
    assert [(row.label, row.layer, row.standing) for row in answer.rows] == [("probe", 14, "behind")]
    assert any("the winner is not shown" in note for note in answer.notes)


def test_a_label_that_is_one_vector_with_the_winner_is_never_behind() -> None:
    grid = [
        scored("mean_diff_preclean", 1000, noisy(30)),
        scored("mean_diff_cleaned", 1000, noisy(2, step=1.0)),
        scored("probe", 1000, noisy(2, step=1.0)),
    ]
    answer = ask_best.of(answers_of(rows_of(grid), scores=scores_of(grid)), FLOOR)
    assert {row.label: row.standing for row in answer.rows} == {
        "mean_diff_preclean": "winner",
        "mean_diff_cleaned": "tied",
        "probe": "behind",
    }


def test_what_one_pair_comes_to_does_not_depend_on_the_pairs_asked_before() -> None:
    grid = [scored("probe", 1000.0 + at, noisy(30 - 4 * at, shift=at)) for at in range(6)]
    grid += [scored("probe_top1", 1000.0 + at, noisy(20 - at, shift=3 * at)) for at in range(6)]
    grid += [scored("mean_diff", 1000.0 + at, noisy(25 - at, shift=5 * at + 1)) for at in range(2)]
    answers = answers_of(rows_of(grid), scores=scores_of(grid))
    pairs = [("probe", "probe_top1"), ("probe", "mean_diff")]
    (alone,) = ask_compare.of(answers, FLOOR, pairs=pairs[1:]).rows
    wider, after = ask_compare.of(answers, FLOOR, pairs=pairs).rows
    assert wider.best_a == alone.best_a, "of six evaluations and of two"
    assert alone.difference_expected == after.difference_expected
    assert (alone.difference_low, alone.difference_high) == (after.difference_low, after.difference_high)


def test_no_figure_depends_on_the_order_of_rows_where_evaluations_are_equal() -> None:
    grid = [
        scored(label, 1000.0 + 100 * at, noisy(10 * (at // 2), step=3.0 + 4 * (at // 2) + shift, shift=at // 2 + shift))
        for label, shift in (("probe", 0), ("mean_diff", 0), ("probe_top1", 3))
        for at in range(6)
    ]
    orders = [grid, *(random.Random(seed).sample(grid, len(grid)) for seed in range(4))]
    told = [ask_best.of(answers_of(rows_of(one), scores=scores_of(grid)), FLOOR).rows for one in orders]
    assert all(one == told[0] for one in told)
