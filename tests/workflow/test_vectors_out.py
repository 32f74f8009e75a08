"""A stored best goes out to other tools, and does there what it did here."""

import io
import json
import shutil
import sqlite3
from contextlib import closing, redirect_stdout
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors import safe_open

from massact import best, runs, toy
from massact.cli.app import cli
from massact.cli.vectors import _FORMATS
from massact.store.read import open_source
from massact.store.responses import read_responses
from massact.store.tensors import read_tensor
from massact.store.write.artifacts import fetch_from
from massact.vectors.formats import FORMATS, IN_TRANSFORMERS
from tests.support.prepared import PreparedStores, artifacts_moved
from tests.support.small_plan import EXPERIMENT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, prepared_stores: PreparedStores) -> Path:
    folder = tmp_path_factory.mktemp("out")
    prepared_stores.finished(EXPERIMENT, folder)
    return folder


def export(place: Path, *arguments: str) -> Result:
    where = ["--experiment", "small", "--tracking-uri", f"sqlite:///{place}/mlflow.db"]
    return CliRunner().invoke(cli, ["vectors", "export", *where, *arguments])


def best_row(place: Path) -> tuple[str, int, float]:
    rows = best("small", tracking_uri=f"sqlite:///{place}/mlflow.db").rows
    found = (row for row in rows if row.delta is not None)
    row = min(found, key=lambda row: (-(row.delta or 0.0), abs(row.coefficient or 0.0), row.layer, row.label))
    return str(row.run_id), int(row.layer or 0), float(row.coefficient or 0)


def kept(place: Path, run_id: str, name: str) -> Path:
    uri = f"sqlite:///{place}/mlflow.db"
    with closing(open_source(uri)) as source:
        (run,) = source.finished_runs([run_id], tags=())
    return fetch_from(run.artifact_uri, name, tracking_uri=uri)


def test_every_format_holds_the_coefficient_times_the_unit_vector_at_its_layer(place: Path, tmp_path: Path) -> None:
    run_id, layer, coefficient = best_row(place)
    added = coefficient * read_tensor(kept(place, run_id, "vector.safetensors"), "vector")
    for form in FORMATS:
        result = export(place, "--format", form, "--output", str(tmp_path / form))
        assert result.exit_code == 0, result.output
        assert f"layer {layer}, coefficient {coefficient:g} (run {run_id})" in result.stderr
    with safe_open(tmp_path / "safetensors", "pt") as file:
        assert torch.equal(file.get_tensor("vector"), added)
        facts = file.metadata()
    assert (facts["run_id"], facts["layer"], facts["model_id"]) == (run_id, str(layer), "toy:gemma-3-instruct")
    every = torch.load(tmp_path / "pt", weights_only=True)
    assert every.shape == (8, len(added))
    assert torch.equal(every[layer], added)
    assert torch.count_nonzero(every.norm(dim=1)) == 1
    hooks = torch.load(tmp_path / "lm-eval", weights_only=True)
    ((name, action),) = hooks.items()
    assert (name, action["action"], action["steering_coefficient"]) == (f"layers.{layer}", "add", 1.0)
    assert torch.equal(action["steering_vector"], added)
    folder = tmp_path / "hub-folder"
    assert {path.name for path in folder.iterdir()} == {
        "README.md",
        "steering.json",
        "vector.gguf",
        "vector.safetensors",
    }
    assert json.loads((folder / "steering.json").read_text())["run_id"] == run_id
    assert (folder / "vector.gguf").read_bytes() == (tmp_path / "gguf").read_bytes()


def test_a_control_vector_has_what_llama_cpp_reads(place: Path, tmp_path: Path) -> None:
    from gguf import GGUFReader

    run_id, layer, coefficient = best_row(place)
    assert export(place, "--format", "gguf", "--output", str(tmp_path / "v.gguf")).exit_code == 0
    reader = GGUFReader(tmp_path / "v.gguf")
    told = {name: field.contents() for name, field in reader.fields.items()}
    assert (told["general.architecture"], told["controlvector.layer_count"]) == ("controlvector", 1)
    (tensor,) = reader.tensors
    assert (tensor.name, tensor.tensor_type.name, len(tensor.shape)) == (f"direction.{layer}", "F32", 1)
    unit = read_tensor(kept(place, run_id, "vector.safetensors"), "vector")
    assert torch.equal(torch.from_numpy(tensor.data.copy()), coefficient * unit)


