"""Models and adapters by hub id, from a cache as the hub's client keeps it: a commit identifies them."""

import shutil
from pathlib import Path

import pytest

from massact.config import AdapterConfig, LoadConfig
from massact.errors import ModelError
from massact.models.load import describe, load_model, read_description, read_shape
from tests.support.saved import save_adapter, save_model
from tests.support.tiny import D_MODEL, N_LAYERS

ON_CPU = LoadConfig(device="cpu")
FIRST, SECOND = "1" * 40, "2" * 40


class Hub:
    """The cache of a hub that cannot be reached."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def commit(self, repository: str, commit: str, branch: str) -> Path:
        """The folder of a commit that a branch points to."""
        cached = self.folder / f"models--{repository.replace('/', '--')}"
        (cached / "refs").mkdir(parents=True, exist_ok=True)
        (cached / "refs" / branch).write_text(commit)
        return cached / "snapshots" / commit


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    for module in ("huggingface_hub.constants", "huggingface_hub.file_download.constants"):
        monkeypatch.setattr(f"{module}.HF_HUB_CACHE", str(tmp_path / "hub"))
    return Hub(tmp_path / "hub")


def test_a_commit_identifies_what_a_branch_is_now(hub: Hub) -> None:
    save_model(hub.commit("me/tiny", FIRST, "main"), "llama")
    save_model(hub.commit("me/tiny", SECOND, "v2"), "qwen3")
    for revision, commit, name in (
        (None, FIRST, "LlamaForCausalLM"),
        ("main", FIRST, "LlamaForCausalLM"),
        ("v2", SECOND, "Qwen3ForCausalLM"),
        (SECOND, SECOND, "Qwen3ForCausalLM"),
    ):
        model = load_model("me/tiny", revision=revision, options=ON_CPU)
        assert type(model.model).__name__ == name
        assert (model.identity.id, model.identity.revision) == ("me/tiny", commit)
        assert read_description("me/tiny", revision=revision, options=ON_CPU) == describe(model)
    shape = read_shape("me/tiny", "v2")
    assert (shape.n_layers, shape.d_model) == (N_LAYERS, D_MODEL)


def test_an_adapter_is_identified_by_its_commit_too(hub: Hub, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    base = save_model(hub.commit("me/tiny", FIRST, "main"), "llama")
    save_adapter(hub.commit("me/lora", SECOND, "v1"), base)
    asked = AdapterConfig("me/lora", "v1")
    model = load_model("me/tiny", adapter=asked, options=ON_CPU)
    assert model.identity.revision == f"{FIRST}+adapter:me/lora@{SECOND}"
    assert "lora" in str(model.model)
    assert read_description("me/tiny", adapter=asked, options=ON_CPU) == describe(model)
    shutil.copytree(base, hub.commit("me/merged", FIRST, "main"))
    save_adapter(hub.commit("me/merged", FIRST, "main"), base)
    with pytest.raises(ModelError, match="repository holds an adapter"):
        load_model("me/merged", options=ON_CPU)


def test_what_is_not_there(hub: Hub) -> None:
    save_model(hub.commit("me/tiny", FIRST, "main"), "llama")
    for reference, revision in (("me/none", None), ("me/tiny", "v9"), ("not a name", None)):
        for use in (load_model, read_description):
            with pytest.raises(ModelError, match=f"model '{reference}' cannot be loaded"):
                use(reference, revision=revision, options=ON_CPU)  # type: ignore[operator]
    with pytest.raises(ModelError, match="'me/none' cannot be loaded"):
        load_model("me/tiny", adapter=AdapterConfig("me/none"), options=ON_CPU)
