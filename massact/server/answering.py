"""Answering one request from the run store: a question, or what massact's own reader asks for. No mlflow, no flask."""

import logging
import re
from collections.abc import Callable, Mapping
from typing import Any

from massact._gc import collector_paused
from massact.errors import MassactError, StoreError
from massact.json_text import parse_json
from massact.query import Answer
from massact.query.load import ask_store
from massact.query.rows import to_json
from massact.server.parameters import ANY_TEXT, Parameter, choice, text
from massact.server.problems import (
    BAD_BODY,
    FAILED,
    PROBLEM_TYPE,
    TOO_LARGE,
    Limits,
    ProblemError,
    problem_of,
)
from massact.server.processes import Reply
from massact.server.questions import EXPERIMENT, QUESTIONS, ROWS, Served
from massact.store.read import RunStore
from massact.store.read.served import MAX_RUN_IDS, WIRE_TYPE, pack_points, pack_runs, pack_steps, pack_values
from massact.store.read.sql import SqlSource
from massact.store.schema import Kind

_log = logging.getLogger(__name__)


class Answering:
    """Answers from one tracking database."""

    def __init__(self, database: str, limits: Limits) -> None:
        self._database, self._limits = database, limits

    def answer(self, request: Mapping[str, Any]) -> Reply:
        """The answer; what goes wrong is a problem, never an error.

        Args:
            request: `question` or `reading`, which is its name; `given`, its parameters; `readable`, the ids of the
                MLflow experiments that whoever asks may read.
        """
        given = request["given"]
        try:
            try:
                with collector_paused():
                    return self._answer(request)
            except MassactError as error:
                if isinstance(error, StoreError):
                    _log.warning("%s", error)
                raise problem_of(error, str(given.get("experiment", ""))) from error
            except MemoryError as error:
                raise ProblemError(TOO_LARGE, "there is not enough memory for it: ask for less") from error
        except ProblemError as problem:
            return refusal(problem)
        except Exception:
            _log.exception("a request could not be answered")
            return refusal(ProblemError(FAILED, "the server failed to answer; its log says why"))

    def _answer(self, request: Mapping[str, Any]) -> Reply:
        source = SqlSource(
            self._database,
            readable=frozenset(request["readable"]),
            statement_seconds=self._limits.seconds,
        )
        try:
            if "question" in request:
                return self._question(QUESTIONS[request["question"]], request["given"], source)
            body = READINGS[request["reading"]](source, request["given"])
            _check_size(body, self._limits.raw_bytes, "ask MLflow's own search instead")
            return Reply(200, {"Content-Type": WIRE_TYPE}, body)
        finally:
            source.close()

    def _question(self, served: Served, given: Mapping[str, Any], source: SqlSource) -> Reply:
        limit = given.get("limit", ROWS)
        wanted = {**given, "limit": limit} if served.has_pages else given
        answer: Answer[Any] = ask_store(RunStore(source), served.posed(wanted))
        has_more = served.has_pages and len(answer.rows) == limit
        body = to_json(answer).encode()
        _check_size(body, self._limits.answer_bytes, "ask for less with filters, or with limit and offset")
        return Reply(200, {"Content-Type": "application/json"}, body, has_more)


def refusal(problem: ProblemError) -> Reply:
    """A problem as an answer."""
    headers = {"Content-Type": PROBLEM_TYPE, **problem.headers}
    return Reply(problem.kind.status, headers, problem.body())


def _check_size(body: bytes, most: int, advice: str) -> None:
    if len(body) > most:
        raise ProblemError(
            TOO_LARGE, f"it takes {len(body) / 1e6:.0f} MB, and this server gives {most / 1e6:.0f}: {advice}"
        )


def _points(source: SqlSource, given: Mapping[str, Any]) -> bytes:
    return pack_points(source.points(given["experiment"]))


def _runs(source: SqlSource, given: Mapping[str, Any]) -> bytes:
    found = source.runs(
        given["experiment"],
        kind=Kind(given["kind"]),
        statuses=given.get("status", ()),
        tags=given.get("tag", ()),
    )
    return pack_runs(found)


