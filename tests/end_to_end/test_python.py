"""What a notebook does is what the commands do: the same vectors, the same responses, the same runs."""

import re
import shlex
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

import massact
from massact.cli.app import cli
from massact.data.traits import load_prompts, load_trait
from massact.domain import Cell
from massact.errors import DataError, UsageError
from massact.store.read import open_source
from massact.store.responses import read_responses
from massact.store.schema import EvaluationRow, stored_cell
from massact.store.tensors import read_tensor
from massact.store.write.artifacts import fetch_from
from tests.support.prepared import PreparedStores
from tests.support.small_plan import EXPERIMENT

pytestmark = pytest.mark.slow

UNSPLIT = EXPERIMENT.replace("layer_dims: [1]", "layer_dims: [1]\n  validation_split: 0")


@pytest.fixture(scope="module")
def model() -> massact.Model:
    return massact.Model.load("toy:gemma-3-instruct", dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def base() -> massact.Model:
    return massact.Model.load("toy:gemma-3-base", dtype="float32", device="cpu")


def unit(d_model: int) -> torch.Tensor:
    vector = torch.zeros(d_model)
    vector[0] = 1.0
    return vector


def command(folder: Path, name: str, *arguments: str) -> Result:
    where = ["--experiment", str(folder / "small.yaml"), "--tracking-uri", f"sqlite:///{folder}/mlflow.db"]
    return CliRunner().invoke(cli, [name, *where, *arguments])


def test_importing_massact_loads_nothing_heavy() -> None:
    code = "import sys, massact; print([name for name in ('torch', 'mlflow', 'click') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert {"Model", "Intervention", "extract", "evaluate"} <= set(dir(massact))


def test_what_is_recorded_is_the_output_of_each_block(base: massact.Model) -> None:
    prompts = ["We were at the table when Nina asked", "Last week a neighbor wanted to"]
    said = base.record(prompts, ["prompt[-1]", "response[:3]", "all[:]"], max_new_tokens=6)
    assert said.shape == (3, 2, base.shape.n_layers, base.shape.d_model)
    tokenizer, plain = base.steerable.tokenizer, base.steerable.model
    for i, prompt in enumerate(prompts):
        read = tokenizer(prompt, return_tensors="pt")
        n = read["input_ids"].shape[1]
        whole = plain.generate(**read, max_new_tokens=6, do_sample=False)
        states = list(plain(whole[:, : n + 6], output_hidden_states=True).hidden_states[1:-1])  # the last is normed
        for layer, state in enumerate(states):
            for p, window in enumerate((slice(n - 1, n), slice(n, n + 3), slice(0, n + 6))):
                torch.testing.assert_close(said[p, i, layer], state[0, window].mean(0), rtol=1e-4, atol=1e-3)
    alone = base.record(prompts, "prompt[-1]")
    torch.testing.assert_close(alone, said[0], rtol=1e-4, atol=1e-3)


def test_vectors_are_those_that_an_extraction_stores(
    model: massact.Model, base: massact.Model, tmp_path: Path, prepared_stores: PreparedStores
) -> None:
    prepared_stores.copy(UNSPLIT, tmp_path)
    trait = load_trait("toy:refusal")
    positive, negative = ([prompt.text for prompt in side] for side in (trait.positive, trait.negative))
    (folder,) = {path.parent for path in tmp_path.rglob("mean_diff_cleaned.safetensors")}
    calibration = model.calibrate(load_prompts("toy:calibration"))
    for label in ("mean_diff", "probe", "mean_diff_top1", "probe_preclean"):
        made = massact.extract(base, positive, negative, label, position="response[:5]", calibration=calibration)
        assert torch.equal(made, read_tensor(folder / f"{label}.safetensors", "vectors")), label
    steered = massact.extract(base, positive, negative, "probe+ablate@response")
    assert torch.equal(steered, read_tensor(folder / "probe.safetensors", "vectors"))


def test_generating_gives_the_responses_of_the_stored_runs(
    model: massact.Model, tmp_path: Path, prepared_stores: PreparedStores, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared_stores.finished(EXPERIMENT, tmp_path)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    file, other_ways = tmp_path / "small.yaml", ["probe+ablate+everylayer", "mean_diff+2layers+decay0.9@response"]
    massact.evaluate(file, other_ways, "response[:5]", layers=3, coefficients=[1, 16], tracking_uri=uri)
    rows = massact.runs(str(file), tracking_uri=uri).rows
    chosen = [row for row in rows if row.label in ("probe", "mean_diff_cleaned", *other_ways)]
    assert len(chosen) == 8
    interventions = [model.stored(row.run_id, tracking_uri=uri) for row in chosen]
    with closing(open_source(uri)) as source:
        runs = [source.finished_runs([row.run_id], tags=())[0] for row in chosen]
    stored = [read_responses(fetch_from(run.artifact_uri, "responses.json", tracking_uri=uri)) for run in runs]
    questions = [one.question for one in stored[0]]
    plain, *steered = model.generate(questions, [None, *interventions], max_new_tokens=24)
    assert steered == [[one.response for one in responses] for responses in stored]
    assert model.generate(questions, interventions[0], max_new_tokens=24) == steered[0]
    assert model.generate(questions, max_new_tokens=24) == plain
    assert len(set(map(tuple, [plain, *steered]))) > 4
    other = massact.Model.load("toy:gemma-2-instruct", dtype="float32", device="cpu")
    with pytest.raises(UsageError, match=r"steered .*gemma-3-instruct.*, and this is .*gemma-2"):
        other.stored(chosen[0].run_id, tracking_uri=uri)
    with pytest.raises(UsageError, match="no finished evaluation with a vector"):
        model.stored("0" * 32, tracking_uri=uri)

    def changed(row: EvaluationRow) -> Cell:
        cell = stored_cell(row)
        assert cell is not None
        assert cell.steering is not None
        return replace(cell, steering=replace(cell.steering, operator_source="0" * 64))

    monkeypatch.setattr("massact.workflow.steered.stored_cell", changed)
    with pytest.raises(UsageError, match="the file of the operator add was changed since"):
        model.stored(next(row.run_id for row in chosen if row.label == "probe"), tracking_uri=uri)


def test_evaluations_are_the_runs_of_the_command(tmp_path: Path, prepared_stores: PreparedStores) -> None:
    grid = ["--position", "response[:5]", "--layers", "3", "--coefficients", "16,24"]
    for name in ("python", "command"):
        (tmp_path / name).mkdir()
        prepared_stores.copy(EXPERIMENT, tmp_path / name)
    file, uri = tmp_path / "python/small.yaml", f"sqlite:///{tmp_path}/python/mlflow.db"
    made = massact.evaluate(
        file, ["probe", "mean_diff_top1"], "response[:5]", layers=[3], coefficients=[16, 24.0], tracking_uri=uri
    )
    assert [(row.status, row.coefficient) for row in made.rows].count(("ok", 24.0)) == 2
    assert command(tmp_path / "command", "evaluate", "--method", "probe,mean_diff_top1", *grid).exit_code == 0
    theirs = massact.runs(str(tmp_path / "command/small.yaml"), tracking_uri=uri.replace("python", "command")).rows
    assert {row.key: row.delta for row in made.rows} == {row.key: row.delta for row in theirs}
    again = command(tmp_path / "python", "evaluate", "--method", "probe,mean_diff_top1", *grid)
    assert "4 finished already" in again.stderr + again.stdout
    more = massact.evaluate(file, "probe", "response[:5]", layers="3", coefficients=24, subset=1, tracking_uri=uri)
    assert [(row.label, row.n_scored) for row in more.rows] == [("probe", 1)]
    assert len(massact.runs(str(file), tracking_uri=uri, all_settings=True).rows) == 5


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"layer": -1}, "layer -1: the model has layers 0 to 7"),
        ({"layer": 8}, "layer 8: the model has layers 0 to 7"),
        ({"vector": torch.ones(3)}, r"shape \[3\]: it is \[\d+\], or \[n_layers, \d+\]"),
        ({"coefficient": float("nan")}, "not a finite number"),
        ({"operator": "melt"}, "no operator 'melt'"),
        ({"tokens": "response[-1]"}, "names no token that is known"),
        ({"operator": "replace"}, r"shape \[96\]: it is \[n_layers, k \+ 2, 96\]"),
        ({"weights": (1.0, 0.5)}, "a weight for each layer"),
        ({"decay": 1.5}, "a decay above 0 to 1"),
        ({"gate": massact.Gate(3, "prompt[-1]", 0.0)}, "belong together"),
        ({"vector": torch.zeros(0, 96)}, r"shape \[0, 96\]"),
        *(
            ({"gate": gate, "condition": torch.ones(n)}, "a gate holds a window of the prompt")
            for gate, n in (
                (massact.Gate(8, "prompt[-1]", 0.0), 96),
                (massact.Gate(-1, "prompt[-1]", 0.0), 96),
                (massact.Gate(3, "response[:5]", 0.0), 96),
                (massact.Gate(3, "prompt[-1]", float("nan")), 96),
                (massact.Gate(3, "prompt[-1]", 0.0, measure="cos"), 96),  # type: ignore[arg-type]
                (massact.Gate(3, "prompt[-1]", 0.0, opens="up"), 96),  # type: ignore[arg-type]
                (massact.Gate(3, "prompt[-1]", 0.0), 5),
            )
        ),
    ],
)
def test_an_intervention_that_the_model_cannot_have(
    changes: dict[str, object], reason: str, model: massact.Model
) -> None:
    told = {"layer": 3, "vector": unit(model.shape.d_model), "coefficient": 1.0, **changes}
    with pytest.raises(UsageError, match=reason):
        model.generate(["Hello"], massact.Intervention(**told))  # type: ignore[arg-type]


