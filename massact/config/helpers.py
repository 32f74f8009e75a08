"""What the parts of an experiment file are read with."""

from collections.abc import Callable
from typing import TypeVar

from massact.config.yaml_reader import Entry, Section

T = TypeVar("T")


def optional(section: Section, key: str, parse: Callable[[Entry], T], default: T) -> T:
    entry = section.find(key)
    return default if entry is None else parse(entry)


def unique(entry: Entry, parse: Callable[[Entry], T]) -> tuple[T, ...]:
    values: list[T] = []
    for item in entry.items():
        value = parse(item)
        if value in values:
            raise item.error(f"{value!r} stands twice in the list")
        values.append(value)
    return tuple(values)
