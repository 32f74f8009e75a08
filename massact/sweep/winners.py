"""What winners are evaluated for once more, sources for the driver: other questions, and what they are held against.

The results are runs of kinds of their own, which no question about the grid sees: a confirmation must not become a
second chance to win, nor can a prompt, examples or a random direction win.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product

from massact.config import BaselinesConfig
from massact.domain import NO_CLEANING, RANDOM, Cell, Coefficients, Message, Prompting, Setting
from massact.errors import DataError, MassactError, MissingPrerequisiteError, NothingToConfirmError, UsageError
from massact.evaluation import PlannedCell
from massact.floors import as_floor
from massact.json_text import parse_object
from massact.keys import cell_key, differences, digest
from massact.plugins import own_digest
from massact.query.groups import recipe_of
from massact.query.questions.best import BestRow, ask_best, winners
from massact.report.phase_notes import confirm_markdown, confirm_verdicts
from massact.store.databases import is_absent
from massact.store.read.base import Stored
from massact.store.schema import Artifact, EvaluationRow, Kind
from massact.store.write.tracker import PROJECT_RUN, OpenRun
from massact.sweep.context import Session, keep_outcome, load_answers, open_phase
from massact.sweep.driver import CellSource, Driver, Plan, Tally
from massact.sweep.planner import GridRequest, Planner, check_experiment, make_setting
from massact.sweep.reuse import finished_rows
from massact.sweep.stored import (
    LeftOutError,
    Moved,
    Subject,
    counting,
    find_baseline,
    stored_by_key,
    stored_plan,
    stored_subject,
)
from massact.sweep.stored_extractions import newest_extractions
from massact.words import counted

# Which cells are to be confirmed: every winner and every label tied with it, on the questions kept for that.

_OTHER_QUESTIONS = "chosen on other questions than those that the experiment file now keeps for choosing"
_OTHER_SETTING = "evaluated in another setting than the experiment file's ({} differ)"


@dataclass(slots=True)
class ConfirmPlan:
    """What there is to confirm."""

    by_subject: dict[Subject, list[Moved]] = field(default_factory=dict)
    confirmed: dict[str, Stored[EvaluationRow]] = field(default_factory=dict)
    """What was confirmed before and counts, baselines too, by key."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Winners and tied labels that cannot be confirmed, by the reason."""

    @property
    def n_cells(self) -> int:
        return sum(map(len, self.by_subject.values()))

    def todo(self, subject: Subject) -> list[Moved]:
        """What of a model and trait was not confirmed yet."""
        return [moved for moved in self.by_subject.get(subject, ()) if moved.key not in self.confirmed]

    @property
    def n_todo(self) -> int:
        return sum(len(self.todo(subject)) for subject in self.by_subject)

    @property
    def why_left_out(self) -> str:
        """The reasons in words; empty where nothing was left out."""
        return "; ".join(f"{n} left out: {reason}" for reason, n in sorted(self.left_out.items()))


def plan_confirm(session: Session) -> ConfirmPlan:
    """Every winner and every label tied with it, at the experiment's floor and in its setting."""
    if is_absent(session.stores.tracking_uri):
        raise NothingToConfirmError(f"nothing to confirm: no run store is there yet; {_evaluate_first(session)}")
    floor = session.experiment.coherence_floor
    bests = ask_best.of(load_answers(session, with_scores=True), floor).rows
    winning = [row for row in bests if row.standing in ("winner", "tied")]
    with session.stores.read() as store:
        rows = store.rows(row.run_id or "" for row in winning)
    plan, current = ConfirmPlan(confirmed=confirmed_rows(session)), dict[Subject, Setting]()
    for best in winning:
        with counting(plan.left_out):
            run_id = best.run_id or ""
            subject, cell = stored_subject(session, rows.get(run_id))
            source = Stored(run_id, "FINISHED", None, rows[run_id])
            chosen = Moved(source, subject, _moved(session, current, subject, cell))
            plan.by_subject.setdefault(subject, []).append(chosen)
    if not plan.n_cells:
        raise NothingToConfirmError(f"nothing to confirm: {_why_nothing(session, bests, plan)}")
    return plan


def confirmed_rows(session: Session) -> dict[str, Stored[EvaluationRow]]:
    """What was confirmed and counts, by key: it has scores of enough responses, and what the floor is of, and is
    compared with what has too."""
    stored, floor = stored_by_key(session, Kind.CONFIRMATION), as_floor(session.experiment.coherence_floor)
    whole = {key: result for key, result in stored.items() if not floor.is_lacking(result.row)}
    return finished_rows(session, whole, stored)


def _evaluate_first(session: Session) -> str:
    return f"run massact main --experiment {session.experiment.file}, or its phases, first"


