"""A stored evaluation as the cell it came from, so that another judge's result gets the key it would have got.

A row does not hold every fact of its cell: the dataset's digest and the chat template's are in the key
alone. They are taken from the files as they are now, and the row's own key says whether they still were
the same when the evaluation was made.
"""

from dataclasses import dataclass, replace
from typing import TypeVar

from massact.config import ModelConfig, TraitConfig
from massact.domain import (
    Cell,
    Cleaning,
    Generation,
    Geometry,
    JudgeIdentity,
    ModelIdentity,
    Recipe,
    Setting,
    Steering,
)
from massact.errors import DataError, UsageError
from massact.evaluation import PlannedCell
from massact.keys import cell_key
from massact.store.read.base import Stored
from massact.store.schema import Artifact, EvaluationRow
from massact.store.write.tensors import read_tensor
from massact.vectors.geometry import vector_digest
from massact.workflow.context import Session

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Subject:
    """What the experiment file has of a row's model and trait."""

    model: ModelConfig
    trait: TraitConfig


def subject_of(session: Session, row: EvaluationRow) -> Subject | None:
    """The model and trait of a row; `None` where the experiment file names them no more."""
    experiment = session.experiment
    try:
        model, trait = experiment.model(row.model), experiment.trait(row.trait)
    except UsageError:
        return None
    return Subject(model, trait) if model.instruct.name == row.model_variant else None


def recast(session: Session, subject: Subject, row: EvaluationRow) -> Cell | None:
    """The cell that a row is the result of; `None` where it cannot be told: an imported row, or files that changed."""
    try:
        cell = Cell(_setting(session, subject, row), _steering(row))
    except (TypeError, ValueError):  # a fact is missing, as in an imported row
        return None
    return cell if cell_key(cell) == row.key else None


def stored_plan(session: Session, cell: Cell, stored: Stored[EvaluationRow]) -> PlannedCell:
    """A cell ready to be evaluated, with the vector and the geometry that its run keeps.

    Raises:
        MassactError: the vector cannot be read, or is another one than the row names.
    """
    row, vector = stored.row, None
    if row.layer is not None:
        vector = read_tensor(session.fetch(stored.run_id, Artifact.VECTOR), "vector")
        if vector_digest(vector) != row.vector_digest:
            raise DataError("its vector is another one: see massact doctor")
    return PlannedCell(cell, vector, _geometry(row), row.n_dims_cleaned)


def _geometry(row: EvaluationRow) -> Geometry | None:
    energy, cosine, strength = row.massive_energy, row.cosine_to_uncleaned, row.relative_strength
    if energy is None or cosine is None or strength is None:
        return None
    return Geometry(energy, cosine, strength)


def with_judge(cell: Cell, judge: JudgeIdentity) -> Cell:
    """The same cell under another judge."""
    return replace(cell, setting=replace(cell.setting, judge=judge))


def _setting(session: Session, subject: Subject, row: EvaluationRow) -> Setting:
    described = session.description(subject.model, subject.model.instruct)
    return Setting(
        model=ModelIdentity(row.model_id, _given(row.model_revision), _given(row.dtype)),
        trait=row.trait,
        trait_digest=session.dataset(subject.trait).digest,
        questions_digest=_given(row.question_set),
        subset=_given(row.subset),
        chat_template_digest=described.chat_template_digest,
        generation=Generation(_given(row.max_new_tokens), _given(row.temperature), _given(row.seed)),
        judge=JudgeIdentity(row.judge, _given(row.judge_model), _given(row.judge_prompt)),
    )


def _steering(row: EvaluationRow) -> Steering | None:
    if row.position is None:
        return None
    cleaning = Cleaning(_given(row.cleaning), row.scope, _given(row.n_dims))  # type: ignore[arg-type]  # the store's text
    return Steering(
        vector_digest=_given(row.vector_digest),
        position=row.position,
        recipe=Recipe(_given(row.method), cleaning),
        layer=_given(row.layer),
        coefficient=_given(row.coefficient),
        direction=_given(row.direction),
        component=_given(row.component),
        steered_tokens=_given(row.steered_tokens),
    )


def _given(value: T | None) -> T:
    """A value that must be there.

    Raises:
        ValueError: it is missing.
    """
    if value is None:
        raise ValueError("missing")
    return value
