"""The section `judge` of an experiment file."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from massact.config.helpers import optional
from massact.config.models import parse_load
from massact.config.values import JudgeConfig, Prices
from massact.config.yaml_reader import Entry
from massact.errors import UsageError
from massact.names import check_name

CACHE_OFF = "off"
_KINDS = ("likelihood", "openai:MODEL", "systemone:MODEL", "hf:MODEL", "self")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LONGEST_TIMEOUT = 86_400
_MOST_AT_ONCE, _MOST_RETRIES = 1000, 100


def parse_judge(entry: Entry) -> JudgeConfig:
    if isinstance(entry.value, str):
        return JudgeConfig(entry.checked(judge_name))
    section = entry.section()
    name = section.take("name")
    judge = JudgeConfig(name.checked(judge_name))
    for key, kinds in _KINDS_OF.items():
        given = section.find(key, may_be_empty=True)
        if given is not None and judge.kind not in kinds:
            of = " or ".join(one for one in _KINDS if one.partition(":")[0] in kinds)
            raise given.error(f"the judge {judge.name} has no such setting; {of} has")
    for key, parse in _SETTINGS.items():
        judge = replace(judge, **{key: optional(section, key, parse, getattr(judge, key))})
    judge = replace(judge, load=parse_load(section))
    section.close()
    return judge


def judge_name(value: object) -> str:
    """A judge's name as the file and the command line write it.

    Raises:
        UsageError: there is no such judge.
    """
    name = value.strip() if isinstance(value, str) else value
    kind, colon, model = name.partition(":") if isinstance(name, str) else ("", "", "")
    wanted = f"{kind}:MODEL" if colon else kind
    if wanted not in _KINDS or (colon and not model.strip()):
        raise UsageError(f"unknown judge {value!r}; write {', '.join(_KINDS[:-1])} or {_KINDS[-1]}")
    return check_name(str(name), "judge")


def judge_like(config: JudgeConfig, name: str) -> JudgeConfig:
    """Another judge with the settings of `config` that it has too.

    Raises:
        UsageError: there is no such judge.
    """
    other = JudgeConfig(judge_name(name))
    kept = {key for key in _SETTINGS if {config.kind, other.kind} <= _KINDS_OF.get(key, _ALL)}
    if config.kind == other.kind == "hf":
        kept.add("load")
    if config.model != other.model:  # a commit and prices of one model are none of another's
        kept -= {"revision", "prices"}
    return replace(other, **{key: getattr(config, key) for key in kept})


def _variable(entry: Entry) -> str:
    name = entry.text()
    if not _VARIABLE.fullmatch(name):
        # not shown: it may be the key itself, put here by mistake
        raise entry.error("write the name of an environment variable that holds the key, not the key itself")
    return name


def _address(entry: Entry) -> str:
    text = entry.text()
    if not re.fullmatch(r"https?://[^/?#@\s]+(/[^?#@\s]*)?", text):
        raise entry.error(
            "write an address such as http://localhost:8000/v1, without user, password or query"
        )
    return text


def _seconds(entry: Entry) -> float:
    seconds = entry.number(low=0, high=_LONGEST_TIMEOUT)
    if seconds == 0:
        raise entry.error("0 seconds is no time to answer in; write more")
    return seconds


def _prices(entry: Entry) -> Prices:
    section = entry.section()
    prices = Prices(section.take("prompt").number(low=0), section.take("completion").number(low=0))
    section.close()
    return prices


def _cache(entry: Entry) -> str:
    # YAML reads a bare off as false
    return CACHE_OFF if entry.value is False else entry.text()


_ALL, _API, _OPENED = (
    frozenset({"likelihood", "openai", "systemone", "hf", "self"}),
    frozenset({"openai", "systemone"}),
    frozenset({"hf"}),
)
_LOCAL = frozenset({"hf", "self"})
_LOADING = ("dtype", "device", "device_map", "attention", "quantization", "trust_remote_code")
_KINDS_OF: dict[str, frozenset[str]] = {
    **dict.fromkeys(
        ("base_url", "concurrency", "api_key_env", "timeout_seconds", "max_retries", "prices"), _API
    ),
    **dict.fromkeys(("revision", *_LOADING), _OPENED),
    "batch_rows": _LOCAL,
    "max_tokens": frozenset({"openai"}),
    "relevance": _API | _LOCAL,
}
"""Settings that not all kinds of judges have -> those that do."""
_SETTINGS: dict[str, Callable[[Entry], Any]] = {
    "base_url": _address,
    "concurrency": lambda entry: entry.integer(at_least=1, at_most=_MOST_AT_ONCE),
    "api_key_env": _variable,
    "timeout_seconds": _seconds,
    "max_retries": lambda entry: entry.integer(at_most=_MOST_RETRIES),
    "max_tokens": lambda entry: entry.integer(at_least=1),
    "prices": _prices,
    "relevance": Entry.boolean,
    "revision": Entry.text,
    "batch_rows": Entry.integer,
    "cache": _cache,
}
"""How a setting is read; what says how weights are loaded is read as for any model."""
