"""Vectors of other tools come into an experiment file, which keeps every comment, or nothing is written."""

from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner, Result

from massact.cli.app import cli
from massact.config import load_experiment
from massact.vectors.imported import read_vectors
from tests.support.small_plan import EXPERIMENT

A, B = torch.arange(96.0), torch.full((96,), -0.5)
COMMENTED = f"# of the lab\n{EXPERIMENT}# the end"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "small.yaml").write_text(COMMENTED)
    torch.save({3: A, 5: B}, tmp_path / "both.pt")
    return tmp_path


def bring(place: Path, *arguments: str) -> Result:
    files = [str(place / one) if one.endswith((".pt", ".sae")) else one for one in arguments]
    return CliRunner().invoke(cli, ["vectors", "import", *files, "--experiment", str(place / "small.yaml")])


def test_a_file_becomes_a_method_and_the_experiment_file_keeps_what_it_says(place: Path) -> None:
    done = bring(place, "both.pt", "--as", "lab", "--model", "toy", "--trait", "refusal")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("layer 3: length 538.8, digest 59f3a271b097ad34\nlayer 5: length 4.899, digest ")
    assert "imported_lab: 96 dims at layers 3, 5" in done.stderr
    text = (place / "small.yaml").read_text()
    assert text.startswith(COMMENTED)
    (added,) = [line for line in text.removeprefix(COMMENTED).splitlines() if "imported" in line]
    assert "# layers 3, 5, of 'both.pt (sha256 " in added
    (config,) = load_experiment(place / "small.yaml").vectors
    assert (config.name, config.model, config.trait) == ("imported_lab", "toy", "refusal")
    found = read_vectors(place / config.file)
    assert [(layer, vector.tolist()) for layer, vector in found.items()] == [(3, A.tolist()), (5, B.tolist())]


def test_a_second_goes_under_the_key_that_is_there_with_its_indentation(place: Path) -> None:
    section = "vectors:   # of others\n    # the lab's\n    imported_old: {file: ./old.gguf}\n"
    before = COMMENTED.replace("judge: likelihood\n", f"judge: likelihood\n{section}").replace("\n", "\r\n")
    (place / "small.yaml").write_bytes(before.encode())
    assert bring(place, "both.pt", "--as", "imported_lab").exit_code == 0
    after = (place / "small.yaml").read_bytes().decode()
    (added,) = set(after.split("\r\n")) - set(before.split("\r\n"))
    assert after.replace(f"{added}\r\n", "") == before
    assert added.startswith("    imported_lab: {file: ./vectors/imported_lab.safetensors}  # ")
    assert [one.name for one in load_experiment(place / "small.yaml").vectors] == ["imported_lab", "imported_old"]


def test_several_files_are_layers_of_one_method_and_layers_are_shifted_as_asked(place: Path) -> None:
    torch.save({2: B}, place / "two.pt")
    assert bring(place, "both.pt", "two.pt", "--as", "lab", "--layer-shift", "-1").exit_code == 0
    assert list(read_vectors(place / "vectors/imported_lab.safetensors")) == [1, 2, 4]
    torch.save(A, place / "one.pt")
    assert bring(place, "one.pt", "--as", "one", "--layer", "6").exit_code == 0
    assert list(read_vectors(place / "vectors/imported_one.safetensors")) == [6]


@pytest.mark.parametrize(
    ("content", "arguments", "reason"),
    [
        ({8: A}, [], "layer 8: toy has layers 0 to 7 of 96 dims"),
        ({-1: A}, [], "which layer is -1"),
        ({0: A}, ["--layer-shift", "-1"], "layer -1: toy has layers 0 to 7"),
        ({3: A[:5]}, [], "vectors of 5 dims: toy has layers 0 to 7 of 96 dims"),
        (A, [], "nothing says of which layer"),
        ({3: A}, ["--index", "2"], "names a row of a SAELens folder"),
        ({3: A}, ["--model", "other"], "declares no model 'other'"),
        ({3: A}, ["--trait", "calm"], "declares no trait 'calm'"),
        ({3: A}, ["--as", "lab_top1"], "the name ends as a cleaning"),
        ({3: A}, ["--as", "Lab"], "lower-case letters"),
        ({3: A}, ["both.pt"], "another file has a vector of layer 3 too"),
        ({3: A}, ["none.pt"], "there is no such file"),
    ],
)
def test_what_cannot_be_is_said_and_nothing_is_written(
    content: object, arguments: list[str], reason: str, place: Path
) -> None:
    torch.save(content, place / "given.pt")
    named = [] if "--as" in arguments else ["--as", "lab"]
    done = bring(place, "given.pt", *named, *arguments)
    assert (done.exit_code, reason in done.stderr) == (2, True), done.output
    assert (place / "small.yaml").read_text() == COMMENTED
    assert not (place / "vectors").exists()


def test_neither_a_name_nor_a_file_is_overwritten(place: Path) -> None:
    (place / "vectors").mkdir()
    (place / "vectors/imported_lab.safetensors").write_bytes(b"mine")
    assert "is there already" in bring(place, "both.pt", "--as", "lab").stderr
    assert (place / "vectors/imported_lab.safetensors").read_bytes() == b"mine"
    assert bring(place, "both.pt", "--as", "other").exit_code == 0
    again = bring(place, "both.pt", "--as", "other")
    assert (again.exit_code, "has imported_other already" in again.stderr) == (2, True)
    assert list(yaml.safe_load((place / "small.yaml").read_text())["vectors"]) == ["imported_other"]


def test_a_key_that_takes_no_line_is_left_to_the_person(place: Path) -> None:
    flow = COMMENTED.replace("subset: 2\n", "subset: 2\nvectors: {imported_old: {file: ./old.gguf}}\n")
    (place / "small.yaml").write_text(flow)
    done = bring(place, "both.pt", "--as", "lab")
    assert "write under its key `vectors`" in done.stderr
    assert "imported_lab: {file: ./vectors/imported_lab.safetensors}" in done.stderr
    assert ((place / "small.yaml").read_text(), (place / "vectors").exists()) == (flow, False)
