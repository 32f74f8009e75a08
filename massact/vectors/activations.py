"""Reading activations: prompts are continued and read, and each is for training, for validation or left out."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch

from massact.domain import Generation
from massact.errors import DataError
from massact.evaluation import Progress, silent
from massact.models.blocks import record
from massact.models.generate import Row, generate
from massact.models.load import SteerableModel
from massact.models.prompting import encode_chat
from massact.models.support import reading_arguments, sharing_of
from massact.vectors.massive_dims import Calibration, LayerMassive, uniform_dims
from massact.vectors.positions import Position

MIN_TRAIN = 2
"""Training prompts that a side needs at least."""


class PromptStatus(StrEnum):
    """What became of a prompt at one window."""

    TRAIN = "train"
    VALIDATION = "validation"
    FAILED = "failed vetting"
    UNSCORED = "unscored"
    PAIR = "pair dropped"
    """The other prompt of its pair was left out."""
    NO_WINDOW = "no token in the window"


LEFT_OUT = (PromptStatus.FAILED, PromptStatus.UNSCORED, PromptStatus.PAIR, PromptStatus.NO_WINDOW)
PromptStatuses = tuple[PromptStatus, ...]
Dropped = Sequence[PromptStatus | None]
"""Of one side's prompts: why each was left out so far, `None` where it was not."""
_ADVICE = {
    PromptStatus.FAILED: "lower extraction.vetting.positive_at_least or raise negative_at_most, or write clearer "
    "prompts",
    PromptStatus.UNSCORED: "see what the judge makes of plain texts (massact judge-check)",
    PromptStatus.PAIR: "use extraction.vetting.filter: independent",
    PromptStatus.NO_WINDOW: "use a wider window or more prompts, since continuations ended before the position window",
}


def decide_statuses(
    dropped: tuple[Dropped, Dropped],
    has_window: tuple[Sequence[bool], Sequence[bool]],
    validation_split: float,
    *,
    paired: bool = False,
) -> tuple[PromptStatuses, PromptStatuses]:
    """The fate of every prompt of the positive and the negative side.

    Of what is kept the last share of each side is for validation, so that pairs stay together as long as
    both sides keep as many prompts.

    Args:
        dropped: what vetting left out.
        has_window: whether a prompt's window holds a token.
        validation_split: share of each side, 0 to 0.5.
        paired: whether prompt i of one side is left out with prompt i of the other.

    Raises:
        DataError: fewer than two training prompts remain on a side; the message says what fell by what.
    """
    first, second = (
        [why or (None if there else PromptStatus.NO_WINDOW) for why, there in zip(*one, strict=True)]
        for one in zip(dropped, has_window, strict=True)
    )
    if paired:
        first, second = pair_up(first, second)
    positive, negative = _split(first, validation_split), _split(second, validation_split)
    if min(positive.count(PromptStatus.TRAIN), negative.count(PromptStatus.TRAIN)) < MIN_TRAIN:
        raise DataError(_too_few(positive, negative))
    return positive, negative


def pair_up(
    positive: Dropped, negative: Dropped
) -> tuple[list[PromptStatus | None], list[PromptStatus | None]]:
    """Leave out what belongs to something that is left out."""
    return _with_partner(positive, negative), _with_partner(negative, positive)


def _with_partner(side: Dropped, others: Dropped) -> list[PromptStatus | None]:
    return [why or (PromptStatus.PAIR if other else None) for why, other in zip(side, others, strict=True)]


def _split(side: Dropped, validation_split: float) -> PromptStatuses:
    n_kept = sum(why is None for why in side)
    n_train = n_kept - round(n_kept * validation_split)
    fates, n_seen = [], 0
    for why in side:
        fates.append(why or (PromptStatus.TRAIN if n_seen < n_train else PromptStatus.VALIDATION))
        n_seen += why is None
    return tuple(fates)


