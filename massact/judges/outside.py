"""Judges that are no part of massact: `python:MODULE:CLASS`, and what a package adds by entry points."""

import hashlib
import inspect
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from massact.config import JudgeConfig
from massact.domain import JudgeIdentity
from massact.errors import ConfigError
from massact.judges import Exchange, Judge, Subject, Usage, Verdict
from massact.keys import digest
from massact.plugins import load_plugin


class OutsideJudge:
    """Gives a judge that can only score what massact wants besides; satisfies `massact.judges.Judge`.

    Its identity is the class's name with the SHA-256 of the file that defines it, and what it was told of the trait.
    """

    def __init__(
        self, inner: Any, made_by: Callable[..., Any], config: JudgeConfig, subject: Subject
    ) -> None:
        """
        Raises:
            ConfigError: it cannot score, or the file that defines it cannot be read.
        """
        if not callable(getattr(inner, "score", None)):
            raise ConfigError(f"the judge {config.name} has no method score(exchanges) that gives verdicts")
        try:
            source = Path(str(inspect.getsourcefile(made_by))).read_bytes()
        except (OSError, TypeError) as error:
            raise ConfigError(
                f"the judge {config.name}: the file of its class cannot be read ({error})"
            ) from error
        self._inner, self._n_scored = inner, 0
        told = digest({"definition": subject.definition, "eval_prompt": subject.eval_prompt})
        made = f"{made_by.__module__}:{made_by.__qualname__}@{hashlib.sha256(source).hexdigest()[:16]}"
        self.identity = JudgeIdentity(config.name, made, told)

    @property
    def usage(self) -> Usage:
        """A call is a response."""
        return Usage(calls=self._n_scored)

    def prepare(self) -> None:
        prepare = getattr(self._inner, "prepare", None)
        if prepare is not None:
            prepare()

    def score(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
        self._n_scored += len(exchanges)
        return list(self._inner.score(exchanges))


def completed(made_by: Callable[..., Any], config: JudgeConfig, subject: Subject) -> Judge:
    """A judge that a function or class `(config, subject) -> judge` makes, with what it lacks."""
    judge: Judge = made_by(config, subject)
    return judge if hasattr(judge, "identity") else OutsideJudge(judge, made_by, config, subject)


def open_added_judge(config: JudgeConfig, subject: Subject) -> Judge:
    """What a package adds under the judge's kind; see `massact.judges.open_judge`."""
    return completed(load_plugin("judges", config.kind), config, subject)


def open_python_judge(config: JudgeConfig, subject: Subject) -> Judge:
    """`python:MODULE:CLASS`, a module that is installed or lies beside the experiment file.

    Raises:
        ConfigError: there is no such module or class, or it cannot be loaded.
    """
    module, _, name = config.model.partition(":")
    if subject.folder and subject.folder not in sys.path:
        sys.path.append(subject.folder)
    try:
        made_by = getattr(import_module(module), name)
    except Exception as error:  # whatever the module does at its import
        raise ConfigError(
            f"the judge {config.name} cannot be loaded: {type(error).__name__}: {error}; write "
            "python:MODULE:CLASS, with a module that is installed or lies beside the experiment file"
        ) from error
    return completed(made_by, config, subject)
