"""compare, curve and coefficients; the facade that loads a store once; DataFrames."""

from dataclasses import replace
from typing import Any

import pytest

import massact
from massact.domain import Group
from massact.errors import UsageError
from massact.query import Answers, Evaluations, Filters
from massact.query.questions.best import ask_best
from massact.query.questions.coefficients import ask_coefficients
from massact.query.questions.compare import ComparisonRow, ask_compare, before_after_pairs
from massact.query.questions.curve import ask_curve
from massact.store.read.base import Stored
from massact.store.schema import EvaluationRow
from tests.support.store_fixtures import answers_of, evaluated, failed, stored

FLOOR = 68.0


def comparison(a: Any, b: Any, **changes: Any) -> ComparisonRow:
    answers = answers_of([a, b], **changes)
    (row,) = ask_compare.of(answers, FLOOR, pairs=[(a.row.label, b.row.label)]).rows
    return row


def test_a_comparison_is_between_bests() -> None:
    rows = [
        evaluated("probe_preclean", coefficient=1000, delta=30.0),
        evaluated("probe_preclean", coefficient=1200, delta=90.0, coherence_mean=10.0),
        evaluated("probe_cleaned", coefficient=1500, delta=21.5),
    ]
    (row,) = ask_compare.of(answers_of(rows), FLOOR, pairs=[("probe_preclean", "probe_cleaned")]).rows
    assert (row.label_a, row.label_b, row.difference, row.better) == (
        "probe_preclean",
        "probe_cleaned",
        8.5,
        "probe_preclean",
    )
    assert row.best_a is not None
    assert row.best_a.coefficient == 1000
    assert row.same_vector is None
    assert row.warnings == (
        "compared at unequal coefficients, over 2 of 2 evaluations of probe_preclean, 1 of 1 evaluation of "
        "probe_cleaned",
    )


def test_labels_are_compared_over_the_cells_that_both_have() -> None:
    # a best of 24 evaluations on four layers against one of three on one: one and the same vector
    wide = [
        evaluated("mean_diff_cleaned", layer, coefficient, delta=layer + coefficient / 100)
        for layer in (10, 15, 20, 25)
        for coefficient in (400, 800, 1000, 1200, 1600, 2000)
    ]
    narrow = [evaluated("mean_diff_preclean", 15, c, delta=15 + c / 100) for c in (800, 1000, 1200)]
    pair = ("mean_diff_preclean", "mean_diff_cleaned")
    answer = ask_compare.of(answers_of([*wide, *narrow]), FLOOR, pairs=[pair])
    (row,) = answer.rows
    assert row.best_a is not None
    assert row.best_b is not None
    assert (row.best_a.delta, row.best_b.delta, row.difference) == (27.0, 27.0, 0.0)
    words = "compared over 3 of 24 evaluations of mean_diff_cleaned without its best (+45.0 at layer 25, 2000)"
    assert row.warnings == (words,)
    assert any(note.endswith(words) for note in answer.notes)
    # relative strengths that were declared as one are one cell, whatever the coefficients
    strong = [evaluated("probe", 15, c, delta=1.0, relative_strength=c / 1002) for c in (801, 1001)]
    near = [evaluated("probe_top1", 15, c, delta=2.0, relative_strength=c / 2000) for c in (1597, 2999)]
    (row,) = ask_compare.of(answers_of([*strong, *near]), FLOOR, pairs=[("probe", "probe_top1")]).rows
    assert (row.best_a and row.best_a.coefficient, row.best_b and row.best_b.coefficient) == (801, 1597)
    assert "1 of 2 evaluations of probe" in row.warnings[0]


def test_labels_without_a_layer_in_common_are_not_compared() -> None:
    row = comparison(evaluated("probe", 12, delta=50.0), evaluated("mean_diff", 15))
    assert (row.difference, row.better, row.status_a, row.status_b) == (None, None, "ok", "ok")
    assert row.best_a is not None
    assert row.best_a.delta == 50.0
    assert row.warnings == (
        "not compared: not all are coherent at layers that all have (probe at layer 12, mean_diff at layer 15)",
    )


