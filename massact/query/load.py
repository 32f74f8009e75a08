"""Loading what a question is asked about: an experiment file, and its part of the run store."""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict

from massact.domain import CHOICES, DEFAULT_COHERENCE_FLOOR, DEFAULT_LEAST_SCORED, floor_warning
from massact.errors import MassactError, NoMatrixError, UnknownExperimentError, UsageError
from massact.floors import Floor, as_floor
from massact.metrics import all_metrics
from massact.names import as_held, visible
from massact.query.answers import EVEN, Answers, Confirmed, Filters
from massact.query.costs import costs_of
from massact.query.groups import one_spelling
from massact.store.read import RunStore
from massact.store.schema import Declared
from massact.vectors.positions import parse_position
from massact.words import counted

if TYPE_CHECKING:
    from massact.config import Experiment

EVERYTHING = Filters()


class AtManyFloors(TypedDict, total=False):
    """What every question may be asked with."""

    tracking_uri: str | None  # `None`: MLFLOW_TRACKING_URI, else SQLite in the working directory
    only: Filters
    least_scored: float | None
    """Share of its responses that an evaluation must have scores of to count, 0 to 1; `None`: the experiment file's."""
    all_settings: bool | None  # whether other settings than the experiment file's are answered too


class About(AtManyFloors, total=False):
    """What every question at one coherence floor may be asked with."""

    floor: float | str | None
    """Least `coherence_mean` that counts, 0 to 100, or a metric's limit such as `kl<=0.3`; `None`: the experiment
    file's."""
    floor_confidence: float | None
    """Chance of truly being at or above the floor that what counts as coherent must have; `None`: 0.5."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a question needs beside the evaluations."""

    scores: Literal["", "coherent", "all"] = ""
    """Scores by question, which intervals and tests rest on: of coherent evaluations, or of all."""
    confirmations: bool = False  # what was evaluated once more, and the scores that winners were chosen by
    published: bool = False
    costs: bool = False  # what evaluations cost on tasks
    controls: bool = False  # what winners are held against
    side_effects: bool = False  # what responses were scored for other traits
    matrix: bool = False  # what an experiment file declares


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the store and the experiment file have to answer with."""

    experiment: str
    answers: Answers
    floor: Floor
    notes: tuple[str, ...]
    is_empty: bool = False  # whether the store holds no result of the experiment, whatever the filters


def load(
    store: RunStore, name: str, about: About, needs: Needs, by_file: Declared | None, phase: str | None = None
) -> Loaded:
    """Read the store once."""
    declared = by_file or store.declared(name)
    file_floor = declared.floor if declared else DEFAULT_COHERENCE_FLOOR
    floor = as_floor(file_floor) if (asked := about.get("floor")) is None else Floor.read(asked)
    told = declared.least_scored if declared else DEFAULT_LEAST_SCORED
    least_scored = _checked_share(about, "least_scored", told)
    answers = Answers.from_store(store, name, declared, phase, least_scored=least_scored)
    effects = store.side_effects(name) if needs.side_effects else []
    answers = replace(
        answers,
        published=tuple(stored.row for stored in store.published(name)) if needs.published else (),
        costs=costs_of(store, name) if needs.costs else {},
        controls=tuple(store.controls(name)) if needs.controls else (),
        side_effects=Confirmed.counting(store, effects, least_scored) if effects else answers.side_effects,
    )
    warning = floor_warning(floor)
    notes = (*([warning] if warning else []), *_notes(store, name, answers))
    is_empty = not (answers.evaluations or answers.failures or answers.published)
    if is_empty and (other := as_held(name, store.experiments())) != name:
        # written before names were composed, or under another's rule
        return load(store, other, about, needs, by_file, phase)
    if declared is None and is_empty:
        raise UnknownExperimentError(
            f"{no_file(name)}, and the run store holds no evaluation of an "
            f"experiment {name!r}: pass --experiment FILE, or the name of one that the store holds"
        )
    if declared is None and (needs.matrix or phase is not None):
        raise NoMatrixError(
            f"{no_file(name)}, which would declare what should be there, and the run "
            f"store does not say what {name!r} declares: pass --experiment FILE, or run a phase of its file once "
            "(massact evaluate, phase1 to phase3 or main), which keeps that in the store"
        )
    answers = answers.only(normalised(about.get("only", EVERYTHING)))
    if not about.get("all_settings"):
        answers, left_out = answers.in_current_setting()
        notes = (*notes, *left_out)
    notes = (*notes, *_unmeasured(answers, floor))
    confidence = _checked_share(about, "floor_confidence", EVEN)
    if needs.scores or confidence > EVEN:
        answers = answers.with_scores(store, 0.0 if needs.scores == "all" else floor)
    answers, doubts = answers.surely_coherent(floor, confidence)
    if needs.confirmations:
        answers = answers.with_confirmations(store, name, floor)
    return Loaded(name, answers, floor, (*notes, *doubts), is_empty)


def read_answers(store: RunStore, experiment: "Experiment", phase: str | None = None) -> Answers:
    """What a store holds, with the declared matrix of one phase or of all, in the setting that the file declares."""
    return Answers.from_store(store, experiment.name, declared_by_data(experiment), phase)


def declared_by_file(experiment: str | Path) -> Declared | None:
    """What an experiment file declares; `None` for a bare name without a file."""
    path = named_file(experiment)
    if path is None:
        return None
    from massact.config import load_experiment

    return declared_by_data(load_experiment(path))


def declared_by_data(experiment: "Experiment") -> Declared:
    """What an experiment file declares, with what the datasets that it names tell of its setting."""
    from massact.config.values import declared_by
    from massact.data.traits import load_trait

    declared, digests = declared_by(experiment), {}
    for trait in experiment.traits:
        with suppress(MassactError):  # nothing that is asked of the store needs the dataset
            dataset = load_trait(experiment.resolve(trait.dataset), has_choices=experiment.judge.kind == CHOICES)
            asked = dataset.question_set(experiment.subset, confirm_share=experiment.confirm_share)
            digests[trait.name] = asked.digest
    setting = declared.setting
    if setting is not None:
        weights = dict(setting.weights)
        for model, folder in ((model, Path(reference)) for model, reference in setting.weights.items()):
            files = list(folder.glob("*.gguf")) if folder.is_dir() and not (folder / "config.json").exists() else []
            weights |= {model: str(files[0])} if len(files) == 1 else {}  # of no other weights that file
        setting = replace(setting, question_sets=digests, weights=weights)
    return replace(declared, setting=setting)


def find_experiment_file(value: str | Path) -> Path:
    """A file as given, or a bare name (as the plan writes it) as `experiments/NAME.yaml`, else as `NAME.yaml`."""
    path, named, here = Path(value), Path("experiments") / f"{value}.yaml", Path(f"{value}.yaml")
    if path.suffix in (".yaml", ".yml") or os.path.isfile(path):  # of a name that no file can have too
        return path
    return here if os.path.isfile(here) and not os.path.isfile(named) else named


def named_file(value: str | Path) -> Path | None:
    """The file that an experiment is named by; `None` for a bare name without one: perhaps the store knows it."""
    path = find_experiment_file(value)
    return path if path == Path(value) or os.path.isfile(path) else None


def no_file(name: str) -> str:
    """That there is no such file, in words."""
    return visible(f"no experiment file {find_experiment_file(name)}")


def _notes(store: RunStore, name: str, answers: Answers) -> Iterator[str]:
    if not answers.evaluations and not answers.failures:
        yield f"the run store holds no evaluation of experiment {name!r}"
    if n_foreign := store.count_foreign(name):
        runs_lie = counted(n_foreign, "run of another tool lies", "runs of other tools lie")
        yield f"{runs_lie} in the same MLflow experiment, left out"
    yield from (*answers.baseline_notes, *store.warnings)


def normalised(only: Filters) -> Filters:
    """The filters with positions and labels in their one spelling."""
    return replace(
        only,
        positions=tuple(str(parse_position(text)) for text in only.positions),
        labels=tuple(map(one_spelling, only.labels)),
    )


def _unmeasured(answers: Answers, floor: Floor) -> tuple[str, ...]:
    """How many evaluations lack the metric that the floor is of, if any, and what can be done about it. Raises
    UsageError: all do, and the metric is none that is known."""
    if floor.is_coherence or not answers.evaluations:
        return ()
    names = {name for points in answers.evaluations.by_place.values() for name in points.all.metric_names}
    if floor.metric not in names and floor.metric not in all_metrics():
        known = ", ".join(sorted({*names, *all_metrics()}))
        raise UsageError(f"floor {floor.rule}: nothing has a metric {floor.metric!r}; there is {known}")
    n = sum(points.n_unmeasured(floor) for points in answers.evaluations.by_place.values())
    have = counted(n, "evaluation has", "evaluations have")
    note = (
        f"{have} no {floor.metric}, counted neither at the floor nor as a miss: it was not measured. A sweep whose "
        "file has this floor evaluates them anew"
    )
    return (note,) if n else ()


def _checked_share(about: About, name: Literal["least_scored", "floor_confidence"], default: float) -> float:
    share = about.get(name)
    if share is not None and not 0 <= share <= 1:
        raise UsageError(f"{name} {share:g}: it runs from 0 to 1")
    return default if share is None else share
