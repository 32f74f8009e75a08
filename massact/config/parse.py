"""Reading an experiment file: every key is known, every value is checked, before anything runs."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from massact.config.values import (
    CalibrationConfig,
    Experiment,
    ExtractionConfig,
    Grid,
    JudgeConfig,
    ModelConfig,
    PhaseConfig,
    TraitConfig,
    VariantConfig,
)
from massact.config.yaml_reader import Entry, Section, read_yaml
from massact.domain import DEFAULT_COHERENCE_FLOOR, METHODS, AllDims, Generation
from massact.errors import ConfigError
from massact.labels import normalise_label
from massact.layers import check_layers
from massact.vectors.positions import parse_position

T = TypeVar("T")
PHASES = ("phase1", "phase2", "phase3")
"""Phases that evaluate cells, and so declare labels; phase 4 asks questions only."""
DTYPES = ("auto", "float32", "bfloat16", "float16")
_LARGEST = 1e12


def load_experiment(path: str | Path) -> Experiment:
    """Read and validate an experiment file.

    Raises:
        ConfigError: anything in it is wrong; the message names file, line, key, value and what is allowed.
    """
    file = Path(path)
    if not file.is_file():
        raise ConfigError(
            f"no experiment file {str(file)!r}: pass --experiment FILE, such as experiments/toy.yaml"
        )
    top = read_yaml(file).section()
    models = tuple(_model(name, entry) for name, entry in top.take("models").section().names())
    extraction = _extraction(top.take("extraction").section())
    experiment = Experiment(
        name=top.take("name").text(),
        description=_optional(top, "description", Entry.text, ""),
        file=file,
        models=models,
        traits=tuple(_trait(name, entry) for name, entry in top.take("traits").section().names()),
        calibration=_calibration(top.take("calibration").section()),
        extraction=extraction,
        generation=_generation(top.take("generation").section()),
        judge=_judge(top.take("judge")),
        coherence_floor=_optional(
            top, "coherence_floor", lambda e: e.number(low=0, high=100), DEFAULT_COHERENCE_FLOOR
        ),
        subset=_optional(top, "subset", Entry.integer, 0),
        phases=_phases(top.take("phases"), models, extraction),
    )
    top.close()
    return experiment


def _optional(section: Section, key: str, parse: Callable[[Entry], T], default: T) -> T:
    entry = section.find(key)
    return default if entry is None else parse(entry)


def _model(name: str, entry: Entry) -> ModelConfig:
    section = entry.section()
    model = ModelConfig(
        name=name,
        base=_variant(section.take("base").section()),
        instruct=_variant(section.take("instruct").section()),
        dtype=_optional(section, "dtype", lambda e: e.choice(*DTYPES), "auto"),
        device=_optional(section, "device", Entry.text, "auto"),
        grid=_grid(section),
        coefficient_range=_optional(section, "coefficient_range", _range, None),
    )
    section.close()
    return model


def _variant(section: Section) -> VariantConfig:
    variant = VariantConfig(
        name=section.take("variant").text(),
        reference=section.take("model").text(),
        revision=_optional(section, "revision", Entry.text, None),
    )
    section.close()
    return variant


def _grid(section: Section) -> Grid:
    return Grid(
        layers=section.take("layers").checked(lambda value: check_layers(str(value))),
        coefficients=_unique(section.take("coefficients"), _coefficient),
    )


def _coefficient(entry: Entry) -> float:
    return entry.number(low=-_LARGEST, high=_LARGEST)


def _range(entry: Entry) -> tuple[float, float]:
    bounds = [item.number(low=0, high=_LARGEST) for item in entry.items()]
    if len(bounds) != 2 or bounds[0] > bounds[1]:
        raise entry.error("write the least and the greatest absolute coefficient, such as [800, 2500]")
    return bounds[0], bounds[1]


def _trait(name: str, entry: Entry) -> TraitConfig:
    section = entry.section()
    direction = _optional(section, "direction", lambda e: e.choice("positive", "negative"), "positive")
    trait = TraitConfig(
        name=name,
        dataset=section.take("dataset").text(),
        direction="negative" if direction == "negative" else "positive",
    )
    section.close()
    return trait


def _calibration(section: Section) -> CalibrationConfig:
    config = CalibrationConfig(
        prompts=section.take("prompts").text(),
        max_new_tokens=_optional(section, "max_new_tokens", lambda e: e.integer(at_least=1), 32),
        n_top=_optional(section, "n_top", lambda e: e.integer(at_least=5), 10),
    )
    section.close()
    return config


def _extraction(section: Section) -> ExtractionConfig:
    positions = _unique(section.take("positions"), _position)
    needed = [parse_position(position).n_response_tokens for position in positions]
    longest = max((n for n in needed if n is not None), default=1)
    config = ExtractionConfig(
        positions=positions,
        methods=_optional(
            section, "methods", lambda e: _unique(e, lambda item: item.choice(*METHODS)), METHODS
        ),
        uniform_dims=_optional(
            section, "uniform_dims", lambda e: _unique(e, _n_dims), (1, 2, 3, 5, 10, "all")
        ),
        layer_dims=_optional(section, "layer_dims", lambda e: _unique(e, _n_dims), (1, 2, 3)),
        max_new_tokens=_optional(
            section, "max_new_tokens", lambda e: _enough_tokens(e, longest), max(longest, 1)
        ),
        validation_split=_optional(section, "validation_split", lambda e: e.number(low=0, high=0.5), 0.1),
        seed=_optional(section, "seed", Entry.integer, 0),
    )
    section.close()
    return config


def _enough_tokens(entry: Entry, longest: int) -> int:
    n_tokens = entry.integer(at_least=1)
    if n_tokens < longest:
        raise entry.error(f"{n_tokens} tokens are fewer than the longest position window reads ({longest})")
    return n_tokens


def _n_dims(entry: Entry) -> int | AllDims:
    return "all" if entry.value == "all" else entry.integer(at_least=1)


def _position(entry: Entry) -> str:
    return entry.checked(lambda value: str(parse_position(str(value))))


def _generation(section: Section) -> Generation:
    generation = Generation(
        max_new_tokens=section.take("max_new_tokens").integer(at_least=1),
        temperature=_optional(section, "temperature", lambda e: e.number(low=0, high=10), 0.0),
        seed=_optional(section, "seed", Entry.integer, 0),
    )
    section.close()
    return generation


def _judge(entry: Entry) -> JudgeConfig:
    if isinstance(entry.value, str):
        return JudgeConfig(_judge_name(entry))
    section = entry.section()
    judge = JudgeConfig(
        name=_judge_name(section.take("name")),
        base_url=_optional(section, "base_url", Entry.text, None),
        concurrency=_optional(section, "concurrency", lambda e: e.integer(at_least=1), 16),
    )
    section.close()
    return judge


def _judge_name(entry: Entry) -> str:
    name = entry.text()
    if name != "likelihood" and not (name.startswith("openai:") and name.removeprefix("openai:").strip()):
        raise entry.error(f"unknown judge {name!r}; write likelihood or openai:MODEL")
    return name


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
    chosen = _optional(section, "models", lambda e: _unique(e, lambda item: item.choice(*known)), known)
    grids = section.find("grids")
    phase = PhaseConfig(
        name=name,
        labels=_unique(
            section.take("labels"), lambda e: e.checked(lambda value: normalise_label(str(value)))
        ),
        positions=_unique(section.take("positions"), lambda e: _extracted(e, extraction)),
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
    grid = _grid(section)
    section.close()
    return model, grid


def _extracted(entry: Entry, extraction: ExtractionConfig) -> str:
    position = _position(entry)
    if position not in extraction.positions:
        raise entry.error(f"{position} is not among extraction.positions ({', '.join(extraction.positions)})")
    return position


def _unique(entry: Entry, parse: Callable[[Entry], T]) -> tuple[T, ...]:
    values: list[T] = []
    for item in entry.items():
        value = parse(item)
        if value in values:
            raise item.error(f"{value!r} stands twice in the list")
        values.append(value)
    return tuple(values)