def test_a_cleaning_curve_runs_over_the_cells_that_all_steps_have() -> None:
    rows = [evaluated("mean_diff", 15, c, delta=c / 50) for c in (800, 1000)]
    rows += [evaluated("mean_diff_top1", layer, 1000, delta=layer) for layer in (15, 20)]
    rows.append(evaluated("mean_diff_top2", 15, 800, coherence_mean=10.0))  # has no best to compare
    answer = ask_curve.of(answers_of(rows), FLOOR, method="mean_diff")
    assert [(row.label, row.best.delta) for row in answer.rows if row.best] == [
        ("mean_diff", 20.0),
        ("mean_diff_top1", 15.0),
    ]
    assert answer.notes == (
        "gemma, refusal, response[:5]: the steps are compared over 1 of 2 evaluations of mean_diff, 1 of 2 evaluations "
        "of mean_diff_top1 without its best (+20.0 at layer 20, 1000)",
    )


def test_the_better_of_a_negative_direction_is_the_smaller() -> None:
    row = comparison(
        evaluated("probe", direction="negative", delta=-5.0), evaluated("mean_diff", direction="negative", delta=-9.0)
    )
    assert (row.difference, row.better) == (4.0, "mean_diff")
    assert comparison(evaluated("probe"), evaluated("mean_diff")).better is None


def test_mean_diff_cleaned_before_and_after_is_one_direction_by_algebra() -> None:
    same = "same direction by algebra"
    assert comparison(evaluated("mean_diff_preclean"), evaluated("mean_diff_cleaned")).same_vector == same
    assert comparison(evaluated("mean_diff_preclean_la2"), evaluated("mean_diff_postclean_la2")).same_vector == same
    # "all" of a list of 13 is the same as 13 of it
    thirteen = evaluated("mean_diff_preclean_u13", n_dims_cleaned=13)
    assert comparison(thirteen, evaluated("mean_diff_cleaned", n_dims_cleaned=13)).same_vector == same
    kept = comparison(evaluated("mean_diff_prekeep_u2"), evaluated("mean_diff_postkeep_u2"))
    assert kept.same_vector == same
    for other in (
        "mean_diff_top2",
        "mean_diff_postclean_la2",
        "probe_cleaned",
        "mean_diff_postkeep",
        "mean_diff_winsor95",
    ):
        assert comparison(evaluated("mean_diff_preclean"), evaluated(other)).same_vector is None
    assert comparison(evaluated("probe_preclean"), evaluated("probe_cleaned")).same_vector is None
    deltas = {"mean_diff_preclean": (20.0, 10.0), "mean_diff_cleaned": (10.0, 30.0)}
    rows = [evaluated(label, 14 + i, delta=some[i]) for label, some in deltas.items() for i in (0, 1)]
    (row,) = ask_compare.of(answers_of(rows), FLOOR, pairs=[tuple(deltas)]).rows  # type: ignore[list-item]
    assert (row.same_vector, row.difference) == (f"{same} at every layer", -10.0)
    assert row.better is None, "noise alone decides at which layer one vector has its best"


def test_equal_digests_and_cosines_tell_one_vector() -> None:
    a, b = evaluated("probe_preclean", vector_digest="v"), evaluated("probe_cleaned", vector_digest="v")
    assert comparison(a, b).same_vector == "same vector: equal digest"
    b = evaluated("probe_cleaned", vector_digest="w")
    assert comparison(a, b, cosines={("w", "v"): 0.99995}).same_vector == "same vector: cosine 0.999950"
    assert comparison(a, b, cosines={("v", "w"): 0.9999}).same_vector is None
    measured = comparison(
        evaluated("mean_diff_preclean", vector_digest="v"),
        evaluated("mean_diff_cleaned", vector_digest="w"),
        cosines={("v", "w"): 0.5},
    )
    assert measured.same_vector is None


