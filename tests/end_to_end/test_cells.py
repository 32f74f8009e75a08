"""Every run of a result holds its cell: in a tag, in an artifact where it is long, of an import what its file tells."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from massact.domain import Cell, Response, Timing
from massact.evaluation import Evaluation, FailedCell, PlannedCell
from massact.interop.rows import result_run
from massact.keys import cell_json, cell_key, digest_text, screening_key
from massact.store.schema import (
    TAG_LIMIT,
    Artifact,
    EvaluationRow,
    Kind,
    Tag,
    decode_evaluation,
    encode_row,
    stored_cell,
)
from massact.store.schema.cells import cell_fields
from massact.store.write.evaluations import Baseline, Place, RunMaker, evaluation_row
from massact.store.write.run_writer import evaluation_run
from massact.store.write.tracker import OpenRun
from tests.support.cells import BASELINE, CELL, CHANGES
from tests.support.transfer_files import PLACE, baseline, evaluation, header, imported, write_lines

NAMES = Place("study", "gemma", "instruct", 1)
PARENT = OpenRun("phase", "1", "artifacts")


def _evaluated(cell: Cell) -> Evaluation:
    return Evaluation(PlannedCell(cell, None), (Response("q", "r", 30.0, 80.0),), Timing(1.0, 0.5, 10))


def _row(cell: Cell) -> EvaluationRow:
    return evaluation_row(NAMES, _evaluated(cell), None if cell.steering is None else Baseline("b", 10.0))


def _as_stored(row: EvaluationRow) -> EvaluationRow:
    """As a store gives it back, without its cell."""
    return decode_evaluation(encode_row(row))


IN_THE_TEXT_ALONE = ("steering.weights", "steering.condition", "prompting")
"""What a row has no room for."""


@pytest.mark.parametrize("name", IN_THE_TEXT_ALONE)
def test_without_the_text_a_row_with_a_gate_or_weights_is_of_no_known_cell(name: str) -> None:
    row = _row(CHANGES[name])
    assert stored_cell(row) == CHANGES[name]
    assert stored_cell(_as_stored(row)) is None


@pytest.mark.parametrize("cell", [CELL, BASELINE, *(CHANGES[one] for one in CHANGES if one not in IN_THE_TEXT_ALONE)])
def test_a_row_gives_its_cell_back_with_and_without_the_text_beside_it(cell: Cell) -> None:
    row = _row(cell)
    assert stored_cell(row) == stored_cell(_as_stored(row)) == cell
    assert row.cell == cell_json(cell)
    assert {name: getattr(row, name) for name in cell_fields(cell)} == cell_fields(cell)


def test_a_row_of_a_prompt_in_a_vectors_place_gives_its_cell_back() -> None:
    cell = replace(BASELINE, prompting=CHANGES["prompting"].prompting)
    assert stored_cell(_as_stored(_row(cell))) == cell


def test_what_does_not_belong_to_a_row_is_not_its_cell() -> None:
    row, other = _row(CELL), cell_json(CHANGES["steering.layer"])
    assert stored_cell(replace(row, cell=other)) == CELL, "the row tells, and its key proves it"
    assert stored_cell(replace(row, cell="no cell")) == CELL
    assert stored_cell(replace(row, layer=3)) is None, "the text and the row tell two things"
    assert stored_cell(replace(_as_stored(row), key="0" * 64)) is None
    assert stored_cell(replace(_as_stored(row), origin="imported", judge_model=None)) is None


def test_what_rows_of_before_lack_is_taken_from_files_where_the_key_proves_it() -> None:
    before = replace(_as_stored(_row(CELL)), trait_digest=None, chat_template_digest=None)
    assert stored_cell(before) is None
    assert stored_cell(before, {"trait_digest": "t0", "chat_template_digest": "c0"}) == CELL
    assert stored_cell(before, {"trait_digest": "changed", "chat_template_digest": "c0"}) is None


def test_runs_of_every_outcome_hold_the_cell() -> None:
    evaluated = _evaluated(CELL)
    maker = RunMaker(place=NAMES, parent=PARENT, baseline=Baseline("b", 10.0))
    key = cell_key(CELL)
    outcomes = {
        Kind.EVALUATION: (maker, evaluated, key),
        Kind.CONFIRMATION: (replace(maker, confirms="k"), evaluated, key),
        Kind.SCREENING: (maker, replace(evaluated, given_up="hopeless"), screening_key(key)),
        "failed": (maker, FailedCell(evaluated.planned, "no memory"), key),
        Kind.BASELINE: (replace(maker, baseline=None), _evaluated(BASELINE), cell_key(BASELINE)),
    }
    for make, result, expected in outcomes.values():
        run = make(result)  # type: ignore[operator]
        text = run.tags[Tag.CELL]
        assert run.tags[Tag.KEY] == expected
        assert expected in (digest_text(text), screening_key(digest_text(text)))
        row = decode_evaluation(run.tags[Tag.ROW], text)
        assert stored_cell(row) == (BASELINE if row.kind is Kind.BASELINE else CELL)


def test_a_cell_that_is_too_long_for_a_tag_is_an_artifact() -> None:
    text = "x" * (TAG_LIMIT + 1)
    run = evaluation_run(replace(_row(CELL), cell=text), None, started_at=1, finished_at=2)
    assert Tag.CELL not in run.tags
    assert run.files[Artifact.CELL] == text.encode()


def test_a_result_that_comes_back_from_an_export_has_its_cell_again() -> None:
    run = result_run(_as_stored(_row(CELL)), None, (1, 2), ())
    assert run.tags[Tag.CELL] == cell_json(CELL)


def test_an_imported_result_holds_what_its_file_tells_and_null_for_what_it_does_not(tmp_path: Path) -> None:
    lines = [header(prompts_file=None), baseline(), evaluation()]
    heap = imported(write_lines(tmp_path / PLACE / "results.jsonl", lines))
    assert len(heap.runs) == 2
    for run in heap.runs:
        assert digest_text(run.tags[Tag.CELL]) == run.tags[Tag.KEY]
        cell = json.loads(run.tags[Tag.CELL])
        assert cell["judge"] == {"model": "gpt-4.1-mini", "method": "logprob", "trait_judge": None}
        assert cell["prompts_file"] is None
