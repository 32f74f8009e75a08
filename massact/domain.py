"""The frozen values that every part speaks in: what was steered, how, and what came of it.

Independent facts are separate fields; a label such as `mean_diff_top1` is made from them in
`massact.labels` and nowhere else. Only the standard library is imported here, and what finds plug-ins."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from massact.plugins import plugin_names

Direction = Literal["positive", "negative"]
When = Literal["none", "before", "after"]
Scope = Literal["uniform", "layer"]
AllDims = Literal["all"]
Mode = Literal["keep", "winsorise"]

ADDED: Mapping[str, str] = {"key": "left out at the default"}
"""Metadata of a field that was added to a part of a cell: at its default it is left out of the key (`massact.keys`)."""

RANDOM = "random_baseline"  # the method that gives a random direction, which real ones are measured against
NEUTRAL_METHOD = "mean_centred"  # the method whose other side is neutral prompts
PAIRED_METHOD = "pca"  # the method that takes prompt i of one side with prompt i of the other
DEFAULT_METHODS = ("mean_diff", "probe", "gradient", RANDOM)  # those of an experiment file that names none
METHODS = (*DEFAULT_METHODS[:-1], PAIRED_METHOD, "lat", NEUTRAL_METHOD, RANDOM)
"""massact's own vector methods; `massact.vectors.methods` has a function for each. Others may be added."""

OPERATORS = ("add", "ablate", "clamp", "rotate", "replace")
"""massact's own operators; `massact.models.operators` has a function for each. Packages may add others."""
DEFAULT_OPERATOR = OPERATORS[0]

OWN_UNITS: Mapping[str, float] = {"ablate": 1.0, "rotate": 30.0, "replace": 1.0}
"""Operators whose coefficient is no length along the vector, but a share or degrees, so that it has no relative
strength; with the coefficient that a search begins with."""

EVERY_LAYER = "everylayer"
DEPTHS = (EVERY_LAYER, "rising", "falling", "triangle", "relative")
"""How a coefficient may lie over depth: one layer's vector at every layer with the same; or over several layers, each
with its own vector, up to the coefficient, down from it, up to it and down again, or so that relative strengths are
equal."""

IMPORTED = "imported_"
"""How the names of methods begin whose vectors another tool made: the experiment file says in which files they are."""

DEFAULT_COHERENCE_FLOOR = 68.0
"""The least `coherence_mean` at which a result counts, unless a question is asked with another."""

DEFAULT_LEAST_SCORED = 0.8
"""The least share of its responses that an evaluation or a baseline must have scores of to count, 0 to 1. What a judge
leaves unscored is no random part: of text that it cannot read it says nothing. Where a fifth is missing, 68 of the rest
still is 54 of all; where half is, it may be 34."""

LEAST_EFFECT = 10.0
"""Points of delta in the wanted direction below which a best coefficient is no more than the luckiest of many."""


def all_methods() -> tuple[str, ...]:
    """Every vector method, massact's own first."""
    return (*METHODS, *plugin_names("methods"))


def all_operators() -> tuple[str, ...]:
    """Every operator, massact's own first."""
    return (*OPERATORS, *plugin_names("operators"))


def is_method(name: str) -> bool:
    """Whether a vector method of that name is there: massact's, another package's, or vectors of another tool."""
    return name in METHODS or name.startswith(IMPORTED) or name in all_methods()


def floor_warning(floor: float) -> str | None:
    """What is to be said of a coherence floor that is probably meant as a share; `None`: nothing."""
    if getattr(floor, "metric", "coherence") != "coherence" or not 0 < floor <= 1:
        return None
    return (
        f"coherence floor {floor:g}: coherence runs from 0 to 100, so that this lets nearly everything through; "
        f"if a share is meant, write {floor * 100:g}"
    )


SearchMode = Literal["search", "scan"]
SEARCH_MODES: tuple[SearchMode, ...] = ("search", "scan")
"""`search`: only what the search asks for. `scan`: the declared coefficients first, so that a curve that is not
monotonic is seen whole, then the search from there."""

SearchStart = Literal["prior", "probe"]
SEARCH_STARTS: tuple[SearchStart, ...] = ("prior", "probe")
"""Where the first coefficients of a search come from: what is known before, or where short texts break."""

DEFAULT_BUDGET = 8  # evaluations that a search makes of one label at one layer at most
DEFAULT_TOLERANCE = 0.4  # a coefficient that is expected to gain fewer points than this is not tried

