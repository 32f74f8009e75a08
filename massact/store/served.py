"""Raw runs from a tracking server that has massact's query API, and from any other by MLflow's own search.

The API gives what questions rank by and no more, which takes the server a hundredth of the time. Whether it is there
shows the first request to it: it costs no other. Where it is not, or does not answer that, MLflow is asked.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import requests

from massact.errors import StoreError
from massact.schema import Kind
from massact.store.base import RawPoints, RawRun, ScoreStep
from massact.store.rest import RUN_ID, RestSource
from massact.store.wire import (
    MAX_RUN_IDS,
    WIRE_TYPE,
    unpack_points,
    unpack_runs,
    unpack_steps,
    unpack_values,
)

T = TypeVar("T")
RAW = "massact/v1/raw"
_OURS = "X-Massact-Version"
"""Of the head of every answer of the API, refusals too."""
_BUSY = 503
_TRIES = 10
_LONGEST_PAUSE = 10.0  # seconds


class ServedSource(RestSource):
    """A `RunSource` over a tracking server, by the query API where the server has it.

    Raises:
        StoreError: the server does not answer, refuses the login, or is not MLflow's.
    """

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self._has_api = True
        """Until an answer shows that it has not."""

    def points(self, experiment: str) -> RawPoints:
        """The evaluations of an experiment: of the finished ones no more than their points."""
        data = self._get("points", {"experiment": experiment})
        return super().points(experiment) if data is None else _sound(unpack_points, data)

    def runs(
        self, experiment: str, *, kind: Kind, statuses: Sequence[str], tags: Sequence[str]
    ) -> list[RawRun]:
        """The runs of a kind; empty `statuses` means any."""
        wanted = {"experiment": experiment, "kind": kind.value}
        data = self._get("runs", {**wanted, "status": list(statuses), "tag": [str(tag) for tag in tags]})
        if data is None:
            return super().runs(experiment, kind=kind, statuses=statuses, tags=tags)
        return _sound(unpack_runs, data)

    def finished_runs(self, run_ids: Sequence[str], *, tags: Sequence[str]) -> list[RawRun]:
        """Those of the runs that are finished."""
        found: list[RawRun] = []
        for chunk in _chunks(run_ids):
            data = self._post("finished", {"run_ids": chunk, "tags": [str(tag) for tag in tags]})
            if data is None:
                return super().finished_runs(run_ids, tags=tags)
            found += _sound(unpack_runs, data)
        return found

    def finished_values(self, run_ids: Sequence[str], tag: str) -> dict[str, str]:
        """One tag of those of the runs that are finished and have it."""
        if self._scores:
            return super().finished_values(run_ids, tag)  # they came along with the points
        found: dict[str, str] = {}
        for chunk in _chunks(run_ids):
            data = self._post("values", {"run_ids": chunk, "tag": str(tag)})
            if data is None:
                return super().finished_values(run_ids, tag)
            found |= _sound(partial(unpack_values, chunk), data)
        return found

    def score_steps(self, run_ids: Sequence[str]) -> dict[str, list[ScoreStep]]:
        """The per-question metrics of runs, NaN and infinite ones left out."""
        found: dict[str, list[ScoreStep]] = {}
        for chunk in _chunks(run_ids):
            data = self._post("steps", {"run_ids": chunk})
            if data is None:
                return super().score_steps(run_ids)
            found |= _sound(unpack_steps, data)
        return {run_id: found.get(run_id, []) for run_id in run_ids}

    def _get(self, name: str, query: Mapping[str, Any]) -> bytes | None:
        return self._ask("GET", name, query=query)

    def _post(self, name: str, body: Mapping[str, Any]) -> bytes | None:
        return self._ask("POST", name, body=body)

    def _ask(self, verb: str, name: str, **content: Mapping[str, Any]) -> bytes | None:
        """The answer's body; `None` where MLflow's own search is to be asked, which says what is wrong, if anything is.

        Raises:
            StoreError: the server does not answer in time, or has too many questions already.
        """
        for _ in range(_TRIES if self._has_api else 0):
            answer = self._server.fetch(verb, f"{RAW}/{name}", **content)
            if _OURS not in answer.headers:
                self._has_api = False
                return None
            if answer.status_code != _BUSY:
                is_answer = answer.ok and answer.headers.get("Content-Type") == WIRE_TYPE
                return answer.content if is_answer else None
            time.sleep(_pause(answer))
        if not self._has_api:
            return None
        raise StoreError(f"the tracking server has no time for this: {_detail(answer)}")


def _pause(answer: requests.Response) -> float:
    text = answer.headers.get("Retry-After", "")
    return min(float(text), _LONGEST_PAUSE) if text.isdigit() else 1.0


def _detail(answer: requests.Response) -> str:
    try:
        return str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return f"it answers {answer.status_code}"


def _sound(unpack: Callable[[bytes], T], data: bytes) -> T:
    try:
        return unpack(data)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise StoreError(f"the tracking server's answer is damaged ({error}): try again") from error


def _chunks(run_ids: Sequence[str]) -> Iterator[list[str]]:
    sound = [run_id for run_id in run_ids if RUN_ID.fullmatch(run_id)]  # no other can exist
    for start in range(0, len(sound), MAX_RUN_IDS):
        yield sound[start : start + MAX_RUN_IDS]
