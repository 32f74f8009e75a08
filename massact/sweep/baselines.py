"""What winners are held against: a prompt, examples, and random directions of the same norm, a source for the driver.

The results are runs of a kind of their own, beside the grid: none of them can win it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product

from massact.config import BaselinesConfig
from massact.domain import NO_CLEANING, RANDOM, Coefficients, Message, Prompting
from massact.errors import DataError, MissingPrerequisiteError, UsageError
from massact.evaluation import PlannedCell
from massact.floors import as_floor
from massact.json_text import parse_object
from massact.keys import cell_key, digest
from massact.query.groups import recipe_of
from massact.query.questions.best import BestRow, ask_best, winners
from massact.store.read.base import Stored
from massact.store.schema import Artifact, EvaluationRow, Kind, is_scored
from massact.store.schema.points import or_nan
from massact.store.write.evaluations import Place
from massact.store.write.tracker import OpenRun
from massact.sweep.context import Session, load_answers, open_phase
from massact.sweep.driver import CellSource, Driver, Plan, Tally
from massact.sweep.planner import GridRequest, Planner, check_experiment
from massact.sweep.reuse import is_compared
from massact.sweep.stored import Subject, find_baseline
from massact.sweep.stored_extractions import newest_extractions
from massact.words import counted

PHASE = "baselines"
_NO_TEMPLATE = digest({"chat_template": None})


@dataclass(slots=True)
class BaselinesPlan:
    """What there is to evaluate."""

    winners: dict[Subject, list[BestRow]] = field(default_factory=dict)  # of each place where something is coherent
    left_out: dict[str, None] = field(default_factory=dict)  # what cannot be evaluated, in words


def plan_baselines(session: Session) -> BaselinesPlan:
    """The winners of the current setting, by model and trait. Raises UsageError: the file asks for no baselines."""
    experiment = session.experiment
    if experiment.baselines == BaselinesConfig():
        raise UsageError(f"{experiment.file} names no baselines: write `baselines: [prompt, few_shot, random]`")
    bests = ask_best.of(load_answers(session), experiment.coherence_floor).rows
    found = [row for row in winners(bests).values() if row.is_current]
    plan = BaselinesPlan()
    for model, trait in product(experiment.models, experiment.traits):
        mine = [row for row in found if (row.model, row.trait) == (model.name, trait.name)]
        plan.winners[Subject(model, trait)] = mine
        if experiment.baselines.random and not mine:
            why = "where nothing has reached the floor yet"
            plan.left_out[f"no random direction of {model.name}, {trait.name}, {why}"] = None
    return plan


def run_baselines(session: Session, parent: OpenRun | None = None) -> Tally:
    """Evaluate the baselines that the experiment file names, as far as the store does not hold them."""
    check_experiment(session, judges=True)
    session.stores.send_leftovers()
    plan, tally = plan_baselines(session), Tally()
    with open_phase(session, PHASE, parent, {"baselines": str(session.experiment.baselines)}) as run:
        for subject, best in plan.winners.items():
            cells = partial(baseline_cells, session, subject, best, plan.left_out)
            tally.add(Driver(session, run, controls_source(session, subject, cells)).run())
        session.stores.settle()
    for reason in plan.left_out:
        session.say(f"{PHASE}: {reason}")
    session.say(f"{PHASE}: {tally}")
    return tally


def controls_source(session: Session, subject: Subject, make: Callable[[], dict[str, PlannedCell]]) -> CellSource:
    """The baselines of a model and trait as the driver takes them; `make` plans their cells."""
    experiment, planner = session.experiment, Planner(session, subject.model, subject.trait)
    questions, floor = planner.questions.questions, as_floor(experiment.coherence_floor)

    def stored_baseline() -> Stored[EvaluationRow] | None:
        return find_baseline(session, cell_key(planner.baseline().cell))

    def plan() -> Plan:
        cells, baseline = make(), stored_baseline()
        with session.stores.read() as store:
            stored = {one.row.key: one for one in store.controls(experiment.name) if one.row.key in cells}
        # what lacks the floor's metric is generated again
        stored = {key: one for key, one in stored.items() if not floor.is_lacking(one.row)}
        done = {key for key, one in stored.items() if is_finished(one.row, baseline, experiment.least_scored)}
        left = {key: one for key, one in cells.items() if key not in done}
        return Plan(len(cells), left, stored={key: stored[key].run_id for key in left if key in stored})

    place = Place(
        experiment.name,
        subject.model.name,
        subject.model.instruct.name,
        len(questions),
        confirm_share=experiment.confirm_share,
        kind=Kind.CONTROL,
    )
    keeps = session.workload.save_responses != "none"
    return CellSource(subject, questions, planner.baseline, stored_baseline, plan, lambda *_: keeps, place=place)


def is_finished(row: EvaluationRow, baseline: Stored[EvaluationRow] | None, least_scored: float) -> bool:
    """Whether a result has scores enough, and was compared with the baseline as the store has it."""
    if not is_scored(row, least_scored):
        return False
    return baseline is None or bool(is_compared(or_nan(row.baseline_trait_mean), baseline.row, least_scored))


def baseline_cells(
    session: Session, subject: Subject, best: Sequence[BestRow], left_out: dict[str, None]
) -> dict[str, PlannedCell]:
    """The cells of a model's and trait's baselines, by key."""
    planner = Planner(session, subject.model, subject.trait)
    unsteered = planner.baseline().cell
    cells = list[PlannedCell]()
    for name, messages in _prompts(session, subject, planner, left_out):
        asked = Prompting(name, planner.direction, digest({"messages": messages}))
        cells.append(PlannedCell(replace(unsteered, prompting=asked), None, before=messages))
    for row in best:
        recipe = recipe_of(row.label)
        if recipe is None or row.layer is None or row.coefficient is None:
            left_out[f"no random direction beside {row.label}, which an import told of"] = None
            continue
        at = ((row.layer,), Coefficients((row.coefficient,)))
        seeds = range(1, session.experiment.baselines.random + 1)
        random = (replace(recipe, method=RANDOM, cleaning=NO_CLEANING, seed=seed) for seed in seeds)
        cells += planner.cells(GridRequest(row.position, one, *at) for one in random).values()
    return {cell_key(one.cell): one for one in cells}


def _prompts(
    session: Session, subject: Subject, planner: Planner, left_out: dict[str, None]
) -> Iterator[tuple[str, tuple[Message, ...]]]:
    """What stands before every question, by the baseline's name."""
    config, trait = session.experiment.baselines, subject.trait
    if system := config.system(trait.name, session.datasets.of(trait).definition, planner.direction):
        yield "prompt", (("system", system),)
    if config.few_shot and not takes_turns(session, subject):
        left_out[f"no few_shot of {subject.model.name}: it has no chat template to take turns by"] = None
    elif config.few_shot:
        examples = _examples(session, subject, planner.direction)
        if len(examples) < config.few_shot:
            kept = f"extraction kept {counted(len(examples), 'example')}, of {config.few_shot}"
            left_out[f"no few_shot of {subject.model.name}, {trait.name}: {kept}"] = None
            return
        turns = ((("user", asked), ("assistant", answer)) for asked, answer in examples[: config.few_shot])
        yield "few_shot", tuple(message for turn in turns for message in turn)


