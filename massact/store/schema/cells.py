"""A row and its cell: what a row tells is derived from the cell, and the cell is read back from what the run holds."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

from massact.domain import (
    Cell,
    Cleaning,
    Generation,
    JudgeIdentity,
    ModelIdentity,
    Recipe,
    Setting,
    Steering,
)
from massact.keys import cell_key, read_cell, screening_key
from massact.labels import format_label
from massact.store.schema.names import Kind
from massact.store.schema.rows import EvaluationRow

T = TypeVar("T")


def cell_fields(cell: Cell) -> dict[str, Any]:
    """What a row tells of its cell."""
    setting, steering = cell.setting, cell.steering
    told: dict[str, Any] = {
        "model_id": setting.model.id,
        "model_revision": setting.model.revision,
        "dtype": setting.model.dtype,
        "trait": setting.trait,
        "trait_digest": setting.trait_digest,
        "question_set": setting.questions_digest,
        "subset": setting.subset,
        "chat_template_digest": setting.chat_template_digest,
        "max_new_tokens": setting.generation.max_new_tokens,
        "temperature": setting.generation.temperature,
        "seed": setting.generation.seed,
        "judge": setting.judge.id,
        "judge_model": setting.judge.model,
        "judge_prompt": setting.judge.prompt_digest,
    }
    if steering is None:
        return told
    cleaning = steering.recipe.cleaning
    return told | {
        "position": steering.position,
        "label": format_label(steering.recipe),
        "method": steering.recipe.method,
        "cleaning": cleaning.when,
        "scope": cleaning.scope,
        "n_dims": cleaning.n_dims,
        "layer": steering.layer,
        "coefficient": steering.coefficient,
        "component": steering.component,
        "direction": steering.direction,
        "steered_tokens": steering.steered_tokens,
        "vector_digest": steering.vector_digest,
    }


def stored_cell(row: EvaluationRow, told: Mapping[str, str] | None = None) -> Cell | None:
    """The cell that a row is the result of, proven by its key; `None` where that cannot be told, as of imported rows.

    Args:
        told: fields that rows of earlier versions lack and whose values may be the same still, such as `trait_digest`.
    """
    with suppress(TypeError, ValueError):  # it is not there, or damaged
        cell = read_cell(_there(row.cell))
        if _is_of(row, cell):
            return cell
    wanting: dict[str, Any] = {
        name: value for name, value in (told or {}).items() if getattr(row, name) is None
    }
    with suppress(TypeError, ValueError):  # a fact is missing
        cell = _rebuilt(replace(row, **wanting))
        if _is_of(row, cell):
            return cell
    return None


def _is_of(row: EvaluationRow, cell: Cell) -> bool:
    """Whether it is the cell of a row: its key is the row's, and what both tell is the same."""
    key = cell_key(cell)
    if row.key != (screening_key(key) if row.kind is Kind.SCREENING else key):
        return False
    return all(getattr(row, name) in (None, value) for name, value in cell_fields(cell).items())


def _rebuilt(row: EvaluationRow) -> Cell:
    setting = Setting(
        model=ModelIdentity(row.model_id, _there(row.model_revision), _there(row.dtype)),
        trait=row.trait,
        trait_digest=_there(row.trait_digest),
        questions_digest=_there(row.question_set),
        subset=_there(row.subset),
        chat_template_digest=_there(row.chat_template_digest),
        generation=Generation(_there(row.max_new_tokens), _there(row.temperature), _there(row.seed)),
        judge=JudgeIdentity(row.judge, _there(row.judge_model), _there(row.judge_prompt)),
    )
    if row.position is None:
        return Cell(setting, None)
    cleaning = Cleaning(_there(row.cleaning), row.scope, _there(row.n_dims))  # type: ignore[arg-type]  # the store's text
    steering = Steering(
        vector_digest=_there(row.vector_digest),
        position=row.position,
        recipe=Recipe(_there(row.method), cleaning),
        layer=_there(row.layer),
        coefficient=_there(row.coefficient),
        direction=_there(row.direction),
        component=_there(row.component),
        steered_tokens=_there(row.steered_tokens),
    )
    return Cell(setting, steering)


def _there(value: T | None) -> T:
    """A value that must be there.

    Raises:
        ValueError: it is missing.
    """
    if value is None:
        raise ValueError("missing")
    return value
