"""The plan's own scripts, run on an export of a store, and our answers from that store agree.

The scripts are right as long as every file's coherent results come first (`tests.support.plan_results.grid` keeps
to it), no two are equally good and the better delta is the larger. Where they are wrong is in
`tests/interop/test_plan_script_faults.py`.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

import massact
from massact.cli.app import cli
from massact.query.questions.best import BestRow
from tests.support.plan_results import FLOOR, VARIANTS, WINDOWS, experiment_file, fill_imported, fill_measured

SCRIPTS = Path(__file__).resolve().parents[1] / "plan_scripts"
MODEL, POSITION = "gemma-3-4b", "response[:5]"
"""What the second and third script look at."""


@dataclass(frozen=True, slots=True)
class Place:
    """A store, its experiment file, and the folder that its export lies in."""

    uri: str
    file: Path
    folder: Path

    def run_script(self, name: str) -> str:
        """What a script prints."""
        environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
        command = [sys.executable, str(SCRIPTS / f"{name}.py")]
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, encoding="utf-8", check=True
        )
        return done.stdout

    def run(self, *arguments: str) -> str:
        """What a command of ours prints."""
        shared = ["--experiment", str(self.file), "--tracking-uri", self.uri]
        result = CliRunner().invoke(cli, [*arguments, *shared])
        assert result.exit_code == 0, result.output
        return result.stdout

    def bests(self) -> dict[tuple[str, str, str], BestRow]:
        """Our best of each model, window and label that has one."""
        rows = massact.best(self.file, tracking_uri=self.uri).rows
        return {(row.model, row.position, row.label): row for row in rows if row.status == "ok"}


@pytest.fixture(scope="module", params=["measured", "imported"])
def place(
    request: pytest.FixtureRequest, migrated_database: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp(f"plan-{request.param}")
    shutil.copy(migrated_database, folder / "store.db")
    found = Place(f"sqlite:///{folder}/store.db", experiment_file(Path(__file__).resolve().parents[2], folder), folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        if request.param == "measured":
            fill_measured(found.uri)
        else:
            fill_imported(found.uri, folder / "old", found.file)
        found.run("export", "--output", str(folder / "experiments" / "massive-activations"))
        yield found


@pytest.mark.slow
def test_the_gap_analysis_agrees(place: Place) -> None:
    said = re.findall(r"^(\S+) \[:(\d+)\]: (.*)$", place.run_script("gap_analysis"), re.MULTILINE)
    answer = massact.gaps(place.file, tracking_uri=place.uri, phase="phase1")
    assert answer.floor == FLOOR
    assert [(model, int(n)) for model, n, _ in said] == [(m, n) for m in VARIANTS for n in WINDOWS]
    statuses = []
    for model, n, verdict in said:
        rows = [row for row in answer.rows if (row.model, row.position) == (model, f"response[:{n}]")]
        assert len(rows) == 6
        below = {
            row.label: f"{row.nearest_miss.coherence_mean:.0f}"
            for row in rows
            if row.status == "below_floor" and row.nearest_miss
        }
        assert dict(re.findall(r"(\w+)\(best:(\d+)%\)", verdict)) == below
        # the script is silent about a method without any result
        is_empty = {row.status for row in rows} == {"missing"}
        assert verdict.partition(" -")[0] == ("NO DATA" if is_empty else "NEEDS FINER COEF" if below else "OK")
        statuses += [row.status for row in rows]
    assert {status: statuses.count(status) for status in statuses} == {"ok": 23, "below_floor": 5, "missing": 8}


@pytest.mark.slow
def test_clean_before_against_clean_after_agrees(place: Place) -> None:
    printed = place.run_script("before_against_after")
    said = re.findall(r"^(\w+) +([+-]\d+\.\d) +(\d+\.\d)%$", printed, re.MULTILINE)
    labels = [f"{method}{cleaning}" for method in ("probe", "mean_diff") for cleaning in ("", "_cleaned", "_preclean")]
    bests = {label: row for (*where, label), row in place.bests().items() if where == [MODEL, POSITION]}
    assert said == [
        (label, f"{bests[label].delta:+.1f}", f"{bests[label].coherence_mean:.1f}")
        for label in labels
        if label in bests
    ]
    only = massact.Filters(models=(MODEL,), positions=(POSITION,))
    compared = massact.compare(place.file, tracking_uri=place.uri, only=only).rows
    assert [(row.label_a, row.label_b) for row in compared] == [
        ("mean_diff_preclean", "mean_diff_cleaned"),
        ("probe_preclean", "probe_cleaned"),
    ]
    deltas = {label: delta for label, delta, _ in said}
    for row in compared:
        ours = {row.label_a: row.best_a, row.label_b: row.best_b}
        found = {label: f"{point.delta:+.1f}" for label, point in ours.items() if point}
        assert found == {label: deltas[label] for label in ours if label in deltas}
    assert (compared[0].difference is None, compared[1].difference is None) == (False, True)


@pytest.mark.slow
def test_the_cleaning_curve_agrees(place: Place) -> None:
    printed = place.run_script("cleaning_curve")
    said = re.findall(r"^ +(\d+) dims: +([+-]\d+\.\d)$", printed, re.MULTILINE)
    only = massact.Filters(models=(MODEL,), positions=(POSITION,))
    curve = massact.curve(place.file, tracking_uri=place.uri, method="mean_diff", only=only).rows
    ours = [
        # trait-interp's lines do not tell how many dims "all" came to; the script supposes 13
        (str(13 if row.n_dims == "all" else row.n_dims), f"{row.best.delta:+.1f}")
        for row in curve
        if row.best
    ]
    assert said == ours
    assert {row.n_dims: row.status for row in curve} == {
        0: "ok", 1: "ok", 2: "ok", 3: "missing", 5: "below_floor", 10: "missing", "all": "ok",
    }  # fmt: skip
    assert dict(said)["2"].startswith("-")
    counted = {row.n_dims: row.best.n_dims_cleaned for row in curve if row.best}
    assert counted["all"] in (13, None)


@pytest.mark.slow
def test_the_optimal_coefficients_agree(place: Place) -> None:
    printed = place.run_script("optimal_coefficients")
    said = re.findall(r"^(gemma\S+) +\[:(\d+)\] +(\w+) +(\d+) +([+-]\d+\.\d)$", printed, re.MULTILINE)
    ours = massact.coefficients(place.file, tracking_uri=place.uri).rows
    methods = ["probe", "mean_diff", "probe_top1", "mean_diff_top1"]
    expected = {
        (row.model, row.position, row.label, f"{row.coefficient:.0f}", f"{row.delta:+.1f}")
        for row in ours
        if row.label in methods
    }
    found = {(model, f"response[:{n}]", label, *numbers) for model, n, label, *numbers in said}
    assert found == expected
    assert len(said) == len(found) == 15
    # and the same from the command
    rows = json.loads(place.run("coefficients", "--format", "json"))["rows"]
    names = ("model", "position", "label", "layer", "coefficient", "delta")
    assert [tuple(row[name] for name in names) for row in rows] == [
        tuple(getattr(row, name) for name in names) for row in ours
    ]


@pytest.mark.slow
def test_the_best_of_every_group_is_the_one_that_the_gap_script_keeps(place: Place) -> None:
    """What `analyze_gaps` returns holds more than is printed: the best delta, its coefficient and coherence."""
    code = (
        "import contextlib, io, json, runpy, sys\nfrom pathlib import Path\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n"
        "    script = runpy.run_path(sys.argv[1])\n"
        "print(json.dumps({path: script['analyze_gaps'](Path(path)) for path in sys.argv[2:]}))"
    )
    results = place.folder / "experiments/massive-activations/steering/chirp/refusal"
    paths = {str(path): path for path in results.glob("*/*/steering/results.jsonl")}
    command = [sys.executable, "-c", code, str(SCRIPTS / "gap_analysis.py"), *paths]
    done = subprocess.run(command, cwd=place.folder, capture_output=True, encoding="utf-8", check=True)
    names = {variant: model for model, variant in VARIANTS.items()}
    theirs: dict[tuple[str, str, str], object] = {
        (names[path.parts[-4]], f"response[:{path.parts[-3].removeprefix('response__')}]", label): (
            pytest.approx(found["best_delta"]), found["coef"], found["best_coh"],
        )
        for text, path in paths.items()
        for label, found in json.loads(done.stdout)[text].items()
        if found["has_valid"]
    }  # fmt: skip
    ours = {key: (row.delta, row.coefficient, row.coherence_mean) for key, row in place.bests().items()}
    assert len(paths) == 5
    assert ours == theirs
