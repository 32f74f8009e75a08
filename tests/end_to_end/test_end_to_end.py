"""The whole plan for real, as processes: a small experiment on an embedded model, into a store of its own."""

import json
import signal
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest
import torch

from massact.keys import digest_text
from massact.labels import parse_label
from massact.store.read import stored_runs
from massact.store.schema import Kind, Tag
from massact.vectors.methods import cosine
from tests.support.prepared import PreparedStores
from tests.support.processes import run_module
from tests.support.small_plan import EXPERIMENT, N_CELLS, ROOT, Place, small_place

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, prepared_stores: PreparedStores) -> tuple[Place, str]:
    """A place where `main` has run, and what it printed."""
    folder = tmp_path_factory.mktemp("finished")
    return Place(folder), prepared_stores.finished(EXPERIMENT, folder)


@pytest.fixture
def prepared(prepared_stores: PreparedStores, tmp_path: Path) -> Place:
    """A place of its own that is calibrated and extracted, with nothing evaluated yet."""
    prepared_stores.copy(EXPERIMENT, tmp_path)
    return Place(tmp_path)


def test_main_ends_with_a_report_and_links(finished: tuple[Place, str]) -> None:
    place, printed = finished
    report = place.folder / "reports/small/report.html"
    assert str(Path("reports/small/report.html")) in printed
    text = report.read_text()
    assert "toy" in text.lower()
    assert "says nothing about Gemma" in text or "say nothing about Gemma" in text


def test_every_cell_is_a_finished_child_of_its_phase(finished: tuple[Place, str]) -> None:
    place, _ = finished
    store = place.store()
    evaluations = store.evaluations("small")
    assert len(evaluations) == N_CELLS
    parents = {one.run_id: one.phase for one in store.phases("small")}
    database = sqlite3.connect(place.folder / "mlflow.db")
    for one in evaluations:
        (parent,) = database.execute(
            "select value from tags where key = 'mlflow.parentRunId' and run_uuid = ?", (one.run_id,)
        ).fetchone()
        assert parents[parent] in {"phase1", "phase2", "phase3"}
    assert {one.status for one in store.phases("small")} == {"FINISHED"}


def test_the_baseline_is_sane(finished: tuple[Place, str]) -> None:
    (baseline,) = finished[0].store().baselines("small")
    assert baseline.row.trait_mean is not None
    assert baseline.row.coherence_mean is not None
    assert baseline.row.trait_mean < 10
    assert baseline.row.coherence_mean > 85


def test_a_second_main_evaluates_nothing_again_and_says_so(finished: tuple[Place, str]) -> None:
    place, _ = finished
    before = len(place.store().finished_keys("small"))
    printed = place.run("main", "--experiment", "small.yaml").stdout
    assert "nothing was evaluated again" in printed
    assert len(place.store().finished_keys("small")) == before


def test_phase4_by_itself_writes_a_run_only_where_it_says_something_else(
    finished: tuple[Place, str], tmp_path: Path
) -> None:
    place, _ = finished

    def runs() -> list[str]:
        return [one.run_id for one in place.store().phases("small") if one.phase == "phase4"]

    before = runs()  # the newest last
    assert f"run {before[-1]} says so already" in place.run("phase4", "--experiment", "small.yaml").stderr
    assert runs() == before
    other = tmp_path / "small.yaml"
    other.write_text(EXPERIMENT + "coherence_floor: 50\n")
    place.run("phase4", "--experiment", str(other))
    place.run("phase4", "--experiment", str(other))
    assert len(runs()) == len(before) + 1


def test_the_plans_one_liner_reads_the_calibration(finished: tuple[Place, str]) -> None:
    place, _ = finished
    (path,) = place.folder.glob("mlruns/**/calibration.json")
    d = json.loads(path.read_text())
    dims = d["aggregate"]["top_dims_by_layer"]["3"][:5]
    assert len(dims) == 5
    assert dims[0] == 43  # the first of the planted dims


