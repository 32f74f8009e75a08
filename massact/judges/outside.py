"""Judges that are no part of massact: `python:MODULE:CLASS`, and what a package adds by entry points."""

import hashlib
import inspect
from collections.abc import Callable, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

from massact.config import JudgeConfig
from massact.domain import JudgeIdentity
from massact.errors import ConfigError, JudgeError
from massact.judges import Exchange, Judge, Subject, Usage, Verdict
from massact.keys import digest
from massact.plugins import call_outside, load_code, load_plugin


class OutsideJudge:
    """Checks what a judge gives, and adds what it lacks: an identity of the class's name, the SHA-256 of the file that
    defines it and what it was told of the trait; satisfies `massact.judges.Judge`."""

    def __init__(self, inner: Any, made_by: Callable[..., Any], config: JudgeConfig, subject: Subject) -> None:
        """Raises ConfigError: it cannot score, or the file that defines it cannot be read."""
        if not callable(getattr(inner, "score", None)):
            raise ConfigError(f"the judge {config.name} has no method score(exchanges) that gives verdicts")
        self._inner, self._name, self._n_scored = inner, config.name, 0
        self._identity = None if hasattr(inner, "identity") else _identity(made_by, config, subject)

    @property
    def identity(self) -> JudgeIdentity:
        """Its own, else what it is made of."""
        identity: JudgeIdentity = self._identity or self._inner.identity
        return identity

    @property
    def usage(self) -> Usage:
        """Its own, else a call for each response."""
        usage: Usage = getattr(self._inner, "usage", Usage(calls=self._n_scored))
        return usage

    @property
    def note(self) -> str:
        """What it says of itself once it is prepared."""
        return str(getattr(self._inner, "note", ""))

    def prepare(self) -> None:
        prepare = getattr(self._inner, "prepare", None)
        if prepare is not None:
            call_outside(f"the judge {self._name}", prepare, JudgeError)

    def score(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
        """A verdict each; what is no score from 0 to 100 leaves a response unscored. JudgeError: its code fails."""
        self._n_scored += len(exchanges)
        verdicts = call_outside(f"the judge {self._name}", lambda: list(self._inner.score(exchanges)), JudgeError)
        if len(verdicts) != len(exchanges) or not all(isinstance(verdict, Verdict) for verdict in verdicts):
            kinds = ", ".join(sorted({type(verdict).__name__ for verdict in verdicts})) or "nothing"
            raise JudgeError(
                f"the judge {self._name} gave {len(verdicts)} ({kinds}) for {len(exchanges)} exchanges: "
                "score(exchanges) must give a massact.judges.Verdict each, in their order"
            )
        return [_checked(verdict) for verdict in verdicts]


def _identity(made_by: Callable[..., Any], config: JudgeConfig, subject: Subject) -> JudgeIdentity:
    try:
        source = Path(str(inspect.getsourcefile(made_by))).read_bytes()
    except (OSError, TypeError) as error:
        raise ConfigError(f"the judge {config.name}: the file of its class cannot be read ({error})") from error
    told = digest({"definition": subject.definition, "eval_prompt": subject.eval_prompt})
    made = f"{made_by.__module__}:{made_by.__qualname__}@{hashlib.sha256(source).hexdigest()[:16]}"
    return JudgeIdentity(config.name, made, told)


def _checked(verdict: Verdict) -> Verdict:
    given = (verdict.trait, verdict.coherence)
    wrong = [score for score in given if score is not None and not (isinstance(score, Real) and 0 <= score <= 100)]
    if wrong:
        reason = f"the judge gave {', '.join(map(repr, wrong))}: no score from 0 to 100"
        return Verdict(None, None, reason)
    trait, coherence = (None if score is None else float(score) for score in given)
    return Verdict(trait, coherence, verdict.reason or ("the judge gave no score" if None in given else None))


def completed(made_by: Callable[..., Any], config: JudgeConfig, subject: Subject) -> OutsideJudge:
    """A judge that a function or class `(config, subject) -> judge` makes, with what it lacks; else a ConfigError."""
    if not callable(made_by):
        raise ConfigError(f"the judge {config.name} is no class: write python:MODULE:CLASS")
    return OutsideJudge(
        call_outside(f"the judge {config.name}", lambda: made_by(config, subject), JudgeError), made_by, config, subject
    )


def open_added_judge(config: JudgeConfig, subject: Subject) -> Judge:
    """What a package adds under the judge's kind; see `massact.judges.open_judge`."""
    return completed(load_plugin("judges", config.kind), config, subject)


def open_python_judge(config: JudgeConfig, subject: Subject) -> Judge:
    """`python:MODULE:CLASS`, a module that is installed or lies beside the experiment file; else a ConfigError."""
    return completed(load_code(config.model, subject.folder, f"the judge {config.name}"), config, subject)