def _too_few(positive: PromptStatuses, negative: PromptStatuses) -> str:
    counts = Counter(
        (side, fate) for side, fates in (("positive", positive), ("negative", negative)) for fate in fates
    )
    fell = [
        f"{counts['positive', fate]} positive and {counts['negative', fate]} negative: {fate}"
        for fate in LEFT_OUT
        if counts["positive", fate] or counts["negative", fate]
    ]
    advice = [text for fate, text in _ADVICE.items() if counts["positive", fate] or counts["negative", fate]]
    n_train = [side.count(PromptStatus.TRAIN) for side in (positive, negative)]
    return (
        f"{n_train[0]} positive and {n_train[1]} negative prompts remain for training, two of each are needed (of "
        f"{len(positive)} and {len(negative)}; left out: {'; '.join(fell) or 'none'}). What helps: "
        f"{'; '.join(advice) or 'more prompts'}"
    )


BATCH_ROWS, FEW_ROWS = 32, 4

StreamReader = Callable[[int, torch.Tensor], None]


@dataclass(frozen=True, slots=True)
class Continued:
    """A prompt and what the model made of it, in tokens."""

    prompt: tuple[int, ...]
    response: tuple[int, ...]

    @property
    def tokens(self) -> tuple[int, ...]:
        return self.prompt + self.response


