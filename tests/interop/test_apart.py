"""What differs in a results file is never mixed: questions, components, directions, prompt sets; and NaN."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from massact.config import Experiment, load_experiment
from massact.domain import TRAIT_INTERP_DIFFERS
from massact.errors import DataError
from massact.interop.figures import read_published
from massact.interop.importer import Importer
from massact.interop.names import Context, Target, find_sources
from massact.interop.rows import imported_row
from massact.query import Answer
from massact.query.questions.best import BestRow, ask_best
from massact.query.questions.compare import ask_compare
from massact.query.questions.curve import ask_curve
from massact.query.questions.runs import ask_runs
from massact.query.questions.sensitivity import ask_sensitivity
from massact.store.read.base import RawRun, Stored
from massact.store.schema import EvaluationRow, Kind, Tag
from tests.support.store_fixtures import answers_of
from tests.support.transfer_files import (
    EXPERIMENT,
    PLACE,
    TARGET,
    Heap,
    baseline,
    evaluation,
    header,
    import_to_heap,
    imported,
    vector,
    write_json,
    write_lines,
)

NO_COUNT = {"n_questions": None}
FLOOR = 68.0


def base(trait: float, n: int | None, at: str = "2026-01-01", **changes: Any) -> dict[str, Any]:
    return baseline(trait, at, result={"trait_mean": trait, "coherence_mean": 90.0, "n": n}, **changes)


def cell(trait: float, n: int | None, coefficient: float, at: str, **changes: Any) -> dict[str, Any]:
    result = {"trait_mean": trait, "coherence_mean": 80.0, "n": n}
    return evaluation(at=at, vectors=[{**vector(weight=coefficient), **changes}], result=result)


def results(folder: Path, lines: list[dict[str, Any]], place: str = PLACE, **head: Any) -> Path:
    return write_lines(folder / place / "results.jsonl", [header(**{**NO_COUNT, **head}), *lines])


def stored(heap: Heap) -> list[Stored[Any]]:
    rows = zip(heap.rows(), heap.runs, strict=True)
    return [Stored(f"{i:03}", "FINISHED", run.finished_at, row) for i, (row, run) in enumerate(rows)]


def bests(folder: Path, target: Target = TARGET) -> Answer[BestRow]:
    return ask_best.of(answers_of(stored(imported(folder, target))), FLOOR)


def told(answer: Answer[BestRow], field: str) -> dict[Any, tuple[float | None, float | None]]:
    return {row.differs[field]: (row.delta, row.coefficient) for row in answer.rows}


MIXED = [
    base(16.0, 100),
    cell(35.0, 100, 6.0, "2026-01-02"),
    cell(60.0, 5, 7.0, "2026-01-03"),
    cell(20.0, 5, 6.0, "2026-01-04"),
]


def test_a_few_questions_neither_win_nor_replace_many(tmp_path: Path) -> None:
    path = results(tmp_path, MIXED)
    heap = Heap()
    report, _ = import_to_heap(path, heap)
    answer = ask_best.of(answers_of(stored(heap)), FLOOR)
    assert told(answer, "n_questions") == {100: (19.0, 6.0), 5: (None, None)}
    assert "they differ in n_questions (5, 100)" in answer.notes[0].replace("(100, 5)", "(5, 100)")
    assert report.files[0].notes == [
        "no scored baseline over 5 questions, and none over other numbers is taken in its place: 2 evaluations "
        "have no delta"
    ]
    shown = ask_runs.of(answers_of(stored(heap)), FLOOR)
    assert sorted((row.differs["n_questions"], row.status) for row in shown.rows) == [
        (5, "unscored"), (5, "unscored"), (100, "ok"),
    ]  # fmt: skip


def as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Import as the version of 2026-11-26 did: over the header's number of questions, the prompt set not kept."""

    def told(context: Context, *_: Any) -> int | None:
        return context.header.n_questions if context.header else None

    def row(*args: Any, **options: Any) -> EvaluationRow:
        return replace(imported_row(*args, **options), prompt_set=None)

    monkeypatch.setattr("massact.interop.importer.n_asked", told)
    monkeypatch.setattr("massact.interop.importer.n_asked", told)
    monkeypatch.setattr("massact.interop.importer.imported_row", row)