def test_slips_of_a_notebook_are_told(model: massact.Model) -> None:
    long = massact.Intervention(3, 24 * unit(model.shape.d_model), 1.0)
    with pytest.raises(UsageError, match=r"length 24: the coefficient multiplies a unit vector"):
        model.generate(["Hello"], long)
    with pytest.raises(UsageError, match="write \\[prompt\\]"):
        massact.extract(model, "two", ["c", "d"])
    with pytest.raises(UsageError, match="and 7 is none"):
        model.record([7])  # type: ignore[list-item]
    with pytest.raises(TypeError, match=r"massact\.Model\.load takes no 'dtyp'; .* dtype, device, "):
        massact.Model.load("toy:gemma-3-base", dtyp="float32")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"massact\.evaluate takes no 'layer'; .* model, trait, "):
        massact.evaluate("toy", "probe", "response[:5]", layer=3)  # type: ignore[call-arg]
    with pytest.raises(UsageError, match=r"3 is no massact\.Intervention"):
        model.generate(["Hello"], [None, 3])  # type: ignore[list-item]
    with pytest.raises(UsageError, match=r"labels='probe' is one value, .*write labels=\['probe'\]"):
        massact.Filters(labels="probe")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no window to read"):
        model.record(["Hello"], [])
    with pytest.raises(UsageError, match=r"no text has a token in response\[5:3\]"):
        model.record(["Hello"], "response[5:3]")
    with pytest.raises(UsageError, match=r"layer '3', coefficient 1\.0: a whole number"):
        massact.Intervention("3", unit(model.shape.d_model), 1.0)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"massact.extract\(…, neutral=\[…\]\)"):
        massact.extract(model, ["a", "b"], ["c", "d"], "mean_centred")
    neutral = massact.extract(model, ["a b", "b c"], ["c", "d"], "mean_centred", neutral=["e f", "g h", "i"])
    others = massact.extract(model, ["a b", "b c"], ["e f", "g h", "i"], "mean_diff")
    assert neutral.allclose(others, atol=1e-6)  # what it is of the positive side and neutral text
    assert repr(model) == "<Model toy:gemma-3-instruct, float32: n_layers=8, d_model=96>"
    assert "tensor" not in repr(long)
    with pytest.raises(UsageError, match="write \\[prompt\\]"):
        model.generate("Hello")
    for texts in (("one text", ["c", "d"]), (["a", "b"], "one text")):
        with pytest.raises(UsageError, match="write \\[prompt\\]"):
            massact.extract(model, *texts)
    with pytest.raises(DataError, match="3 positive and 2 negative"):
        massact.extract(model, ["a", "b", "c"], ["d", "e"], "pca")
    with pytest.raises(UsageError, match="temperature -1"):
        model.generate(["Hello"], temperature=-1)
    for slip in ({"direction": "up"}, {"save_responses": "some"}):
        with pytest.raises(UsageError, match="is not allowed; write"):
            massact.evaluate("experiments/toy.yaml", "probe", "response[:5]", **slip)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="max_new_tokens 0"):
        model.generate(["Hello"], max_new_tokens=0)
    with pytest.raises(UsageError, match=r"response\[:\] has no end"):
        model.record(["Hello"], "response[:]")
    with pytest.raises(UsageError, match=r"dtype 'fp32' is not allowed; write auto or float32"):
        massact.Model.load("toy:gemma-3-base", dtype="fp32")
    with pytest.raises(UsageError, match=r"give calibration=model\.calibrate\(\)"):
        massact.extract(model, ["a", "b"], ["c", "d"], "probe_top1")
    with pytest.raises(UsageError, match="another tool's vectors are imported"):
        massact.extract(model, ["a", "b"], ["c", "d"], "imported_lab")


