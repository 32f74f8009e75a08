"""Where results lie, in trait-interp's layout, and under which names they are stored.

steering/{trait}/{variant}/{position slug}/{prompt set}/results.jsonl     (a trait is often CATEGORY/NAME)
steering/.../responses/{component}/{method}/L15_c1000.0_2026-01-11_09-08-38.json
steering/.../responses/baseline.json
inference/{variant}/massive_activations/calibration.json
"""

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from massact.config import Experiment, ModelConfig, VariantConfig
from massact.domain import COMPONENT, Direction
from massact.errors import DataError, UsageError
from massact.interop.lines import Header, LineError, ResultLine
from massact.json_text import read_as
from massact.names import check_name
from massact.vectors.positions import parse_position, parse_position_slug

RESULTS, RESPONSES, BASELINE_RESPONSES = "results.jsonl", "responses", "baseline.json"
_CALIBRATION = re.compile(r"calibration(?:-[0-9a-f]{8})?\.json")
NO_VARIANT = "unknown"  # the variant of a results file that lies outside the layout: its header does not name one
DEFAULT_PROMPT_SET = "steering"


@dataclass(frozen=True, slots=True)
class Source:
    """A file to import, and what its place in the layout tells; `None` where it lies outside one."""

    path: Path
    kind: Literal["results", "calibration"]
    trait: str | None = None
    variant: str | None = None
    position: str | None = None  # position window of the folder, such as `response[:5]`
    prompt_set: str | None = None
    leads_out: bool = False  # whether it is a link to a file that lies outside the folder that was asked for


def find_sources(path: Path) -> list[Source]:
    """The files to import: the one named, or those below a folder, ordered by path."""
    if path.is_dir():
        root = path.resolve()
        names = (RESULTS, "massive_activations/calibration*.json")
        found = sorted(file for name in names for file in path.rglob(name))
        files = (file for file in found if file.name == RESULTS or _CALIBRATION.fullmatch(file.name))
        sources = [replace(_source(file), leads_out=not is_within(file, root)) for file in files]
        if not sources:
            raise DataError(
                f"{path}: nothing to import. Looked below it for steering/TRAIT/VARIANT/POSITION/PROMPT_SET/"
                f"{RESULTS} and inference/VARIANT/massive_activations/calibration.json"
            )
        return sources
    if not path.is_file():
        raise DataError(f"{path}: no such file or folder; pass a {RESULTS} or an experiments/ folder")
    return [_source(path)]


def is_within(path: Path, folder: Path) -> bool:
    """Whether a path, its links followed, lies below a folder; the folder has been resolved."""
    try:
        return path.resolve().is_relative_to(folder)
    except (OSError, RuntimeError, ValueError):  # links in a circle, or no name for a file
        return False


def _source(path: Path) -> Source:
    parts = path.absolute().parent.parts
    if _CALIBRATION.fullmatch(path.name):
        in_layout = len(parts) >= 3 and parts[-3] == "inference" and parts[-1] == "massive_activations"
        return Source(path, "calibration", variant=parts[-2] if in_layout else None)
    for index in range(len(parts)):
        position = None
        with suppress(UsageError):
            position = str(parse_position_slug(parts[index]))
        # the folder of the layout, not a prompt set or a home of the same name
        starts = [i for i in range(index - 2) if parts[i] == "steering"]
        if position is not None and starts:
            trait = "/".join(parts[starts[-1] + 1 : index - 1])
            return Source(path, "results", trait, parts[index - 1], position, "/".join(parts[index + 1 :]))
    return Source(path, "results")


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
    return isinstance(text, str) and bool(re.fullmatch(r"[^/\\\0]{1,200}", text)) and text not in (".", "..")