def test_an_unfair_comparison_is_warned_of() -> None:
    rows = [evaluated("probe", 12, coherence_mean=70.0), evaluated("mean_diff", 15, coherence_mean=73.1)]
    rows += [evaluated("probe", 15, delta=0.0), evaluated("mean_diff", 12, delta=0.0)]
    (row,) = ask_compare.of(answers_of(rows), FLOOR, pairs=[("probe", "mean_diff")]).rows
    assert row.warnings == (
        "the bests lie at different layers: 12 and 15",
        "coherence differs by 3.1 points: 70.0 and 73.1",
    )
    assert (
        comparison(evaluated("probe", coherence_mean=70.0), evaluated("mean_diff", coherence_mean=73.0)).warnings == ()
    )


def test_what_must_not_be_missed_is_in_the_notes() -> None:
    rows = [evaluated("mean_diff_preclean", coherence_mean=90.0), evaluated("mean_diff_cleaned")]
    pair = ("mean_diff_preclean", "mean_diff_cleaned")
    place = "gemma, refusal, response[:5]: mean_diff_preclean against mean_diff_cleaned: "
    assert ask_compare.of(answers_of(rows), FLOOR, pairs=[pair]).notes == (
        place + "coherence differs by 10.0 points: 90.0 and 80.0",
        place + "same direction by algebra; what differs is noise",
    )
    rows[1] = evaluated("mean_diff_cleaned", coefficient=1500.0)
    notes = ask_compare.of(answers_of(rows), FLOOR, pairs=[pair]).notes
    assert notes[-1].endswith("what differs is the coefficient (1000 and 1500) and noise")


def test_a_side_without_a_best_gives_no_difference() -> None:
    row = comparison(evaluated("probe"), evaluated("mean_diff", coherence_mean=50.0))
    assert (row.status_a, row.status_b, row.difference, row.better) == ("ok", "below_floor", None, None)
    declared = [Group("gemma", "refusal", "response[:20]", "probe_top1")]
    (row,) = ask_compare.of(answers_of([], groups=tuple(declared)), FLOOR, pairs=[("probe", "probe_top1")]).rows
    assert (row.position, row.status_a, row.status_b, row.setting) == ("response[:20]", "missing", "missing", None)


def test_settings_are_compared_apart() -> None:
    rows = [evaluated("probe"), evaluated("mean_diff", setting="setting-2")]
    found = ask_compare.of(answers_of(rows), FLOOR, pairs=[("probe", "mean_diff")]).rows
    assert [(row.setting, row.status_a, row.status_b) for row in found] == [
        ("setting-1", "ok", "missing"),
        ("setting-2", "missing", "ok"),
    ]


def test_one_label_twice_is_no_pair() -> None:
    with pytest.raises(UsageError, match="are one label"):
        ask_compare.of(answers_of([]), FLOOR, pairs=[("probe_top2", "probe_postclean_u2")])


def test_pairs_of_clean_before_and_after() -> None:
    labels = ["probe", "probe_preclean", "mean_diff_preclean_la2", "probe_preclean_u1", "from a later version"]
    assert before_after_pairs(["pca_prekeep", "pca_winsor95"]) == (("pca_prekeep", "pca_postkeep"),)
    assert before_after_pairs(labels) == (
        ("mean_diff_preclean_la2", "mean_diff_postclean_la2"),
        ("probe_preclean", "probe_cleaned"),
        ("probe_preclean_u1", "probe_top1"),
    )


