"""Vectors as the files of other tools, where a format has no place for one."""

import io
from pathlib import Path

import pytest
import torch

from massact.errors import UsageError
from massact.vectors.formats import FILES, SteeringVector, folder_files, gguf_bytes, lm_eval_bytes, pt_bytes
from massact.vectors.imported import read_vectors

FACTS = {"model_id": "lab/model", "trait": "calm", "label": "probe"}
FIRST = SteeringVector(torch.ones(4), 0, None, FACTS)
THIRD = SteeringVector(torch.tensor([0.1, -3e30, 1e-30, 0.0]), 3, 8, {**FACTS, "layer": 3})


@pytest.mark.parametrize("form", FILES)
def test_what_is_written_is_read_again_bit_by_bit(form: str, tmp_path: Path) -> None:
    path = tmp_path / f"v.{'pt' if form == 'lm-eval' else form}"
    path.write_bytes(FILES[form](THIRD))
    ((layer, vector),) = read_vectors(path).items()
    assert (layer, vector.tolist()) == (3, THIRD.added.tolist())


def test_llama_cpp_has_no_layer_0() -> None:
    with pytest.raises(UsageError, match="no control vector at layer 0"):
        gguf_bytes(FIRST)
    assert set(folder_files(FIRST)) == {"vector.safetensors", "steering.json", "README.md"}


def test_a_tensor_of_all_layers_needs_their_number() -> None:
    with pytest.raises(UsageError, match="how many layers"):
        pt_bytes(FIRST)


def test_a_hookpoint_is_named_as_asked() -> None:
    saved = torch.load(io.BytesIO(lm_eval_bytes(FIRST, "h.{layer}")), weights_only=True)
    assert list(saved) == ["h.0"]
    with pytest.raises(UsageError, match=r"'h\.4' has no place for the layer: write 'layers\.\{layer\}'"):
        lm_eval_bytes(FIRST, "h.4")
    odd = torch.load(io.BytesIO(lm_eval_bytes(FIRST, "{h}.{layer}")), weights_only=True)
    assert list(odd) == ["{h}.0"]
