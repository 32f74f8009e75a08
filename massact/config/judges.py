"""The section `judge` of an experiment file, and how weights are loaded, which models and judges say alike."""

import re
from dataclasses import replace
from typing import Any

from massact.config.values import JudgeConfig, LoadConfig, Prices
from massact.config.yaml import Entry, Readers, Section, defaults_of
from massact.errors import UsageError
from massact.names import check_name
from massact.plugins import plugin_names

DTYPES = ("auto", "float32", "bfloat16", "float16")
DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
ATTENTION = ("auto", "eager", "sdpa", "flash_attention_2")
QUANTIZATION = ("8bit", "4bit")


def parse_load(section: Section) -> LoadConfig:
    """The keys that say how weights are loaded, of a section that has others too."""
    device_map = section.find("device_map", may_be_empty=True)
    if device_map is not None and section.find("device") is not None:
        raise device_map.error("the key 'device' stands beside it; write one of them")
    return LoadConfig(**section.read(_LOAD, defaults_of(LoadConfig)))


_LOAD: Readers = {
    "dtype": lambda e: e.choice(*DTYPES),
    "device": Entry.text,
    "device_map": lambda e: e.choice(*DEVICE_MAPS),
    "attention": lambda e: e.choice(*ATTENTION),
    "quantization": lambda e: e.choice(*QUANTIZATION),
    "trust_remote_code": Entry.boolean,
}


CACHE_OFF = "off"
_KINDS = (
    *("likelihood", "openai:MODEL", "systemone:MODEL", "hf:MODEL", "self", "perplexity", "classifier"),
    *("regex", "regex:PATTERN", "choices", "python:MODULE:CLASS"),
)
_ONE_SIDED = {"classifier": "trait", "regex": "trait", "perplexity": "coherence"}
"""Judges that give one of the two scores."""
_OF_BOTH = ("cache", "prices", "thinking")  # settings that two judges share
_TWO = re.compile(r"trait=(?P<trait>.+),\s*coherence=(?P<coherence>.+)")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LONGEST_TIMEOUT = 86_400
_MOST_AT_ONCE, _MOST_RETRIES = 1000, 100


def parse_judge(entry: Entry) -> JudgeConfig:
    if isinstance(entry.value, str):
        return entry.checked(lambda value: judge_like(JudgeConfig(""), value))
    section = entry.section()
    if section.find("trait") is None and section.find("coherence") is None:
        return _one_judge(entry)
    trait, coherence = (_one_judge(section.take(key), key) for key in ("trait", "coherence"))
    rest = section.rest({key: _SETTINGS[key] for key in _OF_BOTH}, defaults_of(JudgeConfig))
    return entry.checked(lambda _: _combined(trait, coherence, **rest))


def _one_judge(entry: Entry, part: str = "") -> JudgeConfig:
    if isinstance(entry.value, str):
        return JudgeConfig(entry.checked(lambda value: judge_name(value, part)))
    section = entry.section()
    judge = JudgeConfig(section.take("name").checked(lambda value: judge_name(value, part)))
    for key, kinds in _KINDS_OF.items():
        setting = section.find(key, may_be_empty=True)
        if setting is not None and judge.kind in _ALL - kinds:  # what another package adds may have any
            of = " or ".join(kind for kind in _KINDS if kind.partition(":")[0] in kinds)
            raise setting.error(f"the judge {judge.name} has no such setting; {of} has")
    for key in _OF_BOTH:
        setting = section.find(key, may_be_empty=True)
        if part and setting is not None:
            raise setting.error("it is one for both judges: write it beside trait and coherence")
    load = parse_load(section)
    return JudgeConfig(judge.name, load=load, **section.rest(_SETTINGS, defaults_of(JudgeConfig)))


def _combined(trait: JudgeConfig, coherence: JudgeConfig, **of_both: Any) -> JudgeConfig:
    keys = {part.api_key_env for part in (trait, coherence) if part.kind in _API}
    if len(keys) > 1:
        raise UsageError("the two judges read their keys from one variable: write the same api_key_env")
    return JudgeConfig(
        judge_name(f"trait={trait.name},coherence={coherence.name}"),
        api_key_env=min(keys, default=trait.api_key_env),
        trait=trait,
        coherence=coherence,
        **of_both,
    )


