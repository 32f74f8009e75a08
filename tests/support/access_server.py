"""A tracking server with logins, for the tests of who may do what."""

import itertools
import os
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import requests

from massact.service.users import Role, Users
from tests.support.store_fixtures import evaluation_row, point_tags, start_server, wait_for_server

ADMIN = ("admin", "admin-admin-admin-1")
SECRET_KEY = "not-a-secret-in-tests"
Who = tuple[str, str] | None
FILE = b"what the model wrote"
NAMES = (f"made-{number}" for number in itertools.count())


@dataclass
class AccessServer:
    """A server of `massact-auth`, its address and its files."""

    url: str
    folder: Path

    def ask(self, who: tuple[str, str] | None, verb: str, path: str, **content: Any) -> requests.Response:
        """One request; `who` is a name and a password, or nobody. A path without a slash is MLflow's API's."""
        path = path if path.startswith("/") else f"/api/2.0/mlflow/{path}"
        return requests.request(verb, self.url + path, auth=who, allow_redirects=False, timeout=60, **content)

    @contextmanager
    def users(self, who: tuple[str, str] = ADMIN) -> Iterator[Users]:
        """`massact users`, as somebody."""
        names = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
        with mock.patch.dict(os.environ, dict(zip(names, who, strict=True))), closing(Users(self.url)) as known:
            yield known

    def add(self, name: str, role: Role) -> tuple[str, str]:
        """A new user: the name and the password."""
        who = (name, f"password-of-{name}")
        with self.users() as known:
            known.add(*who, role)
        return who

    def contents(self) -> tuple[list[str], list[Path]]:
        """Everything the server holds: what both databases hold, and the names of its artifacts."""
        rows: list[str] = []
        for name in ("tracking.db", "users.db"):
            with closing(sqlite3.connect(self.folder / name)) as database:
                rows += database.iterdump()
        return rows, sorted((self.folder / "artifacts").rglob("*"))


@contextmanager
def access_server(folder: Path, *, default_permission: str = "READ") -> Iterator[AccessServer]:
    """A server on SQLite whose users are cached, as `massact serve --auth` starts it."""
    (folder / "artifacts").mkdir()
    settings = {
        "default_permission": default_permission,
        "database_uri": f"sqlite:///{folder}/users.db",
        "admin_username": ADMIN[0],
        "authorization_function": "mlflow.server.auth:authenticate_request_basic_auth",
        "auth_cache_ttl_seconds": "60",
    }
    lines = "".join(f"{name} = {value}\n" for name, value in settings.items())
    (folder / "auth.ini").write_text(f"[mlflow]\n{lines}")
    environment = {
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
        "MLFLOW_AUTH_ADMIN_PASSWORD": ADMIN[1],
        "MLFLOW_FLASK_SERVER_SECRET_KEY": SECRET_KEY,
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["--app-name", "massact-auth", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{folder}/tracking.db"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    with (folder / "log").open("wb") as log:
        process = start_server(*command, folder=folder, log=log, settings=environment)
    try:
        wait_for_server(f"http://127.0.0.1:{port}/health", process, folder / "log")
        yield AccessServer(f"http://127.0.0.1:{port}", folder)
    finally:
        process.kill_group()
        process.wait(30)


class World:
    """A server, who is who on it, and an experiment of the owner's with a run."""

    def __init__(self, server: AccessServer) -> None:
        self.server = server
        self.people: dict[str, Who] = {
            "nobody": None,
            "wrong password": (ADMIN[0], "not-the-password"),
            "reader": server.add("rita", Role.READER),
            "writer": server.add("walt", Role.WRITER),
            "owner": server.add("olga", Role.WRITER),
            "administrator": ADMIN,
        }
        self.owner = self.people["owner"]
        self.experiment = self.make_experiment("olgas")
        self.run = self.make_run()
        self.evaluation = self.make_evaluation(self.experiment)

    def make_experiment(self, name: str, who: Who = None) -> str:
        answer = self.server.ask(who or self.owner, "POST", "experiments/create", json={"name": name})
        return str(answer.json()["experiment_id"])

    def make_run(self, experiment: str | None = None) -> str:
        experiment = experiment or self.experiment
        answer = self.server.ask(self.owner, "POST", "runs/create", json={"experiment_id": experiment})
        run = str(answer.json()["run"]["info"]["run_id"])
        assert self.server.ask(self.owner, "PUT", self.file(run, experiment), data=FILE).ok
        return run

    def make_evaluation(self, place: str, **changes: Any) -> str:
        """A finished run that the questions about `EXPERIMENT` see."""
        tags = [{"key": key, "value": value} for key, value in point_tags(evaluation_row(**changes)).items()]
        made = self.post(self.owner, "runs/create", experiment_id=place, tags=tags, start_time=1)
        run = str(made.json()["run"]["info"]["run_id"])
        assert self.post(self.owner, "runs/update", run_id=run, status="FINISHED", end_time=2).ok
        return run

    def ask_query_api(self, who: Who, experiment: str) -> requests.Response:
        """The evaluations of an experiment of ours."""
        return self.server.ask(who, "GET", "/massact/v1/runs", params={"experiment": experiment})

    def file(self, run: str | None = None, experiment: str | None = None, name: str = "text.txt") -> str:
        place = f"{experiment or self.experiment}/{run or self.run}/artifacts/{name}"
        return f"/api/2.0/mlflow-artifacts/artifacts/{place}"

    def search(self, who: Who) -> requests.Response:
        return self.server.ask(who, "POST", "runs/search", json={"experiment_ids": [self.experiment]})

    def post(self, who: Who, path: str, **body: Any) -> requests.Response:
        return self.server.ask(who, "POST", path, json=body)
