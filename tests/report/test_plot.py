"""massact.plot: the report's figures from an answer, its DataFrame or a store, through one path."""

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

import massact
from massact import Filters, MassactError
from massact.query import Answer, Answers, Evaluations
from massact.query.stats.paired import QuestionScores
from massact.store.schema import Scores
from tests.support.report_rows import experiment, toy_rows

GEMMA = Filters(models=("toy-gemma-3",))
HERE = Filters(models=("toy-gemma-3",), positions=("response[:5]",))


@pytest.fixture(scope="module")
def answers() -> Answers:
    rows = toy_rows()
    scores = QuestionScores(
        {one.run_id: Scores(tuple((one.row.trait_mean or one.row.delta or 0.0) + i for i in (-3.0, 0.0, 1.0, 2.0)),
                            (90.0,) * 4) for one in rows},
        {f"baseline-{model}": Scores((1.0, 2.0, 1.0, 2.0), (98.0,) * 4) for model in ("toy-gemma-3", "toy-gemma-2")},
    )  # fmt: skip
    return Answers(evaluations=Evaluations.of(rows), groups=experiment().groups(), coefficient_ranges={}, scores=scores)


DRAW: dict[str, Callable[[Answers], Figure]] = {
    "tradeoff": lambda a: massact.plot.tradeoff(massact.runs.of(a, 68.0).to_frame(), only=GEMMA),
    "coefficient": lambda a: massact.plot.tradeoff(massact.runs.of(a, 68.0), against="coefficient", only=HERE),
    "heat map": lambda a: massact.plot.heat_map(massact.runs.of(a, 68.0).to_frame(), only=HERE),
    "positions": lambda a: massact.plot.positions(massact.best.of(a, 68.0).to_frame()),
    "curve of runs": lambda a: massact.plot.cleaning_curve(massact.runs.of(a, 68.0).to_frame()),
    "curve of a curve": lambda a: massact.plot.cleaning_curve(massact.curve.of(a, 68.0, method="probe").to_frame()),
    "before and after": lambda a: massact.plot.before_after(massact.compare.of(a, 68.0).to_frame()),
    "relative strength": lambda a: massact.plot.relative_strength(massact.runs.of(a, 68.0).to_frame()),
}


@pytest.mark.parametrize("name", DRAW)
def test_every_answer_gives_its_figure_and_leaves_settings_alone(name: str, answers: Answers) -> None:
    mpl.rcParams["lines.linewidth"] = 7.5
    before = dict(mpl.rcParams)
    try:
        figure = DRAW[name](answers)
        assert dict(mpl.rcParams) == before
    finally:
        mpl.rcParams["lines.linewidth"] = mpl.rcParamsDefault["lines.linewidth"]
    assert isinstance(figure, Figure)
    assert any(axes.lines or axes.collections or axes.patches for axes in figure.axes)
    assert not any(line.get_linewidth() == 7.5 for axes in figure.axes for line in axes.lines)


@pytest.mark.slow
def test_a_frame_draws_what_the_report_draws(answers: Answers) -> None:
    from massact.report.evidence import Evidence, Place
    from massact.report.section import drawing
    from massact.report.trade_off import AgainstCoefficient

    place = Place("toy-gemma-3", "refusal", "response[:5]")
    of_report = drawing(AgainstCoefficient(Evidence.of(experiment(), answers), place))
    ours = massact.plot.tradeoff(massact.runs.of(answers, 68.0).to_frame(), against="coefficient", only=HERE)
    assert of_report is not None
    assert _points(ours) == _points(of_report)


def _points(figure: Figure) -> list[Any]:
    lines = [line for axes in figure.axes for line in axes.lines]
    return [np.nan_to_num(np.asarray(line.get_xydata(), dtype=float), nan=-1).round(6).tolist() for line in lines]


