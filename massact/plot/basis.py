"""What a figure is drawn from, wherever it came from."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from massact.asked import EVERYTHING, normalised
from massact.config import CalibrationConfig, Experiment, ExtractionConfig, JudgeConfig, TraitConfig
from massact.domain import Direction, Generation
from massact.query import Answers, Filters
from massact.report.contents import Evidence
from massact.schema import EvaluationRow, PublishedRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What every figure's function takes beside its source."""

    tracking_uri: str | None = None
    only: Filters = EVERYTHING
    floor: float | None = None


@dataclass(frozen=True, slots=True)
class Drawn:
    """What figures are drawn from."""

    evidence: Evidence
    published: tuple[PublishedRow, ...] = ()
    rows: tuple[EvaluationRow, ...] = ()
    """Whole rows; only where they were asked for."""


def admitted(answers: Answers, only: Filters) -> Answers:
    """The part of what was evaluated and declared that the filters admit."""
    if only == EVERYTHING:
        return answers
    only = normalised(only)
    if answers.evaluations or answers.failures:
        return answers.only(only)
    return replace(answers, groups=tuple(group for group in answers.groups if only.admits_group(group)))


def undeclared(floor: float, directions: Mapping[str, Direction]) -> Experiment:
    """The experiment of data without a file: it declares nothing but the floor and which way each trait should go."""
    return Experiment(
        name="",
        description="",
        file=Path(),
        models=(),
        traits=tuple(TraitConfig(name, "", direction) for name, direction in directions.items()),
        calibration=CalibrationConfig("", 0, 0),
        extraction=ExtractionConfig((), (), (), (), 0, 0.0, 0),
        generation=Generation(0),
        judge=JudgeConfig(""),
        coherence_floor=floor,
        subset=0,
        phases=(),
    )
