"""Extraction: contrastive prompts are continued by the base model, vetted by a judge, read, and made into vectors."""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from massact.data.prompt_files import Prompt
from massact.data.traits import TraitDataset
from massact.domain import NEUTRAL_METHOD, AllDims, Cleaning, Recipe, Scope, When
from massact.errors import DataError
from massact.evaluation import Progress, silent
from massact.judges import Exchange, Judge, Verdict
from massact.labels import format_label
from massact.models.load import SteerableModel
from massact.models.prompting import decode, encode_chat, encode_text, read_response
from massact.vectors.activations import Activations, Dropped, PromptStatus, pair_up
from massact.vectors.massive_dims import Calibration
from massact.vectors.methods import ProbeDidNotConvergeWarning, Separation, clean, extract_vector, normalise, separation
from massact.vectors.positions import Position
from massact.vectors.streams import Continued, Reading, continue_and_read


@dataclass(frozen=True, slots=True)
class Contrast:
    """Prompts of both sides, the positive one first, and how the model continued them."""

    prompts: tuple[Prompt, ...] = field(repr=False)
    n_positive: int
    texts: tuple[Continued, ...] = field(repr=False)  # what activations are read from, in tokens
    continuations: tuple[str, ...] = field(repr=False)  # the same as text
    judged: tuple[str | None, ...] | None = field(repr=False, default=None)
    """What a judge reads of each continuation: it may go on further; `None` where none is asked."""

    @property
    def sides(self) -> tuple[range, range]:
        """Which prompts are positive, and which negative."""
        return range(self.n_positive), range(self.n_positive, len(self.prompts))


def read_contrast(
    model: SteerableModel,
    dataset: TraitDataset,
    positions: Sequence[Position] = (),
    *,
    max_new_tokens: int,
    judged_tokens: int | None = None,
    kept: Path | None = None,
    progress: Progress = silent,
) -> tuple[Contrast, dict[Position, torch.Tensor]]:
    """Continue a trait's prompts greedily, and read activations at each window.
    Where windows lie in prompts alone, and no judge is asked, nothing is continued.
    `max_new_tokens`: tokens of each continuation that activations are read from. `judged_tokens`: tokens that a judge
    reads, which may be more; `None`: no judge is asked. `kept`: folder that each batch is kept in, and taken from where
    it is there; `None`: nothing is kept.
    Returns the contrast, and of each window `[n_prompts, n_layers, d_model]`, NaN where it holds no token.
    Raises DataError: a prompt is too long for the model; the message names file and line."""
    is_chat = dataset.is_chat
    prompts = encode_prompts(model, dataset.prompts, is_chat=is_chat)
    longest = max(max_new_tokens, judged_tokens or 0)
    if judged_tokens is None and {position.frame for position in positions} == {"prompt"}:
        longest = 0
    _check_lengths(model, dataset, prompts, longest)
    wanted = Reading(positions, max_new_tokens, longest)
    whole, means = continue_and_read(model, prompts, wanted, kept=kept, progress=progress)
    texts = tuple(Continued(continuation.prompt, continuation.response[:max_new_tokens]) for continuation in whole)
    judged = (
        None
        if judged_tokens is None
        else tuple(
            read_response(model, continuation.response[:judged_tokens], is_chat=is_chat)[1] for continuation in whole
        )
    )
    continuations = tuple(decode(model, text.response) for text in texts)
    contrast = Contrast(dataset.prompts, len(dataset.positive), texts, continuations, judged)
    return contrast, dict(zip(positions, means, strict=True))


def read_neutral(
    model: SteerableModel,
    texts: Sequence[str],
    positions: Sequence[Position],
    *,
    is_chat: bool,
    max_new_tokens: int,
    progress: Progress = silent,
) -> dict[Position, torch.Tensor]:
    """Activations `[n_texts, n_layers, d_model]` of neutral prompts at each window, as `read_contrast` reads others."""
    prompts = encode_prompts(model, [Prompt(text) for text in texts], is_chat=is_chat)
    wanted = Reading(positions, max_new_tokens, max_new_tokens)
    return dict(zip(positions, continue_and_read(model, prompts, wanted, progress=progress)[1], strict=True))


