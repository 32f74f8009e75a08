"""The report's figures as functions: from an answer's DataFrame, or from an experiment in a store.

    import massact

    massact.plot.tradeoff(massact.runs("experiments/toy.yaml").to_frame()).savefig("tradeoff.png")
    massact.plot.cleaning_curve("experiments/toy.yaml", only=massact.Filters(models=("toy-gemma-3",)))

Each gives a `matplotlib.figure.Figure` of its own, drawn as the report draws it; nothing is registered with pyplot, and
the caller's rcParams stay as they are. All take

- `source`: an answer of a question, its DataFrame, an experiment file, or the name of an experiment in the store;
- `tracking_uri`: the store, where the source is an experiment (MLFLOW_TRACKING_URI, else `mlflow.db` here);
- `only`: the part to draw, as `massact.Filters`;
- `floor`: least `coherence_mean` that counts, 0 to 100 (the experiment file's, else 68);

and raise `massact.MassactError` (a `UsageError`) where a column is missing, a name is unknown, or there is nothing to
draw. Intervals are drawn where the scores by question are known: in a store, and in the DataFrame of `massact.best`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from massact.errors import UsageError
from massact.plot.sources import Drawn, Given, Source, calibrations_of, drawn_from, energy_facts
from massact.query import Filters
from massact.query.load import EVERYTHING
from massact.report.comparisons import before_after_figure, curve_figure
from massact.report.evidence import Place
from massact.report.heat_maps import all_grids, heat_figure
from massact.report.positions import window_figure
from massact.report.published import published_figure
from massact.report.trade_off import coherence_figure, strength_figure, tradeoff_figure, tradeoff_pairs
from massact.report.vectors import energy_figure, massive_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
MOST_MAPS = 24
"""Heat maps in one figure."""


def tradeoff(
    source: Source,
    *,
    against: Literal["coherence", "coefficient"] = "coherence",
    tracking_uri: str | None = None,
    only: Filters = EVERYTHING,
    floor: float | None = None,
) -> "Figure":
    """Delta and coherence along the coefficient, a line per label.

    Args:
        against: `coherence` draws delta against coherence, a row per position window of one model and trait;
            `coefficient` draws both against the coefficient, of one model, trait and position.
    """
    drawn = _drawn(source, tracking_uri, only, floor)
    if against == "coherence":
        pairs = tradeoff_pairs(drawn.evidence)
        model, trait = _only_one(pairs, "model and trait", 'models=("NAME",)')
        return _figure(coherence_figure(drawn.evidence, model, trait), _NO_LINE)
    if against != "coefficient":
        raise UsageError(f"cannot draw against {against!r}; there is coherence and coefficient")
    return _figure(tradeoff_figure(drawn.evidence, _place(drawn)), _NO_LINE)


def heat_map(
    source: Source,
    *,
    tracking_uri: str | None = None,
    only: Filters = EVERYTHING,
    floor: float | None = None,
) -> "Figure":
    """Delta at every layer and coefficient of one model, trait and position, a panel per label.

    A cell below the floor is faded and crossed out; the best is framed.
    """
    drawn = _drawn(source, tracking_uri, only, floor)
    place = _place(drawn)
    labels = [grid.label for grid in all_grids(drawn.evidence, place, drawn.evidence.labels(place))]
    if len(labels) > MOST_MAPS:
        raise UsageError(
            f"{len(labels)} labels have a map at {drawn.evidence.name(place)}, a figure holds {MOST_MAPS}: "
            "choose with only=massact.Filters(labels=(…))"
        )
    figure = heat_figure(drawn.evidence, place, labels)
    return _figure(figure, "no label was evaluated at two layers or coefficients")


def positions(
    source: Source,
    *,
    tracking_uri: str | None = None,
    only: Filters = EVERYTHING,
    floor: float | None = None,
) -> "Figure":
    """The best delta of each label by position window, a row per model and trait, a column per method."""
    drawn = _drawn(source, tracking_uri, only, floor)
    return _figure(
        window_figure(drawn.evidence), "no label has a result at the floor at two position windows"
    )


def cleaning_curve(
    source: Source,
    *,
    tracking_uri: str | None = None,
    only: Filters = EVERYTHING,
    floor: float | None = None,
) -> "Figure":
    """The best delta against the number of cleaned dims, a panel per place; published figures of a store beside it."""
    drawn = _drawn(source, tracking_uri, only, floor)
    figure = curve_figure(drawn.evidence, drawn.published)
    return _figure(figure, "no method has a result at the floor and two numbers of cleaned dims")


def before_after(
    source: Source,
    *,
    tracking_uri: str | None = None,
    only: Filters = EVERYTHING,
    floor: float | None = None,
) -> "Figure":
    """The best delta uncleaned, cleaned after and cleaned before extraction, a panel per place.

    That two bars are one vector is known here by algebra or by the vectors' digests alone: the report also measures
    the vectors' cosine.
    """
    drawn = _drawn(source, tracking_uri, only, floor)
    return _figure(
        before_after_figure(drawn.evidence), "no label that was cleaned before has a result at the floor"
    )


def relative_strength(
    source: Source,
    *,
    tracking_uri: str | None = None,
    only: Filters = EVERYTHING,
    floor: float | None = None,
) -> "Figure":
    """Delta and coherence against relative strength, all models on one axis.

    A DataFrame needs the column `relative_strength`, which that of `massact.runs` has.
    """
    drawn = _drawn(source, tracking_uri, only, floor)
    return _figure(
        strength_figure(drawn.evidence),
        "no evaluation has a relative strength (the column relative_strength)",
    )


def published(
    source: Source,
    *,
    tracking_uri: str | None = None,
    only: Filters = EVERYTHING,
    floor: float | None = None,
) -> "Figure":
    """Published figures, a dot per source, wherever several sources print a label; ours as a star.

    A DataFrame is that of `massact.compare_published`, or a CSV file of published figures as pandas reads it.
    """
    drawn = _drawn(source, tracking_uri, only, floor)
    return _figure(
        published_figure(drawn.evidence, drawn.published),
        "no place has published figures of two sources (massact import --published FILE reads them)",
    )


def massive_energy(
    source: Source,
    *,
    tracking_uri: str | None = None,
    only: Filters = EVERYTHING,
    floor: float | None = None,
) -> "Figure":
    """How much of each vector's energy lies in the massive dims, by layer, a panel per place.

    A DataFrame needs the columns model, position, label, layer and massive_energy.
    """
    drawn, facts = energy_facts(source, Given(tracking_uri=tracking_uri, only=only, floor=floor))
    return _figure(
        energy_figure(drawn.evidence, facts), "no vector has a share of its energy in the massive dims"
    )


def massive_dims(
    source: str | Path | Mapping[str, str | Path], *, tracking_uri: str | None = None
) -> "Figure":
    """How far the massive dims stand out at each layer, a panel per model.

    Args:
        source: an experiment whose calibrations are taken from the store; or a `calibration.json`; or several, by the
            model's name.
    """
    found = calibrations_of(source, tracking_uri)
    return _figure(massive_figure(found, list(found)), "no calibration is there: massact calibrate makes one")


_NO_LINE = "no label was evaluated at a coefficient other than 0"


def _drawn(source: Source, tracking_uri: str | None, only: Filters, floor: float | None) -> Drawn:
    return drawn_from(source, Given(tracking_uri=tracking_uri, only=only, floor=floor))


def _figure(figure: "Figure | None", lacking: str) -> "Figure":
    if figure is None:
        raise UsageError(f"nothing to draw: {lacking}")
    return figure


def _place(drawn: Drawn) -> Place:
    """The one place that there is."""
    places = [
        (one.model, one.trait, one.position)
        for one in drawn.evidence.places()
        if one in drawn.evidence.strata
    ]
    return Place(
        *_only_one(places, "model, trait and position", 'models=("NAME",), positions=("response[:5]",)')
    )


def _only_one(found: list[Any], what: str, how: str) -> Any:
    if not found:
        raise UsageError("nothing to draw: nothing was evaluated")
    if len(found) > 1:
        names = "; ".join(", ".join(part for part in one if part) for one in found[:6])
        names += "; …" if len(found) > 6 else ""
        raise UsageError(
            f"this figure draws one {what}, there are {len(found)} ({names}): choose with "
            f"only=massact.Filters({how})"
        )
    return found[0]
