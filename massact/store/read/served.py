"""Raw runs as a tracking server with the query API serves them to our own reader: both ends of the way.

JSON. Of a point's text the last line, which all coefficients of a layer share, is sent once: it is the most of it.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from massact.json_text import parse_object
from massact.store.read.base import RawPoints, RawRun, ScoreStep

WIRE_TYPE = "application/vnd.massact.raw; version=2"
"""The media type of all answers; another version is another reader's."""
MAX_RUN_IDS = 250_000
"""Runs that are asked about in one request."""


def pack_points(points: RawPoints) -> bytes:
    """The evaluations of an experiment."""
    ends: dict[str, int] = {}
    tagged = []
    for run_id, finished_at, text in points.tagged:
        start = text.rfind("\n") + 1
        tagged.append((run_id, finished_at, text[:start], ends.setdefault(text[start:], len(ends))))
    others, failed = ([_run_list(run) for run in runs] for runs in (points.others, points.failed))
    return _packed(ends=list(ends), tagged=tagged, others=others, failed=failed, n_foreign=points.n_foreign)


def unpack_points(data: bytes) -> RawPoints:
    """The evaluations of an experiment.

    Raises:
        ValueError: that is none.
    """
    values = parse_object(data)
    ends = values["ends"]
    tagged = [(run_id, finished_at, text + ends[end]) for run_id, finished_at, text, end in values["tagged"]]
    others, failed = ([RawRun(*run) for run in values[name]] for name in ("others", "failed"))
    return RawPoints(tagged, others, failed, values["n_foreign"])


def pack_runs(runs: Sequence[RawRun]) -> bytes:
    """Runs with their tags."""
    return _packed(runs=[_run_list(run) for run in runs])


def unpack_runs(data: bytes) -> list[RawRun]:
    """Runs with their tags.

    Raises:
        ValueError: that is none.
    """
    return [RawRun(*run) for run in parse_object(data)["runs"]]


def pack_values(run_ids: Sequence[str], values: Mapping[str, str]) -> bytes:
    """A tag of the runs that were asked for, in that order."""
    return _packed(values=[values.get(run_id) for run_id in run_ids])


def unpack_values(run_ids: Sequence[str], data: bytes) -> dict[str, str]:
    """By run id, a tag of the runs that were asked for.

    Raises:
        ValueError: that is none, or of other runs.
    """
    pairs = zip(run_ids, parse_object(data)["values"], strict=True)
    return {run_id: value for run_id, value in pairs if value is not None}


def pack_steps(steps: Mapping[str, Sequence[ScoreStep]]) -> bytes:
    """The per-question metrics of runs."""
    named = {
        run_id: [[step.metric, step.question, step.score] for step in of_run]
        for run_id, of_run in steps.items()
    }
    return _packed(steps=named)


def unpack_steps(data: bytes) -> dict[str, list[ScoreStep]]:
    """The per-question metrics of runs.

    Raises:
        ValueError: that is none.
    """
    return {
        run_id: [ScoreStep(*step) for step in of_run]
        for run_id, of_run in parse_object(data)["steps"].items()
    }


def _run_list(run: RawRun) -> list[Any]:
    return [run.run_id, run.status, run.started_at, run.finished_at, run.tags, run.artifact_uri]


def _packed(**values: Any) -> bytes:
    return json.dumps(values, separators=(",", ":")).encode()
