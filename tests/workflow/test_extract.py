"""An extraction that is cut off goes on where it was, and keeps nothing once it is stored."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from massact.cli.app import cli
from massact.vectors import streams
from tests.support.small_plan import EXPERIMENT

pytestmark = pytest.mark.slow


def _massact(folder: Path, command: str) -> Any:
    options = ["--experiment", str(folder / "small.yaml"), "--tracking-uri", f"sqlite:///{folder}/mlflow.db"]
    return CliRunner().invoke(cli, [command, *options])


def test_a_cut_off_extraction_costs_one_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(EXPERIMENT)
    assert _massact(tmp_path, "calibrate").exit_code == 0
    record, read = streams._record_while_continuing, list[Any]()

    def cut_off(*args: Any) -> Any:
        if len(read) == 3:
            raise KeyboardInterrupt
        read.append(args)
        return record(*args)

    monkeypatch.setattr(streams, "_record_while_continuing", cut_off)
    assert _massact(tmp_path, "extract").exit_code == 130
    (kept,) = (tmp_path / ".massact/extractions").iterdir()
    assert len(list(kept.iterdir())) == 3
    read = [None] * 4  # and no further end
    resumed = _massact(tmp_path, "extract")
    assert resumed.exit_code == 0, resumed.output
    assert "going on after 3 batches of refusal that were continued before" in resumed.output
    assert len(read) == 4 + 4, "200 prompts are seven batches"
    assert not list((tmp_path / ".massact/extractions").iterdir())
