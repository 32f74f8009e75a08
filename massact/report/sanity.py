"""Checks of the store itself: results that fail them are not worth interpreting."""

from collections.abc import Iterable

from massact.query import GapRow
from massact.report.contents import EFFECT_POINTS, Evidence, Place, gain, place_of
from massact.report.criteria import Criterion, cannot_say
from massact.report.result_tables import RANDOM, REAL, baselines_in_use
from massact.report.table import number, result, where
from massact.schema import EvaluationRow

BASELINE_TRAIT_BELOW = 10.0
BASELINE_COHERENCE_ABOVE = 85.0
_LACKS = {"missing": "was not evaluated", "unscored": "is unscored", "failed": "failed"}


def sanity_checks(evidence: Evidence, baselines: Iterable[EvaluationRow]) -> tuple[Criterion, ...]:
    """Per model: the baseline, an effect, a cliff of coherence; per place: a random direction."""
    rows = baselines_in_use(evidence, baselines)
    models = [model.name for model in evidence.experiment.models]
    gaps = [row for row in evidence.answers.gaps(evidence.floor).rows if evidence.is_current(row)]
    return (
        *(_baseline(evidence, name, [row for row in rows if row.model == name]) for name in models),
        *(_effect(evidence, name) for name in models),
        *(_cliff(name, [row for row in gaps if row.model == name]) for name in models),
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
    return Criterion(name, text, all(_is_sane(evidence, row) for row in known), detail)


def _is_sane(evidence: Evidence, row: EvaluationRow) -> bool:
    trait, coherence = row.trait_mean, row.coherence_mean
    if trait is None or coherence is None:
        return False
    falls = any(t.name == row.trait and t.direction == "negative" for t in evidence.experiment.traits)
    has_room = trait >= EFFECT_POINTS if falls else trait < BASELINE_TRAIT_BELOW
    return has_room and coherence > BASELINE_COHERENCE_ABOVE


def _effect(evidence: Evidence, model: str) -> Criterion:
    name = f"effect {model}"
    text = f"A key method moves the trait of {model} by {EFFECT_POINTS:g} points or more at the floor"
    part = evidence.of_phase("phase1") if evidence.declares("phase1") else evidence
    found = [
        (evidence.gain(place, best.delta), evidence.name(place), label, best)
        for place in part.places()
        if place.model == model
        for label in part.labels(place)
        if label != RANDOM and (best := part.best(place, label)) is not None and best.delta is not None
    ]
    if not found:
        why = f"no key group has a result at or above the floor; run {evidence.command('phase1')}"
        return cannot_say(name, text, why)
    most, place_name, label, best = max(found, key=lambda one: one[0])
    detail = f"{label} on {place_name}: {result(best)} ({where(best)})"
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
    never = all(bracket.low is None for _, bracket in brackets)
    detail = (
        "nothing that was evaluated is coherent: try smaller coefficients"
        if never
        else "no coefficient beyond the coherent ones breaks the text: try larger ones"
    )
    return Criterion(name, text, False, detail)


def _random(evidence: Evidence, place: Place) -> Criterion:
    name = f"random {evidence.name(place)}"
    text = f"On {evidence.name(place)}, a random direction does less than {' or '.join(REAL)}"
    real = [
        (gain(best.delta, evidence.direction(place)), label, best)
        for label in REAL
        if (best := evidence.best(place, label)) is not None and best.delta is not None
    ]
    status = evidence.status(place, RANDOM)
    if status not in ("ok", "below_floor"):
        return cannot_say(name, text, f"{RANDOM} {_LACKS[status]}; run {_phase_of(evidence, place)}")
    if not real:
        return cannot_say(name, text, f"neither of {' and '.join(REAL)} has a result at or above the floor")
    most, label, best = max(real, key=lambda one: one[0])
    real_text = f"{label} {result(best)}"
    random = evidence.best(place, RANDOM)
    if random is None or random.delta is None:
        return Criterion(name, text, most > 0, f"{RANDOM} is below the floor everywhere; {real_text}")
    is_less = gain(random.delta, evidence.direction(place)) < most
    return Criterion(name, text, is_less, f"{RANDOM} {result(random)}; {real_text}")


def _phase_of(evidence: Evidence, place: Place) -> str:
    """The command of the phase that declares a random direction here."""
    for phase in evidence.experiment.phases:
        groups = evidence.experiment.groups(phase.name)
        if any(group.label == RANDOM and place_of(group) == place for group in groups):
            return evidence.command(phase.name)
    return evidence.command("evaluate")
