"""What the report ticks, and what the run of a phase shows."""

import re
from dataclasses import replace

import pytest

from massact.query import Answers, Evaluations
from massact.report.checks import sanity_checks, success_criteria
from massact.report.evidence import Evidence, Facts
from massact.report.phase_notes import NOTE_LIMIT, phase_markdown, phase_verdicts
from massact.report.results import gap_matrix
from massact.report.summary import answers_in_short
from massact.store.read.base import Stored
from massact.store.schema import EvaluationRow
from tests.support.report_rows import baseline, criterion, evidence, experiment, scored, toy_rows

Rows = list[Stored[EvaluationRow]]


@pytest.fixture(scope="module")
def rows() -> Rows:
    return toy_rows()


def test_everything_evaluated_ticks_everything(rows: Rows) -> None:
    found = evidence(rows, baselines=(baseline(), baseline("toy-gemma-2")))
    assert [one.verdict for one in success_criteria(found)] == ["yes"] * 4
    checks = sanity_checks(found)
    assert [one.verdict for one in checks] == ["yes"] * 8


def test_missing_criterion_names_each_group(rows: Rows) -> None:
    kept = [one for one in rows if one.row.label != "probe_preclean" or one.row.model != "toy-gemma-2"]
    kept = [one for one in kept if one.row.label != "mean_diff_top2"]
    found = success_criteria(evidence(kept))
    assert criterion(found, "key_comparisons").ok
    before = criterion(found, "clean_before_after")
    assert before.verdict == "no"
    assert "1 of 4" in before.detail
    assert "toy-gemma-2, response[:5]: probe_preclean (not evaluated)" in before.detail
    assert "massact phase2 --experiment" in before.detail
    top2 = criterion(found, "top2")
    assert "mean_diff_top2 (not evaluated)" in top2.detail
    assert "massact phase3" in top2.detail


def test_a_comparison_that_was_evaluated_once_is_not_complete(rows: Rows) -> None:
    source = {
        (one.row.position, one.row.layer, one.row.coefficient): one.row
        for one in rows
        if (one.row.model, one.row.label) == ("toy-gemma-2", "probe_cleaned")
    }

    def taken(one: Stored[EvaluationRow]) -> Stored[EvaluationRow]:
        row = one.row
        if (row.model, row.label) != ("toy-gemma-2", "probe_preclean"):
            return one
        own = source[row.position, row.layer, row.coefficient]
        figures = {name: getattr(own, name) for name in ("trait_mean", "coherence_mean", "delta")}
        mark = {"same_as": own.label, "same_as_key": own.key, "same_as_cosine": 0.985}
        return replace(one, row=replace(row, **figures, **mark))

    found = evidence([taken(one) for one in rows])
    before = criterion(success_criteria(found), "clean_before_after")
    assert before.verdict == "no"
    once = "probe_preclean and probe_cleaned were evaluated once, as probe_cleaned: cosine 0.9850"
    assert f"toy-gemma-2, response[:5]: {once}" in before.detail
    assert "--alike off compares them" in before.detail
    details = {cell.detail for row in gap_matrix(found, "refusal").rows for cell in row}
    assert any(text.endswith(", as probe_cleaned") for text in details)
    assert "not evaluated apart" in phase_markdown("phase2", Evidence.of(experiment(), found.answers))


def test_patterns_of_labels_that_nobody_declared_are_not_asked_for() -> None:
    def patterns(*labels: str) -> tuple[str, str]:
        given = experiment()
        given = replace(given, phases=(replace(given.phases[0], labels=labels),))
        answers = Answers(evaluations=Evaluations.of((scored(80.0, 90.0),)), coefficient_ranges={})
        one = criterion(success_criteria(Evidence.of(given, answers)), "coefficients")
        return one.verdict, one.detail

    assert patterns("gradient", "pca")[0] == "cannot say"
    verdict, detail = patterns("probe", "mean_diff")
    assert (verdict, "a shift" in detail, "lacks a ratio of mean_diff to probe;" in detail) == ("no", False, True)
    assert "lacks a shift from cleaning the top dim;" in patterns("gradient", "gradient_top1")[1]


