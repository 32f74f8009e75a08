"""Operators, tokens and bands of layers from the command line to the store and back."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from mlflow import MlflowClient
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from massact.cli.app import cli
from massact.doctor.artifacts import digest_in
from massact.keys import cell_key, read_cell
from massact.store.schema import Artifact, Tag
from massact.toy import resolve

EXPERIMENT = """\
name: steered
traits:
  refusal: {dataset: "toy:refusal"}
models:
  toy:
    base: {variant: base, model: "toy:gemma-3-base"}
    instruct: {variant: instruct, model: "toy:gemma-3-instruct"}
    dtype: float32
    layers: "2"
    coefficients: [8]
calibration: {prompts: "toy:calibration", max_new_tokens: 2}
extraction:
  {positions: ["response[:2]"], methods: [mean_diff], uniform_dims: [], layer_dims: [], max_new_tokens: 2}
generation: {max_new_tokens: 6}
judge: likelihood
subset: 2
coherence_floor: 1
phases:
  phase1: {labels: [mean_diff, mean_diff+ablate, "mean_diff+rotate+2layers@response[:3]"]}
"""
LABELS = ("mean_diff", "mean_diff+ablate", "mean_diff+rotate+2layers@response[:3]")


@pytest.mark.slow
def test_labels_that_steer_in_other_ways_are_evaluated_asked_about_and_checked(
    migrated_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("steered.yaml").write_text(EXPERIMENT)
    Path("s.db").write_bytes(migrated_database.read_bytes())
    uri = f"sqlite:///{tmp_path}/s.db"

    def run(*arguments: str, code: int = 0) -> str:
        done = CliRunner().invoke(cli, [*arguments, "--experiment", "steered.yaml", "--tracking-uri", uri])
        assert done.exit_code == code, (done.output, done.exception)
        return done.stdout if "json" in arguments else done.output

    run("calibrate")
    run("extract")
    grid = ("evaluate", "--model", "toy", "--trait", "refusal", "--position", "response[:2]", "--layers")
    said = run(*grid, "2", "--coefficients", "1", "--method", ",".join(LABELS))
    assert "3 evaluated" in said
    assert "0 evaluated" in run(*grid, "2", "--coefficients", "1", "--method", ",".join(LABELS))

    rows = json.loads(run("best", "--format", "json"))["rows"]
    assert {(one["label"], one["operator"], one["n_vectors"], one["steered_tokens"]) for one in rows} == {
        (LABELS[0], "add", 1, "all"),
        (LABELS[1], "ablate", 1, "all"),
        (LABELS[2], "rotate", 2, "response[:3]"),
    }
    pair = json.loads(run("compare", "--pair", "mean_diff:mean_diff+ablate", "--format", "json"))["rows"]
    assert [one["same_vector"] for one in pair] == [None]  # it is one vector, steered in two ways
    assert "healthy" in run("doctor")

    runs = {one.data.params.get("label"): one for one in _runs(uri)}
    params = runs[LABELS[2]].data.params
    assert (params["operator"], params["n_vectors"], params["steered_tokens"]) == ("rotate", "2", "response[:3]")
    assert "relative_strength" not in runs[LABELS[1]].data.metrics  # a share is no length
    cell = read_cell(runs[LABELS[2]].data.tags[Tag.CELL])
    assert cell_key(cell) in run("runs", "--format", "json")

    vector = Path(runs[LABELS[2]].info.artifact_uri.removeprefix("file://"), Artifact.VECTOR)
    digest = digest_in(vector.read_bytes())
    vector.unlink()
    assert "rebuilt from the vectors of extraction" in run("doctor", "--fix")
    assert digest_in(vector.read_bytes()) == digest == json.loads(runs[LABELS[2]].data.tags[Tag.ROW])["vector_digest"]

    refused = run("vectors", "export", "--run", runs[LABELS[1]].info.run_id, "--output", "v.pt", code=2)
    assert "a vector that is added to all tokens of one layer" in refused
    beyond = run(*grid, "7", "--coefficients", "1", "--method", LABELS[2], code=2)
    assert "layer 6 is the last to begin with, not 7" in beyond
    no_length = run(*grid, "2", "--coefficients", "relative:0.5", "--method", LABELS[1], code=2)
    assert "the coefficient of ablate is no length" in no_length


def _runs(uri: str) -> list[Any]:
    client = MlflowClient(uri)
    return list(client.search_runs([one.experiment_id for one in client.search_experiments()]))


TINY = """\
name: tiny
traits:
  refusal: {dataset: "toy:refusal"}
models:
  tiny: {instruct: {model: ./tiny}, layers: "1", coefficients: [1]}
calibration: {prompts: "toy:calibration", max_new_tokens: 2}
extraction:
  {positions: ["response[:2]", "prompt[-1]"], methods: [mean_diff], uniform_dims: [], layer_dims: [], max_new_tokens: 2}
generation: {max_new_tokens: 6}
judge: likelihood
subset: 2
gates:
  always: {label: mean_diff, position: "prompt[-1]", layer: 0, threshold: -1000}
  never: {label: mean_diff, position: "prompt[-1]", layer: 3, threshold: 1000, measure: cosine}
  middle: {label: mean_diff, position: "prompt[-1]", layer: 2}
