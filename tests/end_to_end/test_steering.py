"""Operators, tokens and bands of layers from the command line to the store and back."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient

from massact.cli.app import cli
from massact.doctor.artifacts import digest_in
from massact.keys import cell_key, read_cell
from massact.store.schema import Artifact, Tag

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
