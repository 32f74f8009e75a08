"""Two checklists, ticked from the store and from nothing else: the plan's success criteria, and whether it is sane."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

from massact.domain import RANDOM, Cleaning, Group, Recipe
from massact.labels import format_label, parse_label
from massact.query.questions.compare import before_after_pairs
from massact.query.questions.gaps import GapRow
from massact.query.same_vector import ONCE
from massact.report.before_after import comparisons
from massact.report.coefficients import current_ratios
from massact.report.evidence import TIE_POINTS, Evidence, Place, group_at, listed, place_of
from massact.report.results import REAL
from massact.report.section import number, result, where
from massact.store.schema import EvaluationRow
from massact.words import counted

EFFECT_POINTS = 30.0
"""A delta of at least so many points in the trait's direction is an effect that steering surely had."""
BASELINE_TRAIT_BELOW = 10.0
BASELINE_COHERENCE_ABOVE = 85.0
_STATES = {"below_floor": "below the floor", "missing": "not evaluated"}
_FILLED_STEPS = (1, 2, 3)  # Top-2 lies between its neighbours on the curve


@dataclass(frozen=True, slots=True)
class Criterion:
    name: str  # short, for tags
    text: str
    ok: bool
    detail: str  # why it is ticked, or exactly what is missing and which command makes it
    is_known: bool = True  # false where nothing was evaluated that could tell: "cannot say", never ticked

    @property
    def verdict(self) -> str:
        """`yes`, `no` or `cannot say`."""
        return ("yes" if self.ok else "no") if self.is_known else "cannot say"

    @property
    def reason(self) -> str:
        """The detail, where the verdict stands before it."""
        return self.detail.removeprefix("cannot say: ")


def cannot_say(name: str, text: str, why: str) -> Criterion:
    return Criterion(name, text, ok=False, detail=f"cannot say: {why}", is_known=False)


def success_criteria(evidence: Evidence) -> tuple[Criterion, ...]:
    return (_key_comparisons(evidence), _before_after(evidence), _top2(evidence), _patterns(evidence))


def _key_comparisons(evidence: Evidence) -> Criterion:
    name = "key_comparisons"
    text = f"All key method comparisons have results with {evidence.floor.bound}"
    groups = evidence.experiment.groups("phase1") if evidence.declares("phase1") else ()
    return _complete(evidence, (name, text), groups, phase="phase1", what="key groups")


def _before_after(evidence: Evidence) -> Criterion:
    name, text = "clean_before_after", "Clean-before vs clean-after comparison complete for probe"
    labels = _phase_labels(evidence, "phase2")
    probe_labels = [label for label in labels if parse_label(label).method == "probe"]
    wanted = {label for pair in before_after_pairs(probe_labels) for label in pair}
    if not wanted:
        return cannot_say(name, text, "phase2 of the experiment file declares no clean-before label of probe")
    places = dict.fromkeys(map(place_of, evidence.experiment.groups("phase2")))
    groups = [group_at(place, label) for place in places for label in sorted(wanted)]
    complete = _complete(evidence, (name, text), groups, phase="phase2", what="bests")
    once = [
        f"{evidence.name(place_of(row))}: {row.label_a} and {row.label_b} were {row.same_vector}"
        for row in (comparisons(evidence) if complete.ok else ())
        if row.label_a in wanted and place_of(row) in places and (row.same_vector or "").startswith(ONCE)
    ]
    if not once:
        return complete
    remedy = f"{evidence.command('phase2')} with --alike off compares them"
    return Criterion(name, text, ok=False, detail=f"{'; '.join(once)}; {remedy}")


def _top2(evidence: Evidence) -> Criterion:
    name, text = "top2", "top-2 cleaning fills the gap between top-1 and top-3"
    labels = set(_phase_labels(evidence, "phase3"))
    every = dict.fromkeys(parse_label(label).method for label in sorted(labels))
    methods = [method for method in every if labels.issuperset(_neighbours(method))]
    if not methods:
        return cannot_say(name, text, "phase3 of the experiment file has top-1, top-2 and top-3 of no method")
    places = dict.fromkeys(map(place_of, evidence.experiment.groups("phase3")))
    groups = [group_at(place, label) for place in places for method in methods for label in _neighbours(method)]
    complete = _complete(evidence, (name, text), groups, phase="phase3", what="bests")
    if not complete.ok:
        return complete
    pairs = product(places, methods)
    shapes = (f"{method} on {evidence.name(at)}: {top2_shape(evidence, at, method)}" for at, method in pairs)
    return Criterion(name, text, ok=True, detail="; ".join(shapes))


