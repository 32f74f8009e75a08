"""The query API, asked at random from its own description: nothing makes it fail, and its answers are as described."""

import random
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.generation import GenerationMode

from massact.server.answering import READINGS, served
from massact.server.views import VIEWS
from tests.support.query_api import LABELS, fill
from tests.support.store_fixtures import EXPERIMENT, tracking_server

pytestmark = pytest.mark.slow

REAL: dict[str, Any] = {
    "experiment": EXPERIMENT,
    "model": ["gemma"],
    "trait": ["refusal"],
    "position": ["response[:5]"],
    "label": list(LABELS[:2]),
    "layer": [15],
    "judge": ["likelihood"],
    "phase": "phase1",
    "pair": ["probe:mean_diff"],
}
"""What the store holds, which no generator would hit upon."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    filled = fill(f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db")
    with tracking_server(filled.uri, tmp_path_factory.mktemp("server"), app="massact") as address:
        yield address


@pytest.fixture(scope="module")
def described(server: str) -> Any:
    config = schemathesis.Config.from_dict(
        {
            # well-formed and still nothing that can be answered, such as floors 80-60
            "checks": {"positive_data_acceptance": {"expected-statuses": ["2xx", "401", "403", "404", "409", "422"]}},
            "generation": {"database": "none", "deterministic": True},
        }
    )
    schema = schemathesis.openapi.from_url(f"{server}/massact/v1/openapi.json", config=config)

    @schema.hook
    def map_query(context: Any, query: dict[str, Any] | None) -> dict[str, Any] | None:
        """Half of the well-formed requests are about what is there."""
        return _about_what_is_there(query) if query else query

    return schema


def _about_what_is_there(query: dict[str, Any]) -> dict[str, Any]:
    choose = random.Random(repr(sorted(query.items(), key=repr)))
    if choose.random() < 0.5:
        return query
    return {
        name: REAL.get(name, value) if isinstance(value, str | list | int) else value for name, value in query.items()
    }


OPERATIONS = [
    *(("GET", f"/massact/v1/{name}") for name in served()),
    *(("POST", f"/massact/v1/raw/{name}") for name in READINGS),
    *(("GET", f"/massact/v1/view/{name}") for name, (_, parameters) in VIEWS.items() if parameters),
]
"""All but the description itself, which a schema read from it leaves out."""


def test_every_operation_is_asked(described: Any) -> None:
    found = [one.ok() for one in described.get_all_operations()]
    assert {(one.method.upper(), one.path) for one in found} == {*OPERATIONS, ("GET", "/massact/v1/view/experiments")}


@pytest.mark.parametrize(("method", "path"), OPERATIONS, ids=lambda value: value.rpartition("/")[2])
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["well-formed", "malformed"])
def test_whatever_is_asked_the_answer_is_as_described(
    described: Any, mode: GenerationMode, method: str, path: str
) -> None:
    operation = described[path][method]
    statuses: set[int] = set()

    @settings(max_examples=12, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @schemathesis_given(operation, mode)
    def ask(case: Any) -> None:
        response = case.call()
        statuses.add(response.status_code)
        case.validate_response(response)

    ask()
    if mode == GenerationMode.POSITIVE and "/view/" not in path:  # those are asked for what is there by test_views
        assert 200 in statuses, statuses


def schemathesis_given(operation: Any, mode: GenerationMode) -> Any:
    from hypothesis import given

    return given(case=operation.as_strategy(generation_mode=mode))
