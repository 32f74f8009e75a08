"""The sections `calibration` and `extraction` of an experiment file."""

from dataclasses import replace

from massact.config.helpers import optional, unique
from massact.config.values import (
    CalibrationConfig,
    Experiment,
    ExtractionConfig,
    VettingConfig,
    VettingFilter,
)
from massact.config.yaml_reader import Entry, Section
from massact.domain import METHODS, AllDims
from massact.errors import UsageError
from massact.vectors.positions import parse_position

LARGEST_SPLIT = 0.5
"""Share of a side that validation may take at most."""


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
        validation_split=optional(
            section, "validation_split", lambda e: e.number(low=0, high=LARGEST_SPLIT), 0.1
        ),
        seed=optional(section, "seed", Entry.integer, 0),
        vetting=optional(section, "vetting", _vetting, None),
    )
    section.close()
    return config


def with_validation_split(experiment: Experiment, share: float | None) -> Experiment:
    """The experiment with the validation split of the command line, where one is given.

    Raises:
        UsageError: no share of a side that leaves half of it for training.
    """
    if share is None:
        return experiment
    if not 0 <= share <= LARGEST_SPLIT:
        raise UsageError(f"--val-split {share:g}: write a share of each side, from 0 to {LARGEST_SPLIT:g}")
    extraction = replace(experiment.extraction, validation_split=share, is_split_given=True)
    return replace(experiment, extraction=extraction)


def _vetting(entry: Entry) -> VettingConfig:
    section, usual = entry.section(), VettingConfig()
    highest = section.find("negative_at_most")
    config = VettingConfig(
        positive_at_least=optional(section, "positive_at_least", _score, usual.positive_at_least),
        negative_at_most=usual.negative_at_most if highest is None else _score(highest),
        filter=optional(section, "filter", _filter, usual.filter),
        max_new_tokens=optional(
            section, "max_new_tokens", lambda e: e.integer(at_least=1), usual.max_new_tokens
        ),
    )
    section.close()
    if config.negative_at_most >= config.positive_at_least:
        raise (highest or entry).error(
            f"negative_at_most {config.negative_at_most:g} is not below positive_at_least "
            f"{config.positive_at_least:g}: a continuation could pass on both sides"
        )
    return config


def _filter(entry: Entry) -> VettingFilter:
    return "paired" if entry.choice("paired", "independent") == "paired" else "independent"


def _score(entry: Entry) -> float:
    return entry.number(low=0, high=100)


def _enough_tokens(entry: Entry, longest: int) -> int:
    n_tokens = entry.integer(at_least=1)
    if n_tokens < longest:
        raise entry.error(f"{n_tokens} tokens are fewer than the longest position window reads ({longest})")
    return n_tokens


def _n_dims(entry: Entry) -> int | AllDims:
    return "all" if entry.value == "all" else entry.integer(at_least=1)


def parse_window(entry: Entry) -> str:
    position = entry.checked(lambda _: parse_position(entry.spelled()))
    if position.is_empty:
        raise entry.error(
            f"no text has a token in {position}: write the lower end first, such as response[2:5]"
        )
    return str(position)


def parse_calibration(section: Section) -> CalibrationConfig:
    config = CalibrationConfig(
        prompts=section.take("prompts").text(),
        max_new_tokens=optional(section, "max_new_tokens", lambda e: e.integer(at_least=1), 32),
        n_top=optional(section, "n_top", lambda e: e.integer(at_least=5), 10),
    )
    section.close()
    return config
