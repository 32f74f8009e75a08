"""Models, vectors and evaluations from Python: the commands' own functions, for a notebook (docs/python.md)."""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict, Unpack, overload

import torch

from massact.addresses import resolve_tracking_uri
from massact.api import question
from massact.cli.session import open_session
from massact.config import AdapterConfig, CalibrationConfig, ChatConfig, LoadConfig
from massact.config.judges import ATTENTION, DEVICE_MAPS, DTYPES, QUANTIZATION
from massact.data.prompt_files import Prompt
from massact.data.traits import TraitDataset, load_prompts
from massact.domain import DEFAULT_SPOOL, PAIRED_METHOD, Direction, Gate, Generation, all_operators
from massact.errors import StoreError, UsageError
from massact.labels import format_layers, parse_label
from massact.models.generate import Generator, Intervention, Row
from massact.models.load import ModelShape, SteerableModel, load_model, model_lock
from massact.models.prompting import encode_chat, encode_text, read_response
from massact.models.thinking import generate_thinking
from massact.query.load import find_experiment_file
from massact.query.questions.runs import RunRow
from massact.query.rows import Answer
from massact.sweep.planner import Overrides
from massact.vectors.activations import split_sides
from massact.vectors.calibrate import calibrate
from massact.vectors.extract import make_vectors, read_contrast, read_neutral
from massact.vectors.massive_dims import Calibration, check_cleaning
from massact.vectors.positions import Position, parse_position, parse_tokens
from massact.vectors.streams import Continued, Reading, continue_and_read, window_means
from massact.workflow.steered import stored_intervention
from massact.workflow.steps import Request, run_evaluate

__all__ = ["Intervention", "Model", "evaluate", "extract"]

_ALLOWED = {
    "dtype": DTYPES, "device_map": DEVICE_MAPS, "attention": ATTENTION, "quantization": QUANTIZATION,
    "direction": ("positive", "negative"), "save_responses": ("all", "best", "none"),
}  # fmt: skip
_UNIT = 0.01  # by how much a norm may differ from 1: what bfloat16 rounds away and more


class Loading(TypedDict, total=False):
    """How weights are loaded, as `massact.config.LoadConfig` has it."""

    dtype: str
    device: str
    device_map: str
    attention: str
    quantization: str
    trust_remote_code: bool


