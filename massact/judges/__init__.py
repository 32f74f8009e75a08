"""Judges: who scores a response for trait and coherence.

A judge is one module and one entry in `_OPENERS`; `tests/test_judges.py` runs every one of them
through the same contract.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from massact.config import JudgeConfig
from massact.errors import ConfigError
from massact.judges.base import Exchange, Judge, Usage, Verdict

if TYPE_CHECKING:
    from massact.judges.openai import OpenAISettings
    from massact.judges.rubric import Rubric
    from massact.judges.source import ModelSource

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
    if config.kind not in _OPENERS:
        raise ConfigError(f"unknown judge {config.name!r}; there are {', '.join(sorted(_OPENERS))}")
    return _OPENERS[config.kind](config, subject)


def _likelihood(_config: JudgeConfig, subject: Subject) -> Judge:
    from massact.judges.likelihood import LikelihoodJudge
    from massact.toy import resolve

    return LikelihoodJudge(resolve("toy:judge"), trait_definition=subject.definition)


def _openai(config: JudgeConfig, subject: Subject) -> Judge:
    from massact.judges.openai import OpenAIJudge

    return OpenAIJudge(_api_settings(config), _rubric(config, subject))


def _systemone(config: JudgeConfig, subject: Subject) -> Judge:
    from massact.judges.systemone import SystemOneJudge

    return SystemOneJudge(_api_settings(config), _rubric(config, subject))


def _rubric(config: JudgeConfig, subject: Subject) -> "Rubric":
    from massact.judges.rubric import Rubric

    return Rubric(subject.definition, subject.eval_prompt, config.relevance)


def _api_settings(config: JudgeConfig) -> "OpenAISettings":
    from massact.judges.openai import MAX_TOKENS, OpenAISettings

    return OpenAISettings(
        model=config.model,
        base_url=config.base_url,
        api_key_env=config.api_key_env,
        concurrency=config.concurrency,
        timeout_seconds=config.timeout_seconds,
        max_retries=config.max_retries,
        max_tokens=config.max_tokens or MAX_TOKENS,
    )


def _hf(config: JudgeConfig, subject: Subject) -> Judge:
    from massact.judges.local import LocalJudge
    from massact.judges.source import hub_source

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
