"""What the explorer's page is made of: evaluations by column, who is tied at which floor, one evaluation whole.

No mlflow, no flask: `massact.server.answering` answers from here."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from massact._lazy import Numbers, np
from massact.errors import UnknownNameError
from massact.floors import LEAST_LIMIT, Floor
from massact.names import shown
from massact.query.answers import Filters
from massact.query.evaluations import PointSet
from massact.query.groups import ComparableGroups, slices, strata
from massact.query.load import Needs, load
from massact.query.question import ALL_SETTINGS, EXPERIMENT, FLOOR, Parameter, number, text
from massact.query.stats.intervals import Beliefs
from massact.store.read import RunStore
from massact.store.schema.points import HEAD

View = Callable[[RunStore, Mapping[str, Any]], dict[str, Any]]
FLOORS = tuple(float(floor) for floor in range(101))  # where it is told who is tied
_DIGITS, _SAME_AS = 5, HEAD.index("same_as")
_FACTS_LEFT_OUT = ("kind", "cell")


def experiments(store: RunStore, _given: Mapping[str, Any]) -> dict[str, Any]:
    """The experiments that have evaluations."""
    return {"experiments": store.experiments()}


def explore(store: RunStore, given: Mapping[str, Any]) -> dict[str, Any]:
    """Every evaluation that counts, by place and label, each column a list in the order of layer and coefficient."""
    about: Any = {name: given.get(name) for name in ("all_settings", "floor")}
    loaded = load(store, given["experiment"], about, Needs(), None)
    answers = loaded.answers
    # changes with every evaluation that ends, fails or is taken away
    places = answers.evaluations.by_place.values()
    last = max((points.last for points in places if len(points)), default=-1)
    version = f"{len(answers.evaluations)}-{len(answers.failures)}-{last}"
    if given.get("version") == version:
        return {"version": version}
    by_group = slices(answers.evaluations, answers.failures)
    return {
        "version": version,
        "experiment": loaded.experiment,
        "floor": {
            "value": float(loaded.floor),
            **{name: getattr(loaded.floor, name) for name in ("metric", "limit", "is_most")},
        },
        "places": [_place(stratum, loaded.floor) for stratum in strata(by_group) if stratum.slices],
        "notes": loaded.notes,
    }


def _place(stratum: ComparableGroups, floor: Floor) -> dict[str, Any]:
    labels = {label: _columns(part.points, floor) for label, part in stratum.slices.items() if len(part.points)}
    failed = sum(len(part.failures) for part in stratum.slices.values())
    return {**stratum.fields(), "labels": labels, "n_failed": failed}


def _columns(points: PointSet, floor: Floor) -> dict[str, Any]:
    layers, coefficients = points.column("layer"), points.column("coefficient")
    order = np.lexsort((coefficients, layers))
    runs, heads = points.run_ids(), points.all.head[points.indices].tolist()
    names = ("coefficient", "delta", "relative_strength")
    columns: dict[str, Any] = {name: _rounded(points.column(name)[order]) for name in names}
    columns["coherence"] = _lowered(points.column("coherence_mean")[order])
    if not floor.is_coherence:
        columns["measure"] = _lowered(points.measures(floor)[order])
    columns["metrics"] = {name: _rounded(points.column(name)[order]) for name in points.all.metric_names}
    # whose result was taken over from another label comes after that among equals
    columns["taken"] = [place for place, i in enumerate(order.tolist()) if points.all.heads[heads[i]][_SAME_AS]]
    columns["layer"] = [int(layer) for layer in layers[order].tolist()]
    columns["run_id"] = [runs[i] for i in order.tolist()]
    return columns


def _lowered(values: Numbers) -> list[float | None]:
    """Never above what they are: at a floor they count here where they count in `best`."""
    return _rounded(np.floor(values * 10**_DIGITS) / 10**_DIGITS)


def _rounded(values: Numbers) -> list[float | None]:
    return [None if value != value else value for value in np.round(values, _DIGITS).tolist()]  # noqa: PLR0124  # NaN


def standings(store: RunStore, given: Mapping[str, Any]) -> dict[str, Any]:
    """Of one place, which label wins at every whole floor and which are tied with it, as `best` says it."""
    only = Filters(models=(given["model"],), traits=(given["trait"],), positions=(given["position"],))
    about: Any = {"only": only, "all_settings": True, "floor": given.get("floor")}
    loaded = load(store, given["experiment"], about, Needs(scores="all"), None)
    answers, declared, baseline = loaded.answers, loaded.floor, given.get("baseline")
    found = (stratum for stratum in strata(slices(answers.evaluations)) if stratum.setting == given["setting"])
    if baseline is not None:
        found = (stratum for stratum in found if abs((stratum.baseline_trait_mean or 0.0) - baseline) < 10**-_DIGITS)
    stratum = next(found, None)
    if stratum is None or answers.scores is None:
        raise UnknownNameError(f"nothing was evaluated there in the setting {shown(given['setting'])}")
    told: list[dict[str, Any]] = []
    known: tuple[int, ...] = ()
    for value in FLOORS:
        limit = declared.value_at(value)
        if not declared.is_coherence and limit < LEAST_LIMIT:
            continue  # a metric has no such limit
        floor = Floor.of(declared.metric, limit, is_most=declared.is_most)
        coherent = tuple(len(part.points.coherent_runs(floor)) for part in stratum.slices.values())
        if not told or coherent != known:  # between two floors with the same coherent ones nothing changes
            known = coherent
            told.append({"floor": value, "standings": Beliefs(stratum, floor, answers.scores).standings})
    return {"places": told}


def evaluation(store: RunStore, given: Mapping[str, Any]) -> dict[str, Any]:
    """One evaluation: what it was and came to, and the runs that hold its responses and the unsteered ones."""
    run_id = given["run_id"]
    row = store.rows([run_id]).get(run_id)
    if row is None:
        raise UnknownNameError(f"there is no finished evaluation with the run {shown(run_id)} that you may read")
    baselines = {baseline.row.key: baseline.run_id for baseline in store.baselines(row.experiment)}
    lender = store.finished_keys(row.experiment).get(row.same_as_key, run_id) if row.same_as_key else run_id
    facts = {name: value for name, value in asdict(row).items() if value is not None and name not in _FACTS_LEFT_OUT}
    return {
        "run_id": run_id,
        "facts": facts,
        "cell": json.loads(row.cell) if row.cell else None,
        "responses_run": lender,
        "baseline_run": baselines.get(row.baseline_key or ""),
    }


_PLACE = tuple(text(name, f"the {name}", is_required=True) for name in ("model", "trait", "position", "setting"))
VIEWS: dict[str, tuple[View, tuple[Parameter, ...]]] = {
    "experiments": (experiments, ()),
    "explore": (
        explore,
        (EXPERIMENT, FLOOR, ALL_SETTINGS, text("version", "as an answer told: then only whether it is another by now")),
    ),
    "standings": (
        standings,
        (EXPERIMENT, FLOOR, *_PLACE, number("baseline", "the trait mean of the baseline in that setting", 0, 100)),
    ),
    "evaluation": (evaluation, (text("run_id", "the id of its run", is_required=True),)),
}
"""By the name that ends its address: what makes it, and what it is told."""
