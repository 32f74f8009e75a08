"""What the parts of an experiment file are read with."""

from collections.abc import Callable
from typing import TypeVar

from massact.config.yaml_reader import Entry, Section
from massact.names import shown

T = TypeVar("T")


def optional(section: Section, key: str, parse: Callable[[Entry], T], default: T) -> T:
    """The value of a key, or its default; where the default is nothing, no value (`null`) says the same."""
    entry = section.find(key, may_be_empty=default is None)
    return default if entry is None else parse(entry)


def unique(entry: Entry, parse: Callable[[Entry], T]) -> tuple[T, ...]:
    values: list[T] = []
    for item in entry.items():
        value = parse(item)
        if value in values:
            raise item.error(f"{shown(value)} stands twice in the list")
        values.append(value)
    return tuple(values)
