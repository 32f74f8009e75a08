"""Answering one request from the run store: a question, or what massact's own reader asks for. No mlflow, no flask."""

import gzip
import json
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from multiprocessing.connection import Connection
from typing import Any

from massact import __version__, api
from massact._gc import collector_paused
from massact.errors import MassactError, StoreError, UsageError
from massact.json_text import parse_object, read_as
from massact.names import shown
from massact.query import Answer
from massact.query.question import ANY_TEXT, Parameter, Question, whole
from massact.query.rows import differing_names, to_content, to_json
from massact.server.processes import IDLE_SECONDS, MAX_ROWS, Kinds, Limits, ProblemError, Reply, limits_of, problem_of
from massact.server.views import VIEWS
from massact.store.read import RunStore
from massact.store.read.base import MAX_RUN_IDS, WIRE_TYPE, pack_points, packed
from massact.store.read.sql import SqlSource
from massact.store.schema import Declared, Kind
from massact.store.schema.declared import declared_from

# what requests may ask

ROWS = 1000  # rows of a page where no limit is given
MAX_REPEATED = 100  # values of a parameter that may be repeated


@cache
def served() -> dict[str, Question[..., Any]]:
    """The questions that have an address, by name; one of a broken package has none, which the log says."""
    loaded = []
    for name in api.names():
        try:
            loaded.append(api.question(name))
        except MassactError as error:
            _log.warning("%s", error)
    return {posed.name: posed for posed in loaded if posed.traits.is_served}


def parameters_of(posed: Question[..., Any]) -> tuple[Parameter, ...]:
    """All that a request may give, with their defaults; of pages the limit has one and is bounded."""
    found = []
    for parameter in posed.parameters:
        bounded = parameter
        default = posed.default(parameter) if parameter in posed.own else None
        if posed.traits.has_pages and parameter.name == "limit":
            bounded, default = whole(parameter.name, parameter.meaning, 1, MAX_ROWS), str(ROWS)
        schema = dict(bounded.schema)
        if default is not None:  # a number or a truth value as such
            schema["default"] = default if schema["type"] == "string" else bounded.read(default)
        found.append(replace(bounded, schema=schema))
    return tuple(found)


