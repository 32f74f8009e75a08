"""`massact predict`: whether the best coefficient can be told from the vector, tested on every evaluation there is."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from massact.errors import MissingPrerequisiteError, UsageError
from massact.labels import parse_label
from massact.prediction.adopted import AdoptedPrior, format_prior
from massact.prediction.cases import Case, Outcome, find_outcomes
from massact.prediction.forms import TARGETS, groups_of
from massact.prediction.leaving_out import Trial, leave_groups_out, n_steps
from massact.prediction.verdict import Decision, adopt, decide
from massact.report.prediction import prediction_csv, prediction_markdown
from massact.store.schema import Artifact, MlflowTag, Tag
from massact.store.write.registry import prior_name, register_prior
from massact.store.write.tracker import OpenRun
from massact.sweep.accounting import phase_params
from massact.sweep.context import Session
from massact.sweep.planner import load_answers
from massact.sweep.vectors import StoredVectors, facts_of
from massact.toy import is_toy
from massact.vectors.geometry import vector_digest

OTHER_VECTOR = "evaluated with a vector that the store's extraction does not hold (any more)"
NOT_DECLARED = "of a model or trait that the experiment file does not declare"
NOTHING_OUTSIDE = "all of the vector lies in massive dims"
MIN_GROUPS = 2


@dataclass(frozen=True, slots=True)
class Prediction:
    """What was tested, and what is concluded."""

    floor: float
    trial: Trial
    decisions: tuple[Decision, ...]
    text: str

    def prior(self, experiment: str) -> AdoptedPrior:
        """What is expected of the experiment's vectors from now on."""
        return adopt(self.trial, self.decisions, experiment=experiment, floor=self.floor)


def run_predict(session: Session, floor: float | None = None) -> Prediction:
    """Test all predictors, show and log the verdict, and register the prior that follows from it.

    Args:
        floor: coherence floor that bests and cliffs are found at; `None`: the experiment's. What is found at
            another one is logged, but not registered.

    Raises:
        UsageError: there are too few evaluations to test anything.
    """
    found = predict(session, session.experiment.coherence_floor if floor is None else floor)
    params = {**phase_params(session), "coherence_floor": f"{found.floor:g}"}
    with session.stores.tracker.phase("predict", params=params) as run:
        _log(session, run, found)
        session.show(found.text)
        if found.floor != session.experiment.coherence_floor:
            session.show(f"not registered: the experiment's floor is {session.experiment.coherence_floor:g}")
            return found
        name = prior_name(session.experiment.name)
        text = format_prior(found.prior(session.experiment.name))
        registered = register_prior(session.stores.tracker, run, name, text)
        session.show(f"registered: {name} version {registered.version}, which searches start from")
    return found


def show_prediction(session: Session, floor: float | None = None) -> Prediction:
    """The same without a run or a registered prior: nothing is written.

    Raises:
        UsageError: as `run_predict`.
    """
    found = predict(session, session.experiment.coherence_floor if floor is None else floor)
    session.show(found.text)
    return found


def predict(session: Session, floor: float) -> Prediction:
    """Test all predictors on what the store holds, and write nothing.

    Raises:
        UsageError: as `run_predict`.
    """
    outcomes = find_outcomes(load_answers(session).evaluations, floor)
    left_out = Counter(outcomes.left_out)
    cases = list(_cases(session, outcomes.found, left_out))
    groups = groups_of(cases)
    if len(groups) < MIN_GROUPS:
        raise UsageError(_too_few(session, cases, left_out, floor))
    with session.progress("predicting", n_steps(cases)) as step:
        trial = leave_groups_out(cases, step=step)
    decisions = tuple(decide(trial, target) for target in TARGETS)
    toy = all(is_toy(model.instruct.reference) for model in session.experiment.models)
    text = prediction_markdown(trial, decisions, floor=floor, left_out=left_out, toy=toy)
    return Prediction(floor, trial, decisions, text)