def test_the_intervals_of_a_best_are_drawn(answers: Answers) -> None:
    frame = massact.best.of(answers, 68.0).to_frame()
    with_bars = massact.plot.positions(frame)
    without = massact.plot.positions(frame.drop(columns=["delta_low", "delta_high"]))
    bars = [
        sum(isinstance(one, LineCollection) for axes in figure.axes for one in axes.collections)
        for figure in (without, with_bars)
    ]
    assert bars[0] == 0 < bars[1]


@pytest.mark.slow
def test_another_floor_is_another_best(answers: Answers) -> None:
    runs = massact.runs.of(answers, 68.0).to_frame()
    crossed = [
        sum(len(np.asarray(line.get_xdata())) for axes in massact.plot.heat_map(runs, only=HERE, floor=floor).axes
            for line in axes.lines)
        for floor in (0.0, 68.0, 99.9)
    ]  # fmt: skip
    assert crossed[0] == 0
    assert crossed == sorted(crossed)
    assert crossed[1] < crossed[2]


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda f: massact.plot.tradeoff(f.drop(columns=["delta", "layer"])), "lacks the columns layer, delta"),
        (massact.plot.tradeoff, "there are 2 (toy-gemma-2, refusal; toy-gemma-3, refusal): choose with"),
        (lambda f: massact.plot.heat_map(f, only=GEMMA), "this figure draws one model, trait and position"),
        (lambda f: massact.plot.positions(f.head(0)), "nothing to draw: no label has a result"),
        (lambda f: massact.plot.relative_strength(f.drop(columns="relative_strength")), "the column relative_strength"),
        (massact.plot.published, "nothing to draw: no place has published figures of two sources"),
        (massact.plot.massive_energy, "lacks the column massive_energy"),
        (lambda f: massact.plot.positions(f, floor=101), "coherence floor 101"),
        (lambda f: massact.plot.positions(f, tracking_uri="sqlite:///x.db"), "leave tracking_uri out"),
        (lambda f: massact.plot.positions(f, only=Filters(labels=("gradient",))), "no label 'gradient'"),
        (lambda f: massact.plot.tradeoff(f, against="time"), "cannot draw against 'time'"),
        (lambda f: massact.plot.tradeoff(3), "cannot draw from 3"),
        (lambda f: massact.plot.massive_dims("no-such.json"), "no-such.json: no calibration"),
        (lambda f: massact.plot.published(pd.DataFrame({"source": ["a"]})), "lacks the columns model, position, label"),
    ],
)
def test_errors_say_what_is_missing(draw: Callable[[pd.DataFrame], Figure], message: str, answers: Answers) -> None:
    frame = massact.runs.of(answers, 68.0).to_frame()
    if "against" in message:
        frame = frame[frame["model"] == "toy-gemma-3"]
    with pytest.raises(MassactError, match=message.replace("(", r"\(").replace(")", r"\)")):
        draw(frame)


def test_a_csv_file_of_published_figures_is_drawn_as_pandas_reads_it() -> None:
    frame = pd.read_csv(Path(__file__).resolve().parents[1] / "data" / "published_results.csv")
    figure = massact.plot.published(frame)
    assert sum(bool(axes.lines) for axes in figure.axes) == 6
    sources = {text.get_text() for text in figure.legends[0].get_texts()}
    assert {"S1 2026-01-29", "S2 2026-01-30"} <= sources


def test_energies_of_a_frame() -> None:
    rows = [{"model": "m", "position": "response[:5]", "label": label, "layer": layer, "massive_energy": energy}
            for label, energy in (("mean_diff", 0.8), ("probe", float("nan"))) for layer in (1, 2)]  # fmt: skip
    (axes,) = massact.plot.massive_energy(pd.DataFrame(rows)).axes
    assert [list(line.get_ydata()) for line in axes.lines] == [[0.8, 0.8]]


