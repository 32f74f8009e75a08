"""Where the plan's own scripts are wrong, and that our answers are right there for every order of the lines."""

import contextlib
import io
import itertools
import os
import random
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import massact
from massact.domain import Group
from massact.query import Answers
from massact.query.questions.gaps import GapRow, ask_gaps
from massact.store.read import open_store
from massact.store.read.base import Stored
from massact.store.schema import Kind, Tag, decode_evaluation
from tests.support.store_fixtures import answers_of
from tests.support.transfer_files import (
    EXPERIMENT,
    Heap,
    baseline,
    evaluation,
    header,
    import_to_heap,
    import_to_store,
    vector,
    write_lines,
)

Lines = Sequence[Mapping[str, Any]]
Analyze = Callable[[Path], dict[str, dict[str, Any]]]

FLOOR = 68.0
SCRIPTS = Path(__file__).resolve().parents[1] / "plan_scripts"
PLACE = "steering/chirp/refusal/instruct/response__5/steering/results.jsonl"
GROUP = Group("gemma-3-4b-it", "chirp/refusal", "response[:5]", "probe")
BASELINE = 10.0


def line(coefficient: float, coherence: float | None, delta: float | None, **changes: Any) -> dict[str, Any]:
    """An evaluation of probe at layer 15; each coefficient is evaluated once."""
    trait = None if delta is None else BASELINE + delta
    return evaluation(trait, coherence, vectors=[vector(weight=coefficient)], **changes)


FIRST, VALID, BETTER = line(1000, 40.0, 60.0), line(800, 80.0, 20.0), line(700, 75.0, 25.0)
HIDING = [FIRST, VALID, BETTER, line(900, 69.0, 20.0)]
"""An incoherent result with a high delta, and valid ones that it hides where it stands first."""
MISSES = [line(1000, 40.0, 60.0), line(800, 65.0, 20.0), line(850, 12.5, 70.0), line(700, 61.0, -3.0)]
"""All are below the floor; the second is the nearest miss."""


@pytest.fixture(scope="module")
def analyze() -> Analyze:
    """The gap script's own function."""
    with contextlib.redirect_stdout(io.StringIO()):
        return runpy.run_path(str(SCRIPTS / "gap_analysis.py"))["analyze_gaps"]  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("orders")


def results(folder: Path, lines: Lines) -> Path:
    """A file with a header and the lines in their order."""
    return write_lines(folder / PLACE, [header(), *lines])


def asked(path: Path) -> GapRow:
    """Our answer to the file: through the import into rows, and the question."""
    heap = Heap()
    _, refusals = import_to_heap(path, heap)
    assert not refusals
    rows = [
        Stored(f"run-{index}", "FINISHED", run.finished_at, decode_evaluation(run.tags[Tag.ROW]))
        for index, run in enumerate(heap.runs)
        if run.tags[Tag.KIND] == Kind.EVALUATION
    ]
    [answer] = ask_gaps.of(answers_of(rows, groups=(GROUP,)), FLOOR).rows
    return answer


def summary(row: GapRow) -> tuple[Any, ...]:
    """The status, and where the best and the nearest miss lie."""
    points = (row.best, row.nearest_miss)
    return (row.status, *(point and (point.coefficient, point.delta, point.coherence_mean) for point in points))


def orders(lines: Lines) -> Iterable[Lines]:
    return itertools.permutations([baseline(BASELINE), *lines])


def test_the_script_hides_a_valid_result_behind_an_incoherent_one(analyze: Analyze, folder: Path) -> None:
    first = analyze(results(folder, [baseline(BASELINE), *HIDING]))["probe"]
    assert (first["has_valid"], first["best_coh"], first["best_delta"]) == (False, 40.0, 60.0)
    last = analyze(results(folder, [baseline(BASELINE), *HIDING[::-1]]))["probe"]
    assert (last["has_valid"], last["best_coh"], last["coef"]) == (True, 75.0, 700)


def test_the_script_reports_the_first_miss_as_the_best(analyze: Analyze, folder: Path) -> None:
    first = analyze(results(folder, [baseline(BASELINE), *MISSES]))["probe"]
    assert (first["has_valid"], first["best_coh"]) == (False, 40.0)
    last = analyze(results(folder, [baseline(BASELINE), *MISSES[::-1]]))["probe"]
    assert (last["has_valid"], last["best_coh"]) == (False, 61.0)


def test_the_script_takes_zero_for_a_baseline_that_stands_later(analyze: Analyze, folder: Path) -> None:
    usual = analyze(results(folder, [baseline(BASELINE), VALID, BETTER]))["probe"]
    assert (usual["best_delta"], usual["coef"]) == (25.0, 700)
    late = results(folder, [VALID, baseline(BASELINE), BETTER])
    found = analyze(late)["probe"]
    assert (found["best_delta"], found["coef"]) == (30.0, 800)
    assert summary(asked(late)) == ("ok", (700, 25.0, 75.0), None)


def test_the_scripts_stop_at_a_result_without_a_coherence(analyze: Analyze, folder: Path) -> None:
    path = results(folder, [baseline(BASELINE), VALID, line(600, None, 5.0)])
    with pytest.raises(TypeError):
        analyze(path)
    answer = asked(path)
    assert (answer.status, answer.n_evaluated, answer.n_unscored) == ("ok", 2, 1)


