"""Reading what a question is asked about: an experiment file, and its part of the run store."""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from massact.addresses import resolve_tracking_uri, shown_uri, store_elsewhere
from massact.domain import DEFAULT_COHERENCE_FLOOR, DEFAULT_LEAST_SCORED, floor_warning
from massact.errors import MassactError, NoMatrixError, StoreError, UnknownExperimentError, UsageError
from massact.labels import normalise_label
from massact.names import as_held, shown, visible
from massact.query import Answer, Answers, Filters
from massact.store.read import RunStore, open_store
from massact.store.schema import Declared, PublishedRow
from massact.vectors.positions import parse_position

if TYPE_CHECKING:
    from massact.config import Experiment

AnswerT_co = TypeVar("AnswerT_co", bound=Answer[Any], covariant=True)
AnswerT = TypeVar("AnswerT", bound=Answer[Any])
EVERYTHING = Filters()


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked about: an experiment in a store, or a part of it."""

    experiment: str | Path
    """An experiment file; a bare name for `experiments/NAME.yaml`, or where there is no such file for
    the experiment of that name in the store."""
    tracking_uri: str | None = None
    """`None`: MLFLOW_TRACKING_URI, else SQLite in the working directory."""
    only: Filters = EVERYTHING
    floor: float | None = None
    """Least `coherence_mean` that counts, 0 to 100; `None`: the experiment file's."""
    phase: str | None = None
    """Only the groups that this phase declares."""
    least_scored: float | None = None
    """Share of its responses that an evaluation must have scores of to count, 0 to 1; `None`: the experiment file's."""
    with_published: bool = False
    with_confirmations: bool = False
    """Whether what was confirmed is read too, and the scores that winners were chosen by."""
    with_scores: bool = False
    """Whether the scores by question are read too, which intervals and tests need."""
    needs_all_scores: bool = False
    """Whether those of incoherent evaluations are needed too."""
    needs_matrix: bool = False
    """Whether the question is about what an experiment file declares."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the store and the experiment file have to answer with."""

    experiment: str
    """Its name as the store holds it."""
    answers: Answers
    floor: float
    declared: Declared | None
    """`None` where neither a file nor the store says what should be there."""
    published: tuple[PublishedRow, ...]
    """Only where they were asked for."""
    notes: tuple[str, ...]
    is_empty: bool = False
    """Whether the store holds no result of the experiment, whatever the filters."""


@dataclass(frozen=True, slots=True)
class Posed(Generic[AnswerT_co]):
    """A question with what it is asked about; `massact.query.registry` makes them."""

    asked: Asked
    question: Callable[[Loaded], AnswerT_co]


def ask(posed: Posed[AnswerT]) -> AnswerT:
    """Read the store once, ask, and add to the answer's notes what was left out of it.

    Raises:
        UsageError: the file, the store or a filter is wrong.
    """
    declared = _declared_by_file(posed.asked)
    name = declared.experiment if declared else str(posed.asked.experiment)
    uri = resolve_tracking_uri(posed.asked.tracking_uri)
    near = (Path(declared.source).parent,) if declared else ()
    try:
        store = open_store(uri)
    except StoreError as error:
        elsewhere = store_elsewhere(uri, near)
        path = "" if declared else f"{_no_file(name)} (pass --experiment FILE), and "
        raise StoreError(f"{path}{error}{elsewhere}") from error
    try:
        loaded = _load(store, name, posed.asked, declared)
        if declared and loaded.is_empty:
            _check_held(store, loaded.experiment, shown_uri(uri), store_elsewhere(uri, near))
    finally:
        store.close()
    return replace(_answered(posed, loaded), store=shown_uri(uri))


def _check_held(store: RunStore, name: str, place: str, elsewhere: str) -> None:
    """Refuse a question about an experiment that a store of others does not hold: everything would read as missing.

    A store that holds nothing yet is an answer.
    """
    held = store.experiments()
    if held and name not in held:
        raise UnknownExperimentError(
            f"no experiment {name!r} in {place}; it has {', '.join(map(shown, held))}{elsewhere}"
        )


def ask_store(store: RunStore, posed: Posed[AnswerT]) -> AnswerT:
    """The same of a store that is open, which alone knows the experiment: no file is looked for.

    Raises:
        UsageError: the store or a filter is wrong.
    """
    return _answered(posed, _load(store, str(posed.asked.experiment), posed.asked, None))


def _answered(posed: Posed[AnswerT], loaded: Loaded) -> AnswerT:
    answer = posed.question(loaded)
    notes = (*loaded.notes, *answer.notes)
    if not answer.rows and not notes:
        notes = (*notes, "neither the experiment file nor the run store has anything to answer this with")
    return replace(
        answer, notes=notes, least_scored=loaded.answers.least_scored, experiment=loaded.experiment
    )


def find_experiment_file(value: str | Path) -> Path:
    """A file as given, or a bare name (as the plan writes it) as `experiments/NAME.yaml`."""
    path = Path(value)
    is_file = path.suffix in (".yaml", ".yml") or os.path.isfile(path)  # of a name that no file can have too
    return path if is_file else Path("experiments") / f"{value}.yaml"


