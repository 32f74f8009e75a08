"""Declared once, checked everywhere: MLproject, conda.yaml, lock and command line agree."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner

from massact.cli.app import cli, summaries

ENTRY_POINTS = (
    "main", "calibrate", "extract", "phase1", "phase2", "phase3", "phase4", "confirm", "baselines", "predict",
    "evaluate", "search", "fill-gaps", "report",
)  # fmt: skip
NOT_IN_A_PROJECT = {"tracking_uri", "help", "dry_run", "force", "verbose"}
"""MLflow hands the tracking URI to an entry point through the environment, a dry run is no run, what needs force is
looked at first, and an entry point's run holds the tables."""


@pytest.fixture
def project(root: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((root / "MLproject").read_text())
    return loaded


def _command(name: str) -> click.Command:
    found = cli.get_command(click.Context(cli), name)
    assert found is not None
    return found


def _commands() -> dict[str, click.Command]:
    found = {}
    for name in summaries():
        command = _command(name)
        if isinstance(command, click.Group):
            found.update({f"{name} {inner}": one for inner, one in command.commands.items()})
        else:
            found[name] = command
    return found


def _options(command: click.Command) -> dict[str, click.Option]:
    options = [one for one in command.params if isinstance(one, click.Option)]
    return {one.opts[0].removeprefix("--").replace("-", "_"): one for one in options}


def test_the_project_has_an_entry_point_for_each_phase(project: dict[str, Any]) -> None:
    assert set(project["entry_points"]) == set(ENTRY_POINTS)


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_an_entry_points_parameters_are_its_commands_options(project: dict[str, Any], name: str) -> None:
    entry, options = project["entry_points"][name], _options(_command(name))
    assert set(entry["parameters"]) == set(options) - NOT_IN_A_PROJECT
    line = entry["command"]
    assert line.startswith(f"python -m massact {name} ")
    for parameter in entry["parameters"]:
        assert f"--{parameter.replace('_', '-')} {{{parameter}}}" in line


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_an_entry_points_defaults_are_its_commands_defaults(project: dict[str, Any], name: str) -> None:
    options = _options(_command(name))
    for parameter, declared in project["entry_points"][name]["parameters"].items():
        option = options[parameter]
        if parameter == "experiment":  # the project's folder holds two files, so it says which
            assert declared["default"] == "experiments/toy.yaml"
            continue
        if declared == "string":
            assert option.required, f"{name}: {parameter} has no default in MLproject"
            continue
        own = option.default
        wanted = "" if own is None or not isinstance(own, str | int | float | Path) else str(own)
        assert str(declared["default"]) == wanted, f"{name}: {parameter}"


@pytest.mark.parametrize("name", sorted(_commands()))
def test_every_command_has_help_with_an_example(name: str) -> None:
    result = CliRunner().invoke(cli, [*name.split(), "--help"])
    assert result.exit_code == 0
    assert "Example" in result.output
    assert f"massact {name}" in result.output
    for option in _commands()[name].params:
        if isinstance(option, click.Option):
            assert option.help, f"massact {name} {option.opts[0]} has no help"


def test_the_environment_installs_the_lock(root: Path) -> None:
    environment = yaml.safe_load((root / "conda.yaml").read_text())
    assert {"pip": ["-r requirements.lock"]} in environment["dependencies"]


def test_the_lock_pins_every_dependency_exactly(root: Path) -> None:
    import tomllib

    lines = [line for line in (root / "requirements.lock").read_text().splitlines() if line and line[0] != "#"]
    pinned = {}
    for line in lines:
        match = re.fullmatch(r"([\w.-]+)==([\w.]+)", line)
        assert match, f"not an exact version: {line}"
        pinned[_plain(match[1])] = match[2]
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["dev"], *extras["openai"]]
    names = {_plain(re.split(r"[\[<>=]", line)[0]) for line in wanted} - {"massact"}
    assert names <= set(pinned)


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.slow
@pytest.mark.parametrize(("tool", "page"), [("cli_reference", "cli"), ("json_contract", "json")])
def test_a_page_made_from_the_source_is_current(root: Path, tool: str, page: str) -> None:
    # in a process of its own: click remembers the help option of a command that a test has invoked alone
    made = subprocess.run(
        [sys.executable, f"tools/{tool}.py"], cwd=root, capture_output=True, text=True, check=True, timeout=60
    )
    assert (root / f"docs/{page}.md").read_text() == made.stdout, "run `make docs`"


@pytest.mark.parametrize("name", sorted(summaries()))
def test_the_list_of_commands_says_what_each_says_of_itself(name: str) -> None:
    command = _command(name)
    assert command.name == name
    assert summaries()[name] == command.get_short_help_str(1000)
