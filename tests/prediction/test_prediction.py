"""Worlds whose truth is known: what is adopted there, and that it is; the prior's JSON is checked to the last key."""

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from massact.errors import DataError
from massact.prediction.cases import Case, Outcome
from massact.prediction.prior import AdoptedPrior, Part, VectorFacts, format_prior, parse_prior
from massact.prediction.verdict import (
    GIVEN,
    MEDIAN,
    NORM,
    STRENGTH,
    Trial,
    adopt,
    carry_overs,
    decide,
    fit_constant,
    leave_groups_out,
    own_strengths,
    scatter_words,
)
from massact.workflow.predict import prediction_csv, prediction_markdown


def world(n_groups: int, *, between: float = 0.15, within: float = 0.10) -> list[Case]:
    """Groups of 15 vectors (three methods at five layers) that share a relative strength of about 0.8.

    Args:
        between: standard deviation of log relative strength between groups.
        within: the same within a group.
    """
    rng = np.random.default_rng(3)
    cases = []
    for group in range(n_groups):
        scale, of_group = math.exp(rng.normal(0, 0.7)), rng.normal(0, between)
        for method in ("mean_diff", "probe", "gradient"):
            for layer in range(5):
                norm = scale * (1 + layer)
                strength = math.sqrt(1 - rng.uniform(0, 0.8)) / norm
                best = 0.8 * math.exp(of_group + rng.normal(0, within)) / strength
                cliff = best * math.exp(0.2 + rng.normal(0, within))
                outcome = Outcome(
                    setting="invented",
                    baseline_trait_mean=5.0,
                    model=f"model-{group}",
                    trait="trait",
                    position="response[:5]",
                    label=method,
                    layer=layer,
                    vector_digest=None,
                    best=best,
                    low=cliff / 1.09,
                    high=cliff * 1.09,
                )
                facts = VectorFacts(unit_strength=strength, norm=norm * rng.uniform(2, 30))
                cases.append(Case(outcome, facts))
    return cases


@pytest.fixture(scope="module")
def plain() -> Trial:
    """Six groups in which one relative strength, 1.2 and not the given 0.82, is all that matters."""
    cases = [scaled(case, 1.5) for case in world(6)]
    return leave_groups_out(cases)


def scaled(case: Case, factor: float) -> Case:
    one = case.outcome
    assert one.best is not None
    return replace(case, outcome=replace(one, best=one.best * factor, low=one.low * factor, high=one.high * factor))


FACTS = VectorFacts(unit_strength=0.01, norm=900.0)


@pytest.mark.slow
def test_where_relative_strength_is_the_truth_it_stays_with_its_own_constant(plain: Trial) -> None:
    best = decide(plain, "best")
    assert (best.form, best.answer) == (STRENGTH, "yes")
    assert best.part.value == pytest.approx(1.2, rel=0.15)
    assert plain.scores["best", STRENGTH].error < plain.scores["best", GIVEN].error
    low = plain.scores["best", NORM].against(plain.scores["best", STRENGTH]).low
    assert low is not None
    assert low > 1
    assert "Yes: the best coefficient of a new model and trait can be predicted" in best.text
    assert f"The prior is relative strength {best.part.value:.2f}, refitted" in best.text
    prior = adopt(plain, [best, decide(plain, "cliff")], experiment="plain", floor=68)
    assert prior.expect(FACTS).best == pytest.approx(best.part.value / 0.01)


def test_four_groups_give_no_verdict_and_say_how_many_are_needed() -> None:
    best = decide(leave_groups_out(world(4, between=0.03, within=0.03)), "best")
    assert best.form in (STRENGTH, GIVEN)
    assert best.answer == "cannot be told"
    assert "4 models and traits were evaluated, 5 are needed" in best.text


@pytest.mark.slow
def test_where_nothing_predicts_the_answer_is_no() -> None:
    rng = np.random.default_rng(8)
    # coefficients that have nothing to do with their vectors
    cases = [replace(case, outcome=scaled_to(case, math.exp(rng.normal(3, 0.3)))) for case in world(6)]
    best = decide(leave_groups_out(cases), "best")
    assert best.answer == "no"
    assert best.form in (STRENGTH, GIVEN)
    assert "No: the best coefficient of a new model and trait is not predicted better" in best.text