def test_cleaning_a_mean_difference_before_or_after_is_one_direction(finished: tuple[Place, str]) -> None:
    from massact.store.tensors import read_tensor
    from massact.store.write.tracker import Tracker

    place, _ = finished
    tracker = Tracker(place.uri, "small", floor=68)
    (extraction,) = place.store().stages(Kind.EXTRACTION, "small")
    assert {parse_label(label).method for label in extraction.row.labels} == {"mean_diff", "probe"}
    vectors = {
        label: read_tensor(tracker.fetch(extraction.run_id, f"vectors/{label}.safetensors"), "vectors")
        for label in ("mean_diff_cleaned", "mean_diff_preclean", "probe_cleaned", "probe_preclean")
    }
    for layer in range(extraction.row.n_layers):
        assert cosine(vectors["mean_diff_cleaned"][layer], vectors["mean_diff_preclean"][layer]) > 0.9999
        assert cosine(vectors["probe_cleaned"][layer], vectors["probe_preclean"][layer]) < 0.9999
    for stack in vectors.values():
        torch.testing.assert_close(stack.norm(dim=1), torch.ones(len(stack)))


def test_facts_about_a_vector_agree_with_what_its_evaluation_logged(finished: tuple[Place, str]) -> None:
    from massact.config import load_experiment
    from massact.sweep.context import Session
    from massact.sweep.vectors import StoredVectors, facts_of

    place, _ = finished
    session = Session(load_experiment(place.folder / "small.yaml"), place.uri)
    vectors = StoredVectors(session, session.experiment.models[0], session.experiment.traits[0])
    for row in (one.row for one in place.store().evaluations("small")):
        assert row.label is not None
        assert row.coefficient is not None
        assert row.relative_strength is not None
        facts = facts_of(vectors, "response[:5]", parse_label(row.label), [3])[3]
        assert facts.unit_strength == pytest.approx(row.relative_strength / row.coefficient, rel=1e-4)
        assert facts.norm > 0


def test_gaps_and_status_agree_with_the_store(finished: tuple[Place, str]) -> None:
    place, _ = finished
    answer = place.run("gaps", "--experiment", "small.yaml", "--format", "json", code=None)
    rows = json.loads(answer.stdout)["rows"]
    stored = [one.row for one in place.store().evaluations("small")]
    assert len(rows) == 8
    for row in rows:
        mine = [one for one in stored if one.label == row["label"]]
        coherent = [one for one in mine if (one.coherence_mean or 0) >= 68]
        assert row["status"] == ("ok" if coherent else "below_floor")
        if coherent:
            assert row["best"]["delta"] == max(one.delta or 0 for one in coherent)
    remain = any(row["status"] != "ok" for row in rows)
    assert answer.returncode == int(remain)
    assert place.run("status", "--experiment", "small.yaml", code=None).returncode == int(remain)


def test_the_plans_own_command_line_evaluates_a_label_and_skips_it_the_second_time(prepared: Place) -> None:
    line = [
        "evaluate", "--experiment", "small.yaml", "--vector-from-trait", "small/chirp/refusal", "--method",
        "probe_preclean", "--position", "response[:5]", "--layers", "30%-40%", "--coefficients", "8,10",
        "--max-new-tokens", "8", "--direction", "positive", "--subset", "0", "--save-responses", "best",
    ]  # fmt: skip
    first = prepared.run(*line)
    assert "4 cells: 0 finished already, 4 evaluated" in first.stderr  # layers 2 and 3 of 8
    assert "4 cells: 4 finished already, 0 evaluated" in prepared.run(*line).stderr
    rows = [one.row for one in prepared.store().evaluations("small")]
    assert {(row.n_questions, row.max_new_tokens, row.label) for row in rows} == {(24, 8, "probe_preclean")}


def test_a_phase_without_its_prerequisites_says_what_makes_them(tmp_path: Path) -> None:
    place = small_place(tmp_path)
    done = place.run("phase1", "--experiment", "small.yaml", code=1)
    assert "calibration.json not found. Run: massact calibrate --experiment small.yaml" in done.stderr
    assert "activations not found. Run: massact extract --experiment small.yaml" in done.stderr
    assert "lacks" in place.run("extract", "--experiment", "small.yaml", code=1).stderr
    status = place.run("status", "--experiment", "small.yaml", code=1)
    assert "Next: massact calibrate" in status.stdout


