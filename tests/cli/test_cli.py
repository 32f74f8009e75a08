"""Bad input at the command line: one clear line, exit code 2, nothing written."""

from pathlib import Path
from typing import Any

import click
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
    ("written", "said"), [("bets", "Did you mean 'best'?"), ("vector", "Did you mean 'vectors'?"), ("xyz", "'xyz'.\n")]
)
def test_a_command_that_is_not_there_is_told_with_the_nearest(written: str, said: str, folder: Path) -> None:
    result = _invoke(written)
    assert (result.exit_code, list(folder.iterdir())) == (2, [])
    assert "No such command" in result.stderr
    assert said in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--method", "prob"], "unknown method label 'prob'"),
        (["--position", "answer[:5]"], "unknown position 'answer[:5]'"),
        (["--layers", "5-"], "'5-' is not a layer or a range"),
        (["--layers", "9"], "the model has 8 layers, 0 to 7"),
        (["--coefficients", "8,ten"], "'ten' is not a number"),
        (["--coefficients", "8,nan"], "'nan' is not a number"),
        (["--coefficients", "8,0"], "coefficient 0 steers nothing: that is the baseline"),
        (["--coefficients", "8,1e13"], "not a number from -1e+12 to 1e+12"),
        (["--coefficients", "relative:"], "'' is not a number"),
        (["--coefficients", "relative:800"], "800 is no relative strength from -10 to 10"),
        (["--layers", "8-4"], "the range '8-4' runs backwards"),
        (["--max-new-tokens", "1000000000"], "the model reads 1024 tokens at most"),
        (["--store-timeout", "nan"], "'nan' is not a finite number"),
        (["--store-timeout", "inf"], "'inf' is not a finite number"),
        (["--val-split", "nan"], "--val-split"),
        (["--alike", "nan"], "is no cosine"),
        (["--layers", "1", "--layers", "2"], "--layers given 2 times, of which one counts"),
        (["--model", "toy-gemma-3", "--model=toy-gemma-2"], "--model given 2 times"),
        (["--experiment", "other.yaml"], "--experiment given 2 times"),
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
    assert "models.toy-gemma-3.layers: layers '3-12' name layer 8, but the model has 8 layers" in result.output
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


def test_the_status_without_a_store_says_what_to_begin_with(folder: Path, root: Path) -> None:
    result = _invoke("status", "--experiment", str(root / "experiments/toy.yaml"))
    assert (result.exit_code, "not made yet" in result.stderr) == (1, True)
    assert "Next: massact calibrate" in result.stdout
    assert not list(folder.iterdir())


@pytest.mark.parametrize("command", ["gaps", "best"])
def test_a_question_to_a_store_that_is_not_there_says_how_to_make_one(command: str, folder: Path, root: Path) -> None:
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


@pytest.mark.slow
def test_a_phase_with_failed_cells_ends_with_1_and_says_so(
    folder: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from massact.sweep.driver import Tally
    from massact.workflow import steps

    monkeypatch.setattr(steps, "run_grid_phase", lambda session, name: Tally(wanted=3, evaluated=1, failed=2))
    result = _invoke("phase1", "--experiment", str(root / "experiments/toy.yaml"))
    assert result.exit_code == 1
    assert "2 cells failed" in result.output


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["best", "--floor", "60", "--floor", "70"], "--floor"),
        (["best", "--intervals", "--no-intervals"], "--intervals and --no-intervals"),
        (["users", "add", "ada", "--role", "writer", "--role", "reader"], "--role"),
        (["serve", "--port", "1", "--port", "2"], "--port"),
        (["import", "old", "--experiment", "a", "--experiment", "b"], "--experiment"),
    ],
    ids=" ".join,
)
def test_an_option_that_takes_one_value_is_not_given_two(arguments: list[str], option: str, folder: Path) -> None:
    result = _invoke(*arguments)
    assert result.exit_code == 2
    assert f"{option} given 2 times, of which one counts: write it once" in result.output
    assert not list(folder.iterdir())


def test_what_may_be_repeated_and_values_that_look_like_options_are_left_alone(folder: Path) -> None:
    for arguments in (
        ["best", "--experiment", "x", "--label", "probe", "--label", "probe"],
        ["best", "--experiment", "--experiment"],  # the second is the value
        ["doctor", "--experiment", "x", "--fix", "--fix"],
    ):
        assert "of which one counts" not in _invoke(*arguments).output


