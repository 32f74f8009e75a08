"""A model of a local folder through the commands: whatever decides its answers makes other cells of them."""

import json
import shutil
import sqlite3
from pathlib import Path

import pytest
from click.testing import CliRunner

from massact.cli.app import cli
from massact.models import source
from massact.toy import resolve
from tests.support.small_plan import EXPERIMENT


def _run(folder: Path, *arguments: str) -> str:
    options = ["--experiment", str(folder / "small.yaml"), "--tracking-uri", f"sqlite:///{folder}/mlflow.db"]
    result = CliRunner().invoke(cli, [*arguments, *options])
    assert result.exit_code == 0, result.output
    return result.output


def _evaluate(folder: Path) -> str:
    """The whole way to one cell."""
    line = ["evaluate", "--method", "probe", "--position", "response[:5]", "--layers", "3", "--coefficients", "16"]
    return _run(folder, "calibrate") + _run(folder, "extract") + _run(folder, *line)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An experiment on copies of the toys."""
    monkeypatch.chdir(tmp_path)
    text = EXPERIMENT
    for name in ("base", "instruct"):
        shutil.copytree(resolve(f"toy:gemma-3-{name}"), tmp_path / name)
        text = text.replace(f"toy:gemma-3-{name}", f"./{name}")
    (tmp_path / "small.yaml").write_text(text)
    return tmp_path


@pytest.mark.slow
def test_a_changed_generation_config_is_evaluated_anew_and_what_is_not_obeyed_is_told(folder: Path) -> None:
    first = _evaluate(folder)
    assert "1 cell: 0 finished already, 1 evaluated" in first
    assert "asks for" not in first
    assert "1 cell: 1 finished already, 0 evaluated" in _evaluate(folder)
    settings = {"eos_token_id": 1, "do_sample": True, "top_p": 0.8, "repetition_penalty": 1.1, "bad_words_ids": [[3]]}
    (folder / "instruct/generation_config.json").write_text(json.dumps(settings))
    again = _evaluate(folder)
    assert "1 cell: 0 finished already, 1 evaluated" in again
    unused = "bad_words_ids, do_sample=True, repetition_penalty=1.1, top_p=0.8"
    assert again.count(f"note: toy: its generation_config.json asks for {unused}, which is not used: ") == 1
    database = sqlite3.connect(folder / "mlflow.db")
    told = database.execute("select value from tags where key = 'massact.unused_settings'").fetchall()
    assert told == [(unused,)] * 2  # the baseline and the cell


@pytest.mark.slow
def test_results_from_before_other_files_counted_are_kept_apart(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(source, "others_digest", lambda _folder: "")
        _evaluate(folder)
    after = _evaluate(folder)
    assert "1 cell: 0 finished already, 1 evaluated" in after