def top2_shape(evidence: Evidence, place: Place, method: str) -> str | None:
    """How top-2 lies to its neighbours on the cleaning curve; `None` where one has no best, or grids forbid it."""
    rows = evidence.curve(method=method, when="after", scope="uniform", mode="zero")
    curve = {row.label: row.best for row in rows if place_of(row) == place}
    if evidence.on_equal_grids(place, curve)[1].is_refused:
        return None
    bests = [curve.get(label) for label in _neighbours(method)]
    deltas = [best.delta for best in bests if best is not None and best.delta is not None]
    if len(deltas) < len(_FILLED_STEPS):
        return None
    top1, top2, top3 = deltas
    names = [f"top-{n}" for n, best in zip(_FILLED_STEPS, bests, strict=True) if best and best.same_as]
    taken = f" ({listed(names)} taken over from alike labels)" if names else ""
    if max(deltas) - min(deltas) < TIE_POINTS:
        return f"top-1, top-2 and top-3 are tied at {top2:+.1f}{taken}"
    shape = "lies" if min(top1, top3) <= top2 <= max(top1, top3) else "does not lie"
    return f"top-2 {top2:+.1f} {shape} between top-1 {top1:+.1f} and top-3 {top3:+.1f}{taken}"


def _patterns(evidence: Evidence) -> Criterion:
    name, text = "coefficients", "Coefficient patterns documented with concrete recommendations"
    if not evidence.strata:
        why = f"nothing was evaluated; run {evidence.command('phase1')}, then {evidence.command('phase4')}"
        return cannot_say(name, text, why)
    ratios, shifts = current_ratios(evidence)
    declared = {group.label for group in evidence.experiment.groups()}
    parts = {}
    if ratios or declared >= {"mean_diff", "probe"}:
        parts["a ratio of mean_diff to probe"] = ratios
    if shifts or any(f"{label}_top1" in declared for label in declared):
        parts["a shift from cleaning the top dim"] = shifts
    if not parts:
        return cannot_say(name, text, "the file declares neither mean_diff beside probe nor a label beside its _top1")
    lacking = []
    for model in evidence.experiment.models:
        missing = [part for part, rows in parts.items() if all(row.model != model.name for row in rows)]
        if missing:
            lacking.append(f"{model.name} lacks {' and '.join(missing)}")
    if lacking:
        detail = f"{'; '.join(lacking)}; run {evidence.command('phase1')}"
        return Criterion(name, text, ok=False, detail=detail)
    detail = f"{counted(len(ratios), 'ratio')} and {counted(len(shifts), 'shift')} over all models"
    return Criterion(name, text, ok=True, detail=detail)


def _complete(
    evidence: Evidence, named: tuple[str, str], groups: Sequence[Group], *, phase: str, what: str
) -> Criterion:
    """Ticked where every group has a best in the setting that its place is answered in."""
    if not groups:
        return cannot_say(*named, f"the experiment file declares no {phase}")
    statuses = ((group, evidence.status(place_of(group), group.label)) for group in groups)
    lacking = [(group, status) for group, status in statuses if status != "ok"]
    if not lacking:
        bests = [evidence.best(place_of(group), group.label) for group in groups]
        n_taken = sum(best is not None and best.same_as is not None for best in bests)
        taken = f", {n_taken} of them taken over from alike labels" if n_taken else ""
        return Criterion(*named, ok=True, detail=f"all {len(groups)} {what} are at or above the floor{taken}")
    commands = _commands(evidence, phase, {status for _, status in lacking})
    if len(lacking) == len(groups) and all(status in ("missing", "unscored") for _, status in lacking):
        return cannot_say(*named, f"none of the {len(groups)} {what} has a scored evaluation; {commands}")
    detail = f"{len(lacking)} of {len(groups)} {what} lack a result: {_named(evidence, lacking)}; {commands}"
    return Criterion(*named, ok=False, detail=detail)