"""
EVERY = "mean_diff+ablate+everylayer"


def save_tiny(folder: Path) -> None:
    """A random Llama that has the embedded models' tokenizer."""
    config = LlamaConfig(
        vocab_size=1280, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4,
        initializer_range=0.3, bos_token_id=2, eos_token_id=1, pad_token_id=0, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(resolve("toy:gemma-3-instruct") / name, folder / name)


@pytest.mark.slow
def test_gates_subspaces_and_every_layer_are_evaluated_and_baked(
    migrated_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_tiny(Path("tiny"))
    Path("tiny.yaml").write_text(TINY)
    Path("s.db").write_bytes(migrated_database.read_bytes())
    uri = f"sqlite:///{tmp_path}/s.db"

    def run(*arguments: str, code: int = 0) -> str:
        done = CliRunner().invoke(cli, [*arguments, "--experiment", "tiny.yaml", "--tracking-uri", uri])
        assert done.exit_code == code, (done.output, done.exception)
        return done.output

    run("calibrate")
    run("extract")
    labels = (
        "mean_diff", "mean_diff+if_always", "mean_diff+if_never", "mean_diff+if_middle", EVERY, "mean_diff+everylayer",
        "mean_diff+replace3+2layers", "mean_diff+3layers+relative+decay0.5", "mean_diff+3layers+rising",
    )  # fmt: skip
    grid = ("evaluate", "--position", "response[:2]", "--layers", "1", "--alike", "off", "--method")
    assert f"{len(labels)} evaluated" in run(*grid, ",".join(labels), "--coefficients", "1")
    assert f"{len(labels)} finished already" in run(*grid, ",".join(labels), "--coefficients", "1")
    assert "healthy" in run("doctor")

    runs = {one.data.params.get("label"): one for one in _runs(uri)}
    assert runs["mean_diff+if_middle"].data.params["gate"] == "middle"
    assert runs["mean_diff+replace3+2layers"].data.params["n_directions"] == "3"
    assert "relative_strength" not in runs["mean_diff+replace3+2layers"].data.metrics
    params, metrics = runs[labels[7]].data.params, runs[labels[7]].data.metrics
    assert (params["depth"], params["decay"], metrics["coefficient"]) == ("relative", "0.5", 1.0)
    weights = read_cell(runs[labels[7]].data.tags[Tag.CELL]).steering.weights  # type: ignore[union-attr]
    calibration = json.loads(Path(_artifact(uri, "calibration.json")).read_text())["aggregate"]
    norms = [calibration["layer_norms_without_massive"][str(layer)] for layer in (1, 2, 3)]
    assert metrics["relative_strength"] > 0
    stored = {one.data.params.get("label"): said(one) for one in _runs(uri) if _responses(one).exists()}
    assert stored["mean_diff+if_always"] == stored["mean_diff"] != stored["mean_diff+if_never"] == stored[None]
    assert len(weights) == 3
    assert weights[0] == 1
    if not calibration["uniform_dims"]:  # then all of each vector counts
        assert weights == pytest.approx([norm / norms[0] for norm in norms], rel=1e-4)

    for label in (EVERY, "mean_diff+3layers+rising"):
        run("bake", "--run", runs[label].info.run_id, "--output", label)
        baked, bare = (AutoModelForCausalLM.from_pretrained(folder).eval() for folder in (label, "tiny"))
        vector = load_file(Path(_folder(runs[label]), Artifact.VECTOR))["vector"]
        tokens = torch.tensor([[2, 100, 200, 300, 400]])
        with torch.inference_mode(), (ablated if label == EVERY else added)(bare, vector):
            torch.testing.assert_close(baked(tokens).logits, bare(tokens).logits, rtol=1e-3, atol=1e-3)
    for label, reason in (("mean_diff+if_always", "gate"), ("mean_diff+replace3+2layers", "no sum")):
        assert reason in run("bake", "--run", runs[label].info.run_id, "--output", "no", code=2)
    assert not Path("no").exists()
    assert "no such gate" in run(*grid, "mean_diff+if_other", code=2)


@contextmanager
def ablated(model: Any, vector: torch.Tensor) -> Iterator[None]:
    """A Llama with the direction taken out of the embedding and of what every attention and MLP gives."""
    parts = [model.model.embed_tokens, *(part for one in model.model.layers for part in (one.self_attn, one.mlp))]

    def hook(_module: Any, _args: Any, output: Any) -> Any:
        first = output[0] if isinstance(output, tuple) else output
        first = first - (first @ vector)[..., None] * vector
        return (first, *output[1:]) if isinstance(output, tuple) else first

    handles = [part.register_forward_hook(hook) for part in parts]
    yield
    for handle in handles:
        handle.remove()


@contextmanager
def added(model: Any, vectors: torch.Tensor) -> Iterator[None]:
    """A Llama with a third, two thirds and all of its vector added at layers 1 to 3."""
    for i, vector in enumerate(vectors):
        model.model.layers[i + 1].register_forward_hook(lambda _m, _a, out, v=vector * (i + 1) / 3: out + v)
    yield


def said(run: Any) -> list[str]:
    """The responses that a run keeps."""
    table = json.loads(_responses(run).read_text())
    return [row[table["columns"].index("response")] for row in table["data"]]


def _responses(run: Any) -> Path:
    return Path(_folder(run), Artifact.RESPONSES)


def _folder(run: Any) -> str:
    return str(run.info.artifact_uri.removeprefix("file://"))


def _artifact(uri: str, name: str) -> str:
    client = MlflowClient(tracking_uri=uri)
    folders = [_folder(one) for one in client.search_runs([each.experiment_id for each in client.search_experiments()])]
    return next(str(Path(folder, name)) for folder in folders if Path(folder, name).exists())
