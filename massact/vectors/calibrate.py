"""Calibration: which dims are massive at each layer, at every token and at the first one, from neutral prompts."""

from collections.abc import Callable, Mapping, Sequence

import torch

from massact.errors import DataError
from massact.evaluation import Progress, silent
from massact.models.load import SteerableModel
from massact.models.prompting import encode_chat
from massact.vectors.massive_dims import Calibration, LayerMassive, Magnitudes, find_sink, uniform_dims
from massact.vectors.streams import Continued, StreamReader, check_finite, continue_prompts, read_streams


def calibrate(
    model: SteerableModel, prompts: Sequence[str], *, max_new_tokens: int, n_top: int, progress: Progress = silent
) -> Calibration:
    """Find massive dims over the response tokens of neutral prompts, and beside them those of the first token.
    Two passes: the first finds the dims, the second measures the norm without them. Sums are kept in float64, since
    bf16's step at 32,000 is 256 and a massive dim would drown the rest.
    Raises DataError: no prompt got a response, or the activations are not finite."""
    encoded = sorted((encode_chat(model, prompt) for prompt in prompts), key=len)
    texts = continue_prompts(model, encoded, max_new_tokens, what="answering calibration prompts", progress=progress)
    if not any(text.response for text in texts):
        raise DataError("calibration: every response is empty; check the model and its chat template")
    sums = {kind: _Sums(model) for kind in _TOKENS}
    _read(model, texts, {kind: total.add for kind, total in sums.items()}, "finding massive dims", progress)
    means = sums["response"].stream / sums["response"].n
    for layer, mean in enumerate(means):
        check_finite(mean, layer, model)
    top = [tuple(mean.abs().topk(min(n_top, len(mean))).indices.tolist()) for mean in means]
    dims, without = list(uniform_dims(top)), torch.zeros(len(top), dtype=torch.float64)

    def add_without(layer: int, tokens: torch.Tensor) -> None:
        tokens[:, dims] = 0
        without[layer] += tokens.norm(dim=1).sum()

    _read(model, texts, {"response": add_without}, "measuring norms without massive dims", progress)
    layers = tuple(_layer(means[i], top[i], sums, float(without[i]), i) for i in range(len(top)))
    return Calibration(layers, len(prompts), sums["response"].n)


_TOKENS: dict[str, Callable[[Continued], slice]] = {
    "response": lambda text: slice(len(text.prompt), len(text.tokens)),
    "prompt": lambda text: slice(1, len(text.prompt)),
    "first": lambda _text: slice(0, 1),
}
"""Where in a text the tokens of each kind are."""


class _Sums:
    """Sums over tokens of one kind, per layer, in float64."""

    def __init__(self, model: SteerableModel) -> None:
        shape = model.shape
        self.stream = torch.zeros(shape.n_layers, shape.d_model, dtype=torch.float64)
        self.directions, self.magnitudes, self.largest = (torch.zeros_like(self.stream) for _ in range(3))
        self.norms = torch.zeros(shape.n_layers, dtype=torch.float64)
        self.n = 0

    def add(self, layer: int, tokens: torch.Tensor) -> None:
        """`tokens`: `[n_tokens, d_model]`, float64."""
        norms, magnitudes = tokens.norm(dim=1), tokens.abs()
        self.stream[layer] += tokens.sum(0)
        self.directions[layer] += (tokens / norms.clamp_min(1e-30)[:, None]).sum(0)
        self.magnitudes[layer] += magnitudes.sum(0)
        self.largest[layer] = self.largest[layer].maximum(magnitudes.amax(0))
        self.norms[layer] += norms.sum()
        self.n += len(tokens) * (layer == 0)

    def at(self, layer: int, dims: Sequence[int] | None = None, n_top: int = 0) -> Magnitudes | None:
        """What was summed at a layer, of these dims or the largest; `None` where there was no token."""
        if not self.n:
            return None
        mean = self.magnitudes[layer] / self.n
        chosen = list(mean.topk(n_top).indices.tolist() if dims is None else dims)
        means, largest = (tuple(values[chosen].tolist()) for values in (mean, self.largest[layer]))
        return Magnitudes(tuple(chosen), means, largest, float(mean.median()), float(self.norms[layer] / self.n))


def _read(
    model: SteerableModel,
    texts: Sequence[Continued],
    add: Mapping[str, Callable[[int, torch.Tensor], None]],
    what: str,
    progress: Progress,
) -> None:
    def on_batch(batch: Sequence[Continued]) -> StreamReader:
        def read(layer: int, stream: torch.Tensor) -> None:
            for kind, take in add.items():
                taken = torch.cat([stream[i, _TOKENS[kind](text)] for i, text in enumerate(batch)])
                if len(taken):
                    take(layer, taken.cpu().double())

        return read

    with progress(what, len(texts)) as advance:
        for n in read_streams(model, texts, on_batch):
            advance(n)


def _layer(
    mean: torch.Tensor, top: tuple[int, ...], sums: Mapping[str, _Sums], norm_without: float, layer: int
) -> LayerMassive:
    every, first = sums["response"], sums["first"]
    magnitudes = mean.abs()
    alignment = every.directions[layer] / every.n @ (mean / mean.norm().clamp_min(1e-30))
    response = every.at(layer, top)
    assert response is not None
    return LayerMassive(
        top_dims=top,
        ratio_to_median=tuple((magnitudes[list(top)] / magnitudes.median()).tolist()),
        ratio_to_mean=tuple((magnitudes[list(top)] / magnitudes.mean()).tolist()),
        mean_alignment=float(alignment),
        norm=response.norm,
        norm_without_massive=norm_without / every.n,
        response=response,
        prompt=sums["prompt"].at(layer, n_top=len(top)),
        first=first.at(layer, n_top=len(top)),
        sink_dims=find_sink(
            (first.magnitudes[layer] / first.n).tolist(), (every.magnitudes[layer] / every.n).tolist(), response.median
        ),
    )
