"""Damage made on purpose: found, mended where it can be, and the answers of questions unchanged."""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from massact.doctor.base import ArtifactError, RunFiles
from massact.domain import Response
from massact.store.responses import response_bytes
from massact.store.schema import Artifact, Kind, MlflowTag, Tag, encode_row
from massact.store.write.client import parent_tags, this_process
from massact.store.write.stages import tensor_bytes
from tests.support.doctor_store import (
    HOUR,
    LABELS,
    Made,
    activations,
    answers,
    break_things,
    contents,
    dead_process,
    evaluate,
    extract,
    look,
    make_store,
    open_run,
    told,
    write,
)
from tests.support.store_fixtures import EXPERIMENT, evaluation_row


@pytest.fixture
def made(uri: str) -> Made:
    """A healthy store of this test's own."""
    return make_store(uri)


def now() -> int:
    return int(time.time() * 1000)


def test_a_healthy_store_is_healthy(made: Made) -> None:
    imported = evaluation_row("probe", 1, origin="imported", vector_digest=None)
    write(made, "imported", imported, None)
    with made.tracker.phase("phase1", params={}):
        assert look(made.uri) == []
        assert look(made.uri, fix=True) == []


def test_everything_is_found_without_a_byte_written(made: Made, tmp_path: Path) -> None:
    mended = break_things(made)
    before = contents(tmp_path)
    found = look(made.uri)
    assert contents(tmp_path) == before
    assert set(told(found)) == {("found" if state == "mended" else state, check) for state, check in mended}


def test_everything_is_mended_once_and_no_answer_changes(made: Made) -> None:
    mended = break_things(made)
    before, n_runs = answers(made.uri), len(made.client.search_runs([made.phase.experiment_id]))
    assert set(told(look(made.uri, fix=True))) == mended
    assert answers(made.uri) == before
    assert len(made.client.search_runs([made.phase.experiment_id])) == n_runs
    assert {state for state, _ in told(look(made.uri, fix=True))} == {"remains"}


# --- runs left running


def test_a_dead_process_s_runs_are_killed_at_their_last_sign_of_life(made: Made) -> None:
    start = now() - HOUR
    main = open_run(made, "main run", process=dead_process(), at=start)
    phase = open_run(made, "phase run", process=dead_process(), at=start + 1000, **parent_tags(main))
    write_child(made, phase, at=start + 5000)
    outcomes = look(made.uri, fix=True)
    assert told(outcomes) == [("mended", "abandoned")] * 2
    for run_id in (main, phase):
        run = made.client.get_run(run_id)
        assert (run.info.status, run.info.end_time) == ("KILLED", start + 5000)
        assert run.data.tags[Tag.ERROR] == "left running by a process that ended"
    assert look(made.uri, fix=True) == []


def write_child(made: Made, parent: str, *, at: int) -> None:
    run = made.client.create_run(made.phase.experiment_id, start_time=at - 10, tags=parent_tags(parent))
    made.client.set_terminated(run.info.run_id, end_time=at)


@pytest.mark.parametrize("kind", [Kind.PHASE, Kind.CALIBRATION, Kind.EXTRACTION, Kind.REPORT, Kind.EVALUATION])
def test_a_live_process_s_run_is_never_touched(made: Made, kind: Kind) -> None:
    run_id = open_run(made, "at work", process=this_process(), at=now() - 1000 * HOUR, kind=kind)
    assert look(made.uri, fix=True, stale_after_hours=0) == []
    assert made.client.get_run(run_id).info.status == "RUNNING"


@pytest.mark.parametrize("kind", [Kind.PHASE, Kind.CALIBRATION, Kind.EXTRACTION, Kind.REPORT, Kind.EVALUATION])
def test_runs_of_every_kind_are_found(made: Made, kind: Kind) -> None:
    open_run(made, "left", process=dead_process(), at=now(), kind=kind)
    assert told(look(made.uri, fix=True)) == [("mended", "abandoned")]


