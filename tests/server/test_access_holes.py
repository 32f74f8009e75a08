"""Ways around the rights of a server with logins: every route, hidden experiments, files, other sites."""

import base64
import json
import re
from typing import Any

import pytest

from massact.server.auth import experiment_of
from tests.support.access_server import ADMIN, FILE, NAMES, World

pytestmark = pytest.mark.slow


def test_nothing_shows_of_what_is_hidden(world: World) -> None:
    name = next(NAMES)
    experiment = world.make_experiment(name)
    run, evaluation = world.make_run(experiment), world.make_evaluation(experiment, experiment=name)
    rita = world.people["reader"]
    with world.server.users() as known:
        known.grant("rita", name, "nothing")
    query = "query GetRun($data: MlflowGetRunInput!) { mlflowGetRun(input: $data) { run { info { runId } } } }"
    body = {"operationName": "GetRun", "query": query, "variables": {"data": {"runId": run}}}
    asked = [
        world.server.ask(rita, "GET", f"experiments/get-by-name?experiment_name={name}"),
        world.server.ask(rita, "GET", f"runs/get?run_id={run}"),
        world.server.ask(rita, "GET", f"artifacts/list?run_id={run}"),
        world.server.ask(rita, "GET", f"/get-artifact?run_uuid={run}&path=text.txt"),
        world.server.ask(rita, "GET", f"/api/2.0/mlflow-artifacts/artifacts?path={experiment}/{run}/artifacts"),
        world.server.ask(rita, "GET", f"/ajax-api/2.0/mlflow-artifacts/artifacts/%3{experiment[0]}{experiment[1:]}/"
                         f"{run}/artifacts/text.txt"),
        world.server.ask(rita, "GET", f"metrics/get-history?run_id={run}&metric_key=m"),
        world.server.ask(rita, "HEAD", f"/get-artifact?run_uuid={run}&path=text.txt"),
        world.post(rita, "runs/search", experiment_ids=[experiment]),
        world.post(rita, "/graphql", **body),
    ]  # fmt: skip
    body = {"run_ids": [evaluation], "tags": ["massact.row"]}
    empty = [
        world.ask_query_api(rita, name),
        world.post(rita, "/massact/v1/raw/finished", **body),
        world.post(rita, "/massact/v1/raw/values", run_ids=[evaluation], tag="massact.row"),
        world.post(rita, "/massact/v1/raw/steps", run_ids=[evaluation]),
    ]
    for answer in empty:
        assert evaluation not in answer.text
        assert "vector-probe" not in answer.text
    assert evaluation in world.post(world.owner, "/massact/v1/raw/finished", **body).text
    for answer in asked:
        assert run not in answer.text
        assert FILE not in answer.content
        assert answer.status_code == 403 or answer.text in ("{}", '{"data":{"mlflowGetRun":null},"errors":null}\n')


@pytest.mark.parametrize("path", ["7", "7/", "0/run/artifacts/a b.txt", "7/run/artifacts/100%/x", "7/%61/x"])
def test_the_experiment_of_a_plain_path(path: str) -> None:
    assert experiment_of(path) == path[0]


@pytest.mark.parametrize(
    "path",
    ["", "/", "x", "x/7", "/7/run", "7//run", "./7", "7/.", "7/./run", "7/run/..", "7/../8", "07/run", "\uff17/run",
     "+7", "7 ", "7\n", "-7", "7;/run", "%37/run", "%2537/run", "7%2frun", "7/%2e%2e/8", "7/%252e/x", "a/7"],
)  # fmt: skip
def test_a_path_that_is_not_plain_lies_in_no_experiment(path: str) -> None:
    assert experiment_of(path) is None


def test_the_proxy_takes_plain_paths_of_readable_experiments_only(world: World) -> None:
    hidden = world.make_experiment(name := next(NAMES))
    run = world.make_run(hidden)
    rita, walt = world.people["reader"], world.people["writer"]
    with world.server.users() as known:
        for user in ("rita", "walt"):
            known.grant(user, name, "nothing")
    place = f"{hidden}/{run}/artifacts/text.txt"
    for who in (rita, walt):
        for root in ("/api/2.0/mlflow-artifacts", "/ajax-api/2.0/mlflow-artifacts"):
            for path in (place, f"./{place}", f"0{place}", f"%2e/{place}", "999999/x", f"/{place}"):
                requests = [("GET", "artifacts"), ("HEAD", "artifacts"), ("PUT", "artifacts"), ("DELETE", "artifacts")]
                requests += [("GET", "presigned"), ("POST", "mpu/create"), ("POST", "mpu/abort")]
                for verb, family in requests:
                    answer = world.server.ask(who, verb, f"{root}/{family}/{path}", data=b"{}")
                    # a doubled slash is redirected, to an address that is refused
                    assert answer.status_code in (403, 308), (verb, family, path)
                assert world.server.ask(who, "GET", f"{root}/artifacts?path={path}").status_code == 403
            for query, body in (("", None), ("?path=", None), ("?other=1", None), ("", {"path": hidden})):
                answer = world.server.ask(who, "GET", f"{root}/artifacts{query}", json=body)
                assert answer.status_code == 403, query
            double = f"{root}/artifacts?path={world.experiment}&path={hidden}"
            assert world.server.ask(who, "GET", double).status_code == 403
        shown = world.server.ask(who, "GET", f"/api/2.0/mlflow-artifacts/artifacts?path={world.experiment}")
        assert world.run in shown.text
        assert world.server.ask(who, "GET", world.file()).content == FILE
    assert world.server.ask(world.owner, "GET", world.file(run, hidden)).content == FILE


