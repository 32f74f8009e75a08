"""`massact init`: what it writes can be run, says what is so, and replaces nothing."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from massact.cli.app import cli
from massact.config import load_experiment
from massact.data.traits import dataset_warnings, load_trait


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def init(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["init", *arguments])


def test_what_is_written_loads_and_what_is_commented_out_is_the_default(folder: Path) -> None:
    (folder / "smol").mkdir()
    result = init("study", "--trait", "kindness", "--trait", "yes", "--model", "smol")
    assert result.exit_code == 0, result.output
    experiment = load_experiment("study.yaml")
    assert experiment.name == "study"
    assert [trait.name for trait in experiment.traits] == ["kindness", "yes"]
    (model,) = experiment.models
    assert experiment.resolve(model.instruct.reference) == str(folder / "smol")
    for trait in experiment.traits:
        dataset = load_trait(experiment.resolve(trait.dataset))
        assert (len(dataset.positive), len(dataset.negative), len(dataset.questions)) == (2, 2, 2)
        assert trait.name in dataset.definition
        assert any(
            "REPLACE THIS stand in 5 of its texts" in warning for warning in dataset_warnings(dataset, "positive")
        )
    text = Path("study.yaml").read_text()
    told, n = re.subn(r"^# ([a-z_]+: )", r"\1", text, flags=re.MULTILINE)
    assert n == 5
    Path("study.yaml").write_text(told)
    assert load_experiment("study.yaml") == experiment


def test_without_names_there_is_a_file_to_begin_with() -> None:
    assert init().exit_code == 0
    assert load_experiment("my-study.yaml").traits[0].dataset == "./traits/my-trait"


@pytest.mark.parametrize("there", ["study.yaml", "traits/kindness/definition.txt"])
def test_nothing_is_overwritten_and_then_nothing_is_written(folder: Path, there: str) -> None:
    (folder / there).parent.mkdir(parents=True, exist_ok=True)
    (folder / there).write_text("mine")
    before = sorted(folder.rglob("*"))
    result = init("study", "--trait", "kindness")
    assert (result.exit_code, (folder / there).read_text()) == (2, "mine")
    assert f"{there} is there already" in result.output
    assert sorted(folder.rglob("*")) == before


def test_a_file_in_the_way_leaves_nothing_half_written(folder: Path) -> None:
    (folder / "traits").write_text("no folder")
    result = init("study", "--trait", "kindness")
    assert result.exit_code == 2
    assert "cannot write traits" in result.output
    assert [path.name for path in folder.iterdir()] == ["traits"]


@pytest.mark.parametrize("name", ["", "a/../b", "a\nb"])
def test_a_name_that_cannot_be_one_is_refused(folder: Path, name: str) -> None:
    for arguments in ((name,), ("study", "--trait", name)):
        assert init(*arguments).exit_code == 2
    assert list(folder.iterdir()) == []
