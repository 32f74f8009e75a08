"""The import: names, baselines, responses, calibrations, and that nothing is imported twice."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from massact.config import Experiment, load_experiment
from massact.interop.importer import CHUNK_RUNS
from massact.interop.names import Target
from massact.store.schema import Kind, Tag
from massact.store.schema.rows import decode_stage
from tests.support.transfer_files import (
    CALIBRATION,
    EXPERIMENT,
    PLACE,
    TARGET,
    Heap,
    baseline,
    evaluation,
    header,
    import_to_heap,
    imported,
    responses,
    sorted_rows,
    vector,
    write_json,
    write_lines,
)


def results(folder: Path, lines: list[Any], place: str = PLACE) -> Path:
    return write_lines(folder / place / "results.jsonl", lines)


@pytest.fixture
def toy(root: Path) -> Experiment:
    return load_experiment(root / "experiments" / "massive-activations.yaml")


def test_two_headers_refuse_the_lines_of_their_file(tmp_path: Path) -> None:
    path = results(tmp_path, [header(), evaluation(), header(), header(n_questions=9), baseline()])
    heap = Heap()
    report, refusals = import_to_heap(path, heap)
    assert not heap.runs
    assert (report.totals.headers, report.totals.refused) == (3, 2)
    assert all("two different headers, in lines 1 and 4" in one.reason for one in refusals)


def test_without_a_header_model_and_trait_come_from_place_and_caller(tmp_path: Path, toy: Experiment) -> None:
    alone = write_lines(tmp_path / "results.jsonl", [evaluation()])
    heap = Heap()
    _, [refusal] = import_to_heap(alone, heap)
    assert "pass --model" in refusal.reason
    _, [refusal] = import_to_heap(alone, heap, Target(EXPERIMENT, model="gemma"))
    assert "pass --trait" in refusal.reason
    [row] = imported(alone, Target(EXPERIMENT, model="gemma", trait="refusal")).rows()
    assert (row.model, row.model_id, row.trait, row.model_variant) == ("gemma", "gemma", "refusal", "unknown")
    assert (row.judge, row.question_set, row.direction) == ("unknown:unknown", None, None)
    [row] = imported(results(tmp_path, [evaluation()]), Target(EXPERIMENT, toy)).rows()
    assert (row.model, row.model_id, row.trait, row.direction) == (
        "gemma-3-4b", toy.models[0].instruct.reference, toy.traits[0].name, toy.traits[0].direction,
    )  # fmt: skip


def test_a_refused_header_is_named_as_the_reason(tmp_path: Path) -> None:
    path = results(tmp_path, [header(direction="up"), evaluation()])
    _, refusals = import_to_heap(path, Heap())
    assert [one.line for one in refusals] == [1, 2]
    assert "the header in line 1 is refused" in refusals[1].reason


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"trait": "re\u202efusal"}, "U+202E"),
        ({"trait": "re\nfusal"}, "U+000A"),
        ({"trait": "re\ud800"}, "half of a surrogate pair"),
        ({"trait": "../refusal"}, "leads through a folder"),
        ({"steering_model": "x\0"}, "a NUL"),
        ({"steering_model": "y" * 201}, "201 characters"),
    ],
    ids=ascii,
)
def test_what_is_no_name_is_refused_with_the_reason(change: dict[str, str], said: str, tmp_path: Path) -> None:
    alone = write_lines(tmp_path / "results.jsonl", [header(**change), evaluation()])
    heap = Heap()
    _, refusals = import_to_heap(alone, heap)
    assert not heap.runs
    assert any(said in one.reason for one in refusals)


def test_a_name_in_two_of_unicodes_forms_is_one(tmp_path: Path) -> None:
    for form in ("caf\u00e9", "cafe\u0301"):
        alone = write_lines(tmp_path / form / "results.jsonl", [header(trait=form), evaluation()])
        [row] = imported(alone).rows()
        assert row.trait == "caf\u00e9"


def test_names_of_the_experiment_file_are_used(tmp_path: Path, toy: Experiment) -> None:
    target = Target(EXPERIMENT, toy)
    by_variant = header(steering_model="/data/some/gemma")
    by_reference = header(steering_model=toy.models[1].instruct.reference)
    [row] = imported(results(tmp_path / "a", [by_variant, evaluation()]), target).rows()
    assert (row.model, row.model_id) == (toy.models[0].name, "/data/some/gemma")
    assert row.trait == toy.traits[0].name
    alone = write_lines(tmp_path / "results.jsonl", [by_reference, evaluation()])
    [row] = imported(alone, target).rows()
    assert (row.model, row.model_variant) == (toy.models[1].name, toy.models[1].instruct.name)
    [row] = imported(alone, Target(EXPERIMENT, toy, model=toy.models[0].name, trait="other")).rows()
    assert (row.model, row.trait) == (toy.models[0].name, "other")


def test_a_file_of_a_tree_is_imported_as_the_tree_is(tmp_path: Path) -> None:
    path = results(tmp_path / "experiments" / "e", [header(), baseline(), evaluation()])
    assert imported(path).rows() == imported(tmp_path).rows() == imported(path.parent).rows()


def test_a_position_comes_from_the_vector_else_from_the_folder(tmp_path: Path) -> None:
    bare = evaluation(vectors=[vector(position=None)])
    other = evaluation(vectors=[vector(position="response[ : 10]")])
    in_tree = imported(results(tmp_path, [header(), bare, other])).rows()
    assert [row.position for row in in_tree] == ["response[:5]", "response[:10]"]
    _, [refusal] = import_to_heap(write_lines(tmp_path / "r.jsonl", [header(), bare]), Heap())
    assert "no position" in refusal.reason


def test_the_newest_baseline_of_a_lines_own_judge_counts(tmp_path: Path) -> None:
    own = {"eval": {"trait_judge": "pv/refusal"}}
    lines = [
        evaluation(30),
        evaluation(30, at="2026-01-12T00:00:00", **own),
        baseline(20, at="2026-01-02T00:00:00"),
        header(),
        baseline(10, at="2026-01-01T00:00:00"),
        baseline(1, at=None),
        baseline(5, **own),
        evaluation(30, at="2026-01-13T00:00:00", eval={"trait_judge": "none/such"}),
        {**evaluation(30, at="2026-01-14T00:00:00"), "eval": {}},
    ]
    heap = Heap()
    report, _ = import_to_heap(results(tmp_path, lines), heap)
    assert [row.delta for row in heap.evaluations()] == [10.0, 25.0, None, 10.0]
    assert [row.judge for row in heap.evaluations()][1] == "logprob:gpt-4.1-mini:pv/refusal"
    assert report.totals.imported == 8
    assert report.files[0].notes == ["no scored baseline of the trait judge 'none/such': 1 evaluation has no delta"]
    keys = {row.key for row in heap.rows() if row.kind is Kind.BASELINE}
    assert {row.baseline_key for row in heap.evaluations()} - {None} < keys


def test_a_line_without_a_time_supersedes_nothing(tmp_path: Path) -> None:
    lines = [header(), *(evaluation(trait, at=None) for trait in (10, 20, 20.0)), evaluation(5), evaluation(6)]
    path = results(tmp_path, lines)
    heap = Heap()
    report, _ = import_to_heap(path, heap)
    first, second, dated, again = heap.rows()
    assert report.totals.already_there == 1
    assert len({first.key, second.key, dated.key}) == 3
    assert dated.key == again.key
    assert heap.runs[0].finished_at == path.stat().st_mtime_ns // 1_000_000


def test_two_results_of_one_cell_and_time_are_pointed_out(tmp_path: Path) -> None:
    path = results(tmp_path, [header(), baseline(), evaluation(30), evaluation(31)])
    heap = Heap()
    report, _ = import_to_heap(path, heap)
    assert report.totals.imported == 3
    [note] = report.files[0].notes
    assert note.startswith("1 result of a cell and a time that another result has too")
    report, _ = import_to_heap(path, heap)
    assert not report.files[0].notes
    write_lines(path, [header(), baseline(), evaluation(32)])  # as someone edits a score by hand
    report, _ = import_to_heap(path, heap)
    assert len(report.files[0].notes) == 1


def test_whatever_else_a_config_holds_is_another_cell(tmp_path: Path) -> None:
    lines = [
        evaluation(),
        evaluation(config={"vectors": [vector()], "ablation": True}),
        evaluation(vectors=[{**vector(), "sign": -1}]),
        evaluation(vectors=[{**vector(), "component": "mlp"}]),
        evaluation(config={"vectors": [vector()], "ablation": False}),
    ]
    rows = imported(results(tmp_path, [header(), *lines])).rows()
    assert len({row.key for row in rows}) == len(lines)
    assert len({row.setting for row in rows}) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"n_questions": 20}, {"prompts_file": "other.json"}, {"direction": "negative"}, {"steering_model": "g/other"},
        {"eval": {"model": "gpt-4.1-mini", "method": "text"}}, {"vector_source": None},
    ],
)  # fmt: skip
def test_another_setting_is_another_cell(changes: dict[str, Any], tmp_path: Path) -> None:
    [one] = imported(results(tmp_path / "a", [header(), evaluation()])).rows()
    [two] = imported(results(tmp_path / "b", [header(**changes), evaluation()])).rows()
    assert one.key != two.key
    assert one.setting != two.setting


def test_spellings_of_one_method_are_one_cell(tmp_path: Path) -> None:
    lines = [
        evaluation(vectors=[vector(one)], at=f"2026-01-0{i}")
        for i, one in enumerate(["probe_top2", "probe_postclean_u2"], 1)
    ]
    assert len({row.key for row in imported(results(tmp_path, [header(), *lines])).rows()}) == 1


NAME = "responses/residual/probe/L15_c1000.0_2026-01-11_09-08-38.json"


def test_responses_beside_a_line_become_scores_and_a_table(tmp_path: Path) -> None:
    path = results(tmp_path, [header(), baseline(15, result={"trait_mean": 15, "n": 2}), evaluation(30, 80)])
    write_json(path.parent / NAME, responses([(20, 70), (40, 90), (None, None)]))
    write_json(path.parent / "responses/baseline.json", responses([(10, None), (20, None)]))
    write_json(path.parent / "responses/residual/mean_diff/L1_c1.0_2026-01-11_09-08-38.json", [])
    heap = Heap()
    report, _ = import_to_heap(path, heap)
    base, run = heap.runs
    assert json.loads(run.tags[Tag.SCORES]) == {"trait": [20, 40, None], "coherence": [70, 90, None]}
    table = json.loads(run.files["responses.json"])
    assert table["columns"][:2] == ["question", "response"]
    assert table["data"][1][:4] == ["question 1", "answer 1", 40, 90]
    assert json.loads(base.tags[Tag.SCORES])["trait"] == [10, 20]
    assert ["not imported: 1 file below" in note for note in report.files[0].notes] == [True]


def test_responses_written_a_second_before_their_line_are_found(tmp_path: Path) -> None:
    path = results(tmp_path, [header(), evaluation(30, 80, at="2026-01-11T09:08:39.001")])
    write_json(path.parent / NAME, responses([(30, 80)]))
    assert "responses.json" in imported(path).runs[0].files


@pytest.mark.parametrize(
    "content",
    [responses([(20, 70), (40.2, 90)]), responses([(30, 80), (None, 81)]), responses([(300, 80)]), {"a": 1}, [7]],
)
def test_responses_that_contradict_their_line_are_not_used(content: Any, tmp_path: Path) -> None:
    path = results(tmp_path, [header(), evaluation(30, 80)])
    write_json(path.parent / NAME, content)
    heap = Heap()
    report, _ = import_to_heap(path, heap)
    assert Tag.SCORES not in heap.runs[0].tags
    assert not heap.runs[0].files
    note, _ = report.files[0].notes  # the other: there is no baseline
    assert NAME in note


def test_a_calibration_is_a_run_of_its_own(tmp_path: Path, toy: Experiment) -> None:
    path = write_json(tmp_path / "inference/instruct/massive_activations/calibration.json", CALIBRATION)
    heap = imported(tmp_path)
    [run] = heap.runs
    row = decode_stage(run.tags[Tag.ROW])
    assert (row.kind, row.model, row.model_variant, row.n_layers) == (Kind.CALIBRATION, "gemma-3-4b-it", "instruct", 4)
    assert row.massive_dims == (3, 7)
    assert row.origin == "imported"
    assert run.files == {"calibration.json": path.read_bytes()}
    assert [(one.name, one.value, one.step) for one in run.steps][-1] == ("norm", 99.0, 10)
    report, _ = import_to_heap(tmp_path, heap)
    assert report.totals.already_there == 1
    named = decode_stage(imported(tmp_path, Target(EXPERIMENT, toy)).runs[0].tags[Tag.ROW])
    assert named.model == toy.models[0].name


@pytest.mark.parametrize(
    "aggregate",
    [None, {}, {"top_dims_by_layer": {}}, {"top_dims_by_layer": {"x": [1]}}, {"top_dims_by_layer": {"0": [-1]}}],
)
def test_a_file_that_is_no_calibration_is_refused(aggregate: Any, tmp_path: Path) -> None:
    write_json(
        tmp_path / "inference/instruct/massive_activations/calibration.json", {**CALIBRATION, "aggregate": aggregate}
    )
    results(tmp_path, [header(), evaluation()])
    report, [refusal] = import_to_heap(tmp_path, Heap())
    assert refusal.file.endswith("calibration.json")
    assert report.totals.imported == 1


@pytest.mark.slow
def test_an_interrupted_import_goes_on_where_it_stopped(tmp_path: Path) -> None:
    lines = [evaluation(vectors=[vector(weight=float(i))]) for i in range(2 * CHUNK_RUNS + 7)]
    path = results(tmp_path, [header(), baseline(), *lines])

    class Interrupted(Heap):
        def write(self, runs: Any) -> None:
            if self.runs:
                raise KeyboardInterrupt
            super().write(runs)

    heap = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        import_to_heap(path, heap)
    assert len(heap.runs) == CHUNK_RUNS
    again = Heap()
    again.runs = heap.runs
    report, _ = import_to_heap(path, again)
    assert report.totals.already_there == CHUNK_RUNS
    assert sorted_rows(again.rows()) == sorted_rows(imported(path).rows())


LINES = st.lists(
    st.one_of(
        st.builds(
            evaluation,
            trait=st.integers(0, 100),
            at=st.one_of(st.none(), st.integers(10, 28).map(lambda day: f"2026-01-{day}")),
            vectors=st.sampled_from(["probe", "mean_diff"]).map(lambda method: [vector(method)]),
            eval=st.sampled_from([{"trait_judge": None}, {"trait_judge": "pv/x"}]),
        ),
        st.builds(
            baseline,
            trait=st.integers(0, 100),
            at=st.one_of(st.none(), st.integers(10, 28).map(lambda day: f"2026-01-{day}")),
            eval=st.sampled_from([{"trait_judge": None}, {"trait_judge": "pv/x"}]),
        ),
        st.sampled_from(["", "{", '{"type": "footer"}']),
    ),
    max_size=12,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(lines=LINES, shuffle=st.randoms(use_true_random=False))
def test_the_order_of_lines_decides_nothing(lines: list[Any], shuffle: random.Random, tmp_path: Path) -> None:
    path = results(tmp_path, [header(), *lines])
    before = imported(path)
    shuffled = [header(), *lines]
    shuffle.shuffle(shuffled)
    after = imported(results(tmp_path, shuffled))
    assert sorted_rows(after.rows()) == sorted_rows(before.rows())
    contents = [sorted(run.tags[Tag.CONTENT] for run in heap.runs) for heap in (before, after)]
    assert contents[0] == contents[1]


def test_chunks_are_bounded(tmp_path: Path) -> None:
    lines = [evaluation(vectors=[vector(weight=float(i))]) for i in range(1100)]
    assert imported(results(tmp_path, [header(), *lines]), TARGET).chunks == [500, 500, 100]