@dataclass(frozen=True, slots=True)
class Target:
    """What is imported into, and what the caller says about names."""

    experiment: str
    config: Experiment | None = None  # its file, where there is one: the names in it are used
    model: str | None = None  # overrides what file and experiment say
    trait: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the lines of a results file belong, as the header of an export tells it."""

    model: str
    model_id: str
    model_variant: str
    trait: str
    direction: Direction | None = None
    position: str | None = None  # position window of the file's folder; `None` outside the layout
    prompt_set: str
    has_header: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Context(Place):
    """What all lines of a results file share."""

    header: Header

    def to_document(self) -> dict[str, Any]:
        """Its place as JSON, for the header of an export; `resolve_context` reads it back."""
        return {field.name: getattr(self, field.name) for field in fields(Place)}


def resolve_context(source: Source, header: Header, target: Target) -> Context:
    """The names under which a file's results belong."""
    extra = {} if header.extra is None else _parse_extra(header.extra)
    if extra and not extra["has_header"]:
        header = Header()
    variant = extra.get("model_variant", source.variant)
    model, model_id, known = name_model(
        target,
        extra.get("model"),
        variant,
        extra.get("model_id", header.steering_model),
        lambda config: (config.instruct,),
        lacking="no header names the model (steering_model): pass --model",
    )
    trait = _trait(target, extra.get("trait") or source.trait or header.trait)
    # headers without a direction are from before there were others
    default: Direction | None = "positive" if header.document is not None else None
    prompt_set = extra.get("prompt_set") or source.prompt_set or DEFAULT_PROMPT_SET
    return Context(
        model=model,
        model_id=model_id,
        model_variant=checked_name(variant or (known.name if known else NO_VARIANT), "variant"),
        trait=trait,
        direction=header.direction or extra.get("direction", _declared_direction(target, trait) or default),
        position=extra["position"] if extra else source.position,
        prompt_set=checked_name(prompt_set, "prompt set"),
        has_header=header.document is not None,
        header=header,
    )


def checked_name(name: str, what: str, *, may_be_path: bool = False) -> str:
    """A name that a file gives, as it is stored; see `massact.names`."""
    try:
        return check_name(name, what, may_be_path=may_be_path)
    except UsageError as error:
        raise LineError(str(error)) from error


def name_model(
    target: Target,
    name: str | None,
    variant: str | None,
    reference: str | None,
    variants: Callable[[ModelConfig], tuple[VariantConfig, ...]],
    *,
    lacking: str,
) -> tuple[str, str, VariantConfig | None]:
    """Name and reference of a file's model, and the variant of the experiment file that it is."""
    models = target.config.models if target.config else ()
    named = [model for model in models if model.name == (target.model or name)]
    by_variant = [model for model in models if variant in [known.name for known in variants(model)]]
    by_reference = [model for model in models if reference in [known.reference for known in variants(model)]]
    both = [model for model in by_variant if model in by_reference]
    known = next(iter(named or both or by_reference or by_variant), None)
    of_file = None
    if known:
        of_file = next((candidate for candidate in variants(known) if candidate.name == variant), variants(known)[0])
    model = target.model or (known.name if known else name) or last_part(reference)
    model_id = reference or (of_file.reference if of_file else target.model)
    if model is None or model_id is None:
        raise LineError(lacking)
    return (checked_name(model, "model"), checked_name(model_id, "model's reference", may_be_path=True), of_file)


def last_part(reference: str | None) -> str | None:
    """The last component of a reference such as `google/gemma-3-4b-it`."""
    return reference.rstrip("/").rpartition("/")[2] or None if reference else None


def _trait(target: Target, said: str | None) -> str:
    """The caller's name, else the experiment file's, else that of the header or the path."""
    names = [trait.name for trait in target.config.traits] if target.config else []
    if said is not None and said not in names:
        said = next((name for name in names if last_part(name) == last_part(said)), said)
    trait = target.trait or said
    if trait is None:
        raise LineError("neither a header nor the path names the trait: pass --trait")
    return checked_name(trait, "trait")


def _declared_direction(target: Target, trait: str) -> Direction | None:
    traits = target.config.traits if target.config else ()
    return next((known.direction for known in traits if known.name == trait), None)


def direction_note(context: Context, target: Target) -> str | None:
    """What is to be said where header and experiment file steer a trait in different directions."""
    declared = _declared_direction(target, context.trait)
    if declared in (None, context.direction):
        return None
    return (
        f"the header's direction is {context.direction!r}, the experiment file's {declared!r}: the header counts, and "
        "these results are in a setting of their own"
    )


def _parse_extra(extra: Mapping[str, Any]) -> dict[str, Any]:
    try:
        place: Place = read_as(Place, extra)
        position = None if place.position is None else str(parse_position(place.position))
    except ValueError as error:
        raise LineError("header: its `massact` object is damaged; export again, or remove it") from error
    except UsageError as error:
        raise LineError(f"header: {error}") from error
    return {**asdict(place), "position": position}
