"""The experiment file's frozen values; `massact.config.parse` reads them from YAML.

Each stage is given only its own config. What only models and datasets can tell (how many layers,
how many questions) is checked before a phase starts, by `massact.sweep.planner`."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

from massact.domain import (
    DEFAULT_COHERENCE_FLOOR,
    DEFAULT_LEAST_SCORED,
    DEFAULT_METHODS,
    AllDims,
    Coefficients,
    Direction,
    Generation,
    Group,
)
from massact.errors import UsageError
from massact.metrics import DEFAULT_METRIC_TOKENS, DEFAULT_METRICS
from massact.store.schema import Declared, DeclaredPhase, DeclaredSetting


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """A LoRA adapter on a variant's weights."""

    reference: str  # hub id or local folder, as peft saves adapters
    revision: str | None = None  # commit, tag or branch of a hub repository


@dataclass(frozen=True, slots=True)
class ChatConfig:
    """How a model is asked through its chat template (docs/models.md)."""

    thinking: str | None = None
    """`off`, `on`, or the tokens after which a thought is ended; `None`: off where the template has a switch."""
    template_arguments: str | None = None  # what is handed to the template besides, as canonical JSON


@dataclass(frozen=True, slots=True)
class LoadConfig:
    """How a model's weights are loaded (docs/models.md)."""

    dtype: str = "auto"  # `auto` (the checkpoint's), `float32`, `bfloat16` or `float16`
    device: str = "auto"  # `auto` (a GPU where there is one), `cpu`, `cuda`, `cuda:1`, `mps`
    device_map: str | None = None
    """How accelerate spreads the weights over several devices, such as `balanced`; `None`: one device."""
    attention: str = "auto"
    """`auto` (what the model's class does best) or an implementation of transformers, such as `eager`."""
    quantization: str | None = None  # `8bit` or `4bit` of bitsandbytes; `None`: the weights as they are
    trust_remote_code: bool = False  # whether Python files of the model's repository may run
    chat: ChatConfig = ChatConfig()  # how it is asked; of a model that is steered


@dataclass(frozen=True, slots=True)
class VariantConfig:
    """One set of weights of a model."""

    name: str  # the variant's name, such as `instruct` or `gemma2_base`
    reference: str  # hub id, local folder, or `toy:<name>` for an embedded model
    revision: str | None = None  # commit, tag or branch of a hub repository
    adapter: AdapterConfig | None = None


