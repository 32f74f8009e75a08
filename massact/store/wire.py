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

from massact.json_text import parse_json
from massact.schema import RunText
from massact.store.base import RawPoints, RawRun, ScoreStep

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