def test_the_cleaning_curve() -> None:
    rows = [
        evaluated("mean_diff", delta=27.1),
        evaluated("mean_diff_top1", delta=28.8),
        evaluated("mean_diff_top7", delta=1.0),
        evaluated("mean_diff_cleaned", delta=24.8, n_dims_cleaned=13),
        evaluated("mean_diff_top3", coherence_mean=60.0),
        evaluated("mean_diff_preclean_u2"),
        evaluated("probe_top2"),
    ]
    found = ask_curve.of(answers_of(rows), FLOOR, method="mean_diff").rows
    assert [(row.n_dims, row.status, row.best.delta if row.best else None) for row in found] == [
        (0, "ok", 27.1),
        (1, "ok", 28.8),
        (2, "missing", None),
        (3, "below_floor", None),
        (5, "missing", None),
        (7, "ok", 1.0),
        (10, "missing", None),
        ("all", "ok", 24.8),
    ]
    assert found[-1].label == "mean_diff_cleaned"
    assert found[-1].best is not None
    assert found[-1].best.n_dims_cleaned == 13
    assert found[3].nearest_miss is not None
    assert found[3].nearest_miss.coherence_mean == 60.0
    before = ask_curve.of(answers_of(rows), FLOOR, method="mean_diff", when="before").rows
    assert [row.n_dims for row in before if row.status == "ok"] == [0, 2]
    rows += [evaluated("mean_diff_postkeep_u2", delta=3.0), evaluated("mean_diff_winsor95", delta=9.0)]
    kept = ask_curve.of(answers_of(rows), FLOOR, method="mean_diff", mode="keep").rows
    assert [(row.label, row.best.delta) for row in kept if row.best] == [
        ("mean_diff", 27.1),
        ("mean_diff_postkeep_u2", 3.0),
    ]
    assert ask_curve.of(answers_of(rows), FLOOR, method="mean_diff").rows == found


def test_a_curve_whose_steps_are_not_among_the_labels_says_so() -> None:
    rows = [evaluated("mean_diff"), evaluated("probe")]
    shown = answers_of(rows).only(Filters(labels=("probe",)))
    answer = ask_curve.of(shown, FLOOR)
    assert answer.rows == ()
    assert any("no step of mean_diff's curve" in note and "--method" in note for note in answer.notes)
    assert ask_curve.of(shown, FLOOR, method="probe").rows[0].label == "probe"


@pytest.mark.parametrize("method", ["mean_diff_top1", "probes"])
def test_a_curve_is_of_a_method(method: str) -> None:
    with pytest.raises(UsageError):
        ask_curve.of(answers_of([]), FLOOR, method=method)


def inside_a_grid(*bests: Stored[EvaluationRow]) -> list[Stored[EvaluationRow]]:
    """Bests with a weaker coefficient below each, and a broken one beyond."""
    found = list(bests)
    for one in bests:
        row, size = one.row, one.row.coefficient or 0.0
        weaker, broken = ({"coefficient": size / 2, "delta": 1.0}, {"coefficient": size * 2, "coherence_mean": 20.0})
        found += [
            stored(replace(row, key=f"{row.key}-{name}", **changes), run_id=f"{one.run_id}-{name}")
            for name, changes in (("weaker", weaker), ("broken", broken))
        ]
    return found


def test_coefficient_patterns_and_what_they_advise() -> None:
    long: dict[str, Any] = {"position": "response[:10]"}
    rows = inside_a_grid(
        evaluated("probe", 15, 1000.0, relative_strength=0.8),
        evaluated("probe", 15, 1200.0, key="p10", relative_strength=0.9, **long),
        evaluated("mean_diff", 15, 2500.0, relative_strength=1.0),
        evaluated("mean_diff", 16, 1800.0, key="m10", **long),
        evaluated("mean_diff_top1", 15, 1000.0),
        evaluated("gradient", coherence_mean=10.0, delta=1.0),
    )
    answer = ask_coefficients.of(answers_of(rows), FLOOR)
    assert [(one.position, one.ratio) for one in answer.method_ratios] == [
        ("response[:5]", 2.5),
        ("response[:10]", 1.5),
    ]
    (shift,) = answer.cleaning_shifts
    assert (shift.label, shift.reference, shift.ratio) == ("mean_diff_top1", "mean_diff", 0.4)
    assert answer.relative_strength == 0.9
    assert [row.status for row in answer.rows] == ["ok"] * 5
    assert answer.notes == ("1 of 6 groups left out, without a best",)
    assert answer.recommendations == (
        "start probe at 1000 to 1200 on gemma (layer 15; 2 positions)",
        "start mean_diff at 1800 to 2500 on gemma (layer 15, 16; 2 positions)",
        "mean_diff takes 2.00 times probe's coefficient on gemma (2 positions, 1.50 to 2.50, the two at different "
        "layers in 1)",
        "cannot say how cleaning the top dim shifts probe's coefficient on gemma: no position has both probe "
        "and probe_top1 at or above coherence 68",
        "cleaning the top dim takes mean_diff's coefficient times 0.40 on gemma (1 position)",
        "start any other vector at relative strength 0.90 on gemma (0.80 to 1.00, 3 groups)",
    )