def _cases(session: Session, outcomes: Iterable[Outcome], left_out: Counter[str]) -> Iterator[Case]:
    """Outcomes with the facts about their vectors, as far as the store still holds these."""
    by_ladder: dict[tuple[str, str, str, str], list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        by_ladder[outcome.model, outcome.trait, outcome.position, outcome.label].append(outcome)
    declared = {
        (m.name, t.name): (m, t) for m in session.experiment.models for t in session.experiment.traits
    }
    stored: dict[tuple[str, str], StoredVectors] = {}
    for (model, trait, position, label), mine in sorted(by_ladder.items()):
        if (model, trait) not in declared:
            left_out[NOT_DECLARED] += len(mine)
            continue
        try:
            if (model, trait) not in stored:
                stored[model, trait] = StoredVectors(session, *declared[model, trait])
            yield from _of_ladder(stored[model, trait], position, label, mine, left_out)
        except MissingPrerequisiteError as error:
            left_out[str(error)] += len(mine)  # it says which command makes what is missing


def _of_ladder(
    vectors: StoredVectors, position: str, label: str, outcomes: Iterable[Outcome], left_out: Counter[str]
) -> Iterator[Case]:
    recipe = parse_label(label)
    own = vectors.of(position, recipe)
    mine = [one for one in outcomes if one.layer < len(own)]
    facts = facts_of(vectors, position, recipe, {one.layer for one in mine}, with_activations=True)
    for outcome in outcomes:
        if outcome not in mine or vector_digest(own[outcome.layer]) != outcome.vector_digest:
            left_out[OTHER_VECTOR] += 1
        elif not facts[outcome.layer].unit_strength > 0:
            left_out[NOTHING_OUTSIDE] += 1
        else:
            yield Case(outcome, facts[outcome.layer])


def _too_few(session: Session, cases: list[Case], left_out: Mapping[str, int], floor: float) -> str:
    """What is there, and what to do about it."""
    file, why = session.experiment.file, "".join(f"\n  {n} {reason}" for reason, n in left_out.items())
    reasons = f" Left out:{why}" if why else ""
    needed = (
        f"A prediction is tested on a model and trait that was left out, so {MIN_GROUPS} are needed, each with some "
        f"vector whose coefficients reach from no effect to beyond coherence {floor:g}; a regression needs 5."
    )
    if not cases:
        return (
            f"nothing to predict from: the store holds no vector of {session.experiment.name} whose best coefficient "
            f"and cliff were found. {needed} Run massact phase1 --experiment {file}, with coefficients in steps of a "
            f"fifth or so, and look at massact gaps.{reasons}"
        )
    model, trait = cases[0].group
    return (
        f"all {len(cases)} vectors whose best coefficient and cliff were found are of one model and trait ({model}, "
        f"{trait}): leaving out single labels of it would test them on what they were fitted to. {needed} Add another "
        f"model or trait to {file} and run massact phase1, or see massact coefficients for this one.{reasons}"
    )


def _log(session: Session, run: OpenRun, found: Prediction) -> None:
    tracker, trial = session.stores.tracker, found.trial
    tracker.set_tag(run, MlflowTag.NOTE, found.text)
    for decision in found.decisions:
        tracker.set_tag(run, f"{Tag.VERDICT}.{decision.target}_coefficient", decision.text)
    metrics = {"n_cases": float(len(trial.cases)), "n_groups": float(len(trial.groups))}
    for (target, form), score in trial.scores.items():
        figures = {
            "median_factor": score.median_factor,
            "high_factor": score.high_factor,
            "share_within": score.share_within,
        }
        metrics |= {f"{name}/{target}/{form}": value for name, value in figures.items()}
    tracker.log(run, metrics=metrics)
    with tracker.artifacts(run) as folder:
        (folder / "predict.md").write_text(found.text + "\n", encoding="utf-8")
        (folder / Artifact.PREDICTIONS).write_text(prediction_csv(trial), encoding="utf-8")