@pytest.mark.parametrize("is_old_massact", [True, False])
@pytest.mark.parametrize(("hours", "state", "status"), [(47, "note", "RUNNING"), (49, "mended", "KILLED")])
def test_what_cannot_be_asked_is_dead_only_when_it_is_old(
    made: Made, is_old_massact: bool, hours: int, state: str, status: str
) -> None:
    process = None if is_old_massact else replace(this_process(), host="another")
    run_id = open_run(made, "far away", process=process, at=now() - hours * HOUR)
    (outcome,) = look(made.uri, fix=True)
    assert (outcome.state, outcome.finding.run_id) == (state, run_id)
    assert ("older massact" if is_old_massact else "on another") in outcome.finding.what
    assert made.client.get_run(run_id).info.status == status


def test_what_was_at_work_lately_is_not_old(made: Made) -> None:
    run_id = open_run(made, "long", process=None, at=now() - 90 * HOUR)
    write_child(made, run_id, at=now() - HOUR)
    child = open_run(made, "below", process=None, at=now() - 2 * HOUR, **parent_tags(run_id))
    outcomes = look(made.uri, fix=True)
    assert told(outcomes) == [("note", "abandoned")] * 2
    assert {one.finding.run_id for one in outcomes} == {run_id, child}
    assert told(look(made.uri, fix=True, stale_after_hours=0.5)) == [("mended", "abandoned")] * 2


def test_runs_of_other_tools_and_experiments_are_not_touched(made: Made) -> None:
    client, home = made.client, made.phase.experiment_id
    foreign = client.create_run(home, start_time=1).info.run_id
    named = client.create_run(home, start_time=1, tags={Tag.EXPERIMENT.value: EXPERIMENT}).info.run_id
    tags = {Tag.KIND.value: "phase", Tag.EXPERIMENT.value: "another"}
    other = client.create_run(home, start_time=1, tags=tags).info.run_id
    deleted = open_run(made, "deleted", process=dead_process(), at=1)
    client.delete_run(deleted)
    assert look(made.uri, fix=True, stale_after_hours=0) == []
    for run_id in (foreign, named, other, deleted):
        assert client.get_run(run_id).info.status == "RUNNING"


def test_a_run_that_ends_while_the_doctor_looks_keeps_its_end(made: Made) -> None:
    from massact.doctor.unfinished import AbandonedRuns
    from tests.support.doctor_store import patient

    run_id = open_run(made, "slow", process=dead_process(), at=now())
    with patient(made.uri) as found:
        (finding,) = AbandonedRuns(found).before()
        made.client.set_terminated(run_id, "FINISHED", end_time=now())
        assert finding.mend is not None
        assert finding.mend() == "it has ended meanwhile"
    run = made.client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert Tag.ERROR not in run.data.tags


# --- vectors


def held(path: Path) -> tuple[dict[str, str], list[float]]:
    """Header and numbers of a vector's file; safetensors writes a header in any order."""
    with safe_open(path, framework="pt") as file:
        return file.metadata(), file.get_tensor("vector").tolist()


def _missing(path: Path) -> None:
    path.unlink()


def _torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _swapped(path: Path) -> None:
    path.write_bytes(tensor_bytes({"vector": torch.ones(8)}, {}))


def _renamed(path: Path) -> None:
    path.write_bytes(tensor_bytes({"direction": torch.ones(8)}, {}))