DEFAULT_SCREEN = 4  # questions after which a search gives up a hopeless cell
DEFAULT_CONFIDENCE = 0.99  # chance that it does not give up a cell which could still win

DEFAULT_SPOOL = ".massact/spool"  # folder of the spool unless another is named, under the working directory
DEFAULT_ALIKE = 0.9999
"""Cosine above which the vectors of two labels are alike and evaluated once, unless a command says another."""

COMPONENT = "residual"  # where activations are read and vectors added: the output of a decoder block

STEERED_TOKENS = "all"  # which tokens are steered: every token of prompt and response


TRAIT_INTERP_DIFFERS = (
    "figures that trait-interp made differ from ours by procedure too: it makes tokens anew of prompt and stripped "
    "continuation, so vectors of few tokens are others, and its batched generator goes on past the end of a turn "
    "(docs/data.md, 'Beside figures of trait-interp')"
)
"""What is said where its figures and ours stand side by side."""


@dataclass(frozen=True, slots=True, order=True)
class Cleaning:
    """What is done to massive dims."""

    when: When = "none"  # `before`: zeroed in the activations, then extracted; `after`: zeroed in the vector
    scope: Scope | None = None
    """`uniform`: one list for all layers; `layer`: each layer's own; `None` when nothing is cleaned."""
    n_dims: int | AllDims = 0  # how many dims, the most massive first; `"all"` of the list; 0 when nothing is cleaned
    mode: Mode | None = field(default=None, metadata=ADDED)
    """`keep`: all dims but those are zeroed; `winsorise`: activations are cut off at a quantile; `None`: those are."""
    quantile: float | None = field(default=None, metadata=ADDED)
    """Of |h| over the dims of an activation, between 0 and 1, where it is winsorised."""

    def __post_init__(self) -> None:
        if self.mode == "winsorise":
            others = (self.when, self.scope, self.n_dims)
            if others != ("before", None, 0) or self.quantile is None or not 0 < self.quantile < 1:
                raise ValueError(f"{self!r}: activations are winsorised before extraction, at a quantile, in all dims")
            return
        is_clean = self.when != "none"
        if is_clean != (self.scope is not None) or is_clean != (self.n_dims != 0):
            raise ValueError(f"{self!r}: a cleaning has a scope and n_dims, no cleaning has neither")
        if self.quantile is not None or (self.mode and not is_clean):
            raise ValueError(f"{self!r}: only what is winsorised has a quantile, and what keeps dims says which")
        if isinstance(self.n_dims, int) and self.n_dims < 0:
            raise ValueError(f"{self!r}: n_dims is negative")