def _finished(source: SqlSource, given: Mapping[str, Any]) -> bytes:
    return pack_runs(source.finished_runs(given["run_ids"], tags=given["tags"]))


def _values(source: SqlSource, given: Mapping[str, Any]) -> bytes:
    return pack_values(given["run_ids"], source.finished_values(given["run_ids"], given["tag"]))


def _steps(source: SqlSource, given: Mapping[str, Any]) -> bytes:
    return pack_steps(source.score_steps(given["run_ids"]))


READINGS: dict[str, Callable[[SqlSource, Mapping[str, Any]], bytes]] = {
    "points": _points,
    "runs": _runs,
    "finished": _finished,
    "values": _values,
    "steps": _steps,
}
"""What massact's own reader asks for, as the methods of `massact.store.read.base.RunSource`."""


# What massact's own reader may ask for, as requests: their parameters and bodies. `answering` answers them.

BY_GET: dict[str, tuple[str, tuple[Parameter, ...]]] = {
    "points": ("The evaluations of an experiment: of the finished ones their points", (EXPERIMENT,)),
    "runs": (
        "The runs of a kind, with some of their tags",
        (
            EXPERIMENT,
            choice("kind", "the kind", [kind.value for kind in Kind], is_required=True),
            choice(
                "status",
                "only runs in this status",
                ("RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED"),
                is_repeated=True,
            ),
            text("tag", "this tag's value is given", is_repeated=True),
        ),
    ),
}
"""Of each, what it gives and its parameters."""
_RUN_ID = {"type": "string", "minLength": 1, "maxLength": 64, "pattern": "^[0-9A-Za-z_-]+$"}
_RUN_IDS = {"type": "array", "items": _RUN_ID, "maxItems": MAX_RUN_IDS}
_TAG = {**ANY_TEXT, "maxLength": 250}
BY_POST: dict[str, tuple[str, dict[str, Any]]] = {
    "finished": (
        "Those of some runs that are finished, with some of their tags",
        {"run_ids": _RUN_IDS, "tags": {"type": "array", "items": _TAG, "maxItems": 50}},
    ),
    "values": (
        "One tag of those of some runs that are finished, in the order of the runs",
        {"run_ids": _RUN_IDS, "tag": _TAG},
    ),
    "steps": ("The scores by question of some runs, from their stepped metrics", {"run_ids": _RUN_IDS}),
}
"""Of each, what it gives and the schemas of what its body holds."""


def read_body(name: str, data: bytes) -> dict[str, Any]:
    """The body of a request.

    Raises:
        ProblemError: it is not what the schema says.
    """
    _, schemas = BY_POST[name]
    try:
        body = parse_json(data)
    except ValueError:
        raise ProblemError(
            BAD_BODY, f"the body is no JSON: write an object with {', '.join(schemas)}"
        ) from None
    if not isinstance(body, dict) or set(body) != set(schemas):
        raise ProblemError(
            BAD_BODY, f"the body has to be an object with {', '.join(schemas)} and nothing else"
        )
    for key, schema in schemas.items():
        values = body[key] if schema["type"] == "array" else [body[key]]
        one = schema.get("items", schema)
        if not isinstance(values, list) or len(values) > schema.get("maxItems", 1):
            raise ProblemError(BAD_BODY, f"{key!r} has to be a list of at most {schema.get('maxItems', 1)}")
        if not all(_is_text(value, one) for value in values):
            raise ProblemError(
                BAD_BODY,
                f"{key!r} has to hold texts of 1 to {one['maxLength']} characters as in {one['pattern']}",
            )
    return body


def _is_text(value: object, schema: Mapping[str, Any]) -> bool:
    if not isinstance(value, str) or not 1 <= len(value) <= schema["maxLength"]:
        return False
    is_whole = (
        value.encode(errors="ignore").decode() == value
    )  # JSON can write half a character, a database cannot
    return is_whole and re.fullmatch(schema["pattern"], value) is not None