def _unloadable(path: Path) -> None:
    path.write_bytes(tensor_bytes({"vector": torch.ones(8, dtype=torch.bfloat16)}, {}))


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_missing, "has no vector"),
        (_torn, "damaged vector file"),
        (_empty, "damaged vector file"),
        (_flipped, "has a vector of digest"),
        (_swapped, "has a vector of digest"),
        (_renamed, "holds no tensor `vector`"),
        (_unloadable, "holds no tensor `vector` that can be read"),
    ],
)
def test_a_lost_or_damaged_vector_is_rebuilt_with_its_header(
    made: Made, damage: Callable[[Path], None], said: str
) -> None:
    path = made.file("mean_diff_top1 L2")
    whole = held(path)
    damage(path)
    (found,) = look(made.uri)
    assert (found.state, found.finding.run_id) == ("found", made.runs["mean_diff_top1 L2"])
    assert said in found.finding.what
    before = answers(made.uri)
    (mended,) = look(made.uri, fix=True)
    assert mended.state == "mended"
    assert f"the vectors of extraction {made.runs['extraction']}" in mended.said
    assert held(path) == whole
    assert answers(made.uri) == before
    assert look(made.uri, fix=True) == []


def test_a_vector_that_cannot_be_written_remains(made: Made) -> None:
    _folder(made.file("probe L0"))
    assert told(look(made.uri)) == [("remains", "vectors")], "a promise that could not be kept"
    (outcome,) = look(made.uri, fix=True)
    assert outcome.state == "remains"
    assert "could not be written" in outcome.said


def test_a_label_that_no_extraction_keeps_is_made_again_from_its_activations(made: Made) -> None:
    vectors = extract(made, "second", activations(2), key="x2", kept=("mean_diff",))
    evaluate(made, "from activations", vectors["probe"][1], label="probe", layer=1)
    whole = held(made.file("from activations"))
    _torn(made.file("from activations"))
    assert told(look(made.uri, seed=None, fix=True)) == [("remains", "vectors")]
    (outcome,) = look(made.uri, fix=True)
    assert f"the activations of extraction {made.runs['second']}" in outcome.said
    assert held(made.file("from activations")) == whole
    assert look(made.uri, fix=True) == []


def test_an_extraction_that_was_superseded_still_mends(made: Made) -> None:
    extract(made, "extracted again", activations(3))
    _missing(made.file("probe L0"))
    assert set(told(look(made.uri, fix=True))) == {("mended", "vectors"), ("mended", "duplicates")}
    assert look(made.uri, fix=True) == []


def test_a_vector_that_nothing_gives_is_beyond_mending(made: Made) -> None:
    evaluate(made, "of elsewhere", torch.eye(8)[0], label="probe", layer=1)
    path = made.file("of elsewhere")
    _missing(path)
    (outcome,) = look(made.uri)
    assert outcome.state == "remains", "a promise that could not be kept"
    (outcome,) = look(made.uri, fix=True)
    assert outcome.state == "remains"
    assert "give other vectors" in outcome.said
    assert "bring back a copy" in outcome.said
    assert not path.exists()
    evaluate(made, "of no window", torch.eye(8)[0], label="probe", layer=1, position="prompt[-1]", key="k")
    _missing(made.file("of no window"))
    said = {one.finding.run_id: one.said for one in look(made.uri, fix=True)}
    assert "no extraction of its model, trait and window" in said[made.runs["of no window"]]


@pytest.mark.parametrize("lost", ["vectors/probe.safetensors", "calibration"])
def test_what_a_donor_has_lost_is_no_error(made: Made, lost: str) -> None:
    _missing(made.file("probe L0"))
    _missing(made.file("extraction", "vectors/probe.safetensors"))
    if lost == "calibration":
        _missing(made.file("calibration", "calibration.json"))
    (outcome,) = look(made.uri, fix=True)
    assert outcome.state == ("remains" if lost == "calibration" else "mended")


# --- responses


@pytest.mark.parametrize("name", ["probe L0", "baseline"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "is missing"),
        (b'{"columns": ["question"], "data": [["q0"', "is damaged"),
        (b'{"columns": []}', "is damaged"),
        (b'{"data": [["q0", "r0"]]}', "is damaged"),
        (b"\xff\xfe\x00", "is damaged"),
    ],
)
def test_lost_responses_are_told_and_remain(made: Made, name: str, content: bytes | None, said: str) -> None:
    path = made.file(name, Artifact.RESPONSES)
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    (outcome,) = look(made.uri, fix=True)
    assert told([outcome]) == [("remains", "responses")]
    assert said in outcome.finding.what
    assert "scores are in the run" in outcome.finding.what
    assert path.exists() == (content is not None)


