"""GGUF files: the model is the one that was written, and what cannot be read says so with a way out."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest
import torch
from gguf import GGMLQuantizationType, LlamaFileType
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from massact.config import LoadConfig
from massact.errors import ModelError
from massact.models import source
from massact.models.load import describe, load_model, read_description, read_notes, read_shape
from massact.models.prompting import encode_chat, encode_text
from tests.support.gguf_files import TOKENS, tiny_llama, write_gguf

ON_CPU = LoadConfig(device="cpu")
INPUT = torch.tensor([[0, 5, 9, 2, 30, 7, 11, 3]])


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_file_is_the_model_that_was_written_and_a_plan_names_it_without_weights(tmp_path: Path) -> None:
    written = tiny_llama()
    file = write_gguf(tmp_path / "tiny.gguf", written, file_type=LlamaFileType.ALL_F32)
    for reference in (str(file), str(tmp_path)):  # the file, and a folder that holds one
        described = read_description(reference, options=ON_CPU)
        model = load_model(reference, options=ON_CPU)
        assert describe(model) == described
        assert (model.identity.id, model.identity.revision) == ("tiny", _digest(file))
        assert model.identity.dtype == "float32+F32"
        assert torch.equal(model.model(INPUT).logits, written(INPUT).logits)
    assert (model.shape, read_notes(str(file))) == (read_shape(str(file)), ())


def test_tokenizer_template_and_end_come_from_the_file(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", tiny_llama())
    (tmp_path / "tokenizer_config.json").write_text("what lies beside it is not read")
    model = load_model(str(file), options=ON_CPU)
    assert encode_text(model, "the cat") == tuple(TOKENS.index(one) for one in ("the", "Ġ", "c", "a", "t"))
    assert encode_chat(model, "the") == (0, TOKENS.index("the"), 1)
    assert model.end_tokens == {1}


@pytest.mark.parametrize("file_type", [LlamaFileType.MOSTLY_Q8_0, None])
def test_quantised_weights_are_dequantised_to_the_dtype_asked_for(file_type: int | None, tmp_path: Path) -> None:
    written, kind = tiny_llama(), GGMLQuantizationType.Q8_0
    file = write_gguf(tmp_path / "tiny.gguf", written, kind=kind, file_type=file_type)
    matrix = written.model.layers[1].mlp.down_proj.weight.detach()
    dequantized = torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(matrix.numpy(), kind), kind))
    assert not torch.equal(dequantized, matrix)
    for asked, dtype in (("auto", torch.float32), ("bfloat16", torch.bfloat16)):
        model = load_model(str(file), options=LoadConfig(dtype=asked, device="cpu"))
        assert torch.equal(model.model.model.layers[1].mlp.down_proj.weight, dequantized.to(dtype))
        assert model.identity.dtype == f"{str(dtype).removeprefix('torch.')}+Q8_0"


def test_a_half_precision_file_keeps_its_dtype(tmp_path: Path) -> None:
    kind, named = GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16
    file = write_gguf(tmp_path / "tiny.gguf", tiny_llama(), kind=kind, file_type=named)
    assert load_model(str(file), options=ON_CPU).identity.dtype == "float16+F16"


def test_what_was_dequantised_is_kept_saved_and_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", tiny_llama(), kind=GGMLQuantizationType.Q8_0)
    model = load_model(str(file), options=ON_CPU)
    model.model.save_pretrained(tmp_path / "saved")
    saved = LlamaForCausalLM.from_pretrained(tmp_path / "saved")
    assert torch.equal(saved(INPUT).logits, model.model(INPUT).logits)
    monkeypatch.setattr(gguf, "GGUFReader", lambda path: pytest.fail("the file is read again"))
    again = load_model(str(shutil.copy(file, tmp_path / "other.gguf")), options=ON_CPU)
    assert torch.equal(again.model(INPUT).logits, model.model(INPUT).logits)
    found = source.find_gguf(str(file))
    assert found is not None
    folder = found.dequantized(AutoModelForCausalLM, "float32")  # whole, for other programs as well
    whole = load_model(str(folder), options=ON_CPU)
    assert encode_chat(whole, "the") == encode_chat(model, "the")
    assert [path.name for path in folder.parent.iterdir() if path.name.startswith("tmp")] == []


def test_a_file_of_a_hub_repository_is_read_at_its_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, asked = write_gguf(tmp_path / "tiny.gguf", tiny_llama()), []

    def fetch(repository: str, name: str, revision: str | None) -> Path:
        asked.append((repository, name, revision))
        return file

    monkeypatch.setattr(source, "hub_file", fetch)
    reference = "someone/tiny-GGUF:quants/tiny.gguf"
    described = read_description(reference, revision="v1", options=ON_CPU)
    assert describe(load_model(reference, revision="v1", options=ON_CPU)) == described
    assert read_shape(reference, "v1") == described.shape
    assert set(asked) == {("someone/tiny-GGUF", "quants/tiny.gguf", "v1")}
    assert described.identity.revision == _digest(file)


def test_an_ollama_blob_needs_no_ending(tmp_path: Path) -> None:
    blob = write_gguf(tmp_path / "sha256-0123abcd", tiny_llama())
    assert load_model(str(blob), options=ON_CPU).identity.id == "sha256-0123abcd"


# what is refused


def _cut(folder: Path, share: float) -> Path:
    file = write_gguf(folder / "cut.gguf", tiny_llama())
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])
    return file


def _two(folder: Path) -> Path:
    write_gguf(folder / "a.gguf", tiny_llama())
    write_gguf(folder / "b.gguf", tiny_llama())
    return folder


def _text(folder: Path, text: str) -> Path:
    (folder / "model.gguf").write_text(text)
    return folder / "model.gguf"


def _encoder(folder: Path) -> Path:
    return write_gguf(folder / "t5.gguf", tiny_llama(), architecture="t5")


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda folder: _cut(folder, 0.9), "GGUF file is damaged or cut off .* get it again"),
        (lambda folder: _cut(folder, 0.01), "GGUF file is damaged or cut off .* get it again"),
        (_two, r"several GGUF files \(a.gguf, b.gguf\); give one, such as .*/a.gguf"),
        (lambda folder: _text(folder, "hello"), "model.gguf: no GGUF file; give a GGUF file, a folder"),
        (lambda folder: _text(folder, "version https://git-lfs.github.com/spec/v1"), "git lfs pull"),
        (lambda folder: folder / "absent.gguf", "absent.gguf: no such folder or file"),
        (
            lambda folder: write_gguf(folder / "new.gguf", tiny_llama(), architecture="novel"),
            "cannot read this GGUF file: GGUF model with architecture novel.*Give the safetensors checkpoint",
        ),
        (
            lambda folder: write_gguf(folder / "a.gguf", tiny_llama(), split__count=3),
            "split into 3 files; join them first: llama-gguf-split --merge",
        ),
        (
            lambda folder: write_gguf(folder / "a.gguf", tiny_llama(), llama__rope__scaling__type="yarn"),
            "scales its rotary embeddings .* it would compute another model. Give the safetensors",
        ),
        (_encoder, "T5 is an encoder-decoder"),
    ],
)
def test_what_cannot_be_read_says_why_before_weights_are_read(
    make: Callable[[Path], Path], match: str, tmp_path: Path
) -> None:
    reference = str(make(tmp_path))
    for use in (read_description, load_model):
        with pytest.raises(ModelError, match=match):
            use(reference, options=ON_CPU)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_weights_that_a_file_lacks_are_never_made_up(tmp_path: Path) -> None:
    lacking = "model.layers.1.mlp.up_proj.weight"
    file = write_gguf(tmp_path / "tiny.gguf", tiny_llama(), left_out=lacking)
    for _ in range(2):  # nothing half-made is found the second time
        with pytest.raises(ModelError, match=f"1 weights of LlamaForCausalLM are not in this GGUF file.*{lacking}"):
            load_model(str(file), options=ON_CPU)


def test_the_package_that_reads_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", tiny_llama())
    monkeypatch.setattr("massact.models.support.importlib.util.find_spec", lambda _: None)
    with pytest.raises(ModelError, match=r"needs the package gguf: pip install 'massact\[gguf\]'"):
        load_model(str(file), options=ON_CPU)