def _named(evidence: Evidence, lacking: Iterable[tuple[Group, str]]) -> str:
    """Groups by place and state: `toy, response[:5]: probe_top1 (below the floor at 61.2)`."""
    by_place: dict[Place, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for group, status in lacking:
        miss = evidence.nearest_miss(place_of(group), group.label)
        at = f" at {number(miss.coherence_mean, '.1f')}" if miss else ""
        by_place[place_of(group)][f"{_STATES.get(status, status)}{at}"].append(group.label)
    places = (
        f"{evidence.name(place)}: " + ", ".join(f"{', '.join(labels)} ({state})" for state, labels in some.items())
        for place, some in by_place.items()
    )
    return "; ".join(places)


def _commands(evidence: Evidence, phase: str, statuses: set[str]) -> str:
    hints = {
        f"run {evidence.command(phase)}": {"missing", "failed"},
        f"{evidence.command('gaps')} says which coefficients to try below the cliff": {"below_floor"},
        "the responses of an unscored evaluation say why it is": {"unscored"},
    }
    return "; ".join(hint for hint, of in hints.items() if statuses & of)


def _neighbours(method: str) -> list[str]:
    return [format_label(Recipe(method, Cleaning("after", "uniform", n))) for n in _FILLED_STEPS]


def _phase_labels(evidence: Evidence, phase: str) -> tuple[str, ...]:
    return evidence.experiment.phase(phase).labels if evidence.declares(phase) else ()


def sanity_checks(evidence: Evidence) -> tuple[Criterion, ...]:
    """Per model: the baseline, an effect, a cliff of coherence; per place: a random direction."""
    rows = evidence.baselines
    models = [model.name for model in evidence.experiment.models]
    return (
        *(_baseline(evidence, name, [row for row in rows if row.model == name]) for name in models),
        *(_effect(evidence, name) for name in models),
        *(_cliff(name, [row for row in evidence.gaps() if row.model == name]) for name in models),
        *(_random(evidence, place) for place in evidence.places() if RANDOM in evidence.labels(place)),
    )


def _baseline(evidence: Evidence, model: str, rows: list[EvaluationRow]) -> Criterion:
    name = f"baseline {model}"
    text = (
        f"Unsteered, {model} scores below {BASELINE_TRAIT_BELOW:g} for the trait "
        f"and above {BASELINE_COHERENCE_ABOVE:g} for coherence"
    )
    if any(trait.direction == "negative" for trait in evidence.experiment.traits):
        text += f"; where the trait is to fall, it has at least {EFFECT_POINTS:g} points to fall"
    known = [row for row in rows if row.trait_mean is not None and row.coherence_mean is not None]
    if not known:
        why = "every response unscored" if rows else f"no baseline; run {evidence.command('phase1')}"
        return cannot_say(name, text, why)
    detail = "; ".join(
        f"{row.trait}: trait {number(row.trait_mean, '.1f')}, coherence {number(row.coherence_mean, '.1f')}"
        for row in known
    )

    def is_sane(row: EvaluationRow) -> bool:
        trait, coherence = row.trait_mean or 0.0, row.coherence_mean or 0.0
        falls = evidence.declared_direction(row.trait) == "negative"
        has_room = trait >= EFFECT_POINTS if falls else trait < BASELINE_TRAIT_BELOW
        return has_room and coherence > BASELINE_COHERENCE_ABOVE

    return Criterion(name, text, all(map(is_sane, known)), detail)


def _effect(evidence: Evidence, model: str) -> Criterion:
    name = f"effect {model}"
    text = f"A key method moves the trait of {model} by {EFFECT_POINTS:g} points or more at the floor"
    part = evidence.of_phase("phase1") if evidence.declares("phase1") else evidence
    bests = [
        (evidence.gain(place, best.delta), place, label, best)
        for place in part.places()
        if place.model == model
        for label, best in part.bests(place).items()
    ]
    if not bests:
        why = f"no key group has a result at or above the floor; run {evidence.command('phase1')}"
        return cannot_say(name, text, why)
    most, place, label, best = max(bests, key=lambda entry: entry[0])
    detail = f"{label} on {evidence.name(place)}: {result(best)} ({where(best)})"
    return Criterion(name, text, most >= EFFECT_POINTS, detail)


def _cliff(model: str, rows: list[GapRow]) -> Criterion:
    name = f"cliff {model}"
    text = f"{model} falls off a cliff: as the coefficient grows, coherence goes below the floor"
    brackets = [(row, bracket) for row in rows for bracket in row.brackets]
    if not brackets:
        return cannot_say(name, text, "nothing was evaluated")
    for row, bracket in brackets:
        if bracket.low is not None and bracket.high is not None:
            at = f"{row.label} at {row.position}, layer {bracket.layer}"
            return Criterion(name, text, True, f"{at}: between {bracket.low:g} and {bracket.high:g}")
    detail = "no coefficient beyond the coherent ones breaks the text: try larger ones"
    if all(bracket.low is None for _, bracket in brackets):
        detail = "nothing that was evaluated is coherent: try smaller coefficients"
    return Criterion(name, text, False, detail)


def _random(evidence: Evidence, place: Place) -> Criterion:
    name = f"random {evidence.name(place)}"
    text = f"On {evidence.name(place)}, a random direction does less than {' or '.join(REAL)}"
    bests = evidence.bests(place, REAL)
    status = evidence.status(place, RANDOM)
    if status not in ("ok", "below_floor"):
        lacks = {"missing": "was not evaluated", "unscored": "is unscored", "failed": "failed"}[status]
        return cannot_say(name, text, f"{RANDOM} {lacks}; run {_phase_of(evidence, place)}")
    if not bests:
        return cannot_say(name, text, f"neither of {' and '.join(REAL)} has a result at or above the floor")
    label = evidence.top(place, bests)
    most, real_text = evidence.gain(place, bests[label].delta), f"{label} {result(bests[label])}"
    random = evidence.best(place, RANDOM)
    if random is None or random.delta is None:
        return Criterion(name, text, most > 0, f"{RANDOM} is below the floor everywhere; {real_text}")
    is_less = evidence.gain(place, random.delta) < most
    return Criterion(name, text, is_less, f"{RANDOM} {result(random)}; {real_text}")


def _phase_of(evidence: Evidence, place: Place) -> str:
    """The command of the phase that declares a random direction here."""
    for phase in evidence.experiment.phases:
        groups = evidence.experiment.groups(phase.name)
        if any(group.label == RANDOM and place_of(group) == place for group in groups):
            return evidence.command(phase.name)
    return evidence.command("evaluate")