def test_below_the_floor_is_not_missing() -> None:
    found = evidence([scored(80.0, 61.24), scored(90.0, 30.0, coefficient=12.0)])
    assert gap_matrix(found, "refusal").rows[0][1].text == "below floor (61.2)"
    one = success_criteria(found)[0]
    assert "probe (below the floor at 61.2)" in one.detail
    assert "massact gaps" in one.detail
    assert not one.ok


def test_negative_direction_prefers_the_fall() -> None:
    given = experiment()
    falls = replace(given, traits=(replace(given.traits[0], direction="negative"),))
    rows = [scored(-60.0, 90.0, direction="negative"), scored(-20.0, 90.0, label="mean_diff", direction="negative")]
    answers = Answers(evaluations=Evaluations.of(tuple(rows)), coefficient_ranges={})
    found, low_found = (
        Evidence.of(falls, answers, facts=Facts(baselines=(baseline(trait_mean=trait),))) for trait in (80.0, 2.0)
    )
    assert "`probe`, -60.0 @ 90" in answers_in_short(found)[0].lines[0]
    high = sanity_checks(found)
    low = sanity_checks(low_found)
    assert criterion(high, "baseline").ok
    assert not criterion(low, "baseline").ok
    assert criterion(high, "effect").ok


@pytest.mark.parametrize(
    ("trait", "coherence", "is_sane"), [(3.0, 99.0, True), (12.0, 99.0, False), (3.0, 80.0, False)]
)
def test_baseline_sanity(trait: float, coherence: float, is_sane: bool) -> None:
    checks = sanity_checks(evidence([], baselines=(baseline(trait_mean=trait, coherence_mean=coherence),)))
    assert criterion(checks, "baseline toy-gemma-3").ok is is_sane
    assert criterion(checks, "baseline toy-gemma-2").verdict == "cannot say"


def test_random_direction_must_not_win() -> None:
    real, random = scored(40.0, 90.0), scored(45.0, 80.0, label="random_baseline")
    assert criterion(sanity_checks(evidence([real, random])), "random").verdict == "no"
    assert criterion(sanity_checks(evidence([real])), "random").verdict == "cannot say"
    below = scored(45.0, 20.0, label="random_baseline")
    assert criterion(sanity_checks(evidence([real, below])), "random").ok


@pytest.mark.slow
def test_phase_notes_fit_and_say_what_is_cut(rows: Rows) -> None:
    given = experiment()
    many = [
        replace(one, row=replace(one.row, position=f"response[:{n}]", key=f"{n} {one.row.key}"))
        for one in rows[:60]
        for n in range(5, 30)
    ]
    wide = replace(given, phases=(replace(given.phases[0], positions=tuple(f"response[:{n}]" for n in range(5, 30))),))
    for phase in ("phase1", "phase2", "phase3", "phase4"):
        for experiment_, some in ((given, rows), (given, []), (wide, many)):
            text = phase_markdown(
                phase, Evidence.of(experiment_, Answers(evaluations=Evaluations.of(tuple(some)), coefficient_ranges={}))
            )
            assert 0 < len(text) <= NOTE_LIMIT
            if "left out" in text:
                assert re.search(r"\*\d+ lines? left out, which did not fit; `massact report", text)
    assert "left out" in phase_markdown(
        "phase4", Evidence.of(wide, Answers(evaluations=Evaluations.of(tuple(many)), coefficient_ranges={}))
    )


def test_phase_verdicts(rows: Rows) -> None:
    given = experiment()
    whole = Evidence.of(given, Answers(evaluations=Evaluations.of(tuple(rows)), coefficient_ranges={}))
    assert phase_verdicts("phase1", whole) == {"criterion": "yes", "gaps": "0 of 36 remain"}
    assert "same direction by algebra" in phase_verdicts("phase2", whole)["mean_diff_preclean"]
    assert "top-2" in phase_verdicts("phase3", whole)["mean_diff_top2"]
    assert "toy-gemma-3 mean_diff" in phase_verdicts("phase4", whole)["ratio_mean_diff_to_probe"]
    nothing = phase_verdicts(
        "phase4", Evidence.of(given, Answers(evaluations=Evaluations.of(()), coefficient_ranges={}))
    )
    assert nothing["relative_strength"] == "cannot say"
