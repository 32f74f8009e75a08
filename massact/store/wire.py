"""Raw runs on the way from a tracking server that has the query API to our own reader: both ends.

Points are the bulk: 100,000 of them as their texts take 35 MB. What is hexadecimal or base64 in them is sent as
the bytes that it stands for, and the third lines, which all coefficients of a layer share, once each: 12 MB. A
point that is not written as massact writes it is sent as it is.
"""

import base64
import json
import re
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from massact.schema import RunText
from massact.store.base import RawPoints, RawRun, ScoreStep

WIRE_TYPE = "application/vnd.massact.raw; version=1"
"""The media type of all answers; another version is another reader's."""
_LENGTH = struct.Struct("!I")
_ID, _KEY, _NUMBERS = 32, 64, 76  # characters
_USUAL = re.compile(rf"[A-Za-z0-9+/]{{{_NUMBERS}}}\n[0-9a-f]{{{_KEY}}}")
_HEXADECIMAL = re.compile(rf"[0-9a-f]{{{_ID}}}")
_NO_END = -1


def pack_points(points: RawPoints) -> bytes:
    """The evaluations of an experiment."""
    ids, ends, numbers, keys, index, odd = [], [], [], [], [], []
    heads: dict[str, int] = {}
    for one in points.tagged:
        run_id, end, text = one
        start, newline, head = _split(text)
        if not (newline and _USUAL.fullmatch(start) and _HEXADECIMAL.fullmatch(run_id) and end != _NO_END):
            odd.append(list(one))
            continue
        ids.append(run_id)
        ends.append(_NO_END if end is None else end)
        numbers.append(start[:_NUMBERS])
        keys.append(start[_NUMBERS + 1 :])
        index.append(heads.setdefault(head, len(heads)))
    blobs = (
        bytes.fromhex("".join(ids)),
        np.array(ends, "<i8").tobytes(),
        base64.b64decode("".join(numbers)),
        bytes.fromhex("".join(keys)),
        np.array(index, "<u4").tobytes(),
    )
    rest = {
        "heads": list(heads),
        "odd": odd,
        "others": [_run_list(run) for run in points.others],
        "failed": [_run_list(run) for run in points.failed],
        "n_foreign": points.n_foreign,
        "lengths": [len(blob) for blob in blobs],
    }
    return _joined(rest, blobs)


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


def _split(text: str) -> tuple[str, str, str]:
    """The first two lines of a point, and the third."""
    end = _NUMBERS + 1 + _KEY
    return text[:end], text[end : end + 1] if text[end : end + 1] == "\n" else "", text[end + 1 :]


def _run_list(run: RawRun) -> list[Any]:
    return [run.run_id, run.status, run.started_at, run.finished_at, run.tags, run.artifact_uri]


def _joined(rest: Mapping[str, Any], blobs: Sequence[bytes] = ()) -> bytes:
    head = json.dumps(rest, separators=(",", ":")).encode()
    return b"".join((_LENGTH.pack(len(head)), head, *blobs))


def _parted(data: bytes) -> tuple[dict[str, Any], list[bytes]]:
    try:
        (length,) = _LENGTH.unpack_from(data)
        start = _LENGTH.size + length
        rest = json.loads(data[_LENGTH.size : start])
        blobs = []
        for size in rest.get("lengths", ()):
            blobs.append(data[start : start + size])
            start += size
    except (struct.error, AttributeError, TypeError) as error:
        raise ValueError("not what massact's query API answers") from error
    if start != len(data):
        raise ValueError("an answer of the query API that was cut off")
    return rest, blobs
