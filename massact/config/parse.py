"""Reading an experiment file: every key is known, every value is checked, before anything runs."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from massact.config.extraction import parse_calibration, parse_extraction, parse_window
from massact.config.helpers import optional, unique
from massact.config.judge import parse_judge
from massact.config.models import parse_grid, parse_model
from massact.config.values import Experiment, ExtractionConfig, Grid, ModelConfig, PhaseConfig, TraitConfig
from massact.config.yaml_reader import Entry, Section, raise_all, read_yaml
from massact.domain import DEFAULT_COHERENCE_FLOOR, DEFAULT_LEAST_SCORED, Generation
from massact.errors import ConfigError
from massact.labels import normalise_label

T = TypeVar("T")
PHASES = ("phase1", "phase2", "phase3")
"""Phases that evaluate cells, and so declare labels; phase 4 asks questions only."""
MOST_GROUPS = 100_000
"""Groups that a file declares at most: what its lists multiply to is found out before any of it is walked."""
_LEAST_TEMPERATURE = 0.01


def load_experiment(path: str | Path) -> Experiment:
    """Read and validate an experiment file.

    Raises:
        ConfigError: anything in it is wrong; the message names file, line, key, value and what is allowed, a line
            for each fault that can be told without the others.
    """
    file = Path(path)
    if not file.is_file():
        raise ConfigError(
            f"no experiment file {str(file)!r}: pass --experiment FILE, such as experiments/toy.yaml"
        )
    top = read_yaml(file).section()
    faults: list[ConfigError] = []
    read = {key: _read(top, key, parse, faults) for key, parse in _SECTIONS.items()}
    phases = lambda entry: _phases(entry, read["models"], read["extraction"])  # noqa: E731  # needs both
    if faults:
        top.find("phases", may_be_empty=True)
    else:
        read["phases"] = _read(top, "phases", phases, faults)
    try:
        top.close()
    except ConfigError as error:
        faults.append(error)
    raise_all(faults)
    experiment = Experiment(file=file, confirm_share=read.pop("questions"), **read)
    n_groups = sum(len(one.models) * len(one.positions) * len(one.labels) for one in experiment.phases)
    if n_groups * len(experiment.traits) > MOST_GROUPS:
        raise top.take("phases").error(
            f"declares {n_groups * len(experiment.traits):,} groups of model, trait, position and label; write fewer: "
            f"{MOST_GROUPS:,} are the most that are taken"
        )
    return experiment


def _read(top: Section, key: str, parse: Callable[[Entry], Any], faults: list[ConfigError]) -> Any:
    """A key at the top of the file; what is wrong with it is added to the faults."""
    try:
        if key in _DEFAULTS:
            return optional(top, key, parse, _DEFAULTS[key])
        return parse(top.take(key))
    except ConfigError as error:
        faults.append(error)
        return None


def _each(entry: Entry, parse: Callable[[str, Entry], T]) -> tuple[T, ...]:
    """What stands under every name of a section; all that is wrong with them is raised at once."""
    read, faults = [], []
    for name, one in entry.section().names():
        try:
            read.append(parse(name, one))
        except ConfigError as error:
            faults.append(error)
    raise_all(faults)
    return tuple(read)


def _trait(name: str, entry: Entry) -> TraitConfig:
    section = entry.section()
    direction = optional(section, "direction", lambda e: e.choice("positive", "negative"), "positive")
    trait = TraitConfig(
        name=name,
        dataset=section.take("dataset").text(),
        direction="negative" if direction == "negative" else "positive",
    )
    section.close()
    return trait


def _generation(section: Section) -> Generation:
    generation = Generation(
        max_new_tokens=section.take("max_new_tokens").integer(at_least=1),
        temperature=optional(section, "temperature", _temperature, 0.0),
        seed=optional(section, "seed", Entry.integer, 0),
    )
    section.close()
    return generation


def _temperature(entry: Entry) -> float:
    temperature = entry.number(low=0, high=10)
    if 0 < temperature < _LEAST_TEMPERATURE:
        raise entry.error(f"{temperature:g} is too near to 0 to sample with; write 0 for greedy responses")
    return temperature


def _confirm_share(entry: Entry) -> float:
    section = entry.section()
    given = section.take("confirm")
    share = given.number()
    if not 0 < share < 1:
        raise given.error(
            f"{given.value!r} is not a share between 0 and 1; 0.4 keeps four tenths of the questions"
        )
    section.close()
    return share


def _phases(
    entry: Entry, models: tuple[ModelConfig, ...], extraction: ExtractionConfig
) -> tuple[PhaseConfig, ...]:
    section = entry.section()
    phases = tuple(_phase(name, section.take(name), models, extraction) for name in PHASES)
    section.close()
    return phases


def _phase(
    name: str, entry: Entry, models: tuple[ModelConfig, ...], extraction: ExtractionConfig
) -> PhaseConfig:
    section = entry.section()
    known = tuple(model.name for model in models)
    chosen = optional(section, "models", lambda e: unique(e, lambda item: item.choice(*known)), known)
    grids = section.find("grids", may_be_empty=True)
    phase = PhaseConfig(
        name=name,
        labels=unique(section.take("labels"), lambda e: e.checked(lambda _: normalise_label(e.spelled()))),
        positions=unique(section.take("positions"), lambda e: _extracted(e, extraction)),
        models=chosen,
        grids=tuple(_phase_grid(model, one, chosen) for model, one in grids.section().names())
        if grids
        else (),
    )
    section.close()
    return phase


def _phase_grid(model: str, entry: Entry, chosen: tuple[str, ...]) -> tuple[str, Grid]:
    if model not in chosen:
        raise entry.error(f"the phase uses no model of that name; it uses {', '.join(chosen)}")
    section = entry.section()
    grid = parse_grid(section)
    section.close()
    return model, grid


def _extracted(entry: Entry, extraction: ExtractionConfig) -> str:
    position = parse_window(entry)
    if position not in extraction.positions:
        raise entry.error(f"{position} is not among extraction.positions ({', '.join(extraction.positions)})")
    return position


_SECTIONS: Mapping[str, Callable[[Entry], Any]] = {
    "name": lambda entry: entry.name("experiment"),
    "description": lambda entry: entry.text(),
    "traits": lambda entry: _each(entry, _trait),
    "models": lambda entry: _each(entry, parse_model),
    "calibration": lambda entry: parse_calibration(entry.section()),
    "extraction": lambda entry: parse_extraction(entry.section()),
    "generation": lambda entry: _generation(entry.section()),
    "judge": parse_judge,
    "coherence_floor": lambda entry: entry.number(low=0, high=100),
    "least_scored": lambda entry: entry.number(low=0, high=1),
    "subset": lambda entry: entry.integer(),
    "questions": _confirm_share,
}
"""How each key at the top of the file is read, but `phases`, which needs models and extraction."""
_DEFAULTS: Mapping[str, Any] = {
    "description": "",
    "coherence_floor": DEFAULT_COHERENCE_FLOOR,
    "least_scored": DEFAULT_LEAST_SCORED,
    "subset": 0,
    "questions": None,
}
"""Keys that may be left out."""
