"""Reading YAML so that every complaint names the file, the line, the key, the value and what is allowed."""

import difflib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from massact.errors import ConfigError, UsageError

T = TypeVar("T")
_DIGITS = 15
"""Digits of a whole number that every part can count with (a seed is multiplied before it is used)."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A value in a YAML file and where it stands."""

    file: str
    line: int
    key: str
    """Dotted path from the top of the file, such as `models.gemma-3-4b.layers`."""
    value: Any

    def error(self, problem: str) -> ConfigError:
        """An error that says where this value stands."""
        return ConfigError(f"{self.file}, line {self.line}: {self.key or 'the file'}: {problem}")

    def checked(self, parse: Callable[[Any], T]) -> T:
        """`parse(value)`, with its complaint placed in the file."""
        try:
            return parse(self.value)
        except UsageError as error:
            raise self.error(str(error)) from error

    def text(self) -> str:
        if not isinstance(self.value, str) or not self.value.strip():
            raise self.error(f"{self.value!r} is not a text")
        return self.value.strip()

    def boolean(self) -> bool:
        if not isinstance(self.value, bool):
            raise self.error(f"{self.value!r} is not allowed; write true or false")
        return self.value

    def integer(self, *, at_least: int = 0) -> int:
        if not isinstance(self.value, int) or isinstance(self.value, bool) or self.value < at_least:
            raise self.error(f"{self.value!r} is not a whole number of at least {at_least}")
        return self.value

    def number(self, *, low: float = -math.inf, high: float = math.inf) -> float:
        is_number = isinstance(self.value, int | float) and not isinstance(self.value, bool)
        if not is_number or not low <= self.value <= high or not math.isfinite(self.value):
            bounds = "" if math.isinf(low) and math.isinf(high) else f" from {low:g} to {high:g}"
            raise self.error(f"{self.value!r} is not a number{bounds}")
        return float(self.value)

    def choice(self, *allowed: str) -> str:
        if self.value not in allowed:
            raise self.error(f"{self.value!r} is not allowed; write {' or '.join(allowed)}")
        return str(self.value)

    def items(self) -> list["Entry"]:
        """The elements of a list, which must not be empty."""
        if not isinstance(self.value, _Sequence) or not self.value.entries:
            raise self.error(f"{self.value!r} is not a list of at least one element")
        return self.value.entries

    def section(self) -> "Section":
        """The keys of a mapping."""
        if not isinstance(self.value, _Mapping):
            raise self.error(f"{self.value!r} is not a section of keys and values")
        return Section(self, self.value.entries)


@dataclass(frozen=True, slots=True)
class _Sequence:
    entries: list[Entry]

    def __repr__(self) -> str:  # stands in messages where a text or a number should have stood
        return "a list" if self.entries else "an empty list"


@dataclass(frozen=True, slots=True)
class _Mapping:
    entries: dict[str, Entry]

    def __repr__(self) -> str:
        return "a section"


class Section:
    """A mapping whose keys are taken one by one; `close` refuses those that nobody took."""

    def __init__(self, entry: Entry, entries: dict[str, Entry]) -> None:
        self.entry = entry
        self._entries = entries
        self._known: list[str] = []

    def take(self, key: str) -> Entry:
        """The value of a key that must be there."""
        entry = self.find(key)
        if entry is None:
            near = difflib.get_close_matches(key, self._entries.keys() - set(self._known), n=1)
            hint = f"; is it meant by {near[0]!r} in line {self._entries[near[0]].line}?" if near else ""
            raise self.entry.error(f"the key {key!r} is missing{hint}")
        return entry

    def find(self, key: str) -> Entry | None:
        """The value of a key, or `None` where it is absent or empty."""
        self._known.append(key)
        entry = self._entries.get(key)
        return entry if entry is not None and entry.value is not None else None

    def names(self) -> Iterator[tuple[str, Entry]]:
        """Every key with its value, for sections whose keys are names that the user chose."""
        self._known.extend(self._entries)
        if not self._entries:
            raise self.entry.error("names nothing; at least one is needed")
        return iter(self._entries.items())

    def close(self) -> None:
        """Refuse keys that nobody asked for.

        Raises:
            ConfigError: a key is unknown; the message names the nearest known one.
        """
        for key, entry in self._entries.items():
            if key not in self._known:
                near = difflib.get_close_matches(key, self._known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else "."
                raise entry.error(f"unknown key{hint} Allowed here: {', '.join(self._known)}")


def read_yaml(path: Path) -> Entry:
    """The top of a YAML file.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or gives a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as an experiment file ({error})") from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        top = _entry(node, str(path), "") if node is not None else None
    except RecursionError as error:
        raise ConfigError(f"{path}: nested too deeply, or an anchor stands within itself") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{path}, line {line}: not YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    if top is None:
        raise ConfigError(f"{path}: the file is empty")
    return top


def _entry(node: yaml.Node, file: str, key: str) -> Entry:
    line = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        return Entry(file, line, key, _mapping(node, file, key))
    if isinstance(node, yaml.SequenceNode):
        entries = [_entry(child, file, f"{key}[{i}]") for i, child in enumerate(node.value)]
        return Entry(file, line, key, _Sequence(entries))
    where = f"{file}, line {line}: {key or 'the file'}"
    try:
        value = yaml.SafeLoader("").construct_object(node)
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError) as error:
        # PyYAML lets some of these through, such as an AttributeError for `!!timestamp soon`
        tag = node.tag.removeprefix("tag:yaml.org,2002:")
        raise ConfigError(f"{where}: {node.value[:80]!r} is not a value of YAML's type {tag}") from error
    if isinstance(value, int) and abs(value) >= 10**_DIGITS:
        raise ConfigError(f"{where}: {node.value[:80]} is a whole number of more than {_DIGITS} digits")
    return Entry(file, line, key, value)


def _mapping(node: yaml.MappingNode, file: str, key: str) -> _Mapping:
    entries: dict[str, Entry] = {}
    for name_node, value_node in node.value:
        where = f"{file}, line {name_node.start_mark.line + 1}: {key or 'the file'}"
        if not isinstance(name_node, yaml.ScalarNode) or not name_node.value.strip():
            raise ConfigError(f"{where}: a key is empty, a list or a section; write a name")
        name = str(name_node.value)
        if name in entries:
            raise ConfigError(f"{where}: the key {name!r} stands twice")
        entries[name] = _entry(value_node, file, f"{key}.{name}" if key else name)
    return _Mapping(entries)