def _why_nothing(session: Session, bests: Sequence[BestRow], plan: ConfirmPlan) -> str:
    floor = session.experiment.coherence_floor
    if plan.left_out:
        return f"{plan.why_left_out}; {_evaluate_first(session)}"
    if any(row.status == "ok" for row in bests):
        return (
            "no winner can be told, since the run store has no scores of three questions or more: ask more questions "
            "(subset, questions.confirm)"
        )
    if any(row.status == "below_floor" for row in bests):
        command = f"massact gaps --experiment {session.experiment.file}"
        return f"no winner reaches {as_floor(floor).reach}; {command} says what to try"
    return f"nothing was evaluated; {_evaluate_first(session)}"


def _moved(session: Session, known: dict[Subject, Setting], subject: Subject, cell: Cell) -> Cell:
    """A chosen cell on the questions that confirm; LeftOutError where there is none. `known`: the file's settings."""
    about, asked = (session, subject.model, subject.trait), session.datasets.questions(subject.trait)
    if subject not in known:
        known[subject] = make_setting(*about, asked, session.experiment.generation)
    if (cell.setting.questions_digest, cell.setting.subset) != (asked.digest, asked.subset):
        raise LeftOutError(_OTHER_QUESTIONS)
    if cell.setting.model != known[subject].model and not session.stores.is_dry:
        # what the weights say counts; the files of some models tell it otherwise
        session.models.loaded(subject.model, subject.model.instruct)
        known[subject] = make_setting(*about, asked, session.experiment.generation)
    names = [*differences(cell.setting, known[subject])]
    if cell.steering is None or cell.steering.direction != subject.trait.direction:
        names.append("direction")
    if names:
        raise LeftOutError(_OTHER_SETTING.format(", ".join(names)))
    confirming = session.datasets.confirming(subject.trait)
    setting = replace(known[subject], questions_digest=confirming.digest, subset=confirming.subset)
    return replace(cell, setting=setting)


PHASE = "confirm"


def run_confirm(session: Session, parent: OpenRun | None = None) -> Tally:
    """Evaluate every winner and every label tied with it on the questions kept for that, as far as that was not done.
    Where all of it was done, nothing is evaluated, and without a `parent` no run is made. Raises NothingToConfirmError:
    no questions are kept for confirming, or no winner can be confirmed; nothing was written."""
    for trait in session.experiment.traits:
        session.datasets.confirming(trait)
    check_experiment(session, judges=True)
    session.stores.send_leftovers()
    plan = plan_confirm(session)
    if plan.left_out:
        session.say(f"confirm: {plan.why_left_out}")
    tally = Tally(wanted=plan.n_cells - plan.n_todo, finished_before=plan.n_cells - plan.n_todo)
    # the run that `mlflow run` made for this command is to say what it is, also where there is nothing to do
    if not plan.n_todo and parent is None and not os.environ.get(PROJECT_RUN):
        _tell(session, *_outcome(session))
        session.say(f"{PHASE}: {tally}; everything was confirmed already")
        return tally
    params = {"confirm_share": f"{session.experiment.confirm_share:g}"}
    with open_phase(session, PHASE, parent, params) as run:
        for subject in plan.by_subject:
            if cells := _read_cells(session, plan.todo(subject), tally):
                tally.add(Driver(session, run, _source(session, subject, cells)).run())
        session.stores.settle()
        keep_outcome(session, run, PHASE, *(outcome := _outcome(session)))
        _tell(session, *outcome)
    session.say(f"{PHASE}: {tally}")
    return tally


def _outcome(session: Session) -> tuple[dict[str, str], str]:
    """What was confirmed so far: in a few words each for tags, and in tables."""
    answers = load_answers(session, with_scores=True, with_confirmations=True)
    return confirm_verdicts(session.experiment, answers), confirm_markdown(session.experiment, answers)


def _tell(session: Session, verdicts: Mapping[str, str], text: str) -> None:
    said = (f"{name.replace('_', ' ')}: {verdict}" for name, verdict in verdicts.items())
    session.tell(text, "\n".join(["Confirmed on other questions", *said]))


def _read_cells(session: Session, todo: Sequence[Moved], tally: Tally) -> dict[str, tuple[Moved, PlannedCell]]:
    """By key, those whose vector can be read from the run that was chosen."""
    cells = {}
    for moved in todo:
        try:
            steering = moved.cell.steering
            if steering and steering.operator_source != own_digest("operators", steering.recipe.operator):
                raise UsageError(f"the file of the operator {steering.recipe.operator} was changed since")
            cells[moved.key] = (moved, stored_plan(session, moved.cell, moved.source))
        except MassactError as error:
            tally.add(Tally(wanted=1, failed=1))
            session.say(f"failed: the vector of run {moved.source.run_id}: {error}")
    return cells


