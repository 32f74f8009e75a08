"""Labels that are alike in a real sweep: copies are made, marked, resumed, followed, and give way."""

import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from mlflow import MlflowClient

import massact
from massact.cli.app import cli
from massact.evaluation import FailedCell, PlannedCell
from massact.labels import format_label
from massact.store.read import open_store, stored_runs
from massact.store.read.base import Stored
from massact.store.schema import EvaluationRow, Kind, MlflowTag, Tag
from massact.sweep import driver as evaluate
from massact.sweep.executors import local
from massact.toy import resolve
from tests.support.judge_server import JUDGE, JudgeServer, judge_by_text
from tests.support.small_plan import EXPERIMENT

pytestmark = pytest.mark.slow

SWEEP = ("phase2", "--max-rounds", "0", "--alike", "0.9999")
N_CELLS, N_SAME = 2 * 4, 2
"""Four labels at one layer with two coefficients; mean_diff cleaned before or after is one direction by algebra."""
N_PROMPTS = 16


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a calibration and an extraction, and nothing evaluated."""
    folder = tmp_path_factory.mktemp("extracted")
    (folder / "small.yaml").write_text(EXPERIMENT.replace("toy:refusal", str(_small_dataset(folder))))
    before = Path.cwd()
    os.chdir(folder)
    try:
        for command in ("calibrate", "extract"):
            result = run(folder, command)
            assert result.exit_code == 0, result.output
    finally:
        os.chdir(before)
    return folder


def _small_dataset(folder: Path) -> Path:
    """The embedded dataset with fewer prompts: extraction is not what is tested."""
    shutil.copytree(resolve("toy:refusal"), folder / "refusal")
    for name in ("positive.txt", "negative.txt"):
        lines = (folder / "refusal" / name).read_text().splitlines(keepends=True)
        (folder / "refusal" / name).write_text("".join(lines[:N_PROMPTS]))
    return folder / "refusal"


@pytest.fixture
def place(extracted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it; artifacts are read where they were written."""
    for name in ("small.yaml", "mlflow.db"):
        shutil.copy(extracted / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(folder: Path, *arguments: str, code: int = 0) -> Result:
    options = ["--experiment", str(folder / "small.yaml"), "--tracking-uri", f"sqlite:///{folder}/mlflow.db"]
    result = CliRunner().invoke(cli, [*arguments, *options])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code, result.output
    return result


def rows(folder: Path) -> dict[str, Stored[EvaluationRow]]:
    """The evaluations that count, by key."""
    store = open_store(f"sqlite:///{folder}/mlflow.db")
    try:
        return {one.row.key: one for one in store.evaluations("small")}
    finally:
        store.close()


def copies(folder: Path) -> list[Stored[EvaluationRow]]:
    return [one for one in rows(folder).values() if one.row.same_as]


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Iterator[JudgeServer]:
    with judge_by_text(monkeypatch) as server:
        yield server


@pytest.fixture
def generated(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The labels of the cells that are generated, as they come."""
    found: list[str] = []
    real: Callable[..., Any] = local.evaluate_cells

    def spy(model: object, cells: Sequence[PlannedCell], *args: Any, **kwargs: Any) -> Any:
        found.extend(format_label(c.cell.steering.recipe) for c in cells if c.cell.steering)
        return real(model, cells, *args, **kwargs)

    monkeypatch.setattr(local, "evaluate_cells", spy)
    return found


def test_alike_labels_are_evaluated_once_and_each_is_marked(place: Path, generated: list[str]) -> None:
    planned = run(place, *SWEEP, "--dry-run").output
    result = run(place, *SWEEP, "-v")
    found, same = rows(place), copies(place)
    assert len(found) == N_CELLS, "nothing is hidden: every cell is there under its own key"
    assert [one.row.label for one in same] == ["mean_diff_preclean"] * N_SAME
    assert sorted(generated) == sorted(str(one.row.label) for one in found.values() if not one.row.same_as)
    tally = f"{N_CELLS} cells: 0 finished already, {len(same)} the same as another, {N_CELLS - len(same)} evaluated"
    assert tally in result.stderr
    assert f"| {N_CELLS} | 0 | 0 | {len(same)} | {N_CELLS - len(same)} |" in planned
    line = r"refusal, response\[:5\]: mean_diff_preclean \(layer 3, cosine (0.9999|1.0000)\) as mean_diff_cleaned\n"
    assert re.search(line, result.stderr)

    store = open_store(f"sqlite:///{place}/mlflow.db")
    tags = (Tag.SAME_AS, MlflowTag.NOTE, MlflowTag.TABLES)
    runs = stored_runs(f"sqlite:///{place}/mlflow.db", "small", Kind.EVALUATION, tags=tags)
    tags_of = {one.run_id: one.tags for one in runs}
    for one in same:
        row, source = one.row, found[one.row.same_as_key or ""]
        assert (source.row.same_as, source.row.label) == (None, row.same_as)
        assert row.vector_digest != source.row.vector_digest
        assert (row.layer, row.coefficient, row.setting) == (
            source.row.layer,
            source.row.coefficient,
            source.row.setting,
        )
        for name in ("trait_mean", "coherence_mean", "delta", "trait_std", "coherence_std", "n_scored", "baseline_key"):
            assert getattr(row, name) == getattr(source.row, name)
        assert row.massive_energy is not None
        assert (row.generation_seconds, row.judge_seconds, row.tokens_per_second) == (None, None, None)
        scores = store.scores([one.run_id, source.run_id])
        assert scores[one.run_id] == scores[source.run_id]
        assert tags_of[one.run_id][Tag.SAME_AS] == row.same_as_key
        assert source.run_id in tags_of[one.run_id][MlflowTag.NOTE], "it says where the responses are"
        assert MlflowTag.TABLES not in tags_of[one.run_id]
    store.close()
    assert f"{N_CELLS} cells: {N_CELLS} finished already, 0 evaluated" in run(place, *SWEEP).stderr
    run(place, "doctor")
    _check_best(place)

    # a source that is gone takes what was taken over from it with it
    for key in {one.row.same_as_key for one in same}:
        MlflowClient(f"sqlite:///{place}/mlflow.db").delete_run(found[key or ""].run_id)
    told = run(place, "doctor", code=1).output
    assert "took over the result of mean_diff_cleaned, which is not in the store any more" in told
    again = run(place, *SWEEP).stderr
    assert f"{N_CELLS - 2 * N_SAME} finished already, {N_SAME} the same as another, {N_SAME} evaluated" in again
    run(place, "doctor")


def _check_best(place: Path) -> None:
    """The answer of `best` is that of brute force over the rows."""
    answer = massact.best("small.yaml", tracking_uri=f"sqlite:///{place}/mlflow.db")
    found = [one.row for one in rows(place).values()]
    for best in (row for row in answer.rows if row.status != "missing"):
        coherent = [row for row in found if row.label == best.label and (row.coherence_mean or 0) >= answer.floor]
        top = max((row.delta for row in coherent if row.delta is not None), default=None)
        assert best.delta == top
        assert best.same_as == next((row.same_as for row in coherent if row.key == best.key), None)
    by_label = {row.label: row for row in answer.rows}
    pair = by_label["mean_diff_preclean"], by_label["mean_diff_cleaned"]
    assert pair[0].delta == pair[1].delta
    assert {pair[0].standing, pair[1].standing} <= {"winner", "tied"} or pair[0].standing == pair[1].standing


def test_failed_or_interrupted_before_the_copies_the_next_run_makes_them_without_generating(
    place: Path, generated: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    def fail(*args: Any, **kwargs: Any) -> Iterator[Any]:
        for one in sweep(*args, **kwargs):
            is_source = one.planned.cell.steering and one.planned.cell.steering.recipe.method == "mean_diff"
            yield FailedCell(one.planned, "out of memory") if is_source else one

    sweep = local.evaluate_cells
    with monkeypatch.context() as patch:
        patch.setattr(local, "evaluate_cells", fail)
        result = run(place, *SWEEP, code=1)
    assert f"{2 * N_SAME} failed" in result.stderr, "what would take over a result fails with it"
    store = open_store(f"sqlite:///{place}/mlflow.db")
    errors = {one.row.label: one.error for one in store.failures("small")}
    store.close()
    assert errors["mean_diff_preclean"] == "the same as mean_diff_cleaned, which failed: out of memory"

    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "read_sources", interrupt)
        run(place, *SWEEP, code=130)
    n_generated = len(generated)
    n_evaluated = N_CELLS - N_SAME
    assert copies(place) == []
    assert len(rows(place)) == n_evaluated
    result = run(place, *SWEEP)
    assert len(generated) == n_generated, "nothing is generated for them"
    tally = f"{N_CELLS} cells: {n_evaluated} finished already, {N_SAME} the same as another, 0 evaluated"
    assert tally in result.stderr
    assert len(copies(place)) == N_SAME


def test_with_the_option_off_each_is_evaluated_and_that_counts(place: Path, generated: list[str]) -> None:
    run(place, *SWEEP)
    same = {one.row.key: one.run_id for one in copies(place)}
    generated.clear()
    result = run(place, *SWEEP[:-1], "off")
    assert f"{N_CELLS} cells: {N_CELLS - len(same)} finished already, {len(same)} evaluated" in result.stderr
    assert len(generated) == len(same)
    found = rows(place)
    assert len(found) == N_CELLS
    assert copies(place) == []
    assert all(found[key].run_id != run_id for key, run_id in same.items())
    run(place, "doctor")
    # and what was evaluated itself stays so
    assert f"{N_CELLS} cells: {N_CELLS} finished already, 0 evaluated" in run(place, *SWEEP).stderr
    assert copies(place) == []


def test_what_another_label_cannot_be_at_a_layer_is_no_matter_there(place: Path) -> None:
    file = place / "small.yaml"
    file.write_text(file.read_text().replace("[probe, mean_diff]", "[probe, mean_diff+3layers]"))
    grid = ("evaluate", "--position", "response[:5]", "--coefficients", "2", "--layers")
    run(place, *grid, "5", "--method", "mean_diff+3layers")
    run(place, *grid, "7", "--method", "mean_diff", "--dry-run")
    assert "1 evaluated" in run(place, *grid, "7", "--method", "mean_diff").stderr
    assert "none beyond 7" in run(place, *grid, "7", "--method", "mean_diff+3layers", code=2).stderr


def test_another_judge_and_an_export_follow(place: Path, judge: JudgeServer) -> None:
    run(place, *SWEEP)
    same = copies(place)
    result = run(place, "rejudge", "--judge", JUDGE)
    assert f"{N_CELLS - len(same)} evaluations" in result.stderr
    assert f"{len(same)} the same as another" in result.stderr
    second = [one for one in rows(place).values() if one.row.judge == JUDGE]
    by_key = {one.row.key: one.row for one in second}
    marked = [one.row for one in second if one.row.same_as]
    assert (len(second), len(marked)) == (N_CELLS, len(same))
    for row in marked:
        assert row.trait_mean == by_key[row.same_as_key or ""].trait_mean
    n_asked = len(judge.requests)
    again = run(place, "rejudge", "--judge", JUDGE)
    assert f"nothing to score, {N_CELLS} scored by this judge already" in again.stderr
    assert len(judge.requests) == n_asked
    only = run(place, "rejudge", "--judge", "openai:third", "--label", "mean_diff_preclean", code=1)
    assert "the same as mean_diff_cleaned, which is not scored: the filters leave it out" in only.stderr

    run(place, "export", "--output", str(place / "exported"), "--no-responses")
    other = place / "other"
    other.mkdir()
    shutil.copy(place / "small.yaml", other / "small.yaml")
    run(other, "import", str(place / "exported"))
    assert {key: one.row for key, one in rows(other).items()} == {key: one.row for key, one in rows(place).items()}
    assert "0 results imported" in run(other, "import", str(place / "exported")).output