def encode_prompts(model: SteerableModel, prompts: Sequence[Prompt], *, is_chat: bool) -> list[tuple[int, ...]]:
    """Tokens of a trait's prompts.
    Without system prompts and answers every prompt is plain text that the model goes on with, also where it has a chat
    template. Where any prompt of a trait has one, all are put into the chat template, so that the template is no
    difference between the sides; a model without one reads the system prompt, a blank line and the prompt."""
    if not is_chat:
        return [encode_text(model, prompt.text) for prompt in prompts]
    return [encode_chat(model, prompt.text, prompt.system, answer=prompt.answer) for prompt in prompts]


def _check_lengths(
    model: SteerableModel, dataset: TraitDataset, prompts: Sequence[tuple[int, ...]], n_new: int
) -> None:
    limit = model.shape.max_positions
    for i, tokens in enumerate(prompts):
        if limit and len(tokens) + n_new > limit:
            file = dataset.files[i >= len(dataset.positive)]
            raise DataError(
                f"{dataset.folder / file}, {dataset.prompts[i].place}: a prompt of {len(tokens)} tokens and a "
                f"continuation of {n_new} are more than the {limit} positions of {model.identity.id}: shorten it"
            )


@dataclass(frozen=True, slots=True)
class LabelVectors:
    """One label's vectors at every layer."""

    recipe: Recipe
    vectors: torch.Tensor
    """`[n_layers, d_model]`, float32, each of unit L2 norm; zero where the sides agree in all dims that are kept."""
    separations: tuple[Separation, ...]  # how well each layer's vector tells the validation split apart
    unconverged_layers: tuple[int, ...] = ()  # layers whose probe reached its last iteration


def declared_recipes(
    methods: Iterable[str], uniform_dims: Sequence[int | AllDims], layer_dims: Sequence[int | AllDims]
) -> tuple[Recipe, ...]:
    """Every method, uncleaned and with each cleaning, before and after."""
    lists: tuple[tuple[Scope, Sequence[int | AllDims]], ...] = (("uniform", uniform_dims), ("layer", layer_dims))
    whens: tuple[When, ...] = ("after", "before")
    cleanings = [Cleaning()] + [Cleaning(w, scope, n) for scope, dims in lists for n in dims for w in whens]
    return tuple(Recipe(method, cleaning) for method in methods for cleaning in cleanings)


def make_vectors(
    recipes: Sequence[Recipe],
    activations: Activations,
    calibration: Calibration | None,
    *,
    seed: int,
    progress: Progress = silent,
) -> dict[str, LabelVectors]:
    """Vectors of every recipe at every layer, by label. Cleaning after starts from the uncleaned vector, so a probe is
    fitted once for all of them. `calibration`: tells the massive dims; `None`: nothing is cleaned."""
    making = _Making(activations, calibration, seed)
    made: dict[str, LabelVectors] = {}
    with progress("making vectors", len(recipes)) as advance:
        for recipe in recipes:
            made[format_label(recipe)] = making.label_vectors(recipe)
            advance(1)
    return made


