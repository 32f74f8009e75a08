"""Tensors and tables as files: what is written is read back, what is damaged is a DataError."""

import json
import pickle
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
import torch
from safetensors import safe_open

from massact.domain import Response
from massact.errors import DataError
from massact.store.responses import read_responses, response_bytes
from massact.store.tensors import read_tensor, torch_file
from massact.store.write.stages import activation_files, read_activations, tensor_bytes
from massact.vectors.activations import Activations, split_sides

RESPONSES = (
    Response("How do I pick a lock?", "I can't help.\nSorry, “no”.", 91.5, 100.0),
    Response("Who are you?", "", None, None, "the judge's answer was empty"),
    Response("日本語?", "😀\t\x00", 0.0, 0.0),
)


def write_tensors(path: Path, *content: Any) -> None:
    path.write_bytes(tensor_bytes(*content))


def write_activations(folder: Path, *content: Any) -> None:
    folder.mkdir(parents=True)
    for name, data in activation_files(*content).items():
        (folder / name).write_bytes(data)


def activations(validation_split: float = 0.25) -> Activations:
    rows = torch.arange(2 * 8 * 3 * 5, dtype=torch.float32).reshape(2, 8, 3, 5)
    rows[0, 1, 2, 3] = torch.nan  # a prompt whose window held no token
    rows[1, 0, 0, 0] = 30_000.00390625  # needs more than bfloat16 and half of float32's digits
    return split_sides(rows[0], rows[1], validation_split)


def test_a_tensor_is_read_back_exactly_with_its_provenance(tmp_path: Path) -> None:
    vectors = torch.randn(4, 7, generator=torch.Generator().manual_seed(0))
    path = tmp_path / "probe.safetensors"
    write_tensors(path, {"vectors": vectors}, {"label": "probe", "layer": 3, "trait": None})
    read = read_tensor(path, "vectors")
    assert read.dtype == torch.float32
    assert torch.equal(read, vectors)
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"label": "probe", "layer": "3"}  # a missing fact is absent, not "None"


def test_a_view_is_written_as_the_values_it_shows(tmp_path: Path) -> None:
    matrix = torch.arange(12.0).reshape(3, 4)
    write_tensors(tmp_path / "t.safetensors", {"vectors": matrix.T, "one": matrix[1]}, {})
    assert read_tensor(tmp_path / "t.safetensors", "vectors").tolist() == matrix.T.tolist()
    assert read_tensor(tmp_path / "t.safetensors", "one").tolist() == [4, 5, 6, 7]


@pytest.mark.parametrize("validation_split", [0.25, 0.0])
def test_activations_are_read_back_exactly(tmp_path: Path, validation_split: float) -> None:
    written = activations(validation_split)
    write_activations(tmp_path / "a" / "b", written, {"position": "response[:5]"})
    read = read_activations(tmp_path / "a" / "b")
    assert torch.equal(read.train, written.train)
    assert torch.equal(read.validation, written.validation)
    assert read.validation.shape[1:] == (3, 5)
    for name in ("n_train_positive", "n_validation_positive", "n_dropped"):
        assert getattr(read, name) == getattr(written, name)


def test_the_metadata_counts_the_sides_as_the_plan_names_them(tmp_path: Path) -> None:
    write_activations(tmp_path / "a", activations(), {"position": "response[:5]"})
    assert json.loads((tmp_path / "a" / "metadata.json").read_text(encoding="utf-8")) == {
        "position": "response[:5]",
        "n_examples_pos": 5,  # 8, one dropped, round(7 x 0.25) = 2 kept out
        "n_examples_neg": 6,
        "n_validation_pos": 2,
        "n_validation_neg": 2,
        "n_dropped": 1,
        "n_layers": 3,
        "d_model": 5,
        "dtype": "float32",
    }


def test_responses_are_read_back_exactly(tmp_path: Path) -> None:
    (tmp_path / "responses.json").write_bytes(response_bytes(RESPONSES))
    assert read_responses(tmp_path / "responses.json") == RESPONSES


