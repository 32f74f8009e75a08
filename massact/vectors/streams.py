"""Continuing prompts, and reading the residual stream of what the model made of them."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from massact.domain import Generation
from massact.errors import DataError
from massact.evaluation import Advance, Progress, silent
from massact.models.blocks import record, text_config
from massact.models.cache import RowCache, measure_memory
from massact.models.decode import begin, end_tokens, finish, is_end, pad, responses
from massact.models.generate import Generator, NotFiniteError, Row, generate
from massact.models.load import SteerableModel
from massact.models.support import reading_arguments, sharing_of
from massact.vectors.positions import Position

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
        rows, settings = [Row(prompt) for prompt in prompts], Generation(max_new_tokens)
        responses = generate(model, rows, settings, batch_rows=BATCH_ROWS, progress=advance)
    return [Continued(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]


@torch.inference_mode()
def read_streams(
    model: SteerableModel, texts: Sequence[Continued], on_batch: Callable[[Sequence[Continued]], StreamReader]
) -> Iterator[int]:
    """Run the model over whole texts, batch by batch, handing each layer's stream to a reader. `on_batch`: called with
    a batch's texts, returns the reader that is then called with each layer's stream `[batch, seq, d_model]`. Texts are
    right-padded: token i of a text is at index i. Yields how many texts a batch has finished."""
    for batch in _batches(model, texts):
        tokens, mask = pad([text.tokens for text in batch], model.device, "right")
        with record(model.blocks, on_batch(batch)):
            model.model(input_ids=tokens, **reading_arguments(model.model, mask))
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


def window_means(model: SteerableModel, texts: Sequence[Continued], positions: Sequence[Position]) -> torch.Tensor:
    """Activations of every layer averaged over each window, accumulated in float32. Returns `[n_positions, n_texts,
    n_layers, d_model]`, float32 on the CPU; NaN where a window holds no token. Raises DataError: an activation is not
    finite; the model overflows in its dtype."""
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

    for n in read_streams(model, texts, on_batch):
        done += n
    return means


def check_finite(mean: torch.Tensor, layer: int, model: SteerableModel) -> None:
    """Raises DataError: the mean of a layer's activations is not finite; the model overflows in its dtype."""
    if not torch.isfinite(mean).all():
        raise DataError(
            f"activations of layer {layer} are not finite: {model.identity.id} overflows in {model.identity.dtype}; "
            "use another dtype (bfloat16 or float32)"
        )


# Extraction: a batch at a time, shortest prompts first, each kept as soon as it is read.

_Read = tuple[list[tuple[int, ...]], torch.Tensor]
"""Of a batch: what was said, and the means `[n_positions, n_prompts, n_layers, d_model]`."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What is wanted of prompts: continuations, and means over windows of their first tokens."""

    positions: Sequence[Position]
    n_read: int  # tokens of a continuation that windows cover
    n_new: int  # tokens of a continuation: as many, or more; 0: the prompts alone are read


def continue_and_read(
    model: SteerableModel,
    prompts: Sequence[tuple[int, ...]],
    wanted: Reading,
    *,
    kept: Path | None = None,
    progress: Progress = silent,
) -> tuple[list[Continued], torch.Tensor]:
    """Continue prompts greedily, and average activations over each window.
    `kept`: folder that each batch is kept in, and taken from where it is there; `None`: nothing is kept.
    Returns the whole continuations, and `[n_positions, n_prompts, n_layers, d_model]`, float32 on the CPU; NaN where a
    window holds no token.
    Raises DataError: an activation is not finite; the model overflows in its dtype."""
    shape = model.shape
    means = torch.full((len(wanted.positions), len(prompts), shape.n_layers, shape.d_model), torch.nan)
    said: dict[int, tuple[int, ...]] = {}
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), prompts[i]))
    generator = Generator(model)  # one for all: a GPU's recorded steps are kept in it
    n_steps = max(wanted.n_new, 1)
    what = "continuing prompts, in tokens" if wanted.n_new else "reading prompts"
    with progress(what, len(prompts) * n_steps) as advance:
        for start in range(0, len(order), BATCH_ROWS):
            batch = order[start : start + BATCH_ROWS]
            file = kept / f"{start}-{len(batch)}.safetensors" if kept is not None else None
            read, left = _kept(file), len(batch) * n_steps
            if read is None:
                rows = [Row(prompts[i]) for i in batch]
                if _is_recordable(model, rows, wanted):
                    read, n_done = _record_while_continuing(model, rows, wanted, advance)
                    left -= n_done
                else:
                    read = _read_afterwards(model, rows, wanted, generator)
                _keep(file, read)
            tokens, means[:, batch] = read
            said |= dict(zip(batch, tokens, strict=True))
            advance(left)
    return [Continued(prompt, said[i]) for i, prompt in enumerate(prompts)], means


