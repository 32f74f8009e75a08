"""Heat maps, position windows, energies and cosines, the trade-off itself: what they show, say and leave out."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from massact.domain import Coefficients
from massact.query import Answers, Evaluations
from massact.report import style
from massact.report.coefficients import RelativeStrength
from massact.report.curve import CleaningCurve
from massact.report.evidence import CosineMatrix, Evidence, Place
from massact.report.heat_maps import FEWER_LABELS, ByWindow, HeatMap, heat_section, positions_section
from massact.report.massive import Cosines, MassiveEnergy, cosine_text, massive_section
from massact.report.page import build_report
from massact.report.phase_notes import phase_figures
from massact.report.section import drawing, key_places, rest_of, safe_name
from massact.report.trade_off import AgainstCoefficient, AgainstCoherence
from tests.support.report_rows import evidence, experiment, report_input, row, sample, scored, toy_rows

PLACE = Place("toy-gemma-3", "refusal", "response[:5]")
FEW = [
    scored(-0.04, 99.0, coefficient=4.0),
    scored(60.0, 95.0, coefficient=8.0),
    scored(99.8, 90.0, coefficient=24.0, layer=3),
    scored(70.0, 30.0, coefficient=38.0, layer=3),
    scored(5.0, 10.0, coefficient=48.0, layer=3),
]


def test_figures_never_share_a_file() -> None:
    names = ["a-response[:5]", "a-response[5:]", "A-response[5]", "x" * 300, "x" * 301, "../../y", "é"]
    made: list[str] = []
    for name in names:
        made.append(safe_name(name, made))
    assert made[0] == "a-response-5"
    assert len({one.lower() for one in made}) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9.-]{1,130}", one) and not one.startswith(".") for one in made)


@pytest.fixture(scope="module")
def whole() -> Evidence:
    return evidence(toy_rows())


def test_a_heat_map_crosses_out_what_is_below_the_floor_and_frames_the_best() -> None:
    figure = drawing(HeatMap(evidence(FEW), PLACE, ["probe"]))
    assert figure is not None
    panel = figure.axes[0]
    (cells,) = panel.collections
    faces = np.asarray(cells.get_facecolor())
    assert sorted(faces[:, 3]) == [0.3, 0.3, 1.0, 1.0, 1.0]
    (crosses,) = panel.lines
    assert len(np.asarray(crosses.get_xdata())) == 2 * 6
    (frame,) = panel.patches
    assert (frame.get_x(), frame.get_y()) == (1.5, 0.5), "column of 24, row of layer 3"  # type: ignore[attr-defined]
    assert sorted(text.get_text() for text in panel.texts) == ["+0", "+100", "+60"], "-0.04 is no -0"
    assert [tick.get_text() for tick in panel.get_yticklabels()] == ["2", "3"]
    # the page's content policy lets no image in, so a bar of colours must be drawn as shapes
    assert "<image" not in style.save_svg(figure)


def test_a_grid_of_relative_strengths_is_drawn_over_them() -> None:
    (given,) = (one for one in experiment().models if one.name == PLACE.model)
    grid = replace(given.grid, coefficients=Coefficients((0.5, 1.0), is_relative=True))
    models = (replace(given, grid=grid), *experiment().models[1:])
    cells = ((2, 8.31, 0.4995), (2, 16.6, 1.001), (3, 20.0, 0.5), (3, 26.0, 0.65))
    rows = [
        scored(60.0 + layer, 95.0, layer=layer, coefficient=c, relative_strength=strength)
        for layer, c, strength in cells
    ]
    figure = drawing(HeatMap(report_input(rows, experiment=replace(experiment(), models=models)), PLACE, ["probe"]))
    assert figure is not None
    panel = figure.axes[0]
    assert panel.get_xlabel() == "relative strength"
    assert [tick.get_text() for tick in panel.get_xticklabels()] == ["0.5", "0.65", "1"]
    assert len(panel.collections[0].get_paths()) == 4


def test_the_words_of_a_heat_map_have_its_numbers() -> None:
    text = HeatMap(evidence(FEW), PLACE, ["probe"]).alt()
    assert "probe: best +99.8 at layer 3, coefficient 24; 2 of 5 cells below the floor" in text


def test_one_evaluation_is_no_map() -> None:
    assert drawing(HeatMap(evidence(FEW[:1]), PLACE, ["probe"])) is None
    assert heat_section(evidence([])).text == ("No label was evaluated at two layers or coefficients.",)


def test_heat_maps_of_the_labels_that_matter_and_what_is_left_out(whole: Evidence) -> None:
    section = heat_section(whole)
    labels = {figure.place: figure.labels for figure in section.figures if isinstance(figure, HeatMap)}
    assert len(labels) == len(section.figures) == 6
    for place, some in labels.items():
        best = max(
            (label for label in whole.labels(place) if label.startswith("probe")),
            key=lambda label: whole.best(place, label).delta,  # type: ignore[union-attr,return-value]
        )
        assert whole.best(place, some[1]).delta == whole.best(place, best).delta  # type: ignore[union-attr]
        assert "random_baseline" not in some
    assert sorted(map(len, labels.values())) == [FEWER_LABELS] * 4 + [6, 6]
    assert "24 of" in section.text[1]
    assert "massact.plot.heat_map" in section.text[1]


def test_where_there_are_many_places_the_best_of_each_model_comes_first(whole: Evidence) -> None:
    places = list(whole.places())
    assert key_places(whole, places, None) == places
    few = key_places(whole, places, 2)
    assert {place.model for place in few} == {"toy-gemma-3", "toy-gemma-2"}
    assert rest_of(6, 6, "tradeoff") == ""
    assert "2 of 6 places are drawn" in rest_of(6, 2, "tradeoff")


def test_position_windows_side_by_side(whole: Evidence) -> None:
    figure = drawing(ByWindow(whole))
    assert figure is not None
    assert len(figure.axes) == 2 * 2, "two models, two methods; a random direction has no line"
    assert re.search(r"toy-gemma-3 at response\[:10\]: best \S+ with \+\d+\.\d", ByWindow(whole).alt())


def test_one_window_is_no_comparison() -> None:
    found = evidence(FEW)
    assert drawing(ByWindow(found)) is None
    assert "at two position windows" in positions_section(found).text[0]


def test_delta_against_coherence_marks_the_best_and_the_floor() -> None:
    found = evidence(FEW)
    figure = drawing(AgainstCoherence(found, PLACE.model, PLACE.trait))
    assert figure is not None
    panel = figure.axes[0]
    low, high = panel.get_xlim()
    assert low > high, "read from the left as the coefficient rises"
    floors = [line for line in panel.lines if set(np.asarray(line.get_xdata(), dtype=float)) == {68.0}]
    assert len(floors) == 1
    biggest = max(panel.lines, key=lambda line: line.get_markersize())
    assert (list(biggest.get_xdata()), list(biggest.get_ydata())) == ([90.0], [99.8])
    hollow = [line for line in panel.lines if line.get_markerfacecolor() == "none"]
    assert [len(np.asarray(line.get_xdata())) for line in hollow] == [2]
    assert "its best +99.8 at 90" in AgainstCoherence(found, PLACE.model, PLACE.trait).alt()


def test_the_words_of_a_trade_off_say_where_the_cliff_is() -> None:
    assert (
        "best +99.8 at layer 3, coefficient 24, below the floor from 38 on"
        in AgainstCoefficient(evidence(FEW), PLACE).alt()
    )


def test_the_words_of_a_curve_say_where_there_is_no_result() -> None:
    rows = [scored(50.0, 90.0, label="probe"), scored(40.0, 90.0, label="probe_top1"),
            scored(90.0, 10.0, label="probe_top2")]  # fmt: skip
    assert "probe: 0 +50.0, 1 +40.0, 2 no result" in CleaningCurve(evidence(rows)).alt()


ENERGIES = {
    PLACE: {
        label: dict.fromkeys((2, 3), energy)
        for label, energy in (("mean_diff", 0.86), ("probe", 0.28), ("mean_diff_cleaned", 0.0))
    }
}


def test_energies_by_layer_without_those_that_have_none() -> None:
    found = evidence(toy_rows(), energies=ENERGIES)
    figure = drawing(MassiveEnergy(found))
    assert figure is not None
    heights = [list(line.get_ydata()) for line in figure.axes[0].lines]
    assert sorted(heights) == [[0.28, 0.28], [0.86, 0.86]]
    section = massive_section(found)
    (table,) = section.tables
    assert [[cell.text for cell in cells] for cells in table.rows] == [
        ["mean_diff", "2: 0.86, 3: 0.86"], ["mean_diff_cleaned", "2: 0, 3: 0"], ["probe", "2: 0.28, 3: 0.28"],
    ]  # fmt: skip
    assert "mean_diff 0.86 and probe 0.28; 1 label with none" in MassiveEnergy(found).alt()
    assert drawing(MassiveEnergy(evidence(toy_rows()))) is None


def test_cosines_never_print_as_one_what_is_not_one() -> None:
    assert [cosine_text(value) for value in (1.0, 0.99996, 0.9987, 0.42, -0.001, -0.5)] == [
        "1.00", "1.00", "0.998", "0.42", "0.00", "-0.50"]  # fmt: skip


def test_cosines_as_half_a_matrix() -> None:
    matrix = CosineMatrix(
        model=PLACE.model, trait="refusal", position=PLACE.position, layer=2,
        labels=("mean_diff", "probe", "probe_top1"),
        values=((1.0, 0.4, 0.41), (0.4, 1.0, 0.97), (0.41, 0.97, 1.0)),
    )  # fmt: skip
    cosines = Cosines(evidence([], label_cosines=(matrix,)))
    figure = drawing(cosines)
    assert figure is not None
    assert sorted(text.get_text() for text in figure.axes[0].texts) == ["0.40", "0.41", "0.97"]
    assert "from 0.40 (mean_diff and probe) to 0.97 (probe and probe_top1)" in cosines.alt()
    assert drawing(Cosines(evidence([]))) is None


def test_a_median_stands_in_the_legend_not_on_the_points(whole: Evidence) -> None:
    figure = drawing(RelativeStrength(whole))
    assert figure is not None
    assert not any("median" in text.get_text() for axes in figure.axes for text in axes.texts)
    assert any("median of the bests, " in text.get_text() for text in figure.legends[0].get_texts())


def test_a_legend_names_only_what_is_drawn() -> None:
    rows = [scored(50.0, 90.0, label=label) for label in ("probe", "probe_top1", "probe_top2")]
    below = [scored(90.0, 10.0, label=label) for label in ("mean_diff", "mean_diff_top1", "mean_diff_top2")]
    given = replace(experiment(), phases=())
    answers = Answers(evaluations=Evaluations.of([*rows, *below]), coefficient_ranges={})
    figure = drawing(CleaningCurve(Evidence.of(given, answers)))
    assert figure is not None
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["probe", "no result at the floor"]


@pytest.mark.slow
def test_phases_show_the_figures_of_their_question() -> None:
    answers = Answers(evaluations=Evaluations.of(toy_rows()), groups=experiment().groups(), coefficient_ranges={})
    names = {
        phase: set(phase_figures(phase, Evidence.of(experiment(), answers))) for phase in ("phase2", "phase3", "phase4")
    }  # type: ignore[arg-type]
    assert names == {"phase2": {"before-after"}, "phase3": {"cleaning-curve"}, "phase4": {"relative-strength"}}
    nothing = Answers(evaluations=Evaluations(), groups=experiment().groups(), coefficient_ranges={})
    assert phase_figures("phase1", Evidence.of(experiment(), nothing)) == {}


def test_samples_of_a_place_stand_side_by_side_and_stay_text() -> None:
    hostile = "<script>alert(1)</script>"
    place: dict[str, Any] = {"place": f"toy {hostile}", "question": hostile, "judge": "likelihood"}
    samples = (
        sample(title="Baseline: unsteered", role="baseline", **place),
        sample(title="Best: coefficient 10", role="best", response=hostile, **place),
        sample(title="Over the cliff: coefficient 20", role="over the cliff", coherence=None, **place),
    )
    report = build_report(report_input([row(delta=50.0, coherence_mean=90.0)], samples=samples))
    (group,) = re.findall(r'<div class="side-by-side">(.*?)</div>', report.html, flags=re.DOTALL)
    assert group.count('<article class="sample">') == 3
    assert hostile not in report.html
    assert "&lt;script&gt;" in group
    assert report.html.count(f'<p class="question">{hostile.replace("<", "&lt;").replace(">", "&gt;")}</p>') == 1
    assert "trait 97.0, coherence unscored, judge likelihood" in group
    assert report.markdown.index("#### Baseline") < report.markdown.index("#### Best")