def test_responses_of_a_model_that_thinks_are_whole(made: Made) -> None:
    path = made.file("probe L0", Artifact.RESPONSES)
    path.write_bytes(
        response_bytes([Response("q0", "r0", 1.0, 90.0, None, "a thought"), Response("q1", "", None, None)])
    )
    assert look(made.uri) == []


def test_responses_that_were_not_kept_are_not_missed(made: Made) -> None:
    for name in ("probe L0", "baseline"):
        made.client.delete_tag(made.runs[name], MlflowTag.TABLES.value)
        made.file(name, Artifact.RESPONSES).unlink()
    assert look(made.uri) == []


# --- keys and rows


def test_older_runs_of_a_key_are_marked_with_the_one_that_counts(made: Made) -> None:
    row, at = evaluation_row("probe", 1, vector_digest=None), now()
    for i, name in enumerate(("oldest", "older", "newest")):
        write(made, name, row, None, at=at + i)
    extract(made, "extracted again", activations(1))
    before = answers(made.uri)
    outcomes = look(made.uri, fix=True)
    assert told(outcomes) == [("mended", "duplicates")] * 3
    marked = {name: made.client.get_run(run_id).data.tags.get(Tag.SUPERSEDED) for name, run_id in made.runs.items()}
    newest = made.runs["newest"]
    assert {name: by for name, by in marked.items() if by} == {
        "oldest": newest,
        "older": newest,
        "extraction": made.runs["extracted again"],
    }
    assert answers(made.uri) == before
    assert look(made.uri, fix=True) == []
    write(made, "once more", row, None, at=at + 10)
    (outcome,) = look(made.uri, fix=True)
    assert outcome.finding.run_id == newest
    assert look(made.uri, fix=True) == []


def test_of_two_runs_that_ended_together_the_one_that_questions_count_counts(made: Made) -> None:
    row, at = evaluation_row("probe", 1, vector_digest=None), now()
    for name in ("a", "b"):
        write(made, name, row, None, at=at)
    (outcome,) = look(made.uri, fix=True)
    counted = {one.row.key: one.run_id for one in answers(made.uri)["evaluations"]}
    assert outcome.finding.run_id in {made.runs["a"], made.runs["b"]} - {counted[row.key]}


def test_a_newer_run_that_nothing_can_read_supersedes_nothing(made: Made) -> None:
    row, at = evaluation_row("probe", 1, vector_digest=None), now()
    for i, name in enumerate(("old", "counts", "unreadable")):
        write(made, name, row, None, at=at + i)
    run_id = made.runs["unreadable"]
    made.client.set_tag(run_id, Tag.ROW.value, "[")
    (point,) = [key for key in made.client.get_run(run_id).data.tags if key.startswith("massact.point")]
    made.client.delete_tag(run_id, point)
    outcomes = look(made.uri, fix=True)
    assert sorted(told(outcomes)) == [("mended", "duplicates"), ("remains", "rows")]
    tags = made.client.get_run(made.runs["old"]).data.tags
    assert tags[Tag.SUPERSEDED] == made.runs["counts"]
    # with its point, questions count it though its row is lost
    made.client.set_tag(run_id, point, made.client.get_run(made.runs["old"]).data.tags[point])
    assert sorted(told(look(made.uri, fix=True))) == [("mended", "duplicates"), ("remains", "rows")]
    assert made.client.get_run(made.runs["counts"]).data.tags[Tag.SUPERSEDED] == run_id