def _is_recordable(model: SteerableModel, rows: Sequence[Row], wanted: Reading) -> bool:
    """Whether activations can be read while the rows are continued, and need no second pass."""
    n_new = wanted.n_new + 1
    return (
        model.device.type == "cpu"  # a GPU repeats recorded steps, in which nothing can be read
        and all(position.frame == "response" for position in wanted.positions)
        and sharing_of(model.model).allows(len(rows[-1].prompt) + n_new)
        and measure_memory(model, None).fitting(rows, n_new) == len(rows)
    )


@torch.inference_mode()
def _record_while_continuing(
    model: SteerableModel, rows: Sequence[Row], wanted: Reading, advance: Advance
) -> tuple[_Read, int]:
    """A batch, and how many tokens `advance` was told."""
    # the last token is read by choosing one more
    settings = Generation(wanted.n_new + (wanted.n_read == wanted.n_new))
    width, shape, n_done = len(rows[-1].prompt), model.shape, 0
    streams = torch.zeros(len(rows), wanted.n_read, shape.n_layers, shape.d_model)
    batch = begin(model, rows, settings, RowCache(text_config(model.model), len(rows), width + settings.max_new_tokens))

    def read(layer: int, stream: torch.Tensor) -> None:
        nonlocal n_done
        token = int(batch.positions[0, 0]) - len(rows[int(batch.live[0])].prompt)
        if token < wanted.n_read:
            streams[batch.live, token, layer] = stream[:, 0].float()
        if layer == 0:
            n_done += len(rows)
            advance(len(rows))

    if not bool(is_end(batch.chosen, end_tokens(model)).all()):
        with record(model.blocks, read):
            finish(model, batch, settings)
    said = responses(model, batch.written)
    if None in said:
        raise NotFiniteError(model, rows, said)
    tokens = [ids[: wanted.n_new] for ids in said if ids is not None]
    means = torch.full((len(wanted.positions), len(rows), shape.n_layers, shape.d_model), torch.nan)
    for p, position in enumerate(wanted.positions):
        for i, ids in enumerate(tokens):
            if window := position.tokens(0, min(len(ids), wanted.n_read)):
                means[p, i] = streams[i, window.start : window.stop].mean(0)
                for layer, mean in enumerate(means[p, i]):
                    check_finite(mean, layer, model)
    return (tokens, means), n_done


def _read_afterwards(model: SteerableModel, rows: Sequence[Row], wanted: Reading, generator: Generator) -> _Read:
    nothing: list[tuple[int, ...]] = [()] * len(rows)
    tokens = generator.generate(rows, Generation(wanted.n_new)) if wanted.n_new else nothing
    texts = [Continued(row.prompt, ids[: wanted.n_read]) for row, ids in zip(rows, tokens, strict=True)]
    return tokens, window_means(model, texts, wanted.positions)


def _keep(file: Path | None, read: _Read) -> None:
    if file is None:
        return
    tokens, means = read
    ends = torch.tensor([len(ids) for ids in tokens]).cumsum(0)
    flat = torch.tensor([token for ids in tokens for token in ids], dtype=torch.long)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    save_file({"tokens": flat, "ends": ends, "means": means}, partial)
    os.replace(partial, file)


def _kept(file: Path | None) -> _Read | None:
    """A batch that was kept; `None` where it was not, or cannot be read."""
    try:
        if file is None or not file.is_file():
            return None
        found = load_file(file)
    except (OSError, SafetensorError):
        return None
    ends = [0, *found["ends"].tolist()]
    tokens = found["tokens"].tolist()
    return [tuple(tokens[a:b]) for a, b in pairwise(ends)], found["means"]