def judge_name(value: object, part: str = "") -> str:
    """A judge's name as the file and the command line write it; `part`: which score alone is wanted of it. Raises
    UsageError: there is no such judge, or it does not give what is wanted."""
    name = value.strip() if isinstance(value, str) else value
    if isinstance(name, str) and not part and (two := _TWO.fullmatch(name)):
        for side, part_name in two.groupdict().items():
            judge_name(part_name, side)
        return check_name(name, "judge")
    kind, colon, model = name.partition(":") if isinstance(name, str) else ("", "", "")
    with_model = {known.partition(":")[0] for known in _KINDS if ":" in known}
    is_known = kind in with_model if colon else kind in _KINDS
    if (colon and not model.strip()) or not (is_known or kind in plugin_names("judges")):
        *kinds, last = *_KINDS, *plugin_names("judges")
        raise UsageError(f"unknown judge {value!r}; write {', '.join(kinds)} or {last}")
    if kind == "python" and not re.fullmatch(r"[\w.]+:\w+", model):
        raise UsageError(f"the judge {value!r} names no class: write python:MODULE:CLASS")
    if kind == "regex" and colon:
        check_pattern(model)
    gives = _ONE_SIDED.get(kind, part)
    if gives != part:
        example = f"{{trait: {name if gives == 'trait' else 'classifier'}, coherence: " + (
            f"{name}}}" if gives == "coherence" else "perplexity}"
        )
        raise UsageError(f"the judge {name} gives a score of {gives} alone: write {example}")
    return check_name(str(name), "judge")


def check_pattern(pattern: str) -> str:
    """A regular expression that can be read. Raises UsageError: it cannot."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise UsageError(f"{pattern!r} is no regular expression: {error}") from error
    return pattern


def judge_like(config: JudgeConfig, name: str) -> JudgeConfig:
    """Another judge with the settings of `config` that it has too."""
    two = _TWO.fullmatch(judge_name(name))
    if two is None:
        return _like(config.trait or config, judge_name(name), cache=config.cache)
    trait, coherence = (_like(getattr(config, side) or config, name, side) for side, name in two.groupdict().items())
    return _combined(trait, coherence, cache=config.cache, thinking=config.thinking)


def _like(config: JudgeConfig, name: str, part: str = "", cache: str | None = None) -> JudgeConfig:
    other = JudgeConfig(judge_name(name, part))
    kept = {key for key in _SETTINGS if {config.kind, other.kind} <= _KINDS_OF.get(key, _ALL)}
    if config.kind == other.kind:
        kept = {*_SETTINGS, "load"}
    if config.model != other.model:  # a commit and prices of one model are none of another's
        kept -= {"revision", "prices"}
    if part:
        kept -= {"prices"}
    return replace(other, **{**{key: getattr(config, key) for key in kept}, "cache": cache})


def _variable(entry: Entry) -> str:
    name = entry.text()
    if not _VARIABLE.fullmatch(name):
        # not shown: it may be the key itself, put here by mistake
        raise entry.error("write the name of an environment variable that holds the key, not the key itself")
    return name


def _address(entry: Entry) -> str:
    text = entry.text()
    if not re.fullmatch(r"https?://[^/?#@\s]+(/[^?#@\s]*)?", text):
        raise entry.error("write an address such as http://localhost:8000/v1, without user, password or query")
    return text


def _seconds(entry: Entry) -> float:
    seconds = entry.number(low=0, high=_LONGEST_TIMEOUT)
    if seconds == 0:
        raise entry.error("0 seconds is no time to answer in; write more")
    return seconds


def _patterns(entry: Entry) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return tuple(
        (trait, listed.unique(lambda entry: entry.checked(lambda _: check_pattern(entry.text()))))
        for trait, listed in entry.section().names()
    )


_ALL = frozenset(kind.partition(":")[0] for kind in _KINDS) - {"python"}
_API, _LOCAL, _OPENED = frozenset({"openai", "systemone"}), frozenset({"hf", "self"}), frozenset({"hf"})
_KINDS_OF: dict[str, frozenset[str]] = {
    **dict.fromkeys(("base_url", "concurrency", "api_key_env"), _API),
    **dict.fromkeys(("timeout_seconds", "max_retries", "prices"), _API),
    **dict.fromkeys(("revision", *_LOAD), _OPENED),
    "batch_rows": _LOCAL,
    "max_tokens": frozenset({"openai"}),
    **dict.fromkeys(("patterns", "score"), frozenset({"regex"})),
    "relevance": _API | _LOCAL,
}
"""Settings that not all kinds of judges have -> those that do."""
_SETTINGS: Readers = {
    "base_url": _address,
    "concurrency": lambda entry: entry.integer(at_least=1, at_most=_MOST_AT_ONCE),
    "api_key_env": _variable,
    "timeout_seconds": _seconds,
    "max_retries": lambda entry: entry.integer(at_most=_MOST_RETRIES),
    "max_tokens": lambda entry: entry.integer(at_least=1),
    "prices": lambda e: e.into(Prices, dict.fromkeys(("prompt", "completion"), lambda e: e.number(low=0))),
    "relevance": Entry.boolean,
    "thinking": lambda entry: entry.choice("skip", "include"),
    "revision": Entry.text,
    "batch_rows": Entry.integer,
    "patterns": _patterns,
    "score": lambda entry: entry.choice("any", "share"),
    # YAML reads a bare off as false
    "cache": lambda entry: CACHE_OFF if entry.value is False else entry.text(),
}
"""How a setting is read; what says how weights are loaded is read as for any model."""