def test_the_scripts_take_the_larger_delta_where_the_smaller_is_better(tmp_path: Path) -> None:
    """A trait of direction `negative`: steering is to lower it."""
    steered = [line(800, 80.0, 10.0), line(900, 80.0, 35.0)]
    lines = [header(direction="negative"), baseline(50.0), *steered]
    path = write_lines(tmp_path / "experiments" / "massive-activations" / PLACE, lines)
    command = [sys.executable, str(SCRIPTS / "optimal_coefficients.py")]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.splitlines()[-1].split() == ["gemma-3-4b", "[:5]", "probe", "900", "-5.0"]
    assert summary(asked(path)) == ("ok", (800, -30.0, 80.0), None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lines", "right"),
    [
        (HIDING, ("ok", (700, 25.0, 75.0), None)),
        (MISSES, ("below_floor", None, (800, 20.0, 65.0))),
        ([*HIDING[:2], MISSES[2]], ("ok", (800, 20.0, 80.0), None)),
    ],
    ids=["a hidden result", "misses", "both"],
)
def test_ours_is_right_for_every_order_of_a_file(
    lines: Lines, right: tuple[Any, ...], folder: Path, analyze: Analyze
) -> None:
    assert {summary(asked(results(folder, order))) for order in orders(lines)} == {right}
    said = [analyze(results(folder, order))["probe"] for order in orders(lines)]
    assert len({(one["has_valid"], one["best_coh"], one["best_delta"]) for one in said}) > 1


SCORES = st.one_of(st.sampled_from([67.999, 68.0, 68.001]), st.integers(0, 400).map(lambda n: n / 4))
FILES = st.lists(st.tuples(SCORES, st.integers(-20, 160).map(lambda n: n / 2)), min_size=1, max_size=7).map(
    lambda pairs: [line(100.0 * i, *pair) for i, pair in enumerate(pairs, 1)]
)


def rightly(lines: Lines) -> tuple[Any, ...]:
    """The right answer to lines of one label and layer, whatever their order."""
    points: list[tuple[float, float, float]] = []
    for one in lines:
        result, [steered] = one["result"], one["config"]["vectors"]
        points.append((steered["weight"], result["trait_mean"] - BASELINE, result["coherence_mean"]))
    valid = sorted((-delta, c, (c, delta, coherence)) for c, delta, coherence in points if coherence >= FLOOR)
    misses = sorted((-coherence, -delta, c, (c, delta, coherence)) for c, delta, coherence in points)
    return ("ok", valid[0][-1], None) if valid else ("below_floor", None, misses[0][-1])


@pytest.mark.slow
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(lines=FILES, rng=st.randoms(use_true_random=False))
def test_ours_is_one_and_right_for_every_order_of_any_file(
    folder: Path, lines: list[dict[str, Any]], rng: random.Random
) -> None:
    whole = [baseline(BASELINE), *lines]
    answers = []
    for _ in range(3):
        answers.append(asked(results(folder, whole)))
        rng.shuffle(whole)
    keys = {(row.best and row.best.key, row.nearest_miss and row.nearest_miss.key) for row in answers}
    assert {summary(row) for row in answers} == {rightly(lines)}
    assert len(keys) == 1


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(lines=FILES)
def test_ours_is_the_scripts_answer_where_the_script_is_right(
    folder: Path, analyze: Analyze, lines: list[dict[str, Any]]
) -> None:
    """With the baseline first, then the most coherent first."""
    ordered = sorted(lines, key=lambda one: (-one["result"]["coherence_mean"], -one["result"]["trait_mean"]))
    path = results(folder, [baseline(BASELINE), *ordered])
    ours, theirs = asked(path), analyze(path)["probe"]
    point = ours.best or ours.nearest_miss
    assert point is not None
    assert (ours.status == "ok") == theirs["has_valid"]
    assert point.delta == pytest.approx(theirs["best_delta"])
    if ours.status == "below_floor":
        assert point.coherence_mean == theirs["best_coh"]


@pytest.mark.slow
@pytest.mark.parametrize("lines", [HIDING, MISSES], ids=["a hidden result", "misses"])
def test_ours_is_right_in_a_real_store(
    lines: Lines, uri: str, tmp_path: Path, migrated_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = [[baseline(BASELINE), *lines], [*lines, baseline(BASELINE)], [*lines[::-1], baseline(BASELINE)]]
    found = []
    for number, order in enumerate(orders):
        home = tmp_path / f"store-{number}"
        home.mkdir()
        (home / "store.db").write_bytes(migrated_database.read_bytes())
        import_to_store(f"sqlite:///{home}/store.db", results(tmp_path, order))
        with closing(open_store(f"sqlite:///{home}/store.db")) as store:
            answers = replace(Answers.from_store(store, EXPERIMENT), groups=(GROUP,))
        [row] = massact.gaps.of(answers, FLOOR).rows
        [best] = massact.best.of(answers, FLOOR).rows
        assert (row.status, row.best and row.best.key) == (best.status, best.key)
        assert best.nearest_miss == row.nearest_miss
        found.append(summary(row))
    assert set(found) == {rightly(lines)}
