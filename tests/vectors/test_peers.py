"""Vectors that other tools' real packages made, and ours in them: the same directions at the same layers."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch.nn.functional import cosine_similarity

import massact
from massact.cli.app import cli
from massact.data.traits import load_trait
from massact.models.prompting import encode_chat
from massact.vectors.formats import SteeringVector, gguf_bytes, lm_eval_bytes
from massact.vectors.imported import read_vectors
from tests.support.peers import (
    FILES,
    LM_EVAL,
    MODEL,
    REPENG,
    REPENG_READS,
    SAE_LENS,
    STEERING_VECTORS,
    make_vectors,
    run_peer,
)
from tests.support.small_plan import EXPERIMENT
from tests.support.steered import steered_logits
from tools.smollm2 import UnavailableError

pytestmark = pytest.mark.slow

PEERS = Path(__file__).resolve().parents[1] / "data/peers"


@pytest.fixture(scope="module")
def model() -> massact.Model:
    return massact.Model.load("toy:gemma-2-instruct", dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def sides(model: massact.Model) -> tuple[torch.Tensor, torch.Tensor]:
    """`[n_prompts, n_layers, d_model]` at the last token of the prompts that the peers read."""
    trait = load_trait("toy:refusal")
    positive, negative = ([prompt.text for prompt in side] for side in (trait.positive, trait.negative))
    return model.record(positive, "prompt[-1]"), model.record(negative, "prompt[-1]")


def check_repeng(found: Mapping[int, torch.Tensor], sides: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Its PCA is that of the paired differences here, pointing from the negative side to the positive one."""
    assert sorted(found) == [*range(1, 8)]
    for layer, vector in found.items():
        differences = (sides[0] - sides[1])[:, layer].double()
        first = torch.linalg.svd(differences - differences.mean(0), full_matrices=False)[2][0]
        neighbours = [
            abs(float(cosine_similarity(one.double(), first, dim=0))) for n, one in found.items() if n != layer
        ]
        mine = abs(float(cosine_similarity(vector.double(), first, dim=0)))
        assert mine > 0.99 > max(neighbours), layer
        assert float(vector.norm()) == pytest.approx(1, abs=1e-5)


def check_steering_vectors(found: Mapping[int, torch.Tensor], sides: tuple[torch.Tensor, torch.Tensor]) -> None:
    assert sorted(found) == [*range(8)]
    for layer, vector in found.items():
        difference = sides[0][:, layer].mean(0) - sides[1][:, layer].mean(0)
        torch.testing.assert_close(vector, difference, rtol=1e-4, atol=1e-4)


def test_what_repeng_wrote_is_the_direction_at_its_layer(sides: tuple[torch.Tensor, torch.Tensor]) -> None:
    check_repeng(read_vectors(PEERS / FILES[REPENG]), sides)


def test_what_steering_vectors_saved_is_the_mean_difference(sides: tuple[torch.Tensor, torch.Tensor]) -> None:
    check_steering_vectors(read_vectors(PEERS / FILES[STEERING_VECTORS]), sides)


def check_sae(folder: Path) -> None:
    ((layer, row),) = read_vectors(folder, index=2).items()
    assert (layer, row.shape) == (5, (96,))
    assert row[:3].tolist() == pytest.approx([-0.1763, 0.0111, -0.1762], abs=1e-4)


def test_what_saelens_saved_is_a_feature_at_its_layer() -> None:
    check_sae(PEERS / FILES[SAE_LENS])


@pytest.mark.real
def test_the_packages_make_the_files_anew(sides: tuple[torch.Tensor, torch.Tensor], tmp_path: Path) -> None:
    try:
        make_vectors(tmp_path)
    except UnavailableError as error:
        pytest.skip(str(error))
    check_repeng(read_vectors(tmp_path / FILES[REPENG]), sides)
    check_steering_vectors(read_vectors(tmp_path / FILES[STEERING_VECTORS]), sides)
    check_sae(tmp_path / FILES[SAE_LENS])


@pytest.mark.real
def test_repeng_reads_what_was_exported(tmp_path: Path) -> None:
    vector = read_vectors(PEERS / FILES[STEERING_VECTORS])[5]
    (tmp_path / "v.gguf").write_bytes(gguf_bytes(SteeringVector(vector, 5, 8, {"model_id": "lab/model"})))
    try:
        run_peer(REPENG, str(tmp_path / "v.gguf"), str(tmp_path / "read.json"), script=REPENG_READS)
    except UnavailableError as error:
        pytest.skip(str(error))
    assert json.loads((tmp_path / "read.json").read_text()) == ["lab/model", {"5": vector.tolist()}]


@pytest.mark.real
@pytest.mark.parametrize("layer", [0, 5])
def test_lm_evals_steered_model_has_our_logits(layer: int, model: massact.Model, tmp_path: Path) -> None:
    vector = read_vectors(PEERS / FILES[STEERING_VECTORS])[layer]
    (tmp_path / "v.pt").write_bytes(lm_eval_bytes(SteeringVector(vector, layer, 8, {})))
    tokens = encode_chat(model.steerable, "Can you help me to plant a tree?")
    try:
        run_peer(LM_EVAL, str(MODEL), str(tmp_path / "v.pt"), json.dumps(tokens), str(tmp_path / "logits.pt"))
    except UnavailableError as error:
        pytest.skip(str(error))
    theirs = torch.load(tmp_path / "logits.pt", weights_only=True)
    torch.testing.assert_close(theirs.float(), steered_logits(model, tokens, (layer, vector)), rtol=0, atol=1e-4)
    assert (theirs - steered_logits(model, tokens, (layer + 1, vector))).abs().max() > 0.1


def test_a_sweep_of_other_tools_vectors_is_one_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    (tmp_path / "my.yaml").write_text(EXPERIMENT.replace("gemma-3", "gemma-2"))

    def done(*arguments: str) -> str:
        result = CliRunner().invoke(cli, [*arguments, "--experiment", "my.yaml"])
        assert result.exit_code == 0, result.output
        return result.stdout

    for package, name in ((REPENG, "repeng"), (STEERING_VECTORS, "steering_vectors")):
        shutil.copy(PEERS / FILES[package], tmp_path)
        done("vectors", "import", FILES[package], "--as", name, "--model", "toy", "--trait", "refusal")
    done("calibrate")
    grid = ("--layers", "2-4", "--coefficients", "10,20,30")
    table = done("evaluate", "--method", "imported_repeng,imported_steering_vectors", "--position", "prompt[-1]", *grid)
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in table.splitlines() if "imported" in line]
    assert len(rows) == 2 * 3 * 3
    best = max(float(delta) for _, label, _, _, delta, coherence, _ in rows if label == "imported_steering_vectors")
    assert best > 50
    assert "imported_steering_vectors" in done("best", "--position", "prompt[-1]")
