"""Judges: who scores a response for trait and coherence.

A judge reads a question and a response. One that it cannot score is never a zero: its `Verdict` carries the reason, and
no mean counts it. `tests/judges/test_judges.py` runs every judge through the same contract. Other packages add judges
by entry points (docs/extending.md)."""

import operator
import sys
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, Protocol

from massact.config import JudgeConfig
from massact.domain import JudgeIdentity
from massact.errors import ConfigError
from massact.keys import digest
from massact.plugins import plugin_names

if TYPE_CHECKING:
    from massact.models.load import Description, SteerableModel


class _Question(ModuleType):
    """`massact.judges` is this package once anything has imported it, and still the question of that name."""

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return import_module("massact.api").question("judges")(*arguments, **named)

    def __getattr__(self, name: str) -> Any:
        if name in ("ask", "of"):
            return getattr(import_module("massact.api").question("judges"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


sys.modules[__name__].__class__ = _Question

_OPENERS = {
    "choices": "rules:ChoicesJudge",
    "classifier": "unsteered:ClassifierJudge",
    "hf": "local:open_hub_judge",
    "likelihood": "likelihood:open_likelihood_judge",
    "openai": "openai:OpenAIJudge.of",
    "perplexity": "unsteered:PerplexityJudge",
    "python": "outside:open_python_judge",
    "regex": "rules:open_regex_judge",
    "self": "local:open_self_judge",
    "systemone": "systemone:SystemOneJudge.of",
}
"""Of each kind the module, loaded when it is asked for, and what of it is `(config, subject) -> judge`."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Counts of a judge's work. Two are added and subtracted field by field."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    calls: int = 0  # answers received, malformed ones included; an attempt that brought none is not counted
    cached: int = 0  # exchanges whose verdict was known: from this command, or from the judge cache

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(*map(operator.add, astuple(self), astuple(other)))

    def __sub__(self, other: "Usage") -> "Usage":
        return Usage(*map(operator.sub, astuple(self), astuple(other)))

    def cost(self, *, prompt: float, completion: float) -> float:
        """USD, at prices per million tokens."""
        return (self.prompt_tokens * prompt + self.completion_tokens * completion) / 1_000_000


@dataclass(frozen=True, slots=True)
class Exchange:
    """One question and the model's response to it."""

    question: str
    response: str
    thinking: str | None = None
    """What the model thought before it answered: not for a judge; see `massact.judges.caching`."""
    is_answered: bool = True  # whether its thought ended, if it had one


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judge's two scores of one response, each 0 to 100, `None` where unscored."""

    trait: float | None  # how strongly the response shows the trait, 0 to 100
    coherence: float | None  # how well the response reads as text, 0 to 100
    reason: str | None = None  # why a score is missing; `None` when both are there

    @property
    def scored(self) -> bool:
        return self.trait is not None and self.coherence is not None


class Judge(Protocol):
    """Scores exchanges for one trait. Built once per trait, used for the whole sweep."""

    @property
    def identity(self) -> JudgeIdentity:
        """Who judges: part of every cell's key."""

    @property
    def usage(self) -> Usage:
        """What it was asked since it was built."""

    def prepare(self) -> None:
        """Load what scoring needs: called before a sweep, which then measures the memory that is left."""

    def score(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
        """One verdict per exchange, in order. Never raises for a single response."""


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model, and what identifies it."""

    describe: "Callable[[], Description]"  # what identifies the model, without its weights where its files tell
    load: "Callable[[], SteerableModel]"
    """The model; asked at every scoring, so that none is kept in memory for the judge alone."""


Part = Literal["both", "trait", "coherence"]


@dataclass(frozen=True, slots=True)
class Subject:
    """What a judge is opened for."""

    definition: str
    eval_prompt: str | None = None
    steered: ModelSource | None = None  # the model whose responses are judged, for judges that read with it
    trait: str = ""
    questions: tuple[str, ...] = ()  # the trait's questions, all of them
    sides: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())  # texts that show the trait and texts that do not
    folder: str = ""  # of the experiment file, where modules of one's own are looked for
    part: Part = "both"  # which score is wanted
    resolve: Callable[[str], str] = str  # makes a model's relative folder one that can be found


class CombinedJudge:
    """One judge's trait scores with another's coherence; satisfies `Judge`."""

    def __init__(self, name: str, trait: Judge, coherence: Judge) -> None:
        self._name, self._judges = name, (trait, coherence)

    @property
    def identity(self) -> JudgeIdentity:
        """That of both."""
        trait, coherence = (judge.identity for judge in self._judges)
        asked = {"trait": trait.prompt_digest, "coherence": coherence.prompt_digest}
        return JudgeIdentity(self._name, f"{trait.model}; {coherence.model}", digest(asked))

    @property
    def usage(self) -> Usage:
        return self._judges[0].usage + self._judges[1].usage

    @property
    def note(self) -> str:
        """What they have to say of themselves."""
        return "; ".join(filter(None, (getattr(judge, "note", "") for judge in self._judges)))

    def prepare(self) -> None:
        for judge in self._judges:
            judge.prepare()

    def score(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
        trait, coherence = (judge.score(exchanges) for judge in self._judges)
        return [self._both(*pair) for pair in zip(trait, coherence, strict=True)]

    def _both(self, trait: Verdict, coherence: Verdict) -> Verdict:
        given = ((trait, trait.trait), (coherence, coherence.coherence))
        missing = [verdict.reason or "the judge gives no such score" for verdict, score in given if score is None]
        return Verdict(trait.trait, coherence.coherence, "; ".join(missing) or None)


def open_judge(config: JudgeConfig, subject: Subject) -> Judge:
    """The judge that an experiment file names, for one trait. Raises ConfigError: there is no such judge, or what it
    needs is not installed or set; DataError: the trait has no prompt that could be asked; ModelError: a judge of its
    own model names none that can be read."""
    if config.trait and config.coherence:
        trait = open_judge(config.trait, replace(subject, part="trait"))
        return CombinedJudge(config.name, trait, open_judge(config.coherence, replace(subject, part="coherence")))
    added = dict.fromkeys(plugin_names("judges"), "outside:open_added_judge")
    if config.kind not in {**added, **_OPENERS}:
        raise ConfigError(f"unknown judge {config.name!r}; there are {', '.join(sorted(_OPENERS))}")
    module, _, function = {**added, **_OPENERS}[config.kind].partition(":")
    judge: Judge = operator.attrgetter(function)(import_module(f"massact.judges.{module}"))(config, subject)
    return judge
