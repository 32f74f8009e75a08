"""Print docs/json.md: the fields of every question's JSON, from the types and docstrings of its rows.

Run from the project's root: python tools/json_contract.py > docs/json.md
A test fails when the file is not what this prints.
"""

import ast
import inspect
import sys
import types
import typing
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

from massact import api
from massact.metrics import DEFAULT_METRICS
from massact.query import Answer
from massact.query import rows as answer_rows
from massact.query.question import Question
from massact.query.questions import confirmations as confirmation_rows
from massact.query.questions import runs as listing
from massact.query.rows import OUTPUT_SCHEMA_VERSION as _VERSION
from massact.query.settings import SETTING_FIELDS
from massact.server.openapi import docstrings, field_docstrings, first_paragraph

_HEAD = (
    ("schema_version", "integer", f"{_VERSION}; above stands what it promises"),
    ("question", "string", "which question is answered; below it stands under each command"),
    ("floor", "number", "the least `coherence_mean` that counted, 0 to 100, or a metric's limit; of `sensitivity` the "
     "lowest asked at"),
    ("floor_rule", "string", "the same as `--floor` takes it, such as `coherence>=68` or `kl<=0.3`"),
    ("experiment", "string", "the name of the experiment that was asked about"),
    ("store", "string or null", "the run store that was asked, without passwords; `null`: the answering server's"),
    ("rows", "list of object", "the answer"),
    ("notes", "list of string", "what was left out, and what a reader must not miss"),
    ("least_scored", "number", "the share of its responses that an evaluation had to have scores of to count, 0 to 1"),
)  # fmt: skip
_JSON_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", types.NoneType: "null"}
_SHARED = (
    ("model, trait", "their names in the experiment file"),
    (", ".join(DEFAULT_METRICS), "[metrics](queries.md#metrics-and-floors-of-them): means over the responses; `null` "
     "where they were not measured. Others that were are fields of their rows too"),
    ("position", "the window that the vector was extracted at, such as `response[:5]`"),
    ("label", "the method label in its one spelling, such as `mean_diff_top1`; an imported one that is none of ours as "
     "it was written"),
    ("method, cleaning, scope, n_dims", "what the label stands for; of one that is none of ours `method` is the label "
     "and the others are `null`"),
    ("layer", "counted from 0: the output of that decoder block"),
    ("coefficient", "what the unit vector was multiplied by"),
    ("n_scored, n_unscored", "responses with a score of the judge, and without one"),
    ("n_dims_cleaned", "how many dims were zeroed in the end: the list may be shorter than asked"),
    ("relative_strength", "the coefficient on one axis for all vectors: see [the note](design/relative-strength.md)"),
    ("vector_digest", "SHA-256 of the vector's numbers; `null` of an imported result"),
    ("key", "the cell's identity: see [the note](design/cell-identity.md)"),
    ("run_id", "the MLflow run"),
    ("judge", "who scored; `null` where nothing was run"),
    ("direction", "`positive`: the larger delta is the better one; `negative`: the smaller"),
    ("setting", "digest of what evaluations must share to be compared"),
    ("baseline_trait_mean", "of the baseline that deltas are taken against, 0 to 100"),
)  # fmt: skip
"""What the source says nowhere, or once, of fields that many rows have."""
_INTRODUCTION = f"""\
# JSON

Made by `make docs` from the types and docstrings in the source. With `--format json` a question prints one object.
What is missing is `null`: never 0, never NaN, never a field left out. Numbers are as they are stored, not rounded.
`--format csv` and `.to_frame()` have the fields of a row too, those of a point within it with its name before theirs,
such as `nearest_miss_layer`; in CSV a list is written as JSON. What the questions mean stands in
[queries.md](queries.md).

`schema_version` is {_VERSION}. Fields are added without a new version: pass over those that you do not know. A field
that is removed, or whose meaning changes, raises it. Texts for people (notes, warnings, flags, reasons, errors,
recommendations) may be worded anew at any time: decide by the other fields."""

_DIFFERING = f"""\
Where the settings of one model and trait differ that an answer's rows are of, every row has these too, at its end: the
fields in which they differ, of `{"`, `".join(SETTING_FIELDS)}`; `setting` where these do not tell them apart; and
`baseline_trait_mean` where a setting has several baselines. They are `null` where a run does not tell."""


