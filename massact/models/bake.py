"""Interventions written into a model's weights, where they can be, so that any program steers by loading them.

    add      h + c v after block L: c v is added to the bias of the last matrix that writes to the stream there.
    ablate   h - v v.h everywhere: v is taken out of all that writes to the stream, embeddings, matrices and biases
             (weight orthogonalisation, Arditi et al. 2024, arXiv:2406.11717).

What comes of it is held against hooks before anything is saved, so that an architecture that scales or norms what its
blocks write is refused, whatever it is called.
"""

import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from massact.errors import UsageError
from massact.models.blocks import record, steer, text_config
from massact.models.decode import edits_of
from massact.models.load import SteerableModel
from massact.models.prompting import Intervention, Row

_WRITERS = re.compile(r"c_proj|dense(_4h_to_h)?|down_proj|fc2|fc_out|lin2|o_proj|out_lin|out_proj|w2|wo")
"""How matrices are called whose output is added to the stream."""
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
_ROUGH = 0.05  # greatest difference of logits, as a share of the greatest logit; in dtypes of 16 bits the other


@dataclass(frozen=True, slots=True)
class Baked:
    """How the logits of a baked model differ, as shares of the greatest logit."""

    from_weights: float  # from those of the same model with hooks where the weights were changed
    from_evaluated: float
    """From those of the intervention as it is evaluated, at the outputs of decoder blocks: a direction that is taken
    out of all that writes to the stream is read nowhere, between attention and MLP neither."""


def why_not(intervention: Intervention, n_blocks: int) -> str | None:
    """Why an intervention cannot be written into any weights; `None`: it may be."""
    if intervention.gate is not None or not intervention.is_everywhere:
        return "weights act on every token of every prompt alike, and it has a gate, a decay or tokens of its own"
    if intervention.operator not in ("add", "ablate"):
        return f"{intervention.operator} is no sum of what the blocks write: add and ablate can be baked"
    vectors = intervention.vector.reshape(-1, intervention.vector.shape[-1])
    is_everywhere = len(vectors) == n_blocks and bool((vectors == vectors[0]).all())
    if intervention.operator == "ablate" and (intervention.coefficient != 1 or not is_everywhere):
        return (
            "what earlier layers wrote passes by a layer's weights, so that a direction is taken out everywhere and "
            "wholly, or not at all: +ablate+everylayer with coefficient 1 can be baked"
        )
    return None


@torch.inference_mode()
def bake(model: SteerableModel, intervention: Intervention, prompts: Sequence[tuple[int, ...]]) -> Baked:
    """Write an intervention into a model's weights, in memory. `prompts`: what the logits are compared on. Raises
    UsageError: it cannot be, or the architecture has no place for it; the weights may be changed in part."""
    reason = why_not(intervention, len(model.blocks))
    if "+" in model.identity.dtype or "+adapter:" in model.identity.revision:
        reason = "the weights are quantised, or have an adapter that is not merged in"
    if reason is not None:
        raise UsageError(f"it cannot be baked: {reason}")
    edits = edits_of([Row((0,), intervention)], model.device)
    with steer(model.blocks, dict(edits)):
        hooked = evaluated = _logits(model, prompts)
    if intervention.operator == "add":
        for layer in intervention.layers:
            _add(model, layer, intervention.coefficient_at(layer) * intervention.at(layer))
    else:
        hooked = _ablate(model, intervention.at(0).float().to(model.device), prompts)
    baked = _logits(model, prompts)
    found = Baked(_difference(baked, hooked), _difference(baked, evaluated))
    left = _left(model, intervention.at(0).float(), prompts) if intervention.operator == "ablate" else 0.0
    if max(found.from_weights, left) > _TOLERANCE.get(model.model.dtype, _ROUGH):
        raise UsageError(
            f"it cannot be baked into {type(model.model).__name__}, whose blocks norm, scale or mix what they write: "
            f"logits differ by {found.from_weights:.2g} of the greatest from those with hooks"
            + (f", and {left:.2g} of a stream still is along the direction" if left else "")
        )
    return found


