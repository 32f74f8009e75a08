"""Reading YAML so that every complaint names the file, the line, the key, the value and what is allowed.

What YAML 1.1 and 1.2, or YAML and people, read differently is refused with what to write instead: `010` (octal),
`12:30` (base 60), `1_000`, `0x1F`, `no` and `2024-01-02` where a text is meant. `1e3` is a number, as people mean it.
"""

import difflib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import yaml

from massact.errors import ConfigError, UsageError
from massact.names import check_distinct, check_name, shown, visible

T = TypeVar("T")
Readers = Mapping[str, Callable[["Entry"], Any]]  # how each key of a section is read, in the order in which they are
LARGEST_FILE = 256 * 1024  # bytes of an experiment file
MOST_VALUES = 20_000  # values in it, those of an alias counted wherever it stands
_DIGITS = 15  # digits of a whole number that every part can count with (a seed is multiplied before it is used)
_LONGEST_NUMBER = 70  # characters: a binary number of 15 decimal digits has no more
_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9]*)", re.ASCII)
_FLOAT = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?", re.ASCII)
_AMBIGUOUS = re.compile(r"[-+]?(0[0-9]+|0o[0-7]+)", re.ASCII)  # numbers of YAML 1.2 that are texts to PyYAML
_KINDS = {bool: "a truth value", int: "a number", float: "a number", bytes: "binary data"}
_TAG = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """YAML as PyYAML reads it, but that `1e3`, `1.5e3` and `-.5` are numbers too."""


_Loader.add_implicit_resolver(f"{_TAG}float", re.compile(rf"^{_FLOAT.pattern}$"), list("-+.0123456789"))


@dataclass(frozen=True, slots=True)
class Entry:
    """A value in a YAML file and where it stands."""

    file: str
    line: int
    key: str  # dotted path from the top of the file, such as `models.gemma-3-4b.layers`
    raw: Any  # the value, or the error that says why there is none
    written: str = ""  # a scalar as the file writes it

    @property
    def value(self) -> Any:
        if isinstance(self.raw, ConfigError):
            raise self.raw
        return self.raw

    def error(self, problem: str) -> ConfigError:
        """An error that says where this value stands."""
        return ConfigError(f"{_place(self.file, self.line, self.key)}: {problem}")

    def checked(self, parse: Callable[[Any], T]) -> T:
        """`parse(value)`, with its complaint placed in the file."""
        try:
            return parse(self.value)
        except ConfigError:
            raise  # placed already
        except UsageError as error:
            raise self.error(str(error)) from error

    def text(self) -> str:
        if isinstance(self.value, str) and self.value.strip():
            hidden = re.search(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]", self.value)
            if hidden:
                raise self.error(f"{shown(self.value)} holds the character U+{ord(hidden[0]):04X}, which no text has")
            return self.value.strip()
        kind = _KINDS.get(type(self.value), "a date" if hasattr(self.value, "isoformat") else "")
        if kind and self.written:
            written = shown(self.written).strip("'\"")
            raise self.error(f'{written} is not a text: YAML reads {kind} here; write "{written}", in quotes')
        raise self.error(f"{shown(self.value)} is not a text")

    def name(self, what: str = "name") -> str:
        """A text that may be a name; see `massact.names`."""
        return self.checked(lambda _: check_name(self.text(), what))

    def spelled(self) -> str:
        """A text, or a whole number as text: what has a spelling of its own, such as layers."""
        is_whole = isinstance(self.value, int) and not isinstance(self.value, bool)
        is_nested = isinstance(self.value, _Sequence | _Mapping)  # its reader says what is written instead
        return self.written if is_whole else str(self.value) if is_nested else self.text()

    def boolean(self) -> bool:
        if not isinstance(self.value, bool):
            raise self.error(f"{shown(self.value)} is not allowed; write true or false")
        return self.value

    def integer(self, *, at_least: int = 0, at_most: float = math.inf) -> int:
        is_whole = isinstance(self.value, int) and not isinstance(self.value, bool)
        if not is_whole or not at_least <= self.value <= at_most:
            bounds = f"of at least {at_least}" if math.isinf(at_most) else f"from {at_least} to {at_most:.0f}"
            raise self.error(f"{self._quoted} is not a whole number {bounds}")
        return int(self.value)

    def number(self, *, low: float = -math.inf, high: float = math.inf) -> float:
        is_number = isinstance(self.value, int | float) and not isinstance(self.value, bool)
        if not is_number or not low <= self.value <= high or not math.isfinite(self.value):
            bounds = "" if math.isinf(low) and math.isinf(high) else f" from {low:g} to {high:g}"
            raise self.error(f"{self._quoted} is not a number{bounds}")
        return float(self.value)

    def choice(self, *allowed: str) -> str:
        if self.value not in allowed:
            raise self.error(f"{shown(self.value)} is not allowed; write {' or '.join(allowed)}")
        return str(self.value)

    def items(self) -> list["Entry"]:
        """The elements of a list, which must not be empty."""
        if not isinstance(self.value, _Sequence) or not self.value:
            raise self.error(f"{shown(self.value)} is not a list of at least one element")
        return self.value

    def unique(self, parse: Callable[["Entry"], T], *, may_be_empty: bool = False) -> tuple[T, ...]:
        """The elements of a list, none of them twice."""
        if may_be_empty and isinstance(self.value, _Sequence) and not self.value:
            return ()
        values: list[T] = []

        def read(item: "Entry") -> None:
            value = parse(item)
            if value in values:
                raise item.error(f"{shown(value)} stands twice in the list")
            values.append(value)

        all_of(partial(read, item) for item in self.items())
        return tuple(values)

    def section(self) -> "Section":
        """The keys of a mapping."""
        if not isinstance(self.value, _Mapping):
            raise self.error(f"{shown(self.value)} is not a section of keys and values")
        return Section(self, self.value)

    def plain(self) -> Any:
        """A value as JSON can hold it."""
        if isinstance(self.value, _Sequence):
            return [item.plain() for item in self.value]
        if isinstance(self.value, _Mapping):
            return self.section().plain()
        if isinstance(self.value, float):
            return self.number()
        return self.value if isinstance(self.value, bool | int | None) else self.text()

    def into(self, kind: Callable[..., T], readers: Readers, **known: Any) -> T:
        """A dataclass of a section's keys, those that `readers` read, which are then all that there may be. `kind`:
        what it has a default for may be left out in the file. `known`: fields that are known already."""
        return kind(**known, **self.section().rest(readers, defaults_of(kind)))

    def each(self, parse: Callable[[str, "Entry"], T]) -> tuple[T, ...]:
        """What stands under every name of a section; all that is wrong with them is raised at once."""
        return tuple(all_of(partial(parse, name, entry) for name, entry in self.section().names()))

    @property
    def _quoted(self) -> str:
        is_quoted = isinstance(self.value, str) and (_FLOAT.fullmatch(self.value) or _DECIMAL.fullmatch(self.value))
        return f"{shown(self.value)} is a text in quotes and" if is_quoted else shown(self.value)


