"""`--dry-run` says what a sweep would do, from the store alone, and leaves no trace."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from transformers import MambaConfig, OpenAIGPTConfig

from massact.cli.app import cli
from massact.config import load_experiment
from massact.sweep.context import Session, Workload
from massact.workflow import dry_run as plan
from massact.workflow.dry_run import Forecast, forecast_phases
from tests.support.saved import save
from tests.support.small_plan import EXPERIMENT, N_CELLS

NAMES = ("phase1", "phase2", "phase3")


def _run(folder: Path, *arguments: str) -> Result:
    options = ["--experiment", str(folder / "small.yaml"), "--tracking-uri", f"sqlite:///{folder}/mlflow.db"]
    result = CliRunner().invoke(cli, [*arguments, *options])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def _forecasts(folder: Path, alike: float | None = None) -> list[Forecast]:
    experiment, uri = load_experiment(folder / "small.yaml"), f"sqlite:///{folder}/mlflow.db"
    session = Session(experiment, uri, workload=Workload(alike=alike))
    return forecast_phases(session, NAMES)


def _tree(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(EXPERIMENT)
    return tmp_path


@pytest.mark.parametrize("command", ["main", "phase1", "phase2", "phase3"])
def test_without_a_store_all_is_to_do_and_nothing_is_written(command: str, empty: Path) -> None:
    before = _tree(empty)
    result = _run(empty, command, "--dry-run")
    assert result.exit_code == 0, result.output
    assert "the run store does not exist yet, so nothing is finished" in result.output
    assert "nothing measured yet" in result.output
    assert _tree(empty) == before


def test_evaluate_says_what_its_grid_is(empty: Path) -> None:
    before = _tree(empty)
    line = ["evaluate", "--dry-run", "--method", "probe,mean_diff", "--position", "response[:5]"]
    result = _run(empty, *line, "--layers", "2-4", "--coefficients", "8,10", "--subset", "3")
    assert "| evaluate | toy | refusal | 12 | 0 | 0 | 0 | 12 | nothing measured yet | 39 |" in result.output
    assert _tree(empty) == before


def test_a_cell_of_several_phases_counts_in_the_first(empty: Path) -> None:
    one, two, three = _forecasts(empty)
    assert [(f.cells, f.earlier, f.todo) for f in (one, two, three)] == [(4, 0, 4), (8, 0, 8), (6, 2, 4)]
    # the baseline is judged once; two questions
    assert [f.judge_calls for f in (one, two, three)] == [2 * 5, 2 * 8, 2 * 4]


def test_a_judge_behind_a_server_is_asked_twice_an_exchange(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    file = empty / "small.yaml"
    file.write_text(EXPERIMENT.replace("judge: likelihood", 'judge: "openai:some-model"'))
    assert [one.judge_calls for one in _forecasts(empty)] == [20, 32, 16]
    assert "cost nothing" not in _run(empty, "main", "--dry-run").output


def test_a_model_that_goes_the_plain_way_is_told_and_one_that_cannot_be_steered_refused(
    empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    text = EXPERIMENT.replace("judge: likelihood", 'judge: "openai:some-model"')
    for config, said in (
        (MambaConfig(hidden_size=32, num_hidden_layers=4), "note: toy: responses come from transformers' own"),
        (OpenAIGPTConfig(n_embd=32, n_layer=4, n_head=4), "decoder block 0 returned list, not a residual stream"),
    ):
        save(empty / config.model_type, config)
        (empty / "small.yaml").write_text(re.sub(r"toy:gemma-3-\w+", f"./{config.model_type}", text))
        result = _run(empty, "phase1", "--dry-run")
        assert said in result.output
        assert result.exit_code == (2 if config.model_type == "openai-gpt" else 0)


def test_a_misused_command_is_still_told(empty: Path) -> None:
    line = ["evaluate", "--dry-run", "--method", "probe", "--position", "response[:5]", "--layers", "99"]
    assert _run(empty, *line).exit_code == 2


@pytest.mark.slow
def test_it_follows_the_store_and_loads_no_weights(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _run(empty, "calibrate").exit_code == 0
    assert "cells have no vectors yet" in _run(empty, "phase1", "--dry-run").output
    assert _run(empty, "extract").exit_code == 0
    assert _run(empty, "phase1", "--max-rounds", "0").exit_code == 0

    def load(*_: object, **__: object) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr("massact.sweep.executors.local.load_model", load)
    before = _tree(empty)
    one, two, three = _forecasts(empty)
    assert _tree(empty) == before
    assert [(f.cells, f.finished, f.todo) for f in (one, two, three)] == [(4, 4, 0), (8, 0, 8), (6, 2, 4)]
    assert [f.judge_calls for f in (one, two, three)] == [0, 16, 8]
    assert {f.n_measured for f in (one, two, three)} == {4}
    # what an earlier phase is to evaluate lends its results too: mean_diff cleaned before and after is one direction
    alike = _forecasts(empty, alike=0.9999)
    assert [(f.finished, f.earlier, f.same) for f in alike[:2]] == [(4, 0, 0), (0, 0, 2)]
    assert all(f.todo == f.cells - f.finished - f.earlier - f.same for f in alike)
    assert alike[1].judge_calls == 2 * alike[1].todo
    shown = _run(empty, "main", "--dry-run", "--alike", "off").output
    assert "(from 4 evaluations)" in shown
    assert f"{N_CELLS - 4} cells to do, about " in shown
    on_ray = _run(empty, "main", "--dry-run", "--alike", "off", "--executor", "ray", "--workers", "4").output
    assert f"{N_CELLS - 4} cells to do, about " in on_ray
    assert "one worker like those that the figures come from: 4 workers of that kind take about " in on_ray

    # a sweep that has nothing to do loads none either
    again = _run(empty, "phase1", "--max-rounds", "0")
    assert "4 cells: 4 finished already, 0 evaluated" in again.stderr
    assert again.exit_code == 0
    # and a window that nothing was extracted at is told of, beside those that are known
    both = 'positions: ["response[:5]", "response[:7]"]'
    text = EXPERIMENT.replace('  positions: ["response[:5]"]', f"  {both}")
    text = text.replace('mean_diff], positions: ["response[:5]"]', f"mean_diff], {both}")
    (empty / "small.yaml").write_text(text)
    (one, *_rest) = _forecasts(empty)
    assert (one.cells, one.finished) == (8, 4)
    assert "activations not found at response[:7]" in one.note


def test_spans_are_told_in_fitting_units() -> None:
    assert [plan._span(s) for s in (0.2, 100, 600, 9000)] == [
        "about 1 s", "about 100 s", "about 10.0 min", "about 2.5 h",
    ]  # fmt: skip
