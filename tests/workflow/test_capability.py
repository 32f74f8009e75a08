"""`massact capability`: tasks on a stored winner, as runs under it, in best, its --cost and the report."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from massact.cli.app import cli
from massact.store.read import open_store
from massact.store.schema import MlflowTag
from tests.support.harness_tasks import write_tasks
from tests.support.prepared import PreparedStores
from tests.support.small_plan import EXPERIMENT

pytest.importorskip("lm_eval", reason="massact[capability] is not installed")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, prepared_stores: PreparedStores) -> Path:
    folder = tmp_path_factory.mktemp("capability")
    prepared_stores.finished(EXPERIMENT, folder)
    return folder


@pytest.fixture
def run(place: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.chdir(place)
    options = ("--experiment", "small.yaml", "--tracking-uri", f"sqlite:///{place}/mlflow.db")
    return lambda name, *more: CliRunner().invoke(cli, [name, *options, *more], catch_exceptions=False)


def _json(result: Result) -> Any:
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)["rows"]


def test_a_winner_s_cost_is_a_run_under_it_and_part_of_every_answer(
    run: Callable[..., Result], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from massact.workflow import capability

    tasks, asked = write_tasks(place), list[Any]()
    run_task = capability._run

    def watched(model: Any, one: Any, name: str, *rest: Any) -> Any:
        asked.append((name, one is None))
        return run_task(model, one, name, *rest)

    monkeypatch.setattr(capability, "_run", watched)
    counted, shown = dict[str, list[int]](), vars(capability)["open_phase"]

    @contextmanager
    def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
        counted[what] = [total]
        yield counted[what].append

    def with_progress(session: Any, *args: Any, **options: Any) -> Any:
        session.progress = progress
        return shown(session, *args, **options)

    monkeypatch.setattr(capability, "open_phase", with_progress)
    done = run("capability", "--best", "--tasks", f"{tasks['several']},{tasks['both']}", "--format", "json")
    (row, group) = _json(done)
    assert "requests" not in done.stderr  # the harness's own bars
    for total, *steps in counted.values():
        assert sum(steps) == total > 0
    assert (row["task"], row["metric"], row["n_documents"]) == ("several", "acc", 12)
    assert (group["task"], group["n_documents"]) == ("both", 24)
    assert row["delta"] == pytest.approx(row["value"] - row["unsteered"])
    assert row["delta_low"] <= row["delta"] <= row["delta_high"]
    assert asked == [("several", False), ("several", True), ("both", False), ("both", True)]

    store = open_store(f"sqlite:///{place}/mlflow.db")
    best = next(one for one in _json(run("best", "--format", "json")) if one["key"] == row["evaluation_key"])
    assert {one["task"]: one["delta"] for one in best["costs"]} == {"several": row["delta"], "both": group["delta"]}
    runs = store._source.finished_runs([one["run_id"] for one in best["costs"]], tags=(MlflowTag.PARENT,))
    assert {one.tags[MlflowTag.PARENT] for one in runs} == {best["run_id"]}
    assert store.warnings == []

    # what the unsteered model got is not asked for again, and the newer result counts
    again = _json(run("capability", "--run", best["run_id"], "--tasks", tasks["several"], "--format", "json"))
    assert asked[4:] == [("several", False)]
    assert again == [row]

    within = run("best", "--cost", f"several:{row['delta'] - 1:g}", "--format", "json")
    assert [one["key"] for one in _json(within) if one["status"] == "ok"] == [row["evaluation_key"]]
    assert "never run on several, not counted" in within.stderr
    dear = _json(run("best", "--cost", f"several:{row['delta'] + 1:g}", "--format", "json"))
    assert {one["status"] for one in dear} == {"missing"}

    assert run("report", "--output", "reports").exit_code == 0
    page = (place / "reports" / "small" / "report.md").read_text()
    assert f"several {row['delta']:+.1f} (" in page
    assert "never held against people" in page


def test_what_cannot_be_run_is_refused(run: Callable[..., Result], place: Path) -> None:
    tasks = write_tasks(place)
    unsteered = open_store(f"sqlite:///{place}/mlflow.db").baselines("small")[0].run_id
    for arguments, told in (
        (("--tasks", "no_such_task"), "the task 'no_such_task' cannot be loaded"),
        (("--tasks", "none.yaml"), "the task 'none.yaml' cannot be loaded"),
        (("--tasks", tasks["whole"]), "has no metric that is a number for each document"),
        (("--tasks", tasks["one"], "--run", unsteered), "is no finished evaluation with a vector or a prompt"),
        (("--tasks", tasks["one"], "--run", "x" * 32), "is no finished evaluation with a vector or a prompt"),
        (("--tasks", tasks["one"], "--run", unsteered, "--best"), "--run and --best name two evaluations"),
        (("--tasks", ","), "no task"),
    ):
        result = run("capability", *arguments)
        assert (result.exit_code, told in result.stderr) == (2, True), result.stderr


def test_tokens_that_a_task_does_not_have_are_told(run: Callable[..., Result], place: Path) -> None:
    tasks = write_tasks(place)
    steered = ("--position", "response[:5]", "--layers", "3", "--coefficients", "8,16", "--method", "probe@response")
    evaluated = run("evaluate", *steered)
    assert evaluated.exit_code == 0, evaluated.stderr
    result = run("capability", "--label", "probe@response", "--tasks", tasks["one"], "--format", "json")
    assert [one["delta"] for one in _json(result)] == [0.0]
    assert "no token was steered" in result.stderr


def test_one_table_sets_the_winner_beside_a_prompt_examples_and_random_directions(
    run: Callable[..., Result], place: Path
) -> None:
    """Delta, coherence, KL and capability of each."""
    with (place / "small.yaml").open("a") as file:
        file.write("baselines: {prompt: true, few_shot: 2, random: 3}\n")
    assert run("baselines").exit_code == 0
    tasks = write_tasks(place)
    asked = ("--best", "--baselines", "--tasks", tasks["several"], "--format", "json")
    costs = {row["evaluation_key"]: row for row in _json(run("capability", *asked))}
    rows = _json(run("costs", "--format", "json"))
    assert [row["what"] for row in rows] == ["winner", "prompt", "few_shot", "random"]
    for row in rows:
        assert row["kl"] >= 0
        (several,) = (one for one in row["costs"] if one["task"] == "several")
        assert several["delta"] in {one["delta"] for one in costs.values()}
    (best, *_) = _json(run("capability", "--best", "--tasks", tasks["several"], "--format", "json"))
    assert best["label"] not in ("prompt", "few_shot", "random")
    assert len({one["unsteered"] for one in costs.values()}) == 1

    assert run("report", "--output", "reports").exit_code == 0
    page = (place / "reports" / "small" / "report.md").read_text()
    table = page.partition("Winners beside what they are held against")[2].partition("\n\n\n")[0]
    lines = [line for line in table.splitlines() if "several " in line]
    for what, line in zip(("winner", "prompt", "few_shot", "random"), lines[:4], strict=True):
        assert what in line


def test_a_prompt_that_is_not_what_was_asked_is_refused(run: Callable[..., Result], place: Path) -> None:
    tasks = write_tasks(place)
    (prompt,) = (row for row in _json(run("costs", "--format", "json")) if row["what"] == "prompt")
    (file,) = place.glob(f"mlruns/*/{prompt['run_id']}/artifacts/prompting.json")
    told = file.read_text()
    file.write_text(told.replace("a", "b"))
    try:
        result = run("capability", "--run", prompt["run_id"], "--tasks", tasks["one"])
        assert (result.exit_code, "prompting.json is not what was asked" in result.stderr) == (2, True), result.stderr
    finally:
        file.write_text(told)
