"""A question from outside the package: one module and an entry point, asked through Python, the command and the API."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.support.query_api import fill
from tests.support.store_fixtures import EXPERIMENT, tracking_server

MODULE = '''
from dataclasses import dataclass
from typing import ClassVar, Unpack

from massact.query.answers import Answers
from massact.query.question import whole
from massact.query.load import About
from massact.query.question import question
from massact.query.rows import Answer, Column, SettingRow
from massact.query.groups import slices
from massact.query.tables import LABEL, PLACE, number_column


@dataclass(frozen=True, slots=True, kw_only=True)
class WidestRow(SettingRow):
    """A label and its layers."""

    columns: ClassVar[tuple[Column, ...]] = (*PLACE, LABEL, number_column("n_layers", "d"))
    model: str
    trait: str
    position: str
    label: str
    n_layers: int
    """That were evaluated."""


@question("widest", whole("least", "layers at least", 1))
def ask_widest(answers: Answers, floor: float, /, *, least: int = 1, **_about: Unpack[About]) -> Answer[WidestRow]:
    """The labels with most layers.

    Example: massact widest --least 2
    """
    groups = {group: len(parts[0].points.layers) for group, parts in slices(answers.evaluations).items() if parts}
    rows = [
        WidestRow(model=g.model, trait=g.trait, position=g.position, label=g.label, n_layers=n)
        for g, n in groups.items()
        if n >= least
    ]
    return Answer(question="widest", floor=floor, rows=tuple(sorted(rows, key=lambda row: (-row.n_layers, row.label))))
'''


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A folder with the module and its distribution, on the path of processes that are started."""
    folder = tmp_path_factory.mktemp("outside")
    (folder / "widest.py").write_text(MODULE)
    info = folder / "widest-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: widest\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[massact.questions]\nwidest = widest:ask_widest\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        yield str(folder)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return fill(f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db").uri


def _run(*arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_it_is_a_function_and_a_command(outside: str, store: str) -> None:
    code = (
        "import massact, inspect\n"
        f"answer = massact.widest({EXPERIMENT!r}, tracking_uri={store!r}, least=2)\n"
        "print(len(answer.rows), answer.rows[0].n_layers, list(inspect.signature(massact.widest).parameters)[:2])\n"
        "print('widest' in dir(massact), '<td' in answer._repr_html_())"
    )
    assert _run("-c", code) == "6 3 ['experiment', 'least']\nTrue True\n"
    about = ["--experiment", EXPERIMENT, "--tracking-uri", store]
    answer = json.loads(_run("-m", "massact", "widest", *about, "--format", "json"))
    assert (answer["question"], answer["rows"][0]["n_layers"], answer["schema_version"]) == ("widest", 3, 1)
    assert "n layers" in _run("-m", "massact", "widest", *about)
    assert "The labels with most layers." in _run("-m", "massact", "--help")
    assert "--least INTEGER RANGE" in _run("-m", "massact", "widest", "--help")


@pytest.mark.slow
def test_it_has_an_address(outside: str, store: str, tmp_path: Path) -> None:
    with tracking_server(store, tmp_path, app="massact") as address:
        begin = f"{address}/massact/v1"
        described = requests.get(f"{begin}/openapi.json", timeout=60).json()
        fields = described["components"]["schemas"]["WidestRow"]["properties"]
        assert fields["n_layers"] == {"type": "integer", "description": "That were evaluated."}
        given = {"experiment": EXPERIMENT, "least": 2}
        rows = requests.get(f"{begin}/widest", given, timeout=60).json()["rows"]
        assert len(rows) == 6
        refused = requests.get(f"{begin}/widest", {"experiment": EXPERIMENT, "least": 0}, timeout=60)
        assert refused.status_code == 400
        code = (
            f"import massact\nanswer = massact.widest({EXPERIMENT!r}, tracking_uri={address!r}, least=2)\n"
            "print([row.label for row in answer.rows])"
        )
        assert _run("-c", code) == f"{[row['label'] for row in rows]}\n"


@pytest.mark.slow
def test_a_broken_package_stops_nothing_but_its_own_question(
    tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2):
        info = tmp_path / f"lab{number}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: lab{number}\nVersion: 1.0\n")
        broken = "broken = nothing_here:ask\n" if number == 1 else ""
        (info / "entry_points.txt").write_text(f"[massact.questions]\n{broken}twice = nothing_here:ask\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    listed = _run("-m", "massact", "--help")
    assert "broken" in listed
    assert "confirmations" in listed
    assert "--pair" in _run("-m", "massact", "compare", "--help")
    code = "from massact.server.answering import served; print('best' in served(), 'broken' in served())"
    assert _run("-c", code) == "True False\n"
    for name, reason in (("broken", "cannot be loaded"), ("twice", "the package lab1 1.0 and the package lab2 1.0")):
        refused = subprocess.run(
            [sys.executable, "-m", "massact", name], capture_output=True, text=True, check=False, timeout=120
        )
        assert refused.returncode == 2
        assert reason in refused.stderr
        assert "Traceback" not in refused.stderr
