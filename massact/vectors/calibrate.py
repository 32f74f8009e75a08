"""Calibration: which dims are massive at each layer, read from neutral prompts and the responses to them."""

from collections.abc import Callable, Sequence

import torch

from massact.errors import DataError
from massact.evaluation import Progress, silent
from massact.models.load import SteerableModel
from massact.models.prompting import encode_chat
from massact.vectors.massive_dims import Calibration, LayerMassive, uniform_dims
from massact.vectors.streams import Continued, StreamReader, check_finite, continue_prompts, read_streams


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
    encoded = sorted((encode_chat(model, prompt) for prompt in prompts), key=len)
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
