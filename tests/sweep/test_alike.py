"""Labels whose vectors are alike: which they are, and what answers say of results that were taken over."""

from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from massact.cli.app import cli
from massact.query.questions.best import ask_best
from massact.query.questions.compare import ask_compare
from massact.query.questions.runs import ask_runs
from massact.query.stats.paired import QuestionScores
from massact.store.schema import Points, Scores, decode_evaluation, encode_point, encode_row, point_of
from massact.store.schema.points import decode_points
from massact.sweep.reuse import Same, alike_lines, known_results
from massact.vectors.methods import alike_groups, likeness
from tests.support.store_fixtures import EXPERIMENT, answers_of, evaluated, evaluation_row, stored
from tests.support.sweep_cells import cells

FLOOR = 68.0
VECTORS = st.lists(
    st.tuples(st.integers(-4, 4), st.integers(-4, 4), st.integers(-4, 4)).filter(any), min_size=1, max_size=7
)


def _units(vectors: list[tuple[int, int, int]]) -> list[torch.Tensor]:
    return [torch.nn.functional.normalize(torch.tensor(one, dtype=torch.float64), dim=0) for one in vectors]


@settings(deadline=None, max_examples=80)
@given(VECTORS, st.sampled_from([0.5, 0.9, 0.98, 1.0]))
def test_every_label_is_like_its_representative_and_no_two_representatives_are_alike(
    vectors: list[tuple[int, int, int]], threshold: float
) -> None:
    units = _units(vectors)

    def measured(a: int, b: int) -> float | None:
        return None if torch.equal(units[a], units[b]) else likeness(units[a], units[b], ())

    def is_alike(a: int, b: int) -> bool:
        found = measured(a, b)
        return found is None or found > threshold

    found = alike_groups(range(len(units)), measured, threshold)
    representatives = [i for i in range(len(units)) if i not in found]
    for i, (representative, figure) in found.items():
        earlier = [r for r in representatives if r < i and is_alike(r, i)]
        assert representative == earlier[0], "the first in order, compared directly"
        assert figure == (1.0 if measured(representative, i) is None else measured(representative, i))
    for i in representatives:
        assert not any(is_alike(r, i) for r in representatives if r < i)


def test_a_chain_of_small_differences_is_no_likeness() -> None:
    close = {(0, 1): 0.99, (1, 2): 0.99, (0, 2): 0.96}
    assert alike_groups(range(3), lambda a, b: close[a, b], 0.98) == {1: (0, 0.99)}


def test_likeness_of_unit_vectors_is_their_cosine() -> None:
    a, b = torch.tensor([0.6, 0.8, 0.0]), torch.tensor([0.8, 0.6, 0.0])
    assert likeness(a, b, ()) == pytest.approx(0.96)
    assert likeness(a, -b, ()) == pytest.approx(-0.96)
    assert likeness(a, a, (0,)) == pytest.approx(1.0)
    assert likeness(a, a, (0, 1)) == 1.0, "nothing outside the massive dims, in either"


def test_a_massive_dim_does_not_hide_what_steers() -> None:
    # dim 0 is massive and holds 99.6 % of the energy; what moves the text points another way
    a, b = torch.tensor([0.998, 0.0632, 0.0]), torch.tensor([0.998, 0.0, 0.0632])
    assert likeness(a, b, ()) > 0.99
    assert likeness(a, b, (0,)) == 0.0
    # nor is one direction the same where one coefficient moves the text four times as far
    c = torch.tensor([0.9999, 0.0158, 0.0])
    assert likeness(a, c, ()) > 0.99
    assert likeness(a, c, (0,)) == pytest.approx(2 * 4 / (1 + 16), abs=0.01)


TAKEN = {"same_as": "probe", "same_as_key": "probe-15-1000", "same_as_cosine": 0.99}


def test_the_mark_survives_the_row_and_the_point_and_is_absent_without_one() -> None:
    plain, marked = evaluation_row("probe"), evaluation_row("probe_top1", **TAKEN)
    assert decode_evaluation(encode_row(marked)) == marked
    texts = [encode_point(row) or "" for row in (plain, marked)]
    assert "null" not in texts[0].split("\n")[2].replace("null", "", 1), "as earlier versions wrote it"
    points, unreadable = decode_points(EXPERIMENT, [("a", 1, texts[0]), ("b", 2, texts[1])])
    assert unreadable == []
    assert list(points) == [point_of(plain, "a", 1), point_of(marked, "b", 2)]
    assert [one.same_as for one in points] == [None, "probe"]


def _points(*rows: object) -> Points:
    return Points.of([point_of(row, f"run-{i}", i) for i, row in enumerate(rows)])  # type: ignore[arg-type, misc]


def test_a_result_that_was_taken_over_counts_while_its_source_does() -> None:
    source, taken = evaluation_row("probe"), evaluation_row("probe_top1", **TAKEN)
    place = {"model": "gemma", "trait": "refusal"}

    def counted(*rows: object, threshold: float | None = 0.98) -> set[str]:
        return known_results(_points(*rows), threshold, **place).taken

    assert counted(source, taken) == {taken.key}
    assert known_results(_points(source, taken), 0.98, **place).evaluated == {source.key}
    assert counted(source, taken, threshold=None) == set(), "off: nothing that was taken over is finished"
    assert counted(source, taken, threshold=0.995) == set(), "not alike enough for this command"
    assert counted(source, replace(taken, same_as_cosine=1.0), threshold=1.0) == {taken.key}
    assert counted(taken) == set(), "its source was deleted"
    assert counted(replace(source, trait_mean=31.0), taken) == set(), "its source was evaluated again"
    assert counted(replace(source, coefficient=900.0), taken) == set(), "of another coefficient"
    assert known_results(_points(source, taken), 0.98, model="other", trait="refusal").evaluated == set()