def scaled_to(case: Case, best: float) -> Any:
    assert case.outcome.best is not None
    return scaled(case, best / case.outcome.best).outcome


def test_a_group_is_predicted_from_the_others_alone(plain: Trial) -> None:
    cases = world(3, between=0.0, within=0.0)
    odd = [scaled(case, 3.0) if case.outcome.model == "model-0" else case for case in cases]
    trial = leave_groups_out(odd)
    expected = trial.predicted["best", STRENGTH]
    for case, value in zip(trial.cases, expected, strict=True):
        assert case.outcome.best is not None
        own = case.outcome.best / (3.0 if case.outcome.model == "model-0" else 1.0)
        others = 1.0 if case.outcome.model == "model-0" else math.sqrt(3)
        assert value == pytest.approx(own * others)
    # exact where it is not the odd one out that is predicted, or helps to
    assert trial.scores["best", STRENGTH].errors[0] == pytest.approx(math.log(3))


def test_scores_are_factors_that_one_can_check_by_hand() -> None:
    cases = world(2, between=0.0, within=0.0)
    off = [1.1, 1.1, 1.1, 1.5]
    odd = [case for case in cases if case.outcome.model == "model-1"]
    first = [case for case in cases if case.outcome.model == "model-0"][:4]
    trial = leave_groups_out([*(scaled(c, f) for c, f in zip(first, off, strict=True)), *odd])
    errors = [math.log(f) for f in off]
    score = trial.scores["best", STRENGTH]
    assert score.errors[0] == pytest.approx(np.mean(errors))
    assert score.errors[1] == pytest.approx(math.log(1.1))  # the median of the four
    assert score.median_factor == pytest.approx(1.1)
    assert score.share_within == pytest.approx((3 + len(odd)) / (4 + len(odd)))
    assert score.spread == pytest.approx(math.sqrt((np.mean(np.square(errors)) + math.log(1.1) ** 2) / 2))
    assert score.against(trial.scores["best", NORM]).high is None


def test_every_group_weighs_the_same_however_many_vectors_it_has() -> None:
    small, large = world(2, between=0.0, within=0.0)[:3], world(2, between=0.0, within=0.0)[15:]
    third = [replace(c, outcome=replace(c.outcome, model="model-9")) for c in small]
    cases = [*(scaled(c, 2) for c in small), *large, *(scaled(c, 4) for c in third)]
    assert math.exp(fit_constant(cases, "best", STRENGTH)) == pytest.approx(0.8 * 2)


def test_the_text_has_the_verdicts_every_form_and_what_was_left_out(plain: Trial) -> None:
    decisions = [decide(plain, "best"), decide(plain, "cliff")]
    text = prediction_markdown(plain, decisions, floor=68, left_out={"a reason": 3}, toy=True)
    assert text.startswith("Toy models")
    assert all(one.text in text for one in decisions)
    for words in ("median coefficient of the others", "full activation norm", "relative strength, as"):
        assert text.count(f"| {words}") == 2
    assert "- 3: a reason" in text
    assert "floor coherence 68" in text
    own = own_strengths(plain.cases)
    assert [one.group[0] for one in own] == [f"model-{i}" for i in range(6)]
    assert scatter_words(own) in text
    lines = prediction_csv(plain).splitlines()
    assert len(lines) == len(plain.cases) + 1
    assert {f"best:{MEDIAN}", f"cliff:{STRENGTH}", f"best:{GIVEN}"} <= set(lines[0].split(","))


PRIOR = AdoptedPrior(
    experiment="toy", floor=68.0, n_cases=78, n_groups=5, best=Part(0.75, 0.15), cliff=Part(1.03, 0.2), source="a test"
)


def test_a_prior_expects_what_its_parts_say() -> None:
    found = PRIOR.expect(FACTS)
    assert found.best == pytest.approx(75)
    assert found.cliff == pytest.approx(103)
    assert (found.spread, found.source) == (0.2, "a test")
    assert replace(PRIOR, cliff=Part(0.5, 0.2)).expect(FACTS).best == pytest.approx(50)
    with pytest.raises(ValueError, match="massive dims alone"):
        PRIOR.expect(replace(FACTS, unit_strength=0.0))


