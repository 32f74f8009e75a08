"""Judges: who scores a response for trait and coherence.

A judge is one module and one entry in `_OPENERS`; `tests/test_judges.py` runs every one of them
through the same contract.
"""

from collections.abc import Callable

from massact.config import JudgeConfig
from massact.errors import ConfigError
from massact.judges.base import Exchange, Judge, Verdict

__all__ = ["Exchange", "Judge", "Verdict", "open_judge"]


def open_judge(config: JudgeConfig, *, definition: str, eval_prompt: str | None) -> Judge:
    """The judge that an experiment file names, for one trait.

    Args:
        config: the file's `judge`.
        definition: the trait in words.
        eval_prompt: the trait's own judge prompt, where it has one.

    Raises:
        ConfigError: there is no such judge, or what it needs is not installed or set.
    """
    kind, _, model = config.name.partition(":")
    if kind not in _OPENERS:
        raise ConfigError(f"unknown judge {config.name!r}; there are {', '.join(sorted(_OPENERS))}")
    return _OPENERS[kind](config, model, definition, eval_prompt)


def _likelihood(_config: JudgeConfig, _model: str, definition: str, _eval_prompt: str | None) -> Judge:
    from massact.judges.likelihood import LikelihoodJudge
    from massact.toy import resolve

    return LikelihoodJudge(resolve("toy:judge"), trait_definition=definition)


def _openai(config: JudgeConfig, model: str, definition: str, eval_prompt: str | None) -> Judge:
    from massact.judges.openai import OpenAIJudge, OpenAISettings
    from massact.judges.rubric import Rubric

    settings = OpenAISettings(model=model, base_url=config.base_url, concurrency=config.concurrency)
    return OpenAIJudge(settings, Rubric(definition, eval_prompt))


_OPENERS: dict[str, Callable[[JudgeConfig, str, str, str | None], Judge]] = {
    "likelihood": _likelihood,
    "openai": _openai,
}
