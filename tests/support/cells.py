"""A cell, its baseline, and every cell that differs from it in one field."""

import dataclasses
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from massact.domain import (
    Cell,
    Cleaning,
    Gate,
    Generation,
    JudgeIdentity,
    ModelIdentity,
    Prompting,
    Recipe,
    Setting,
    Steering,
)

SETTING = Setting(
    model=ModelIdentity("google/gemma-3-4b-it", "abc123", "bfloat16"),
    trait="refusal",
    trait_digest="t0",
    questions_digest="q0",
    subset=0,
    chat_template_digest="c0",
    generation=Generation(64, 0.0, 0),
    judge=JudgeIdentity("openai:gpt-4.1-mini", "gpt-4.1-mini-2025-04-14", "p0"),
)
STEERING = Steering(
    vector_digest="v0",
    position="response[:5]",
    recipe=Recipe("mean_diff", Cleaning("after", "uniform", 2)),
    layer=15,
    coefficient=800.0,
    direction="positive",
)
CELL = Cell(SETTING, STEERING)
BASELINE = Cell(SETTING, None)

OTHER_VALUES: dict[str, Any] = {
    "method": "probe",
    "when": "before",
    "scope": "layer",
    "direction": "negative",
    "operator": "ablate",
    "tokens": "response",
    "mode": "keep",
    "depth": "rising",
    "decay": 0.5,
    "gate": "harmful",
    "weights": (0.5, 1.0),
    "condition": Gate(3, "prompt[-1]", 0.5),
    "seed": 5,
    "prompting": Prompting("prompt", "positive", "d0"),
}
"""Where not every text is a value."""


def _changes(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every copy of a dataclass that differs from it in one leaf field."""
    for field in dataclasses.fields(value):
        if not field.init or field.name == "quantile":  # of another kind of cleaning than the cell's
            continue
        old, where = getattr(value, field.name), f"{path}{field.name}"
        if dataclasses.is_dataclass(old):
            for name, changed in _changes(old, f"{where}."):
                yield name, replace(value, **{field.name: changed})
        elif field.name in OTHER_VALUES:
            yield where, replace(value, **{field.name: OTHER_VALUES[field.name]})
        else:
            more = 1 if isinstance(old, int | float) else "x"
            yield where, replace(value, **{field.name: more if old is None else old + more})


CHANGES = dict(_changes(CELL))
