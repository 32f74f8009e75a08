"""`massact predict`: whether the best coefficient can be told from the vector, tested on every evaluation there is."""

import csv
import io
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from massact.errors import MissingPrerequisiteError, UsageError
from massact.floors import as_floor
from massact.labels import parse_label
from massact.prediction import verdict
from massact.prediction.cases import Case, Outcome, find_outcomes
from massact.prediction.prior import VectorFacts, format_prior
from massact.query import Answers, Filters
from massact.report.evidence import TOY_BANNER
from massact.report.section import Cell, Table
from massact.store.schema import Artifact, Kind
from massact.store.write.registry import prior_name, register_prior
from massact.store.write.tracker import OpenRun
from massact.sweep.context import Session, keep_outcome, load_answers, phase_params
from massact.sweep.vectors import StoredVectors, facts_of
from massact.toy import is_toy
from massact.vectors.massive_dims import Calibration, read_calibration
from massact.vectors.methods import vector_digest

OTHER_VECTOR = "evaluated with a vector that the store's extraction does not hold (any more)"
NOT_DECLARED = "of a model or trait that the experiment file does not declare"
NOT_TOLD = "of another experiment, with another judge or without what its vector's strength is told by"
NOTHING_OUTSIDE = "all of the vector lies in massive dims"
MIN_GROUPS = 2


@dataclass(frozen=True, slots=True)
class Prediction:
    floor: float
    trial: verdict.Trial
    decisions: tuple[verdict.Decision, ...]
    text: str


def run_predict(session: Session, floor: float | None = None, judge: str | None = None) -> Prediction:
    """Test what predicts, show the verdict and, unless the run is dry, log it and register the prior that follows.
    Bests and cliffs are found at `floor` and in what `judge` scored; `None`: the experiment's. What is found at another
    floor or judge is logged, but not registered. Raises UsageError: there are too few evaluations to test anything."""
    experiment = session.experiment
    prediction = predict(session, experiment.coherence_floor if floor is None else floor, judge)
    session.show(prediction.text)
    if session.stores.is_dry:
        return prediction
    params = {**phase_params(session), "coherence_floor": f"{prediction.floor:g}"}
    with session.stores.tracker.phase("predict", params=params) as run:
        _log(session, run, prediction)
        reasons = {
            f"the experiment's floor is {experiment.coherence_floor:g}": prediction.floor != experiment.coherence_floor,
            f"the experiment's judge is {experiment.judge.name}": judge not in (None, experiment.judge.name),
            "searches start from cliffs of coherence": not as_floor(prediction.floor).is_coherence,
        }
        if why := next((reason for reason, is_so in reasons.items() if is_so), None):
            session.show(f"not registered: {why}")
            return prediction
        prior = verdict.adopt(
            prediction.trial, prediction.decisions, experiment=experiment.name, floor=prediction.floor
        )
        name = prior_name(experiment.name)
        registered = register_prior(session.stores.tracker, run, name, format_prior(prior))
        session.show(f"registered: {name} version {registered.version}, which searches start from")
    return prediction


def predict(session: Session, floor: float, judge: str | None = None) -> Prediction:
    """Test what predicts on what the store holds in the experiment's own setting; writes nothing. See `run_predict`."""
    answers, notes = load_answers(session).only(Filters(judges=(judge,) if judge else ())).in_current_setting()
    for note in notes:
        session.say(f"note: {note}")
    outcomes = find_outcomes(answers.evaluations, floor)
    left_out = Counter(outcomes.left_out)
    cases = list(_cases(session, outcomes.counted, left_out))
    cases += _of_other_experiments(session, floor, judge or session.experiment.judge.name, cases, left_out)
    if len(verdict.groups_of(verdict.found(cases, "best"))) < MIN_GROUPS:
        raise UsageError(_too_few(session, cases, left_out, floor))
    trial = verdict.leave_groups_out(cases)
    decisions = tuple(verdict.decide(trial, target) for target in verdict.TARGETS)
    toy = all(is_toy(model.instruct.reference) for model in session.experiment.models)
    text = prediction_markdown(trial, decisions, floor=floor, left_out=left_out, toy=toy)
    return Prediction(floor, trial, decisions, text)