@dataclass(frozen=True, slots=True)
class Grid:
    """Where to steer: every layer with every coefficient."""

    layers: str  # layer specification, such as `30%-60%`; see `massact.labels`
    coefficients: Coefficients


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A model: vectors are extracted from its base variant and steer its instruct variant."""

    name: str
    base: VariantConfig
    instruct: VariantConfig
    load: LoadConfig  # the same for both variants
    grid: Grid
    coefficient_range: tuple[float, float] | None = None
    """Least and greatest |coefficient| that a search for a gap may try; `None` is no bound."""


@dataclass(frozen=True, slots=True)
class TraitConfig:
    """A trait and the folder that holds its dataset."""

    name: str
    dataset: str
    direction: Direction = "positive"


@dataclass(frozen=True, slots=True)
class CalibrationConfig:
    """How massive dims are found."""

    prompts: str = str(Path(__file__).parents[1] / "data" / "neutral.txt")
    """File of neutral prompts, one a line (or the plan's JSON list); massact's own, in English, where none is named."""
    max_new_tokens: int = 32
    n_top: int = 10  # how many top dims are kept per layer


@dataclass(frozen=True, slots=True)
class VettingConfig:
    """Which continuations of contrastive prompts show what their side should."""

    positive_at_least: float = 60.0  # trait score, 0 to 100, that a positive prompt's continuation needs
    negative_at_most: float = 40.0  # trait score, 0 to 100, that a negative prompt's continuation may have
    filter: Literal["paired", "independent"] = "independent"
    """`paired`: prompt i of both sides is dropped where either fails."""
    max_new_tokens: int = 64  # tokens of a continuation that the judge reads

    @property
    def is_paired(self) -> bool:
        return self.filter == "paired"


@dataclass(frozen=True, slots=True)
class ExtractionConfig:
    """How vectors are extracted."""

    positions: tuple[str, ...] = ("response[:5]",)
    max_new_tokens: int = 5  # as many as the longest window reads, unless the file says more
    methods: tuple[str, ...] = DEFAULT_METHODS
    uniform_dims: tuple[int | AllDims, ...] = (1, 2, 3, 5, 10, "all")
    """Cleanings with the uniform list, each before and after."""
    layer_dims: tuple[int | AllDims, ...] = (1, 2, 3)  # cleanings with each layer's own list, each before and after
    validation_split: float = 0.1  # share of each side that is kept out of the training of vectors
    seed: int = 0
    vetting: VettingConfig | None = None  # `None`: every continuation is taken as it is
    is_split_given: bool = False  # whether `--val-split` chose the validation split, and not the file


@dataclass(frozen=True, slots=True)
class VectorConfig:
    """Vectors that another tool made, as a method of the experiment (docs/vectors.md)."""

    name: str  # of the method; it begins with `imported_`
    file: str
    model: str | None = None  # which model they are of; `None`: any, likewise the trait
    trait: str | None = None
    layer: int | None = None  # of a file with one vector that does not say of which layer, from 0
    layer_shift: int = 0  # added to the file's layer numbers: -1 for what llama.cpp's own generator made
    index: int | None = None  # of a SAELens folder: which feature


@dataclass(frozen=True, slots=True)
class GateConfig:
    """A gate that labels name with `+if_NAME` (docs/steering.md)."""

    name: str
    label: str  # of the condition vector: a method, perhaps cleaned
    position: str  # the window of the prompt that it was extracted at, and is held against
    layer: int
    trait: str | None = None  # whose vector it is; `None`: that of the trait that is steered
    threshold: float | None = None  # `None`: half-way between the two sides of the trait's contrastive prompts
    measure: Literal["projection", "cosine"] = "projection"
    opens: Literal["above", "below"] = "above"


@dataclass(frozen=True, slots=True)
class Prices:
    """What a judge's server takes for a million tokens, in USD."""

    prompt: float
    completion: float


@dataclass(frozen=True, slots=True)
class JudgeConfig:
    """Which judge scores the responses."""

    name: str
    """As the file writes it, such as `openai:MODEL` (docs/judges.md); of two judges `trait=NAME,coherence=NAME`."""
    base_url: str | None = None
    concurrency: int = 16
    api_key_env: str = "OPENAI_API_KEY"  # name of the environment variable that holds the key of an `openai:` judge
    timeout_seconds: float = 60
    max_retries: int = 6
    relevance: bool = False  # whether a third prompt asks if the response engages with the question
    prices: Prices | None = None
    revision: str | None = None  # commit, tag or branch of an `hf:` judge's repository
    load: LoadConfig = LoadConfig()  # how the weights of an `hf:` judge are loaded
    batch_rows: int = 0  # prompts that an `hf:` judge or `self` reads side by side at most; 0: as many as are of use
    cache: str | None = None  # file of the judge cache, or `off`; `None` is the default place
    thinking: Literal["skip", "include"] = "skip"  # whether the judge reads what a response thought before its answer
    max_tokens: int | None = None
    """Most tokens of an `openai:` judge's answer, thoughts included; `None` is room for a score alone."""
    patterns: tuple[tuple[str, tuple[str, ...]], ...] = ()  # (trait, regular expressions) of the judge `regex`
    score: Literal["any", "share"] = "any"
    """What `regex` scores: whether any pattern is found, or the share of those that are."""
    trait: "JudgeConfig | None" = None  # who scores the trait, where two judges share the work
    coherence: "JudgeConfig | None" = None  # who scores coherence, likewise

    @property
    def parts(self) -> "tuple[JudgeConfig, ...]":
        """Who scores the trait and who coherence; the judge itself where it does both."""
        return (self.trait, self.coherence) if self.trait and self.coherence else (self,)

    @property
    def kind(self) -> str:
        """Such as `openai`; `combined` where two judges share the work."""
        return "combined" if self.trait else self.name.partition(":")[0]

    @property
    def model(self) -> str:
        """What stands after the kind: the judging model; empty where there is none to name."""
        return "" if self.trait else self.name.partition(":")[2]

    @property
    def reads_steered(self) -> bool:
        """Whether it reads with the model whose responses it judges."""
        return any(part.kind in ("self", "perplexity", "classifier") for part in self.parts)


@dataclass(frozen=True, slots=True)
class BaselinesConfig:
    """What winners are held against beside no steering (docs/experiment-file.md)."""

    prompt: bool | str | tuple[tuple[str, str], ...] = False
    """Whether a system prompt is, made of the trait's definition; or its text, of all traits or by trait."""
    few_shot: int = 0  # how many examples of the trait are; 0: none
    random: int = 0  # how many random directions are; 0: none

    def system(self, trait: str, definition: str, direction: Direction) -> str | None:
        """The system prompt of a trait; `None`: it has none."""
        if isinstance(self.prompt, str):
            return self.prompt
        if isinstance(self.prompt, tuple):
            return dict(self.prompt).get(trait)
        how = "show the following trait, as strongly as you can" if direction == "positive" else "never show this trait"
        return f"In everything that you answer, {how}. {definition}" if self.prompt else None


@dataclass(frozen=True, slots=True)
class PhaseConfig(DeclaredPhase):
    """The labels that a phase compares, and where."""

    grids: tuple[tuple[str, Grid], ...]  # (model, grid) where the phase does not use the model's own grid

    def grid(self, model: ModelConfig) -> Grid:
        return dict(self.grids).get(model.name, model.grid)


NamedT = TypeVar("NamedT", ModelConfig, TraitConfig, PhaseConfig)


@dataclass(frozen=True, slots=True)
class Experiment:
    """A whole experiment file."""

    name: str
    file: Path
    models: tuple[ModelConfig, ...]
    traits: tuple[TraitConfig, ...]
    calibration: CalibrationConfig
    extraction: ExtractionConfig
    generation: Generation
    judge: JudgeConfig
    phases: tuple[PhaseConfig, ...] = ()  # those that the file declares, in the plan's order
    description: str = ""
    coherence_floor: float = DEFAULT_COHERENCE_FLOOR
    """Which results count: of coherence, or a `massact.floors.Floor` of a metric."""
    subset: int = 0  # how many questions of a set are asked; 0 is all
    confirm_share: float | None = None
    """Share of the questions that confirm winners and take no part in choosing them; `None`: all questions choose."""
    least_scored: float = DEFAULT_LEAST_SCORED
    """Share of its responses that an evaluation must have scores of to count, 0 to 1."""
    vectors: tuple[VectorConfig, ...] = ()
    operators: tuple[str, ...] = ()  # those of its own files, by the names that labels give them
    gates: tuple[GateConfig, ...] = ()
    baselines: BaselinesConfig = BaselinesConfig()
    metrics: tuple[str, ...] = DEFAULT_METRICS
    """What is measured of every response without a judge; see `massact.metrics`."""
    metric_tokens: int = DEFAULT_METRIC_TOKENS
    """Tokens of a response, from its first on, that `kl` and `perplexity` read; 0: all."""

    def model(self, name: str) -> ModelConfig:
        """The model of that name. Raises UsageError: the file declares none; likewise the next two."""
        return _named(self.models, name, "model", self.file)

    def trait(self, name: str) -> TraitConfig:
        """The trait of that name."""
        return _named(self.traits, name, "trait", self.file)

    def phase(self, name: str) -> PhaseConfig:
        """The phase of that name."""
        return _named(self.phases, name, "phase", self.file)

    def groups(self, phase: str | None = None) -> tuple[Group, ...]:
        """The declared matrix, of one phase or of all, in the file's order, each group once."""
        return declared_by(self).groups(phase)

    def resolve(self, reference: str) -> str:
        """A dataset or model reference with a relative path made relative to the file's folder."""
        if reference.startswith(("./", "../")):
            return str((self.file.parent / reference).resolve())
        return reference

    def resolve_adapter(self, variant: VariantConfig) -> AdapterConfig | None:
        """A variant's adapter, its path resolved likewise."""
        if variant.adapter is None:
            return None
        return replace(variant.adapter, reference=self.resolve(variant.adapter.reference))


def _named(items: Iterable[NamedT], name: str, kind: str, file: Path) -> NamedT:
    by_name = {item.name: item for item in items}
    if name not in by_name:
        raise UsageError(f"{file} declares no {kind} {name!r}; it declares {', '.join(by_name) or 'none'}")
    return by_name[name]


# What of an experiment file questions ask for.


def declared_by(experiment: Experiment) -> Declared:
    """The part of an experiment file that questions need, as the run store keeps it too."""
    return Declared(
        experiment=experiment.name,
        floor=experiment.coherence_floor,
        traits=tuple(trait.name for trait in experiment.traits),
        phases=experiment.phases,
        coefficient_ranges={
            model.name: model.coefficient_range for model in experiment.models if model.coefficient_range is not None
        },
        confirm_share=experiment.confirm_share,
        printed_models={
            printed: model.name
            for model in experiment.models
            for printed in (model.base.reference, model.instruct.reference, model.name)
        },
        setting=_setting(experiment),
        least_scored=experiment.least_scored,
        source=str(experiment.file),
    )


def _setting(experiment: Experiment) -> DeclaredSetting:
    return DeclaredSetting(
        judge=experiment.judge.name,
        subset=experiment.subset,
        max_new_tokens=experiment.generation.max_new_tokens,
        temperature=experiment.generation.temperature,
        seed=experiment.generation.seed,
        directions={trait.name: trait.direction for trait in experiment.traits},
        weights={model.name: experiment.resolve(model.instruct.reference) for model in experiment.models},
        chats={
            model.name: (model.load.chat.thinking, model.load.chat.template_arguments)
            for model in experiment.models
            if model.load.chat != ChatConfig()
        },
        confirm_share=experiment.confirm_share,
    )
