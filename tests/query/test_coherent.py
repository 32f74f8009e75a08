"""How sure it is that an evaluation is truly coherent, and answers that ask for such alone."""

import random
from dataclasses import replace
from inspect import signature

import numpy as np
import pytest
from scipy.stats import norm

from massact import curve
from massact.api import names, question
from massact.domain import Group
from massact.errors import UsageError
from massact.query import Answers, Evaluations
from massact.query.groups import slices, strata
from massact.query.questions.best import ask_best
from massact.query.questions.compare import ask_compare
from massact.query.questions.gaps import ask_gaps
from massact.query.stats.coherent import Coherences, chances_of, coherent_chances
from massact.query.stats.paired import QuestionScores
from massact.store.read.base import Stored
from massact.store.schema import EvaluationRow, Scores, Tag
from massact.store.schema.rows import encode_scores
from tests.support.store_fixtures import EXPERIMENT, Filler, answers_of, evaluated, point_tags

FLOOR = 68.0
BASE = (10.0, 12.0, 11.0, 11.0)
Scored = tuple[Stored[EvaluationRow], Scores]


def cell(label: str, coefficient: float, gain: float, *coherences: float, layer: int = 15) -> Scored:
    """An evaluation on four questions."""
    trait = tuple(base + gain for base in BASE)
    row = evaluated(
        label,
        layer,
        coefficient,
        baseline_trait_mean=11.0,
        trait_mean=11.0 + gain,
        delta=gain,
        coherence_mean=sum(coherences) / 4,
        n_scored=4,
    )
    return row, Scores(trait, coherences)


def answers(*cells: Scored) -> Answers:
    scores = QuestionScores(
        {row.run_id: scores for row, scores in cells if (row.row.coherence_mean or 0.0) >= FLOOR},
        {"baseline": Scores(BASE, (90.0,) * 4)},
    )
    groups = tuple(dict.fromkeys(Group("gemma", "refusal", "response[:5]", row.row.label) for row, _ in cells))
    return replace(answers_of([row for row, _ in cells], scores=scores), groups=groups)


SURE = cell("probe", 100, 20, 90, 92, 88, 94)
LUCKY = cell("probe", 200, 30, 100, 45, 100, 40)  # 71.25, where its neighbours lead to expect 60
BROKEN = cell("probe", 300, 40, 30, 25, 35, 28)
GRID = (SURE, LUCKY, BROKEN)


def test_alone_a_cell_is_as_sure_as_its_scores_are() -> None:
    (place,) = strata(slices(Evaluations.of([cell("probe", 100, 20, 60, 80, 70, 90)[0]])))
    one, scores = cell("probe", 100, 20, 60, 80, 70, 90)
    found = coherent_chances(place, FLOOR, QuestionScores({one.run_id: scores}, {}))
    # mean 75, variance 500 / 3, of the mean 500 / 12
    assert found == {one.run_id: pytest.approx(float(norm.cdf(7 / (500 / 12) ** 0.5)), abs=1e-6)}


def test_without_scores_by_question_there_is_no_chance() -> None:
    (place,) = strata(slices(Evaluations.of([row for row, _ in GRID])))
    assert coherent_chances(place, FLOOR, QuestionScores({}, {})) == {}


def test_of_many_cells_with_one_coherence_the_same_are_asked_in_whatever_order() -> None:
    grid = [cell("probe", 100 + at, 20, *(75 + at % 25, 75 - at % 25, 80, 70)) for at in range(200)]
    scores = QuestionScores({row.run_id: each for row, each in grid}, {})
    orders = [grid, random.Random(0).sample(grid, len(grid)), random.Random(1).sample(grid, len(grid))]
    places = [strata(slices(Evaluations.of([row for row, _ in one])))[0] for one in orders]
    first, *others = (coherent_chances(place, FLOOR, scores) for place in places)
    assert len(first) == 200
    for found in others:
        assert found == pytest.approx(first, abs=1e-9)


def chances(means: list[float], deviation: float, correlation: float = 0.0) -> list[float]:
    """Of a ladder whose means have this standard error."""
    n = len(means)
    cells = Coherences(
        labels=np.zeros(n, dtype=np.intp),
        layers=np.zeros(n, dtype=np.intp),
        coefficients=np.arange(1.0, n + 1),
        means=np.array(means),
        variances=np.full(n, deviation**2),
        correlation=correlation,
    )
    return chances_of(cells, FLOOR).tolist()


def test_neighbours_pull_a_cell_towards_what_lies_between_them() -> None:
    alone = norm.cdf((72 - FLOOR) / 8)
    assert chances([75, 72, 45], 8)[1] < alone - 0.1, "60 is expected of it"
    assert chances([92, 72, 66], 8)[1] > alone, "79 is expected of it"


def test_a_steep_cliff_says_nothing_of_the_last_cell_before_it() -> None:
    # one ladder more or less does not tell how steep the cliff is: a lone one is taken for gradual
    last = chances([92, 91, 92, 4, 3], 8)[2]
    assert last == pytest.approx(norm.cdf((92 - FLOOR) / 8), abs=0.02)


def test_without_noise_it_is_certain() -> None:
    assert chances([90, 68.5, 40], 0.0)[:2] == pytest.approx([1.0, 1.0])


