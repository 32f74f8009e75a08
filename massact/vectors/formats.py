"""Steering vectors as the files of other tools: each adds the same to the same activations (docs/vectors.md).

What is written is the coefficient times the unit vector, so that a strength of 1 there is the evaluation here. Layers
are decoder blocks from 0, and a vector is added to a block's output at every token, in all of these tools."""

import io
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from massact.errors import UsageError
from massact.models.support import require

HOOKPOINT = "layers.{layer}"  # of lm-eval: a block's name within the model's `base_model`, as most families call it


@dataclass(frozen=True, slots=True)
class SteeringVector:
    """What one evaluation adds to the residual stream."""

    added: torch.Tensor  # `[d_model]`, float32: coefficient x unit vector
    layer: int  # decoder block whose output it is added to, from 0
    n_layers: int | None  # of the model; `None` where the store does not say
    facts: Mapping[str, Any]  # what it is: model, trait, label, coefficient, run; and what came of it


def safetensors_bytes(vector: SteeringVector) -> bytes:
    """One tensor `vector` `[d_model]`, and the facts as the header's texts."""
    content: bytes = save({"vector": vector.added.contiguous()}, {k: str(v) for k, v in vector.facts.items()})
    return content


def gguf_bytes(vector: SteeringVector) -> bytes:
    """A control vector of llama.cpp and repeng: `direction.L` `[d_model]`, L counted from 0. Raises UsageError: the
    layer is 0, which llama.cpp takes for none, or the package gguf is missing."""
    if vector.layer == 0:
        raise UsageError("llama.cpp reads no control vector at layer 0: export another layer, or another format")
    require("gguf", "gguf", "a GGUF control vector")
    from gguf import GGUFWriter

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "vector.gguf")
        writer = GGUFWriter(path, "controlvector")
        writer.add_string("controlvector.model_hint", str(vector.facts["model_id"]))
        writer.add_uint32("controlvector.layer_count", 1)
        writer.add_tensor(f"direction.{vector.layer}", vector.added.numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path.read_bytes()


def pt_bytes(vector: SteeringVector) -> bytes:
    """A tensor `[n_layers, d_model]`, zero but at the layer, as hotwire-vllm and trait-interp keep vectors. Raises
    UsageError: the store does not say how many layers the model has."""
    if vector.n_layers is None:
        raise UsageError("the store does not say how many layers the model has: export another format")
    every = torch.zeros(vector.n_layers, len(vector.added))
    every[vector.layer] = vector.added
    return torch_bytes(every)


def lm_eval_bytes(vector: SteeringVector, hookpoint: str = HOOKPOINT) -> bytes:
    """What `lm_eval --model steered --model_args steer_path=FILE.pt` reads. `hookpoint`: the block's name within
    `model.base_model`, with `{layer}` for its number. Raises UsageError: the number has no place in the name."""
    if "{layer}" not in hookpoint:
        raise UsageError(f"--hookpoint {hookpoint!r} has no place for the layer: write {HOOKPOINT!r} or the like")
    action = {"steering_vector": vector.added.clone(), "steering_coefficient": 1.0, "action": "add", "bias": None}
    return torch_bytes({hookpoint.replace("{layer}", str(vector.layer)): {**action, "head_index": None}})


def torch_bytes(value: Any) -> bytes:
    """As `torch.save` writes it, for programs that read nothing else; it holds no code to run."""
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def folder_files(vector: SteeringVector) -> dict[str, bytes]:
    """A folder for a model hub: the vector, also as GGUF where llama.cpp takes one, what it is, and how to use it."""
    files = {"vector.safetensors": safetensors_bytes(vector), "README.md": _card(vector).encode()}
    files["steering.json"] = f"{json.dumps(dict(vector.facts), indent=2)}\n".encode()
    if vector.layer:
        files["vector.gguf"] = gguf_bytes(vector)
    return files


FILES: Mapping[str, Callable[[SteeringVector], bytes]] = {
    "safetensors": safetensors_bytes,
    "gguf": gguf_bytes,
    "pt": pt_bytes,
    "lm-eval": lm_eval_bytes,
}
"""Of each format that is one file, what writes it."""
FORMATS = (*FILES, "hub-folder")

IN_TRANSFORMERS = Path(__file__).with_name("in_transformers.txt").read_text(encoding="utf-8")
"""A stored evaluation in plain transformers: MODEL, QUESTION and MAX_NEW_TOKENS are to be given."""


def _card(vector: SteeringVector) -> str:
    facts = "\n".join(f"| {name} | {value} |" for name, value in vector.facts.items())
    return (
        f"---\nbase_model: {vector.facts['model_id']}\ntags: [steering-vector, activation-steering]\n---\n\n"
        f"# {vector.facts['trait']}: {vector.facts['label']} at layer {vector.layer}\n\n"
        f"`vector.safetensors` is added to the output of decoder block {vector.layer} (from 0) at every token.\n\n"
        f"| | |\n|---|---|\n{facts}\n\n```python\n{IN_TRANSFORMERS}```\n"
    )
