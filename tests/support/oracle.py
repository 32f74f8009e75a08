"""A brute-force oracle for the answers of a run store: plain dicts and loops over what happened to it.

It is written from the rules alone (DESIGN.md, "Questions") and imports nothing of massact. A run is a dict:

    id, home, status, end, active      as MLflow keeps them; `end` in ms since 1970
    key, setting, judge, direction     the cell's identity and what it may be compared with
    model, trait, position, label, layer, coefficient
    trait_mean, coherence, delta, baseline, error
    line                               of an imported run: the text that it was read from
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

Run = dict[str, Any]
Part = dict[str, Any]
Group = tuple[str, str, str, str]
"""Model, trait, position, label."""
CURVE = {
    "mean_diff": 0, "mean_diff_top1": 1, "mean_diff_top2": 2, "mean_diff_top3": 3, "mean_diff_top4": 4,
    "mean_diff_top5": 5, "mean_diff_top10": 10, "mean_diff_cleaned": "all",
}  # fmt: skip
"""Labels on the cleaning curve of mean_diff; four dims only where they were evaluated."""


class History:
    """What happened to a store."""

    def __init__(self, homes: Iterable[str]) -> None:
        self.runs: dict[str, Run] = {}
        self.is_home_active = dict.fromkeys(homes, True)

    def delete_home(self, home: str) -> None:
        """Delete an MLflow experiment: MLflow deletes its runs with it."""
        self.is_home_active[home] = False
        for run in self.runs.values():
            if run["home"] == home:
                run["active"] = False

    def restore_home(self, home: str) -> None:
        """Restore an MLflow experiment: MLflow restores all of its runs, whenever they were deleted."""
        self.is_home_active[home] = True
        for run in self.runs.values():
            if run["home"] == home:
                run["active"] = True

    def visible(self, status: str) -> list[Run]:
        """Runs of a status that are not deleted, nor their MLflow experiment."""
        return [
            run
            for run in self.runs.values()
            if run["status"] == status and run["active"] and self.is_home_active[run["home"]]
        ]

    def to_import(self, lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """What an import of a file has to write: the lines that no visible finished run was read from."""
        known = {run["line"] for run in self.visible("FINISHED")}
        found = []
        for line in lines:
            if line["text"] in known:
                continue
            known.add(line["text"])
            before = None if line["kind"] == "baseline" else _baseline_of(line, lines)
            has_delta = before is not None and line["trait_mean"] is not None
            delta = round(line["trait_mean"] - before, 6) if has_delta else None
            found.append({**line, "baseline": before, "delta": delta})
        return found

    def evaluations(self) -> list[Run]:
        """The finished evaluations, of each key the newest; at equal ends the greater run id."""
        return _newest(run for run in self.visible("FINISHED") if run["kind"] == "evaluation")

    def failures(self) -> list[Run]:
        """The newest failed run of each key that was not finished."""
        finished = {run["key"] for run in self.evaluations()}
        return [run for run in _newest(self.visible("FAILED")) if run["key"] not in finished]

    def parts(self) -> dict[Group, list[Part]]:
        """Per group what may be compared: one setting against one baseline each, the one run last first."""
        parts: list[Part] = []
        for run in self.evaluations():
            part = _find(parts, _group(run), run["setting"], run["baseline"])
            if part is None:
                part = _part(run, run["baseline"])
                parts.append(part)
            part["points"].append(run)
        evaluated = sorted(parts, key=_age)
        for run in self.failures():
            own = [one for one in evaluated if (one["group"], one["setting"]) == (_group(run), run["setting"])]
            part = own[0] if own else _find(parts, _group(run), run["setting"], _last(evaluated, run))
            if part is None:
                part = _part(run, _last(evaluated, run))
                parts.append(part)
            part["failures"].append(run)
        groups: dict[Group, list[Part]] = {}
        for part in sorted(parts, key=_age):
            groups.setdefault(part["group"], []).append(part)
        return groups


def _baseline_of(line: dict[str, Any], lines: Iterable[dict[str, Any]]) -> Any:
    """The trait mean of the file's newest baseline of the line's judge."""
    found = [one for one in lines if one["kind"] == "baseline" and one["judge"] == line["judge"]]
    return max(found, key=lambda one: one["end"])["trait_mean"] if found else None


def _newest(runs: Iterable[Run]) -> list[Run]:
    newest: dict[str, Run] = {}
    for run in runs:
        known = newest.get(run["key"])
        if known is None or (run["end"], run["id"]) > (known["end"], known["id"]):
            newest[run["key"]] = run
    return list(newest.values())


def _group(run: Run) -> Group:
    return (run["model"], run["trait"], run["position"], run["label"])


def _part(run: Run, baseline: float | None) -> Part:
    same = {name: run[name] for name in ("setting", "judge", "direction")}
    return {"group": _group(run), **same, "baseline": baseline, "points": [], "failures": []}


def _find(parts: Iterable[Part], group: Group, setting: str, baseline: float | None) -> Part | None:
    wanted = (group, setting, baseline)
    return next((one for one in parts if (one["group"], one["setting"], one["baseline"]) == wanted), None)


def _age(part: Part) -> tuple[int, str, float]:
    last = max(run["end"] for run in (*part["points"], *part["failures"]))
    return (-last, part["setting"], _low(part["baseline"]))


def _low(value: float | None) -> float:
    return -math.inf if value is None else value


def _last(evaluated: Iterable[Part], run: Run) -> float | None:
    """The baseline used last in a failed run's setting, for its model and trait."""
    place = (run["model"], run["trait"], run["setting"])
    found = [one for one in evaluated if (*one["group"][:2], one["setting"]) == place]
    return found[0]["baseline"] if found else None


