"""Published figures beside ours, and what does not add up in them."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from massact.domain import TRAIT_INTERP_DIFFERS, Group
from massact.interop.figures import read_published
from massact.query.questions.published import PublishedComparison, ask_compare_published, match_model
from massact.query.rows import Answer
from massact.store.read.base import Stored
from massact.store.schema import Declared, EvaluationRow, Kind, PublishedRow
from tests.support.store_fixtures import answers_of, evaluated

FLOOR = 68.0
DATA = Path(__file__).resolve().parents[1] / "data" / "published.csv"
NAMES = {"gemma": "gemma", "google/gemma-3-4b-it": "gemma", "google/gemma-3-4b-pt": "gemma"}


def printed(label: str = "probe", **changes: Any) -> PublishedRow:
    values: dict[str, Any] = {
        "kind": Kind.PUBLISHED,
        "experiment": "study",
        "source": "W",
        "model": "google/gemma-3-4b",
        "trait": "refusal",
        "position": "response[:5]",
        "label": label,
        "delta": 33.0,
        **changes,
    }
    return PublishedRow(**{"key": repr(sorted(map(str, values.items()))), **values})


def asked(
    published: list[PublishedRow], rows: list[Stored[EvaluationRow]] | None = None, **changes: Any
) -> Answer[PublishedComparison]:
    names, floor = changes.pop("model_names", NAMES), changes.pop("floor", FLOOR)
    declared = Declared("x", floor, (), (), {}, printed_models=names)
    answers = replace(answers_of(rows or [], **changes), published=tuple(published), declared=declared)
    return ask_compare_published.of(answers, floor)


def flags(*published: PublishedRow) -> list[tuple[str, ...]]:
    by_key = {row.key: row.flags for row in asked(list(published)).rows}
    return [by_key[one.key] for one in published]


def test_a_figure_stands_beside_our_best_of_its_group() -> None:
    rows = [
        evaluated("probe", coefficient=1000, delta=30.0),
        evaluated("probe", coefficient=1500, delta=90.0, coherence_mean=40.0),
    ]
    (row,) = asked([printed(coefficient=1200.0, coherence_floor=70.0, note="n")], rows).rows
    assert (row.model, row.our_model, row.status, row.difference) == ("google/gemma-3-4b", "gemma", "ok", -3.0)
    assert row.ours is not None
    assert (row.ours.coefficient, row.ours.delta) == (1000, 30.0)
    assert (row.coefficient, row.coherence_floor, row.note, row.flags) == (1200.0, 70.0, "n", ())
    assert (row.judge, row.direction, row.setting, row.nearest_miss) == ("likelihood", "positive", "setting-1", None)


def test_none_of_ours_is_an_answer() -> None:
    low = [evaluated("probe", coherence_mean=60.0)]
    (row,) = asked([printed()], low).rows
    assert (row.status, row.ours, row.difference) == ("below_floor", None, None)
    assert row.nearest_miss is not None
    assert row.nearest_miss.coherence_mean == 60.0
    (row,) = asked([printed("mean_diff")], low).rows
    assert (row.status, row.ours, row.our_model, row.setting) == ("missing", None, "gemma", None)
    (row,) = asked([printed(model="other/finch")], low).rows
    assert (row.status, row.our_model) == ("missing", None)
    (row,) = asked([printed(delta=None)], [evaluated("probe")]).rows
    assert (row.status, row.difference) == ("ok", None)


def test_labels_and_positions_are_matched_in_their_one_spelling() -> None:
    rows = [evaluated("probe_top2")]
    assert asked([printed("probe_postclean_u2", position="response[ :5]")], rows).rows[0].status == "ok"
    assert asked([printed("caa", position="somewhere")], rows).rows[0].status == "missing"


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("gemma", "gemma"),
        ("google/gemma-3-4b-it", "gemma"),
        ("google/gemma-3-4b", "gemma"),
        ("Gemma-3-4B-Instruct", "gemma"),
        ("mirror/gemma-3-4b-base/", "gemma"),
        ("gemma-3-4b-chat", None),
        ("google/gemma-3-12b", None),
        ("", None),
    ],
)
def test_printed_models_match_by_their_last_part(name: str, ours: str | None) -> None:
    assert match_model(name, NAMES) == ours


def test_a_model_that_two_of_ours_match_is_neither() -> None:
    names = {"a/llama": "first", "b/llama-it": "second"}
    assert match_model("llama", names) is None
    assert match_model("a/llama", names) == "first"


def test_the_order_of_figures_changes_nothing_and_each_counts_once() -> None:
    figures = [printed(delta=float(index), layer=15, coefficient=1.0) for index in range(4)]
    shuffled = [*figures, figures[0]]
    random.Random(0).shuffle(shuffled)
    assert asked(shuffled) == asked(figures)
    assert len(asked(shuffled).rows) == 4


def test_trait_less_baseline_is_delta_as_far_as_it_was_printed() -> None:
    assert flags(printed(trait_mean=46.3, baseline_trait_mean=11.2, delta=39.0)) == [
        ("trait 46.3 less the baseline 11.2 is +35.1, printed +39.0",)
    ]
    noted = "trait 46.3 less baseline 11.2 is 35.1; the source prints +39.0"
    assert flags(printed(note=noted, baseline_trait_mean=11.2, delta=39.0)) == [
        ("the note gives trait 46.3; less the baseline 11.2 that is +35.1, printed +39.0",)
    ]
    sound: list[dict[str, Any]] = [
        {"trait_mean": 46.3, "delta": 35.1},
        {"trait_mean": 46.3, "delta": 35.2},  # three roundings add up to 0.15
        {"trait_mean": 46.3, "delta": 35.0},  # 35 of a whole number
        {"trait_mean": 46.0, "delta": 34.4},
        {"note": "trait mean = 46.3", "delta": 35.1},
        {"note": "13 dims; a trait that refuses 9 of 10", "delta": 35.1},
        {"delta": 39.0},
    ]
    for one in sound:
        assert flags(printed(baseline_trait_mean=11.2, **one)) == [()], one
    assert flags(printed(trait_mean=46.3, delta=39.0)) == [()]  # no baseline to tell by
    assert flags(printed(trait_mean=46.3, baseline_trait_mean=11.2, delta=35.3)) == [
        ("trait 46.3 less the baseline 11.2 is +35.1, printed +35.3",)
    ]
    # what the column says outweighs the note
    assert flags(printed(trait_mean=46.3, baseline_trait_mean=11.2, delta=35.1, note="trait 90")) == [()]


def test_scores_lie_within_0_and_100() -> None:
    assert flags(printed(baseline_trait_mean=71.8, delta=39.5)) == [
        ("the baseline 71.8 and +39.5 make 111.3, outside 0 to 100",)
    ]
    assert flags(printed(baseline_trait_mean=0.3, delta=-0.5)) == [
        ("the baseline 0.3 and -0.5 make -0.2, outside 0 to 100",)
    ]
    assert flags(printed(baseline_trait_mean=0.3, delta=-0.3)) == [()]
    assert flags(printed(baseline_trait_mean=71.8, delta=28.3)) == [()]  # 100.1, by rounding
    assert flags(printed(delta=120.5)) == [("a delta of +120.5 is more than scores of 0 to 100 allow",)]
    assert flags(printed(coherence_mean=730.5)) == [("coherence_mean 730.5 is outside 0 to 100",)]


def test_a_figure_below_its_own_floor() -> None:
    assert flags(printed(coherence_mean=69.8, coherence_floor=70.0)) == [
        ("coherence 69.8 is below its own floor of 70",)
    ]
    assert flags(printed(coherence_mean=70.0, coherence_floor=70.0)) == [()]
    assert flags(printed(coherence_mean=69.8)) == [()]


def test_one_source_has_one_baseline_of_a_model_and_trait() -> None:
    both = "W gives google/gemma-3-4b, refusal 2 baselines: 0.3 and 1.1"
    a = printed(baseline_trait_mean=0.3)
    b = printed("mean_diff", baseline_trait_mean=1.1)
    assert flags(a, b, printed("gradient")) == [(both,), (both,), ()]
    for other in ({"source": "V"}, {"model": "gemma-2"}, {"trait": "evil"}, {"baseline_trait_mean": 0.0}):
        assert flags(a, printed("mean_diff", **{"baseline_trait_mean": 1.1, **other})) == [(), ()]


def test_one_source_has_one_figure_of_a_cell() -> None:
    cell: dict[str, Any] = {"layer": 15, "coefficient": 1200.0}
    assert (
        flags(printed(**cell), printed(**cell, delta=20.1, coherence_mean=73.5))
        == [("W gives one cell (probe, response[:5], layer 15, coefficient 1200) 2 values of delta: +20.1 and +33.0",)]
        * 2
    )
    assert (
        "values of coherence_mean: 73.5 and 84.2"
        in flags(printed(**cell, coherence_mean=73.5), printed(**cell, coherence_mean=84.2))[0][0]
    )
    unlike: list[dict[str, Any]] = [
        {"layer": 16}, {"coefficient": 800.0}, {"position": "response[:]"}, {"label": "probe_top1"},
        {"source": "V"}, {"model": "gemma-2"}, {"trait": "evil"}, {"layer": None}, {"coefficient": None},
    ]  # fmt: skip
    for one in unlike:
        assert flags(printed(**cell), printed(**{**cell, "delta": 20.1, **one})) == [(), ()], one
    # with neither layer nor coefficient printed, two cells may be meant
    assert flags(printed(), printed(delta=20.1)) == [(), ()]


def test_mean_diff_cleaned_before_and_after_is_one_direction() -> None:
    before = printed("mean_diff_preclean", delta=19.2, coefficient=1200.0)
    after = printed("mean_diff_cleaned", delta=28.3, coefficient=800.0)
    words = (
        "mean_diff_preclean (+19.2) and mean_diff_cleaned (+28.3) are the same direction by algebra, printed 9.1 apart"
    )
    assert flags(before, after) == [(f"{words}, at coefficients 1200 and 800",)] * 2
    assert flags(printed("mean_diff_preclean", delta=19.2), after)[1] == (words,)
    assert flags(before, printed("mean_diff_cleaned", delta=19.3)) == [(), ()]
    for other in ("mean_diff_top2", "mean_diff_postclean_la2", "probe_cleaned"):
        assert flags(before, printed(other, delta=28.3)) == [(), ()], other
    assert flags(printed("probe_preclean", delta=1.0), printed("probe_cleaned", delta=2.0)) == [(), ()]
    assert flags(printed("mean_diff_preclean", layer=14), printed("mean_diff_cleaned", delta=1.0, layer=15)) == [(), ()]
    assert flags(before, printed("mean_diff_cleaned", delta=28.3, source="V")) == [(), ()]


def test_where_one_coefficient_is_printed_on_both_sides_only_that_is_compared() -> None:
    before = printed("mean_diff_preclean", delta=19.2, coefficient=1200.0)
    same = printed("mean_diff_cleaned", delta=19.2, coefficient=1200.0)
    other = printed("mean_diff_cleaned", delta=28.3, coefficient=800.0)
    assert flags(before, same, other) == [(), (), ()]


def test_the_notes_count_what_is_flagged_alone_or_at_another_floor() -> None:
    figures = list(read_published(DATA, "study").rows)
    answer = asked(
        figures,
        [evaluated("probe", model="chirp")],
        groups=[Group("chirp", "refusal", "response[:5]", "mean_diff_cleaned")],
        model_names={"lab/chirp-4b-it": "chirp"},
    )
    assert answer.notes == (
        "3 of 6 published figures flagged: what is printed does not add up",
        "5 of 6 published figures have no counterpart in the store; the experiment file declares the groups of 1",
        "no model of the experiment matches lab/chirp-2b-it (1 of 6 published figures)",
        "no model of the experiment matches other/finch-8b (1 of 6 published figures)",
        "6 of 6 published figures were picked at another coherence floor (70) than 68",
        TRAIT_INTERP_DIFFERS,
    )
    flagged = {row.label: len(row.flags) for row in answer.rows if row.flags}
    assert flagged == {"mean_diff_preclean": 1, "mean_diff_cleaned": 2, "mean_diff": 1}
    assert asked([printed()], [evaluated("probe")]).notes == ("0 of 1 published figure flagged", TRAIT_INTERP_DIFFERS)
    theirs = asked([printed()], [evaluated("probe", origin="imported")])
    assert theirs.notes == ("0 of 1 published figure flagged",), "imported beside published: of one procedure"
    assert "massact import --published" in asked([]).notes[0]


def test_of_several_settings_the_one_run_last_is_shown_and_said() -> None:
    rows = [evaluated("probe", delta=50.0, key="a"), evaluated("probe", delta=20.0, key="b", setting="later")]
    later = Stored("r", "FINISHED", 2000, rows[1].row)
    answer = asked([printed()], [rows[0], later])
    assert [(row.setting, row.difference) for row in answer.rows] == [("later", -13.0)]
    assert answer.notes[-2].startswith("ours were run in several settings or against several baselines beside 1")


def test_the_answer_becomes_a_frame() -> None:
    frame = asked([printed()], [evaluated("probe")]).to_frame()
    assert {"source", "delta", "ours_delta", "difference", "flags"} <= set(frame.columns)
