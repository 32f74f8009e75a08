"""Answering one request from the run store: a question, or what massact's own reader asks for. No mlflow, no flask."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from massact.asked import ask_store
from massact.collector import collector_paused
from massact.errors import MassactError, StoreError
from massact.query import Answer
from massact.query.as_json import to_json
from massact.schema import Kind
from massact.server.limits import Limits
from massact.server.problems import FAILED, PROBLEM_TYPE, TOO_LARGE, ProblemError, problem_of
from massact.server.processes import Reply
from massact.server.questions import QUESTIONS, ROWS, Served
from massact.store.reader import StoreReader
from massact.store.sql import SqlSource
from massact.store.wire import WIRE_TYPE, pack_points, pack_runs, pack_steps, pack_values

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
        answer: Answer[Any] = ask_store(StoreReader(source), served.posed(wanted))
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
"""What massact's own reader asks for, as the methods of `massact.store.base.RunSource`."""
