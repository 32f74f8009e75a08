"""Raw runs from a tracking server that has massact's query API, and from any other by MLflow's own search.

The API gives what questions rank by and no more, which takes the server a hundredth of the time. Whether it is there
shows the first request to it: it costs no other. Where it is not, or does not answer that, MLflow is asked.
"""

import base64
import json
import re
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import requests

from massact.errors import StoreError
from massact.json_text import parse_json
from massact.store.read.base import RawPoints, RawRun, ScoreStep
from massact.store.read.rest import RUN_ID, RestSource
from massact.store.schema import Kind, RunText

# Raw runs on the way from a tracking server that has the query API to our own reader: both ends.

WIRE_TYPE = "application/vnd.massact.raw; version=1"
"""The media type of all answers; another version is another reader's."""
MAX_RUN_IDS = 250_000
"""Runs that are asked about in one request."""
_LENGTH = struct.Struct("!I")
_ID, _KEY, _NUMBERS = 32, 64, 76  # characters
_START = _NUMBERS + 1 + _KEY  # of a text: where its second line ends
_USUAL = re.compile(rf"[A-Za-z0-9+/]{{{_NUMBERS}}}\n[0-9a-f]{{{_KEY}}}\n")
_HEXADECIMAL = re.compile(rf"[0-9a-f]{{{_ID}}}")
_NO_END = -1


def pack_points(points: RawPoints) -> bytes:
    """The evaluations of an experiment."""
    blobs, heads, odd = _packed(points.tagged)
    if blobs is None:  # some of them are not what they look like: which?
        usual = [one for one in points.tagged if _is_usual(one)]
        blobs, heads, odd = _packed(usual)
        odd = [one for one in points.tagged if not _is_usual(one)]
    assert blobs is not None
    rest = {
        "heads": heads,
        "odd": odd,
        "others": [_run_list(run) for run in points.others],
        "failed": [_run_list(run) for run in points.failed],
        "n_foreign": points.n_foreign,
        "lengths": [len(blob) for blob in blobs],
    }
    return _joined(rest, blobs)


def _packed(tagged: Sequence[RunText]) -> tuple[tuple[bytes, ...] | None, list[str], list[RunText]]:
    """Points as bytes, their third lines, and what is not written as a point; `None`: not the same when unpacked."""
    odd = [one for one in tagged if not _has_form(one)]
    whole = [one for one in tagged if _has_form(one)] if odd else tagged
    ids, keys = "".join([one[0] for one in whole]), "".join([one[2][_NUMBERS + 1 : _START] for one in whole])
    numbers = "".join([one[2][:_NUMBERS] for one in whole])
    ends = [_NO_END if one[1] is None else one[1] for one in whole]
    heads: dict[str, int] = {}
    index = [heads.setdefault(one[2][_START + 1 :], len(heads)) for one in whole]
    try:
        blobs = (bytes.fromhex(ids), _array(ends, "<i8"), base64.b64decode(numbers), bytes.fromhex(keys))
    except (ValueError, OverflowError):
        return None, [], []
    # what is taken for a byte may be written in other ways too, such as in capitals
    again = (blobs[0].hex(), base64.b64encode(blobs[2]).decode(), blobs[3].hex())
    return ((*blobs, _array(index, "<u4")) if again == (ids, numbers, keys) else None), list(heads), odd


def _has_form(one: RunText) -> bool:
    run_id, end, text = one
    return (
        len(run_id) == _ID
        and end != _NO_END
        and text[_NUMBERS : _NUMBERS + 1] == text[_START : _START + 1] == "\n"
    )


def _is_usual(one: RunText) -> bool:
    run_id, end, text = one
    has_end = end is None or 0 <= end < 1 << 62
    return bool(has_end and _USUAL.fullmatch(text[: _START + 1]) and _HEXADECIMAL.fullmatch(run_id))


def _array(numbers: Sequence[int], kind: str) -> bytes:
    return np.array(numbers, kind).tobytes()


