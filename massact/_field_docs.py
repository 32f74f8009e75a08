"""The texts under the fields of a dataclass, which only the source holds: for pages and descriptions made of them."""

import ast
import inspect
import typing
from collections.abc import Iterator
from dataclasses import is_dataclass
from itertools import pairwise
from typing import Any


def field_docstrings(cls: type[Any]) -> dict[str, str]:
    """By field, the text under it, on one line; a field without one is absent."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if is_dataclass(base):
            (node,) = ast.parse(inspect.getsource(base)).body
            assert isinstance(node, ast.ClassDef)
            found.update(docstrings(node.body))
    return found


def docstrings(body: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    """The name and text of each assignment with a text under it."""
    for node, below in pairwise(body):
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        text = below.value.value if _is_constant(below) else None
        if isinstance(target, ast.Name) and isinstance(text, str):
            yield target.id, " ".join(text.split())


def first_paragraph(cls: type[Any]) -> str:
    """The first paragraph of a class's own text, on one line."""
    return " ".join((cls.__doc__ or "").split("\n\n")[0].split())


def _is_constant(node: ast.stmt) -> typing.TypeGuard[Any]:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