def test_lines_name_who_takes_over_from_whom_with_layers_and_cosines() -> None:
    planned = dict(zip("abc", cells(3), strict=True))
    same = {"a": Same("mean_diff", "x", 0.98765), "b": Same("mean_diff", "x", 0.98765)}
    assert alike_lines(same, planned) == ["response[:5]: probe (layer 1, cosine 0.9876) as mean_diff"]


SOURCE = evaluated("probe", 15, 1000.0)
COPY = evaluated("probe_top1", 15, 1000.0, **TAKEN)
OWN = evaluated("probe_top1", 15, 1500.0, delta=35.0)
SCORES = QuestionScores(
    {one.run_id: Scores((20.0, 30.0, 40.0, 30.0), (80.0,) * 4) for one in (SOURCE, COPY, OWN)},
    {"baseline": Scores((10.0, 5.0, 15.0, 10.0), (90.0,) * 4)},
)
PAIR = [("probe", "probe_top1")]


def test_best_and_runs_say_whose_result_it_is() -> None:
    answer = ask_best.of(answers_of([SOURCE, COPY], scores=SCORES), FLOOR)
    assert [(row.label, row.same_as, row.same_as_cosine) for row in answer.rows] == [
        ("probe", None, None),
        ("probe_top1", "probe", 0.99),
    ]
    assert any("1 best is taken over from another label" in note for note in answer.notes)
    assert {row.standing for row in answer.rows} == {"winner", "tied"}
    listed = ask_runs.of(answers_of([SOURCE, COPY]), FLOOR).rows
    assert {row.label: row.same_as for row in listed} == {"probe": None, "probe_top1": "probe"}
    assert ask_best.of(answers_of([SOURCE, OWN]), FLOOR).notes == ()


def test_compare_never_tests_an_evaluation_against_itself() -> None:
    answer = ask_compare.of(answers_of([SOURCE, COPY], scores=SCORES), FLOOR, pairs=PAIR)
    (row,) = answer.rows
    assert row.same_vector == "evaluated once, as probe: cosine 0.9900"
    assert (row.difference, row.p_value, row.difference_low) == (0.0, None, None)
    assert any("was not measured: --alike off" in note for note in answer.notes)


def test_compare_warns_where_a_best_of_one_label_is_anothers_result() -> None:
    third = evaluated("mean_diff", 15, 1000.0, delta=25.0)
    scores = replace(SCORES, evaluations={**SCORES.evaluations, third.run_id: SCORES.evaluations[SOURCE.run_id]})
    (row,) = ask_compare.of(answers_of([third, COPY], scores=scores), FLOOR, pairs=[("mean_diff", "probe_top1")]).rows
    assert row.warnings == ("probe_top1 was not evaluated there itself: the result is that of probe (cosine 0.9900)",)
    assert row.p_value is not None
    beside = evaluated("probe", 15, 1500.0, delta=30.0)
    scores = replace(SCORES, evaluations={**SCORES.evaluations, beside.run_id: SCORES.evaluations[OWN.run_id]})
    every = [SOURCE, COPY, OWN, beside]
    (own,) = ask_compare.of(answers_of(every, scores=scores), FLOOR, pairs=PAIR).rows
    assert (own.same_vector, own.warnings) == (None, ()), "its best was evaluated itself"


def test_two_labels_that_share_a_third_ones_result_are_one_evaluation() -> None:
    other = evaluated("probe_top2", 15, 1000.0, **{**TAKEN, "same_as_cosine": 0.985})
    (row,) = ask_compare.of(answers_of([COPY, other]), FLOOR, pairs=[("probe_top1", "probe_top2")]).rows
    assert row.same_vector == "evaluated once, as probe: cosine 0.9900 and 0.9850"


@pytest.mark.parametrize("bad", ["0", "1.1", "-0.5", "nan", "much"])
def test_a_cosine_that_is_none_is_refused(bad: str, root: object) -> None:
    result = CliRunner().invoke(cli, ["phase1", "--alike", bad, "--experiment", f"{root}/experiments/toy.yaml"])
    assert result.exit_code == 2
    assert "is no cosine: give one above 0 and at most 1" in result.output


@pytest.mark.parametrize(("text", "alike"), [("off", None), ("OFF", None), ("1", 1.0), ("0.9999", 0.9999)])
@pytest.mark.parametrize("command", ["main", "phase1", "phase2", "phase3", "evaluate"])
def test_the_option_reaches_every_sweep(
    command: str, text: str, alike: float | None, root: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, object] = {}

    def opened(*_: object, **workload: object) -> None:
        given.update(workload)
        raise SystemExit(0)

    for module in ("phases", "evaluate"):
        monkeypatch.setattr(f"massact.cli.{module}.open_session", opened)
    line = ["--method", "probe", "--position", "response[:5]"] if command == "evaluate" else []
    options = [*line, "--alike", text, "--experiment", f"{root}/experiments/toy.yaml"]
    assert CliRunner().invoke(cli, [command, *options]).exit_code == 0
    assert given["alike"] == alike


def test_an_older_run_of_the_same_key_gives_way() -> None:
    own = stored(evaluation_row("probe_top1", delta=22.0), run_id="own", finished_at=20)
    taken = stored(evaluation_row("probe_top1", **TAKEN), run_id="taken", finished_at=10)
    (row,) = ask_runs.of(answers_of([own, taken]), FLOOR).rows
    assert (row.run_id, row.same_as, row.delta) == ("own", None, 22.0)