class Model:
    """A model whose activations are recorded and steered. `Model.load` makes one."""

    def __init__(self, steerable: SteerableModel) -> None:
        self.steerable = steerable
        """The model as every part of massact takes it; `.model` and `.tokenizer` are transformers' own."""
        self._generator = Generator(steerable)

    @classmethod
    def load(
        cls,
        reference: str,
        *,
        revision: str | None = None,
        adapter: str | None = None,
        thinking: str | None = None,
        **loading: Unpack[Loading],
    ) -> "Model":
        """Load a model for steering.

        Args:
            reference: hub id, local folder, GGUF file or `toy:<name>`.
            revision: commit, tag or branch of a hub repository.
            adapter: hub id or folder of a LoRA adapter.
            thinking: `off`, `on`, or the tokens after which a thought is ended; `None`: off where there is a switch.
            loading: `dtype` (default: the checkpoint's), `device` (a GPU where there is one) and more (docs/models.md).

        Raises:
            ModelError: it cannot be found or steered, or an option cannot be met.
            UsageError: an option has a value that does not exist.
        """
        _check_names("Model.load", loading, Loading)
        _check_allowed(loading)
        options = LoadConfig(**loading, chat=ChatConfig(thinking))
        attached = None if adapter is None else AdapterConfig(adapter)
        return cls(load_model(reference, revision=revision, adapter=attached, options=options))

    def __repr__(self) -> str:
        named = f"{self.steerable.identity.id}, {self.steerable.identity.dtype}"
        return f"<Model {named}: n_layers={self.shape.n_layers}, d_model={self.shape.d_model}>"

    @property
    def shape(self) -> ModelShape:
        """`n_layers` and `d_model`."""
        return self.steerable.shape

    def record(
        self,
        prompts: Sequence[str],
        positions: str | Sequence[str] = "response[:5]",
        *,
        max_new_tokens: int | None = None,
        chat: bool = False,
    ) -> torch.Tensor:
        """Continue prompts greedily, and average the residual stream over a window, as an extraction does.

        Args:
            positions: a window such as `prompt[-1]`, or several (docs/glossary.md).
            max_new_tokens: tokens of a continuation; `None`: as many as the windows read.
            chat: whether prompts are put into the chat template; else they are texts to go on with.

        Returns:
            `[n_prompts, n_layers, d_model]`, or `[n_positions, n_prompts, n_layers, d_model]` of several windows:
            float32 on the CPU, NaN where a window holds no token. Layer L is the output of decoder block L, from 0.

        Raises:
            UsageError: a window is none, or has no end and `max_new_tokens` is not given.
            DataError: an activation is not finite.
        """
        windows = [parse_position(position) for position in _listed(positions)]
        if not windows:
            raise UsageError("no window to read: name one, such as response[:5]")
        n_new, encoded = _n_new(windows, max_new_tokens), self._encoded(prompts, chat=chat)
        with model_lock(self.steerable.model):
            if n_new:
                means = continue_and_read(self.steerable, encoded, Reading(windows, n_new, n_new))[1]
            else:
                means = window_means(self.steerable, [Continued(tokens, ()) for tokens in encoded], windows)
        return means[0] if isinstance(positions, str) else means

    def calibrate(self, prompts: Sequence[str] | None = None) -> Calibration:
        """Find massive dims, which cleaned labels need: `.uniform_dims`, and of each of `.layers` norm and top dims.

        Args:
            prompts: neutral questions; `None`: massact's own, in English.
        """
        config = CalibrationConfig()
        neutral = load_prompts(config.prompts) if prompts is None else _texts(prompts)
        with model_lock(self.steerable.model):
            return calibrate(self.steerable, neutral, max_new_tokens=config.max_new_tokens, n_top=config.n_top)

    def stored(self, run_id: str, *, tracking_uri: str | None = None) -> Intervention:
        """What a stored evaluation of this model did, such as that of `massact.best(…).rows[0].run_id`.

        Raises:
            UsageError: the run is no finished evaluation with a vector, or another model's.
        """
        return stored_intervention(self.steerable, run_id, resolve_tracking_uri(tracking_uri))[1]

    @overload
    def generate(
        self, prompts: Sequence[str], interventions: Intervention | None = None, *, chat: bool = True,
        max_new_tokens: int = 64, temperature: float = 0.0, seed: int = 0,
    ) -> list[str]: ...  # fmt: skip
    @overload
    def generate(
        self, prompts: Sequence[str], interventions: Sequence[Intervention | None], *, chat: bool = True,
        max_new_tokens: int = 64, temperature: float = 0.0, seed: int = 0,
    ) -> list[list[str]]: ...  # fmt: skip
    def generate(
        self,
        prompts: Sequence[str],
        interventions: Intervention | Sequence[Intervention | None] | None = None,
        *,
        chat: bool = True,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[str] | list[list[str]]:
        """Responses to every prompt under every intervention; all of them are rows of shared batches.

        Args:
            interventions: one, or several of which each gets all prompts; `None` is the unsteered model.
            chat: whether prompts are put into the chat template; else they are texts to go on with.
            temperature: 0 is greedy.

        Returns:
            A response for each prompt; of several interventions a list of these for each.

        Raises:
            UsageError: an intervention that this model cannot have.
            NotFiniteError: the logits of some rows were not finite.
        """
        if max_new_tokens < 1:
            raise UsageError(f"max_new_tokens {max_new_tokens}: a response has 1 token or more")
        if not 0 <= temperature < math.inf:
            raise UsageError(f"temperature {temperature} is not a number of at least 0")
        each = list(interventions) if isinstance(interventions, Sequence) else [interventions]
        checked = [intervention if intervention is None else self._checked(intervention) for intervention in each]
        encoded = list(enumerate(self._encoded(prompts, chat=chat)))
        rows = [Row(prompt, intervention, draw) for intervention in checked for draw, prompt in encoded]
        settings = Generation(max_new_tokens, temperature, seed)
        with model_lock(self.steerable.model):
            said = generate_thinking(self.steerable, self._generator, rows, settings)
        texts = [read_response(self.steerable, tokens, is_chat=chat)[1] or "" for tokens in said]
        n = len(encoded)
        return [texts[i * n : (i + 1) * n] for i in range(len(each))] if isinstance(interventions, Sequence) else texts

    def _encoded(self, prompts: Sequence[str], *, chat: bool) -> list[tuple[int, ...]]:
        encode = encode_chat if chat else encode_text
        return [encode(self.steerable, prompt) for prompt in _texts(prompts)]

    def _checked(self, intervention: Intervention) -> Intervention:
        """The intervention, if this model can have it."""
        if not isinstance(intervention, Intervention):
            raise UsageError(f"{intervention!r} is no massact.Intervention, and not None, which is the unsteered model")
        vector, shape = torch.as_tensor(intervention.vector).detach().float().cpu(), self.shape
        is_replace = intervention.operator == "replace"
        if vector.ndim not in ((3,) if is_replace else (1, 2)) or not len(vector) or vector.shape[-1] != shape.d_model:
            wanted = "[n_layers, k + 2, {0}]" if is_replace else "[{0}], or [n_layers, {0}] for layers from this one on"
            raise UsageError(f"a vector of shape {list(vector.shape)}: it is {wanted.format(shape.d_model)}")
        checked = replace(intervention, vector=vector, tokens=parse_tokens(intervention.tokens))
        if intervention.layer < 0 or checked.layers[-1] >= shape.n_layers:
            named = format_layers(checked.layers) if intervention.layer >= 0 else intervention.layer
            raise UsageError(f"layer {named}: the model has layers 0 to {shape.n_layers - 1}")
        norms = vector.norm(dim=-1)
        if not is_replace and not bool(((norms - 1).abs() < _UNIT).all()):
            raise UsageError(
                f"a vector of length {norms.max():.4g}: the coefficient multiplies a unit vector. Give "
                "vector / vector.norm(), and the length within the coefficient"
            )
        if len(intervention.weights) not in (0, len(checked.layers)) or not 0 < intervention.decay <= 1:
            raise UsageError(
                f"weights {intervention.weights}, decay {intervention.decay}: a weight for each layer, a decay above 0 "
                "to 1"
            )
        if (intervention.gate is None) != (intervention.condition is None):
            raise UsageError("a gate and its condition vector belong together")
        if intervention.gate is not None:
            checked = replace(checked, condition=self._condition(intervention.gate, intervention.condition))
        if not math.isfinite(intervention.coefficient):
            raise UsageError(f"coefficient {intervention.coefficient} is not a finite number")
        if intervention.operator not in all_operators():
            raise UsageError(f"no operator {intervention.operator!r}; there are {', '.join(all_operators())}")
        return checked

    def _condition(self, gate: Gate, condition: object) -> torch.Tensor:
        """The condition vector of a gate, if this model can have both."""
        vector, is_layer = torch.as_tensor(condition).detach().float().cpu(), 0 <= gate.layer < self.shape.n_layers
        is_way = gate.measure in ("projection", "cosine") and gate.opens in ("above", "below")
        is_prompt = parse_position(gate.position).frame == "prompt"
        if vector.shape != (self.shape.d_model,) or not (
            is_layer and is_way and is_prompt and gate.threshold < math.inf
        ):
            raise UsageError(
                f"{gate}, condition of shape {list(vector.shape)}: a gate holds a window of the prompt, such as "
                f"prompt[-1], at a layer 0 to {self.shape.n_layers - 1} against a condition [{self.shape.d_model}] "
                "and a number, by projection or cosine, and opens above or below"
            )
        return vector


def extract(  # noqa: PLR0913  # what a notebook has to say
    model: Model,
    positive: Sequence[str],
    negative: Sequence[str],
    label: str = "mean_diff",
    *,
    position: str = "response[:5]",
    max_new_tokens: int | None = None,
    calibration: Calibration | None = None,
    neutral: Sequence[str] = (),
) -> torch.Tensor:
    """Unit vectors from contrastive prompts, which the model goes on with, as `massact extract` makes them.

    Args:
        model: the one that vectors come from, usually the base model.
        positive: beginnings of text whose continuation shows the trait.
        negative: beginnings whose continuation does not.
        label: method and cleaning, such as `probe` or `mean_diff_top1` (docs/glossary.md).
        position: window over which activations are averaged.
        max_new_tokens: as of `Model.record`.
        calibration: of the model that is steered, by `Model.calibrate`; only cleaned labels need it.
        neutral: prompts that ask for nothing of the trait; only `mean_centred` needs them.

    Returns:
        `[n_layers, d_model]`, float32, each of unit length.

    Raises:
        UsageError: the label is none, or cleans and there is no calibration.
        DataError: too few prompts have a window, or a vector has no direction.
    """
    recipe, window = parse_label(label).of_vector, parse_position(position)
    if recipe.is_imported:
        raise UsageError(f"{label}: another tool's vectors are imported, not extracted (docs/vectors.md)")
    if calibration is None and recipe.cleaning.scope:
        raise UsageError(f"{label} cleans massive dims: give calibration=model.calibrate() of the steered model")
    if calibration is not None:
        check_cleaning(recipe, len(calibration.uniform_dims))
    sides = (tuple(map(Prompt, _texts(positive))), tuple(map(Prompt, _texts(negative))))
    dataset, n_new = TraitDataset(Path("prompts"), *sides, "", ()), max(1, _n_new([window], max_new_tokens))
    with model_lock(model.steerable.model):
        rows = read_contrast(model.steerable, dataset, [window], max_new_tokens=n_new)[1][window]
        how: Any = {"is_chat": False, "max_new_tokens": n_new}
        neutral_rows = read_neutral(model.steerable, _texts(neutral), [window], **how)[window] if neutral else None
    is_paired = recipe.method == PAIRED_METHOD and len(positive) == len(negative)
    sides_of = (rows[: len(positive)], rows[len(positive) :])
    activations = split_sides(*sides_of, 0.0, is_paired=is_paired, neutral=neutral_rows)
    (made,) = make_vectors([recipe], activations, calibration, seed=0).values()
    return made.vectors


class Evaluating(TypedDict, total=False):
    """What else `evaluate` takes, as `massact evaluate` has it."""

    model: str  # of the experiment file; default: its first, likewise the trait
    trait: str
    max_new_tokens: int
    subset: int
    direction: Direction
    judge: str
    tracking_uri: str
    save_responses: str  # `all`, `best` or `none`
    batch_rows: int
    alike: float | None
    """Cosine above which the vectors of two labels are evaluated once; `None`: each is evaluated itself."""
    force: bool


def evaluate(
    experiment: str | Path,
    labels: str | Sequence[str],
    position: str,
    *,
    layers: str | int | Sequence[int] | None = None,
    coefficients: str | float | Sequence[float] | None = None,
    **options: Unpack[Evaluating],
) -> Answer[RunRow]:
    """Evaluate a grid as `massact evaluate` does: the same cells under the same keys, in the same run store.

    Args:
        experiment: file, or its bare name under `experiments/` or here.
        labels: such as `probe_cleaned` or `imported_lab`.
        position: window that the vectors were extracted at.
        layers: a number, numbers, or as text `5-20` or `30%-60%`; `None`: the file's, likewise the coefficients.
        coefficients: a number, numbers, or as text `relative:0.4,0.6`.

    Returns:
        The evaluations, new ones and those that were there; `.rows`, `.to_frame()`. One that failed says why.

    Raises:
        UsageError: something cannot be as it was asked for; nothing was evaluated.
        StoreError: the run store does not take the results; they are kept, and `massact sync` sends them.
    """
    _check_names("evaluate", options, Evaluating)
    told: dict[str, Any] = dict(options)
    _check_allowed(told)
    overrides = Overrides(**{name: told.pop(name, None) for name in ("max_new_tokens", "subset", "direction")})
    model, trait = told.pop("model", None), told.pop("trait", None)
    uri = resolve_tracking_uri(told.pop("tracking_uri", None))
    told.setdefault("spool", Path(os.environ.get("MASSACT_SPOOL") or DEFAULT_SPOOL))
    session = open_session(str(find_experiment_file(experiment)), uri, **told)
    session.show = lambda _table: None
    declared = session.experiment
    place = (
        declared.model(model) if model else declared.models[0],
        declared.trait(trait) if trait else declared.traits[0],
    )
    where, steps = (None if option is None else ",".join(_listed(option)) for option in (layers, coefficients))
    request = Request.of(place, _listed(labels), position, where, steps, overrides)
    try:
        _, keys = run_evaluate(session, request)
        n_left = session.stores.close()
    except BaseException as error:
        session.stores.close_after(error)
        raise
    if n_left:
        raise StoreError(f"{n_left} evaluations wait in {told['spool']}: massact sync tells why, and sends them")
    answer: Answer[RunRow] = question("runs").ask(declared.file, {"tracking_uri": uri, "all_settings": True}, {})
    return replace(answer, rows=tuple(row for row in answer.rows if row.key in keys))


def _check_allowed(options: Mapping[str, Any]) -> None:
    for name, allowed in _ALLOWED.items():
        if (value := options.get(name)) not in (None, *allowed):
            raise UsageError(f"{name} {value!r} is not allowed; write {' or '.join(allowed)}")


def _texts(prompts: Sequence[str]) -> Sequence[str]:
    if isinstance(prompts, str):
        raise UsageError("prompts are a list of texts, and this is one text: write [prompt]")
    if wrong := [prompt for prompt in prompts if not isinstance(prompt, str)]:
        raise UsageError(f"prompts are a list of texts, and {wrong[0]!r} is none")
    return prompts


def _check_names(function: str, told: Mapping[str, Any], allowed: type) -> None:
    if unknown := told.keys() - allowed.__annotations__.keys():
        there = ", ".join(allowed.__annotations__)
        raise TypeError(f"massact.{function} takes no {min(unknown)!r}; besides what it names there are {there}")


def _listed(value: object) -> list[str]:
    """One value or several, as texts."""
    return [str(item) for item in value] if isinstance(value, Iterable) and not isinstance(value, str) else [str(value)]


def _n_new(windows: Sequence[Position], asked: int | None) -> int:
    """Tokens that prompts are continued by, for windows over them."""
    needed = [window.n_response_tokens for window in windows]
    if asked is None and None in needed:
        raise UsageError(
            f"{windows[needed.index(None)]} has no end: say how long a continuation is with max_new_tokens"
        )
    return max(n or 0 for n in needed) if asked is None else asked