def test_what_all_cells_of_a_question_share_no_neighbour_lessens() -> None:
    grid = [84.0, 80, 76, 72, 68]
    assert chances(grid, 8, 0.8)[2] < chances(grid, 8)[2]


def test_a_best_carries_its_chance_and_a_note_says_where_it_is_low() -> None:
    answer = ask_best.of(answers(*GRID), FLOOR)
    (row,) = answer.rows
    assert (row.coefficient, row.coherence_mean) == (200, 71.25)
    assert row.coherent_chance is not None
    assert row.coherent_chance < 0.6
    (note,) = [note for note in answer.notes if "truly" in note]
    assert note.startswith("1 best is truly at or above the floor with a chance below 0.9 (the least is 0.")
    column = next(column for column in row.columns if column.header == "truly coherent")
    assert column.text(row) == f"{row.coherent_chance:.0%}"
    assert column.text(ask_best.of(answers(SURE), FLOOR).rows[0]) == ""


def test_a_surer_best_can_be_asked_for() -> None:
    every, notes = answers(*GRID).surely_coherent(FLOOR, 0.9)
    (row,) = ask_best.of(every, FLOOR).rows
    assert (row.coefficient, row.delta) == (100, 20)
    assert notes == ("1 evaluation is at or above the floor with a chance below 0.9: not counted as coherent",)


def test_a_group_of_doubtful_cells_alone_is_a_gap() -> None:
    every = answers(LUCKY, BROKEN)
    assert ask_gaps.of(every, FLOOR).rows[0].status == "ok"
    row = ask_gaps.of(every.surely_coherent(FLOOR, 0.9)[0], FLOOR).rows[0]
    assert row.status == "below_floor"
    assert row.nearest_miss is not None
    assert row.nearest_miss.coherence_mean == 71.25, "its figure is shown as it is"
    assert (row.brackets[0].low, row.brackets[0].high) == (None, 200)


def test_compare_asks_for_it_too() -> None:
    others = [cell("mean_diff", c, d, 91, 92, 90, 93) for c, d in ((100, 25), (200, 25))]
    every = answers(*GRID, *others)
    usual, sure = (
        ask_compare.of(every.surely_coherent(FLOOR, chance)[0], FLOOR, pairs=[("probe", "mean_diff")]).rows[0]
        for chance in (0.5, 0.9)
    )
    assert (usual.difference, sure.difference) == (5, -5)


def test_every_question_at_a_floor_takes_it(uri: str) -> None:
    filler = Filler(uri)
    for index, (one, scores) in enumerate(
        (cell("mean_diff", 100, 20, 90, 92, 88, 94), cell("mean_diff", 200, 30, 100, 45, 100, 40))
    ):
        tags = {**point_tags(one.row), Tag.SCORES.value: encode_scores(scores) or ""}
        filler.run(str(index), "0", tags=tags)
    steps = {
        chance: [row.best for row in curve(EXPERIMENT, tracking_uri=uri, floor_confidence=chance).rows if row.best]
        for chance in (None, 0.9)
    }
    assert [best.coefficient for best in steps[None]] == [200]
    assert [best.coefficient for best in steps[0.9]] == [100]
    for name in names():
        takes = "floor_confidence" in signature(question(name)).parameters
        assert takes != bool(question(name).traits.no_floor), name
    with pytest.raises(UsageError, match=r"floor_confidence 1\.5: it runs from 0 to 1"):
        curve(EXPERIMENT, tracking_uri=uri, floor_confidence=1.5)


def test_an_even_chance_leaves_answers_as_they_are() -> None:
    every = answers(*GRID)
    assert every.surely_coherent(FLOOR, 0.5) == (every, ())


@pytest.mark.slow
@pytest.mark.parametrize("n_questions", [5, 10])
def test_at_a_gradual_cliff_those_that_are_called_sure_are(n_questions: int) -> None:
    """Six labels, four layers with cliffs of their own; the best of each label is picked by a noisy delta."""
    random = np.random.default_rng(0)
    sure, usual = list[bool](), list[bool]()
    shape = (6, 4, 7)
    labels, layers, steps = (index.ravel() for index in np.indices(shape))
    sizes = (steps + 1) / 7
    for _ in range(120):
        cliffs = random.uniform(0.5, 1.1, (1, 4, 1)) * np.exp(0.1 * random.standard_normal((6, 4, 1)))
        true = (92 / (1 + np.exp((sizes.reshape(shape) - cliffs) / 0.15))).ravel()
        seen = true + 20 / n_questions**0.5 * random.standard_normal(len(true))
        delta = 30 * sizes + 20 / n_questions**0.5 * random.standard_normal(len(true))
        variances = np.full(len(true), 400.0 / n_questions)
        found = chances_of(Coherences(labels, layers, sizes, seen, variances, 0.0), FLOOR)
        for label in range(6):
            for kept, into in ((seen >= FLOOR, usual), ((seen >= FLOOR) & (found >= 0.9), sure)):
                among = np.where(kept & (labels == label), delta, -np.inf)
                if np.isfinite(among.max()):
                    into.append(true[among.argmax()] >= FLOOR)
    assert np.mean(usual) < 0.9
    assert np.mean(sure) > 0.95
