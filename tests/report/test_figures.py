"""Every figure shows something, and none is made of nothing."""

from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from xml.etree import ElementTree as ET

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.image import imread

from massact.query import Answers, Evaluations
from massact.report import style
from massact.report.before_after import BeforeAfter
from massact.report.coefficients import RelativeStrength
from massact.report.curve import CleaningCurve
from massact.report.evidence import Evidence, Place
from massact.report.massive import MassiveDims
from massact.report.section import Figure, drawing
from massact.report.trade_off import AgainstCoefficient
from massact.store.read.base import Stored
from massact.store.schema import EvaluationRow
from tests.support.report_rows import calibration, experiment, row, toy_rows

PLACE = Place("toy-gemma-3", "refusal", "response[:5]")
CALIBRATIONS = {"toy-gemma-3": calibration()}
FIGURES: dict[str, Callable[[Evidence], Figure]] = {
    "tradeoff": lambda evidence: AgainstCoefficient(evidence, PLACE),
    "strength": RelativeStrength,
    "curve": CleaningCurve,
    "before_after": BeforeAfter,
    "massive": lambda evidence: MassiveDims(CALIBRATIONS if evidence.strata else {}, ["toy-gemma-3"]),
}


def evidence(rows: list[Stored[EvaluationRow]]) -> Evidence:
    return Evidence.of(experiment(), Answers(evaluations=Evaluations.of(tuple(rows)), coefficient_ranges={}))


@pytest.fixture(scope="module")
def some() -> Evidence:
    return evidence([one for one in toy_rows() if one.row.position == PLACE.position])


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_figure_has_content(name: str, some: Evidence) -> None:
    figure = drawing(FIGURES[name](some))
    assert figure is not None
    drawn = [axes for axes in figure.axes if axes.lines or axes.patches]
    assert len(drawn) == len(figure.axes)
    png = style.save_png(figure)
    pixels = imread(BytesIO(png))
    ink = (pixels[..., :3] < 0.9).any(axis=-1)
    assert 0.01 < ink.mean() < 0.5
    assert pixels.shape[1] > 700
    texts = " ".join(t.text or "" for t in ET.fromstring(style.save_svg(figure)).iter() if t.tag.endswith("}text"))
    assert texts.strip()
    assert "mathdefault" not in texts


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_evaluated_draws_nothing(name: str) -> None:
    assert drawing(FIGURES[name](evidence([]))) is None


@pytest.mark.parametrize("name", ["tradeoff", "strength", "curve", "before_after"])
def test_missing_scores_are_not_drawn_as_zero(name: str) -> None:
    good = row(delta=50.0, coherence_mean=90.0, relative_strength=0.8, label="probe_cleaned")
    unscored = row(coefficient=10.0, label="probe_cleaned", relative_strength=1.0)
    below = row(delta=70.0, coherence_mean=20.0, relative_strength=1.2, label="probe_preclean")
    figure = drawing(FIGURES[name](evidence([good, unscored, below])))
    assert figure is not None
    heights = [y for axes in figure.axes for line in axes.lines for y in np.asarray(line.get_ydata(), dtype=float)
               if line.get_marker() == "o" and line.get_transform().contains_branch(axes.transData)]  # fmt: skip
    assert 0.0 not in heights
    if name == "before_after":
        notes = [text.get_text() for axes in figure.axes for text in axes.texts]
        assert sorted(notes) == ["+50\n@ 90", *["no result"] * 5]
    else:
        assert 50.0 in heights or name == "strength"


def test_names_are_text_not_formulas() -> None:
    given = experiment()
    odd = "a $x_1$ <b>&"
    renamed = replace(given, models=(replace(given.models[0], name=odd),), phases=())
    stored = row(model=odd, delta=50.0, coherence_mean=90.0)
    found = Evidence.of(renamed, Answers(evaluations=Evaluations.of((stored,)), coefficient_ranges={}))
    figure = drawing(MassiveDims({odd: calibration()}, [odd]))
    assert figure is not None
    assert "a $x_1$ &lt;b&gt;&amp;" in style.save_svg(figure)
    assert drawing(AgainstCoefficient(found, Place(odd, "refusal", "response[:5]"))) is not None


def test_callers_settings_come_back(some: Evidence) -> None:
    before = dict(mpl.rcParams)
    drawing(CleaningCurve(some))
    assert dict(mpl.rcParams) == before


def test_labels_of_one_method_look_different() -> None:
    labels = ["probe", "probe_top1", "probe_top2", "probe_top3", "probe_top5", "probe_top10", "probe_cleaned",
              "probe_preclean", "probe_preclean_u2", "probe_preclean_la2", "probe_postclean_la2"]  # fmt: skip
    looks = {(style.colour, style.dashes) for style in map(style.label_style, labels)}
    assert len(looks) == len(labels)


def test_what_steers_otherwise_has_a_panel_of_its_own_beside_its_method() -> None:
    labels = ["random_baseline", "probe", "mean_diff_top1@prompt[-1]+response", "mean_diff", "mean_diff_top1+ablate"]
    methods = style.methods_of(labels)
    assert methods == ["mean_diff", "mean_diff+ablate", "mean_diff@prompt[-1]+response", "probe"]
    assert style.methods_of(labels, with_random=True) == [*methods, "random_baseline"]
    assert style.broken(methods[2]) == "mean_diff\n@prompt[-1]\n+response"
