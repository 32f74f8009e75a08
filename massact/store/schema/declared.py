"""What an experiment file declares, as far as questions ask, and the experiment tags that hold it in the store.

The text is JSON, compressed and in base64, split over numbered tags. Before it in the first tag stand the
version, how many tags there are, a digest of the text and when it was written: so tags of two writers
are told apart, and of two MLflow experiments that hold one experiment's runs the newer one counts."""

import base64
import binascii
import hashlib
import json
import math
import re
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from massact.domain import DEFAULT_LEAST_SCORED, Direction, Group
from massact.errors import UnknownNameError, UsageError
from massact.floors import Floor, as_floor
from massact.json_text import parse_json, read_as
from massact.store.schema.names import DECLARED_TAG, EXPERIMENT_TAG_LIMIT
from massact.store.schema.points import experiment_digest
from massact.store.schema.rows import EvaluationRow

DECLARED_VERSION = 1
MAX_PARTS = 100  # tags at most; a matrix of a thousand labels needs three
_MAX_TEXT = 4_000_000  # characters of JSON that are unpacked; nobody's file comes near


@dataclass(frozen=True, slots=True)
class DeclaredPhase:
    """What a phase asks for: every model with every position and label."""

    name: str
    models: tuple[str, ...]
    positions: tuple[str, ...]
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DeclaredSetting:
    """What a file alone tells of the setting that its cells are evaluated in."""

    judge: str  # such as `openai:gpt-4.1-mini`; empty: any, as where a question asks for a judge by name
    subset: int
    max_new_tokens: int
    temperature: float
    seed: int
    directions: Mapping[str, Direction]
    weights: Mapping[str, str] = field(default_factory=dict)
    """References of the steered weights, by the file's name of the model."""
    confirm_share: float | None = None
    chats: Mapping[str, tuple[str | None, str | None]] = field(default_factory=dict)
    """`thinking` and `template_arguments` of the models that have any, by the file's name of the model."""
    question_sets: Mapping[str, str] = field(default_factory=dict)  # digests by trait, where the dataset can be read

    def holds(self, row: EvaluationRow) -> bool:
        """Whether a row was evaluated as the file says. What an imported row does not tell is no disagreement."""
        pairs: list[tuple[object, object]] = [
            (row.direction, self.directions.get(row.trait)),
            (row.subset, self.subset),
            (row.max_new_tokens, self.max_new_tokens),
            (row.temperature, self.temperature),
            (row.seed, self.seed if self.temperature else row.seed),  # greedy text does not depend on it
            (row.confirm_share, self.confirm_share),
        ]
        if row.origin == "imported":
            pairs = [(told, wanted) for told, wanted in pairs if told is not None]
        elif not self._is_model(row) or not self._is_asked(row):
            return False
        return self._is_judge(row) and all(told == wanted for told, wanted in pairs)

    def _is_model(self, row: EvaluationRow) -> bool:
        reference = self.weights.get(row.model)
        if reference is None:
            return True
        # a local folder is known by its name, wherever it lies, and a GGUF file, of a repository too, by its own
        name = re.split("[/:]", reference.rstrip("/"))[-1]
        return row.model_id in (reference, name, name.removesuffix(".gguf"))

    def _is_asked(self, row: EvaluationRow) -> bool:
        thinking, arguments = self.chats.get(row.model, (None, None))
        as_said = {"off": (None, "off"), "on": ("on", "always"), None: (None, "off", "always")}
        # arguments may be the switch
        is_as_said = row.thinking in as_said.get(thinking, (thinking,)) or (arguments and thinking is None)
        return bool(is_as_said) and row.template_arguments == arguments

    def _is_judge(self, row: EvaluationRow) -> bool:
        if not self.judge or row.judge == self.judge:
            return True
        # an imported file may tell the judging model and not how it was asked
        model = self.judge.partition(":")[2]
        return row.origin == "imported" and (row.judge_model or model) == model


@dataclass(frozen=True, slots=True)
class Declared:
    """The part of an experiment file that questions need."""

    experiment: str
    floor: float
    traits: tuple[str, ...]
    phases: tuple[DeclaredPhase, ...]
    coefficient_ranges: Mapping[str, tuple[float, float]]
    """Per model that has one, the least and greatest |coefficient| that may be tried."""
    confirm_share: float | None = None
    printed_models: Mapping[str, str] = field(default_factory=dict)
    """References of weights to the file's names for them; the store does not keep these."""
    setting: DeclaredSetting | None = None  # `None` where an older version kept it
    least_scored: float = DEFAULT_LEAST_SCORED
    source: str = "the run store"

    def groups(self, phase: str | None = None) -> tuple[Group, ...]:
        """The declared matrix, of one phase or of all, in the file's order, each group once; UnknownNameError else."""
        chosen = [declared for declared in self.phases if phase is None or declared.name == phase]
        if phase is not None and not chosen:
            there = ", ".join(declared.name for declared in self.phases)
            raise UnknownNameError(f"{self.source} declares no phase {phase!r}; it declares {there}")
        groups = (
            Group(model, trait, position, label)
            for declared in chosen
            for model in declared.models
            for trait in self.traits
            for position in declared.positions
            for label in declared.labels
        )
        return tuple(dict.fromkeys(groups))