def test_nothing_is_advised_from_the_end_of_a_grid_or_from_what_did_nothing() -> None:
    ends, idle = evaluated("mean_diff", coefficient=60.0, delta=90.0), evaluated("gradient", delta=0.1)
    answer = ask_coefficients.of(
        answers_of([*inside_a_grid(evaluated("probe", coefficient=20.0, delta=90.0)), ends, idle]), FLOOR
    )
    assert {row.label: row.at_grid_end for row in answer.rows} == {
        "gradient": True, "mean_diff": True, "probe": False,
    }  # fmt: skip
    assert answer.method_ratios == ()
    assert "start probe at 20 on gemma (layer 15; 1 position)" in answer.recommendations
    assert any(
        line.startswith("cannot say where to start mean_diff on gemma: nothing reaches coherence 68, inside its grid")
        for line in answer.recommendations
    )
    assert answer.notes[-1].startswith("nothing is advised from 2 of 3 bests: 2 at the end of the grid, 0 without")
    flat = ask_coefficients.of(answers_of(inside_a_grid(evaluated("gradient", delta=5.0))), FLOOR)
    (only,) = flat.recommendations  # nothing of probe and mean_diff, which nobody declared
    assert only.startswith("cannot say at which relative strength to start on gemma")
    assert flat.notes[-1].endswith("0 at the end of the grid, 1 without an effect (a delta of 10 points)")


@pytest.mark.parametrize(
    ("others", "is_end"),
    [
        ([(30.0, 80.0, 10.0)], True),  # nothing larger was tried
        ([(30.0, 80.0, 10.0), (120.0, 40.0, 90.0)], False),  # it breaks beyond
        ([(30.0, 80.0, 10.0), (120.0, 80.0, 15.0)], False),  # it falls beyond
        ([(30.0, 80.0, 10.0), (120.0, None, None)], True),  # what lies beyond has no score
        ([(120.0, 40.0, 90.0)], True),  # nothing smaller was tried
        ([(-30.0, 80.0, 1.0), (-120.0, 40.0, 1.0)], True),  # of the other sign alone
    ],
)
def test_a_best_at_the_end_of_its_grid_is_marked(
    others: list[tuple[float, float | None, float | None]], is_end: bool
) -> None:
    rows = [evaluated("probe", coefficient=60.0, delta=20.0)]
    rows += [evaluated("probe", coefficient=c, coherence_mean=h, delta=d) for c, h, d in others]
    rows.append(evaluated("probe", 14, 500.0, coherence_mean=20.0))  # another layer says nothing of this one
    (row,) = ask_best.of(answers_of(rows), FLOOR).rows
    assert (row.coefficient, row.at_grid_end) == (60.0, is_end)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("scale", [1e-300, 1e300, -1e306])
def test_the_end_of_a_grid_is_told_whatever_the_size_of_its_coefficients(scale: float) -> None:
    inner = [evaluated("probe", coefficient=c * scale, delta=d) for c, d in ((30, 1.0), (60, 20.0), (120, 2.0))]
    outer = [evaluated("mean_diff", coefficient=c * scale, delta=d) for c, d in ((30, 1.0), (60, 20.0))]
    rows = ask_best.of(answers_of([*inner, *outer]), FLOOR).rows
    assert {row.label: (row.coefficient, row.at_grid_end) for row in rows} == {
        "probe": (60 * scale, False),
        "mean_diff": (60 * scale, True),
    }