@pytest.mark.parametrize(
    ("number", "code", "status"),
    [(signal.SIGKILL, -9, "RUNNING"), (signal.SIGINT, 130, "KILLED"), (signal.SIGTERM, 143, "KILLED")],
    ids=["kill", "interrupt", "terminate"],
)
def test_a_stopped_phase_leaves_only_whole_evaluations(
    number: signal.Signals, code: int, status: str, prepared: Place
) -> None:
    grid = "coefficients: [4, 8, 12, 16, 20, 24, 28, 32]"
    (prepared.folder / "small.yaml").write_text(EXPERIMENT.replace("coefficients: [16, 24]", grid))
    line = ["phase1", "--experiment", "small.yaml", "--batch-rows", "2", "--max-rounds", "0"]
    process = prepared.start(*line)
    store = prepared.store()
    deadline = time.monotonic() + 120
    while not store.evaluations("small") and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert [one.status for one in store.phases("small") if one.phase == "phase1"] == [status]
    found = store.evaluations("small")
    assert 0 < len(found) < 16, "the phase was over before it was stopped, or never began"
    for one in found:
        assert one.row.coherence_mean is not None
        assert list(prepared.folder.glob(f"mlruns/*/{one.run_id}/artifacts/vector.safetensors"))
    prepared.run(*line)
    assert len(store.evaluations("small")) == 16


def test_mlflow_run_uses_its_own_run_and_fails_with_a_useful_last_line(prepared: Place) -> None:
    def mlflow_run(entry: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        experiment = f"experiment={prepared.folder / 'small.yaml'}"
        command = ["run", ROOT, "-e", entry, "--env-manager", "local", "-P", experiment, *arguments]
        return run_module("mlflow", *command, cwd=prepared.folder, env=prepared.environment)

    good = mlflow_run("phase2", "-P", "save_responses=none")
    assert good.returncode == 0, good.stderr
    phases = [one for one in prepared.store().phases("small") if one.phase == "phase2"]
    assert [one.status for one in phases] == ["FINISHED"]
    assert phases[0].run_id in good.stderr, "the phase's run is not the one that mlflow run made"
    assert len(prepared.store().evaluations("small")) == 8

    bad = mlflow_run("evaluate", "-P", "method=probe", "-P", "position=response[:7]")
    assert bad.returncode != 0
    assert "activations not found at response[:7]" in bad.stderr + bad.stdout
    database = sqlite3.connect(prepared.folder / "mlflow.db")
    statuses = database.execute(
        "select r.status, t.value from runs r join tags t on t.run_uuid = r.run_uuid "
        "where t.key = 'massact.error' and r.name = 'evaluate'"
    ).fetchall()
    assert [status for status, _ in statuses] == ["FAILED"]
    assert "massact extract" in statuses[0][1]


def test_phase1_fills_a_gap_with_a_search_until_none_is_left(prepared: Place) -> None:
    file = prepared.folder / "small.yaml"
    file.write_text(EXPERIMENT.replace("coefficients: [16, 24]", "coefficients: [90]"))
    prepared.run("phase1", "--experiment", "small.yaml", "--max-rounds", "0")
    left = prepared.run("gaps", "--experiment", "small.yaml", "--phase", "phase1", "--format", "json", code=1)
    (gap, *_) = [row for row in json.loads(left.stdout)["rows"] if row["label"] == "probe"]
    assert gap["status"] == "below_floor"
    assert gap["nearest_miss"]["coefficient"] == 90
    assert all(4 <= c < 90 for c in gap["brackets"][0]["try_next"])
    filled = prepared.run("phase1", "--experiment", "small.yaml", "-v")
    assert "one more coefficient" in filled.stderr
    prepared.run("gaps", "--experiment", "small.yaml", "--phase", "phase1", code=0)


def test_every_run_of_a_result_holds_the_text_whose_digest_is_its_key(finished: tuple[Place, str]) -> None:
    place, _ = finished
    n_runs = 0
    for kind in (Kind.CALIBRATION, Kind.EXTRACTION, Kind.BASELINE, Kind.EVALUATION):
        for run in stored_runs(place.uri, "small", kind, tags=(Tag.KEY, Tag.CELL)):
            n_runs += 1
            assert digest_text(run.tags[Tag.CELL]) == run.tags[Tag.KEY], kind
    assert n_runs > N_CELLS