class _Sequence(list[Entry]):
    def __repr__(self) -> str:  # stands in messages where a text or a number should have stood
        return "a list" if self else "an empty list"


class _Mapping(dict[str, Entry]):
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
            hint = f"; is it meant by {shown(near[0])} in line {self._entries[near[0]].line}?" if near else ""
            raise self.entry.error(f"the key {key!r} is missing{hint}")
        return entry

    def find(self, key: str, *, may_be_empty: bool = False) -> Entry | None:
        """The value of a key, or `None` where it is absent; or, with `may_be_empty`, where it has no value (`null`)."""
        self._known.append(key)
        entry = self._entries.get(key)
        if entry is None or entry.value is not None:
            return entry
        if may_be_empty:
            return None
        raise entry.error(f"the key {key!r} is missing its value: write one, or leave the key out")

    def read(self, readers: Readers, defaults: Mapping[str, Any]) -> dict[str, Any]:
        """The values of keys, or their defaults, of which `None` may be written; all faults are raised at once."""

        def read(key: str, parse: Callable[[Entry], Any]) -> Any:
            may_be_absent = key in defaults
            entry = self.find(key, may_be_empty=defaults[key] is None) if may_be_absent else self.take(key)
            return defaults[key] if entry is None else parse(entry)

        return dict(zip(readers, all_of(partial(read, *reader) for reader in readers.items()), strict=True))

    def rest(self, readers: Readers, defaults: Mapping[str, Any]) -> dict[str, Any]:
        """The same of the last keys of a section, which then are all that there may be."""
        attempts: tuple[Callable[[], Any], ...] = (lambda: self.read(readers, defaults), self.close)
        values: dict[str, Any] = all_of(attempts)[0]
        return values

    def names(self) -> Iterator[tuple[str, Entry]]:
        """Every key with its value, for sections whose keys are names that the user chose."""
        self._known.extend(self._entries)
        if not self._entries:
            raise self.entry.error("names nothing; at least one is needed")
        named = {}
        for name, entry in self._entries.items():
            try:
                named[check_name(name)] = entry
            except UsageError as error:
                raise entry.error(str(error)) from error
        if len(named) < len(self._entries):
            raise self.entry.error("two of its names differ in Unicode's forms or in white space alone")
        self.entry.checked(lambda _: check_distinct(named))
        return iter(named.items())

    def plain(self) -> dict[str, Any]:
        """All keys and values as they are, for what somebody else reads."""
        self._known.extend(self._entries)
        return {key: entry.plain() for key, entry in self._entries.items()}

    def close(self) -> None:
        """Refuse keys that nobody asked for: a ConfigError names the nearest known ones, all at once."""

        def refuse(key: str, entry: Entry) -> None:
            if key not in self._known:
                near = difflib.get_close_matches(key, self._known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else "."
                raise entry.error(f"unknown key{hint} Allowed here: {', '.join(dict.fromkeys(self._known))}")

        all_of(partial(refuse, *entry) for entry in self._entries.items())


def defaults_of(kind: Any) -> dict[str, Any]:
    """The fields of a dataclass that may be left out, and what they then are."""
    return {field.name: field.default for field in fields(kind) if field.default is not MISSING}


def all_of(attempts: Iterable[Callable[[], T]]) -> list[T]:
    """What each attempt gives. Raises ConfigError: one or more complain; a line for each fault of the file."""
    found, faults = [], list[ConfigError]()
    for attempt in attempts:
        try:
            found.append(attempt())
        except ConfigError as error:
            faults.append(error)
    if faults:
        lines = dict.fromkeys(line for fault in faults for line in str(fault).split("\n"))
        by_line = sorted(lines, key=lambda fault: int((re.search(r", line (\d+): ", fault) or (0, 0))[1]))
        raise ConfigError("\n".join(by_line)) from faults[0]
    return found


def read_yaml(path: Path) -> Entry:
    """The top of a YAML file; ConfigError where it cannot be read, is too large, is not YAML, or gives a key twice."""
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
        if len(content) > LARGEST_FILE:
            raise ConfigError(f"{path}: larger than {LARGEST_FILE // 1024} KiB, which no experiment file is")
        text = content.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as an experiment file ({error})") from error
    try:
        node = yaml.compose(text, Loader=_Loader)
        top = _Entries(str(path)).entry(node, "") if node is not None else None
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


def _place(file: str, line: int, key: str) -> str:
    name = key if len(key) <= 200 else f"{key[:200]}…"
    return f"{file}, line {line}: {visible(name) or 'the file'}"


class _Entries:
    """Makes entries of YAML's nodes, no more than `MOST_VALUES`: aliases within aliases multiply."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._n_values = 0

    def entry(self, node: yaml.Node, key: str) -> Entry:
        line = node.start_mark.line + 1
        self._n_values += 1
        if self._n_values > MOST_VALUES:
            raise ConfigError(
                f"{self._file}: more than {MOST_VALUES:,} values, those of an alias counted wherever it stands: "
                "no experiment file has so many"
            )
        try:
            if isinstance(node, yaml.MappingNode):
                return Entry(self._file, line, key, self._mapping(node, key))
            if isinstance(node, yaml.SequenceNode):
                entries = [self.entry(child, f"{key}[{i}]") for i, child in enumerate(node.value)]
                return Entry(self._file, line, key, _Sequence(entries))
            assert isinstance(node, yaml.ScalarNode)  # there is no fourth kind
            return self._scalar(node, key, line)
        except ConfigError as error:  # told with all others when the value is asked for
            if self._n_values > MOST_VALUES:
                raise
            return Entry(self._file, line, key, error)

    def _scalar(self, node: yaml.ScalarNode, key: str, line: int) -> Entry:
        where, written = _place(self._file, line, key), shown(node.value).strip("'\"")
        tag = node.tag.removeprefix(_TAG)
        if tag == "int" and len(node.value) > _LONGEST_NUMBER:
            raise ConfigError(f"{where}: {shown(node.value)} is a whole number of more than {_DIGITS} digits")
        if (
            (tag == "int" and not _DECIMAL.fullmatch(node.value))
            or (tag == "float" and {*node.value} & {*"_:"})
            or (tag == "str" and node.style is None and _AMBIGUOUS.fullmatch(node.value))
        ):
            raise ConfigError(
                f"{where}: {written} is a number that YAML and people read differently (octal, hexadecimal, base 60 "
                f'or with underscores): write it in decimal digits, or "{written}" in quotes where a text is meant'
            )
        try:
            value = _Loader("").construct_object(node)
        except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError) as error:
            # PyYAML lets some of these through, such as an AttributeError for `!!timestamp soon`
            raise ConfigError(f"{where}: {shown(node.value)} is not a value of YAML's type {tag}") from error
        if isinstance(value, int) and abs(value) >= 10**_DIGITS:
            raise ConfigError(f"{where}: {written} is a whole number of more than {_DIGITS} digits")
        return Entry(self._file, line, key, value, node.value)

    def _mapping(self, node: yaml.MappingNode, key: str) -> _Mapping:
        entries = _Mapping()
        for name_node, value_node in node.value:
            where = _place(self._file, name_node.start_mark.line + 1, key)
            is_name = isinstance(name_node, yaml.ScalarNode) and name_node.value.strip()
            if not is_name or name_node.tag == f"{_TAG}null":
                raise ConfigError(f"{where}: a key is empty, a list or a section; write a name")
            if name_node.tag == f"{_TAG}merge":
                raise ConfigError(f"{where}: merge keys (<<) are not read; write the keys out")
            name = str(name_node.value)
            inner = f"{key}.{name}" if key else name
            if name in entries:
                twice = ConfigError(f"{where}: the key {shown(name)} stands twice")
                entries[name] = Entry(self._file, entries[name].line, inner, twice)
            else:
                entries[name] = self.entry(value_node, inner)
        return entries