NO_CLEANING = Cleaning()


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a label names: how a vector is made (method and cleaning), and how it steers. See `massact.labels`."""

    method: str
    cleaning: Cleaning = NO_CLEANING
    operator: str = field(default=DEFAULT_OPERATOR, metadata=ADDED)
    """What is done with the vector; see `massact.models.operators`."""
    n_layers: int = field(default=1, metadata=ADDED)  # how many layers are steered at once, each with its own vector
    tokens: str = field(default=STEERED_TOKENS, metadata=ADDED)
    """Which tokens are steered; see `massact.vectors.positions.parse_tokens`."""
    n_directions: int = field(default=1, metadata=ADDED)  # of `replace`: how many directions its subspace has
    depth: str | None = field(default=None, metadata=ADDED)
    """How the coefficient lies over depth, one of `DEPTHS`; `None`: the same at each of the layers."""
    decay: float | None = field(default=None, metadata=ADDED)
    """What is left of the change at each token of the response, a share of that at the one before; `None`: all."""
    gate: str | None = field(default=None, metadata=ADDED)
    """Name of the experiment file's gate that must be open to a prompt; `None`: every prompt is steered."""
    seed: int | None = field(default=None, metadata=ADDED)
    """Of a random direction, where it is another than the experiment's."""

    def __post_init__(self) -> None:
        if not is_method(self.method):
            raise ValueError(f"unknown method {self.method!r}; there are {', '.join(all_methods())}")
        if self.operator not in OPERATORS and self.operator not in all_operators():
            raise ValueError(f"unknown operator {self.operator!r}; there are {', '.join(all_operators())}")
        if self.n_layers < 1:
            raise ValueError(f"{self!r}: at least one layer is steered")

    @property
    def is_imported(self) -> bool:
        """Whether another tool made the vector."""
        return self.method.startswith(IMPORTED)

    @property
    def uncleaned(self) -> "Recipe":
        """The same with nothing cleaned."""
        return replace(self, cleaning=NO_CLEANING)

    @property
    def of_vector(self) -> "Recipe":
        """What its vector is made by, however that steers."""
        return Recipe(self.method, self.cleaning, seed=self.seed)


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which weights computed: enough to tell two models apart that share a name."""

    id: str  # hub id, or the name of a local folder
    revision: str
    """Commit of the hub's repository, or digest of a local folder's weights; then `+adapter:...` if it has one."""
    dtype: str  # the dtype the model computed in, such as `float32`; quantised weights are said too: `bfloat16+4bit`


@dataclass(frozen=True, slots=True)
class JudgeIdentity:
    """Who judged: two judges that could score one response differently differ here."""

    id: str  # the judge as the experiment file names it, such as `likelihood` or `openai:gpt-4.1-mini`
    model: str  # the judging model, with a digest where there is one
    prompt_digest: str  # digest of all that is asked of the judge: prompts, trait definition, formula version


@dataclass(frozen=True, slots=True)
class Generation:
    """How responses are generated."""

    max_new_tokens: int
    temperature: float = 0.0  # 0 is greedy
    seed: int = 0  # of the sampling; greedy generation does not depend on it


Message = tuple[str, str]  # role (`system`, `user` or `assistant`) and content


class Conversation(str):
    """A question of several messages, which a model is asked; as a text it is what judges and people read."""

    messages: tuple[Message, ...]  # the last is the user's

    def __new__(cls, messages: Iterable[Message]) -> "Conversation":
        messages = tuple(messages)
        self = super().__new__(cls, "\n\n".join(f"{role.title()}: {content}" for role, content in messages))
        self.messages = messages
        return self

    def __getnewargs__(self) -> tuple[Any]:
        return (self.messages,)


CHOICES = "choices"  # the judge of questions with two answers: nothing is generated for them, and nobody asked


class Choice(str):
    """A question with two answers, `(A)` and `(B)`, between which the model's own probabilities choose."""

    answers: tuple[str, str]  # that which matches the trait, and the other

    def __new__(cls, question: str, answers: tuple[str, str]) -> "Choice":
        self = super().__new__(cls, question)
        self.answers = answers
        return self

    def __getnewargs__(self) -> tuple[Any, ...]:
        return (str(self), self.answers)

    @property
    def orders(self) -> "tuple[Choice, Choice]":
        """As it stands, and with what stands behind `(A)` and `(B)` swapped. Raises ValueError: it has no such two."""
        found = _OPTIONS.fullmatch(self)
        if found is None or {*self.answers} != {"(A)", "(B)"}:
            raise ValueError("the question does not end with choices (A) and (B) that the answers name")
        stem, a, between, b, end = found.groups()
        return self, Choice(f"{stem}{b}{between}{a}{end}", self.answers[::-1])