def test_no_answer_to_head_tells_of_what_is_hidden(world: World) -> None:
    experiment = world.make_experiment(name := next(NAMES))
    made = world.post(world.owner, "logged-models", experiment_id=experiment, name="m").json()
    model = made["model"]["info"]["model_id"]
    with world.server.users() as known:
        known.grant("rita", name, "nothing")
    for path in (
        f"/ajax-api/2.0/mlflow/logged-models/{model}/artifacts/files?artifact_file_path=x", f"logged-models/{model}",
        f"logged-models/{model}/artifacts/directories", f"experiments/get?experiment_id={experiment}",
        "/get-artifact?run_uuid=x&path=x", "/ajax-api/3.0/mlflow/get-trace-artifact?request_id=x",
    ):  # fmt: skip
        assert world.server.ask(world.people["reader"], "HEAD", path).status_code == 403, path


def test_no_request_of_a_reader_changes_anything(world: World) -> None:
    """Every route of MLflow's and ours that is not for reading, with a body that fits many of them."""
    reader = world.people["reader"]
    before = world.server.contents()
    routes = _changing_routes()
    assert {path for _, path in routes} >= {
        "/api/2.0/mlflow/experiments/create", "/ajax-api/3.0/mlflow/demo/generate", "/ajax-api/3.0/jobs/",
        "/ajax-api/3.0/mlflow/assistant/config", "/api/2.0/mlflow-artifacts/artifacts/{artifact_path:path}",
        "/v1/traces", "/api/3.0/mlflow/mcp-servers", "/api/3.0/mlflow/roles/create",
    }  # fmt: skip
    for verb, rule in sorted(routes):
        path = re.sub(
            r"[<{](?:path:)?(\w+)(?::path)?[>}]",
            lambda found: f"{world.experiment}/{world.run}/x" if "path" in found[1] else world.run,
            rule,
        )
        headers = {"x-mlflow-experiment-id": world.experiment}
        world.server.ask(reader, verb, path, json=_any_body(world), headers=headers)
    assert world.server.contents() == before


def _changing_routes() -> set[tuple[str, str]]:
    from mlflow.server import app, artifact_router, gateway_api, job_api, mcp_server_api, otel_api
    from mlflow.server.assistant.api import assistant_router
    from mlflow.server.auth import routes

    reading = {"GET", "HEAD", "OPTIONS"}
    found = {(verb, rule.rule) for rule in app.url_map.iter_rules() for verb in (rule.methods or set()) - reading}
    natives: list[tuple[str, Any]] = [
        ("", artifact_router.artifact_router),
        ("", gateway_api.gateway_router),
        ("", assistant_router),
    ]
    natives += [("", job_api.job_api_router), ("", otel_api.otel_router)]
    natives += [
        (prefix, mcp_server_api.mcp_server_router) for prefix in mcp_server_api.get_mcp_server_api_route_prefixes()
    ]
    for prefix, router in natives:
        found |= {(verb, prefix + route.path) for route in router.routes for verb in route.methods - reading}
    for path in vars(routes).values():
        if isinstance(path, str) and path.startswith("/"):
            found |= {(verb, path) for verb in ("POST", "PUT", "PATCH", "DELETE")}
    return found


def _any_body(world: World) -> dict[str, Any]:
    return {
        "experiment_id": world.experiment, "experiment_ids": [world.experiment], "run_id": world.run,
        "run_uuid": world.run, "name": "taken", "new_name": "taken", "key": "k", "value": "v", "params": {},
        "tags": [{"key": "k", "value": "v"}], "username": "rita", "is_admin": True, "permission": "MANAGE",
        "resource_type": "experiment", "resource_id": world.experiment, "workspace": "default", "role_id": 1,
        "job_name": "invoke_scorer", "source": f"runs:/{world.run}", "secret_name": "s", "provider": "openai",
        "secret_value": {"api_key": "k"}, "version": "1", "description": "d",
    }  # fmt: skip