def test_rows_that_cannot_be_read_and_keys_that_do_not_match_are_told(made: Made) -> None:
    client, runs = made.client, made.runs
    client.set_tag(runs["calibration"], Tag.ROW.value, "{}")
    client.set_tag(runs["probe L0"], Tag.ROW.value, encode_row(evaluation_row(kind=Kind.BASELINE)))
    client.set_tag(runs["probe L2"], Tag.KEY.value, "another")
    client.delete_tag(runs["mean_diff L0"], Tag.KEY.value)
    outcomes = look(made.uri, fix=True)
    assert {one.finding.run_id for one in outcomes} == {
        runs[name] for name in ("calibration", "probe L0", "probe L2", "mean_diff L0")
    }
    assert set(told(outcomes)) == {("remains", "rows")}
    assert all("mlflow runs delete --run-id" in one.said for one in outcomes)


# --- confirmations


def test_a_confirmation_is_examined_as_an_evaluation_is(made: Made) -> None:
    vector = load_file(made.file("probe L0"))["vector"]
    fields = {"kind": Kind.CONFIRMATION, "layer": 0, "confirms": "probe-0-1000"}
    evaluate(made, "older", vector, key="n1", **fields)
    evaluate(made, "confirmation", vector, key="n1", **fields)
    evaluate(made, "unreadable", vector, key="n2", **fields)
    before = answers(made.uri)
    made.file("confirmation").unlink()
    made.file("confirmation", Artifact.RESPONSES).unlink()
    made.client.set_tag(made.runs["unreadable"], Tag.ROW.value, "?")
    outcomes = look(made.uri, fix=True)
    assert {(*state, one.finding.run_id) for one, state in zip(outcomes, told(outcomes), strict=True)} == {
        ("mended", "duplicates", made.runs["older"]),
        ("mended", "vectors", made.runs["confirmation"]),
        ("remains", "responses", made.runs["confirmation"]),
        ("remains", "rows", made.runs["unreadable"]),
    }
    assert sum("`massact confirm`" in one.said for one in outcomes) == 2
    assert answers(made.uri) == before


# --- files that cannot be looked at


def test_artifacts_that_lie_elsewhere_are_told_once_and_not_called_lost(made: Made, tmp_path: Path) -> None:
    shutil.move(tmp_path / "mlruns", tmp_path / "elsewhere")
    (outcome,) = look(made.uri, fix=True)
    n_evaluations = len(LABELS) * 2
    assert told([outcome]) == [("remains", "artifacts")]
    assert f"{2 * n_evaluations + 1} files under" in outcome.finding.what
    assert not (tmp_path / "mlruns").exists()
    shutil.move(tmp_path / "elsewhere", tmp_path / "mlruns")
    assert look(made.uri) == []


def test_a_place_that_no_repository_knows_is_asked_once(uri: str) -> None:
    files = RunFiles(uri)
    for run_id in ("r1", "r2"):
        with pytest.raises(ArtifactError) as caught:
            files.read(f"no-such-store://bucket/1/{run_id}/artifacts", Artifact.VECTOR)
        assert caught.value.state == "unreachable"
    assert files.n_unseen == {"no-such-store://bucket/1": 2}
    assert "no-such-store" in files.unreachable["no-such-store://bucket/1"]


def test_many_runs_are_looked_at_page_by_page(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("massact.store.read.sql._ROWS_PER_FETCH", 2)
    monkeypatch.setattr("massact.doctor.rows._AT_ONCE", 1)
    mended = break_things(made)
    for label in LABELS:
        write(made, f"{label} again", evaluation_row(label, 2, vector_digest=None), None)
    assert set(told(look(made.uri, fix=True))) == mended
    assert {state for state, _ in told(look(made.uri, fix=True))} == {"remains"}


def test_a_tag_of_tables_that_is_not_ours_is_passed_over(made: Made) -> None:
    for name, text in (("probe L0", "no json"), ("probe L2", json.dumps([{"path": "other.json"}]))):
        made.client.set_tag(made.runs[name], MlflowTag.TABLES.value, text)
        made.file(name, Artifact.RESPONSES).unlink()
    assert look(made.uri) == []
