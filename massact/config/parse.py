"""Reading an experiment file: every key is known, every value is checked, before anything runs."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from massact.config.values import (
    AdapterConfig,
    CalibrationConfig,
    Experiment,
    ExtractionConfig,
    Grid,
    JudgeConfig,
    LoadConfig,
    ModelConfig,
    PhaseConfig,
    Prices,
    TraitConfig,
    VariantConfig,
    VettingConfig,
    VettingFilter,
)
from massact.config.yaml import Entry, Section, optional, raise_all, read_yaml, unique
from massact.domain import DEFAULT_COHERENCE_FLOOR, DEFAULT_LEAST_SCORED, METHODS, AllDims, Generation
from massact.errors import ConfigError, UsageError
from massact.labels import normalise_label
from massact.layers import check_layers
from massact.names import check_name
from massact.vectors.positions import parse_position

# The sections `models` and `grids` of an experiment file.

DTYPES = ("auto", "float32", "bfloat16", "float16")
DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
ATTENTION = ("auto", "eager", "sdpa", "flash_attention_2")
QUANTIZATION = ("8bit", "4bit")
_LARGEST = 1e12
_MOST_COEFFICIENTS = 1000


def parse_model(name: str, entry: Entry) -> ModelConfig:
    section = entry.section()
    model = ModelConfig(
        name=name,
        base=_variant(section.take("base").section()),
        instruct=_variant(section.take("instruct").section()),
        load=parse_load(section),
        grid=parse_grid(section),
        coefficient_range=optional(section, "coefficient_range", _range, None),
    )
    section.close()
    return model


def parse_load(section: Section) -> LoadConfig:
    """The keys that say how weights are loaded, of a section that has others too."""
    device_map = section.find("device_map", may_be_empty=True)
    if device_map is not None and section.find("device") is not None:
        raise device_map.error("the key 'device' stands beside it; write one of them")
    return LoadConfig(
        dtype=optional(section, "dtype", lambda e: e.choice(*DTYPES), "auto"),
        device=optional(section, "device", Entry.text, "auto"),
        device_map=device_map.choice(*DEVICE_MAPS) if device_map is not None else None,
        attention=optional(section, "attention", lambda e: e.choice(*ATTENTION), "auto"),
        quantization=optional(section, "quantization", lambda e: e.choice(*QUANTIZATION), None),
        trust_remote_code=optional(section, "trust_remote_code", Entry.boolean, False),
    )


def _variant(section: Section) -> VariantConfig:
    variant = VariantConfig(
        name=section.take("variant").name("variant"),
        reference=section.take("model").text(),
        revision=optional(section, "revision", Entry.text, None),
        adapter=_adapter(section),
    )
    section.close()
    return variant


def _adapter(section: Section) -> AdapterConfig | None:
    adapter = section.find("adapter", may_be_empty=True)
    revision = section.find("adapter_revision", may_be_empty=True)
    if adapter is None:
        if revision is not None:
            raise revision.error(
                "there is no adapter here that it could belong to; write the key 'adapter' too"
            )
        return None
    return AdapterConfig(adapter.text(), revision.text() if revision is not None else None)


def parse_grid(section: Section) -> Grid:
    layers = section.take("layers")
    coefficients = section.take("coefficients")
    if len(coefficients.items()) > _MOST_COEFFICIENTS:
        raise coefficients.error(
            f"{len(coefficients.items())} coefficients; a grid has {_MOST_COEFFICIENTS} at most"
        )
    return Grid(
        layers=layers.checked(lambda _: check_layers(layers.spelled())),
        coefficients=unique(coefficients, _coefficient),
    )


def _coefficient(entry: Entry) -> float:
    value = entry.number(low=-_LARGEST, high=_LARGEST)
    return entry.checked(lambda _: check_coefficient(value))


def check_coefficient(value: float) -> float:
    """A coefficient that can be evaluated.

    Raises:
        UsageError: it is 0, which is the baseline, or beyond any use.
    """
    if not abs(value) <= _LARGEST:  # nor is NaN
        raise UsageError(f"coefficient {value:g} is not a number from {-_LARGEST:g} to {_LARGEST:g}")
    if value == 0:
        raise UsageError(
            "coefficient 0 steers nothing: that is the baseline, which every setting gets by itself"
        )
    return value


def _range(entry: Entry) -> tuple[float, float]:
    bounds = [item.number(low=0, high=_LARGEST) for item in entry.items()]
    if len(bounds) != 2 or bounds[0] > bounds[1] or bounds[1] == 0:
        raise entry.error("write the least and the greatest absolute coefficient, such as [800, 2500]")
    return bounds[0], bounds[1]


# The sections `calibration` and `extraction` of an experiment file.

LARGEST_SPLIT = 0.5
"""Share of a side that validation may take at most."""


def parse_extraction(section: Section) -> ExtractionConfig:
    positions = unique(section.take("positions"), parse_window)
    needed = [parse_position(position).n_response_tokens for position in positions]
    longest = max((n for n in needed if n is not None), default=1)
    config = ExtractionConfig(
        positions=positions,
        methods=optional(
            section, "methods", lambda e: unique(e, lambda item: item.choice(*METHODS)), METHODS
        ),
        uniform_dims=optional(section, "uniform_dims", lambda e: unique(e, _n_dims), (1, 2, 3, 5, 10, "all")),
        layer_dims=optional(section, "layer_dims", lambda e: unique(e, _n_dims), (1, 2, 3)),
        max_new_tokens=optional(
            section, "max_new_tokens", lambda e: _enough_tokens(e, longest), max(longest, 1)
        ),
        validation_split=optional(
            section, "validation_split", lambda e: e.number(low=0, high=LARGEST_SPLIT), 0.1
        ),
        seed=optional(section, "seed", Entry.integer, 0),
        vetting=optional(section, "vetting", _vetting, None),
    )
    section.close()
    return config


def with_validation_split(experiment: Experiment, share: float | None) -> Experiment:
    """The experiment with the validation split of the command line, where one is given.

    Raises:
        UsageError: no share of a side that leaves half of it for training.
    """
    if share is None:
        return experiment
    if not 0 <= share <= LARGEST_SPLIT:
        raise UsageError(f"--val-split {share:g}: write a share of each side, from 0 to {LARGEST_SPLIT:g}")
    extraction = replace(experiment.extraction, validation_split=share, is_split_given=True)
    return replace(experiment, extraction=extraction)


def _vetting(entry: Entry) -> VettingConfig:
    section, usual = entry.section(), VettingConfig()
    highest = section.find("negative_at_most")
    config = VettingConfig(
        positive_at_least=optional(section, "positive_at_least", _score, usual.positive_at_least),
        negative_at_most=usual.negative_at_most if highest is None else _score(highest),
        filter=optional(section, "filter", _filter, usual.filter),
        max_new_tokens=optional(
            section, "max_new_tokens", lambda e: e.integer(at_least=1), usual.max_new_tokens
        ),
    )
    section.close()
    if config.negative_at_most >= config.positive_at_least:
        raise (highest or entry).error(
            f"negative_at_most {config.negative_at_most:g} is not below positive_at_least "
            f"{config.positive_at_least:g}: a continuation could pass on both sides"
        )
    return config


def _filter(entry: Entry) -> VettingFilter:
    return "paired" if entry.choice("paired", "independent") == "paired" else "independent"


def _score(entry: Entry) -> float:
    return entry.number(low=0, high=100)


def _enough_tokens(entry: Entry, longest: int) -> int:
    n_tokens = entry.integer(at_least=1)
    if n_tokens < longest:
        raise entry.error(f"{n_tokens} tokens are fewer than the longest position window reads ({longest})")
    return n_tokens


def _n_dims(entry: Entry) -> int | AllDims:
    return "all" if entry.value == "all" else entry.integer(at_least=1)


def parse_window(entry: Entry) -> str:
    position = entry.checked(lambda _: parse_position(entry.spelled()))
    if position.is_empty:
        raise entry.error(
            f"no text has a token in {position}: write the lower end first, such as response[2:5]"
        )
    return str(position)


def parse_calibration(section: Section) -> CalibrationConfig:
    config = CalibrationConfig(
        prompts=section.take("prompts").text(),
        max_new_tokens=optional(section, "max_new_tokens", lambda e: e.integer(at_least=1), 32),
        n_top=optional(section, "n_top", lambda e: e.integer(at_least=5), 10),
    )
    section.close()
    return config


# The section `judge` of an experiment file.

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

T = TypeVar("T")
PHASES = ("phase1", "phase2", "phase3")
"""Phases that evaluate cells, and so declare labels; phase 4 asks questions only."""
MOST_GROUPS = 100_000
"""Groups that a file declares at most: what its lists multiply to is found out before any of it is walked."""
_LEAST_TEMPERATURE = 0.01


def load_experiment(path: str | Path) -> Experiment:
    """Read and validate an experiment file.

    Raises:
        ConfigError: anything in it is wrong; the message names file, line, key, value and what is allowed, a line
            for each fault that can be told without the others.
    """
    file = Path(path)
    if not file.is_file():
        raise ConfigError(
            f"no experiment file {str(file)!r}: pass --experiment FILE, such as experiments/toy.yaml"
        )
    top = read_yaml(file).section()
    faults: list[ConfigError] = []
    read = {key: _read(top, key, parse, faults) for key, parse in _SECTIONS.items()}
    phases = lambda entry: _phases(entry, read["models"], read["extraction"])  # noqa: E731  # needs both
    if faults:
        top.find("phases", may_be_empty=True)
    else:
        read["phases"] = _read(top, "phases", phases, faults)
    try:
        top.close()
    except ConfigError as error:
        faults.append(error)
    raise_all(faults)
    experiment = Experiment(file=file, confirm_share=read.pop("questions"), **read)
    n_groups = sum(len(one.models) * len(one.positions) * len(one.labels) for one in experiment.phases)
    if n_groups * len(experiment.traits) > MOST_GROUPS:
        raise top.take("phases").error(
            f"declares {n_groups * len(experiment.traits):,} groups of model, trait, position and label; write fewer: "
            f"{MOST_GROUPS:,} are the most that are taken"
        )
    return experiment


def _read(top: Section, key: str, parse: Callable[[Entry], Any], faults: list[ConfigError]) -> Any:
    """A key at the top of the file; what is wrong with it is added to the faults."""
    try:
        if key in _DEFAULTS:
            return optional(top, key, parse, _DEFAULTS[key])
        return parse(top.take(key))
    except ConfigError as error:
        faults.append(error)
        return None


def _each(entry: Entry, parse: Callable[[str, Entry], T]) -> tuple[T, ...]:
    """What stands under every name of a section; all that is wrong with them is raised at once."""
    read, faults = [], []
    for name, one in entry.section().names():
        try:
            read.append(parse(name, one))
        except ConfigError as error:
            faults.append(error)
    raise_all(faults)
    return tuple(read)


def _trait(name: str, entry: Entry) -> TraitConfig:
    section = entry.section()
    direction = optional(section, "direction", lambda e: e.choice("positive", "negative"), "positive")
    trait = TraitConfig(
        name=name,
        dataset=section.take("dataset").text(),
        direction="negative" if direction == "negative" else "positive",
    )
    section.close()
    return trait


def _generation(section: Section) -> Generation:
    generation = Generation(
        max_new_tokens=section.take("max_new_tokens").integer(at_least=1),
        temperature=optional(section, "temperature", _temperature, 0.0),
        seed=optional(section, "seed", Entry.integer, 0),
    )
    section.close()
    return generation


def _temperature(entry: Entry) -> float:
    temperature = entry.number(low=0, high=10)
    if 0 < temperature < _LEAST_TEMPERATURE:
        raise entry.error(f"{temperature:g} is too near to 0 to sample with; write 0 for greedy responses")
    return temperature


def _confirm_share(entry: Entry) -> float:
    section = entry.section()
    given = section.take("confirm")
    share = given.number()
    if not 0 < share < 1:
        raise given.error(
            f"{given.value!r} is not a share between 0 and 1; 0.4 keeps four tenths of the questions"
        )
    section.close()
    return share


def _phases(
    entry: Entry, models: tuple[ModelConfig, ...], extraction: ExtractionConfig
) -> tuple[PhaseConfig, ...]:
    section = entry.section()
    phases = tuple(_phase(name, section.take(name), models, extraction) for name in PHASES)
    section.close()
    return phases


def _phase(
    name: str, entry: Entry, models: tuple[ModelConfig, ...], extraction: ExtractionConfig
) -> PhaseConfig:
    section = entry.section()
    known = tuple(model.name for model in models)
    chosen = optional(section, "models", lambda e: unique(e, lambda item: item.choice(*known)), known)
    grids = section.find("grids", may_be_empty=True)
    phase = PhaseConfig(
        name=name,
        labels=unique(section.take("labels"), lambda e: e.checked(lambda _: normalise_label(e.spelled()))),
        positions=unique(section.take("positions"), lambda e: _extracted(e, extraction)),
        models=chosen,
        grids=tuple(_phase_grid(model, one, chosen) for model, one in grids.section().names())
        if grids
        else (),
    )
    section.close()
    return phase


def _phase_grid(model: str, entry: Entry, chosen: tuple[str, ...]) -> tuple[str, Grid]:
    if model not in chosen:
        raise entry.error(f"the phase uses no model of that name; it uses {', '.join(chosen)}")
    section = entry.section()
    grid = parse_grid(section)
    section.close()
    return model, grid


def _extracted(entry: Entry, extraction: ExtractionConfig) -> str:
    position = parse_window(entry)
    if position not in extraction.positions:
        raise entry.error(f"{position} is not among extraction.positions ({', '.join(extraction.positions)})")
    return position


_SECTIONS: Mapping[str, Callable[[Entry], Any]] = {
    "name": lambda entry: entry.name("experiment"),
    "description": lambda entry: entry.text(),
    "traits": lambda entry: _each(entry, _trait),
    "models": lambda entry: _each(entry, parse_model),
    "calibration": lambda entry: parse_calibration(entry.section()),
    "extraction": lambda entry: parse_extraction(entry.section()),
    "generation": lambda entry: _generation(entry.section()),
    "judge": parse_judge,
    "coherence_floor": lambda entry: entry.number(low=0, high=100),
    "least_scored": lambda entry: entry.number(low=0, high=1),
    "subset": lambda entry: entry.integer(),
    "questions": _confirm_share,
}
"""How each key at the top of the file is read, but `phases`, which needs models and extraction."""
_DEFAULTS: Mapping[str, Any] = {
    "description": "",
    "coherence_floor": DEFAULT_COHERENCE_FLOOR,
    "least_scored": DEFAULT_LEAST_SCORED,
    "subset": 0,
    "questions": None,
}
"""Keys that may be left out."""
