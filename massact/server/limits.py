"""How much a question may take. Each limit is an environment variable of the server."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from massact.errors import ConfigError

PREFIX = "MASSACT_SERVER_"
MAX_ROWS = 10_000
"""Rows of `runs` in one answer."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one process of the server; `mlflow server` starts several (`--workers`)."""

    seconds: float = 60.0
    """How long a question may take, its wait for a free place included."""
    at_once: int = 2
    """Questions that are worked on side by side, each in a process of its own."""
    waiting: int = 8
    """Questions that may wait for a place; further ones are refused. MLflow serves at most 40 requests at once."""
    megabytes: float = 64.0
    """An answer's size; raw points for massact itself may have four times that."""

    @property
    def answer_bytes(self) -> int:
        """The size of an answer to a question."""
        return int(self.megabytes * 1e6)

    @property
    def raw_bytes(self) -> int:
        """The size of what massact's own reader is given at once."""
        return 4 * self.answer_bytes


def limits_of(environment: Mapping[str, str] = os.environ) -> Limits:
    """The limits that the environment sets, such as MASSACT_SERVER_SECONDS.

    Raises:
        ConfigError: one is no positive number.
    """
    given: dict[str, Any] = {}
    for name, default in (("seconds", 60.0), ("at_once", 2), ("waiting", 8), ("megabytes", 64.0)):
        text = environment.get(PREFIX + name.upper())
        if text:
            given[name] = _number(PREFIX + name.upper(), text, type(default))
    return Limits(**given)


def _number(name: str, text: str, kind: type[Any]) -> Any:
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if not 0 < value < 1e6:
        whole = "whole " if kind is int else ""
        raise ConfigError(f"{name} is {text!r}: write a {whole}number above 0")
    return value