@pytest.mark.parametrize("command", ["main", "evaluate", "report", "status", "best", "gaps", "doctor", "judge-check"])
def test_a_command_asks_for_its_experiment(command: str, folder: Path, root: Path) -> None:
    options = MINIMAL_OPTIONS if command == "evaluate" else []
    result = _invoke(command, *options)
    assert result.exit_code == 2
    assert "which experiment? write --experiment FILE, or set MASSACT_EXPERIMENT" in result.output
    text = (root / "experiments/toy.yaml").read_text()
    (folder / "experiments").mkdir()
    for name in ("one.yaml", "experiments/two.yml"):
        (folder / name).write_text(text)
    (folder / "other.yaml").write_text("name: not an experiment\n")
    result = _invoke(command, *options)
    assert result.exit_code == 2
    assert "experiment files here: experiments/two.yml, one.yaml" in result.output
    assert not (folder / "mlflow.db").exists()


def test_the_only_experiment_file_here_is_meant_and_said(folder: Path, root: Path) -> None:
    (folder / "mine.yaml").write_text((root / "experiments/toy.yaml").read_text())
    result = _invoke("evaluate", *MINIMAL_OPTIONS, "--layers", "99")
    assert result.exit_code == 2
    assert "experiment mine.yaml: the only experiment file here" in result.stderr
    assert "name layer 99, but the model has 8 layers" in result.stderr


@pytest.mark.parametrize("value", ["", " "])
def test_an_empty_experiment_is_none(value: str, folder: Path) -> None:
    for command in ("gaps", "status"):
        result = _invoke(command, "--experiment", value)
        assert (result.exit_code, "--experiment is empty" in result.output) == (2, True)


def test_the_environment_says_which_experiment(folder: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASSACT_EXPERIMENT", str(root / "experiments/toy.yaml"))
    assert "no run store at" in _invoke("gaps").output


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "{max_new_tokens: 64, ",
            "{max_new_tokens: 1000000000, ",
            "generation.max_new_tokens: toy-gemma-3: 1000000000",
        ),
        ("  max_new_tokens: 20", "  max_new_tokens: 1024", "extraction.max_new_tokens: toy-gemma-3: 1024 tokens"),
        ("max_new_tokens: 32", "max_new_tokens: 5000", "calibration.max_new_tokens: toy-gemma-3: 5000 tokens"),
    ],
)
def test_more_tokens_than_a_model_reads_are_refused(old: str, new: str, said: str, folder: Path, root: Path) -> None:
    text = (root / "experiments/toy.yaml").read_text()
    assert text.count(old) == 1
    (folder / "long.yaml").write_text(text.replace(old, new))
    result = _invoke("phase1", "--experiment", "long.yaml")
    assert result.exit_code == 2
    assert said in result.output
    assert "the model reads 1024 tokens at most" in result.output
    assert not (folder / "mlflow.db").exists()


def test_a_matrix_beyond_use_is_refused_with_its_count(folder: Path, root: Path) -> None:
    many = ",".join(str(n / 10_000) for n in range(1, 4001))
    labels = ",".join(f"{method}_top{n}" for method in ("probe", "mean_diff") for n in range(1, 160))
    result = _invoke(
        "evaluate", "--experiment", str(root / "experiments/toy.yaml"), "--position", "response[:5]",
        "--method", labels, "--coefficients", many, "--layers", "all",
    )  # fmt: skip
    assert result.exit_code == 2
    assert "massact evaluate: 10,176,000 cells" in result.output
    assert not list(folder.iterdir())


@pytest.mark.parametrize("floor", ["0.68", "1", "0.01"])
def test_a_floor_that_is_probably_a_share_is_warned_of(floor: str, folder: Path, root: Path) -> None:
    text = (root / "experiments/toy.yaml").read_text()
    (folder / "share.yaml").write_text(text.replace("coherence_floor: 68", f"coherence_floor: {floor}"))
    result = _invoke("judge-check", "--experiment", "share.yaml", "--repeats", "1")
    assert f"warning: share.yaml: coherence floor {float(floor):g}" in result.stderr
    assert f"if a share is meant, write {float(floor) * 100:g}" in result.stderr
    assert "warning" not in _invoke("judge-check", "--experiment", str(root / "experiments/toy.yaml")).stderr


def test_no_two_options_of_a_command_fill_one_parameter() -> None:
    group: Any = cli
    context = click.Context(group)
    commands = [group.get_command(context, name) for name in group.list_commands(context)]
    commands += [one for command in commands for one in getattr(command, "commands", {}).values()]
    for command in commands:
        names = [parameter.name for parameter in command.params]
        assert len(names) == len(set(names)), command.name