def named_file(value: str | Path) -> Path | None:
    """The file that an experiment is named by; `None` for a bare name without one: perhaps the store knows it."""
    path = find_experiment_file(value)
    return path if path == Path(value) or os.path.isfile(path) else None


def _no_file(name: str) -> str:
    return visible(f"no experiment file {find_experiment_file(name)}")


def _load(store: RunStore, name: str, asked: Asked, by_file: Declared | None) -> Loaded:
    declared = by_file or store.declared(name)
    own_floor = declared.floor if declared else DEFAULT_COHERENCE_FLOOR
    floor = own_floor if asked.floor is None else _checked(asked.floor)
    groups = declared.groups(asked.phase) if declared else ()
    ranges = declared.coefficient_ranges if declared else {}
    told = declared.least_scored if declared else DEFAULT_LEAST_SCORED
    answers = Answers.from_store(
        store,
        name,
        groups=groups,
        coefficient_ranges=ranges,
        setting=declared.setting if declared else None,
        least_scored=told if asked.least_scored is None else _checked_share(asked.least_scored),
    )
    published = tuple(one.row for one in store.published(name)) if asked.with_published else ()
    warning = floor_warning(floor)
    notes = (*([warning] if warning else []), *_notes(store, name, answers))
    is_empty = not (answers.evaluations or answers.failures or published)
    if is_empty and (other := as_held(name, store.experiments())) != name:
        return _load(
            store, other, asked, by_file
        )  # written before names were composed, or under another's rule
    if declared is None and is_empty:
        raise UnknownExperimentError(
            f"{_no_file(name)}, and the run store holds no evaluation of an "
            f"experiment {name!r}: pass --experiment FILE, or the name of one that the store holds"
        )
    if declared is None and (asked.needs_matrix or asked.phase is not None):
        raise NoMatrixError(_no_matrix(name))
    answers = answers.only(normalised(asked.only))
    if asked.with_scores:
        answers = answers.with_scores(store, 0.0 if asked.needs_all_scores else floor)
    if asked.with_confirmations:
        answers = answers.with_confirmations(store, name, floor)
    return Loaded(name, answers, floor, declared, published, notes, is_empty)


def _declared_by_file(asked: Asked) -> Declared | None:
    path = named_file(asked.experiment)
    if path is None:
        return None
    from massact.config import load_experiment

    return declared_by_data(load_experiment(path))


def read_answers(store: RunStore, experiment: "Experiment", phase: str | None = None) -> Answers:
    """What a store holds, with the declared matrix of one phase or of all, in the setting that the file declares."""
    declared = declared_by_data(experiment)
    return Answers.from_store(
        store,
        experiment.name,
        groups=experiment.groups(phase),
        coefficient_ranges=declared.coefficient_ranges,
        setting=declared.setting,
        least_scored=declared.least_scored,
    )


def declared_by_data(experiment: "Experiment") -> Declared:
    """What an experiment file declares, with what the datasets that it names tell of its setting."""
    from massact.config.matrix import declared_by
    from massact.data.traits import load_trait

    declared, digests = declared_by(experiment), {}
    for trait in experiment.traits:
        with suppress(MassactError):  # nothing that is asked of the store needs the dataset
            dataset = load_trait(experiment.resolve(trait.dataset))
            asked = dataset.question_set(experiment.subset, confirm_share=experiment.confirm_share)
            digests[trait.name] = asked.digest
    setting = declared.setting and replace(declared.setting, question_sets=digests)
    return replace(declared, setting=setting)


def _no_matrix(name: str) -> str:
    return (
        f"{_no_file(name)}, which would declare what should be there, and the run "
        f"store does not say what {name!r} declares: pass --experiment FILE, or run a phase of its file once "
        "(massact evaluate, phase1 to phase3 or main), which keeps that in the store"
    )


def _notes(store: RunStore, name: str, answers: Answers) -> tuple[str, ...]:
    found = []
    if not answers.evaluations and not answers.failures:
        found.append(f"the run store holds no evaluation of experiment {name!r}")
    n_foreign = store.count_foreign(name)
    if n_foreign:
        runs_lie = "1 run of another tool lies" if n_foreign == 1 else f"{n_foreign} runs of other tools lie"
        found.append(f"{runs_lie} in the same MLflow experiment, left out")
    return (*found, *answers.baseline_notes, *store.warnings)


def normalised(only: Filters) -> Filters:
    """The filters with positions and labels in their one spelling."""
    return replace(
        only,
        positions=tuple(str(parse_position(text)) for text in only.positions),
        labels=tuple(_label(text) for text in only.labels),
    )


def _label(text: str) -> str:
    try:
        return normalise_label(text)
    except UsageError:
        return text  # imported results may have labels that are none of ours; the filters know them


def _checked(floor: float) -> float:
    if not 0 <= floor <= 100:
        raise UsageError(f"coherence floor {floor:g}: coherence runs from 0 to 100")
    return floor


def _checked_share(share: float) -> float:
    if not 0 <= share <= 1:
        raise UsageError(f"least_scored {share:g}: a share of the responses runs from 0 to 1")
    return share
