"""Files of other tools, each as that tool writes it, and what none of them may do."""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import make_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from massact.errors import DataError
from massact.vectors.imported import read_vectors

A, B = torch.arange(1.0, 5.0), torch.tensor([0.0, -2.0, 0.5, 1.0])


def write_gguf(path: Path, names: tuple[str, ...] = ("direction.3", "direction.5")) -> None:
    from gguf import GGUFWriter

    writer = GGUFWriter(path, "controlvector")
    writer.add_string("controlvector.model_hint", "llama")
    writer.add_uint32("controlvector.layer_count", len(names))
    for name, vector in zip(names, (A, B), strict=False):
        writer.add_tensor(name, vector.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_steering_vectors(path: Path) -> None:
    """As `torch.save` of the package's own dataclass."""
    name = "steering_vectors.steering_vector"
    made: Any = make_dataclass("SteeringVector", ["layer_activations", "layer_type"])
    made.__module__ = name
    package, module = ModuleType("steering_vectors"), ModuleType(name)
    package.steering_vector, module.SteeringVector = module, made  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(sys.modules, "steering_vectors", package)
        patched.setitem(sys.modules, name, module)
        torch.save(made({3: A, 5: B}, "decoder_block"), path)


def every_layer() -> torch.Tensor:
    """`[n_layers, d_model]` with two layers that are not zero."""
    every = torch.zeros(8, 4)
    every[3], every[5] = A, B
    return every


def lm_eval(**changes: Any) -> dict[str, Any]:
    given = {"steering_vector": A / 2, "steering_coefficient": 2.0, "action": "add", "head_index": None, **changes}
    return {"layers.3": given, "layers.5": {"steering_vector": B, "action": "add"}}


def saklas(rows: int = 1, **more: torch.Tensor) -> dict[str, torch.Tensor]:
    """A folded vector: the direction is the one row of `basis`, and `mean` is where activations are centered."""
    both = {f"layer_{layer}.basis": one.repeat(rows, 1) for layer, one in ((3, A), (5, B))}
    means = {f"layer_{layer}.mean": torch.full((4,), 9.0) for layer in (3, 5)}
    return {**both, **means, "node_coords": torch.ones(2, 1), "layer_3.node_coords": torch.ones(2, 1), **more}


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("repeng.gguf", write_gguf),
        ("saklas.safetensors", lambda path: save_file(saklas(), path)),
        ("extraction.safetensors", lambda path: save_file({"vectors": every_layer()}, path)),
        ("hotwire.pt", lambda path: torch.save(every_layer(), path)),
        ("numbers.pt", lambda path: torch.save({3: A, 5: B}, path)),
        ("lm_eval.pt", lambda path: torch.save(lm_eval(), path)),
        ("steering_vectors.pt", write_steering_vectors),
        ("half.pt", lambda path: torch.save({3: A.half(), 5: B.half()}, path)),
    ],
)
def test_the_vectors_of_each_layer_are_read(name: str, write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path / name)
    found = read_vectors(tmp_path / name)
    assert list(found) == [3, 5]
    assert torch.equal(found[3], A)
    assert torch.equal(found[5], B)


def test_a_folder_of_layers_as_trait_interp_keeps_them(tmp_path: Path) -> None:
    for layer, vector in ((5, B), (10, A)):
        torch.save(vector, tmp_path / f"layer{layer}.pt")
    (tmp_path / "metadata.json").write_text("{}")
    assert {layer: vector.tolist() for layer, vector in read_vectors(tmp_path).items()} == {
        5: B.tolist(),
        10: A.tolist(),
    }


def test_one_vector_is_of_the_layer_that_its_header_or_the_file_says(tmp_path: Path) -> None:
    save_file({"vector": A}, tmp_path / "a.safetensors", {"layer": "7"})
    assert (
        list(read_vectors(tmp_path / "a.safetensors")) == list(read_vectors(tmp_path / "a.safetensors", layer=7)) == [7]
    )
    with pytest.raises(DataError, match=r"says itself that it is of layers 7, not 2: leave out"):
        read_vectors(tmp_path / "a.safetensors", layer=2)
    torch.save(torch.stack([A, B]), tmp_path / "two.pt")
    with pytest.raises(DataError, match=r"of layers 0-1, not 1"):
        read_vectors(tmp_path / "two.pt", layer=1)
    torch.save(A, tmp_path / "a.pt")
    assert list(read_vectors(tmp_path / "a.pt", layer=2)) == [2]
    with pytest.raises(DataError, match="nothing says of which layer"):
        read_vectors(tmp_path / "a.pt")


