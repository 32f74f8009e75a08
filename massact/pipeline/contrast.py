"""Contrastive prompts continued by a model: what vectors are extracted from, and what a judge may vet."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from massact.errors import DataError
from massact.models.blocks import text_config
from massact.models.load import SteerableModel
from massact.models.prompting import decode, encode_chat, encode_text
from massact.pipeline.activations import Continued, continue_prompts
from massact.pipeline.dataset import TraitDataset
from massact.pipeline.progress import Progress, silent
from massact.pipeline.prompt_files import Prompt


@dataclass(frozen=True, slots=True)
class Contrast:
    """Prompts of both sides, the positive one first, and how the model continued them."""

    prompts: tuple[Prompt, ...] = field(repr=False)
    n_positive: int
    texts: tuple[Continued, ...] = field(repr=False)
    """What activations are read from, in tokens."""
    continuations: tuple[str, ...] = field(repr=False)
    """The same as text."""
    judged: tuple[str, ...] | None = field(repr=False, default=None)
    """What a judge reads of each continuation: it may go on further; `None` where none is asked."""

    @property
    def sides(self) -> tuple[range, range]:
        """Which prompts are positive, and which negative."""
        return range(self.n_positive), range(self.n_positive, len(self.prompts))


def continue_contrast(
    model: SteerableModel,
    dataset: TraitDataset,
    *,
    max_new_tokens: int,
    judged_tokens: int | None = None,
    progress: Progress = silent,
) -> Contrast:
    """Continue a trait's prompts greedily.

    Args:
        max_new_tokens: tokens of each continuation that activations are read from.
        judged_tokens: tokens that a judge reads, which may be more; `None`: no judge is asked.

    Raises:
        DataError: a prompt is too long for the model; the message names file and line.
    """
    prompts = encode_prompts(model, dataset)
    longest = max(max_new_tokens, judged_tokens or 0)
    _check_lengths(model, dataset, prompts, longest)
    whole = continue_prompts(
        model, prompts, longest, what="continuing contrastive prompts", progress=progress
    )
    texts = tuple(Continued(one.prompt, one.response[:max_new_tokens]) for one in whole)
    judged = (
        None if judged_tokens is None else tuple(decode(model, one.response[:judged_tokens]) for one in whole)
    )
    return Contrast(
        dataset.prompts,
        len(dataset.positive),
        texts,
        tuple(decode(model, one.response) for one in texts),
        judged,
    )


def encode_prompts(model: SteerableModel, dataset: TraitDataset) -> list[tuple[int, ...]]:
    """Tokens of both sides' prompts, the positive side's first.

    Without system prompts every prompt is plain text that the model goes on with, also where it has a chat
    template. Where any prompt has a system prompt, all are put into the chat template, so that the template
    is no difference between the sides; a model without one reads the system prompt, a blank line and the
    prompt.
    """
    if not dataset.has_system_prompts:
        return [encode_text(model, prompt.text) for prompt in dataset.prompts]
    return [encode_chat(model, prompt.text, prompt.system) for prompt in dataset.prompts]


def _check_lengths(
    model: SteerableModel, dataset: TraitDataset, prompts: Sequence[tuple[int, ...]], n_new: int
) -> None:
    limit = getattr(text_config(model.model), "max_position_embeddings", None)
    if not isinstance(limit, int):
        return
    for i, tokens in enumerate(prompts):
        if len(tokens) + n_new > limit:
            file = dataset.files[i >= len(dataset.positive)]
            raise DataError(
                f"{dataset.folder / file}, {dataset.prompts[i].place}: a prompt of {len(tokens)} tokens and a "
                f"continuation of {n_new} are more than the {limit} positions of {model.identity.id}: shorten it"
            )
