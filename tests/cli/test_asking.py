"""The questions as Python functions: the same answers as the commands, from a store that holds more than ours."""

import ast
import inspect
import json
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import massact
from massact import api
from massact.cli.app import cli
from massact.cli.questions import render
from massact.errors import ConfigError, UsageError
from massact.store.schema import encode_point, point_tag
from tests.support.store_fixtures import Filler, evaluation_row, row_tags

TOY = Path(__file__).resolve().parents[2] / "experiments" / "toy.yaml"
NAME = "massive-activations-toy"
QUESTIONS = ("gaps", "best", "compare", "curve", "coefficients", "sensitivity", "runs")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Evaluations of the toys under two judges and against two baselines, and runs of another tool."""
    filler = Filler(f"sqlite:///{tmp_path_factory.mktemp('asking')}/mlflow.db")
    home = filler.client.create_experiment(NAME)
    place = {"experiment": NAME, "model": "toy-gemma-3", "trait": "refusal"}
    for name, label, changes in (
        ("a", "probe", {"delta": 20.0}),
        ("b", "mean_diff_preclean", {"delta": 15.0}),
        ("c", "mean_diff_cleaned", {"delta": 14.0}),
        ("d", "probe", {"delta": 90.0, "judge": "other", "setting": "s2", "key": "d"}),
        ("e", "mean_diff", {"delta": 70.0, "baseline_trait_mean": 2.0, "key": "e"}),
    ):
        row = evaluation_row(label, 3, 20.0, **{**place, **changes})
        point = {point_tag(NAME): encode_point(row) or ""} if name in "acd" else {}
        filler.run(name, home, tags={**row_tags(row), **point})
    for index in range(3):
        filler.run(f"foreign {index}", home, tags={"other.tool": "yes"})
    return filler.filled.uri


def test_an_entry_says_what_its_question_is() -> None:
    source = ast.parse(Path(api.__file__).read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(source) if isinstance(node, ast.ImportFrom)]
    typed = {one.asname: f"{node.module}:{one.name}" for node in imports for one in node.names if one.asname}
    assert typed == {name: ":".join(api.home(name)) for name in api.ENTRIES}
    for name, summary in api.ENTRIES.items():
        posed = api.question(name)
        assert posed.name == name == posed.__name__
        assert summary in ("", f"{posed.summary}.")
        assert {one.key for one in posed.own} <= set(inspect.signature(posed).parameters)
        assert "Example" in posed.help


def test_a_wrong_name_or_value_is_an_error_before_the_store_is_read() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'flor'"):
        massact.best(TOY, tracking_uri="sqlite:///none.db", flor=68)  # type: ignore[call-arg]  # a slip
    with pytest.raises(TypeError, match="unexpected keyword argument 'floor'"):
        massact.sensitivity(TOY, floor=68)  # type: ignore[call-arg]  # it asks at many


@pytest.mark.slow
@pytest.mark.parametrize("question", QUESTIONS)
def test_a_function_gives_what_the_command_prints(question: str, store: str) -> None:
    ask: Callable[..., Any] = getattr(massact, question)
    answer = ask(TOY, tracking_uri=store)
    asked = [question, "--experiment", str(TOY), "--tracking-uri", store, "--format", "json"]
    assert CliRunner().invoke(cli, asked).stdout == render(answer, "json")
    assert len(answer.to_frame()) == len(answer.rows) > 0
    with pytest.raises(AttributeError, match="cannot assign"):
        answer.floor = 1.0


def test_another_tools_runs_are_counted_in_a_note(store: str) -> None:
    notes = massact.best(TOY, tracking_uri=store).notes
    assert "3 runs of other tools lie in the same MLflow experiment, left out" in notes


def test_judges_are_filtered_and_never_mixed(store: str) -> None:
    probe = massact.Filters(labels=("probe",))
    own = massact.best(TOY, tracking_uri=store, only=probe)
    assert [(row.judge, row.delta) for row in own.rows if row.status == "ok"] == [("likelihood", 20.0)]
    (note,) = [note for note in own.notes if "--all-settings" in note]
    assert "1 evaluation in 1 other setting is left out" in note
    assert "judge (other, likelihood)" in note
    both = massact.best(TOY, tracking_uri=store, only=probe, all_settings=True)
    found = [(row.judge, row.delta) for row in both.rows if row.status == "ok"]
    assert sorted(found) == [("likelihood", 20.0), ("other", 90.0)]
    assert any("2 settings, answered separately and never mixed" in note for note in both.notes)
    one = massact.best(TOY, tracking_uri=store, only=massact.Filters(labels=("probe",), judges=("other",)))
    assert [row.delta for row in one.rows if row.status == "ok"] == [90.0]
    with pytest.raises(UsageError, match=r"no judge 'nobody'.*likelihood, other"):
        massact.best(TOY, tracking_uri=store, only=massact.Filters(judges=("nobody",)))


def test_baselines_are_never_mixed(store: str) -> None:
    answer = massact.sensitivity(TOY, tracking_uri=store)
    against = {(row.baseline_trait_mean, row.label) for row in answer.rows if row.judge == "likelihood"}
    assert against == {(10.0, "probe"), (2.0, "mean_diff")}
    assert any("against 2 baselines (2, 10)" in note for note in answer.notes)


def test_slips_with_filters_are_told(store: str) -> None:
    best: Any = massact.best
    with pytest.raises(
        TypeError, match=r"massact\.best got an unexpected .* 'model'; it takes .*only=massact\.Filters"
    ):
        best(TOY, tracking_uri=store, model="toy-gemma-3")
    with pytest.raises(UsageError, match=r"are no filters: write only=massact\.Filters"):
        best(TOY, tracking_uri=store, only={"models": ["toy-gemma-3"]})


def test_a_label_and_a_window_may_be_spelled_in_any_way(store: str) -> None:
    only = massact.Filters(labels=("mean_diff_postclean_u",), positions=(" response[:5] ",))
    (row,) = [row for row in massact.best(TOY, tracking_uri=store, only=only).rows if row.status == "ok"]
    assert (row.label, row.position) == ("mean_diff_cleaned", "response[:5]")


def test_a_bare_name_is_a_file_of_experiments_or_else_of_the_working_directory(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.yaml").write_text(TOY.read_text())  # where `massact init` writes
    assert massact.best("here", tracking_uri=store).experiment == NAME
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments/here.yaml").write_text("name: other")
    with pytest.raises(ConfigError, match=r"experiments/here\.yaml"):
        massact.best("here", tracking_uri=store)


def test_an_experiment_without_a_file_is_known_by_its_name_in_the_store(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert {row.status for row in massact.best(NAME, tracking_uri=store).rows} == {"ok"}
    with pytest.raises(UsageError, match=r"no experiment file experiments/massive-activations-toy\.yaml"):
        massact.gaps(NAME, tracking_uri=store)
    with pytest.raises(UsageError, match=r"experiments/toyy\.yaml, and the run store holds no evaluation"):
        massact.best("toyy", tracking_uri=store)


def test_the_store_is_that_of_the_environment_unless_one_is_given(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    assert massact.best(TOY) == massact.best(TOY, tracking_uri=store)
    with pytest.raises(ConfigError, match="has no scheme"):
        massact.best(TOY, tracking_uri="mlflow.db")


@pytest.mark.parametrize("floor", [-1.0, 101.0, float("nan")])
def test_a_floor_that_is_none_is_refused(floor: float, store: str) -> None:
    with pytest.raises(UsageError, match="coherence runs from 0 to 100"):
        massact.best(TOY, tracking_uri=store, floor=floor)


@pytest.mark.slow
def test_importing_massact_loads_nothing_heavy_and_a_wrong_name_says_so(store: str) -> None:
    code = (
        "import sys, massact\n"
        "assert 'sqlalchemy' not in sys.modules and 'numpy' not in sys.modules\n"
        f"massact.best({str(TOY)!r}, tracking_uri={store!r})\n"
        "assert not {'torch', 'transformers', 'mlflow', 'pandas'} & set(sys.modules)\n"
        "assert 'best' in dir(massact)\n"
        "massact.worst"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert "has no attribute 'worst'" in done.stderr, done.stderr


HELD = ["cafe\u0301", "\u0645\u06cc\u200c\u062e", "a\u200db", "a\u202eb", " study ", "../study", "x" * 280]
"""Names of experiments that an older version made, some of which may not be made now."""


@pytest.mark.slow
def test_an_experiment_of_any_name_that_a_store_holds_is_read(tmp_path: Path) -> None:
    filler = Filler(f"sqlite:///{tmp_path}/mlflow.db")
    for index, name in enumerate(HELD):
        home, row = filler.client.create_experiment(name), evaluation_row(experiment=name, delta=float(index))
        point = {point_tag(name): encode_point(row) or ""}
        filler.run(f"r{index}", home, tags={**row_tags(row), **point})
    uri = filler.filled.uri
    for index, name in enumerate(HELD):
        for asked in {name, unicodedata.normalize("NFC", name), name.strip()}:
            answer = massact.best(asked, tracking_uri=uri)
            assert ([row.delta for row in answer.rows], answer.experiment) == ([index], name)
            place = ["--experiment", asked, "--tracking-uri", uri]
            looked = CliRunner().invoke(cli, ["doctor", *place])
            assert "1 finished run looked at" in looked.output
            output = str(tmp_path / f"exported {index} {asked == name}")
            done = CliRunner().invoke(cli, ["export", *place, "--output", output])
            assert (done.exit_code, "1 evaluation," in done.output) == (0, True), done.output
    file = tmp_path / "study.yaml"
    file.write_text(TOY.read_text().replace(f"name: {NAME}", f"name: {HELD[0]}"))
    answer = massact.runs(file, tracking_uri=uri)
    assert (answer.experiment, len(answer.rows)) == (HELD[0], 1)


@pytest.mark.slow
def test_the_only_experiment_of_a_store_is_read_whatever_its_name_is(tmp_path: Path) -> None:
    filler = Filler(f"sqlite:///{tmp_path}/mlflow.db")
    row = evaluation_row(experiment=HELD[0])
    filler.run("a", filler.client.create_experiment(HELD[0]), tags=row_tags(row))
    done = CliRunner().invoke(cli, ["best", "--tracking-uri", filler.filled.uri, "--format", "json"])
    assert json.loads(done.stdout)["experiment"] == HELD[0]


def test_an_experiment_that_no_store_holds_is_named_in_one_line(store: str) -> None:
    for name in ("a\x1b[31mb", "a\nb", "a\u202eb", "x" * 300, "a\0b"):
        done = CliRunner().invoke(cli, ["best", "--experiment", name, "--tracking-uri", store])
        assert (done.exit_code, "error: no experiment file" in done.stderr) == (2, True), done.output
        assert len(done.stderr.splitlines()) == 1
        assert done.stderr.strip().isprintable()