def test_results_that_an_earlier_version_mixed_are_told_of(tmp_path: Path) -> None:
    path, heap = results(tmp_path / "old", MIXED), Heap()
    with pytest.MonkeyPatch.context() as patch:
        as_before(patch)
        import_to_heap(path, heap)
        report, _ = import_to_heap(path, heap)
        assert report.files[0].notes == []
    answer = ask_best.of(answers_of(stored(heap)), FLOOR)
    assert [(row.delta, row.coefficient) for row in answer.rows] == [(44.0, 7.0)]
    [note] = [note for note in answer.notes if "earlier version" in note]
    assert note.startswith("gemma-3-4b-it, chirp/refusal: imported by an earlier version, which compared results over")
    assert note.endswith("import into a new experiment (massact export --superseded has all lines)")
    asked = answers_of(stored(heap))
    assert note in ask_runs.of(asked, FLOOR).notes
    assert note in ask_curve.of(asked, FLOOR, method="probe").notes
    assert note in ask_sensitivity.of(asked, FLOOR, floors=(68.0, 70.0)).notes
    report, _ = import_to_heap(path, heap)
    assert (report.totals.imported, report.totals.already_there) == (0, 4)
    [note] = report.files[0].notes
    assert note.startswith("4 results in the store as of another number of questions than the file tells")
    fresh = Heap()
    import_to_heap(path, fresh)
    assert not any("earlier version" in note for note in ask_best.of(answers_of(stored(fresh)), FLOOR).notes)
    report, _ = import_to_heap(path, fresh)
    assert report.files[0].notes == []


def test_a_number_of_questions_has_a_baseline_of_its_own(tmp_path: Path) -> None:
    answer = bests(results(tmp_path, [*MIXED, base(50.0, 5, "2026-01-05")]))
    assert told(answer, "n_questions") == {100: (19.0, 6.0), 5: (10.0, 7.0)}


def test_files_of_one_header_over_other_numbers_of_questions_are_apart(tmp_path: Path) -> None:
    results(tmp_path / "a", MIXED[:2])
    results(tmp_path / "b", [base(16.0, 5), cell(60.0, 5, 7.0, "2026-01-03")])
    assert told(bests(tmp_path), "n_questions") == {100: (19.0, 6.0), 5: (44.0, 7.0)}


def test_a_response_without_a_score_is_no_other_question_set(tmp_path: Path) -> None:
    lines = [base(16.0, 98), cell(35.0, 100, 6.0, "2026-01-02"), cell(33.0, 95, 7.0, "2026-01-02")]
    [row] = bests(results(tmp_path, lines)).rows
    assert (row.delta, row.coefficient) == (19.0, 6.0)
    [_, _, few] = imported(tmp_path).rows()
    assert (few.n_questions, few.n_scored, few.n_unscored) == (98, 95, 3)


def test_where_the_header_tells_how_many_were_asked_the_rest_is_unscored(tmp_path: Path) -> None:
    path = results(tmp_path, MIXED, n_questions=100)
    rows = [row for row in imported(path).rows() if row.kind is Kind.EVALUATION]
    assert {row.setting for row in rows} == {rows[0].setting}
    assert [(row.n_scored, row.n_unscored) for row in rows] == [(100, 0), (5, 95), (5, 95)]
    assert len({row.key for row in rows}) == 3, "few scores replace no full result"


def test_a_baseline_that_does_not_say_over_how_many_is_still_the_files(tmp_path: Path) -> None:
    lines = [base(16.0, None), cell(35.0, 100, 6.0, "2026-01-02"), cell(60.0, 5, 7.0, "2026-01-03")]
    assert told(bests(results(tmp_path, lines)), "n_questions") == {100: (19.0, 6.0), 5: (44.0, 7.0)}


COMPONENTS = [
    base(10.0, 10),
    cell(30.0, 10, 6.0, "2026-01-02"),
    cell(50.0, 10, 120.0, "2026-01-03", component="attn_contribution"),
    cell(40.0, 10, 6.0, "2026-01-04", component="attn_contribution"),
]


