"""Bad input at the command line: one clear line, exit code 2, nothing written."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from massact.cli.app import cli

MINIMAL_OPTIONS = ["--method", "probe", "--position", "response[:5]"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--method", "prob"], "unknown method label 'prob'"),
        (["--position", "answer[:5]"], "unknown position 'answer[:5]'"),
        (["--layers", "5-"], "'5-' is not a layer or a range"),
        (["--layers", "9"], "the model has 8 layers, 0 to 7"),
        (["--coefficients", "8,ten"], "'ten' is not a number"),
        (["--coefficients", "8,nan"], "'nan' is not a number"),
        (["--model", "gemma"], "--model 'gemma' is not in"),
        (["--model-variant", "x"], "--model-variant 'x' is not in"),
        (["--model", "toy-gemma-3", "--extraction-variant", "gemma2_base"], "name different models"),
        (["--trait", "sycophancy"], "declares no trait 'sycophancy'; it declares refusal"),
        (["--vector-from-trait", "other/chirp/refusal"], "not from 'other'"),
        (["--subset", "99"], "has 24 questions"),
        (["--subset", "-1"], "--subset"),
        (["--max-new-tokens", "0"], "--max-new-tokens"),
        (["--direction", "up"], "'up' is not one of"),
        (["--tracking-uri", "mlflow.db"], "has no scheme"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_option_ends_with_2_and_writes_nothing(
    arguments: list[str], said: str, folder: Path, root: Path
) -> None:
    given = {flag for flag in arguments if flag.startswith("--")}
    defaults = [
        one
        for flag, value in zip(*[iter(MINIMAL_OPTIONS)] * 2, strict=True)
        if flag not in given
        for one in (flag, value)
    ]
    result = _invoke("evaluate", "--experiment", str(root / "experiments/toy.yaml"), *defaults, *arguments)
    assert result.exit_code == 2, result.output
    assert said in result.output
    assert "Traceback" not in result.output
    assert not list(folder.iterdir())


def test_a_wrong_experiment_file_names_file_line_key_and_value(folder: Path, root: Path) -> None:
    text = (root / "experiments/toy.yaml").read_text()
    wrong = folder / "wrong.yaml"
    wrong.write_text(text.replace('layers: "3-4"', 'layers: "3-12"'))
    result = _invoke("main", "--experiment", str(wrong))
    assert result.exit_code == 2
    assert (
        "models.toy-gemma-3.layers: layers '3-12' name layer 8, but the model has 8 layers" in result.output
    )
    assert sorted(folder.iterdir()) == [wrong]


def test_a_missing_experiment_file_says_what_to_pass(folder: Path) -> None:
    result = _invoke("gaps", "--experiment", "none")
    assert result.exit_code == 2
    assert "experiments/none.yaml" in result.output
    assert "--experiment" in result.output


def test_a_model_that_is_not_there_says_what_to_give(folder: Path, root: Path) -> None:
    text = (root / "experiments/toy.yaml").read_text()
    wrong = folder / "wrong.yaml"
    wrong.write_text(text.replace("toy:gemma-3-base", "./weights/gemma"))
    result = _invoke("calibrate", "--experiment", str(wrong))
    assert result.exit_code == 2
    assert "no such folder" in result.output
    assert "Traceback" not in result.output


def test_a_model_of_a_hub_that_cannot_be_reached_says_what_to_do(folder: Path, root: Path) -> None:
    result = _invoke("calibrate", "--experiment", str(root / "experiments/massive-activations.yaml"))
    assert result.exit_code == 2
    assert "google/gemma-3-4b" in result.output
    assert "hf auth login" in result.output
    assert not list(folder.iterdir())


@pytest.mark.parametrize("command", ["gaps", "best", "status"])
def test_a_question_to_a_store_that_is_not_there_says_how_to_make_one(
    command: str, folder: Path, root: Path
) -> None:
    result = _invoke(command, "--experiment", str(root / "experiments/toy.yaml"))
    assert result.exit_code == 2
    assert "massact main" in result.output
    assert not list(folder.iterdir())


def test_a_judge_that_cannot_be_used_is_told_before_anything_runs(folder: Path, root: Path) -> None:
    text = (root / "experiments/toy.yaml").read_text()
    wrong = folder / "wrong.yaml"
    wrong.write_text(text.replace("judge: likelihood", "judge: openai:some-model"))
    result = _invoke("main", "--experiment", str(wrong))
    assert result.exit_code == 2
    assert "OPENAI_API_KEY" in result.output
    assert sorted(folder.iterdir()) == [wrong]


def test_a_phase_with_failed_cells_ends_with_1_and_says_so(
    folder: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from massact.phases import steps
    from massact.phases.sweeping import Tally

    monkeypatch.setattr(steps, "run_grid_phase", lambda session, name: Tally(wanted=3, evaluated=1, failed=2))
    result = _invoke("phase1", "--experiment", str(root / "experiments/toy.yaml"))
    assert result.exit_code == 1
    assert "2 cells failed" in result.output