def test_a_writer_reaches_no_others_files_through_a_model(world: World) -> None:
    walt, name = world.people["writer"], next(NAMES)
    hidden = world.make_experiment(next(NAMES))
    run = world.make_run(hidden)
    with world.server.users() as known:
        known.grant("walt", _name_of(world, hidden), "nothing")
    own = world.make_experiment(next(NAMES), walt)
    own_run = world.post(walt, "runs/create", experiment_id=own).json()["run"]["info"]["run_id"]
    assert world.post(walt, "registered-models/create", name=name).ok
    place = f"{hidden}/{run}/artifacts"
    for source in (
        f"mlflow-artifacts:/{place}", f"mlflow-artifacts:/{own}/{own_run}/artifacts/../../../{place}", "file:///etc",
        f"runs:/{run}/", f"{world.server.folder}/artifacts/{place}", f"file://{world.server.folder}/artifacts/{place}",
        f"S3://bucket/{place}", "models:/m-123", "FILE:///etc",
    ):  # fmt: skip
        for more in ({}, {"run_id": own_run}, {"run_id": run}):
            answer = world.post(walt, "model-versions/create", name=name, source=source, **more)
            assert answer.status_code in (400, 403, 404), (source, more, answer.text)
    kept = world.post(
        walt, "model-versions/create", name=name, run_id=own_run,
        source=f"mlflow-artifacts:/{own}/{own_run}/artifacts/prior",
    )  # fmt: skip
    assert kept.ok, kept.text  # as massact predict registers


@pytest.mark.parametrize("key", ["mlflow.artifactLocation", "mlflow.trace.archiveLocation"])
def test_a_writer_cannot_have_a_traces_files_read_elsewhere(world: World, key: str) -> None:
    owner, trace_id = world.people["owner"], f"tr-{next(NAMES)}"
    place = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": world.experiment}}
    info = {"trace_id": trace_id, "trace_location": place, "request_time": "2026-01-01T00:00:00Z", "state": "OK"}
    assert world.post(owner, "/api/3.0/mlflow/traces", trace={"trace_info": info}).ok
    quoted = key.replace("L", "\\u004c")
    for version in ("2.0", "3.0"):
        path = f"/api/{version}/mlflow/traces/{trace_id}/tags"
        for text in (f'{{"key": "{key}", "value": "file:///etc"}}', f'{{"key": "{quoted}", "value": "file:///etc"}}'):
            for data in (text, json.dumps(text)):
                answer = world.server.ask(owner, "PATCH", path, data=data, headers={"Content-Type": "text/plain"})
                assert answer.status_code == 403, (path, data)
                assert "where a trace's files lie" in answer.text
        assert world.server.ask(owner, "PATCH", path, json={"key": "note", "value": f"about {key}"}).ok
    moved = {**info, "trace_id": f"{trace_id}-2", "tags": {key: "file:///etc"}}
    assert world.post(owner, "/api/3.0/mlflow/traces", trace={"trace_info": moved}).status_code == 403


def _name_of(world: World, experiment: str) -> str:
    answer = world.server.ask(ADMIN, "GET", f"experiments/get?experiment_id={experiment}")
    return str(answer.json()["experiment"]["name"])


@pytest.mark.parametrize("verb", ["POST", "PUT", "PATCH", "DELETE"])
def test_another_sites_request_is_refused(world: World, verb: str) -> None:
    """Even with an administrator's login, which a browser may send along."""
    paths = ["experiments/create", world.file(name="x"), "/ajax-api/2.0/mlflow/runs/search", "users/create"]
    for path in (*paths, *(["/massact/v1/raw/steps"] if verb == "POST" else [])):
        answer = world.server.ask(ADMIN, verb, path, json={}, headers={"Origin": "https://elsewhere.example"})
        assert answer.status_code == 403, path


@pytest.mark.parametrize("host", ["elsewhere.example", "127.0.0.1.elsewhere.example", "localhost.evil:80"])
def test_another_hosts_name_is_refused(world: World, host: str) -> None:
    for path in (
        "/",
        "experiments/search?max_results=1",
        world.file(),
        "/get-artifact",
        "/graphql",
        "/massact/v1/runs",
    ):
        assert world.server.ask(ADMIN, "GET", path, headers={"Host": host}).status_code == 403


@pytest.mark.parametrize("header", ["Bearer 0123", "Basic !!!", "Basic " + base64.b64encode(b"admin").decode(), ""])
def test_no_other_login_is_taken(world: World, header: str) -> None:
    for path in ("/", "experiments/search?max_results=1", world.file(), "/ajax-api/3.0/mlflow/assistant/config"):
        answer = world.server.ask(None, "GET", path, headers={"Authorization": header})
        assert answer.status_code == 401