def test_a_component_is_a_group_of_its_own_that_every_answer_names(tmp_path: Path) -> None:
    rows = stored(imported(results(tmp_path, COMPONENTS)))
    found = {row.label: (row.delta, row.coefficient) for row in ask_best.of(answers_of(rows), FLOOR).rows}
    assert found == {"probe": (20.0, 6.0), "attn_contribution/probe": (40.0, 120.0)}
    assert {row.label for row in ask_runs.of(answers_of(rows), FLOOR).rows} == set(found)
    assert {row.label for row in ask_sensitivity.of(answers_of(rows), 68.0, floors=(68.0,)).rows} == {
        "attn_contribution/probe"
    }
    [point] = [row for row in ask_curve.of(answers_of(rows), FLOOR, method="probe").rows if row.best]
    assert point.best is not None
    assert point.best.coefficient == 6.0
    [pair] = ask_compare.of(answers_of(rows), FLOOR, pairs=[("attn_contribution/probe", "probe")]).rows
    assert pair.difference == 10.0, "at 6, where both were evaluated"
    row = rows[2].row
    assert (row.component, row.method, row.cleaning) == ("attn_contribution", "probe", "none")


def test_a_component_that_the_config_names_is_that_of_its_vectors(tmp_path: Path) -> None:
    bare = {name: value for name, value in vector().items() if name != "component"}
    lines = [
        evaluation(config={"vectors": [bare], "component": "mlp"}),
        evaluation(vectors=[vector(), {**vector(layer=16), "component": "mlp"}], at="2026-01-12"),
    ]
    assert [row.label for row in imported(results(tmp_path, lines)).rows()] == [
        "mlp/probe", "multi:probe@15+mlp/probe@16",
    ]  # fmt: skip


@pytest.fixture
def negative(root: Path) -> Experiment:
    from dataclasses import replace

    config = load_experiment(root / "experiments" / "massive-activations.yaml")
    return replace(config, traits=(replace(config.traits[0], direction="negative"), *config.traits[1:]))


LOWERED = [base(60.0, 10), cell(20.0, 10, -6.0, "2026-01-02"), cell(61.0, 10, -1.0, "2026-01-03")]


def test_the_files_direction_counts_where_the_header_has_none(tmp_path: Path, negative: Experiment) -> None:
    head = {name: value for name, value in header(**NO_COUNT).items() if name != "direction"}
    path = write_lines(tmp_path / PLACE / "results.jsonl", [head, *LOWERED])
    [row] = bests(path, Target(EXPERIMENT, negative)).rows
    assert (row.direction, row.delta, row.coefficient) == ("negative", -40.0, -6.0)
    [row] = bests(path).rows
    assert (row.direction, row.delta, row.coefficient) == ("positive", 1.0, -1.0)


def test_a_header_that_tells_its_direction_is_believed_and_a_difference_said(
    tmp_path: Path, negative: Experiment
) -> None:
    path = results(tmp_path, LOWERED, direction="positive")
    heap = Heap()
    report, _ = import_to_heap(path, heap, Target(EXPERIMENT, negative))
    assert {row.direction for row in heap.evaluations()} == {"positive"}
    assert any("direction" in note for note in report.files[0].notes)


def test_prompt_sets_and_variants_are_columns(tmp_path: Path) -> None:
    for variant, prompts, trait in (("instruct", "pv", 30.0), ("instruct", "v3c", 40.0), ("lora", "pv", 50.0)):
        place = f"steering/chirp/refusal/{variant}/response__5/{prompts}"
        results(tmp_path, [base(10.0, 10), cell(trait, 10, 6.0, "2026-01-02")], place)
    answer = bests(tmp_path)
    assert {(row.differs["model_variant"], row.differs["prompt_set"]): row.delta for row in answer.rows} == {
        ("instruct", "pv"): 20.0, ("instruct", "v3c"): 30.0, ("lora", "pv"): 40.0,
    }  # fmt: skip
    assert all(set(row.differs) == {"model_variant", "prompt_set"} for row in answer.rows)
    assert "differ in model_variant (" in answer.notes[0]
    assert "; prompt_set (" in answer.notes[0]


