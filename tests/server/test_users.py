"""`massact users`, and what a change of a user means for the next request, on a real server."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from massact.cli.app import cli
from massact.service.users import Role
from tests.support.access_server import ADMIN, FILE, NAMES, World, access_server

pytestmark = pytest.mark.slow


def test_who_is_removed_is_refused_at_once_and_their_experiments_stay(world: World) -> None:
    name = next(NAMES)
    tess = world.server.add("tess", Role.WRITER)
    experiment = world.make_experiment(name, tess)
    assert world.search(tess).ok  # the login is cached now
    with world.server.users() as known:
        known.remove("tess")
    assert world.search(tess).status_code == 401
    assert world.server.ask(tess, "GET", world.file()).status_code == 401
    again = world.server.add("tess", Role.WRITER)
    assert world.server.ask(again, "GET", f"experiments/get?experiment_id={experiment}").ok
    assert world.post(again, "runs/create", experiment_id=experiment).status_code == 403
    with world.server.users() as known:
        known.grant("tess", name, "manage")
    assert world.post(again, "runs/create", experiment_id=experiment).ok


def test_an_old_password_is_refused_at_once(world: World) -> None:
    nina = world.server.add("nina", Role.READER)
    assert world.search(nina).ok
    with world.server.users(nina) as known:
        known.set_password("nina", "another-password")
    assert world.search(nina).status_code == 401
    assert world.search(("nina", "another-password")).ok


def test_who_becomes_a_reader_writes_nothing_any_more(world: World) -> None:
    paul = world.server.add("paul", Role.WRITER)
    experiment = world.make_experiment(next(NAMES), paul)
    role = {"workspace": "default", "name": next(NAMES)}  # as an administrator may make in MLflow's UI
    role_id = world.post(ADMIN, "/api/3.0/mlflow/roles/create", **role).json()["role"]["id"]
    everything = {"resource_type": "experiment", "resource_pattern": "*", "permission": "EDIT"}
    assert world.post(ADMIN, "/api/3.0/mlflow/roles/permissions/add", role_id=role_id, **everything).ok
    assert world.post(ADMIN, "/api/3.0/mlflow/roles/assign", username="paul", role_id=role_id).ok
    assert world.post(paul, "runs/create", experiment_id=world.experiment).ok
    with world.server.users() as known:
        assert known.set_role("paul", Role.READER) == 1
        assert {user.name: user.role for user in known.all()}["paul"] == Role.READER
    for place in (experiment, world.experiment):
        assert world.post(paul, "runs/create", experiment_id=place).status_code == 403
    assert world.post(paul, "experiments/create", name=next(NAMES)).status_code == 403
    with world.server.users() as known:
        known.set_role("paul", Role.ADMIN)
        assert world.server.ask(paul, "GET", "webhooks").ok
        known.set_role("paul", Role.WRITER)
    assert world.server.ask(paul, "GET", "webhooks").status_code == 403
    assert world.post(paul, "experiments/create", name=next(NAMES)).ok


def test_a_server_where_nobody_reads_unasked(tmp_path: Path) -> None:
    with access_server(tmp_path, default_permission="NO_PERMISSIONS") as server:
        world = World(server)
        rita = world.people["reader"]
        assert world.search(rita).json() == {}
        assert server.ask(rita, "GET", world.file()).status_code == 403
        with server.users(world.owner) as known:
            known.grant("rita", "olgas", "read")
        assert world.run in world.search(rita).text
        assert server.ask(rita, "GET", world.file()).content == FILE
        assert world.post(rita, "runs/create", experiment_id=world.experiment).status_code == 403


def _users(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(cli, ["users", *arguments], input=stdin)


@pytest.fixture
def as_admin(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    for name, value in zip(("URI", "USERNAME", "PASSWORD"), (world.server.url, *ADMIN), strict=True):
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", value)
    return world


def test_the_commands(as_admin: World, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("a password of cora's\nmore lines\n")
    done = _users("add", "cora", "--role", "writer", "--password-file", str(tmp_path / "password"))
    assert (done.exit_code, done.stdout) == (0, "cora is a writer\n")
    assert as_admin.search(("cora", "a password of cora's")).ok
    done = _users("password", "cora", "--generate")
    said, shown = done.stdout.splitlines()
    assert said == "the password of cora is changed"
    assert as_admin.search(("cora", shown.removeprefix("password, shown this once: "))).ok
    assert _users("role", "cora", "reader").stdout == "cora is a reader\n"
    assert _users("grant", "cora", "olgas", "write").stdout == "cora may do with olgas: write\n"
    assert '"cora",\n    "role": "reader",\n    "n_grants": 1' in _users("list", "--format", "json").stdout
    assert ["cora", "reader", "1"] in [line.split() for line in _users("list").stdout.splitlines()]
    assert _users("grant", "cora", "olgas", "default").exit_code == 0
    found = {user["name"]: user for user in json.loads(_users("list", "--format", "json").stdout)}
    assert found["cora"]["n_grants"] == 0
    assert _users("remove", "cora").stdout == "cora is removed; what they logged stays\n"
    assert "cora" not in _users("list").stdout


@pytest.mark.parametrize(
    ("arguments", "stdin", "said"),
    [
        (["add", "x", "--password-file", "-"], "too short\n", "fewer than 12 characters"),
        (["add", "x", "--password-file", "-"], "passwort mit ü\n", "not printable ASCII"),
        (["add", "x", "--password-file", "nowhere"], None, "cannot read the password from nowhere: No such file"),
        (["add", "x", "--password-file", "-", "--generate"], "x", "give one of them"),
        (["add", "a:b", "--generate"], None, "without a colon"),
        (["add", "rita", "--generate"], None, "refuses: User (username=rita) already exists"),
        (["add", "x", "--password", "on the command line"], None, "No such option"),
        (["role", "nobody", "writer"], None, "has no user 'nobody'"),
        (["remove", "nobody"], None, "refuses: "),
        (["remove", "admin"], None, "refuses: Users cannot delete their own account"),
        (["grant", "rita", "no such experiment", "read"], None, "refuses: Could not find experiment"),
        (["list", "--tracking-uri", "sqlite:///x.db"], None, "only a tracking server has users"),
        (["list", "--tracking-uri", "http://127.0.0.1:1"], None, "does not answer (Connection refused)"),
    ],
)
def test_what_cannot_be_done_is_said(as_admin: World, arguments: list[str], stdin: str | None, said: str) -> None:
    before = as_admin.server.contents()
    done = _users(*arguments, stdin=stdin)
    assert (done.exit_code, said in done.stderr) == (2, True), done.stderr
    assert "too short" not in done.stderr
    assert as_admin.server.contents() == before


def test_who_is_no_administrator_is_told(as_admin: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "rita")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "password-of-rita")
    assert "only administrators may change users" in _users("add", "x", "--generate").stderr
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
    assert "refuses the login (401)" in _users("list").stderr
