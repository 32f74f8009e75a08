"""An exported control vector in a real llama.cpp moves the logits as it does here."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import massact
from massact.models.prompting import encode_chat
from massact.vectors.formats import SteeringVector, gguf_bytes
from tests.support.llama_cpp import float32_gguf, logits
from tests.support.steered import steered_logits
from tools.smollm2 import UnavailableError, smollm2_file

pytestmark = [pytest.mark.slow, pytest.mark.real]

LAYERS = (1, 5, 15, 29)


@pytest.fixture
def weights(tmp_path: Path) -> Iterator[Path]:
    """SmolLM2 in float32: llama.cpp would round the activations of quantised weights."""
    try:
        yield float32_gguf(smollm2_file(), tmp_path / "smollm2.gguf")
    except UnavailableError as error:
        pytest.skip(str(error))
    (tmp_path / "smollm2.gguf").unlink()


def test_the_logits_move_as_by_our_hook_at_that_layer_and_at_no_other(weights: Path, tmp_path: Path) -> None:
    model = massact.Model.load(str(smollm2_file()), dtype="float32", device="cpu")
    tokens = encode_chat(model.steerable, "How do I bake a loaf of bread?")
    vector = torch.randn(model.shape.d_model, generator=torch.Generator().manual_seed(0))
    vector *= 40 / vector.norm()
    files = [tmp_path / f"{layer}.gguf" for layer in LAYERS]
    for layer, file in zip(LAYERS, files, strict=True):
        file.write_bytes(gguf_bytes(SteeringVector(vector, layer, model.shape.n_layers, {"model_id": "smollm2"})))
    plain, *moved = torch.tensor(logits(weights, tokens, files))
    unsteered = steered_logits(model, tokens, None)[0, -1]
    assert correlation(plain, unsteered) > 0.9999
    for layer, theirs in zip(LAYERS, moved, strict=True):
        near = [n for n in (layer - 1, layer, layer + 1) if n < model.shape.n_layers]
        ours = {n: steered_logits(model, tokens, (n, vector))[0, -1] - unsteered for n in near}
        agreement = {n: correlation(theirs - plain, one) for n, one in ours.items()}
        assert agreement.pop(layer) >= 0.999
        assert max(agreement.values()) < 0.95
        torch.testing.assert_close(theirs - plain, ours[layer], rtol=0, atol=0.05)


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a, b]).double())[0, 1])
