"""The report's figures as functions: from an answer's DataFrame, or from an experiment in a store (docs/plots.md).

    massact.plot.tradeoff(massact.runs("experiments/toy.yaml").to_frame()).savefig("tradeoff.png")
    massact.plot.cleaning_curve("experiments/toy.yaml", only=massact.Filters(models=("toy-gemma-3",)))

Each gives a `matplotlib.figure.Figure` of its own, registered nowhere; with `engine="plotly"` the same as a
`plotly.graph_objects.Figure`. `source` is an answer, its DataFrame, an
experiment file, or the name of an experiment in the store; `tracking_uri` the store (MLFLOW_TRACKING_URI, else
`mlflow.db` here); `only` the part to draw; `floor` the least `coherence_mean` that counts, 0 to 100 (the experiment
file's, else 68). A `massact.MassactError` says what is missing, unknown, or that there is nothing to draw.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack, get_args

from massact.errors import UsageError
from massact.floors import COHERENCE
from massact.plot.interactive import interactive
from massact.plot.sources import Source, calibrations_of, evidence_of
from massact.query import Filters
from massact.query.groups import ComparableGroups
from massact.query.load import EVERYTHING
from massact.report.before_after import BeforeAfter
from massact.report.coefficients import RelativeStrength
from massact.report.curve import CleaningCurve
from massact.report.evidence import Evidence, Place
from massact.report.heat_maps import ByWindow, HeatMap, mapped_labels
from massact.report.massive import MassiveDims, MassiveEnergy
from massact.report.published import Published
from massact.report.section import Figure as ReportFigure
from massact.report.section import drawing
from massact.report.trade_off import AgainstCoefficient, AgainstCoherence, tradeoff_pairs

__all__ = [
    "before_after",
    "cleaning_curve",
    "heat_map",
    "massive_dims",
    "massive_energy",
    "positions",
    "published",
    "relative_strength",
    "tradeoff",
]
Engine = Literal["matplotlib", "plotly"]
MOST_MAPS = 24
"""Heat maps in one figure."""


class Drawing(TypedDict, total=False):
    """What every figure of an answer takes besides its source."""

    tracking_uri: str | None
    only: Filters
    floor: float | str | None
    engine: Engine


def tradeoff(source: Source, *, against: str = "", **how: Unpack[Drawing]) -> Any:
    """Delta and coherence along the coefficient, a line per label.

    Args:
        against: `coherence` or a metric such as `kl` draws delta against that, a row per position window of one model
            and trait; `coefficient` draws both against the coefficient, of one model, trait and position; empty: what
            the floor is of.
    """
    evidence = _read(source, **how)
    known = {COHERENCE, "coefficient", *(n for s in evidence.strata.values() for n in _metrics(s))}
    if against and against not in known:
        raise UsageError(f"cannot draw against {against!r}; there is {', '.join(sorted(known))}")
    figure: ReportFigure = (
        AgainstCoefficient(evidence, _place(evidence))
        if against == "coefficient"
        else AgainstCoherence(evidence, *_pair(evidence), against=against)
    )
    return _drawn(figure, "no label was evaluated at a coefficient other than 0", how)


def _metrics(stratum: ComparableGroups) -> set[str]:
    return {name for part in stratum.slices.values() for name in part.points.all.metric_names}


def heat_map(source: Source, **how: Unpack[Drawing]) -> Any:
    """Delta at every layer and coefficient of one model, trait and position, a panel per label.

    A cell below the floor is faded and crossed out; the best is framed.
    """
    evidence = _read(source, **how)
    place = _place(evidence)
    labels = mapped_labels(evidence, place)
    if len(labels) > MOST_MAPS:
        raise UsageError(
            f"{len(labels)} labels have a map at {evidence.name(place)}, a figure holds {MOST_MAPS}: "
            "choose with only=massact.Filters(labels=(…))"
        )
    figure = HeatMap(evidence, place, labels)
    return _drawn(figure, "no label was evaluated at two layers or coefficients", how)


def positions(source: Source, **how: Unpack[Drawing]) -> Any:
    """The best delta of each label by position window, a row per model and trait, a column per method."""
    figure = ByWindow(_read(source, **how))
    return _drawn(figure, "no label has a result at the floor at two position windows", how)


def cleaning_curve(source: Source, **how: Unpack[Drawing]) -> Any:
    """The best delta against the number of cleaned dims, a panel per place; published figures of a store beside it."""
    figure = CleaningCurve(_read(source, **how))
    return _drawn(figure, "no method has a result at the floor and two numbers of cleaned dims", how)


def before_after(source: Source, **how: Unpack[Drawing]) -> Any:
    """The best delta uncleaned, cleaned after and cleaned before extraction, a panel per place.

    That two bars are one vector is known here by algebra or by the vectors' digests alone: the report also measures
    the vectors' cosine.
    """
    figure = BeforeAfter(_read(source, **how))
    return _drawn(figure, "no label that was cleaned before has a result at the floor", how)


def relative_strength(source: Source, **how: Unpack[Drawing]) -> Any:
    """Delta and coherence against relative strength, all models on one axis.

    A DataFrame needs the column `relative_strength`, which that of `massact.runs` has.
    """
    figure = RelativeStrength(_read(source, **how))
    return _drawn(figure, "no evaluation has a relative strength (the column relative_strength)", how)


def published(source: Source, **how: Unpack[Drawing]) -> Any:
    """Published figures, a dot per source, wherever several sources print a label; ours as a star.

    A DataFrame is that of `massact.compare_published`, or a CSV file of published figures as pandas reads it.
    """
    figure = Published(_read(source, **how))
    return _drawn(
        figure, "no place has published figures of two sources (massact import --published FILE reads them)", how
    )


def massive_energy(source: Source, **how: Unpack[Drawing]) -> Any:
    """How much of each vector's energy lies in the massive dims, by layer, a panel per place.

    A DataFrame needs the columns model, position, label, layer and massive_energy.
    """
    figure = MassiveEnergy(_read(source, of_energies=True, **how))
    return _drawn(figure, "no vector has a share of its energy in the massive dims", how)


def massive_dims(
    source: str | Path | Mapping[str, str | Path], *, tracking_uri: str | None = None, engine: Engine = "matplotlib"
) -> Any:
    """How far the massive dims stand out at each layer, a panel per model.

    Args:
        source: an experiment whose calibrations are taken from the store; or a `calibration.json`; or several, by the
            model's name.
    """
    calibrations = calibrations_of(source, tracking_uri)
    figure = MassiveDims(calibrations, list(calibrations))
    return _drawn(figure, "no calibration is there: massact calibrate makes one", {"engine": engine})


def _read(
    source: Source,
    *,
    tracking_uri: str | None = None,
    only: Filters = EVERYTHING,
    floor: float | str | None = None,
    engine: Engine = "matplotlib",  # noqa: ARG001  `_drawn` looks at it
    of_energies: bool = False,
) -> Evidence:
    return evidence_of(source, tracking_uri, only, floor, of_energies=of_energies)


def _drawn(figure: ReportFigure, lacking: str, how: Drawing) -> Any:
    engine = how.get("engine", "matplotlib")
    if engine not in get_args(Engine):
        raise UsageError(f"no engine {engine!r}; there is matplotlib and plotly")
    drawn = drawing(figure)
    if drawn is None:
        raise UsageError(f"nothing to draw: {lacking}")
    return drawn if engine == "matplotlib" else interactive(drawn)


def _place(evidence: Evidence) -> Place:
    places = [(place.model, place.trait, place.position) for place in evidence.run_places]
    how = 'models=("NAME",), positions=("response[:5]",)'
    return Place(*_only_one(places, "model, trait and position", how))


def _pair(evidence: Evidence) -> tuple[str, str]:
    model, trait = _only_one(tradeoff_pairs(evidence), "model and trait", 'models=("NAME",)')
    return model, trait


def _only_one(choices: Sequence[tuple[str, ...]], what: str, how: str) -> tuple[str, ...]:
    if not choices:
        raise UsageError("nothing to draw: nothing was evaluated")
    if len(choices) > 1:
        names = "; ".join(", ".join(filter(None, choice)) for choice in choices[:6])
        names += "; …" if len(choices) > 6 else ""
        raise UsageError(
            f"this figure draws one {what}, there are {len(choices)} ({names}): choose with only=massact.Filters({how})"
        )
    return choices[0]