def best_of(part: Part | None, floor: float) -> Run | None:
    """The best delta at or above the floor: no other beats it."""
    runs = [] if part is None else part["points"]
    valid = [r for r in runs if r["delta"] is not None and r["coherence"] is not None and r["coherence"] >= floor]
    return min(valid, key=lambda run: (_loss(run), *_tie(run)), default=None)


def miss_of(part: Part | None, floor: float) -> Run | None:
    """The most coherent run below the floor, of a part without a best."""
    runs = [] if part is None or best_of(part, floor) else part["points"]
    misses = [r for r in runs if r["coherence"] is not None and r["coherence"] < floor]
    return min(misses, key=lambda run: (-run["coherence"], _loss(run), *_tie(run)), default=None)


def _loss(run: Run) -> float:
    if run["delta"] is None:
        return math.inf
    return float(run["delta"] if run["direction"] == "negative" else -run["delta"])


def _tie(run: Run) -> tuple[float, int, str]:
    return (abs(run["coefficient"]), run["layer"], run["key"])


def status_of(part: Part | None, floor: float) -> str:
    """`ok`, `below_floor`, `failed` or `missing`."""
    if best_of(part, floor):
        return "ok"
    if miss_of(part, floor):
        return "below_floor"
    return "failed" if part and part["failures"] else "missing"


def id_of(run: Run | None) -> str | None:
    return None if run is None else run["id"]


def gaps(history: History, groups: Sequence[Group], floor: float) -> list[tuple[Any, ...]]:
    """Group, setting, baseline, status, best, nearest miss, counts, whether it decides, brackets."""
    parts = history.parts()
    rows: list[tuple[Any, ...]] = []
    for group in groups:
        if group not in parts:
            rows.append((*group, None, None, "missing", None, None, 0, 0, 0, True, ()))
        for number, part in enumerate(parts.get(group, [])):
            points = part["points"]
            unscored = [run for run in points if run["coherence"] is None or run["delta"] is None]
            found = (status_of(part, floor), id_of(best_of(part, floor)), id_of(miss_of(part, floor)))
            counts = (len(points), len(unscored), len(part["failures"]))
            among = (part["setting"], part["baseline"])
            rows.append((*group, *among, *found, *counts, number == 0, _brackets(points, floor)))
    return rows


def _brackets(points: Sequence[Run], floor: float) -> tuple[tuple[Any, ...], ...]:
    """Per layer and sign the last coherent coefficient, and the first incoherent one beyond it."""
    rows = []
    for layer in sorted({run["layer"] for run in points}):
        for sign in (1, -1):
            side = [run for run in points if run["layer"] == layer and run["coefficient"] * sign > 0]
            scored = [run for run in side if run["coherence"] is not None]
            sizes = [abs(run["coefficient"]) for run in scored if run["coherence"] >= floor]
            low = max(sizes) if sizes else None
            beyond = [abs(run["coefficient"]) for run in scored if run["coherence"] < floor]
            beyond = [size for size in beyond if low is None or size > low]
            high = min(beyond) if beyond else None
            if side:
                rows.append((layer, None if low is None else sign * low, None if high is None else sign * high))
    return tuple(rows)