_OPTIONS = re.compile(r"(.*\(A\)\s*)(.*?)(\s*\(B\)\s*)(.*?)(\s*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """The steering questions of a trait, or the first `subset` of them."""

    questions: tuple[str, ...] = field(repr=False)
    """The questions that are asked, the subset already taken; some may be a `Conversation`."""
    digest: str  # digest of the whole set, before the subset is taken
    subset: int  # how many of the set are asked; 0 is all


@dataclass(frozen=True, slots=True)
class Setting:
    """What a baseline and the evaluations compared with it share."""

    model: ModelIdentity
    trait: str
    trait_digest: str  # digest of the trait's contrastive prompts and definition
    questions_digest: str
    subset: int
    chat_template_digest: str
    generation: Generation
    judge: JudgeIdentity
    thinking: str | None = field(default=None, metadata=ADDED)
    """`off`, `on`, a number of tokens, or `always`: the chat template has no switch; `None`: it has no thoughts."""
    template_arguments: str | None = field(default=None, metadata=ADDED)
    """What the experiment file hands to the chat template besides, as canonical JSON."""


@dataclass(frozen=True, slots=True)
class Gate:
    """To which prompts steering is open: by the mean over a window of the unsteered prompt, against a condition vector
    (CAST, arXiv:2409.05907)."""

    layer: int
    position: str  # a window of the prompt
    threshold: float
    measure: Literal["projection", "cosine"] = "projection"  # of the mean on the condition vector, or between both
    opens: Literal["above", "below"] = "above"  # which side of the threshold is steered; the threshold itself is


@dataclass(frozen=True, slots=True)
class Steering:
    """What is done to the residual stream."""

    vector_digest: str
    """Of all that it steers by (`massact.vectors.steering`): the vector, or those of several layers, or more."""
    position: str  # position window the vector was extracted at, such as `response[:5]`
    recipe: Recipe
    layer: int  # decoder block whose output is steered, from 0; the first of several
    coefficient: float  # multiplies the unit vector, or what the recipe's operator makes of it
    direction: Direction
    component: str = COMPONENT
    operator_source: str | None = field(default=None, metadata=ADDED)
    """SHA-256 of the file that defines the operator, where that is one of the experiment's own."""
    weights: tuple[float, ...] = field(default=(), metadata=ADDED)
    """What the coefficient is multiplied by at each layer; empty: 1."""
    condition: Gate | None = field(default=None, metadata=ADDED)  # what the recipe's gate is; `None`: it has none
    steered_tokens: str = field(init=False)  # the recipe's tokens, which keys had a place for before recipes did

    def __post_init__(self) -> None:
        object.__setattr__(self, "steered_tokens", self.recipe.tokens)


@dataclass(frozen=True, slots=True)
class Prompting:
    """What stands before every question in a vector's place."""

    name: str  # `prompt` or `few_shot`; see `massact.sweep.winners`
    direction: Direction
    digest: str  # of its messages


@dataclass(frozen=True, slots=True)
class Cell:
    """One point of the experiment: everything that decides an evaluation's outcome."""

    setting: Setting
    steering: Steering | None  # `None` for the baseline: the same questions, unsteered
    prompting: Prompting | None = field(default=None, metadata=ADDED)  # `None`: the questions alone are asked

    @property
    def is_baseline(self) -> bool:
        """Whether others are compared with it."""
        return self.steering is None and self.prompting is None


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where a vector lies relative to the massive dims (uniform list) of its layer."""

    massive_energy: float  # share of the unit vector's squared norm in massive dims, 0 to 1
    cosine_to_uncleaned: float  # cosine with the same method's vector before any cleaning, -1 to 1
    relative_strength: float | None
    """coefficient x |v without massive dims| / mean |h without massive dims|; `None` where the coefficient is no
    length (`OWN_UNITS`)."""


@dataclass(frozen=True, slots=True)
class Response:
    """One question, the model's response and its scores."""

    question: str
    response: str
    trait: float | None  # judge's trait score, 0 to 100; `None` where unscored
    coherence: float | None  # judge's coherence score, 0 to 100; `None` where unscored
    reason: str | None = None  # why a score is missing
    thinking: str | None = None  # what the model thought before it answered; `None`: it did not
    is_answered: bool = True  # whether its thought ended, if it had one
    metrics: Mapping[str, float | None] = field(default_factory=dict, hash=False)
    """By name (`massact.metrics`); `None` where one has no value of it."""


@dataclass(frozen=True, slots=True)
class Coefficients:
    """Coefficients as they are asked for: as they are, or as relative strengths, which each vector has its own for."""

    values: tuple[float, ...]
    is_relative: bool = False  # whether the values are relative strengths (`Geometry.relative_strength`)

    def of(self, unit_strength: float) -> tuple[float, ...]:
        """The coefficients of a vector; those worked out have three digits, so that what is printed is what is used.
        `unit_strength`: relative strength of the vector at coefficient 1, above 0."""
        if not self.is_relative:
            return self.values
        return tuple(float(f"{value / unit_strength:.2e}") for value in self.values)

    def __str__(self) -> str:
        return ("relative:" if self.is_relative else "") + ",".join(f"{value:g}" for value in self.values)

    def __len__(self) -> int:
        return len(self.values)


STRENGTH_TOLERANCE = 0.0101
"""Share by which two relative strengths that were declared as one may differ, since coefficients are rounded."""


def is_same_strength(a: float, b: float) -> bool:
    """Whether two relative strengths may have been declared as one."""
    return math.isclose(a, b, rel_tol=STRENGTH_TOLERANCE)


@dataclass(frozen=True, slots=True)
class Timing:
    """What an evaluation cost. A cell that shared a batch carries its share of the batch's time."""

    generation_seconds: float
    judge_seconds: float
    n_tokens: int  # tokens generated, all questions together

    @property
    def tokens_per_second(self) -> float:
        return self.n_tokens / self.generation_seconds if self.generation_seconds > 0 else 0.0


@dataclass(frozen=True, slots=True, order=True)
class Group:
    """A cell group of the declared matrix: what `gaps` and `best` give one answer for."""

    model: str
    trait: str
    position: str
    label: str