def _cases(session: Session, outcomes: Iterable[Outcome], left_out: Counter[str]) -> Iterator[Case]:
    """Outcomes with the facts about their vectors, as far as the store still holds these."""
    by_ladder: dict[tuple[str, str, str, str], list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        by_ladder[outcome.model, outcome.trait, outcome.position, outcome.label].append(outcome)
    models = {model.name: model for model in session.experiment.models}
    traits = {trait.name: trait for trait in session.experiment.traits}
    stored: dict[tuple[str, str], StoredVectors] = {}
    for (model, trait, position, label), mine in sorted(by_ladder.items()):
        if model not in models or trait not in traits:
            left_out[NOT_DECLARED] += len(mine)
            continue
        try:
            if (model, trait) not in stored:
                stored[model, trait] = StoredVectors(session, models[model], traits[trait])
            yield from _of_ladder(stored[model, trait], position, label, mine, left_out)
        except MissingPrerequisiteError as error:
            left_out[str(error)] += len(mine)  # it says which command makes what is missing


def _of_other_experiments(
    session: Session, floor: float, judge: str, own: Iterable[Case], left_out: Counter[str]
) -> Iterator[Case]:
    """What the other experiments of the store found with the same judge, by what its runs tell of the vectors. A model
    that the experiment has too goes by the experiment's name for it: they are left out of a fit together."""
    names = {case.outcome.model_id: case.outcome.model for case in own}
    with session.stores.read() as store:
        for name in store.experiments():
            if name == session.experiment.name:
                continue
            answers, _ = Answers.from_store(store, name, store.declared(name)).in_current_setting()
            calibrations = {stage.row.model: stage.run_id for stage in store.stages(Kind.CALIBRATION, name)}
            norms: dict[str, Calibration] = {}
            for outcome in find_outcomes(answers.evaluations, floor).counted:
                model = outcome.model
                if outcome.judge != judge or not outcome.unit_strength or model not in calibrations:
                    left_out[NOT_TOLD] += 1
                    continue
                if model not in norms:
                    norms[model] = read_calibration(session.stores.fetch(calibrations[model], Artifact.CALIBRATION))
                facts = VectorFacts(unit_strength=outcome.unit_strength, norm=norms[model].layers[outcome.layer].norm)
                model = names.setdefault(outcome.model_id, f"{name}/{model}")
                yield Case(replace(outcome, model=model), facts)


def _of_ladder(
    vectors: StoredVectors, position: str, label: str, outcomes: Iterable[Outcome], left_out: Counter[str]
) -> Iterator[Case]:
    recipe = parse_label(label)
    of_label = vectors.of(position, recipe)
    for outcome in outcomes:
        layer = outcome.layer
        if layer >= len(of_label) or vector_digest(of_label[layer]) != outcome.vector_digest:
            left_out[OTHER_VECTOR] += 1
            continue
        facts = facts_of(vectors, position, recipe, [layer])[layer]
        if facts.unit_strength > 0:
            yield Case(outcome, facts)
        else:
            left_out[NOTHING_OUTSIDE] += 1


def _too_few(session: Session, cases: list[Case], left_out: Mapping[str, int], floor: float) -> str:
    """What is there, and what to do about it."""
    what = "vectors whose best coefficient and cliff were found"
    there = f"nothing to predict from: the store holds no {what}"
    if cases := verdict.found(cases, "best"):
        there = f"all {len(cases)} {what} are of one model and trait ({', '.join(cases[0].group)})"
    why = "".join(f"\n  {n} {reason}" for reason, n in left_out.items())
    return (
        f"{there}. A prediction is tested on a model and trait that was left out, so {MIN_GROUPS} are needed (for a "
        f"verdict 5), each with some vector whose coefficients reach from no effect to beyond {as_floor(floor).reach}. "
        f"See massact gaps, add a model or trait, or coefficients in steps of a fifth or so, and run massact phase1 "
        f"--experiment {session.experiment.file}.{' Left out:' if why else ''}{why}"
    )


def _log(session: Session, run: OpenRun, prediction: Prediction) -> None:
    trial = prediction.trial
    metrics = {"n_cases": float(len(trial.cases)), "n_groups": float(len(verdict.groups_of(trial.cases)))}
    for (target, form), score in trial.scores.items():
        for name in ("median_factor", "high_factor", "share_within"):
            metrics[f"{name}/{target}/{form}"] = getattr(score, name)
    session.stores.tracker.log(run, metrics=metrics)
    verdicts = {f"{decision.target}_coefficient": decision.text for decision in prediction.decisions}
    files = {Artifact.PREDICTIONS.value: prediction_csv(trial).encode()}
    keep_outcome(session, run, "predict", verdicts, prediction.text, files)


_HEADINGS: dict[verdict.Target, str] = {"best": "The best coefficient", "cliff": "The coherence cliff"}


def prediction_markdown(
    trial: verdict.Trial,
    decisions: Iterable[verdict.Decision],
    *,
    floor: float,
    left_out: Mapping[str, int],
    toy: bool = False,
) -> str:
    """Verdicts first, then the figures that they rest on, then what was left out; it says where the models are toys."""
    parts = [
        *((TOY_BANNER,) if toy else ()),
        *(f"**{_HEADINGS[decision.target]}.** {decision.text}" for decision in decisions),
    ]
    for target in verdict.TARGETS:
        of_target = trial.cases_of(target)
        n_cases = f"{len(of_target)} vectors of {len(verdict.groups_of(of_target))} models and traits"
        parts.append(f"{_HEADINGS[target]}, {n_cases}, each model and trait left out in turn:")
        parts.append(_score_table(trial, target).markdown())
    parts.append(
        f"At floor {as_floor(floor).reach}. The cliffs were found between coefficients a factor of "
        f"{verdict.resolution(trial.cases):.2f} apart (median): nothing predicts them more exactly than that."
    )
    parts += [verdict.scatter_words(verdict.own_strengths(trial.cases)), _strength_table(trial).markdown()]
    if carried := verdict.carry_overs(trial.cases):
        headers = ("a cliff, as relative strength, carries over", "#half within", "#pairs")
        rows = [(over.what, f"x{over.factor:.2f}", str(over.n_pairs)) for over in carried]
        parts.append(Table.of("", headers, rows).markdown())
    if left_out:
        lines = "\n".join(f"- {count}: {reason}" for reason, count in sorted(left_out.items()))
        parts += ["Left out, by vector and layer:", lines]
    return "\n\n".join(parts)


def prediction_csv(trial: verdict.Trial) -> str:
    """Every vector: what was found, and what each form expected of it without its model and trait."""
    text = io.StringIO()
    names = ("setting", "model", "trait", "position", "label", "layer", "best", "low", "high")
    forms = [f"{target}:{form}" for target, form in trial.predicted]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*names, "cliff", "relative_strength_best", *forms])
    for index, case in enumerate(trial.cases):
        outcome = case.outcome
        strength = None if outcome.best is None else outcome.best / math.exp(verdict.by_strength(case.facts))
        measured = [*(getattr(outcome, name) for name in names), outcome.cliff, strength]
        expected = [values[index] for values in trial.predicted.values()]
        writer.writerow([f"{v:.6g}" if isinstance(v, float) else v for v in (*measured, *expected)])
    return text.getvalue()