def test_a_step_of_the_curve_that_is_an_earlier_vector_says_so() -> None:
    five, every = (evaluated(label, vector_digest="v") for label in ("mean_diff_top5", "mean_diff_cleaned"))
    rows = ask_curve.of(answers_of([five, every]), FLOOR, method="mean_diff").rows
    said = {row.label: row.same_vector for row in rows if row.best}
    assert said == {"mean_diff_top5": None, "mean_diff_cleaned": "mean_diff_top5: same vector: equal digest"}


def test_ratios_do_not_depend_on_what_is_shown() -> None:
    rows = inside_a_grid(evaluated("probe", coefficient=20.0), evaluated("mean_diff", coefficient=50.0))
    every = Answers(evaluations=Evaluations.of(rows), coefficient_ranges={})
    shown = massact.coefficients.of(every.only(Filters(labels=("mean_diff",))), FLOOR)
    assert [row.label for row in shown.rows] == ["mean_diff"]
    assert [one.ratio for one in shown.method_ratios] == [2.5]


def test_advice_on_nothing_says_that_it_cannot() -> None:
    answer = ask_coefficients.of(answers_of([evaluated("probe", coherence_mean=10.0)]), FLOOR)
    assert answer.rows == ()
    assert answer.relative_strength is None
    assert len(answer.recommendations) == 3  # where to start probe, how its cleaning shifts it, at which strength
    assert all(line.startswith("cannot say") for line in answer.recommendations)
    assert ask_coefficients.of(answers_of([]), FLOOR).recommendations == ()


def test_advice_tells_settings_apart() -> None:
    rows = inside_a_grid(
        evaluated("probe", coefficient=1000.0),
        evaluated("probe", coefficient=500.0, setting="setting-2", judge="other"),
    )
    starts = [
        line for line in ask_coefficients.of(answers_of(rows), FLOOR).recommendations if line.startswith("start probe")
    ]
    assert starts == [
        "start probe at 1000 on gemma (judge likelihood, positive, setting setting-) (layer 15; 1 position)",
        "start probe at 500 on gemma (judge other, positive, setting setting-) (layer 15; 1 position)",
    ]


def answers() -> Answers:
    return Answers(
        evaluations=Evaluations.of(
            [evaluated("probe", 14), evaluated("probe", 15, delta=90.0), evaluated("mean_diff_preclean")]
        ),
        failures=(failed("gradient"),),
        groups=tuple(Group("gemma", "refusal", "response[:5]", label) for label in ("probe", "gradient", "probe_top1")),
        coefficient_ranges={},
    )


def test_filters_narrow_rows_failures_and_the_matrix() -> None:
    part = answers().only(Filters(labels=("probe", "gradient"), layers=(14,)))
    assert [row.status for row in massact.gaps.of(part, FLOOR).rows] == ["ok", "missing"]
    assert massact.best.of(part, FLOOR).rows[0].delta == 20.0
    assert [row.status for row in massact.gaps.of(answers().only(Filters()), FLOOR).rows] == ["ok", "failed", "missing"]


