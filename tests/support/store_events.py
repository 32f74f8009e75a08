"""Things that happen to a run store, and sequences of them.

Which kinds of events, and how many, hypothesis chooses and shrinks; their details are drawn from a seed
each, since hypothesis prefers few and simple values, which seldom tie and seldom compete.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from hypothesis import strategies as st

from tests.support.store_fixtures import EXPERIMENT
from tests.support.transfer_files import baseline, evaluation, vector

HOME, ELSEWHERE = EXPERIMENT, "elsewhere"
"""MLflow experiments: imports go into the one that is named as the experiment."""
SETTINGS = {"setting-1": ("likelihood", "positive"), "setting-2": ("other", "negative")}
LABELS = (
    "probe", "mean_diff", "mean_diff_top1", "mean_diff_top4", "mean_diff_cleaned", "mean_diff_preclean",
)  # fmt: skip
FILE_TIME = 2500
"""When every imported file was written, in ms since 1970: the end of a line without a time."""


@dataclass(frozen=True)
class Log:
    """An evaluation ends in a status, or is left running."""

    fields: dict[str, Any]
    end: int
    status: str
    home: str


@dataclass(frozen=True)
class Finish:
    """A run that was left running ends; the `index`th of those that are there."""

    index: int
    end: int


@dataclass(frozen=True)
class Delete:
    index: int


@dataclass(frozen=True)
class Restore:
    index: int


@dataclass(frozen=True)
class DeleteHome:
    home: str


@dataclass(frozen=True)
class RestoreHome:
    home: str


@dataclass(frozen=True)
class Import:
    """A results file with these lines is imported."""

    lines: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Ask:
    floor: float


TRAITS = (5.0, 20.0, 20.0, 20.0, 20.0, 20.5, None)
COHERENCES = (60.0, 60.0, 67.75, 68.0, 68.0, 68.25, 90.0, 90.0, 90.0, None)
BASELINES = (10.0, 10.0, 10.0, 12.5, None)
ENDS = (1000, 2000, 3000)
HOMES = (HOME, HOME, ELSEWHERE)
FLOORS = (0.0, 50.0, 67.75, 68.0, 68.0, 68.0, 68.1, 90.0, 100.0)
KINDS = (
    *["log", "log", "import", "log", "log", "delete", "log", "log", "import", "log", "ask", "log", "log"],
    *["finish", "restore", "log", "delete home", "log", "restore home", "log"],
)
"""What happens how often."""


def _cells(rng: random.Random) -> list[dict[str, Any]]:
    """A few cells of few labels: several in a group, so that one has to be the best of them."""
    labels = rng.sample(LABELS, rng.choice([1, 1, 2, 3]))
    positions = ["response[:5]", "response[:10]"] if rng.random() < 0.3 else ["response[:5]"]
    return [
        {
            "position": rng.choice(positions),
            "label": rng.choice(labels),
            "layer": rng.choice([14, 15]),
            "coefficient": rng.choice([-1000.0, -300.0, 100.0, 300.0]),
        }
        for _ in range(rng.randint(3, 7))
    ]


def _log(rng: random.Random, cells: Sequence[dict[str, Any]]) -> Log:
    status = rng.choice(["FINISHED"] * 7 + ["FAILED", "FAILED", "KILLED", "RUNNING"])
    cell, setting = rng.choice(cells), rng.choice(["setting-1", "setting-1", "setting-2"])
    judge, direction = SETTINGS[setting]
    scores = dict.fromkeys(("trait_mean", "coherence", "baseline", "delta"))
    if status in ("FINISHED", "RUNNING"):
        trait, before = rng.choice(TRAITS), rng.choice(BASELINES)
        delta = None if trait is None or before is None else trait - before
        scores = {"trait_mean": trait, "coherence": rng.choice(COHERENCES), "baseline": before, "delta": delta}
    key = "-".join(map(str, (setting, *cell.values())))
    error = rng.choice(["out of memory", "no vector"]) if status == "FAILED" else None
    fields = {"key": key, "setting": setting, "judge": judge, "direction": direction, "error": error}
    return Log({**cell, **fields, **scores}, rng.choice(ENDS), status, rng.choice(HOMES))


def _line(rng: random.Random, cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A line of a results file, and what the oracle has to know of it."""
    judge, trait, end = rng.choice([None, None, "pv"]), rng.choice(TRAITS), rng.choice(ENDS)
    own = {"eval": {"trait_judge": judge}}
    if rng.random() < 0.25:
        document = baseline(trait, _iso(end), **own)
        found = {"kind": "baseline", "coherence": None, "end": end, **dict.fromkeys(cells[0])}
    else:
        is_dated = rng.random() < 0.8
        cell, coherence = rng.choice(cells), rng.choice(COHERENCES)
        steered = vector(cell["label"], cell["layer"], cell["coefficient"], cell["position"])
        document = evaluation(trait, coherence, _iso(end) if is_dated else None, [steered], **own)
        found = {"kind": "evaluation", "coherence": coherence, "end": end if is_dated else FILE_TIME, **cell}
    return {**found, "judge": judge, "trait_mean": trait, "text": json.dumps(document)}


def _iso(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).replace(tzinfo=None).isoformat()


def _pool(rng: random.Random, cells: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lines that files are made of; files overlap, since there are few."""
    lines = [_line(rng, cells) for _ in range(rng.randint(2, 8))]
    # two baselines of one time are settled by their content: no rule that people could tell
    return list(
        {(one["judge"], one["end"]) if one["kind"] == "baseline" else one["text"]: one for one in lines}.values()
    )


def _event(kind: str, rng: random.Random, cells: Sequence[dict[str, Any]], pool: Sequence[dict[str, Any]]) -> Any:
    if kind == "log":
        return _log(rng, cells)
    if kind == "import":
        return Import(tuple(rng.choices(pool, k=rng.randint(1, 8))))
    if kind == "finish":
        return Finish(rng.randrange(30), rng.choice(ENDS))
    if kind in ("delete", "restore"):
        return (Delete if kind == "delete" else Restore)(rng.randrange(30))
    if kind in ("delete home", "restore home"):
        return (DeleteHome if kind == "delete home" else RestoreHome)(rng.choice(HOMES))
    return Ask(rng.choice(FLOORS))


def histories(max_size: int) -> st.SearchStrategy[list[Any]]:
    """Sequences of events; the last asks."""
    seeds = st.integers(0, 2**32)

    def build(seed: int, kinds: list[tuple[str, int]]) -> list[Any]:
        rng = random.Random(seed)
        cells = _cells(rng)
        pool = _pool(rng, cells)
        events = [_event(kind, random.Random(f"{seed} {one}"), cells, pool) for kind, one in kinds]
        return [*events, Ask(rng.choice(FLOORS))]

    kinds = st.lists(st.tuples(st.sampled_from(KINDS), seeds), min_size=max_size // 2, max_size=max_size)
    return st.builds(build, seeds, kinds)
