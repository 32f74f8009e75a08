"""Judges: who scores a response for trait and coherence.

`tests/judges/test_judges.py` runs every one of them through the same contract. Other packages add judges by entry
points (docs/extending.md).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from massact.config import JudgeConfig
from massact.errors import ConfigError
from massact.judges.base import Exchange, Judge, Usage, Verdict
from massact.plugins import load_plugin, plugin_names

if TYPE_CHECKING:
    from massact.judges.local import ModelSource
    from massact.judges.rubric import Rubric

__all__ = ["Exchange", "Judge", "Subject", "Usage", "Verdict", "open_judge"]


@dataclass(frozen=True, slots=True)
class Subject:
    """What a judge is opened for."""

    definition: str
    """The trait in words."""
    eval_prompt: str | None = None
    """The trait's own judge prompt, where it has one."""
    steered: "ModelSource | None" = None
    """The model whose responses are judged, for the judge `self`."""
    resolve: Callable[[str], str] = str
    """Makes a model's relative folder one that can be found."""


def open_judge(config: JudgeConfig, subject: Subject) -> Judge:
    """The judge that an experiment file names, for one trait.

    Raises:
        ConfigError: there is no such judge, or what it needs is not installed or set.
        DataError: the trait has no prompt that could be asked.
        ModelError: a judge of its own model names none that can be read.
    """
    opener = _OPENERS.get(config.kind)
    if opener is None and config.kind not in plugin_names("judges"):
        raise ConfigError(f"unknown judge {config.name!r}; there are {', '.join(sorted(_OPENERS))}")
    judge: Judge = (opener or load_plugin("judges", config.kind))(config, subject)
    return judge


def _likelihood(_config: JudgeConfig, subject: Subject) -> Judge:
    from massact.judges.likelihood import LikelihoodJudge
    from massact.toy import resolve

    return LikelihoodJudge(resolve("toy:judge"), trait_definition=subject.definition)


def _openai(config: JudgeConfig, subject: Subject) -> Judge:
    from massact.judges.openai import OpenAIJudge

    return OpenAIJudge(config, _rubric(config, subject))


def _systemone(config: JudgeConfig, subject: Subject) -> Judge:
    from massact.judges.systemone import SystemOneJudge

    return SystemOneJudge(config, _rubric(config, subject))


def _rubric(config: JudgeConfig, subject: Subject) -> "Rubric":
    from massact.judges.rubric import Rubric

    return Rubric(subject.definition, subject.eval_prompt, config.relevance)


def _hf(config: JudgeConfig, subject: Subject) -> Judge:
    from massact.judges.local import LocalJudge, hub_source

    rubric = _rubric(config, subject)
    source = hub_source(subject.resolve(config.model), revision=config.revision, options=config.load)
    return LocalJudge(config.name, source, rubric, batch_rows=config.batch_rows)


def _self(config: JudgeConfig, subject: Subject) -> Judge:
    from massact.judges.local import LocalJudge

    if subject.steered is None:
        raise ConfigError(
            "the judge self is the steered model: name the model whose responses it is to judge"
        )
    rubric = _rubric(config, subject)
    return LocalJudge(config.name, subject.steered, rubric, batch_rows=config.batch_rows)


_OPENERS: dict[str, Callable[[JudgeConfig, Subject], Judge]] = {
    "hf": _hf,
    "likelihood": _likelihood,
    "openai": _openai,
    "self": _self,
    "systemone": _systemone,
}
