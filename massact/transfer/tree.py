"""Where results lie: the layout of trait-interp's `experiments/` folder, read and written.

steering/{trait}/{variant}/{position slug}/{prompt set}/results.jsonl     (a trait is often CATEGORY/NAME)
steering/.../responses/{component}/{method}/L15_c1000.0_2026-01-11_09-08-38.json
steering/.../responses/baseline.json
inference/{variant}/massive_activations/calibration.json
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from massact.domain import COMPONENT
from massact.errors import DataError, UsageError
from massact.transfer.lines import ResultLine
from massact.vectors.positions import parse_position_slug

RESULTS, RESPONSES, BASELINE_RESPONSES = "results.jsonl", "responses", "baseline.json"
_CALIBRATION = re.compile(r"calibration(?:-[0-9a-f]{8})?\.json")
_CLOCK_SLACK_SECONDS = (0, 1)
"""A responses file is named by a clock read just before the one that dates its line."""


@dataclass(frozen=True, slots=True)
class Source:
    """A file to import, and what its place in the layout tells; `None` where it lies outside one."""

    path: Path
    kind: Literal["results", "calibration"]
    trait: str | None = None
    variant: str | None = None
    position: str | None = None
    """Position window of the folder, such as `response[:5]`."""
    prompt_set: str | None = None
    leads_out: bool = False
    """Whether it is a link to a file that lies outside the folder that was asked for."""


def find_sources(path: Path) -> list[Source]:
    """The files to import: the one named, or those below a folder, ordered by path.

    Raises:
        DataError: there is no such path, it cannot be read, or nothing lies below it.
    """
    if path.is_dir():
        root = path.resolve()
        found = [replace(_source(one), leads_out=not is_within(one, root)) for one in _walk(path)]
        if not found:
            raise DataError(
                f"{path}: nothing to import. Looked below it for steering/TRAIT/VARIANT/POSITION/PROMPT_SET/"
                f"{RESULTS} and inference/VARIANT/massive_activations/calibration.json"
            )
        return found
    if not path.is_file():
        raise DataError(f"{path}: no such file or folder; pass a {RESULTS} or an experiments/ folder")
    return [_source(path)]


def is_within(path: Path, folder: Path) -> bool:
    """Whether a path, its links followed, lies below a folder; the folder has been resolved."""
    try:
        return path.resolve().is_relative_to(folder)
    except (OSError, RuntimeError, ValueError):  # links in a circle, or no name for a file
        return False


def _walk(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            is_calibration = _CALIBRATION.fullmatch(name) and Path(place).name == "massive_activations"
            if name == RESULTS or is_calibration:
                yield Path(place, name)


def _source(path: Path) -> Source:
    parts = path.absolute().parent.parts
    if _CALIBRATION.fullmatch(path.name):
        in_layout = len(parts) >= 3 and parts[-3] == "inference" and parts[-1] == "massive_activations"
        return Source(path, "calibration", variant=parts[-2] if in_layout else None)
    for index in range(len(parts)):
        position = _position(parts[index])
        # the folder of the layout, not a prompt set or a home of the same name
        starts = [i for i in range(index - 2) if parts[i] == "steering"]
        if position is not None and starts:
            trait = "/".join(parts[starts[-1] + 1 : index - 1])
            return Source(path, "results", trait, parts[index - 1], position, "/".join(parts[index + 1 :]))
    return Source(path, "results")


def _position(slug: str) -> str | None:
    try:
        return str(parse_position_slug(slug))
    except UsageError:
        return None


def find_responses(results: Path, line: ResultLine) -> Path | None:
    """The responses file that lies beside a results file for one of its evaluations."""
    if line.timestamp is None or line.is_baseline:
        return None
    folder = results.parent / RESPONSES
    for seconds in _CLOCK_SLACK_SECONDS:
        name = responses_name(line, earlier=seconds)
        if name is not None and (folder / name).is_file():
            return folder / name
    return None


def responses_name(line: ResultLine, *, earlier: int = 0) -> str | None:
    """The name of an evaluation's responses file within `responses/`; `None` where it can have none."""
    first, config = line.vectors[0], line.config or {}
    component, method = config.get("component") or first.component or COMPONENT, config.get("method")
    method = method or first.method
    if not (_is_name(component) and _is_name(method)) or line.timestamp is None:
        return None
    layers = "_".join(str(vector.layer) for vector in line.vectors)
    coefficients = "_".join(f"{vector.weight:.1f}" for vector in line.vectors)
    moment = datetime.fromisoformat(line.timestamp).replace(microsecond=0, tzinfo=None)
    try:
        moment -= timedelta(seconds=earlier)
    except OverflowError:
        return None
    name = f"L{layers}_c{coefficients}_{moment:%Y-%m-%d_%H-%M-%S}.json"
    return f"{component}/{method}/{name}" if len(name) < 250 else None


def _is_name(text: object) -> bool:
    """Whether a text names one folder: what a line says must not lead out of its own."""
    return isinstance(text, str) and bool(re.fullmatch(r"[^/\\\0]{1,200}", text)) and text not in (".", "..")
