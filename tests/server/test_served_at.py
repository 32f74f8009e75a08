"""Links hold at whatever port the store is served: `serve` prints them, and other commands find its address."""

import socket
from pathlib import Path

import pytest
from click.testing import CliRunner

from massact.cli.app import cli
from massact.service.preparing import viewed_experiments
from massact.service.serving import view_lines
from massact.store.databases import UI_ADDRESS, address_told, served_file, ui_address
from massact.store.write.tracker import Tracker


@pytest.fixture
def uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    return f"sqlite:///{tmp_path}/mlflow.db"


def test_links_follow_a_server_that_answers_and_no_other(uri: str) -> None:
    assert ui_address(uri) == UI_ADDRESS
    assert ui_address("https://lab.example/mlflow/") == "https://lab.example/mlflow"
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with address_told(uri, f"http://127.0.0.1:{port}"):
            assert ui_address(uri) == f"http://127.0.0.1:{port}"
        assert ui_address(uri) == UI_ADDRESS
        told = served_file(uri)
        assert told is not None
        assert not told.exists()
        told.write_text(f"http://127.0.0.1:{port}")
    assert ui_address(uri) == UI_ADDRESS, "a server that was killed leaves its file"
    told.write_bytes(b"\xff\xfe")
    assert ui_address(uri) == UI_ADDRESS, "a damaged file names no server"


def test_links_lead_to_the_address_that_is_declared(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    database = "postgresql://ada@db.example/runs"
    assert ui_address(database) == UI_ADDRESS
    monkeypatch.setenv("MASSACT_UI", "https://lab.example:5443/mlflow/")
    for store in (database, uri, "http://10.0.0.3:5000"):
        assert ui_address(store) == "https://lab.example:5443/mlflow"
    for wrong in (
        "lab.example:5443",
        "ftp://lab.example",
        "https://ada:hunter2@lab.example",
        "http://",
        "http://[::1",
        "http://h:x",
    ):
        monkeypatch.setenv("MASSACT_UI", wrong)
        done = CliRunner().invoke(cli, ["best", "--experiment", "small", "--tracking-uri", uri])
        assert done.exit_code == 2
        assert "MASSACT_UI is " in done.output
        assert "hunter2" not in done.output


def test_serve_prints_both_views_of_each_experiment(uri: str) -> None:
    for name in ("first", "second"):
        with Tracker(uri, name, floor=68.0).phase("phase1", params={}) as run:
            newest = run.experiment_id
    lines = view_lines("http://127.0.0.1:5123", viewed_experiments(uri))
    assert [line for line in lines if not line.startswith(" ")] == ["views of second:", "views of first:"]
    links = [line.split()[-1] for line in lines if line.startswith(" ")]
    assert links[0].startswith(f"http://127.0.0.1:5123/#/experiments/{newest}/runs?")
    assert [link.rpartition("=")[2] for link in links] == ["evaluations", "phases"] * 2