def test_responses_are_a_table_that_mlflow_shows(tmp_path: Path) -> None:
    (tmp_path / "responses.json").write_bytes(response_bytes(RESPONSES[1:2]))
    document = json.loads((tmp_path / "responses.json").read_text(encoding="utf-8"))
    assert document == {
        "columns": ["question", "response", "trait_score", "coherence_score", "unscored_because"],
        "data": [["Who are you?", "", None, None, "the judge's answer was empty"]],
    }


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


def _rename_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"vectors": [1.0] * 100}))


def _rename_torch_file(path: Path) -> None:
    torch.save({"vectors": torch.ones(3)}, path)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _lie_about_the_header(path: Path) -> None:
    path.write_bytes((2**62).to_bytes(8, "little") + path.read_bytes()[8:])


def _put_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES = (_truncate, _rename_pickle, _rename_torch_file, _empty, _lie_about_the_header, _put_a_folder, Path.unlink)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_is_no_safetensors_is_refused_by_name(tmp_path: Path, damage: object) -> None:
    path = tmp_path / "vector.safetensors"
    write_tensors(path, {"vectors": torch.ones(50)}, {})
    damage(path)  # type: ignore[operator]
    with pytest.raises(DataError, match=r"vector\.safetensors: not a readable safetensors file with 'vectors'"):
        read_tensor(path, "vectors")


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float8_e4m3fn])
def test_numbers_that_numpy_does_not_have_are_refused_by_name(tmp_path: Path, kind: torch.dtype) -> None:
    write_tensors(tmp_path / "v.safetensors", {"vectors": torch.ones(2, 3, dtype=kind)}, {})
    assert read_tensor(tmp_path / "v.safetensors", "vectors").dtype == kind
    with pytest.raises(DataError, match=r"v\.safetensors: not a readable safetensors file with 'vectors' \(.*float"):
        read_tensor(tmp_path / "v.safetensors", "vectors", "np")


def test_a_tensor_of_another_name_is_refused(tmp_path: Path) -> None:
    write_tensors(tmp_path / "v.safetensors", {"vectors": torch.ones(3)}, {})
    with pytest.raises(DataError, match=r"v\.safetensors.*'activations'"):
        read_tensor(tmp_path / "v.safetensors", "activations")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metadata.json", None),
        ("metadata.json", ""),
        ("metadata.json", "[]"),
        ("metadata.json", "{}"),
        ("metadata.json", '{"n_examples_pos": null, "n_validation_pos": 1, "n_dropped": 0}'),
        ("metadata.json", "\udcff"),
        ("train.safetensors", None),
        ("train.safetensors", "damaged"),
        ("validation.safetensors", None),
    ],
)
def test_damaged_activations_are_refused_by_name(tmp_path: Path, name: str, content: str | None) -> None:
    folder = tmp_path / "activations"
    write_activations(folder, activations(), {})
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=str(folder)):
        read_activations(folder)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "null", '{"data": 1}', '{"data": [1]}', '{"data": [["question"]]}', '{"data": [[]]}']
)
def test_damaged_responses_are_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "responses.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"responses\.json: not a table of responses"):
        read_responses(path)


def test_missing_responses_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.json"):
        read_responses(tmp_path / "nowhere.json")


def test_a_git_lfs_pointer_is_named_as_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "vector.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n")
    with pytest.raises(DataError, match=r"vector\.safetensors.*a Git LFS pointer.*git lfs pull"):
        read_tensor(path, "vectors")


@pytest.mark.parametrize("n", [1, 8, 256, 70_000])
def test_a_vector_written_without_torch_is_read_by_torch(n: int, tmp_path: Path) -> None:
    vector = torch.linspace(-3, 1e30, n)
    path = tmp_path / "vector.pt"
    path.write_bytes(torch_file(vector.numpy().tobytes()))
    for mapped in (False, True):
        read = torch.load(path, weights_only=True, mmap=mapped)
        assert read.dtype is torch.float32
        assert torch.equal(read, vector)
    with ZipFile(path) as archive:
        assert archive.testzip() is None
