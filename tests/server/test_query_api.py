"""The query API of a real server: its answers are the commands', its refusals problems, its limits are kept."""

import json
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import requests
import sqlalchemy as sa
from mlflow import MlflowClient

import massact
from massact import api
from massact.errors import ConfigError, StoreError
from massact.floors import Floor
from massact.server.answering import Answering
from massact.server.processes import PROBLEM_TYPE, Limits, Processes, limits_of, problem_of
from massact.store.read import open_source, rest
from massact.store.read.base import RawRun, RunSource
from massact.store.read.rest import RestSource
from massact.store.read.sql import SqlSource
from massact.store.schema import Kind, Tag
from tests.support.postgres_server import PostgresServer
from tests.support.query_answers import printed, problem
from tests.support.query_api import ASKED, every_question_is_asked, fill
from tests.support.store_fixtures import EXPERIMENT, tracking_server

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> str:
    return fill(f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db").uri


@pytest.fixture(scope="module")
def server(sqlite: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with tracking_server(sqlite, tmp_path_factory.mktemp("server"), app="massact") as address:
        yield address


@pytest.fixture(scope="module")
def postgresql(postgres: PostgresServer) -> str:
    return fill(postgres.migrated()).uri


@pytest.fixture(scope="module")
def over_postgresql(postgresql: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with tracking_server(postgresql, tmp_path_factory.mktemp("server"), app="massact", prefix="/mlflow") as address:
        yield address


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def both(request: pytest.FixtureRequest) -> tuple[str, str]:
    """A database and the server over it; one of them under a prefix."""
    server = "server" if request.param == "sqlite" else "over_postgresql"
    return request.getfixturevalue(request.param), request.getfixturevalue(server)


def ask(server: str, question: str, **given: Any) -> requests.Response:
    return requests.get(f"{server}/massact/v1/{question}", {"experiment": EXPERIMENT, **given}, timeout=60)


# answers


@pytest.mark.parametrize(("question", "given"), ASKED, ids=str)
def test_an_answer_is_what_the_command_prints(both: tuple[str, str], question: str, given: dict[str, Any]) -> None:
    uri, server = both
    response = ask(server, question, **given)
    assert response.status_code == 200, response.text
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["Cache-Control"] == "no-store"
    assert response.text == printed(uri, question, given)
    assert response.json()["rows"], "an answer without rows shows nothing"


def test_every_question_is_asked_here() -> None:
    assert every_question_is_asked()


def test_runs_come_in_pages(server: str) -> None:
    whole = ask(server, "runs", limit=10_000).json()["rows"]
    found, response = [], ask(server, "runs", limit=7, sort="layer")
    while True:
        found += response.json()["rows"]
        if "next" not in response.links:
            break
        response = requests.get(server + response.links["next"]["url"], timeout=60)
    assert [row["run_id"] for row in found] == [
        row["run_id"] for row in ask(server, "runs", limit=10_000, sort="layer").json()["rows"]
    ]
    assert len(whole) == len(found) > 30


def test_a_file_is_never_opened(server: str, root: Path) -> None:
    for name in (str(root / "experiments" / "toy.yaml"), "experiments/toy.yaml", "../mlflow.db", "toy"):
        assert problem(ask(server, "gaps", experiment=name))[:2] == (404, "unknown-experiment")


# refusals


@pytest.mark.parametrize(
    ("question", "given", "expected", "said"),
    [
        ("best", {"modle": "gemma"}, (400, "bad-parameter"), "no parameter 'modle'; there are experiment, model"),
        ("best", {"experiment": []}, (400, "bad-parameter"), "'experiment' is missing"),
        ("best", {"floor": "nan"}, (400, "bad-parameter"), "'floor'"),
        ("best", {"floor": 101}, (422, "unanswerable"), "from 0 to 100"),
        ("best", {"floor": [1, 2]}, (400, "bad-parameter"), "may be given once"),
        ("best", {"layer": "1_5"}, (400, "bad-parameter"), "no whole number"),
        ("best", {"layer": "-1"}, (400, "bad-parameter"), "not within 0"),
        ("best", {"intervals": "no"}, (400, "bad-parameter"), "neither true nor false"),
        ("best", {"label": ["x"] * 101}, (400, "bad-parameter"), "at most 100 times"),
        ("best", {"model": "x" * 501}, (400, "bad-parameter"), "1 to 500 characters"),
        ("compare", {"pair": "probe"}, (400, "bad-parameter"), "not two labels"),
        ("compare", {"pair": "probe:what"}, (422, "unanswerable"), "what"),
        ("curve", {"when": "magic"}, (400, "bad-parameter"), "is none of"),
        ("curve", {"method": "magic"}, (422, "unanswerable"), "magic"),
        ("sensitivity", {"floors": "80-60"}, (422, "unanswerable"), "the lower first"),
        ("sensitivity", {"floor": 68}, (400, "bad-parameter"), "no parameter 'floor'"),
        ("runs", {"limit": 10_001}, (400, "bad-parameter"), "within 1 to 10000"),
        ("best", {"position": "response[5"}, (422, "unanswerable"), "response[5"),
        ("best", {"model": "gemini"}, (404, "unknown-name"), "no model 'gemini' in this experiment"),
        ("gaps", {"phase": "phase9"}, (404, "unknown-name"), "declares no phase 'phase9'"),
        ("gaps", {"experiment": "nobody"}, (404, "unknown-experiment"), "no experiment 'nobody'"),
        ("gaps", {"experiment": "secret experiment"}, (422, "no-matrix"), "run a phase of its file once"),
        ("worst", {}, (404, "not-found"), "openapi.json"),
    ],
    ids=str,
)
def test_a_refusal_is_a_problem(
    server: str, question: str, given: dict[str, Any], expected: tuple[int, str], said: str
) -> None:
    status, kind, detail = problem(ask(server, question, **given))
    assert (status, kind) == expected
    assert said in detail


def test_other_ways_of_asking_are_refused(server: str) -> None:
    response = requests.post(f"{server}/massact/v1/best", json={}, timeout=60)
    assert problem(response)[:2] == (405, "method-not-allowed")
    assert "GET" in response.headers["Allow"]
    for body in (b"", b"[", b"[]", b"{}", b'{"run_ids": 3}', b'{"run_ids": ["../x"]}', b'{"run_ids": [1]}'):
        response = requests.post(f"{server}/massact/v1/raw/steps", data=body, timeout=60)
        assert problem(response)[:2] == (400, "bad-body")
    half = requests.post(f"{server}/massact/v1/raw/values", data=b'{"run_ids": [], "tag": "\\ud800"}', timeout=60)
    assert problem(half)[:2] == (400, "bad-body")
    assert requests.get(f"{server}/massact", timeout=60).headers["Content-Type"] != PROBLEM_TYPE


def test_a_page_of_another_site_may_not_ask(server: str) -> None:
    address, body = f"{server}/massact/v1/raw/steps", {"run_ids": list[str]()}
    for origin, status in (("http://elsewhere.example", 403), ("http://localhost:3000", 200)):
        response = requests.post(address, json=body, headers={"Origin": origin}, timeout=60)
        assert response.status_code == status
    assert problem(requests.post(address, json=body, headers={"Origin": "null"}, timeout=60))[1] == "forbidden"


def test_the_description_changes_only_with_the_version(server: str) -> None:
    first = requests.get(f"{server}/massact/v1/openapi.json", timeout=60)
    assert first.json()["openapi"] == "3.1.0"
    again = requests.get(first.url, headers={"If-None-Match": first.headers["ETag"]}, timeout=60)
    assert (again.status_code, again.content) == (304, b"")


# our own reader


def test_the_reader_asks_the_api_and_nothing_else(server: str, sqlite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("MLflow's own search was asked")

    monkeypatch.setattr(RestSource, "_search", refuse)
    for question in (massact.best, massact.gaps, massact.runs, massact.sensitivity, massact.confirmations):
        assert question(EXPERIMENT, tracking_uri=server) == question(EXPERIMENT, tracking_uri=sqlite)


def test_a_question_is_asked_of_the_server_with_what_the_file_declares(
    server: str, sqlite: str, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = (root / "experiments" / "toy.yaml").read_text(encoding="utf-8")
    file = tmp_path / "study.yaml"
    file.write_text(
        toy.replace("name: massive-activations-toy", f"name: {EXPERIMENT}").replace("floor: 68", "floor: 71")
    )
    asked: list[tuple[Any, dict[str, Any]]]
    asked = [(question, {}) for question in api.questions() if question.traits.is_served]
    asked += [(massact.gaps, {"phase": "phase2"}), (massact.sensitivity, {"floors": (70.0, 71.0)})]
    asked += [(massact.compare, {"pairs": [("probe", "mean_diff")], "only": massact.Filters(layers=(15, 16))})]
    for question, options in asked:
        here = question(file, tracking_uri=sqlite, **options)
        with monkeypatch.context() as patch:
            patch.setattr(rest.RestSource, "points", lambda *_: pytest.fail("raw runs were read"))
            there = question(file, tracking_uri=server, **options)
        assert there == here
        assert there.store == server
    with pytest.raises(massact.MassactError, match=f"{file} declares no phase 'phase9'"):
        massact.gaps(file, tracking_uri=server, phase="phase9")


def test_readings_are_those_of_the_database(both: tuple[str, str]) -> None:
    readings = [_readings(open_source(uri)) for uri in both]
    assert readings[0] == readings[1]
    assert len(readings[0]["points"]) > 30


def _readings(source: RunSource) -> dict[str, Any]:
    try:
        points = source.points(EXPERIMENT)
        run_ids = [one[0] for one in points.tagged] + ["missing"]
        runs = source.runs(EXPERIMENT, kind=Kind.BASELINE, statuses=("FINISHED",), tags=(Tag.ROW, "none"))
        return {
            "points": sorted(points.tagged),
            "others": [_told(found) for found in (points.others, points.failed)],
            "foreign": points.n_foreign,
            "runs": _told(runs),
            "finished": _told(source.finished_runs(run_ids, tags=(Tag.ROW, Tag.KEY))),
            "values": source.finished_values(run_ids, Tag.SCORES),
            "steps": {one: steps for one, steps in source.score_steps(run_ids).items() if steps},
        }
    finally:
        source.close()


def _told(runs: Sequence[RawRun]) -> list[Any]:
    """All but where their artifacts lie."""
    found = ([run.run_id, run.status, run.started_at, run.finished_at, sorted(run.tags.items())] for run in runs)
    return sorted(found)


def test_what_the_api_does_not_give_comes_from_mlflow(
    server: str, sqlite: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = massact.best(EXPERIMENT, tracking_uri=sqlite)
    monkeypatch.setattr(rest, "RAW", "massact/v1/other")  # an older or newer version: refused with a problem
    assert massact.best(EXPERIMENT, tracking_uri=server) == expected
    asked = []
    monkeypatch.setattr(rest, "RAW", "nothing/here")  # a server without the API
    send = requests.Session.request

    def counted(self: requests.Session, verb: str, url: str, **more: Any) -> requests.Response:
        asked.extend([url] if "nothing" in url else [])
        return send(self, verb, url, **more)

    monkeypatch.setattr(requests.Session, "request", counted)
    assert massact.best(EXPERIMENT, tracking_uri=server) == expected
    assert len(asked) == 1


# limits

ALLOW_FILES = {"MLFLOW_ALLOW_FILE_STORE": "true"}


def test_a_question_that_takes_too_long_is_given_up(sqlite: str, tmp_path: Path) -> None:
    limits = {"MASSACT_SERVER_SECONDS": "0.01"}
    with tracking_server(sqlite, tmp_path, app="massact", settings=limits) as address:
        status, kind, detail = problem(ask(address, "sensitivity"))
        assert (status, kind) == (504, "too-long")
        assert "given up after 0.01 s" in detail
        assert not _workers("MASSACT_SERVER_SECONDS=0.01"), "its work goes on"
        # our own reader then asks MLflow
        expected = massact.best(EXPERIMENT, tracking_uri=sqlite)
        assert massact.best(EXPERIMENT, tracking_uri=address) == expected


def test_postgresql_gives_up_too(postgresql: str) -> None:
    source = SqlSource(postgresql, statement_seconds=0.05)
    with pytest.raises(StoreError) as raised:
        source._fetch(sa.select(sa.func.pg_sleep(20)))
    assert problem_of(raised.value, "x").kind.name == "too-long"


def test_a_database_that_is_gone_is_not_named(tmp_path: Path) -> None:
    found = Answering(f"sqlite:///{tmp_path}/secret.db", Limits()).answer(
        {"question": "best", "given": {"experiment": "x"}, "readable": [1]}
    )
    assert (found.status, found.headers["Content-Type"]) == (503, PROBLEM_TYPE)
    assert b"secret" not in found.body


def test_a_floor_of_a_metric_reaches_the_process_that_answers(sqlite: str) -> None:
    processes = Processes(sqlite, Limits())
    given = {"experiment": EXPERIMENT, "floor": Floor.read("kl<=0.5")}
    for question in ("best", "runs"):
        found = json.loads(processes.ask({"question": question, "given": given, "readable": [1]}).body)
        assert (found["floor_rule"], found["floor"]) == ("kl<=0.5", 0.5)
    processes.close()


def test_a_process_that_ended_meanwhile_is_replaced(sqlite: str) -> None:
    processes = Processes(sqlite, Limits())
    question = {"question": "best", "given": {"experiment": EXPERIMENT}, "readable": [1]}
    first = processes.ask(question)
    (_, waiting), *_ = processes._idle
    waiting._process.kill()
    waiting._process.wait()
    assert processes.ask(question) == first
    processes.close()


def test_more_questions_than_the_limit_are_refused(sqlite: str, tmp_path: Path) -> None:
    limits = {"MASSACT_SERVER_AT_ONCE": "1", "MASSACT_SERVER_WAITING": "1", "MASSACT_SERVER_MEGABYTES": "0.004"}
    with tracking_server(sqlite, tmp_path, app="massact", settings=limits) as address:
        assert problem(ask(address, "runs"))[:2] == (422, "answer-too-large")
        assert ask(address, "runs", limit=1).status_code == 200
        found: list[requests.Response] = []
        threads = [threading.Thread(target=lambda: found.append(ask(address, "sensitivity"))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        refused = [one for one in found if one.status_code == 503]
        assert refused
        assert {problem(one)[1] for one in refused} == {"busy"}
        assert refused[0].headers["Retry-After"].isdigit()


def test_a_busy_server_is_asked_again(server: str, sqlite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    busy = requests.Response()
    busy.status_code, busy.headers["X-Massact-Version"] = 503, "1"
    busy._content = json.dumps({"detail": "all places are taken"}).encode()
    n_busy, send, pauses = [2], requests.Session.request, list[float]()

    def sometimes(self: requests.Session, verb: str, url: str, **more: Any) -> requests.Response:
        if "/massact/" in url and n_busy[0]:
            n_busy[0] -= 1
            return busy
        return send(self, verb, url, **more)

    monkeypatch.setattr(requests.Session, "request", sometimes)
    monkeypatch.setattr(time, "sleep", pauses.append)
    assert massact.best(EXPERIMENT, tracking_uri=server) == massact.best(EXPERIMENT, tracking_uri=sqlite)
    assert pauses == [1.0, 1.0]
    n_busy[0] = 1000
    with pytest.raises(StoreError, match="has no time for this: all places are taken"):
        massact.best(EXPERIMENT, tracking_uri=server)


def test_a_limit_that_is_none_is_refused() -> None:
    assert limits_of({"MASSACT_SERVER_SECONDS": "1.5", "MASSACT_SERVER_AT_ONCE": "3"}) == Limits(1.5, 3)
    for name, value in (("SECONDS", "x"), ("AT_ONCE", "1.5"), ("WAITING", "0"), ("MEGABYTES", "nan")):
        with pytest.raises(ConfigError, match=f"MASSACT_SERVER_{name} is '{value}'"):
            limits_of({f"MASSACT_SERVER_{name}": value})


def test_without_a_database_mlflow_is_asked(tmp_path: Path, sqlite: str) -> None:
    with tracking_server(f"{tmp_path}/mlruns", tmp_path, app="massact", settings=ALLOW_FILES) as address:
        assert problem(ask(address, "best"))[:2] == (501, "no-database")
        with pytest.raises(massact.MassactError, match="holds no evaluation"):
            massact.best(EXPERIMENT, tracking_uri=address)


def _workers(setting: str) -> list[str]:
    """The processes that answer questions for a server that was given a setting."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line, environment = ((folder / name).read_bytes() for name in ("cmdline", "environ"))
        except OSError:
            continue
        if b"massact.server.answering" in line and setting.encode() in environment:
            found.append(folder.name)
    return found


def test_the_restricted_reader_sees_only_what_it_may(both: tuple[str, str], tmp_path: Path) -> None:
    uri, _ = both
    home = MlflowClient(tracking_uri=uri).get_experiment_by_name("public")
    assert home is not None
    public = int(home.experiment_id)
    only = fill(f"sqlite:///{tmp_path}/only.db", homes=("public",)).uri
    restricted, alone = SqlSource(uri, readable=frozenset({public})), open_source(only)
    assert _readings(restricted) == _readings(alone)
    nobody = SqlSource(uri, readable=frozenset())
    assert nobody.points(EXPERIMENT).tagged == []
    assert nobody.experiment_tags("massact.") == []