def test_nan_is_a_missing_value_with_its_reason(tmp_path: Path) -> None:
    nan = float("nan")
    lines = [
        base(16.0, 10),
        evaluation(result={"trait_mean": nan, "coherence_mean": nan, "trait_std": nan, "n": 0}),
        evaluation(result={"trait_mean": 30.0, "coherence_mean": nan, "n": 10, "perplexity": nan}, at="2026-02-01"),
        evaluation(result={"trait_mean": -1, "coherence_mean": 0.0, "n": 0}, at="2026-02-02"),
    ]
    path = results(tmp_path, lines)
    heap = Heap()
    report, [refusal] = import_to_heap(path, heap)
    assert "trait_mean -1 is not within 0 to 100" in refusal.reason
    nothing, no_coherence = heap.evaluations()
    assert (nothing.trait_mean, nothing.coherence_mean, nothing.trait_std, nothing.delta) == (None,) * 4
    assert (nothing.n_questions, nothing.n_scored, nothing.n_unscored) == (10, 0, 10)
    assert nothing.unscored_because is not None
    assert "trait_mean and coherence_mean" in nothing.unscored_because
    assert (no_coherence.trait_mean, no_coherence.coherence_mean, no_coherence.delta) == (30.0, None, 14.0)
    assert any(note.startswith("NaN, numpy's mean of no scores, in 2 results") for note in report.files[0].notes)
    report, _ = import_to_heap(path, heap)
    assert report.totals.imported == 0


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"


def test_a_git_lfs_pointer_is_named_as_what_it_is(tmp_path: Path) -> None:
    path = results(tmp_path, [base(16.0, 4), evaluation()])
    (tmp_path / PLACE / "responses").mkdir()
    (tmp_path / PLACE / "responses/baseline.json").write_bytes(POINTER)
    other = tmp_path / "steering/chirp/refusal/lora/response__5/steering/results.jsonl"
    calibration = tmp_path / "inference/instruct/massive_activations/calibration.json"
    for pointer in (other, calibration):
        pointer.parent.mkdir(parents=True)
        pointer.write_bytes(POINTER)
    heap = Heap()
    report, refusals = import_to_heap(tmp_path, heap)
    assert sorted(one.file for one in refusals) == sorted([str(other), str(calibration)])
    assert all("a Git LFS pointer stands in place of the data" in one.reason for one in refusals)
    assert len(heap.runs) == 2
    [file] = [one for one in report.files if one.path == str(path)]
    assert "baseline.json: a Git LFS pointer" in file.notes[0]


@pytest.mark.parametrize(
    "content", [b"SQLite format 3\0" + bytes(range(256)) * 9, '{"a": 1}\n{"b": 2}'.encode("utf-16")]
)
def test_a_file_that_is_no_text_is_refused_once(tmp_path: Path, content: bytes) -> None:
    path = results(tmp_path, [])
    path.write_bytes(content)
    heap = Heap()
    _, refusals = import_to_heap(tmp_path, heap)
    assert [(one.file, one.line) for one in refusals] == [(str(path), 0)]
    assert "no text in UTF-8" in refusals[0].reason
    assert not heap.runs


def test_responses_may_have_nan_as_a_score_and_an_instruction_as_a_prompt(tmp_path: Path) -> None:
    lines = [base(16.0, 1), evaluation(30.0, 80.0, result={"trait_mean": 30.0, "coherence_mean": 80.0, "n": 1})]
    path = results(tmp_path, lines)
    answers = [
        {"instruction": "q0", "response": "a0", "trait_score": 30.0, "coherence_score": 80.0},
        {"prompt": "q1", "response": "a1", "trait_score": float("nan"), "coherence_score": float("nan")},
    ]
    name = "responses/residual/probe/L15_c1000.0_2026-01-11_09-08-38.json"
    write_json(path.parent / name, answers)
    run = imported(path).runs[1]
    first, second = json.loads(run.files["responses.json"])["data"]
    assert first[:4] == ["q0", "a0", 30.0, 80.0]
    assert second[2:] == [None, None, "the file has NaN as trait_score and coherence_score"]


def test_published_figures_that_git_lfs_holds_are_named(tmp_path: Path) -> None:
    path = tmp_path / "figures.csv"
    path.write_bytes(POINTER)
    with pytest.raises(DataError, match="a Git LFS pointer"):
        read_published(path, EXPERIMENT)


def test_where_imported_results_meet_measured_ones_the_known_differences_are_said(tmp_path: Path) -> None:
    path = results(tmp_path, MIXED)
    measured = [RawRun("", "FINISHED", None, 1, {Tag.KEY: "a measured key", Tag.KIND: Kind.EVALUATION})]
    for contents, notes in ((measured, [TRAIT_INTERP_DIFFERS]), ([], [])):
        assert Importer(TARGET, contents, Heap().write).run(find_sources(path)).notes == notes