def read_parameters(allowed: Sequence[Parameter], given: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The values by what the function calls each; one that was not given is absent."""
    known = {parameter.name: parameter for parameter in allowed}
    for name in given:
        if name not in known:
            there = ", ".join(known) or "none"
            raise ProblemError(Kinds.BAD_PARAMETER, f"there is no parameter {shown(name)}; there are {there}")
    values = {}
    for parameter in allowed:
        texts = given.get(parameter.name, ())
        if texts:
            values[parameter.key] = _read(parameter, texts)
        elif parameter.is_required:
            raise ProblemError(Kinds.BAD_PARAMETER, f"the parameter {parameter.name!r} is missing: {parameter.meaning}")
    return values


def _read(parameter: Parameter, texts: Sequence[str]) -> Any:
    if len(texts) > (MAX_REPEATED if parameter.is_repeated else 1):
        most = f"at most {MAX_REPEATED} times" if parameter.is_repeated else "once"
        raise ProblemError(Kinds.BAD_PARAMETER, f"the parameter {parameter.name!r} may be given {most}")
    values = []
    for written in texts:
        try:
            values.append(parameter.read(written))
        except ValueError as error:
            raise ProblemError(
                Kinds.BAD_PARAMETER, f"the parameter {parameter.name!r}: {shown(written)} {error} ({parameter.meaning})"
            ) from None
        except UsageError as error:  # it is written as it should be, and makes no sense
            raise problem_of(error, "") from error
    return values if parameter.is_repeated else values[0]


_log = logging.getLogger(__name__)


class Answering:
    """Answers from one tracking database."""

    def __init__(self, database: str, limits: Limits) -> None:
        self._database, self._limits = database, limits

    def answer(self, request: Mapping[str, Any]) -> Reply:
        """The answer; what goes wrong is a problem, never an error. `request`: `question`, `view` or `reading`, which
        is its name; `given`, its parameters; `readable`, the ids of the MLflow experiments that whoever asks may read
        (`None`: all); `declared` where massact itself asks."""
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
                raise ProblemError(Kinds.TOO_LARGE, "there is not enough memory for it: ask for less") from error
        except ProblemError as problem:
            return problem.reply
        except Exception:
            _log.exception("a request could not be answered")
            return ProblemError(Kinds.FAILED, "the server failed to answer; its log says why").reply

    def _answer(self, request: Mapping[str, Any]) -> Reply:
        readable = None if request["readable"] is None else frozenset(request["readable"])
        source = SqlSource(self._database, readable=readable, statement_seconds=self._limits.seconds)
        try:
            if "view" in request:
                return self._view(RunStore(source), request)
            if "question" not in request:
                return self._raw(READINGS[request["reading"]][2](source, request["given"]))
            posed, given = served()[request["question"]], request["given"]
            if "declared" in request:
                return self._raw(_for_ourselves(posed, given, source, request["declared"]))
            return self._page(posed, given, source)
        finally:
            source.close()

    def _view(self, store: RunStore, request: Mapping[str, Any]) -> Reply:
        content = VIEWS[request["view"]][0](store, request["given"])
        body = json.dumps(content, allow_nan=False, separators=(",", ":")).encode()
        _check_size(body, self._limits.answer_bytes, "ask with questions and their filters")
        head = {"Content-Type": "application/json", "Vary": "Accept-Encoding"}
        if request["is_packed"]:
            body, head["Content-Encoding"] = gzip.compress(body, 5), "gzip"
        return Reply(200, head, body)

    def _raw(self, body: bytes) -> Reply:
        _check_size(body, 4 * self._limits.answer_bytes, "ask MLflow's own search instead")
        return Reply(200, {"Content-Type": WIRE_TYPE}, body)

    def _page(self, posed: Question[..., Any], given: Mapping[str, Any], source: SqlSource) -> Reply:
        has_pages, limit = posed.traits.has_pages, given.get("limit", ROWS)
        answer = _ask(posed, {**given, "limit": limit} if has_pages else given, source)
        has_more = has_pages and len(answer.rows) == limit
        body = to_json(answer).encode()
        _check_size(body, self._limits.answer_bytes, "ask for less with filters, or with limit and offset")
        return Reply(200, {"Content-Type": "application/json"}, body, has_more)


def _ask(
    posed: Question[..., Any], given: Mapping[str, Any], source: SqlSource, declared: Declared | None = None
) -> Answer[Any]:
    about, own = posed.split(given)
    answer: Answer[Any] = posed.ask_store(RunStore(source), given["experiment"], about, own, declared)
    return answer


def _for_ourselves(
    posed: Question[..., Any], given: Mapping[str, Any], source: SqlSource, content: Mapping[str, Any] | None
) -> bytes:
    """The answer with what its JSON does not tell, for `massact.query.question`."""
    try:
        declared = None if content is None else declared_from(given["experiment"], content)
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(f"what is declared cannot be read: {error}") from error
    answer = _ask(posed, given, source, declared)
    told = {"version": __version__, "differing": differing_names(answer), "answer": to_content(answer)}
    return json.dumps(told, allow_nan=False, separators=(",", ":")).encode()


def _check_size(body: bytes, most: int, advice: str) -> None:
    if len(body) > most:
        raise ProblemError(
            Kinds.TOO_LARGE, f"it takes {len(body) / 1e6:.0f} MB, and this server gives {most / 1e6:.0f}: {advice}"
        )


# what massact's own reader asks for, by the methods of `massact.store.read.base.RunSource`

_RUN_ID = {"type": "string", "minLength": 1, "maxLength": 64, "pattern": "^[0-9A-Za-z_-]+$"}
_RUN_IDS = {"type": "array", "items": _RUN_ID, "maxItems": MAX_RUN_IDS}
_TAG = {**ANY_TEXT, "maxLength": 250}
_TAGS = {"type": "array", "items": _TAG, "maxItems": 50}
_KIND = {**ANY_TEXT, "pattern": f"^({'|'.join(Kind)})$"}
_STATUS = {**ANY_TEXT, "pattern": "^(RUNNING|SCHEDULED|FINISHED|FAILED|KILLED)$"}
_STATUSES = {"type": "array", "items": _STATUS, "maxItems": 5}
READINGS: dict[str, tuple[str, dict[str, Any], Callable[[SqlSource, Any], bytes]]] = {
    "points": (
        "The evaluations of an experiment: of the finished ones their points",
        {"experiment": ANY_TEXT},
        lambda source, asked: pack_points(source.points(**asked)),
    ),
    "runs": (
        "The runs of a kind, with some of their tags",
        {"experiment": ANY_TEXT, "kind": _KIND, "statuses": _STATUSES, "tags": _TAGS},
        lambda source, asked: packed(runs=source.runs(**asked)),
    ),
    "finished": (
        "Those of some runs that are finished, with some of their tags",
        {"run_ids": _RUN_IDS, "tags": _TAGS},
        lambda source, asked: packed(runs=source.finished_runs(**asked)),
    ),
    "values": (
        "One tag of those of some runs that are finished, by run",
        {"run_ids": _RUN_IDS, "tag": _TAG},
        lambda source, asked: packed(values=source.finished_values(**asked)),
    ),
    "steps": (
        "The scores by question of some runs, from their stepped metrics",
        {"run_ids": _RUN_IDS},
        lambda source, asked: packed(steps=source.score_steps(**asked)),
    ),
}
"""Of each, what it gives, the schemas of what its request's body holds, and how it is read."""


def read_body(name: str, data: bytes) -> dict[str, Any]:
    schemas = READINGS[name][1]
    try:
        body = parse_object(data)
    except ValueError:
        body = {}
    if set(body) != set(schemas):
        raise ProblemError(Kinds.BAD_BODY, f"the body has to be JSON, an object with {', '.join(schemas)} alone")
    for key, schema in schemas.items():
        values = body[key] if schema["type"] == "array" else [body[key]]
        item = schema.get("items", schema)
        if not isinstance(values, list) or len(values) > schema.get("maxItems", 1):
            raise ProblemError(Kinds.BAD_BODY, f"{key!r} has to be a list of at most {schema.get('maxItems', 1)}")
        texts = (value if isinstance(value, str) else "" for value in values)
        if not all(len(text) <= item["maxLength"] and re.fullmatch(item["pattern"], text) for text in texts):
            length = f"1 to {item['maxLength']} characters"
            raise ProblemError(Kinds.BAD_BODY, f"{key!r} has to hold texts of {length} as in {item['pattern']}")
    return body


def read_question(data: bytes) -> dict[str, Any]:
    """A question of ours as massact itself asks it: its name, its values, and what the experiment's file declares."""
    try:
        body = parse_object(data)
        posed, declared = served()[body["question"]], read_as(Mapping[str, Any] | None, body["declared"])
        texts = read_as(Mapping[str, tuple[str, ...]], body["parameters"])
    except (ValueError, TypeError, KeyError) as error:
        raise ProblemError(Kinds.BAD_BODY, "the body is no question of this server's version") from error
    # all rows at once: pages are for others
    return {"question": posed.name, "given": read_parameters(posed.parameters, texts), "declared": declared}


# the process

_NICENESS = 5  # logging of runs goes before questions


def main() -> None:
    """Answer until nobody asks for a while, or is left to ask."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server decides when it is over
    with suppress(OSError):
        os.nice(_NICENESS)
    answering = Answering(os.environ["MASSACT_SERVER_DATABASE"], limits_of())
    with Connection(int(sys.argv[1])) as connection, suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while connection.poll(IDLE_SECONDS):
            reply = answering.answer(json.loads(connection.recv_bytes()))
            head = {"status": reply.status, "headers": reply.headers, "has_more": reply.has_more}
            connection.send_bytes(json.dumps(head).encode())
            connection.send_bytes(reply.body)


if __name__ == "__main__":
    main()
