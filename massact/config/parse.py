"""Reading an experiment file: every key is known, every value is checked, before anything runs."""

from pathlib import Path

from massact.config.extraction import parse_calibration, parse_extraction, parse_window
from massact.config.helpers import optional, unique
from massact.config.judge import parse_judge
from massact.config.models import parse_grid, parse_model
from massact.config.values import Experiment, ExtractionConfig, Grid, ModelConfig, PhaseConfig, TraitConfig
from massact.config.yaml_reader import Entry, Section, read_yaml
from massact.domain import DEFAULT_COHERENCE_FLOOR, DEFAULT_LEAST_SCORED, Generation
from massact.errors import ConfigError
from massact.labels import normalise_label

PHASES = ("phase1", "phase2", "phase3")
"""Phases that evaluate cells, and so declare labels; phase 4 asks questions only."""


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
    models = tuple(parse_model(name, entry) for name, entry in top.take("models").section().names())
    extraction = parse_extraction(top.take("extraction").section())
    experiment = Experiment(
        name=top.take("name").text(),
        description=optional(top, "description", Entry.text, ""),
        file=file,
        models=models,
        traits=tuple(_trait(name, entry) for name, entry in top.take("traits").section().names()),
        calibration=parse_calibration(top.take("calibration").section()),
        extraction=extraction,
        generation=_generation(top.take("generation").section()),
        judge=parse_judge(top.take("judge")),
        coherence_floor=optional(
            top, "coherence_floor", lambda e: e.number(low=0, high=100), DEFAULT_COHERENCE_FLOOR
        ),
        subset=optional(top, "subset", Entry.integer, 0),
        phases=_phases(top.take("phases"), models, extraction),
        confirm_share=optional(top, "questions", _confirm_share, None),
        least_scored=optional(top, "least_scored", lambda e: e.number(low=0, high=1), DEFAULT_LEAST_SCORED),
    )
    top.close()
    return experiment


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
        temperature=optional(section, "temperature", lambda e: e.number(low=0, high=10), 0.0),
        seed=optional(section, "seed", Entry.integer, 0),
    )
    section.close()
    return generation


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
    grids = section.find("grids")
    phase = PhaseConfig(
        name=name,
        labels=unique(section.take("labels"), lambda e: e.checked(lambda value: normalise_label(str(value)))),
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