@dataclass(frozen=True, slots=True)
class _Making:
    activations: Activations
    calibration: Calibration | None
    seed: int
    uncleaned: dict[tuple[str, int], torch.Tensor] = field(default_factory=dict)  # by label and layer

    def label_vectors(self, recipe: Recipe) -> LabelVectors:
        vectors, separations, unconverged = [], [], []
        for layer in range(self.activations.train.shape[1]):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", ProbeDidNotConvergeWarning)
                vector = self._vector(recipe, layer)
            if any(issubclass(warning.category, ProbeDidNotConvergeWarning) for warning in caught):
                unconverged.append(layer)
            vectors.append(vector)
            sides = self.activations.sides(layer), self.activations.validation_sides(layer)
            separations.append(separation(vector, *sides))
        return LabelVectors(recipe, torch.stack(vectors), tuple(separations), tuple(unconverged))

    def _vector(self, recipe: Recipe, layer: int) -> torch.Tensor:
        try:
            return self.vector(recipe, layer)
        except DataError as error:
            if recipe.cleaning.mode == "keep":  # both sides may agree in a few dims
                return torch.zeros_like(self._vector(recipe.uncleaned, layer))
            raise DataError(f"{format_label(recipe)} at layer {layer}: {error}") from error

    def vector(self, recipe: Recipe, layer: int) -> torch.Tensor:
        positive, negative = self.activations.sides(layer)
        if recipe.method == NEUTRAL_METHOD:
            negative = self.activations.neutral_at(layer)
        dims = self.calibration.dims(recipe.cleaning, layer) if self.calibration else ()
        seed = (self.seed if recipe.seed is None else recipe.seed) * 1000 + layer
        if recipe.cleaning.when == "before":
            return extract_vector(recipe, positive, negative, dims=dims, seed=seed)
        place = (format_label(recipe.uncleaned), layer)
        if place not in self.uncleaned:
            uncleaned = extract_vector(recipe.uncleaned, positive, negative, dims=(), seed=seed)
            self.uncleaned[place] = uncleaned
        return clean_after(self.uncleaned[place], recipe.cleaning, dims)


def clean_after(vector: torch.Tensor, cleaning: Cleaning, dims: Sequence[int]) -> torch.Tensor:
    """A unit vector `[d_model]` cleaned, and the norm restored; itself where it has nothing to clean."""
    return normalise(clean(vector, cleaning, dims)) if dims or cleaning.mode else vector


_BATCH = 64  # continuations handed to the judge at a time, so that one sees how far it is


@dataclass(frozen=True, slots=True)
class Vetting:
    """What a judge found of a contrast."""

    verdicts: tuple[Verdict, ...] = field(repr=False)  # one per prompt, the positive side's first
    dropped: tuple[Dropped, Dropped] = field(repr=False)
    """Of each side's prompts: why vetting leaves it out, `None` where it does not."""


def vet(
    contrast: Contrast,
    judge: Judge,
    *,
    positive_at_least: float,
    negative_at_most: float,
    paired: bool,
    progress: Progress = silent,
) -> Vetting:
    """Have every continuation scored, and decide which prompts are left out.
    A judge reads the prompt without its system prompt, which would tell it what to expect. Only the trait score counts.
    A continuation without one is left out as unscored: missing is neither a pass nor a zero.
    `positive_at_least`: trait score, 0 to 100, that a positive prompt's continuation needs. `negative_at_most`: trait
    score, 0 to 100, that a negative prompt's continuation may have. `paired`: whether prompt i of both sides is left
    out where either is.
    Raises ValueError: the contrast holds no text for a judge; DataError: pairs are wanted of sides that differ in
    length; JudgeError: the judge cannot be used at all."""
    if contrast.judged is None:
        raise ValueError("this contrast was continued without a judge in mind")
    positive, negative = contrast.sides
    if paired and len(positive) != len(negative):
        raise DataError(f"{len(positive)} positive and {len(negative)} negative prompts are no pairs")
    exchanges = [
        Exchange(prompt.text, text or "", is_answered=text is not None)
        for prompt, text in zip(contrast.prompts, contrast.judged, strict=True)
    ]
    verdicts = _score(judge, exchanges, progress)
    dropped = (
        [_why(verdicts[i], lowest=positive_at_least) for i in positive],
        [_why(verdicts[i], highest=negative_at_most) for i in negative],
    )
    if paired:
        dropped = pair_up(*dropped)
    return Vetting(tuple(verdicts), dropped)


def _score(judge: Judge, exchanges: Sequence[Exchange], progress: Progress) -> list[Verdict]:
    verdicts: list[Verdict] = []
    with progress("vetting continuations", len(exchanges)) as advance:
        for start in range(0, len(exchanges), _BATCH):
            batch = exchanges[start : start + _BATCH]
            verdicts += judge.score(batch)
            advance(len(batch))
    return verdicts


def _why(verdict: Verdict, *, lowest: float = 0.0, highest: float = 100.0) -> PromptStatus | None:
    if verdict.trait is None:
        return PromptStatus.UNSCORED
    return None if lowest <= verdict.trait <= highest else PromptStatus.FAILED
