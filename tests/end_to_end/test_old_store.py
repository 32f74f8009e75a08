"""A store of an earlier version: read as ever, answered as ever, and its runs given the cells that can be proven."""

import json
import math
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from massact.cli.app import cli
from massact.keys import cell_key, digest_text
from massact.store.read import open_store, stored_runs
from massact.store.schema import Kind, Tag, stored_cell
from massact.store.schema.names import ROW_TAGS
from tests.support.judge_server import JudgeServer, completion
from tests.support.old_store import EXPERIMENT, old_answers, write_old_store

NAMES = sorted(old_answers(Path("/STORE")))
MEASURED = (Kind.EVALUATION, Kind.BASELINE, Kind.CONFIRMATION)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_old_store(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def uri(folder: Path) -> str:
    return f"sqlite:///{folder}/mlflow.db"


def run(folder: Path, *arguments: str) -> Result:
    result = CliRunner().invoke(cli, [*arguments, "--tracking-uri", uri(folder)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


STATISTICS = frozenset(
    f"{name}{end}"
    for name in ("delta", "difference", "matched", "selected", "confirmed", "p")
    for end in ("_low", "_high", "_unbiased", "_coherence", "_difference", "_value", "_corrected")
) - {"confirmed_coherence", "selected_coherence"}
"""What is worked out from the scores of questions: by the statistics of today, whenever the scores were stored."""


def _differences(then: Any, now: Any, path: str = "") -> Iterator[str]:
    """Where an answer is another; a field that is new is none."""
    if isinstance(then, dict) and isinstance(now, dict):
        for name, value in then.items():
            if name in STATISTICS:
                continue
            yield from _differences(value, now.get(name, "missing"), f"{path}.{name}")
    elif isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        for i, (a, b) in enumerate(zip(then, now, strict=True)):
            yield from _differences(a, b, f"{path}[{i}]")
    elif isinstance(then, float) and isinstance(now, float):
        if not math.isclose(then, now, rel_tol=1e-9, abs_tol=1e-9):
            yield f"{path}: {then} is {now}"
    elif then != now:
        yield f"{path}: {str(then)[:80]!r} is {str(now)[:80]!r}"


@pytest.mark.parametrize("name", NAMES)
def test_every_answer_is_the_one_that_was_given_then(name: str, folder: Path) -> None:
    then = old_answers(folder)[name]
    every = () if name.startswith("judges") else ("--all-settings",)  # then, all settings were answered unasked
    now = run(folder, *then["arguments"], *every, "--format", "json")
    assert now.exit_code == then["exit_code"]
    assert list(_differences(then["answer"], json.loads(now.stdout))) == []


def test_what_was_measured_has_its_cell_in_its_row(folder: Path) -> None:
    with closing(open_store(uri(folder))) as store:
        stored = [
            *store.evaluations(EXPERIMENT), *store.baselines(EXPERIMENT), *store.confirmations(EXPERIMENT),
        ]  # fmt: skip
    assert {run.row.cell for run in stored} == {None}
    measured = [run.row for run in stored if run.row.origin is None]
    assert len(measured) > 25
    for row in measured:
        cell = stored_cell(row)
        assert cell is not None
        assert cell_key(cell) == row.key
    assert all(stored_cell(run.row) is None for run in stored if run.row.origin == "imported")


def test_the_doctor_writes_the_cells_that_are_proven_and_tells_of_the_others(folder: Path) -> None:
    looked = run(folder, "doctor", "--experiment", "small.yaml", "--no-artifacts", "--format", "json")
    cells = [one for one in json.loads(looked.stdout)["findings"] if one["check"] == "cells"]
    assert [one["state"] for one in cells] == ["found", "note"]
    assert "do not hold their cells" in cells[0]["what"]
    mended = run(folder, "doctor", "--experiment", "small.yaml", "--no-artifacts", "--fix", "--format", "json")
    assert mended.exit_code == 0, mended.output
    for kind in MEASURED:
        for raw in stored_runs(uri(folder), EXPERIMENT, kind, tags=(*ROW_TAGS, Tag.KEY, Tag.IMPORTED)):
            if Tag.IMPORTED not in raw.tags:
                assert digest_text(raw.tags[Tag.CELL]) == raw.tags[Tag.KEY]
    again = run(folder, "doctor", "--experiment", "small.yaml", "--no-artifacts", "--format", "json")
    assert again.exit_code == 0
    assert [one["state"] for one in json.loads(again.stdout)["findings"] if one["check"] == "cells"] == ["note"]


@pytest.mark.slow
def test_a_result_of_then_is_judged_by_another_judge_now(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with JudgeServer() as server:
        server.answer = lambda _: completion("80", {"80": 1.0})
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        arguments = ("--experiment", "small.yaml", "--label", "probe", "--from", "likelihood")
        result = run(folder, "rejudge", "--judge", "openai:third", *arguments)
    assert result.exit_code == 0, result.output
    with closing(open_store(uri(folder))) as store:
        third = [one.row for one in store.evaluations(EXPERIMENT) if one.row.judge == "openai:third"]
    assert len(third) == 3
    for row in third:
        assert row.cell is not None
        assert digest_text(row.cell) == row.key
