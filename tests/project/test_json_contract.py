"""The JSON of every question has exactly the fields that docs/json.md documents, of the types it names."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from massact import api
from massact.cli.questions import render
from massact.domain import Group
from massact.query import Answer
from massact.query.costs import Cost
from massact.query.questions.best import ask_best
from massact.query.questions.coefficients import ask_coefficients
from massact.query.questions.compare import ask_compare
from massact.query.questions.confirmations import ask_confirmations
from massact.query.questions.costs import ask_costs
from massact.query.questions.curve import ask_curve
from massact.query.questions.effects import ask_effects
from massact.query.questions.gaps import ask_gaps
from massact.query.questions.judges import ask_judges
from massact.query.questions.published import ask_compare_published
from massact.query.questions.runs import ask_runs
from massact.query.questions.sensitivity import ask_sensitivity
from massact.query.stats.paired import QuestionScores
from massact.store.schema import Kind, PublishedRow, Scores
from tests.support.confirmation_rows import all_confirmed, chosen, confirmed, rows_of, scores_of
from tests.support.store_fixtures import answers_of, evaluated, failed

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "json.md").read_text(encoding="utf-8")
FLOOR = 68.0
ROWS = [
    evaluated("probe", 15, 1000.0, relative_strength=0.8, n_dims_cleaned=0),
    evaluated("probe", 15, 1500.0, coherence_mean=40.0, n_dims_cleaned=0),
    evaluated("mean_diff", 15, 2000.0, n_dims_cleaned=0),
    evaluated("mean_diff_top1", 15, 900.0, coherence_mean=70.0, delta=25.0),
    evaluated("mean_diff_cleaned", 16, 1200.0, coherence_mean=50.0),
]
SCORES = QuestionScores(
    evaluations={one.run_id: Scores((20.0, 30.0, 40.0, 30.0 + i), (80.0,) * 4) for i, one in enumerate(ROWS)},
    baselines={"baseline": Scores((10.0, 5.0, 15.0, 10.0), (90.0,) * 4)},
)
JUDGED = [
    *ROWS[:2],
    *(
        evaluated("probe", 15, coefficient, key=f"{delta}", judge="another", setting="setting-2", delta=delta)
        for coefficient, delta in ((1000.0, 12.0), (1500.0, 30.0))
    ),
]
GROUPS = [
    Group("gemma", "refusal", "response[:5]", label)
    for label in ("probe", "mean_diff", "mean_diff_cleaned", "gradient", "probe_top1")
]
FAILURES = [failed("gradient")]
FIGURES = [
    PublishedRow(
        kind=Kind.PUBLISHED,
        experiment="chirp refusal",
        key=label,
        source="a write-up",
        model="gemma",
        trait="refusal",
        position="response[:5]",
        label=label,
        delta=190.0,
    )
    for label in ("probe", "mean_diff_cleaned")
]
PROBE = chosen("probe", 1000, (30, 36, 33, 28, 34, 31))
OTHER = chosen("mean_diff", 1200, (25, 40, 30, 20, 36, 35))
COST = {"value": 58.0, "unsteered": 60.0, "delta": -2.0, "delta_low": -4.0, "delta_high": 0.5}
COSTS = {one.row.key: (Cost(task="hellaswag", metric="acc", n_documents=9, run_id="c", **COST),) for one in ROWS}
ANSWERS: dict[str, Callable[[], Answer[Any]]] = {
    "best": lambda: ask_best.of(
        answers_of(ROWS, groups=tuple(GROUPS), failures=tuple(FAILURES), scores=SCORES, costs=COSTS), FLOOR
    ),
    "coefficients": lambda: ask_coefficients.of(answers_of(ROWS), FLOOR),
    "compare": lambda: ask_compare.of(
        answers_of(ROWS, scores=SCORES), FLOOR, pairs=[("probe", "mean_diff"), ("probe", "gradient")]
    ),
    "compare --published": lambda: ask_compare_published.of(answers_of(ROWS, published=tuple(FIGURES)), FLOOR),
    "confirmations": lambda: ask_confirmations.of(
        answers_of(
            rows_of([PROBE, OTHER]),
            confirmed=all_confirmed(confirmed(PROBE, (20, 30, 25, 25))),
            choosing_scores=scores_of([PROBE, OTHER]),
        ),
        FLOOR,
    ),
    "costs": lambda: ask_costs.of(answers_of(ROWS, scores=SCORES), FLOOR),
    "curve": lambda: ask_curve.of(answers_of(ROWS), FLOOR, method="mean_diff"),
    "effects": lambda: ask_effects.of(answers_of(ROWS, scores=SCORES), FLOOR),
    "gaps": lambda: ask_gaps.of(answers_of(ROWS, failures=tuple(FAILURES), groups=tuple(GROUPS)), FLOOR),
    "judges": lambda: ask_judges.of(answers_of(JUDGED), FLOOR),
    "runs": lambda: ask_runs.of(answers_of(ROWS, failures=tuple(FAILURES)), FLOOR),
    "sensitivity": lambda: ask_sensitivity.of(answers_of(ROWS), 68.0, floors=(68.0, 80.0, 90.0)),
}


def test_every_question_is_documented_and_tested() -> None:
    commands = {posed.command for posed in api.questions()}
    assert commands == set(ANSWERS) == set(re.findall(r"^## massact (.+)$", PAGE, re.MULTILINE))


@pytest.mark.parametrize("command", sorted(ANSWERS))
def test_the_json_of_a_question_has_the_documented_fields(command: str) -> None:
    answer = json.loads(render(ANSWERS[command](), "json"))
    section = _section(f"## massact {command}")
    own, row = ({}, *_tables(section)) if len(_tables(section)) == 1 else _tables(section)
    head = {**_tables(_section("## The head"))[0], **own}
    assert f'`"question": "{answer["question"]}"`' in section
    assert answer["rows"], "an answer without rows shows nothing"
    _check(answer, head, "the head")
    for one in answer["rows"]:
        _check(one, row, "a row")


def test_every_documented_object_is_seen() -> None:
    documented, seen = set(), set()
    for command, ask in ANSWERS.items():
        *_, row = _tables(_section(f"## massact {command}"))
        documented |= {name for name, kind in row.items() if "object" in kind}
        rows = json.loads(render(ask(), "json"))["rows"]
        seen |= {name for one in rows for name, value in one.items() if value}
    assert not documented - seen, "their fields are unchecked"


def test_a_row_of_best_holds_what_others_build_on() -> None:
    (row, *_) = json.loads(render(ANSWERS["best"](), "json"))["rows"]
    wanted = (
        "model trait position label method cleaning scope n_dims layer coefficient trait_mean coherence_mean "
        "delta n_scored baseline_trait_mean judge key run_id status nearest_miss"
    )
    assert set(wanted.split()) <= set(row)


def test_the_version_is_documented() -> None:
    (version,) = {json.loads(render(ask(), "json"))["schema_version"] for ask in ANSWERS.values()}
    assert f"`schema_version` is {version}." in PAGE


def _section(heading: str) -> str:
    """The text below a heading, up to the next one of any level."""
    found = re.search(rf"^{re.escape(heading)}$(.*?)(?=^#|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, f"docs/json.md has no {heading!r}"
    return found[1]


def _tables(section: str) -> list[dict[str, str]]:
    """Of each table in a section, its fields and their types."""
    parts = section.split("| field | type | meaning |")[1:]
    return [dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", part, re.MULTILINE)) for part in parts]


def _check(value: dict[str, Any], documented: dict[str, str], where: str) -> None:
    assert list(value) == list(documented), where
    for name, kind in documented.items():
        assert any(_is(value[name], one) for one in _kinds(kind)), f"{where}, {name}: {value[name]!r}, {kind}"


def _kinds(text: str) -> Iterator[str]:
    """`string or null` as its two; the alternatives of a list are those of what it holds."""
    yield from [text] if text.startswith("list of ") else text.split(" or ")


def _is(value: object, kind: str) -> bool:
    if kind.startswith("list of "):
        inner = kind.removeprefix("list of ")
        return isinstance(value, list) and all(any(_is(one, k) for k in _kinds(inner)) for one in value)
    if kind.startswith("object"):
        return isinstance(value, dict) and _is_object(value, kind)
    if kind.startswith("string ("):
        return f"`{value}`" in kind
    if isinstance(value, bool):
        return kind == "boolean"
    types: dict[str, Any] = {"string": str, "integer": int, "number": int | float, "null": type(None)}
    return isinstance(value, types.get(kind, ()))


def _is_object(value: dict[str, Any], kind: str) -> bool:
    named = re.search(r"\[(\w+)\]", kind)
    if named:  # one of an answer's rows has no name
        _check(value, _tables(_section(f"### {named[1]}"))[0], named[1])
    return True