def test_calibrations_of_files(tmp_path: Path) -> None:
    from massact.vectors.massive_dims import calibration_json
    from tests.support.report_rows import calibration

    file = tmp_path / "calibration.json"
    file.write_text(json.dumps(calibration_json(calibration(), {"model": "lab/one"})))
    assert massact.plot.massive_dims(file).axes[0].get_title(loc="left") == "lab/one"
    titles = [axes.get_title(loc="left") for axes in massact.plot.massive_dims({"a": file, "b": str(file)}).axes]
    assert titles == ["a", "b"]


def test_massact_stays_light_until_a_figure_is_drawn() -> None:
    code = (
        "import sys, massact\n"
        "assert not {'massact.plot', 'matplotlib', 'pandas'} & set(sys.modules), sys.modules\n"
        "massact.plot.tradeoff\n"
        "print([name for name in ('torch', 'transformers', 'mlflow', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_a_store_gives_the_same_figure_as_its_answer(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    from massact.cli.app import cli

    root = Path(__file__).resolve().parents[2]
    file = str(root / "experiments/massive-activations.yaml")
    data = Path(__file__).resolve().parents[1] / "data" / "published_results.csv"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    done = CliRunner().invoke(cli, ["import", "--published", str(data), "--experiment", file])
    assert done.exit_code == 0, done.output
    answer: Answer[Any] = massact.compare_published(file)
    for figure in (
        massact.plot.published(file),
        massact.plot.published(answer),
        massact.plot.published(answer.to_frame()),
    ):
        assert sum(bool(axes.lines) for axes in figure.axes) == 6
    with pytest.raises(MassactError, match="holds nothing of an experiment 'nobody'"):
        massact.plot.published("nobody")
    with pytest.raises(MassactError, match="nothing to draw: no calibration"):
        massact.plot.massive_dims(file)


@pytest.mark.parametrize("name", DRAW)
def test_plotly_gives_the_same_figure_that_answers_to_the_pointer(
    name: str, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = DRAW[name](answers)
    monkeypatch.setattr("massact.plot._drawn", partial(_by_plotly, massact.plot._drawn))
    made: Any = DRAW[name](answers)
    made.to_json()  # plotly takes every value of it
    panels = [axes for axes in drawn.axes if axes.get_visible() and axes.get_label() != "<colorbar>"]
    assert len([axis for axis in made.layout if str(axis).startswith("xaxis")]) == len(panels)
    for number, axes in enumerate(panels, 1):
        suffix = "" if number == 1 else str(number)
        traces = [trace for trace in made.data if trace.xaxis == f"x{suffix}"]
        told = {(x, y) for trace in traces for x, y in zip(trace.x, trace.y, strict=True)}
        for line in axes.lines:
            if line.get_transform() is axes.transData and line.get_marker() not in ("None", None):
                points = np.asarray(line.get_xydata(), dtype=float)
                for x, y in points[~np.isnan(points).any(axis=1)].tolist():
                    assert any(abs(x - a) < 1e-6 and abs(y - b) < 1e-6 for a, b in told if a is not None)
        axis, ticks = made.layout[f"xaxis{suffix}"], [tick.get_text() for tick in axes.get_xticklabels()]
        assert axis.title.text == axes.get_xlabel()
        assert list(filter(None, axis.ticktext)) == list(filter(None, ticks))
    assert any("extra" in (trace.hovertemplate or "") for trace in made.data)


def _by_plotly(draw: Any, figure: Any, lacking: str, _engine: str) -> Any:
    return draw(figure, lacking, {"engine": "plotly"})


def test_cells_of_a_map_tell_their_delta_and_an_unknown_engine_is_refused(answers: Answers) -> None:
    rows = massact.runs.of(answers, 68.0)
    made = massact.plot.heat_map(rows, only=HERE, engine="plotly")
    deltas = {f"{row.delta:+.1f}" for row in rows.rows if row.model == "toy-gemma-3" and row.position == "response[:5]"}
    told = {text for trace in made.data for text in trace.text or ()}
    assert told
    assert told <= deltas
    with pytest.raises(MassactError, match="no engine 'bokeh'; there is matplotlib and plotly"):
        massact.plot.heat_map(rows, only=HERE, engine="bokeh")