def declared_tag(experiment: str, part: int) -> str:
    """Key of one of the experiment tags that hold what an experiment declares; parts count from 0."""
    return f"{declared_prefix(experiment)}{part}"


def declared_prefix(experiment: str) -> str:
    """What the keys of all of them begin with."""
    return f"{DECLARED_TAG}.{experiment_digest(experiment)}."


def encode_declared(declared: Declared, *, at: int) -> dict[str, str]:
    """The experiment tags, the first one last: whoever reads meanwhile finds that they do not belong together. `at`:
    when it is written, milliseconds since 1970. Raises ValueError: it is too large to be kept in tags."""
    text = json.dumps(declared_content(declared), separators=(",", ":"), allow_nan=False)
    packed = base64.b64encode(zlib.compress(text.encode(), 9)).decode()
    room = EXPERIMENT_TAG_LIMIT - 100  # for what stands before it in the first
    parts = [packed[start : start + room] for start in range(0, len(packed), room)]
    if len(parts) > MAX_PARTS or len(text) > _MAX_TEXT:
        raise ValueError(f"what the file declares takes {len(packed)} characters, too many for tags")
    parts[0] = f"{DECLARED_VERSION} {len(parts)} {_digest(packed)} {at} {parts[0]}"
    return {declared_tag(declared.experiment, i): parts[i] for i in reversed(range(len(parts)))}


def declared_content(declared: Declared) -> dict[str, Any]:
    """What is declared as JSON can hold it, for `declared_from`."""
    return {
        "experiment": declared.experiment,
        "floor": float(declared.floor),
        "floor_rule": as_floor(declared.floor).rule,
        "traits": declared.traits,
        "phases": [[phase.name, phase.models, phase.positions, phase.labels] for phase in declared.phases],
        "ranges": {model: list(ends) for model, ends in declared.coefficient_ranges.items()},
        "confirm": declared.confirm_share,
        "least_scored": declared.least_scored,
        "setting": None if declared.setting is None else asdict(declared.setting),
    }


def decode_declared(experiment: str, tags: Mapping[str, str]) -> tuple[int, Declared] | None:
    """When it was written (ms) and what is declared; `None`: the tags hold nothing; ValueError: something else."""
    first = tags.get(declared_tag(experiment, 0))
    if first is None:
        return None
    try:
        version, count, digest, at, start = first.split(" ")
        n_parts = int(count)
        if int(version) != DECLARED_VERSION or not 1 <= n_parts <= MAX_PARTS:
            raise ValueError(f"version {version} in {count} parts")
        packed = start + "".join(tags[declared_tag(experiment, i)] for i in range(1, n_parts))
        if _digest(packed) != digest:
            raise ValueError("its parts do not belong together")
        unpacking = zlib.decompressobj()
        text = unpacking.decompress(base64.b64decode(packed, validate=True), _MAX_TEXT)
        if not unpacking.eof:
            raise ValueError("it is cut off or too large")
        return int(at), declared_from(experiment, parse_json(text))
    except KeyError as error:
        raise ValueError(f"part {error} is missing") from error
    except (binascii.Error, zlib.error, TypeError, RecursionError) as error:
        raise ValueError(f"it cannot be unpacked: {error}") from error


def declared_from(experiment: str, content: Any) -> Declared:
    """What is declared, from `declared_content`. Raises ValueError: it is something else."""
    if not isinstance(content, dict) or content.get("experiment") != experiment:
        raise ValueError("it is of another experiment")
    if missing := {"floor", "traits", "phases", "ranges", "confirm"} - set(content):
        raise ValueError(f"it has no {', '.join(sorted(missing))}")
    try:
        ranges = read_as(Mapping[str, tuple[float, float]], content["ranges"])
        return Declared(
            experiment=experiment,
            floor=Floor.read(content.get("floor_rule", _within(content["floor"], 100))),
            traits=read_as(tuple[str, ...], content["traits"]),
            phases=tuple(DeclaredPhase(*phase) for phase in read_as(tuple[_PHASE, ...], content["phases"])),
            coefficient_ranges={name: (_within(low), _within(high)) for name, (low, high) in ranges.items()},
            confirm_share=None if content["confirm"] is None else _within(content["confirm"], 1),
            setting=read_as(DeclaredSetting | None, content.get("setting")),
            least_scored=_within(content.get("least_scored", DEFAULT_LEAST_SCORED), 1),
            source=f"what the run store keeps of {experiment!r}'s file",
        )
    except (TypeError, UsageError) as error:
        raise ValueError(f"it is damaged: {error}") from error


_PHASE = tuple[str, tuple[str, ...], tuple[str, ...], tuple[str, ...]]  # name, models, positions and labels


def _within(value: Any, most: float = math.inf) -> float:
    number = float(read_as(float, value))
    if not 0 <= number <= most:
        raise ValueError(f"{value!r} is no number from 0 to {most:g}")
    return number


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