def unpack_points(data: bytes) -> RawPoints:
    """The evaluations of an experiment.

    Raises:
        ValueError: that is none.
    """
    rest, blobs = _parted(data)
    ids, ends, numbers, keys, index = blobs
    id_text, key_text = ids.hex(), keys.hex()
    number_text = base64.b64encode(numbers).decode()
    heads = [str(one) for one in rest["heads"]]
    tagged: list[RunText] = [
        (
            id_text[i * _ID : (i + 1) * _ID],
            None if end == _NO_END else end,
            f"{number_text[i * _NUMBERS : (i + 1) * _NUMBERS]}\n{key_text[i * _KEY : (i + 1) * _KEY]}\n{heads[head]}",
        )
        for i, (end, head) in enumerate(
            zip(np.frombuffer(ends, "<i8").tolist(), np.frombuffer(index, "<u4").tolist(), strict=True)
        )
    ]
    tagged += [(run_id, end, text) for run_id, end, text in rest["odd"]]
    others, failed = ([RawRun(*run) for run in rest[name]] for name in ("others", "failed"))
    return RawPoints(tagged, others, failed, rest["n_foreign"])


def pack_runs(runs: Sequence[RawRun]) -> bytes:
    """Runs with their tags."""
    return _joined({"runs": [_run_list(run) for run in runs]})


def unpack_runs(data: bytes) -> list[RawRun]:
    """Runs with their tags.

    Raises:
        ValueError: that is none.
    """
    return [RawRun(*run) for run in _parted(data)[0]["runs"]]


def pack_values(run_ids: Sequence[str], values: Mapping[str, str]) -> bytes:
    """A tag of the runs that were asked for, in that order."""
    return _joined({"values": [values.get(run_id) for run_id in run_ids]})


def unpack_values(run_ids: Sequence[str], data: bytes) -> dict[str, str]:
    """By run id, a tag of the runs that were asked for.

    Raises:
        ValueError: that is none, or of other runs.
    """
    found = zip(run_ids, _parted(data)[0]["values"], strict=True)
    return {run_id: value for run_id, value in found if value is not None}


def pack_steps(steps: Mapping[str, Sequence[ScoreStep]]) -> bytes:
    """The per-question metrics of runs."""
    named = {run_id: [[one.metric, one.question, one.score] for one in own] for run_id, own in steps.items()}
    return _joined({"steps": named})


def unpack_steps(data: bytes) -> dict[str, list[ScoreStep]]:
    """The per-question metrics of runs.

    Raises:
        ValueError: that is none.
    """
    steps = _parted(data)[0]["steps"]
    return {run_id: [ScoreStep(*one) for one in own] for run_id, own in steps.items()}


def _run_list(run: RawRun) -> list[Any]:
    return [run.run_id, run.status, run.started_at, run.finished_at, run.tags, run.artifact_uri]


def _joined(rest: Mapping[str, Any], blobs: Sequence[bytes] = ()) -> bytes:
    head = json.dumps(rest, separators=(",", ":")).encode()
    return b"".join((_LENGTH.pack(len(head)), head, *blobs))


def _parted(data: bytes) -> tuple[dict[str, Any], list[bytes]]:
    try:
        (length,) = _LENGTH.unpack_from(data)
        start = _LENGTH.size + length
        rest = parse_json(data[_LENGTH.size : start])
        blobs = []
        for size in rest.get("lengths", ()):
            blobs.append(data[start : start + size])
            start += size
    except (struct.error, AttributeError, TypeError) as error:
        raise ValueError("not what massact's query API answers") from error
    if start != len(data):
        raise ValueError("an answer of the query API that was cut off")
    return rest, blobs


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

    def answer(self, asked: Mapping[str, Any]) -> bytes | None:
        """A server's own answer to a question (`massact.query.question`); `None` where it has none."""
        return self._post("answer", asked)

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
