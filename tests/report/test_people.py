"""What a report says of judges that were held against people, and of what bests cost."""

from dataclasses import replace
from typing import Any

import pytest

from massact.query.costs import Cost
from massact.report.page import build_report
from massact.report.results import best_section, controls_section
from massact.store.schema import Kind
from massact.store.schema.rows import AgreementRow
from tests.support.report_rows import evidence, scored

ROWS = [scored(40.0, 90.0), scored(60.0, 80.0, coefficient=16.0, key="k16")]


def _held(score: str, verdict: str, **changes: Any) -> AgreementRow:
    values: dict[str, Any] = {
        "kind": Kind.AGREEMENT, "experiment": "e", "key": score, "trait": "refusal", "score": score,
        "judge": "likelihood", "judge_model": "toy", "judge_prompt": "p", "n_responses": 60, "n_questions": 10,
        "n_annotators": 2,
        "n_bands": 5, "verdict": verdict, "weighted_kappa": 0.8, "weighted_kappa_low": 0.7, "weighted_kappa_high": 0.9,
    }  # fmt: skip
    return AgreementRow(**{**values, **changes})


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ((), "likelihood (never held against people)"),
        ((_held("trait", "agrees", judge_prompt="another wording"),), "likelihood (never held against people)"),
        (
            (_held("trait", "agrees"), _held("coherence", "disagrees")),
            "likelihood (disagrees with people on refusal (coherence); agrees with people on refusal (trait))",
        ),
        (
            (_held("trait", "disagrees"), _held("trait", "cannot say", key="newer")),
            "likelihood (too few scores on refusal (trait))",
        ),
    ],
)
def test_it_stands_beside_the_judge_s_name(held: tuple[AgreementRow, ...], said: str) -> None:
    assert f"Judge: {said}." in "\n".join(build_report(evidence(ROWS, agreements=held)).about)


def test_the_figures_are_a_table() -> None:
    table = controls_section(evidence(ROWS, agreements=(_held("trait", "agrees"),))).tables[0].markdown()
    assert "0.80 (0.70 to 0.90)" in table
    assert "refusal" in table


def test_a_best_s_cost_is_a_column_where_any_is_known() -> None:
    known = evidence(ROWS)
    assert "cost" not in best_section(known).tables[0].markdown()
    cost = Cost(
        task="hellaswag", metric="acc", n_documents=9, value=58.0, unsteered=60.0, delta=-2.0, delta_low=-4.0,
        delta_high=0.5, run_id="c",
    )  # fmt: skip
    known = replace(known, answers=replace(known.answers, costs={"k16": (cost,)}))
    assert "hellaswag -2.0 (-4.0 to +0.5)" in best_section(known).tables[0].markdown()