def _source(session: Session, subject: Subject, cells: Mapping[str, tuple[Moved, PlannedCell]]) -> CellSource:
    """What is chosen of one model and trait, on the questions that confirm."""
    first = next(iter(cells.values()))[0]
    unsteered, baseline_key = PlannedCell(replace(first.cell, steering=None), None), first.baseline_key

    def plan() -> Plan:
        confirmed = confirmed_rows(session)
        return Plan(len(cells), {key: cell for key, (_, cell) in cells.items() if key not in confirmed})

    return CellSource(
        subject,
        session.datasets.confirming(subject.trait).questions,
        unsteered=lambda: unsteered,
        # one that does not count is evaluated anew
        stored_baseline=lambda: confirmed_rows(session).get(baseline_key),
        plan=plan,
        # each of them is the best of its group, or was
        keeps_responses=lambda *_: session.workload.save_responses != "none",
        confirms={
            **{key: cell.source.row.key for key, (cell, _) in cells.items()},
            baseline_key: first.source.row.baseline_key or "",
        },
    )


# Baselines: a prompt, examples, and random directions of the same norm.


BASELINES = "baselines"
_NO_TEMPLATE = digest({"chat_template": None})


def plan_baselines(session: Session) -> tuple[dict[Subject, list[BestRow]], dict[str, None]]:
    """The winners of the current setting, by model and trait, and what cannot be evaluated, in words. Raises
    UsageError: the file asks for no baselines."""
    experiment = session.experiment
    if experiment.baselines == BaselinesConfig():
        raise UsageError(f"{experiment.file} names no baselines: write `baselines: [prompt, few_shot, random]`")
    bests = ask_best.of(load_answers(session), experiment.coherence_floor).rows
    found = [row for row in winners(bests).values() if row.is_current]
    by_subject, left_out = dict[Subject, list[BestRow]](), dict[str, None]()
    for model, trait in product(experiment.models, experiment.traits):
        mine = [row for row in found if (row.model, row.trait) == (model.name, trait.name)]
        by_subject[Subject(model, trait)] = mine
        if experiment.baselines.random and not mine:
            why = "where nothing has reached the floor yet"
            left_out[f"no random direction of {model.name}, {trait.name}, {why}"] = None
    return by_subject, left_out


def run_baselines(session: Session, parent: OpenRun | None = None) -> Tally:
    """Evaluate the baselines that the experiment file names, as far as the store does not hold them."""
    check_experiment(session, judges=True)
    session.stores.send_leftovers()
    (by_subject, left_out), tally = plan_baselines(session), Tally()
    with open_phase(session, BASELINES, parent, {"baselines": str(session.experiment.baselines)}) as run:
        for subject, best in by_subject.items():
            cells = partial(baseline_cells, session, subject, best, left_out)
            tally.add(Driver(session, run, controls_source(session, subject, cells)).run())
        session.stores.settle()
    for reason in left_out:
        session.say(f"{BASELINES}: {reason}")
    session.say(f"{BASELINES}: {tally}")
    return tally


def controls_source(session: Session, subject: Subject, make: Callable[[], dict[str, PlannedCell]]) -> CellSource:
    """The baselines of a model and trait as the driver takes them; `make` plans their cells."""
    planner, floor = Planner(session, subject.model, subject.trait), as_floor(session.experiment.coherence_floor)

    def stored_baseline() -> Stored[EvaluationRow] | None:
        return find_baseline(session, cell_key(planner.baseline().cell))

    def plan() -> Plan:
        cells, baseline, controls = make(), stored_baseline(), stored_by_key(session, Kind.CONTROL)
        # what lacks the floor's metric is generated again
        stored = {
            key: control for key, control in controls.items() if key in cells and not floor.is_lacking(control.row)
        }
        done = finished_rows(session, stored, {baseline.row.key: baseline} if baseline else {})
        left = {key: cell for key, cell in cells.items() if key not in done}
        return Plan(len(cells), left, stored={key: stored[key].run_id for key in left if key in stored})

    asked, keeps = planner.questions.questions, session.workload.save_responses != "none"
    return CellSource(subject, asked, planner.baseline, stored_baseline, plan, lambda *_: keeps, kind=Kind.CONTROL)


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
        cells += planner.cells(GridRequest(row.position, recipe, *at) for recipe in random).values()
    return {cell_key(cell.cell): cell for cell in cells}


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
        return [(prompt.text, prompt.answer or "") for prompt in getattr(dataset, direction)]
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
        rows = [dict(zip(table["columns"], values, strict=True)) for values in table["data"]]
        kept = [row for row in rows if row["side"] == direction and row["kept"]]
        texts = [(str(row["prompt"]), str(row["judged_text"] or row["continuation"] or "").strip()) for row in kept]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: no table of continuations ({error!r}); run massact extract again") from error
    return [text for text in texts if text[1]]