@dataclass(frozen=True, slots=True)
class Activations:
    """Activations of contrastive prompts averaged over one position window."""

    train: torch.Tensor
    """`[n_train, n_layers, d_model]`, float32, the positive side's rows first."""
    validation: torch.Tensor
    """`[n_validation, n_layers, d_model]`, float32, the positive side's rows first."""
    n_train_positive: int
    n_validation_positive: int
    n_dropped: int
    """Prompts left out: their window held no token, or vetting dropped them."""

    def sides(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Training activations of the positive and the negative side at a layer, `[n, d_model]` each."""
        rows = self.train[:, layer]
        return rows[: self.n_train_positive], rows[self.n_train_positive :]

    def validation_sides(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The same of the validation split."""
        rows = self.validation[:, layer]
        return rows[: self.n_validation_positive], rows[self.n_validation_positive :]


def continue_prompts(
    model: SteerableModel,
    prompts: Sequence[tuple[int, ...]],
    max_new_tokens: int,
    *,
    what: str,
    progress: Progress = silent,
) -> list[Continued]:
    """Greedy continuations of tokenised prompts."""
    with progress(what, len(prompts)) as advance:
        responses = generate(
            model,
            [Row(prompt) for prompt in prompts],
            Generation(max_new_tokens),
            batch_rows=BATCH_ROWS,
            progress=advance,
        )
    return [Continued(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]


@torch.inference_mode()
def read_streams(
    model: SteerableModel, texts: Sequence[Continued], on_batch: Callable[[Sequence[Continued]], StreamReader]
) -> Iterator[int]:
    """Run the model over whole texts, batch by batch, handing each layer's stream to a reader.

    Args:
        on_batch: called with a batch's texts, returns the reader that is then called with each layer's
            stream `[batch, seq, d_model]`. Texts are right-padded: token i of a text is at index i.

    Yields:
        How many texts a batch has finished.
    """
    for batch in _batches(model, texts):
        width = max(len(text.tokens) for text in batch)
        tokens = torch.zeros(len(batch), width, dtype=torch.long)
        mask = torch.zeros(len(batch), width, dtype=torch.long)
        for i, text in enumerate(batch):
            tokens[i, : len(text.tokens)] = torch.tensor(text.tokens)
            mask[i, : len(text.tokens)] = 1
        with record(model.blocks, on_batch(batch)):
            model.model(
                input_ids=tokens.to(model.device),
                **reading_arguments(model.model, mask.to(model.device)),
            )
        yield len(batch)


def _batches(model: SteerableModel, texts: Sequence[Continued]) -> Iterator[Sequence[Continued]]:
    """The texts, in order; only of one length together where the model might take notice of padding."""
    shared, start = sharing_of(model.model), 0
    while start < len(texts):
        batch = texts[start : start + BATCH_ROWS]
        lengths = [len(text.tokens) for text in batch]
        if not shared.allows(max(lengths)):  # few, since all their logits are computed as well
            batch = batch[: next((i for i, n in enumerate(lengths[:FEW_ROWS]) if n != lengths[0]), FEW_ROWS)]
        yield batch
        start += len(batch)


def window_means(
    model: SteerableModel,
    texts: Sequence[Continued],
    positions: Sequence[Position],
    *,
    what: str,
    progress: Progress = silent,
) -> torch.Tensor:
    """Activations of every layer averaged over each window, accumulated in float32.

    Returns:
        `[n_positions, n_texts, n_layers, d_model]`, float32 on the CPU; NaN where a window holds no token.

    Raises:
        DataError: an activation is not finite; the model overflows in its dtype.
    """
    shape = model.shape
    means = torch.full((len(positions), len(texts), shape.n_layers, shape.d_model), torch.nan)
    done = 0

    def on_batch(batch: Sequence[Continued]) -> StreamReader:
        start = done
        windows = [[p.tokens(len(text.prompt), len(text.tokens)) for text in batch] for p in positions]

        def read(layer: int, stream: torch.Tensor) -> None:
            for p, rows in enumerate(windows):
                for i, window in enumerate(rows):
                    if len(window):
                        mean = stream[i, window.start : window.stop].float().mean(0).cpu()
                        # NaN marks windows without a token, so an overflow must not look like one
                        check_finite(mean, layer, model)
                        means[p, start + i, layer] = mean

        return read

    with progress(what, len(texts)) as advance:
        for n in read_streams(model, texts, on_batch):
            done += n
            advance(n)
    return means


def check_finite(mean: torch.Tensor, layer: int, model: SteerableModel) -> None:
    """See that the mean of a layer's activations is finite.

    Raises:
        DataError: it is not; the model overflows in its dtype.
    """
    if not torch.isfinite(mean).all():
        raise DataError(
            f"activations of layer {layer} are not finite: {model.identity.id} overflows in {model.identity.dtype}; "
            "use another dtype (bfloat16 or float32)"
        )


def split_sides(
    positive: torch.Tensor,
    negative: torch.Tensor,
    validation_split: float,
    *,
    statuses: tuple[PromptStatuses, PromptStatuses] | None = None,
) -> Activations:
    """Leave out prompts without a window, and keep the last share of each side for validation.

    Args:
        positive: `[n, n_layers, d_model]`, NaN rows where the window held no token.
        negative: the same of the other side.
        validation_split: share of each side, 0 to 0.5.
        statuses: what becomes of each prompt, where that is decided already.

    Raises:
        DataError: fewer than two training prompts remain on a side.
    """
    sides = (positive, negative)
    if statuses is None:
        nothing = [None] * len(positive), [None] * len(negative)
        statuses = decide_statuses(nothing, (has_window(positive), has_window(negative)), validation_split)
    train, validation = (
        [side[[status is part for status in own]] for side, own in zip(sides, statuses, strict=True)]
        for part in (PromptStatus.TRAIN, PromptStatus.VALIDATION)
    )
    n_kept = sum(len(rows) for rows in (*train, *validation))
    return Activations(
        train=torch.cat(train).contiguous(),
        validation=torch.cat(validation).contiguous(),
        n_train_positive=len(train[0]),
        n_validation_positive=len(validation[0]),
        n_dropped=len(positive) + len(negative) - n_kept,
    )


def has_window(rows: torch.Tensor) -> list[bool]:
    """Whether each prompt's window held a token: `rows` is `[n, n_layers, d_model]`, NaN where it did not."""
    found: list[bool] = (~rows.isnan().flatten(1).any(dim=1)).tolist()
    return found


# Calibration: which dims are massive at each layer, read from the responses to neutral prompts.


def calibrate(
    model: SteerableModel,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    n_top: int,
    progress: Progress = silent,
) -> Calibration:
    """Find massive dims over the response tokens of neutral prompts.

    Two passes: the first finds the dims, the second measures the norm without them. Sums are kept in
    float64, since bf16's step at 32,000 is 256 and a massive dim would drown the rest.

    Raises:
        DataError: no prompt got a response, or the activations are not finite.
    """
    encoded = [encode_chat(model, prompt) for prompt in prompts]
    texts = continue_prompts(
        model, encoded, max_new_tokens, what="answering calibration prompts", progress=progress
    )
    n_tokens = sum(len(text.response) for text in texts)
    if n_tokens == 0:
        raise DataError("calibration: every response is empty; check the model and its chat template")
    sums = _Sums(model)
    _read(model, texts, sums.add, "finding massive dims", progress)
    means = sums.stream / n_tokens
    for layer, mean in enumerate(means):
        check_finite(mean, layer, model)
    top = [tuple(mean.abs().topk(min(n_top, len(mean))).indices.tolist()) for mean in means]
    without = _NormsWithout(model, uniform_dims(top))
    _read(model, texts, without.add, "measuring norms without massive dims", progress)
    layers = tuple(_layer(means[i], top[i], sums, without, i, n_tokens) for i in range(len(top)))
    return Calibration(layers, len(prompts), n_tokens)


class _Sums:
    """Sums over tokens, per layer, in float64."""

    def __init__(self, model: SteerableModel) -> None:
        shape = model.shape
        self.stream = torch.zeros(shape.n_layers, shape.d_model, dtype=torch.float64)
        self.directions = torch.zeros_like(self.stream)
        self.norms = torch.zeros(shape.n_layers, dtype=torch.float64)

    def add(self, layer: int, tokens: torch.Tensor) -> None:
        """`tokens`: `[n_tokens, d_model]`, float64."""
        norms = tokens.norm(dim=1)
        self.stream[layer] += tokens.sum(0)
        self.directions[layer] += (tokens / norms.clamp_min(1e-30)[:, None]).sum(0)
        self.norms[layer] += norms.sum()


class _NormsWithout:
    """Sum over tokens, per layer, of the norm without some dims."""

    def __init__(self, model: SteerableModel, dims: Sequence[int]) -> None:
        self.norms = torch.zeros(model.shape.n_layers, dtype=torch.float64)
        self._dims = list(dims)

    def add(self, layer: int, tokens: torch.Tensor) -> None:
        tokens[:, self._dims] = 0
        self.norms[layer] += tokens.norm(dim=1).sum()


def _read(
    model: SteerableModel,
    texts: Sequence[Continued],
    add: Callable[[int, torch.Tensor], None],
    what: str,
    progress: Progress,
) -> None:
    def on_batch(batch: Sequence[Continued]) -> StreamReader:
        def read(layer: int, stream: torch.Tensor) -> None:
            taken = [stream[i, len(text.prompt) : len(text.tokens)] for i, text in enumerate(batch)]
            add(layer, torch.cat(taken).cpu().double())

        return read

    with progress(what, len(texts)) as advance:
        for n in read_streams(model, texts, on_batch):
            advance(n)


def _layer(
    mean: torch.Tensor, top: tuple[int, ...], sums: _Sums, without: _NormsWithout, layer: int, n_tokens: int
) -> LayerMassive:
    magnitudes = mean.abs()
    alignment = sums.directions[layer] / n_tokens @ (mean / mean.norm().clamp_min(1e-30))
    return LayerMassive(
        top_dims=top,
        ratio_to_median=tuple((magnitudes[list(top)] / magnitudes.median()).tolist()),
        ratio_to_mean=tuple((magnitudes[list(top)] / magnitudes.mean()).tolist()),
        mean_alignment=float(alignment),
        norm=float(sums.norms[layer] / n_tokens),
        norm_without_massive=float(without.norms[layer] / n_tokens),
    )
