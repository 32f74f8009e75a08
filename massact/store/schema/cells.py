"""A row and its cell: what a row tells is derived from the cell, and the cell is read back from what the run holds."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from operator import attrgetter
from typing import Any

from massact.domain import (
    Cell,
    Cleaning,
    Generation,
    JudgeIdentity,
    ModelIdentity,
    Prompting,
    Recipe,
    Setting,
    Steering,
)
from massact.keys import cell_key, read_cell, screening_key
from massact.labels import format_label
from massact.store.schema.names import Kind
from massact.store.schema.rows import EvaluationRow

_SETTING = {
    "model_id": "model.id",
    "model_revision": "model.revision",
    "dtype": "model.dtype",
    "question_set": "questions_digest",
    "judge": "judge.id",
    "judge_model": "judge.model",
    "judge_prompt": "judge.prompt_digest",
    **{name: f"generation.{name}" for name in ("max_new_tokens", "temperature", "seed")},
    **{name: name for name in ("trait", "trait_digest", "subset", "chat_template_digest")},
    **{name: name for name in ("thinking", "template_arguments")},
}
_MAY_LACK = (
    "scope", "mode", "quantile", "operator", "operator_source", "depth", "decay", "gate", "thinking",
    "template_arguments", "recipe.seed",
)  # fmt: skip
_STEERING = {
    "cleaning": "recipe.cleaning.when",
    "cleaning_mode": "recipe.cleaning.mode",
    "n_vectors": "recipe.n_layers",
    "vector_seed": "recipe.seed",
    "steered_tokens": "recipe.tokens",
    **{name: f"recipe.cleaning.{name}" for name in ("scope", "n_dims", "quantile")},
    **{name: f"recipe.{name}" for name in ("method", "operator", "n_directions", "depth", "decay", "gate")},
    **{name: name for name in ("position", "layer", "coefficient", "component", "direction")},
    **{name: name for name in ("vector_digest", "operator_source")},
}
"""Fields of a row -> where its cell's setting, or its steering, has them."""


def cell_fields(cell: Cell) -> dict[str, Any]:
    """What a row tells of its cell."""
    told = {name: attrgetter(path)(cell.setting) for name, path in _SETTING.items()}
    if asked := cell.prompting:
        told |= {"label": asked.name, "direction": asked.direction, "prompting_digest": asked.digest}
    if cell.steering is None:
        return told
    told |= {name: attrgetter(path)(cell.steering) for name, path in _STEERING.items()}
    return {**told, "label": format_label(cell.steering.recipe)}


def stored_cell(row: EvaluationRow, told: Mapping[str, str] | None = None) -> Cell | None:
    """The cell that a row is the result of, proven by its key; `None` where that cannot be told, as of imported rows.
    `told`: fields that rows of earlier versions lack and whose values may be the same still, such as `trait_digest`."""
    with suppress(TypeError, ValueError):  # it is not there, or damaged
        cell = read_cell(row.cell or "")
        if _is_of(row, cell):
            return cell
    wanting: dict[str, Any] = {name: value for name, value in (told or {}).items() if getattr(row, name) is None}
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
    """The cell that a row tells of, as far as a row can. Raises ValueError: a fact is missing."""
    setting = Setting(
        model=ModelIdentity(**_part(row, _SETTING, "model.")),
        generation=Generation(**_part(row, _SETTING, "generation.")),
        judge=JudgeIdentity(**_part(row, _SETTING, "judge.")),
        **_part(row, _SETTING),
    )
    if row.prompting_digest and row.label and row.direction:
        return Cell(setting, None, Prompting(row.label, row.direction, row.prompting_digest))
    if row.position is None:
        return Cell(setting, None)
    cleaning = Cleaning(**_part(row, _STEERING, "recipe.cleaning."))
    recipe = Recipe(**_part(row, _STEERING, "recipe."), cleaning=cleaning)
    return Cell(setting, Steering(recipe=recipe, **_part(row, _STEERING)))


def _part(row: EvaluationRow, paths: Mapping[str, str], of: str = "") -> dict[str, Any]:
    """The fields of a part of the cell; without a cleaning there is no scope, and not every model thinks."""
    values = {
        path.removeprefix(of): getattr(row, name)
        for name, path in paths.items()
        if path.startswith(of) and "." not in path.removeprefix(of)
    }
    if missing := [name for name, value in values.items() if value is None and not {name, of + name} & {*_MAY_LACK}]:
        raise ValueError(f"{missing} missing")
    return {name: value for name, value in values.items() if value is not None}
