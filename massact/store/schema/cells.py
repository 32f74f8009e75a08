"""A row and its cell: what a row tells is derived from the cell, and the cell is read back from what the run holds."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import reduce
from operator import attrgetter
from typing import Any

from massact.domain import Cell
from massact.json_text import read_as
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
    told: dict[str, Any] = {"setting": _part(row, _SETTING), "steering": None}
    if row.prompting_digest and row.label and row.direction:
        told["prompting"] = {"name": row.label, "direction": row.direction, "digest": row.prompting_digest}
    elif row.position is not None:
        told["steering"] = _part(row, _STEERING)
    cell: Cell = read_as(Cell, told)
    return cell


def _part(row: EvaluationRow, paths: Mapping[str, str]) -> dict[str, Any]:
    """What a row tells of a part of its cell, nested as that is; what it does not tell is left out."""
    part: dict[str, Any] = {}
    for name, path in paths.items():
        if (value := getattr(row, name)) is not None:
            *above, last = path.split(".")
            reduce(lambda inner, key: inner.setdefault(key, {}), above, part)[last] = value
    return part
