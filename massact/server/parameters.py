"""Parameters of a question: how each is described, read and refused."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from massact.server.problems import BAD_PARAMETER, ProblemError

MAX_TEXT = 500
"""Characters of a value."""
MAX_REPEATED = 100
"""Values of a parameter that may be repeated."""
ANY_TEXT = {"type": "string", "minLength": 1, "maxLength": MAX_TEXT, "pattern": "^[^\u0000]+$"}
"""Schema of a text: no name holds a NUL, and PostgreSQL takes none."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter in a request's query."""

    name: str
    """As it is written in the query."""
    meaning: str
    schema: Mapping[str, Any]
    """JSON Schema of one value."""
    read: Callable[[str], Any]
    """One value; raises ValueError where it is not what the schema says."""
    is_repeated: bool = False
    is_required: bool = False
    argument: str = ""
    """What it is called where the question is posed, if not by its name."""

    @property
    def key(self) -> str:
        """What it is called where the question is posed."""
        return self.argument or self.name


def text(name: str, meaning: str, **more: Any) -> Parameter:
    """A parameter that is any text."""
    return Parameter(name, meaning, ANY_TEXT, _text, **more)


def pattern(name: str, meaning: str, regex: str, read: Callable[[str], Any], **more: Any) -> Parameter:
    """A parameter that is written in a certain way."""
    schema = {"type": "string", "pattern": regex, "maxLength": MAX_TEXT}
    return Parameter(name, meaning, schema, lambda value: read(_text(value)), **more)


def choice(
    name: str, meaning: str, values: Sequence[str], default: str | None = None, **more: Any
) -> Parameter:
    """A parameter that is one of a few words."""
    schema = {"type": "string", "enum": list(values)} | ({"default": default} if default else {})

    def read(value: str) -> str:
        if value not in values:
            raise ValueError(f"is none of {', '.join(values)}")
        return value

    return Parameter(name, meaning, schema, read, **more)


def whole(name: str, meaning: str, low: int, high: int, default: int | None = None, **more: Any) -> Parameter:
    """A parameter that is a whole number."""
    schema = {"type": "integer", "minimum": low, "maximum": high}

    def read(value: str) -> int:
        # int() also takes underscores, spaces, a plus and digits of other scripts
        sign, digits = ("-", value[1:]) if value.startswith("-") else ("", value)
        if not (digits.isascii() and digits.isdigit() and len(digits) < 20):
            raise ValueError("is no whole number")
        number = int(sign + digits)
        if not low <= number <= high:
            raise ValueError(f"is not within {low} to {high}")
        return number

    return Parameter(name, meaning, schema | ({} if default is None else {"default": default}), read, **more)


def number(name: str, meaning: str, low: float, high: float, **more: Any) -> Parameter:
    """A parameter that is a number."""

    def read(value: str) -> float:
        try:
            found = float(value)
        except ValueError:
            raise ValueError("is no number") from None
        if (
            not value.isascii() or "_" in value or value != value.strip() or not low <= found <= high
        ):  # nor is NaN
            raise ValueError(f"is no number within {low:g} to {high:g}")
        return found

    return Parameter(name, meaning, {"type": "number", "minimum": low, "maximum": high}, read, **more)


def flag(name: str, meaning: str, *, default: bool, **more: Any) -> Parameter:
    """A parameter that is true or false."""

    def read(value: str) -> bool:
        if value not in ("true", "false"):
            raise ValueError("is neither true nor false")
        return value == "true"

    return Parameter(name, meaning, {"type": "boolean", "default": default}, read, **more)


def read_parameters(allowed: Sequence[Parameter], given: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The values by what each is called where the question is posed; one that was not given is absent.

    Raises:
        ProblemError: a parameter is unknown, missing, repeated, or not what its schema says.
    """
    known = {one.name: one for one in allowed}
    for name in given:
        if name not in known:
            there = ", ".join(known) or "none"
            raise ProblemError(BAD_PARAMETER, f"there is no parameter {_shown(name)}; there are {there}")
    found = {}
    for one in allowed:
        values = given.get(one.name, ())
        if values:
            found[one.key] = _read(one, values)
        elif one.is_required:
            raise ProblemError(BAD_PARAMETER, f"the parameter {one.name!r} is missing: {one.meaning}")
    return found


def _read(one: Parameter, values: Sequence[str]) -> Any:
    if len(values) > (MAX_REPEATED if one.is_repeated else 1):
        most = f"at most {MAX_REPEATED} times" if one.is_repeated else "once"
        raise ProblemError(BAD_PARAMETER, f"the parameter {one.name!r} may be given {most}")
    read = []
    for value in values:
        try:
            read.append(one.read(value))
        except ValueError as error:
            raise ProblemError(
                BAD_PARAMETER, f"the parameter {one.name!r}: {_shown(value)} {error} ({one.meaning})"
            ) from None
    return read if one.is_repeated else read[0]


def _text(value: str) -> str:
    if not 1 <= len(value) <= MAX_TEXT:
        raise ValueError(f"is not of 1 to {MAX_TEXT} characters")
    if "\0" in value:
        raise ValueError("holds a NUL, which no name does")
    return value


def _shown(value: str) -> str:
    return repr(value if len(value) <= 80 else value[:77] + "...")