def test_in_plain_transformers_it_gives_the_stored_responses(place: Path, tmp_path: Path) -> None:
    rows = runs("small", tracking_uri=f"sqlite:///{place}/mlflow.db").rows
    chosen = {best_row(place)[0], *(row.run_id for row in rows if row.label in ("probe", "mean_diff_top1"))}
    responses = []
    for run_id in chosen:
        assert export(place, "--run", run_id, "--output", str(tmp_path / "vector.safetensors")).exit_code == 0
        for one in read_responses(kept(place, run_id, "responses.json")):
            told = {"MODEL": str(toy.resolve("toy:gemma-3-instruct")), "QUESTION": one.question, "MAX_NEW_TOKENS": 24}
            with redirect_stdout(io.StringIO()) as printed:
                exec(IN_TRANSFORMERS.replace('"vector.safe', f'"{tmp_path}/vector.safe'), told)
            assert printed.getvalue().strip() == one.response.strip()
            responses.append(one.response)
    assert len(responses) >= 8
    assert len(set(responses)) > 4


def test_what_went_out_comes_in_again_as_a_method_with_the_same_result(place: Path, tmp_path: Path) -> None:
    prepared = tmp_path / "again"
    shutil.copytree(place, prepared)
    with closing(sqlite3.connect(prepared / "mlflow.db")) as database:
        artifacts_moved(database, str(place), str(prepared))
    run_id, layer, coefficient = best_row(place)
    assert export(place, "--format", "gguf", "--output", str(prepared / "lab.gguf")).exit_code == 0
    gate = 'gates:\n  lab: {label: imported_lab, position: "prompt[-1]", layer: 2, threshold: 0}\n'
    told = f"vectors:\n  imported_lab: {{file: ./lab.gguf, model: toy, trait: refusal}}\n{gate}"
    (prepared / "small.yaml").write_text(EXPERIMENT + told)
    uri = f"sqlite:///{prepared}/mlflow.db"

    def evaluate(*arguments: str) -> Result:
        where = ["--experiment", str(prepared / "small.yaml"), "--tracking-uri", uri, "--position", "response[:5]"]
        return CliRunner().invoke(cli, ["evaluate", *where, "--coefficients", f"{coefficient:g}", *arguments])

    done = evaluate("--method", "imported_lab", "--layers", str(layer), "--alike", "off")
    assert done.exit_code == 0, done.output
    rows = {row.label: row for row in best(str(prepared / "small.yaml"), tracking_uri=uri).rows}
    ours = max((row for row in rows.values() if row.run_id == run_id), key=lambda row: row.label)
    theirs = rows["imported_lab"]
    assert (theirs.layer, theirs.coefficient) == (ours.layer, ours.coefficient)
    assert theirs.delta == pytest.approx(ours.delta, abs=1e-4)
    texts = [
        read_responses(kept(folder, one, "responses.json"))
        for folder, one in ((place, run_id), (prepared, str(theirs.run_id)))
    ]
    assert [one.response for one in texts[0]] == [one.response for one in texts[1]]
    assert "no vector of layer 2, only of 3" in evaluate("--method", "imported_lab", "--layers", "2").stderr
    assert "no vector of layer 2, only of 3" in evaluate("--method", "probe+if_lab", "--layers", "3").stderr
    assert "only cleaned afterwards" in evaluate("--method", "imported_lab_preclean", "--layers", "3").stderr
    assert "not in the file's `vectors`" in evaluate("--method", "imported_other", "--layers", "3").stderr


def test_what_cannot_be_written_is_said(place: Path, tmp_path: Path) -> None:
    run_id, _, _ = best_row(place)
    output = ("--output", str(tmp_path / "v"))
    assert "is no finished evaluation with a vector" in export(place, "--run", "0" * 32, *output).stderr
    assert "leave out --model" in export(place, "--run", run_id, "--layer", "3", *output).stderr
    assert "--format lm-eval alone" in export(place, "--hookpoint", "h.{layer}", *output).stderr
    nothing = export(place, "--label", "gradient", *output)
    assert (nothing.exit_code, list(tmp_path.iterdir())) == (2, [])
    (tmp_path / "file").write_text("")
    assert "cannot write" in export(place, "--output", str(tmp_path / "file" / "v")).stderr
    assert _FORMATS == FORMATS


def test_the_page_shows_the_same_lines() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "vectors.md"
    assert IN_TRANSFORMERS in page.read_text(encoding="utf-8")