def _add(model: SteerableModel, layer: int, vector: torch.Tensor) -> None:
    """Add a vector `[d_model]` to the bias that is added last to the stream in a block."""
    config, width = text_config(model.model), model.shape.d_model
    if getattr(config, "mlp_bias", None) is False:  # it takes biases there, and has none yet
        config.mlp_bias = True
        for mlp in (block.get_submodule("mlp") for block in model.blocks):
            for part in mlp.modules():
                if isinstance(part, nn.Linear):
                    part.bias = nn.Parameter(part.weight.new_zeros(part.out_features), requires_grad=False)
    last = [part for part in _matrices(model.blocks[layer]) if _width(part) == width][-1:]
    if not last or last[0].bias is None:
        raise UsageError(
            f"it cannot be baked into {type(model.model).__name__}: decoder block {layer} ends in no matrix with a "
            "bias, and its configuration has no place for one; export the vector instead (massact vectors export)"
        )
    last[0].bias.add_(vector.to(last[0].bias))


def _matrices(module: nn.Module) -> list[Any]:
    """Matrices and embeddings that write to the stream, by their names, in the model's order."""
    named = ((name.rpartition(".")[2], part) for name, part in module.named_modules())
    return [part for name, part in named if _WRITERS.fullmatch(name) and isinstance(part, nn.Linear | Conv1D)]


def _width(part: Any) -> int:
    return int(part.weight.shape[1] if isinstance(part, Conv1D | nn.Embedding) else part.weight.shape[0])


def _writers(model: SteerableModel) -> list[Any]:
    decoder: Any = model.model.get_decoder() if hasattr(model.model, "get_decoder") else model.model
    embeddings = [part for part in decoder.modules() if isinstance(part, nn.Embedding)]
    parts = [*embeddings, *(part for block in model.blocks for part in _matrices(block))]
    return [part for part in parts if _width(part) == model.shape.d_model]


def _ablate(model: SteerableModel, vector: torch.Tensor, prompts: Sequence[tuple[int, ...]]) -> list[torch.Tensor]:
    """Take a unit vector out of all that writes to the stream; the logits with hooks that do so before."""

    def hook(_module: nn.Module, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        return (output.float() - (output.float() @ vector)[..., None] * vector).to(output.dtype)

    writers = _writers(model)
    with ExitStack() as hooks:
        for part in writers:
            hooks.enter_context(part.register_forward_hook(hook))
        hooked = _logits(model, prompts)
    head, embedding = model.model.get_output_embeddings(), model.model.get_input_embeddings()
    if head is not None and head.weight is embedding.weight:  # the head's stay as they are
        head.weight = nn.Parameter(head.weight.clone(), requires_grad=False)
        for config in (model.model.config, text_config(model.model)):
            config.tie_word_embeddings = False
    for part in writers:
        for name, weight in part.named_parameters(recurse=False):
            is_input_first = name == "bias" or isinstance(part, Conv1D | nn.Embedding)
            rows = weight.float() if is_input_first else weight.float().T
            rows = rows - (rows @ vector)[..., None] * vector
            weight.copy_(rows if is_input_first else rows.T)
    return hooked


def _logits(model: SteerableModel, prompts: Sequence[tuple[int, ...]]) -> list[torch.Tensor]:
    """Of every token of each prompt, `[n_tokens, vocabulary]`, float32 on the CPU."""
    return [model.model(torch.tensor([prompt], device=model.device)).logits[0].float().cpu() for prompt in prompts]


def _difference(found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> float:
    largest = max(float(logits.abs().max()) for logits in expected)
    return max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True)) / largest


def _left(model: SteerableModel, vector: torch.Tensor, prompts: Sequence[tuple[int, ...]]) -> float:
    """The greatest share of a token's stream that lies along a direction after any block."""
    shares: list[float] = []

    def read(_layer: int, stream: torch.Tensor) -> None:
        along = stream.float() @ vector.to(stream.device)
        shares.append(float((along.abs() / stream.float().norm(dim=-1)).max()))

    with record(model.blocks, read):
        _logits(model, prompts)
    return max(shares)