@pytest.mark.parametrize(
    ("filters", "said"),
    [
        (Filters(models=("gema",)), "no model 'gema' in this experiment; there is gemma"),
        (Filters(labels=("probe_top9",)), "no label 'probe_top9' in this experiment; there is gradient, mean"),
    ],
)
def test_a_filter_that_names_nothing_is_refused(filters: Filters, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        answers().only(filters)


def test_the_facade_asks_all_questions() -> None:
    asked = answers()
    assert [(row.label_a, row.label_b) for row in massact.compare.of(asked, FLOOR).rows] == [
        ("mean_diff_preclean", "mean_diff_cleaned")
    ]
    assert massact.curve.of(asked, FLOOR, method="probe").rows[0].n_dims == 0
    assert len(massact.coefficients.of(asked, FLOOR).rows) == 2
    assert asked.labels == ("gradient", "mean_diff_preclean", "probe", "probe_top1")


def test_frames_have_one_column_per_field_and_point_field() -> None:
    frame = ask_best.of(answers_of([evaluated("probe"), evaluated("mean_diff", coherence_mean=50.0)]), FLOOR).to_frame()
    assert list(frame["status"]) == ["below_floor", "ok"]
    assert next(iter(frame["nearest_miss_coherence_mean"])) == 50.0
    assert frame["delta"].isna().tolist() == [True, False]
    assert "nearest_miss" not in frame


def test_what_a_label_filter_leaves_out_is_not_called_missing() -> None:
    rows = inside_a_grid(
        evaluated("mean_diff", delta=30.0),
        evaluated("mean_diff_top1", coefficient=400.0, delta=20.0),
        evaluated("mean_diff_cleaned", delta=10.0),
        evaluated("mean_diff_preclean", delta=10.0),
        evaluated("probe", delta=25.0),
    )
    every = Answers(evaluations=Evaluations.of(rows), coefficient_ranges={})
    one = every.only(Filters(labels=("mean_diff",)))
    assert [(row.label, row.status) for row in massact.curve.of(one, FLOOR, method="mean_diff").rows] == [
        ("mean_diff", "ok")
    ]
    assert massact.compare.of(one, FLOOR).rows == ()
    assert "--label" in massact.compare.of(one, FLOOR, pairs=[("mean_diff", "probe")]).notes[0]
    advice = massact.coefficients.of(one, FLOOR).recommendations
    assert not any("probe" in line or "cannot say" in line for line in advice[:1])
    assert not any("top1" in line for line in advice)
    two = every.only(Filters(labels=("mean_diff", "probe")))
    (row,) = massact.compare.of(two, FLOOR, pairs=[("mean_diff", "probe")]).rows
    assert row.difference == 5.0


def test_two_labels_that_are_asked_for_are_compared() -> None:
    every = answers_of([evaluated(label) for label in ("probe", "mean_diff", "probe_preclean", "probe_cleaned")])

    def pairs(*labels: str) -> list[tuple[str, str]]:
        rows = ask_compare.of(every.only(Filters(labels=labels)), FLOOR).rows
        return [(row.label_a, row.label_b) for row in rows]

    assert pairs("mean_diff", "probe") == [("mean_diff", "probe")]
    assert pairs("probe_cleaned", "probe_preclean") == [("probe_preclean", "probe_cleaned")]
    assert pairs("mean_diff", "probe", "probe_cleaned") == []


@pytest.mark.parametrize("other", ["random_baseline", "probe+clamp", "probe+3layers", "probe@response"])
def test_a_random_direction_and_other_steering_do_not_say_where_real_ones_start(other: str) -> None:
    rows = inside_a_grid(
        evaluated("probe", coefficient=20.0, relative_strength=-0.8),
        evaluated(other, coefficient=20.0, relative_strength=2.0),
    )
    answer = ask_coefficients.of(answers_of(rows), FLOOR)
    assert answer.relative_strength == 0.8
    assert answer.recommendations[-1] == "start any other vector at relative strength 0.80 on gemma (1 group)"


def test_without_a_label_cleaned_before_there_is_nothing_to_compare_and_that_is_said() -> None:
    answers = Answers(evaluations=Evaluations.of([evaluated("probe")]), coefficient_ranges={})
    assert "no label here is cleaned before extraction" in massact.compare.of(answers, FLOOR).notes[-1]


def test_a_layer_that_was_not_evaluated_is_refused() -> None:
    with pytest.raises(UsageError, match="no evaluated layer '17' in this experiment; there is 14, 15"):
        answers().only(Filters(layers=(17,)))
