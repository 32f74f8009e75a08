"""Reading an experiment file: every key is known, every value is checked, before anything runs."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, fields, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from massact.config.judges import parse_judge, parse_load
from massact.config.values import (
    AdapterConfig,
    BaselinesConfig,
    CalibrationConfig,
    ChatConfig,
    Experiment,
    ExtractionConfig,
    GateConfig,
    Grid,
    ModelConfig,
    PhaseConfig,
    TraitConfig,
    VariantConfig,
    VectorConfig,
    VettingConfig,
)
from massact.config.yaml import Entry, Readers, Section, all_of, defaults_of, read_yaml
from massact.domain import IMPORTED, METHODS, OPERATORS, AllDims, Coefficients, Generation, Recipe, all_methods
from massact.errors import ConfigError, UsageError
from massact.floors import COHERENCE, Floor
from massact.keys import canonical_json
from massact.labels import check_layers, normalise_label, parse_label
from massact.metrics import METRIC_NAME, METRICS, all_metrics
from massact.names import shown
from massact.plugins import declare_own, forget_own
from massact.store.schema import EvaluationRow
from massact.vectors.positions import parse_position

# The sections `models` and `grids` of an experiment file.

_LARGEST = 1e12
_STRONGEST = 10.0  # relative strength at most: text breaks near 1, whatever the model
_MOST_COEFFICIENTS = 1000
_MOST_ARGUMENTS = 1000  # characters of a chat template's arguments: they stand in the row of every run


def parse_model(name: str, entry: Entry) -> ModelConfig:
    section = entry.section()
    parts: tuple[Callable[[], Any], ...] = (
        lambda: section.read({"instruct": _variant, "base": _variant}, {"base": None}),
        lambda: parse_load(section),
        lambda: ChatConfig(**section.read(_CHAT, defaults_of(ChatConfig))),
        lambda: Grid(**section.read(_GRID, {})),
        lambda: section.rest({"coefficient_range": _range}, defaults_of(ModelConfig)),
    )
    variants, load, chat, grid, rest = all_of(parts)
    instruct = variants["instruct"]
    load = replace(load, chat=chat)
    return ModelConfig(name, variants["base"] or instruct, instruct, load, grid, **rest)


def _thinking(entry: Entry) -> str:
    if isinstance(entry.value, bool):  # YAML's on and off
        return "on" if entry.value else "off"
    if entry.value in ("on", "off"):
        return str(entry.value)
    if not isinstance(entry.value, int) or entry.value < 0:
        raise entry.error(f"{shown(entry.value)} is not allowed; write off, on or a number of tokens")
    return str(entry.value)


def _arguments(entry: Entry) -> str | None:
    text = canonical_json(entry.section().plain())
    if len(text) > _MOST_ARGUMENTS:
        raise entry.error(f"takes {len(text)} characters as JSON; {_MOST_ARGUMENTS} are the most")
    return text if text != "{}" else None


_CHAT: Readers = {"thinking": _thinking, "template_arguments": _arguments}


def _variant(entry: Entry) -> VariantConfig:
    section = entry.section()
    optional = dict.fromkeys(("revision", "adapter", "adapter_revision"))
    readers = {"variant": lambda e: e.name("variant"), "model": Entry.text, **dict.fromkeys(optional, Entry.text)}
    read = section.rest(readers, {"variant": entry.key.rpartition(".")[2], **optional})
    if read["adapter"] is None and (revision := section.find("adapter_revision", may_be_empty=True)):
        raise revision.error("there is no adapter here that it could belong to; write the key 'adapter' too")
    adapter = AdapterConfig(read["adapter"], read["adapter_revision"]) if read["adapter"] else None
    return VariantConfig(read["variant"], read["model"], read["revision"], adapter)


def _layers(entry: Entry) -> str:
    is_list = isinstance(entry.value, list) and entry.value
    spec = ",".join(map(str, entry.unique(Entry.integer))) if is_list else entry.spelled()
    return entry.checked(lambda _: check_layers(spec))


def _coefficients(entry: Entry) -> Coefficients:
    if isinstance(entry.value, dict):
        section = entry.section()
        strengths = _numbers(section.take("relative"))
        section.close()
        return Coefficients(strengths, is_relative=True)
    return Coefficients(_numbers(entry))


def _numbers(entry: Entry) -> tuple[float, ...]:
    n = len(entry.items())
    if n > _MOST_COEFFICIENTS:
        raise entry.error(f"{n} coefficients; a grid has {_MOST_COEFFICIENTS} at most")
    most = _STRONGEST if entry.key.endswith(".relative") else _LARGEST
    return entry.unique(lambda item: item.checked(lambda _: check_coefficient(item.number(low=-most, high=most))))


_GRID: Readers = {"layers": _layers, "coefficients": _coefficients}


def check_coefficient(value: float) -> float:
    """A coefficient that can be evaluated. Raises UsageError: it is 0, which is the baseline, or beyond any use."""
    if not abs(value) <= _LARGEST:  # nor is NaN
        raise UsageError(f"coefficient {value:g} is not a number from {-_LARGEST:g} to {_LARGEST:g}")
    if value == 0:
        raise UsageError("coefficient 0 steers nothing: that is the baseline, which every setting gets by itself")
    return value


def parse_coefficients(text: str) -> Coefficients:
    """Coefficients from a comma-separated list, each once; relative strengths after `relative:`. Else a UsageError."""
    listed = text.removeprefix("relative:")
    is_relative = listed != text
    try:
        values = dict.fromkeys(_listed(part.strip(), is_relative=is_relative) for part in listed.split(","))
    except UsageError as error:
        raise UsageError(f"--coefficients {text!r}: {error}") from error
    return Coefficients(tuple(values), is_relative)


def _listed(part: str, *, is_relative: bool) -> float:
    try:
        value = float(part)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UsageError(f"{part!r} is not a number; write 800,1000,1200 or relative:0.4,0.6")
    if is_relative and abs(value) > _STRONGEST:
        raise UsageError(f"{value:g} is no relative strength from -{_STRONGEST:g} to {_STRONGEST:g}")
    return check_coefficient(value)


def _range(entry: Entry) -> tuple[float, float]:
    bounds = [item.number(low=0, high=_LARGEST) for item in entry.items()]
    if len(bounds) != 2 or bounds[0] > bounds[1] or bounds[1] == 0:
        raise entry.error("write the least and the greatest absolute coefficient, such as [800, 2500]")
    return bounds[0], bounds[1]


# The sections `calibration` and `extraction` of an experiment file.

LARGEST_SPLIT = 0.5  # share of a side that validation may take at most


def parse_extraction(entry: Entry) -> ExtractionConfig:
    section = entry.section()
    readers: Readers = {
        "positions": lambda e: e.unique(parse_window),
        "max_new_tokens": lambda e: e.integer(at_least=1),
        "methods": lambda e: e.unique(_method),
        "uniform_dims": lambda e: e.unique(_n_dims, may_be_empty=True),
        "layer_dims": lambda e: e.unique(_n_dims, may_be_empty=True),
        "validation_split": lambda e: e.number(low=0, high=LARGEST_SPLIT),
        "seed": Entry.integer,
        "vetting": _vetting,
    }
    read = section.rest(readers, defaults_of(ExtractionConfig))
    needed = [parse_position(position).n_response_tokens for position in read["positions"]]
    longest = max((n for n in needed if n is not None), default=1)
    tokens = section.find("max_new_tokens")
    if tokens is not None and read["max_new_tokens"] < longest:
        raise tokens.error(
            f"{read['max_new_tokens']} tokens are fewer than the longest position window reads ({longest})"
        )
    return ExtractionConfig(**{**read, "max_new_tokens": read["max_new_tokens"] if tokens else max(longest, 1)})


def _method(entry: Entry) -> str:
    if isinstance(entry.value, str) and ":" in entry.value:
        return _declared("methods", entry, METHODS)
    return entry.choice(*(METHODS if entry.value in METHODS else all_methods()))


def _declared(kind: str, entry: Entry, taken: Sequence[str], before: str = "") -> str:
    """The name of a function `module:function` of a file beside this one, which labels can have from now on."""
    name = entry.checked(lambda _: declare_own(kind, entry.text(), Path(entry.file).parent))
    with suppress(UsageError):
        recipe = parse_label(before + name)
        if name not in taken and not recipe.is_imported and name in (recipe.method, recipe.operator):
            return name
    raise entry.error(
        f"a label cannot have {name!r}: it is taken, begins with {IMPORTED}, or ends as a cleaning does; rename the "
        "function"
    )


def parse_vectors(entry: Entry) -> tuple[VectorConfig, ...]:
    """Files by method; a list of them where each model or trait has its own."""

    def files(name: str, entry: Entry) -> list[VectorConfig]:
        return [_vector(name, file) for file in (entry.items() if isinstance(entry.value, list) else [entry])]

    return tuple(chain.from_iterable(entry.each(files)))


def _vector(name: str, entry: Entry) -> VectorConfig:
    if not name.startswith(IMPORTED) or entry.checked(lambda _: parse_label(name)) != Recipe(name):
        raise entry.error(f"call it {IMPORTED}NAME, of lower-case letters, digits and _, without a cleaning's ending")
    readers: Readers = {
        "file": Entry.text,
        "model": Entry.text,
        "trait": Entry.text,
        "layer": Entry.integer,
        "layer_shift": lambda e: int(e.number(low=-1, high=1)),
        "index": Entry.integer,
    }
    return entry.into(VectorConfig, readers, name=name)


def _gate(name: str, entry: Entry) -> GateConfig:
    if re.fullmatch(r"[a-z][a-z0-9_]*", name) is None:
        raise entry.error("call a gate by lower-case letters, digits and _")
    readers: Readers = {
        "label": lambda e: e.checked(lambda _: _bare_label(e.spelled())),
        "position": _prompt_window,
        "layer": Entry.integer,
        "trait": Entry.text,
        "threshold": lambda e: e.number(low=-_LARGEST, high=_LARGEST),
        "measure": lambda e: e.choice("projection", "cosine"),
        "opens": lambda e: e.choice("above", "below"),
    }
    return entry.into(GateConfig, readers, name=name)


def _bare_label(label: str) -> str:
    recipe = parse_label(label)
    if recipe != recipe.of_vector:
        raise UsageError(f"{label!r} says how to steer: a condition vector is a method, perhaps cleaned")
    return normalise_label(label)


def _prompt_window(entry: Entry) -> str:
    window = parse_window(entry)
    if parse_position(window).frame != "prompt":
        raise entry.error(f"{window}: a gate looks at the prompt; write prompt[-1] or another window of it")
    return window


def with_validation_split(experiment: Experiment, share: float | None) -> Experiment:
    """The experiment with the validation split of the command line, where one is given."""
    if share is None:
        return experiment
    if not 0 <= share <= LARGEST_SPLIT:
        raise UsageError(f"--val-split {share:g}: write a share of each side, from 0 to {LARGEST_SPLIT:g}")
    extraction = replace(experiment.extraction, validation_split=share, is_split_given=True)
    return replace(experiment, extraction=extraction)


def _vetting(entry: Entry) -> VettingConfig:
    readers = {
        "positive_at_least": lambda e: e.number(low=0, high=100),
        "negative_at_most": lambda e: e.number(low=0, high=100),
        "filter": lambda e: e.choice("paired", "independent"),
        "max_new_tokens": lambda e: e.integer(at_least=1),
    }
    config = entry.into(VettingConfig, readers)
    if config.negative_at_most >= config.positive_at_least:
        raise (entry.section().find("negative_at_most") or entry).error(
            f"negative_at_most {config.negative_at_most:g} is not below positive_at_least "
            f"{config.positive_at_least:g}: a continuation could pass on both sides"
        )
    return config


def _n_dims(entry: Entry) -> int | AllDims:
    return "all" if entry.value == "all" else entry.integer(at_least=1)


def parse_window(entry: Entry) -> str:
    return str(entry.checked(lambda _: parse_position(entry.spelled())))


_EXAMPLES, _SEEDS = 4, 19
"""Of `few_shot` and `random` where the file does not say: of 19 random directions the least p-value is 0.05."""
_MOST_EXAMPLES, _MOST_SEEDS = 1000, 10_000


def parse_baselines(entry: Entry) -> BaselinesConfig:
    """Names of baselines as a list; or a section of them, each with `true` or what it takes."""
    readers: Readers = {
        "prompt": _prompt,
        "few_shot": lambda e: _count(e, _EXAMPLES, _MOST_EXAMPLES),
        "random": lambda e: _count(e, _SEEDS, _MOST_SEEDS),
    }
    if not isinstance(entry.value, list):
        return entry.into(BaselinesConfig, readers)
    usual: dict[str, Any] = {"prompt": True, "few_shot": _EXAMPLES, "random": _SEEDS}
    return BaselinesConfig(**{name: usual[name] for name in entry.unique(lambda item: item.choice(*usual))})


def _prompt(entry: Entry) -> bool | str | tuple[tuple[str, str], ...]:
    if isinstance(entry.value, bool):
        return entry.value
    return entry.each(lambda trait, text: (trait, text.text())) if isinstance(entry.value, dict) else entry.text()


def _count(entry: Entry, usual: int, most: int) -> int:
    return usual * entry.value if isinstance(entry.value, bool) else entry.integer(at_least=1, at_most=most)


PHASES = ("phase1", "phase2", "phase3")
"""Phases that evaluate cells, and so declare labels; phase 4 asks questions only."""
MOST_GROUPS = 100_000
"""Groups that a file declares at most: what its lists multiply to is found out before any of it is walked."""
_LEAST_TEMPERATURE = 0.01


def load_experiment(path: str | Path) -> Experiment:
    """Read and validate an experiment file; a ConfigError names file, line, key, value and what is allowed."""
    file = Path(path)
    if not file.is_file():
        raise ConfigError(f"no experiment file {str(file)!r}: pass --experiment FILE, such as experiments/toy.yaml")
    forget_own()
    top = read_yaml(file).section()
    values: dict[str, Any] = {}

    def read(key: str, parse: Callable[[Entry], Any]) -> None:
        values.update(top.read({key: parse}, _DEFAULTS))

    def phases(entry: Entry) -> tuple[PhaseConfig, ...]:
        return _phases(entry, values.get("models"), values.get("extraction"))

    readers = {**_SECTIONS, "phases": phases}
    attempts: list[Callable[[], None]] = [*(partial(read, *reader) for reader in readers.items()), top.close]
    all_of(attempts)
    if floor := values.pop("floor"):
        if top.find("coherence_floor") is not None:
            raise top.take("floor").error("there is a coherence_floor too: leave one of them out")
        if not floor.is_coherence and floor.metric not in values["metrics"]:
            raise top.take("floor").error(f"{floor.metric} is not measured: write it under metrics")
        values["coherence_floor"] = floor
    experiment = Experiment(file=file, confirm_share=values.pop("questions"), **values)
    _check_vectors(experiment, top)
    n_groups = sum(len(phase.models) * len(phase.positions) * len(phase.labels) for phase in experiment.phases)
    if n_groups * len(experiment.traits) > MOST_GROUPS:
        raise top.take("phases").error(
            f"declares {n_groups * len(experiment.traits):,} groups of model, trait, position and label; write fewer: "
            f"{MOST_GROUPS:,} are the most that are taken"
        )
    return experiment


def _check_vectors(experiment: Experiment, top: Section) -> None:
    """What vectors of other tools are of, and whether each that a phase names is there."""
    models, traits = ({None, *(thing.name for thing in known)} for known in (experiment.models, experiment.traits))
    declared: tuple[VectorConfig | GateConfig, ...] = (*experiment.vectors, *experiment.gates)
    for config in declared:
        key = "gates" if isinstance(config, GateConfig) else "vectors"
        for name, known in ((getattr(config, "model", None), models), (config.trait, traits)):
            if name not in known:
                raise top.take(key).error(f"{config.name} is of {name!r}, which the file does not declare")
    by_trait = experiment.baselines.prompt
    if isinstance(by_trait, tuple) and (unknown := {trait for trait, _ in by_trait} - traits):
        raise top.take("baselines").error(f"prompt: the file declares no trait {min(unknown)!r}")
    for gate in experiment.gates:
        if gate.label.startswith(IMPORTED) and gate.threshold is None:
            raise top.take("gates").error(f"{gate.name} has a vector of another tool: write its threshold")
        if gate.position not in experiment.extraction.positions and not gate.label.startswith(IMPORTED):
            raise top.take("gates").error(f"{gate.name}: {gate.position} is not among extraction.positions")
    labels = [parse_label(label) for phase in experiment.phases for label in phase.labels]
    labels += (parse_label(gate.label) for gate in experiment.gates)
    there = {vector.name for vector in experiment.vectors}
    if absent := sorted({label.method for label in labels if label.is_imported} - there):
        raise top.take("phases").error(f"{', '.join(absent)}: name its file under the key 'vectors'")
    if shut := sorted({label.gate for label in labels if label.gate} - {gate.name for gate in experiment.gates}):
        raise top.take("phases").error(f"+if_{shut[0]}: declare {shut[0]} under the key 'gates'")


def _metric(entry: Entry) -> str:
    if isinstance(entry.value, str) and ":" in entry.value:
        name = entry.checked(lambda _: declare_own("metrics", entry.text(), Path(entry.file).parent))
    else:
        name = entry.choice(*all_metrics())
    taken = {COHERENCE, "trait", *(field.name for field in fields(EvaluationRow))}
    if name in taken or (":" in str(entry.value) and name in METRICS) or not METRIC_NAME.fullmatch(name):
        raise entry.error(f"a metric cannot be called {name!r}: write another name of lower-case letters, digits and _")
    return name


def _floor(entry: Entry) -> Floor:
    section = entry.section()
    limits = {"at_most": lambda e: e.number(), "at_least": lambda e: e.number()}
    read = section.rest({"metric": Entry.text, **limits}, dict.fromkeys(limits))
    given = {name: read[name] for name in limits if read[name] is not None}
    if len(given) != 1:
        raise entry.error("write one limit, at_most or at_least")
    ((name, limit),) = given.items()
    return entry.checked(lambda _: Floor.of(read["metric"], limit, is_most=name == "at_most"))


def _temperature(entry: Entry) -> float:
    temperature = entry.number(low=0, high=10)
    if 0 < temperature < _LEAST_TEMPERATURE:
        raise entry.error(f"{temperature:g} is too near to 0 to sample with; write 0 for greedy responses")
    return temperature


def _confirm_share(entry: Entry) -> float:
    section = entry.section()
    confirm = section.take("confirm")
    share = confirm.number()
    if not 0 < share < 1:
        raise confirm.error(f"{confirm.value!r} is not a share between 0 and 1; 0.4 keeps four tenths of the questions")
    section.close()
    return share


def _phases(
    entry: Entry, models: tuple[ModelConfig, ...] | None, extraction: ExtractionConfig | None
) -> tuple[PhaseConfig, ...]:
    """The phases that are declared; what is `None` has faults of its own, and nothing is held against it."""
    section = entry.section()
    phases = {name: partial(_phase, name, models=models, extraction=extraction) for name in PHASES}
    read = section.rest(phases, dict.fromkeys(PHASES))
    return tuple(phase for phase in read.values() if phase is not None)


def _phase(
    name: str, entry: Entry, models: tuple[ModelConfig, ...] | None, extraction: ExtractionConfig | None
) -> PhaseConfig:
    section, known = entry.section(), tuple(model.name for model in models or ())
    readers: Readers = {
        "models": lambda e: e.unique(lambda item: item.choice(*known) if known else item.text()),
        "grids": lambda e: e.each(lambda model, grid: (model, grid.into(Grid, _GRID))),
        "labels": lambda e: e.unique(lambda item: item.checked(lambda _: normalise_label(item.spelled()))),
        "positions": lambda e: e.unique(lambda item: _extracted(item, extraction)),
    }
    positions = {} if extraction is None else {"positions": extraction.positions}
    read = section.rest(readers, {"models": known, "grids": None, **positions})
    grids = section.find("grids", may_be_empty=True)
    for model, _ in read["grids"] or ():
        if known and grids and model not in read["models"]:
            raise (grids.section().find(model) or grids).error(
                f"the phase uses no model of that name; it uses {', '.join(read['models'])}"
            )
    return PhaseConfig(name, read["models"], read["positions"], read["labels"], read["grids"] or ())


def _extracted(entry: Entry, extraction: ExtractionConfig | None) -> str:
    position = parse_window(entry)
    if extraction is not None and position not in extraction.positions:
        raise entry.error(f"{position} is not among extraction.positions ({', '.join(extraction.positions)})")
    return position


_RESPONSES = Generation(max_new_tokens=64)  # how responses are generated where the file does not say
_CALIBRATION: Readers = {
    "prompts": Entry.text,
    "max_new_tokens": lambda e: e.integer(at_least=1),
    "n_top": lambda e: e.integer(at_least=5),
}
_TRAIT: Readers = {"dataset": Entry.text, "direction": lambda entry: entry.choice("positive", "negative")}
_GENERATION: Readers = {
    "max_new_tokens": lambda entry: entry.integer(at_least=1),
    "temperature": _temperature,
    "seed": Entry.integer,
}
_SECTIONS: Readers = {
    "name": lambda entry: entry.name("experiment"),
    "description": Entry.text,
    "traits": lambda entry: entry.each(lambda name, trait: trait.into(TraitConfig, _TRAIT, name=name)),
    "models": lambda entry: entry.each(parse_model),
    "calibration": lambda entry: entry.into(CalibrationConfig, _CALIBRATION),
    "extraction": parse_extraction,
    "generation": lambda entry: Generation(**entry.section().rest(_GENERATION, asdict(_RESPONSES))),
    "judge": parse_judge,
    "coherence_floor": lambda entry: entry.number(low=0, high=100),
    "floor": _floor,
    "metrics": lambda entry: entry.unique(_metric, may_be_empty=True),
    "metric_tokens": Entry.integer,
    "least_scored": lambda entry: entry.number(low=0, high=1),
    "subset": Entry.integer,
    "questions": _confirm_share,
    "vectors": parse_vectors,
    "operators": lambda e: e.unique(lambda entry: _declared("operators", entry, OPERATORS, f"{METHODS[0]}+")),
    "gates": lambda entry: entry.each(_gate),
    "baselines": parse_baselines,
}
"""How each key at the top of the file is read, but `phases`, which needs models and extraction."""
_DEFAULTS: Mapping[str, Any] = {
    **defaults_of(Experiment),
    "questions": None,
    "floor": None,
    "calibration": CalibrationConfig(),
    "extraction": ExtractionConfig(),
    "generation": _RESPONSES,
}
"""Keys that may be left out."""