def test_a_tensor_that_is_kept_sparse_is_read(tmp_path: Path) -> None:
    torch.save({3: A.to_sparse()}, tmp_path / "a.pt")
    assert read_vectors(tmp_path / "a.pt")[3].equal(A)


def test_a_feature_of_a_sparse_autoencoder(tmp_path: Path) -> None:
    save_file({"W_dec": torch.stack([A, B])}, tmp_path / "sae_weights.safetensors")
    (tmp_path / "cfg.json").write_text(json.dumps({"hook_name": "blocks.9.hook_resid_post"}))
    (found,) = read_vectors(tmp_path, index=1).items()
    assert (found[0], found[1].tolist()) == (9, B.tolist())
    with pytest.raises(DataError, match="index 2: it has the features 0 to 1"):
        read_vectors(tmp_path, index=2)
    (tmp_path / "cfg.json").write_text(json.dumps({"hook_name": "blocks.9.hook_mlp_out"}))
    with pytest.raises(DataError, match=r"of blocks\.9\.hook_mlp_out, not of a decoder block's output"):
        read_vectors(tmp_path, index=1)


@pytest.mark.parametrize("content", [saklas(rows=2), saklas(**{"layer_3.node_params": A}), {"layer_3.mean": A}])
def test_a_manifold_of_saklas_that_is_no_direction_is_refused(content: dict[str, torch.Tensor], tmp_path: Path) -> None:
    save_file(content, tmp_path / "a.safetensors")
    with pytest.raises(DataError, match=r"not one direction for each layer|which layer is layer_3\.mean"):
        read_vectors(tmp_path / "a.safetensors")


class Runs:
    """What would run code where it is unpickled; what it would run is harmless."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.putenv, ("MASSACT_RAN", "1")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.pt", {"layer_3": Runs()}, "objects whose code would have to run"),
        ("a.pt", {"mlp": A}, "which layer is mlp"),
        ("a.pt", {3: A, "layer_3": B}, "two of its tensors are of one layer"),
        ("a.pt", {3: A, 5: A[:2]}, "not vectors"),
        ("a.pt", torch.zeros(3, 4), "not vectors"),
        ("a.pt", [A], "holds a list"),
        ("a.pt", lm_eval(action="clamp"), "it clamps"),
        ("a.pt", lm_eval(steering_coefficient=None), "a steering_coefficient that is no number"),
        ("a.pt", lm_eval(steering_vector=[1.0]), "it has no steering_vector"),
        ("a.pt", {3: A * float("nan")}, "not real or not finite"),
        ("a.pt", {3: A.double() * 1e300}, "not real or not finite"),
        ("a.pt", {3: A.to(torch.complex64)}, "not real or not finite"),
        ("a.bin", A, "read are safetensors"),
    ],
)
def test_what_is_no_vector_of_a_block_is_refused(name: str, content: Any, reason: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / name)
    with pytest.raises(DataError, match=reason):
        read_vectors(tmp_path / name)


def test_files_that_are_not_there_or_cut_off(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such file"):
        read_vectors(tmp_path / "none.safetensors")
    for name in ("a.safetensors", "a.pt", "a.gguf"):
        (tmp_path / name).write_bytes(b"\x00" * 20)
        with pytest.raises(DataError, match=rf"{name}: no vectors can be read from it"):
            read_vectors(tmp_path / name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no layerN\.pt"):
        read_vectors(tmp_path / "empty")


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors", "a.gguf", "layer3.pt"])
def test_a_file_that_git_lfs_left_a_pointer_for_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    place = tmp_path if name == "layer3.pt" else tmp_path / name
    with pytest.raises(DataError, match=rf"\({name}: a Git LFS pointer stands in place of the data"):
        read_vectors(place)
