"""The query API of a server with users: a user sees what they may read in MLflow, and of the rest nothing at all."""

import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from mlflow import MlflowClient

import massact
from massact.errors import MassactError
from massact.store.read import open_source
from tests.support.query_answers import printed, problem
from tests.support.query_api import ASKED, SECRET, fill
from tests.support.store_fixtures import EXPERIMENT, tracking_server

pytestmark = pytest.mark.slow

ADMIN = ("admin", "correct horse battery")
ADA, BOB = ("ada", "ada's own password"), ("bob", "bob's own password")
CONFIGURATION = """\
[mlflow]
default_permission = NO_PERMISSIONS
database_uri = sqlite:///{folder}/users.db
admin_username = admin
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = 60
"""
"""Without the cache each request hashes its password several times, which takes most of these tests' time."""


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return fill(f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db").uri


@pytest.fixture(scope="module")
def only_public(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store with the same public runs, in which the private ones never were."""
    return fill(f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db", homes=("public",)).uri


@pytest.fixture(scope="module")
def server(uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Ada may read the public MLflow experiment, Bob both; routes that nothing validates are refused."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "auth.ini").write_text(CONFIGURATION.format(folder=folder))
    settings = {
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
        "MLFLOW_AUTH_ADMIN_PASSWORD": ADMIN[1],
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "of this test",
        "MLFLOW_BASIC_AUTH_FAIL_CLOSED": "true",
    }
    with tracking_server(uri, folder, app="massact-auth", settings=settings) as address:
        for name, password in (ADA, BOB):
            _manage(address, "users/create", username=name, password=password)
        public, private = (_id(uri, name) for name in ("public", "private"))
        for name, home in (("ada", public), ("bob", public), ("bob", private)):
            _permit(address, name, home, "READ")
        yield address


def _manage(server: str, path: str, *, verb: str = "POST", **content: str) -> None:
    version = "3.0" if "permissions" in path else "2.0"
    address = f"{server}/api/{version}/mlflow/{path}"
    response = requests.request(verb, address, json=content, auth=ADMIN, timeout=60)
    assert response.status_code == 200, response.text


def _permit(server: str, name: str, experiment_id: str, permission: str) -> None:
    what = {"resource_type": "experiment", "resource_id": experiment_id}
    _manage(server, "users/permissions/grant", username=name, permission=permission, **what)


def _id(uri: str, name: str) -> str:
    experiment = MlflowClient(tracking_uri=uri).get_experiment_by_name(name)
    assert experiment is not None
    return str(experiment.experiment_id)


def ask(
    server: str, question: str, user: tuple[str, str] | None, given: dict[str, Any] | None = None
) -> requests.Response:
    query = {"experiment": EXPERIMENT, **(given or {})}
    return requests.get(f"{server}/massact/v1/{question}", query, auth=user, timeout=60)


@pytest.mark.parametrize(("question", "given"), ASKED, ids=str)
def test_a_user_is_answered_as_if_the_rest_never_was(
    server: str, uri: str, only_public: str, question: str, given: dict[str, Any]
) -> None:
    mine, theirs = printed(only_public, question, given), printed(uri, question, given)
    assert mine != theirs, "the private runs change nothing here, so that nothing is shown"
    assert ask(server, question, ADA, given).text == mine
    assert ask(server, question, BOB, given).text == theirs


def test_names_of_what_may_not_be_read_are_not_told(server: str) -> None:
    for given in ({"model": "secret-model"}, {"label": "mean_diff_top1"}, {"layer": 17}):
        assert ask(server, "best", BOB, given).status_code == 200
        assert problem(ask(server, "best", ADA, given))[:2] == (404, "unknown-name")
    assert "secret" not in ask(server, "best", ADA, {"model": "nobody"}).text
    there = problem(ask(server, "runs", ADA, {"experiment": SECRET}))
    nowhere = problem(ask(server, "runs", ADA, {"experiment": "nowhere"}))
    assert there == (nowhere[0], nowhere[1], nowhere[2].replace("nowhere", SECRET))
    assert ask(server, "runs", BOB, {"experiment": SECRET}).status_code == 200


@pytest.mark.parametrize("user", [None, ("ada", "wrong"), ("nobody", "x")], ids=["none", "wrong", "unknown"])
def test_without_a_login_nothing_is_answered(server: str, user: tuple[str, str] | None) -> None:
    for path in ("best", "openapi.json", "view/explore"):
        response = ask(server, path, user)
        assert problem(response)[:2] == (401, "not-logged-in")
        assert response.headers["WWW-Authenticate"].startswith("Basic")
    response = requests.post(f"{server}/massact/v1/raw/values", json={"run_ids": [], "tag": "x"}, auth=user, timeout=60)
    assert problem(response)[0] == 401


def test_the_reader_sees_as_much(server: str, uri: str, only_public: str, monkeypatch: pytest.MonkeyPatch) -> None:
    private = [one[0] for one in open_source(uri).points(EXPERIMENT).tagged]
    for user, place in ((ADA, only_public), (BOB, uri)):
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user[0])
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", user[1])
        assert massact.best(EXPERIMENT, tracking_uri=server) == massact.best(EXPERIMENT, tracking_uri=place)
        source, expected = open_source(server), open_source(place)
        for tag in ("massact.row", "massact.scores"):
            assert source.finished_values(private, tag) == expected.finished_values(private, tag)
        assert source.score_steps(private) == {one: expected.score_steps([one]).get(one, []) for one in private}
        found = [[run.run_id for run in one.finished_runs(private, tags=())] for one in (source, expected)]
        assert sorted(found[0]) == sorted(found[1])
        tags = [sorted(map(repr, one.experiment_tags("massact."))) for one in (source, expected)]
        assert tags[0] == tags[1]


def test_a_changed_permission_or_password_counts_at_once(server: str, uri: str, only_public: str) -> None:
    user = ("carol", "carol's first password")
    _manage(server, "users/create", username=user[0], password=user[1])
    assert problem(ask(server, "runs", user))[:2] == (404, "unknown-experiment")
    _permit(server, "carol", _id(uri, "public"), "READ")
    assert ask(server, "runs", user).text == printed(only_public, "runs", {})
    home = {"username": "carol", "resource_type": "experiment", "resource_id": _id(uri, "public")}
    _manage(server, "users/permissions/revoke", **home)
    assert problem(ask(server, "runs", user))[:2] == (404, "unknown-experiment")
    changed = (user[0], "carol's second password")
    _manage(server, "users/update-password", verb="PATCH", username=changed[0], password=changed[1])
    assert problem(ask(server, "runs", user))[0] == 401
    assert ask(server, "runs", changed).status_code == 404


def test_users_who_ask_at_once_are_not_mixed_up(server: str, uri: str, only_public: str) -> None:
    expected = {ADA: printed(only_public, "best", {}), BOB: printed(uri, "best", {})}
    found: list[tuple[tuple[str, str], str]] = []

    def keep_asking(user: tuple[str, str]) -> None:
        found.extend((user, ask(server, "best", user).text) for _ in range(4))

    threads = [threading.Thread(target=keep_asking, args=(user,)) for user in (ADA, BOB, ADA, BOB)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 16
    assert all(text == expected[user] for user, text in found)


def test_a_missing_password_is_one_error(tmp_path: Path, uri: str) -> None:
    (tmp_path / "auth.ini").write_text(CONFIGURATION.format(folder=tmp_path))
    settings = {"MLFLOW_AUTH_CONFIG_PATH": str(tmp_path / "auth.ini"), "MLFLOW_FLASK_SERVER_SECRET_KEY": "x"}
    with (
        pytest.raises(RuntimeError, match="needs a password to create the admin user"),
        tracking_server(uri, tmp_path, app="massact-auth", settings=settings),
    ):
        raise MassactError("it started")


def test_the_explorers_page_and_views_ask_for_a_login_and_tell_nothing_of_the_rest(server: str) -> None:
    assert requests.get(f"{server}/massact/", timeout=60).status_code == 401
    page = requests.get(f"{server}/massact/", auth=ADA, timeout=60)
    assert (page.status_code, "explorer.js" in page.text) == (200, True)
    secret = uuid.uuid5(uuid.NAMESPACE_URL, "secret best 1000").hex  # as it was filled
    for user, status in ((ADA, 404), (BOB, 200)):
        told = requests.get(f"{server}/massact/v1/view/evaluation", {"run_id": secret}, auth=user, timeout=60)
        assert told.status_code == status
        explored = requests.get(f"{server}/massact/v1/view/explore", {"experiment": EXPERIMENT}, auth=user, timeout=60)
        assert ("secret-model" in explored.text) == (status == 200)
    asked = {"path": "responses.json", "run_uuid": secret}
    assert requests.get(f"{server}/get-artifact", asked, auth=ADA, timeout=60).status_code == 403