def own_fields(posed: Question[..., Any]) -> list[tuple[str, str, str]]:
    """What a question's answer holds beside the head."""
    answer = typing.get_origin(posed.answer) or posed.answer
    return documented(answer, {field.name for field in fields(Answer)})


def page() -> str:
    """The whole page."""
    all_questions = sorted((api.question(name) for name in api.ENTRIES), key=lambda posed: posed.name)
    parts = [_INTRODUCTION, "## The head", "What the object of every question holds.", _table(_HEAD)]
    parts += ["## Fields that many rows have", _table(_SHARED, ("field", "meaning"))]
    parts += [_DIFFERING]
    for posed in all_questions:
        parts += [f"## massact {posed.command}", f'`"question": "{posed.name.removeprefix("compare_")}"`']
        if own_fields(posed):
            parts += ["Beside the head:", _table(own_fields(posed))]
        parts += [f"A row: {_first_lines(posed.row)}", _table(documented(posed.row))]
    parts += ["## Objects within them"]
    for inner in inner_objects(all_questions):
        parts += [f"### {inner.__name__}", _first_lines(inner), _table(documented(inner))]
    parts += [
        "## Statuses",
        _alias(answer_rows, "Status"),
        f"In a row of `massact runs`: {_alias(listing, 'RunStatus')}",
        f"In a row of `massact confirmations`: {_alias(confirmation_rows, 'ConfirmationStatus')}",
    ]
    return "\n\n".join(parts) + "\n"


def documented(cls: type[Any], left_out: Iterable[str] = ()) -> list[tuple[str, str, str]]:
    """Name, JSON type and meaning of each field."""
    hints, meanings = (
        typing.get_type_hints(cls),
        {name: _as_markdown(text) for name, text in field_docstrings(cls).items()},
    )
    all_names = [field.name for field in fields(cls) if field.name not in left_out]
    names = [name for name in all_names if name not in ("differs", "metrics")]
    measured = [(name, "number or null", "") for name in DEFAULT_METRICS if "metrics" in all_names]
    return [(name, json_type(hints[name]), meanings.get(name, "")) for name in names] + measured


def inner_objects(asked: Iterable[Question[..., Any]]) -> list[type[Any]]:
    """The objects that fields of answers and rows hold, by name."""
    found: dict[str, type[Any]] = {}
    for posed in asked:
        for cls in (typing.get_origin(posed.answer) or posed.answer, posed.row):
            hints = typing.get_type_hints(cls)
            for hint in (hints[field.name] for field in fields(cls)):
                found.update({inner.__name__: inner for inner in _dataclasses(hint)})
    return [inner for _, inner in sorted(found.items())]


def json_type(hint: Any) -> str:
    """A field's annotation in the words of JSON."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint in _JSON_TYPES:
        return _JSON_TYPES[hint]
    if origin is Literal:
        return f"string ({', '.join(f'`{value}`' for value in inner)})"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(json_type(one) for one in inner)
    if origin is tuple and inner[1:] == (Ellipsis,):
        return f"list of {json_type(inner[0])}"
    if is_dataclass(hint) and inspect.isclass(hint):
        return f"object [{hint.__name__}](#{hint.__name__.lower()})"
    raise TypeError(f"no type of JSON's for {hint!r}: say one in tools/json_contract.py")


def _dataclasses(hint: Any) -> Iterator[type[Any]]:
    if is_dataclass(hint) and inspect.isclass(hint):
        yield hint
    for inner in typing.get_args(hint):
        yield from _dataclasses(inner)


def _alias(module: types.ModuleType, name: str) -> str:
    """The text under the name of a type in a module."""
    source = Path(str(module.__file__)).read_text(encoding="utf-8")
    return _as_markdown(dict(docstrings(ast.parse(source).body))[name])


def _first_lines(cls: type[Any]) -> str:
    return _as_markdown(first_paragraph(cls))


def _as_markdown(text: str) -> str:
    words = " ".join(text.split())
    return words.replace("`None`", "`null`").replace("False where", "`false` where").replace("|", "\\|")


def _table(lines: Iterable[Sequence[str]], header: Sequence[str] = ("field", "type", "meaning")) -> str:
    rows = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    rows += [f"| `{names.replace(', ', '`, `')}` | {' | '.join(rest)} |" for names, *rest in lines]
    return "\n".join(rows).replace("|  |", "| |")


if __name__ == "__main__":
    sys.stdout.write(page())
