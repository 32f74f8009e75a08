"""What the table of docs/access.md has people try, as requests."""

from collections.abc import Callable

import requests

from tests.support.access_server import NAMES, Who, World
from tests.support.store_fixtures import EXPERIMENT

Act = Callable[[World, Who], requests.Response]


def _read_as_the_ui(world: World, who: Who) -> requests.Response:
    query = "query GetRun($data: MlflowGetRunInput!) { mlflowGetRun(input: $data) { run { info { runId } } } }"
    body = {"operationName": "GetRun", "query": query, "variables": {"data": {"runId": world.run}}}
    answer = world.server.ask(who, "POST", "/graphql", json=body)
    assert not answer.ok or world.run in answer.text
    return answer


def _ask_query_api(world: World, who: Who) -> requests.Response:
    answer = world.ask_query_api(who, EXPERIMENT)
    assert not answer.ok or world.evaluation in answer.text
    return answer


def _create_model(world: World, who: Who) -> requests.Response:
    prompt = [{"key": "mlflow.prompt.is_prompt", "value": "true"}]
    answers = [world.post(who, "registered-models/create", name=next(NAMES), tags=tags) for tags in ([], prompt)]
    assert len({answer.status_code for answer in answers}) == 1
    return answers[0]


def _register_elsewhere(world: World, who: Who) -> requests.Response:
    name = next(NAMES)
    world.post(who, "registered-models/create", name=name)
    answers = [
        world.post(who, "model-versions/create", name=name, source=f"s3://bucket/{path}", **run)
        for path, run in (("elsewhere", {}), ("elsewhere", {"run_id": world.run}))
    ]
    assert len({answer.status_code for answer in answers}) == 1
    return answers[0]


def _create_in_it(world: World, who: Who) -> requests.Response:
    trace = {
        "trace_id": f"tr-{next(NAMES)}",
        "trace_location": {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": world.experiment}},
        "request_time": "2026-01-01T00:00:00Z",
        "state": "OK",
    }
    answers = [
        world.post(who, "logged-models", experiment_id=world.experiment, name="m"),
        world.post(who, "/api/3.0/mlflow/traces", trace={"trace_info": trace}),
    ]
    assert len({answer.status_code for answer in answers}) == 1
    return answers[0]


def _delete_artifact(world: World, who: Who) -> requests.Response:
    path = world.file(name=next(NAMES))
    assert world.server.ask(world.owner, "PUT", path, data=b"x").ok
    return world.server.ask(who, "DELETE", path)


def _delete_experiment(world: World, who: Who) -> requests.Response:
    return world.post(who, "experiments/delete", experiment_id=world.make_experiment(next(NAMES)))


def _grant(world: World, who: Who) -> requests.Response:
    place = {"resource_type": "experiment", "resource_id": world.make_experiment(next(NAMES))}
    body = {"username": "walt", **place, "permission": "READ"}
    return world.post(who, "/api/3.0/mlflow/users/permissions/grant", **body)


def _make_and_remove_user(world: World, who: Who) -> requests.Response:
    body = {"username": next(NAMES), "password": "long enough to be one"}
    made = world.post(who, "users/create", **body)
    removed = world.server.ask(who, "DELETE", "users/delete", json={"username": body["username"]})
    assert made.status_code == removed.status_code
    return made


def _change_password(world: World, who: Who) -> requests.Response:
    name, password = who or ("rita", "nothing")
    for old, new in ((password, f"{password}-new"), (f"{password}-new", password)):
        body = {"username": name, "password": new, "current_password": old}
        answer = world.server.ask((name, old) if who else None, "PATCH", "users/update-password", json=body)
        if not answer.ok:
            break
    return answer


def _assistant_and_jobs(world: World, who: Who) -> requests.Response:
    answers = [
        world.server.ask(who, "GET", "/ajax-api/3.0/mlflow/assistant/config"),
        world.server.ask(who, "POST", "/ajax-api/3.0/jobs/search", json={}),
    ]
    assert len({answer.status_code for answer in answers}) == 1
    return answers[0]


def _upload_as_the_ui(world: World, who: Who) -> requests.Response:
    path = f"/ajax-api/2.0/mlflow/upload-artifact?run_uuid={world.run}&path={next(NAMES)}.txt"
    return world.server.ask(who, "POST", path, data=b"x")


ACTIONS: dict[str, Act] = {
    "ask whether the server is up": lambda w, who: w.server.ask(who, "GET", "/health"),
    "open the UI": lambda w, who: w.server.ask(who, "GET", "/"),
    "read experiments and runs": lambda w, who: w.search(who),
    "read runs as the UI does (GraphQL)": _read_as_the_ui,
    "read an artifact through the proxy": lambda w, who: w.server.ask(who, "GET", w.file()),
    "read an artifact as the UI does": lambda w, who: w.server.ask(
        who, "GET", f"/get-artifact?run_uuid={w.run}&path=text.txt"
    ),
    "ask the query API": _ask_query_api,
    "create an experiment": lambda w, who: w.post(who, "experiments/create", name=next(NAMES)),
    "create one elsewhere (`artifact_location`)": lambda w, who: w.post(
        who, "experiments/create", name=next(NAMES), artifactLocation=f"file://{w.server.folder}/{next(NAMES)}"
    ),
    "create a registered model or a prompt": _create_model,
    "register files outside a run (`s3://…`)": _register_elsewhere,
    "create a run in the experiment": lambda w, who: w.post(who, "runs/create", experiment_id=w.experiment),
    "log metrics, params and tags": lambda w, who: w.post(
        who,
        "runs/log-batch",
        run_id=w.run,
        metrics=[{"key": "delta", "value": 1.0, "timestamp": 1, "step": 0}],
        params=[{"key": next(NAMES), "value": "1"}],
        tags=[{"key": "note", "value": "1"}],
    ),
    "upload an artifact through the proxy": lambda w, who: w.server.ask(
        who, "PUT", w.file(name=next(NAMES)), data=b"x"
    ),
    "upload an artifact as the UI does": _upload_as_the_ui,
    "delete an artifact": _delete_artifact,
    "create a logged model or a trace in it": _create_in_it,
    "delete a run": lambda w, who: w.post(who, "runs/delete", run_id=w.make_run()),
    "rename the experiment": lambda w, who: w.post(
        who, "experiments/update", experiment_id=w.make_experiment(next(NAMES)), new_name=next(NAMES)
    ),
    "delete the experiment": _delete_experiment,
    "grant others rights on the experiment": _grant,
    "list the names of users": lambda w, who: w.server.ask(who, "GET", "users/list"),
    "create and remove users": _make_and_remove_user,
    "change one's own password": _change_password,
    "webhooks": lambda w, who: w.server.ask(who, "GET", "/api/2.0/mlflow/webhooks"),
    "MLflow's assistant and jobs": _assistant_and_jobs,
}