def _score_table(trial: verdict.Trial, target: verdict.Target) -> Table:
    within = f"#within x{verdict.WITHIN_FACTOR:g}"
    headers = ("predicted by", "#half within", "#nine in ten within", within, "#error / relative strength's")
    reference = trial.scores[target, verdict.STRENGTH]
    rows = []
    for form, words in verdict.WORDS.items():
        score = trial.scores[target, form]
        factors = f"x{score.median_factor:.2f}", f"x{score.high_factor:.2f}", f"{score.share_within:.0%}"
        rows.append((words, *factors, Cell("" if form == verdict.STRENGTH else str(score.against(reference)))))
    return Table.of("", headers, rows)


def _strength_table(trial: verdict.Trial) -> Table:
    headers = ("model", "trait", "#vectors", "#best at strength", "#scatter", "#cliff at strength", "#scatter")
    rows = [
        (
            *strengths.group,
            str(strengths.n_cases),
            *(("", "") if math.isnan(strengths.best) else (f"{strengths.best:.2f}", f"x{strengths.best_scatter:.2f}")),
            f"{strengths.cliff:.2f}",
            f"x{strengths.cliff_scatter:.2f}",
        )
        for strengths in verdict.own_strengths(trial.cases)
    ]
    return Table.of("", headers, rows)
