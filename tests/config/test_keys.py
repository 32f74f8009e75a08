"""A cell's identity: every field counts, equal cells have one key, and the key does not drift."""

import dataclasses
import hashlib
import json
from dataclasses import replace

import pytest

from massact.domain import ADDED, Cell, Cleaning, Generation, Recipe
from massact.keys import (
    canonical_json,
    cell_json,
    cell_key,
    differences,
    digest,
    digest_text,
    digest_texts,
    read_cell,
    setting_digest,
)
from tests.support.cells import BASELINE, CELL, CHANGES, SETTING, STEERING

SETTING_TEXT = (
    '"chat_template_digest":"c0","generation":{"max_new_tokens":64,"seed":0,"temperature":0.0},'
    '"judge":{"id":"openai:gpt-4.1-mini","model":"gpt-4.1-mini-2025-04-14","prompt_digest":"p0"},%s'
    '"model":{"dtype":"bfloat16","id":"google/gemma-3-4b-it","revision":"abc123"},"questions_digest":"q0",%s'
    '"subset":0,"trait":"refusal","trait_digest":"t0"'
)
STEERING_TEXT = (
    '"steering":{"coefficient":800.0,"component":"residual","direction":"positive","layer":15,'
    '"position":"response[:5]","recipe":{"cleaning":{"n_dims":2,"scope":"uniform","when":"after"},'
    '"method":"mean_diff"},"steered_tokens":"all","vector_digest":"v0"},'
)


def test_the_walk_reaches_every_field() -> None:
    assert len(CHANGES) == 16 + 22 + 1  # of the setting, the steering and the prompting, counted by hand in domain.py
    assert {"setting.model.dtype", "setting.judge.prompt_digest", "steering.recipe.cleaning.n_dims"} <= set(CHANGES)


@pytest.mark.parametrize("field", CHANGES)
def test_changing_one_field_changes_the_key(field: str) -> None:
    assert cell_key(CHANGES[field]) != cell_key(CELL)


def test_no_two_changes_share_a_key() -> None:
    keys = [cell_key(cell) for cell in (CELL, BASELINE, *CHANGES.values())]
    assert len(set(keys)) == len(CHANGES) + 2


def test_equal_cells_have_one_key() -> None:
    twin = Cell(replace(SETTING), replace(STEERING, recipe=Recipe("mean_diff", Cleaning("after", "uniform", 2))))
    assert twin is not CELL
    assert cell_key(twin) == cell_key(CELL)


@pytest.mark.parametrize(
    "same",
    [
        (CELL, Cell(SETTING, replace(STEERING, coefficient=800))),
        (CELL, Cell(replace(SETTING, generation=Generation(64, 0, 0)), STEERING)),
        (Cell(SETTING, replace(STEERING, coefficient=0.0)), Cell(SETTING, replace(STEERING, coefficient=-0.0))),
    ],
    ids=["coefficient 800", "temperature 0", "coefficient -0.0"],
)
def test_cells_equal_in_python_share_key_and_setting(same: tuple[Cell, Cell]) -> None:
    one, other = same
    assert one == other
    assert cell_key(one) == cell_key(other)
    assert setting_digest(one) == setting_digest(other)


def test_the_key_of_an_evaluation_is_pinned() -> None:
    # changing this makes every stored evaluation a stranger: raise KEY_VERSION, and say so in the changelog
    kind = '"kind":"evaluation",'
    text = "{" + SETTING_TEXT % (kind, STEERING_TEXT) + ',"version":1}'
    assert json.loads(text)["steering"]["recipe"]["method"] == "mean_diff"
    assert cell_key(CELL) == hashlib.sha256(text.encode()).hexdigest()
    assert cell_key(CELL) == "b22227f154ac4668c2173111f8e1366370ae599b1d28ab60bb93c59ca0d6c510"


def test_the_key_of_a_baseline_is_pinned_and_has_no_steering() -> None:
    text = "{" + SETTING_TEXT % ('"kind":"baseline",', "") + ',"version":1}'
    assert cell_key(BASELINE) == hashlib.sha256(text.encode()).hexdigest()
    assert cell_key(BASELINE) == "e34860ab267997c58709756f0266060074b434b262bc132de1c6338b021e9835"


@pytest.mark.parametrize("field", [name for name in CHANGES if name.startswith("setting.")])
def test_results_of_different_settings_are_not_compared(field: str) -> None:
    assert setting_digest(CHANGES[field]) != setting_digest(CELL)


@pytest.mark.parametrize("field", [name for name in CHANGES if name.startswith("steering.")])
def test_of_the_steering_only_the_direction_forbids_a_comparison(field: str) -> None:
    same = setting_digest(CHANGES[field]) == setting_digest(CELL)
    assert same == (field != "steering.direction")


def test_a_baseline_has_no_direction() -> None:
    setting = {name: value for name, value in dataclasses.asdict(SETTING).items() if value is not None}
    expected = digest({"setting": setting, "direction": None})
    assert setting_digest(BASELINE) == expected != setting_digest(CELL)


@pytest.mark.parametrize("coefficient", [float("nan"), float("inf")])
def test_a_coefficient_that_is_no_number_has_no_key(coefficient: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        cell_key(Cell(SETTING, replace(STEERING, coefficient=coefficient)))


def test_canonical_json_has_one_spelling() -> None:
    assert canonical_json({"b": 1.0, "a": [1, None, "é"]}) == '{"a":[1,null,"\\u00e9"],"b":1.0}'
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})


def test_texts_are_told_apart_by_order_and_by_where_they_end() -> None:
    digests = {digest_texts(texts) for texts in (["a", "b"], ["b", "a"], ["ab"], ["a", "b", ""], [])}
    assert len(digests) == 5
    assert digest_texts(["a"]) == hashlib.sha256(b'{"texts":["a"]}').hexdigest()


@pytest.mark.parametrize("cell", [CELL, BASELINE, *CHANGES.values()])
def test_a_cell_is_read_back_from_the_text_whose_digest_is_its_key(cell: Cell) -> None:
    text = cell_json(cell)
    assert digest_text(text) == cell_key(cell)
    assert read_cell(text) == cell
    assert cell_json(read_cell(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        cell_json(CELL).replace('"version":1', '"version":2'),
        cell_json(CELL).replace('"subset":0', '"subset":0,"unheard_of":1'),
        cell_json(CELL).replace("probe", "prob").replace("mean_diff", "nothing"),
        cell_json(CELL).replace(",", ", "),
        cell_json(CELL)[:-1],
    ],
)
def test_what_is_no_cell_as_it_is_written_here_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # each says something else
        read_cell(text)


@pytest.mark.parametrize("field", CHANGES)
def test_two_cells_differ_in_the_fields_that_differ(field: str) -> None:
    found = differences(CELL, CHANGES[field])
    assert list(found) == [field]
    assert found[field][0] != found[field][1]
    assert differences(CELL, CELL) == {}


def test_without_steering_a_cell_differs_as_a_whole() -> None:
    assert differences(CELL, BASELINE) == {"steering": (STEERING, None)}


@dataclasses.dataclass(frozen=True)
class _Later(Generation):
    top_p: float = dataclasses.field(default=1.0, metadata=ADDED)


def test_a_field_that_was_added_is_in_the_key_only_where_it_is_used() -> None:
    def with_generation(generation: Generation) -> str:
        return cell_key(Cell(replace(SETTING, generation=generation), STEERING))

    assert with_generation(_Later(64)) == cell_key(CELL)
    assert with_generation(_Later(64, top_p=0.9)) != cell_key(CELL)