def best(history: History, groups: Sequence[Group], floor: float) -> list[tuple[Any, ...]]:
    """Group, setting, baseline, status, best, delta, nearest miss, declared: declared groups first."""
    parts = history.parts()
    rows: list[tuple[Any, ...]] = []
    for group in [*groups, *sorted(set(parts) - set(groups))]:
        if group not in parts:
            rows.append((*group, None, None, "missing", None, None, None, True))
        for part in parts.get(group, []):
            winner, miss = best_of(part, floor), miss_of(part, floor)
            delta = winner["delta"] if winner else None
            found = (status_of(part, floor), id_of(winner), delta, id_of(miss))
            rows.append((*group, part["setting"], part["baseline"], *found, group in groups))
    return rows


def _strata(history: History, groups: Sequence[Group]) -> list[tuple[tuple[Any, ...], dict[str, Part]]]:
    """Model, trait, position, setting and baseline, with the finished parts there by label."""
    found: dict[tuple[Any, ...], dict[str, Part]] = {}
    for own in history.parts().values():
        for part in own:
            if part["points"]:
                where = (*part["group"][:3], part["setting"], part["baseline"])
                found.setdefault(where, {})[part["group"][3]] = {**part, "failures": []}
    places = {where[:3] for where in found}
    empty = {(*group[:3], None, None) for group in groups if group[:3] not in places}
    return [*found.items(), *((where, {}) for where in sorted(empty))]


def _on_equal_grids(parts: dict[str, Part], labels: Iterable[str], floor: float) -> tuple[dict[str, Part], bool]:
    """The parts with the cells that all labels with a best have, else with the layers; and whether neither is left."""
    have = [label for label in labels if best_of(parts.get(label), floor)]
    if len(have) < 2:
        return parts, False
    for names in (("layer", "coefficient"), ("layer",)):
        kept = {}
        for label in have:
            points = parts[label]["points"]
            for other in have:
                is_whole = names == ("layer",)  # cells count where their coherence is known
                there = [run for run in parts[other]["points"] if is_whole or run["coherence"] is not None]
                places = [[run[name] for name in names] for run in there]
                if other != label:
                    points = [run for run in points if [run[name] for name in names] in places]
            kept[label] = {**parts[label], "points": points}
        if all(best_of(part, floor) for part in kept.values()):
            return {**parts, **kept}, False
    return parts, True


def compare(
    history: History, groups: Sequence[Group], floor: float, pairs: Iterable[tuple[str, str]]
) -> list[tuple[Any, ...]]:
    """ComparableGroups, labels, their statuses and bests, the difference, the better label."""
    rows = []
    for where, every in _strata(history, groups):
        for pair in pairs:
            if not any(label in every or (*where[:3], label) in groups for label in pair):
                continue
            parts, is_refused = _on_equal_grids(every, pair, floor)
            a, b = (best_of(parts.get(label), floor) for label in pair)
            difference = better = None
            if a and b and not is_refused:
                difference = a["delta"] - b["delta"]
                # one direction by algebra, at every layer: what differs is noise
                is_same = set(pair) == {"mean_diff_preclean", "mean_diff_cleaned"}
                better = None if difference == 0 or is_same else pair[_loss(b) < _loss(a)]
            statuses = [status_of(parts.get(label), floor) for label in pair]
            rows.append((*where, *pair, *statuses, id_of(a), id_of(b), difference, better))
    return rows


def curve(history: History, groups: Sequence[Group], floor: float) -> list[tuple[Any, ...]]:
    """ComparableGroups, number of dims, status, best, nearest miss: of mean_diff, cleaned after."""
    rows = []
    declared = [group for group in groups if group[3] in CURVE]
    on_curve = History(())
    on_curve.is_home_active = history.is_home_active
    on_curve.runs = {name: run for name, run in history.runs.items() if run["label"] in CURVE}
    for where, every in _strata(on_curve, declared):
        parts, _ = _on_equal_grids(every, every, floor)
        for label, n_dims in CURVE.items():
            part = parts.get(label)
            if n_dims != 4 or part:
                found = (status_of(part, floor), id_of(best_of(part, floor)), id_of(miss_of(part, floor)))
                rows.append((*where, n_dims, *found))
    return rows


def runs(history: History, floor: float) -> list[tuple[Any, ...]]:
    """End, run, key, status, error, baseline: one for each key."""
    found = [(run, _scored_status(run, floor), None) for run in history.evaluations()]
    found += [(run, "failed", run["error"]) for run in history.failures()]
    return [(run["end"], run["id"], run["key"], *what, run["baseline"]) for run, *what in found]


def _scored_status(run: Run, floor: float) -> str:
    if run["coherence"] is None:
        return "unscored"
    if run["coherence"] < floor:
        return "below_floor"
    return "unscored" if run["delta"] is None else "ok"
