"""The sections `calibration` and `extraction` of an experiment file."""

from massact.config.helpers import optional, unique
from massact.config.values import CalibrationConfig, ExtractionConfig
from massact.config.yaml_reader import Entry, Section
from massact.domain import METHODS, AllDims
from massact.vectors.positions import parse_position


def parse_extraction(section: Section) -> ExtractionConfig:
    positions = unique(section.take("positions"), parse_window)
    needed = [parse_position(position).n_response_tokens for position in positions]
    longest = max((n for n in needed if n is not None), default=1)
    config = ExtractionConfig(
        positions=positions,
        methods=optional(
            section, "methods", lambda e: unique(e, lambda item: item.choice(*METHODS)), METHODS
        ),
        uniform_dims=optional(section, "uniform_dims", lambda e: unique(e, _n_dims), (1, 2, 3, 5, 10, "all")),
        layer_dims=optional(section, "layer_dims", lambda e: unique(e, _n_dims), (1, 2, 3)),
        max_new_tokens=optional(
            section, "max_new_tokens", lambda e: _enough_tokens(e, longest), max(longest, 1)
        ),
        validation_split=optional(section, "validation_split", lambda e: e.number(low=0, high=0.5), 0.1),
        seed=optional(section, "seed", Entry.integer, 0),
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


def parse_window(entry: Entry) -> str:
    return entry.checked(lambda value: str(parse_position(str(value))))


def parse_calibration(section: Section) -> CalibrationConfig:
    config = CalibrationConfig(
        prompts=section.take("prompts").text(),
        max_new_tokens=optional(section, "max_new_tokens", lambda e: e.integer(at_least=1), 32),
        n_top=optional(section, "n_top", lambda e: e.integer(at_least=5), 10),
    )
    section.close()
    return config
