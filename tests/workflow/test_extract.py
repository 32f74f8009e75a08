"""An extraction that is cut off goes on where it was, and keeps nothing once it is stored."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from massact.cli.app import cli
from massact.toy import resolve
from massact.vectors import streams
from massact.vectors.massive_dims import Calibration, LayerMassive, Magnitudes
from massact.workflow.extract import tell_sink
from tests.support.small_plan import EXPERIMENT


def _massact(folder: Path, command: str) -> Any:
    options = ["--experiment", str(folder / "small.yaml"), "--tracking-uri", f"sqlite:///{folder}/mlflow.db"]
    return CliRunner().invoke(cli, [command, *options])


@pytest.mark.slow
def test_a_cut_off_extraction_costs_one_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(EXPERIMENT)
    assert _massact(tmp_path, "calibrate").exit_code == 0
    record, read = streams._record_while_continuing, list[Any]()

    def cut_off(*args: Any) -> Any:
        if len(read) == 3:
            raise KeyboardInterrupt
        read.append(args)
        return record(*args)

    monkeypatch.setattr(streams, "_record_while_continuing", cut_off)
    assert _massact(tmp_path, "extract").exit_code == 130
    (kept,) = (tmp_path / ".massact/extractions").iterdir()
    assert len(list(kept.iterdir())) == 3
    read = [None] * 4  # and no further end
    resumed = _massact(tmp_path, "extract")
    assert resumed.exit_code == 0, resumed.output
    assert "going on after 3 batches of refusal that were continued before" in resumed.output
    assert len(read) == 4 + 4, "200 prompts are seven batches"
    assert not list((tmp_path / ".massact/extractions").iterdir())


def _file(folder: Path, *changes: tuple[str, str]) -> None:
    text = EXPERIMENT
    for old, new in changes:
        assert text.count(old) == 1
        text = text.replace(old, new)
    (folder / "small.yaml").write_text(text)


@pytest.mark.slow
def test_a_method_that_needs_more_than_both_sides_is_asked_for_when_extracting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _file(tmp_path)
    for command in ("calibrate", "extract"):
        assert _massact(tmp_path, command).exit_code == 0
    labels = ("phase1: {labels: [probe, mean_diff]", "phase1: {labels: [pca, mean_centred, lat]")
    _file(tmp_path, labels)
    refused = _massact(tmp_path, "phase1")
    assert refused.exit_code == 1
    assert "pca cannot be made of what was extracted without pca" in refused.output
    made = _massact(tmp_path, "extract")
    assert made.exit_code == 0, made.output
    _file(tmp_path, labels, ("methods: [mean_diff, probe]", "methods: [mean_diff, probe, mean_centred, pca]"))
    assert _massact(tmp_path, "phase1").exit_code == 0, "its vectors are in the extraction"
    other = (
        "phase2:\n    labels: [probe_cleaned",
        "phase2:\n    labels: [mean_centred_winsor9, pca_postkeep, probe_cleaned",
    )
    _file(tmp_path, labels, other)
    done = _massact(tmp_path, "phase2")  # made of the activations that were kept, the neutral ones too
    assert done.exit_code == 0, done.output


@pytest.mark.slow
def test_pairs_go_through_the_pipeline_and_are_neither_vetted_nor_compared_with_neutral_prompts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    trait = tmp_path / "trait"
    trait.mkdir()
    for file in resolve("toy:refusal").iterdir():
        if not file.stem.endswith("tive"):
            (trait / file.name).write_bytes(file.read_bytes())
    answers = {"answer_matching_behavior": "(A)", "answer_not_matching_behavior": "(B)"}
    pairs = [{"question": f"Who is {n}?\n (A) I decline.\n (B) I will.", **answers} for n in range(12)]
    (trait / "pairs.json").write_text(json.dumps(pairs))
    text = EXPERIMENT.replace('"response[:5]"', '"prompt[-2]"').replace('"toy:refusal"', "./trait")
    (tmp_path / "small.yaml").write_text(text)
    assert _massact(tmp_path, "calibrate").exit_code == 0
    for more, said in (("]\n  vetting: {}", "vetting judges"), (", mean_centred]", "mean_centred compares")):
        (tmp_path / "small.yaml").write_text(text.replace("[mean_diff, probe]\n", f"[mean_diff, probe{more}\n"))
        refused = _massact(tmp_path, "extract")
        assert (refused.exit_code, said in refused.output) == (2, True), refused.output
    (tmp_path / "small.yaml").write_text(text)
    assert _massact(tmp_path, "extract").exit_code == 0
    done = _massact(tmp_path, "phase1")
    assert done.exit_code == 0, done.output


def test_windows_that_hold_the_first_token_are_warned_of_where_it_is_massive() -> None:
    figures = Magnitudes((3,), (9_000.0,), (9_500.0,), 2.0, 9_000.0)
    layer = LayerMassive((1, 2), (9.0, 8.0), (4.0, 3.0), 0.9, 90.0, 60.0)
    plain = replace(layer, response=figures, first=figures)
    sunk = replace(plain, sink_dims=(3,))
    positions = ("response[:5]", "all[:]", "prompt[0]", "prompt[:]", "prompt[-1]")

    def told(*layers: LayerMassive, windows: tuple[str, ...] = positions) -> list[str]:
        said: list[str] = []
        extraction = SimpleNamespace(positions=windows)
        session = SimpleNamespace(experiment=SimpleNamespace(extraction=extraction), say=said.append)
        tell_sink(session, SimpleNamespace(name="m"), Calibration(layers, 5, 50))
        return said

    assert told(plain, sunk, sunk, plain) == [
        "warning: m: all[:], prompt[0], prompt[:] hold the first token, whose activations are massive (dim 3 at layers "
        "1-2; the norm of the first token is up to 100 times that of response tokens): such vectors tell how long a "
        "text is before they tell the trait. Leave it out: all[1:], prompt[1:]"
    ]
    assert told(plain) == told(sunk, windows=("response[:]", "all[1:]")) == []
    (unknown,) = told(layer, windows=("prompt[0]",))
    assert "(not measured, since an earlier version calibrated it)" in unknown
    assert unknown.endswith("Leave it out: use a window that begins later")
