"""The question commands on a real SQLite store: formats, filters, exit codes, what goes where."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from massact.cli.questions import command as command_of
from massact.cli.questions import render
from massact.config import load_experiment
from massact.domain import Group
from massact.errors import MassactError, UsageError
from massact.query.questions.best import ask_best
from massact.store.schema import EvaluationRow, Kind, Tag
from tests.support.store_fixtures import Filler, answers_of, evaluation_row, row_tags

TOY = Path(__file__).resolve().parents[2] / "experiments" / "toy.yaml"


@pytest.fixture(scope="module")
def groups() -> tuple[Group, ...]:
    return load_experiment(str(TOY)).groups("phase1")


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory, groups: tuple[Group, ...]) -> str:
    """A store in which every group of phase 1 is filled but the first, and one row is unreadable."""
    filler = Filler(f"sqlite:///{tmp_path_factory.mktemp('cli')}/mlflow.db")
    home = filler.client.create_experiment("home")
    for index, group in enumerate(groups):
        row = _row(group, coherence_mean=61.2 if index == 0 else 71.5, delta=28.25)
        filler.run(str(index), home, tags=row_tags(row))
    filler.run("bad", home, tags={**row_tags(_row(groups[0])), Tag.ROW.value: "?"})
    return filler.filled.uri


def _row(group: Group, **changes: Any) -> EvaluationRow:
    place = {"model": group.model, "trait": group.trait, "position": group.position}
    key = "-".join((group.model, group.trait, group.position, group.label))
    experiment = load_experiment(str(TOY)).name
    return evaluation_row(group.label, 3, 12.0, key=key, experiment=experiment, **place, **changes)


def ask(command: click.Command, uri: str, *arguments: str) -> Result:
    return CliRunner().invoke(command, ["--experiment", str(TOY), "--tracking-uri", uri, *arguments])


@pytest.mark.slow
def test_gaps_exits_with_1_while_gaps_remain(uri: str, groups: tuple[Group, ...]) -> None:
    result = ask(command_of("gaps"), uri, "--phase", "phase1")
    assert result.exit_code == 1, result.output
    assert f"1 of {len(groups)} groups is a gap at coherence 68" in result.stderr
    assert "1 run holds a row that cannot be read" in result.stderr
    assert "below_floor" in result.stdout
    assert "61.2 (layer 3, 12)" in result.stdout
    assert "layer 3: 4 5.77 8.32" in result.stdout
    assert "note" not in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 120


def test_gaps_exits_with_0_when_all_are_filled(uri: str, groups: tuple[Group, ...]) -> None:
    result = ask(command_of("gaps"), uri, "--phase", "phase1", "--floor", "60")
    assert (result.exit_code, f"no gaps: all {len(groups)} groups" in result.stderr) == (0, True)
    # the whole experiment declares more than phase 1
    assert ask(command_of("gaps"), uri, "--floor", "60").exit_code == 1


def test_json_has_null_for_what_is_missing(uri: str, groups: tuple[Group, ...]) -> None:
    result = ask(command_of("best"), uri, "--format", "json", "--label", groups[0].label, "--floor", "70")
    answer = json.loads(result.stdout)
    assert (answer["schema_version"], answer["question"], answer["floor"]) == (1, "best", 70.0)
    first = next(row for row in answer["rows"] if row["model"] == groups[0].model and row["status"] == "below_floor")
    assert (first["delta"], first["layer"], first["nearest_miss"]["coherence_mean"]) == (None, None, 61.2)
    assert {row["label"] for row in answer["rows"]} == {groups[0].label}
    assert any("cannot be read" in note for note in answer["notes"])


def test_csv_has_an_empty_field_for_what_is_missing(uri: str) -> None:
    rows = list(
        csv.DictReader(io.StringIO(ask(command_of("gaps"), uri, "--phase", "phase1", "--format", "csv").stdout))
    )
    assert (rows[0]["status"], rows[0]["best_delta"], rows[0]["nearest_miss_coherence_mean"]) == (
        "below_floor",
        "",
        "61.2",
    )
    assert json.loads(rows[0]["brackets"])[0]["try_next"] == [4.0, 5.77, 8.32]
    assert rows[1]["best_delta"] == "28.25"


def test_markdown_is_a_table(uri: str) -> None:
    lines = ask(command_of("best"), uri, "--format", "markdown").stdout.splitlines()
    assert lines[0].startswith("| model | trait | position | label | status |")
    assert lines[1].startswith("| --- | --- |")


def test_output_goes_to_a_file(uri: str, tmp_path: Path) -> None:
    target = tmp_path / "best.json"
    result = ask(command_of("best"), uri, "--format", "json", "--output", str(target))
    assert (result.stdout, json.loads(target.read_text())["question"]) == ("", "best")
    refused = ask(command_of("best"), uri, "--output", str(tmp_path / "no" / "best.txt"))
    assert isinstance(refused.exception, UsageError)


@pytest.mark.parametrize("output_format", ["table", "json", "csv", "markdown"])
@pytest.mark.parametrize("name", ["gaps", "best", "compare", "curve", "coefficients"])
def test_every_question_prints_in_every_format(uri: str, name: str, output_format: str) -> None:
    result = ask(command_of(name), uri, "--format", output_format)
    assert result.exit_code == (1 if name == "gaps" else 0), result.output
    assert result.stdout.endswith("\n")
    if output_format == "table":
        drawn = [line for line in result.stdout.splitlines() if not line.startswith("- ")]  # advice is sentences
        assert max(map(len, drawn)) <= 120


def test_compare_takes_pairs(uri: str) -> None:
    result = ask(command_of("compare"), uri, "--pair", "probe:probe_postclean_u1", "--format", "json")
    assert {(row["label_a"], row["label_b"]) for row in json.loads(result.stdout)["rows"]} == {("probe", "probe_top1")}
    refused = ask(command_of("compare"), uri, "--pair", "probe")
    assert isinstance(refused.exception, UsageError)


@pytest.mark.parametrize(
    "arguments", [("--model", "nobody"), ("--label", "prob"), ("--position", "answer[:5]"), ("--phase", "phase9")]
)
def test_a_typing_error_is_refused(uri: str, arguments: tuple[str, str]) -> None:
    assert isinstance(ask(command_of("gaps"), uri, *arguments).exception, UsageError)


def test_a_missing_store_is_said(tmp_path: Path) -> None:
    result = ask(command_of("gaps"), f"sqlite:///{tmp_path}/none.db")
    assert isinstance(result.exception, MassactError)
    assert "run `massact main`" in str(result.exception)


@pytest.mark.parametrize("name", ["gaps", "best", "compare", "curve", "coefficients"])
def test_every_help_has_an_example_and_every_option_a_help(name: str) -> None:
    command = command_of(name)
    assert f"massact {name}" in CliRunner().invoke(command, ["--help"]).stdout
    assert all(option.help for option in command.params)


def test_what_all_rows_share_is_said_once_and_wide_tables_lose_what_is_optional() -> None:
    from tests.support.store_fixtures import evaluated

    rows = [evaluated(label) for label in ("probe", "mean_diff")]
    text = render(ask_best.of(answers_of(rows), 68.0), "table")
    assert text.splitlines()[0] == (
        "model gemma, trait refusal, position response[:5], judge likelihood, setting setting-"
    )
    assert "trait mean" in text
    wide = [
        evaluated("probe", key=str(n), model=f"{'m' * 60}{n}", trait=f"trait{n}", position=f"response[:{n}]")
        for n in (5, 10)
    ]
    assert "trait mean" not in render(ask_best.of(answers_of(wide), 68.0), "table")


def test_kinds_other_than_evaluations_are_no_groups() -> None:
    from tests.support.store_fixtures import stored

    assert ask_best.of(answers_of([stored(evaluation_row(kind=Kind.BASELINE, key="b"))]), 68.0).rows == ()


@pytest.mark.parametrize("floors", ["60", "80-60", "60-101", "a-b", "-5-10", "60-"])
def test_floors_that_are_no_range_are_refused(floors: str, uri: str) -> None:
    result = ask(command_of("sensitivity"), uri, "--floors", floors)
    assert isinstance(result.exception, UsageError)
    assert "such as 60-80" in str(result.exception)


def test_sensitivity_takes_many_floors_and_not_one(uri: str) -> None:
    assert ask(command_of("sensitivity"), uri, "--floors", "70-75").exit_code == 0
    result = ask(command_of("sensitivity"), uri, "--floor", "70")
    assert "--floors FIRST-LAST" in str(result.exception)


def test_published_figures_and_pairs_are_two_questions(uri: str) -> None:
    result = ask(command_of("compare"), uri, "--published", "--pair", "probe:mean_diff")
    assert "ask for one of the two" in str(result.exception)
    nothing = ask(command_of("compare"), uri, "--published")
    assert (nothing.exit_code, nothing.stdout) == (0, "")
    assert "note:" in nothing.stderr


def test_runs_are_listed_in_the_order_asked_for(uri: str) -> None:
    result = ask(command_of("runs"), uri, "--sort", "coherence", "--limit", "2", "--format", "json")
    rows = json.loads(result.stdout)["rows"]
    assert [row["coherence_mean"] for row in rows] == [71.5, 71.5]
    assert "left out by the limit of 2" in result.stderr


def test_a_judge_that_scored_nothing_is_refused(uri: str) -> None:
    result = ask(command_of("best"), uri, "--judge", "nobody")
    assert "no judge 'nobody' in this experiment; there is likelihood" in str(result.exception)


def test_an_answer_says_which_experiment_and_store_it_is_about(uri: str) -> None:
    result = ask(command_of("best"), uri, "--format", "json")
    name = load_experiment(str(TOY)).name
    assert result.stderr.splitlines()[0] == f"experiment {name}, store {uri}"
    answer = json.loads(result.stdout)
    assert (answer["experiment"], answer["store"]) == (name, uri)


@pytest.mark.parametrize("floor", ["0.68", "1", "0.01"])
def test_a_floor_that_is_probably_a_share_is_noted(floor: str, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import massact

    said = f"if a share is meant, write {float(floor) * 100:g}"
    assert said in ask(command_of("best"), uri, "--floor", floor).stderr
    assert said not in ask(command_of("best"), uri, "--floor", "0").stderr
    assert any(said in note for note in massact.gaps(TOY, tracking_uri=uri, floor=float(floor)).notes)
    monkeypatch.setenv("MASSACT_BEST_FLOOR", floor)
    from massact.cli.app import cli

    result = CliRunner().invoke(cli, ["best", "--experiment", str(TOY), "--tracking-uri", uri])
    assert f"note: coherence floor {float(floor):g}" in result.stderr
    assert any(said in note for note in massact.sensitivity(TOY, tracking_uri=uri, floors=(float(floor),)).notes)


def test_a_store_of_other_experiments_is_refused_with_what_it_has(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(TOY.read_text().replace("name: massive-activations-toy", "name: another"))
    result = CliRunner().invoke(command_of("gaps"), ["--experiment", str(other), "--tracking-uri", uri])
    assert isinstance(result.exception, UsageError)
    assert str(result.exception) == f"no experiment 'another' in {uri}; it has 'massive-activations-toy'"


def test_a_store_in_another_folder_is_pointed_to(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from shutil import copy

    copy(uri.removeprefix("sqlite:///"), tmp_path / "mlflow.db")
    (tmp_path / "notes").mkdir()
    monkeypatch.chdir(tmp_path / "notes")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    result = CliRunner().invoke(command_of("gaps"), ["--experiment", str(TOY)])
    assert isinstance(result.exception, MassactError)
    assert "a store lies in ../mlflow.db: --tracking-uri sqlite:///../mlflow.db" in str(result.exception)


def test_the_only_experiment_in_the_store_is_meant_and_said(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MASSACT_EXPERIMENT", raising=False)
    name = load_experiment(str(TOY)).name
    result = CliRunner().invoke(command_of("best"), ["--tracking-uri", uri])
    assert (result.exit_code, result.stderr.splitlines()[0]) == (
        0,
        f"experiment {name}: {name!r} is the only experiment in {uri}",
    )
    (tmp_path / "mine.yaml").write_text(TOY.read_text())  # the file that declares it says more than the store
    result = CliRunner().invoke(command_of("gaps"), ["--tracking-uri", uri])
    assert result.exit_code == 1
    assert f"experiment mine.yaml: {name!r} is the only experiment in" in result.stderr


@pytest.mark.slow
def test_names_of_a_store_that_others_wrote_are_printed_in_one_line(
    uri: str, tmp_path: Path, groups: tuple[Group, ...]
) -> None:
    filler = Filler(f"sqlite:///{tmp_path}/foreign.db")
    home = filler.client.create_experiment("home")
    for index, model in enumerate(("a\nb", "a\u202eb", "a\x1b[31mb", "a|b")):
        row = _row(replace(groups[0], model=model), coherence_mean=90.0, delta=10.0)
        filler.run(str(index), home, tags=row_tags(row))
    name = load_experiment(str(TOY)).name
    for output_format in ("table", "markdown", "csv", "json"):
        arguments = ["--experiment", name, "--tracking-uri", filler.filled.uri, "--format", output_format]
        result = CliRunner().invoke(command_of("runs"), arguments, catch_exceptions=False)
        assert result.exit_code == 0
        if output_format in ("table", "markdown"):
            assert all(text in result.stdout for text in ("a\\nb", "a\\u202eb", "a\\x1b[31mb"))
            assert result.stdout.isascii()
