"""The command that a phase's end names for the UI."""

import shlex
from pathlib import Path

import click
import pytest

from massact.cli.serve import serve
from massact.workflow.outcome import _start


@pytest.mark.parametrize(
    ("uri", "environment", "expected"),
    [
        (None, {}, "massact serve"),
        ("sqlite:////else where/runs.db", {}, "massact serve --backend-store-uri 'sqlite:////else where/runs.db'"),
        ("postgresql://ada@db/runs", {}, "massact serve --backend-store-uri postgresql://ada@db/runs"),
        ("postgresql://ada:hunter2@db/runs", {}, "massact serve"),
        (
            "postgresql://ada@db/runs",
            {"MLFLOW_TRACKING_URI": "postgresql://ada@db/runs"},
            "massact serve --backend-store-uri postgresql://ada@db/runs",
        ),
    ],
)
def test_the_command_serves_the_store_and_shows_no_password(
    uri: str | None, environment: dict[str, str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    line = _start(uri or f"sqlite:///{tmp_path}/mlflow.db")
    assert line.endswith(expected)
    assert "hunter2" not in line
    if "hunter2" in (uri or ""):
        assert line.startswith("MLFLOW_BACKEND_STORE_URI=… ")
    words = shlex.split(line)
    options = words[words.index("serve") + 1 :]
    serve.make_context("serve", options, resilient_parsing=False)


def test_the_ports_of_the_links_and_of_the_command_are_the_same() -> None:
    from massact.store.databases import UI_ADDRESS

    context = click.Context(serve)
    defaults = {one.name: one.get_default(context) for one in serve.params}
    assert f"http://{defaults['host']}:{defaults['port']}" == UI_ADDRESS