def takes_turns(session: Session, subject: Subject) -> bool:
    """Whether a model has a chat template, which examples are told by."""
    return session.models.description(subject.model, subject.model.instruct).chat_template_digest != _NO_TEMPLATE


def n_prompted(session: Session, subject: Subject) -> int:
    """How many baselines of a model and trait stand before the questions, and so need no winner."""
    config, trait = session.experiment.baselines, subject.trait
    system = config.system(trait.name, session.datasets.of(trait).definition, trait.direction)
    return bool(system) + bool(config.few_shot and takes_turns(session, subject))


def _examples(session: Session, subject: Subject, direction: str) -> list[tuple[str, str]]:
    """Prompts with answers that show the trait, or that do not where less of it is wanted: those of a trait of pairs,
    else the contrastive prompts that extraction kept, with their continuations."""
    dataset = session.datasets.of(subject.trait)
    if dataset.has_answers:
        return [(one.text, one.answer or "") for one in getattr(dataset, direction)]
    with session.stores.read() as store:
        stored = newest_extractions(session.experiment, store)
    windows = session.experiment.extraction.positions
    run = next((one for at in windows if (one := stored.get((subject.model.name, subject.trait.name, at)))), None)
    if run is None:
        raise MissingPrerequisiteError(
            f"baselines.few_shot takes its examples from what extraction read of {subject.trait.name}: "
            f"run massact extract --experiment {session.experiment.file} first"
        )
    path = session.stores.fetch(run.run_id, Artifact.CONTINUATIONS)
    try:
        table = parse_object(path.read_bytes())
        rows = [dict(zip(table["columns"], one, strict=True)) for one in table["data"]]
        kept = [one for one in rows if one["side"] == direction and one["kept"]]
        texts = [(str(one["prompt"]), str(one["judged_text"] or one["continuation"] or "").strip()) for one in kept]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: no table of continuations ({error!r}); run massact extract again") from error
    return [one for one in texts if one[1]]