def test_the_blocks_of_the_page_run(
    tmp_path: Path, prepared_stores: PreparedStores, monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    (tmp_path / "experiments").mkdir()
    text = EXPERIMENT.replace("  toy:\n", "  toy-gemma-3:\n")
    prepared_stores.copy(text, tmp_path, file="experiments/toy.yaml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    told: dict[str, Any] = {}
    assert [_run_blocks(root / "docs/python.md", told), _run_blocks(root / "README.md", told)] == [5, 1]
    massact.evaluate("experiments/toy.yaml", "probe", "response[:5]", coefficients=[24])
    assert _run_blocks(root / "docs/tutorial.md", told) == 1
    assert told["steered"] != told["plain"]
    answer = told["grid"]
    assert sorted({(row.label, row.coefficient) for row in answer.rows}) == [
        *(("mean_diff", 1.0), ("mean_diff", 24.0), ("mean_diff+ablate", 1.0), ("mean_diff+ablate", 24.0))
    ]


def _run_blocks(page: Path, told: dict[str, Any]) -> int:
    """Run a page's Python, and the commands between it where there is any; returns how many blocks of Python."""
    blocks = re.findall(r"^```(python|console)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    for kind, block in blocks:
        if kind == "python":
            exec(compile(block, page.name, "exec"), told)
        elif page.name == "python.md":
            for line in re.findall(r"^\$ massact (.*)$", block, re.MULTILINE):
                done = CliRunner().invoke(cli, shlex.split(line))
                assert done.exit_code == 0, done.output
    return sum(kind == "python" for kind, _ in blocks)