def test_a_prior_is_read_back_as_it_was_written() -> None:
    assert parse_prior(format_prior(PRIOR), "a test") == PRIOR
    of_length = replace(PRIOR, max_new_tokens=32)
    assert parse_prior(format_prior(of_length), "a test") == of_length
    assert parse_prior(change("max_new_tokens", None), "a test") == PRIOR, "an earlier version did not write it"


def test_a_vector_without_a_best_is_evidence_about_cliffs_alone(plain: Trial) -> None:
    weak = [replace(c, outcome=replace(c.outcome, best=None)) for c in plain.cases[:15]]
    both = leave_groups_out([*weak, *plain.cases[15:]])
    assert (len(both.cases_of("best")), len(both.cases_of("cliff"))) == (75, 90)
    assert "(75 vectors of 5 models and traits" in decide(both, "best").text
    assert "(90 vectors of 6 models and traits" in decide(both, "cliff").text
    assert decide(both, "cliff").part == decide(plain, "cliff").part
    decisions = [decide(both, "best"), decide(both, "cliff")]
    text = prediction_markdown(both, decisions, floor=68, left_out={})
    (row,) = [line for line in text.splitlines() if line.startswith("| model-0")]
    assert [cell.strip() for cell in row.split("|")][4:6] == ["—", "—"]
    assert len(prediction_csv(both).splitlines()) == 91


def test_what_carries_over_is_told_by_pairs_that_differ_in_one_thing() -> None:
    (case, *_) = world(1)

    def at(strength: float, **changes: Any) -> Case:
        c = strength / case.facts.unit_strength
        return replace(case, outcome=replace(case.outcome, low=c, high=c, **changes))

    cases = [at(0.5, tokens=32), at(0.6, tokens=32, layer=20), at(0.4, tokens=64), at(1.0, tokens=32, trait="other")]
    carried = {one.what: (round(one.factor, 3), one.n_pairs) for one in carry_overs(cases)}
    assert carried == {
        "to another layer": (1.2, 1),
        "to another trait of the model": (2.0, 1),
        "to responses of another length": (1.25, 1),
    }


def change(path: str, value: object) -> str:
    document = json.loads(format_prior(PRIOR))
    *place, last = path.split(".")
    inner = document
    for key in place:
        inner = inner[int(key)] if key.isdigit() else inner[key]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return json.dumps(document)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "not a prior"),
        ("[]", "should be an object"),
        ("[" * 100_000, "not a prior"),
        (change("format", "massact-coefficient-prior/2"), "format: Input should be 'massact-coefficient-prior/1'"),
        (change("surplus", 1), "surplus: Unexpected"),
        (change("experiment", ""), "experiment: String should have at least 1"),
        (change("floor", 101), "floor: Input should be less than or equal to 100"),
        (change("max_new_tokens", 0), "max_new_tokens: Input should be greater than 0"),
        (change("n_cases", 1.5), "n_cases: Input should be a valid integer"),
        (change("n_cases", True), "n_cases: Input should be a valid integer"),
        (change("cliff", None), "cliff: Field required"),
        (change("cliff.form", "pickle"), "cliff.form: Input should be 'relative_strength'"),
        (change("cliff.form", ["ridge"]), "cliff.form: Input should be 'relative_strength'"),
        (change("cliff.form", "ridge"), "cliff.form: Input should be 'relative_strength'"),
        (change("cliff.value", 0), "cliff.value: Input should be greater than 0"),
        (change("cliff.value", "1.03"), "cliff.value: Input should be a valid number"),
        (change("cliff.value", True), "cliff.value: Input should be a valid number"),
        (change("cliff.value", math.nan), "NaN is no number"),
        (change("cliff.value", math.inf), "Infinity is no number"),
        (format_prior(PRIOR).replace("1.03", "1e999"), "is too large"),
        (format_prior(PRIOR).replace("1.03", "1" + "0" * 400), "not a prior"),
        (change("cliff.intercept", 1), "cliff.intercept: Unexpected"),
        (change("best.spread", 0), "best.spread: Input should be greater than 0"),
        (change("best", []), "best: Input should be an object"),
    ],
)  # fmt: skip
def test_anything_but_a_prior_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(DataError, match="not a prior of massact predict") as error:
        parse_prior(text, "a test")
    assert complaint in str(error.value)
