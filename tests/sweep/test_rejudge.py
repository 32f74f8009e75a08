"""`massact rejudge`: a second judge on stored responses, against a real judge server and a real store."""

import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from massact.cli.app import cli
from massact.config import load_experiment
from massact.keys import cell_json
from massact.metrics import DEFAULT_METRICS
from massact.store.read import open_store, stored_runs
from massact.store.read.base import Stored
from massact.store.responses import read_responses
from massact.store.schema import Artifact, EvaluationRow, Kind, MlflowTag, Tag
from massact.store.write.client import connect
from massact.sweep.context import Session
from massact.sweep.stored import place_of, stored_subject
from tests.support.judge_server import JUDGE, JudgeServer, Reply, Request, completion, judge_by_text, score_by_text
from tests.support.judged_place import is_canary
from tests.support.prepared import PreparedStores
from tests.support.small_plan import EXPERIMENT
from tests.support.store_fixtures import evaluation_row

pytestmark = pytest.mark.slow

N_CELLS, N_QUESTIONS = 4, 2


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, prepared_stores: PreparedStores) -> Path:
    """A folder where phase 1 was run, judged by the embedded judge."""
    folder = tmp_path_factory.mktemp("swept")
    prepared_stores.copy(EXPERIMENT, folder)
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        result = run(folder, "phase1", "--max-rounds", "0")
        assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Iterator[JudgeServer]:
    with judge_by_text(monkeypatch) as server:
        yield server


@pytest.fixture
def place(swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it; artifacts are read where they were written."""
    for name in ("small.yaml", "mlflow.db"):
        shutil.copy(swept / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(folder: Path, *arguments: str) -> Result:
    options = ["--experiment", str(folder / "small.yaml"), "--tracking-uri", f"sqlite:///{folder}/mlflow.db"]
    result = CliRunner().invoke(cli, [*arguments, *options])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def rows(folder: Path, judge: str | None = None) -> list[Stored[EvaluationRow]]:
    store = open_store(f"sqlite:///{folder}/mlflow.db")
    try:
        return [one for one in store.evaluations("small") if judge in (None, one.row.judge)]
    finally:
        store.close()


def test_every_stored_row_holds_its_cell(place: Path) -> None:
    session = Session(load_experiment(place / "small.yaml"), f"sqlite:///{place}/mlflow.db")
    found = rows(place)
    assert len(found) == N_CELLS
    for one in found:
        _, cell = stored_subject(session, one.row)
        assert cell.steering is not None
        assert (cell.steering.layer, cell.steering.coefficient) == (one.row.layer, one.row.coefficient)
        assert one.row.cell == cell_json(cell)


def test_the_second_judge_stands_beside_the_first(place: Path, judge: JudgeServer) -> None:
    result = run(place, "rejudge", "--judge", JUDGE)
    assert result.exit_code == 0, result.output
    assert f"{N_CELLS} evaluations ({(N_CELLS + 1) * N_QUESTIONS} responses) to score" in result.stderr
    first, second = rows(place, "likelihood"), rows(place, JUDGE)
    assert len(first) == len(second) == N_CELLS
    by_vector = {(one.row.vector_digest, one.row.coefficient): one for one in first}
    tags = (Tag.REJUDGED,)
    sources = {
        one.run_id: one.tags[Tag.REJUDGED]
        for one in stored_runs(f"sqlite:///{place}/mlflow.db", "small", second[0].row.kind, tags=tags)
        if Tag.REJUDGED in one.tags
    }
    session = Session(load_experiment(place / "small.yaml"), f"sqlite:///{place}/mlflow.db")
    for one in second:
        old = by_vector[one.row.vector_digest, one.row.coefficient]
        assert sources[one.run_id] == old.run_id
        assert one.row.key != old.row.key
        assert one.row.coherence_mean == 90.0
        assert one.row.delta == pytest.approx(one.row.trait_mean - one.row.baseline_trait_mean)  # type: ignore[operator]
        assert one.row.massive_energy == old.row.massive_energy
        texts = [
            [(r.question, r.response) for r in read_responses(session.stores.fetch(of.run_id, Artifact.RESPONSES))]
            for of in (one, old)
        ]
        assert texts[0] == texts[1]
        assert one.row.metrics == old.row.metrics  # nothing was generated, so that they are the texts' still
        assert {*(one.row.metrics or ())} == {*DEFAULT_METRICS}
        assert _by_question(place, one.run_id) == _by_question(place, old.run_id)
    assert "shared" in result.stdout
    assert JUDGE in result.stdout


def _by_question(place: Path, run_id: str) -> dict[str, tuple[float | None, ...]]:
    with closing(open_store(f"sqlite:///{place}/mlflow.db")) as store:
        found = store.with_metrics(store.scores([run_id]), DEFAULT_METRICS)[run_id].metrics
    assert all(len(values) == N_QUESTIONS for values in found.values())
    return dict(found)


def test_a_second_time_nothing_is_asked(place: Path, judge: JudgeServer) -> None:
    assert run(place, "rejudge", "--judge", JUDGE).exit_code == 0
    n_asked = len(judge.requests)
    again = run(place, "rejudge", "--judge", JUDGE)
    assert again.exit_code == 0
    assert len(judge.requests) == n_asked
    assert f"nothing to score, {N_CELLS} scored by this judge already" in again.stderr
    assert len(rows(place)) == 2 * N_CELLS


def test_the_key_is_the_one_that_a_sweep_would_give(place: Path, judge: JudgeServer) -> None:
    assert run(place, "rejudge", "--judge", JUDGE).exit_code == 0
    file = place / "small.yaml"
    file.write_text(file.read_text().replace("judge: likelihood", f'judge: "{JUDGE}"'))
    result = run(place, "phase1", "--max-rounds", "0")
    assert f"{N_CELLS} cells: {N_CELLS} finished already, 0 evaluated" in result.stderr


def test_a_dry_run_asks_nobody_and_writes_nothing(place: Path, judge: JudgeServer) -> None:
    before = (place / "mlflow.db").read_bytes()
    result = run(place, "rejudge", "--judge", JUDGE, "--dry-run", "--label", "probe")
    assert result.exit_code == 0, result.output
    assert "2 evaluations (6 responses) to score" in result.stdout
    assert judge.requests == []
    assert (place / "mlflow.db").read_bytes() == before


def test_what_the_judge_left_unscored_is_scored_the_next_time(place: Path, judge: JudgeServer) -> None:
    judge.answer = no_coherence_but(baseline_texts(place))
    assert run(place, "rejudge", "--judge", JUDGE).exit_code == 0
    assert {one.row.n_unscored for one in rows(place, JUDGE)} == {N_QUESTIONS}
    judge.answer = score_by_text
    assert run(place, "rejudge", "--judge", JUDGE).exit_code == 0
    found = rows(place, JUDGE)
    assert len(found) == N_CELLS
    assert {one.row.n_unscored for one in found} == {0}
    assert all(one.row.baseline_trait_mean is not None for one in found)


def no_coherence(request: Request) -> Reply:
    """An outage after the canaries that leaves every response without one of its scores."""
    is_mute = request.is_coherence and not is_canary(request)
    return completion("I cannot say.") if is_mute else score_by_text(request)


def no_coherence_but(texts: Sequence[str]) -> Callable[[Request], Reply]:
    """An outage that spares some responses."""
    return lambda asked: (score_by_text if any(map(asked.prompt.__contains__, texts)) else no_coherence)(asked)


def no_coherence_of(texts: Sequence[str]) -> Callable[[Request], Reply]:
    """An outage that strikes some responses alone."""
    return lambda asked: (no_coherence if any(map(asked.prompt.__contains__, texts)) else score_by_text)(asked)


def baselines(place: Path, judge: str) -> list[Stored[EvaluationRow]]:
    with closing(open_store(f"sqlite:///{place}/mlflow.db")) as store:
        return [one for one in store.baselines("small") if one.row.judge == judge]


def baseline_texts(place: Path) -> list[str]:
    """What the unsteered model said."""
    session = Session(load_experiment(place / "small.yaml"), f"sqlite:///{place}/mlflow.db")
    (first,) = baselines(place, "likelihood")
    return [one.response for one in read_responses(session.stores.fetch(first.run_id, Artifact.RESPONSES))]


def assert_compared(place: Path) -> None:
    """Every evaluation of the second judge has its delta against that judge's whole baseline."""
    (baseline,) = baselines(place, JUDGE)
    assert (baseline.row.n_scored, baseline.row.n_unscored) == (N_QUESTIONS, 0)
    found = rows(place, JUDGE)
    assert [one.row.n_scored for one in found] == [N_QUESTIONS] * N_CELLS
    assert {one.row.baseline_trait_mean for one in found} == {baseline.row.trait_mean}
    for one in found:
        assert one.row.delta == pytest.approx(one.row.trait_mean - baseline.row.trait_mean)  # type: ignore[operator]


def test_nothing_is_compared_with_a_baseline_that_has_too_few_scores(place: Path, judge: JudgeServer) -> None:
    judge.answer = no_coherence_of(baseline_texts(place))
    result = run(place, "rejudge", "--judge", JUDGE)
    assert result.exit_code == 1, result.output
    assert f"lacks scores of {N_QUESTIONS} of its {N_QUESTIONS} responses" in result.stderr
    assert rows(place, JUDGE) == []
    assert [one.row.n_scored for one in baselines(place, JUDGE)] == [0]
    judge.answer = score_by_text
    assert run(place, "rejudge", "--judge", JUDGE).exit_code == 0
    assert_compared(place)


@pytest.mark.parametrize("command", [("rejudge",), ("phase1", "--max-rounds", "0")], ids=["rejudge", "sweep"])
@pytest.mark.parametrize("with_texts", [True, False], ids=["texts", "scores"])
def test_deltas_are_taken_again_where_the_baseline_is_judged_again(
    command: tuple[str, ...], with_texts: bool, place: Path, judge: JudgeServer
) -> None:
    judged_by_the_second(place)
    file = place / "small.yaml"
    whole = file.read_text()
    file.write_text(whole + "\nleast_scored: 0.5\n")
    judge.answer = no_coherence_of(baseline_texts(place)[:1])
    assert run(place, "rejudge").exit_code == 0
    assert [one.row.n_scored for one in baselines(place, JUDGE)] == [1]
    before = {one.run_id for one in rows(place, JUDGE)}
    judge.answer, n_asked = score_by_text, len(judge.requests)
    file.write_text(whole)
    if not with_texts:
        drop_responses(place, before)
    result = run(place, *command)
    assert result.exit_code == 0, result.output
    assert_compared(place)
    assert not before & {one.run_id for one in rows(place, JUDGE)}
    assert len(judge.requests) - n_asked <= 2, "the baseline's response that had no score"
    if command != ("rejudge",):
        assert f"{N_CELLS} judged again, 0 evaluated" in result.stderr


def drop_responses(place: Path, run_ids: Collection[str]) -> None:
    """As if the responses of some runs had not been kept."""
    uri = f"sqlite:///{place}/mlflow.db"
    client = connect(uri)
    for run in list(stored_runs(uri, "small", Kind.EVALUATION, tags=())):
        if run.run_id in run_ids:
            (Path(run.artifact_uri.removeprefix("file://")) / Artifact.RESPONSES).unlink()
            client.delete_tag(run.run_id, MlflowTag.TABLES)


def test_how_a_text_came_about_is_told_of_what_is_judged_again(place: Path, judge: JudgeServer) -> None:
    uri = f"sqlite:///{place}/mlflow.db"
    (source, *_) = rows(place)
    connect(uri).set_tag(source.run_id, Tag.UNUSED_SETTINGS, "top_p=0.8")
    assert run(place, "rejudge", "--judge", JUDGE).exit_code == 0
    tags = (Tag.ATTENTION, Tag.UNUSED_SETTINGS, Tag.REJUDGED)
    found = {one.run_id: one.tags for one in stored_runs(uri, "small", Kind.EVALUATION, tags=tags)}
    again = {of[Tag.REJUDGED]: of for of in found.values() if Tag.REJUDGED in of}
    assert len(again) == N_CELLS
    for run_id, of in again.items():
        assert of[Tag.ATTENTION] == found[run_id][Tag.ATTENTION]
        assert of.get(Tag.UNUSED_SETTINGS) == ("top_p=0.8" if run_id == source.run_id else None)


def judged_by_the_second(place: Path) -> None:
    file = place / "small.yaml"
    file.write_text(file.read_text().replace("judge: likelihood", f'judge: "{JUDGE}"'))


def test_a_sweep_has_judged_again_what_an_outage_left_without_scores(place: Path, judge: JudgeServer) -> None:
    judge.answer = no_coherence_but(baseline_texts(place))
    assert run(place, "rejudge", "--judge", JUDGE).exit_code == 0
    judge.answer = score_by_text
    judged_by_the_second(place)
    dry = run(place, "phase1", "--max-rounds", "0", "--dry-run")
    assert f"| phase1 | toy | refusal | {N_CELLS} | 0 |" in dry.stdout
    result = run(place, "phase1", "--max-rounds", "0")
    assert f"{N_CELLS} cells: 0 finished already, {N_CELLS} judged again, 0 evaluated" in result.stderr
    found = rows(place, JUDGE)
    assert {(one.row.n_scored, one.row.n_unscored) for one in found} == {(N_QUESTIONS, 0)}
    assert all(one.row.delta is not None for one in found)
    n_asked = len(judge.requests)
    again = run(place, "phase1", "--max-rounds", "0")
    assert f"{N_CELLS} cells: {N_CELLS} finished already, 0 evaluated" in again.stderr
    assert len(judge.requests) == n_asked


def test_a_baseline_without_scores_ends_a_sweep_and_is_judged_again_by_the_next(
    place: Path, judge: JudgeServer
) -> None:
    judged_by_the_second(place)
    judge.answer = no_coherence
    result = run(place, "phase1", "--max-rounds", "0")
    assert result.exit_code == 1
    assert f"the baseline of toy lacks scores of {N_QUESTIONS} of its {N_QUESTIONS} responses" in result.stderr
    assert rows(place, JUDGE) == []
    status = run(place, "status")
    assert "missing  baseline of toy, refusal: every response unscored" in status.stdout
    judge.answer = score_by_text
    assert run(place, "phase1", "--max-rounds", "0").exit_code == 0
    assert {(one.row.n_scored, one.row.delta is None) for one in rows(place, JUDGE)} == {(N_QUESTIONS, False)}
    assert [one.row.n_scored for one in baselines(place, JUDGE)] == [N_QUESTIONS]


def test_responses_of_a_changed_dataset_are_left_out_with_the_reason(place: Path, judge: JudgeServer) -> None:
    from massact.toy import resolve

    shutil.copytree(resolve("toy:refusal"), place / "refusal")
    (place / "refusal" / "definition.txt").write_text("Something else.")
    file = place / "small.yaml"
    file.write_text(file.read_text().replace("toy:refusal", "./refusal"))
    result = run(place, "rejudge", "--judge", JUDGE)
    assert result.exit_code == 1
    assert (
        f"{N_CELLS} left out: the trait's dataset, which tells the judge what to look for, has changed since"
        in result.stderr
    )
    assert judge.requests == []


def test_a_judge_that_there_is_not_is_refused(place: Path) -> None:
    result = run(place, "rejudge", "--judge", "nobody:x")
    assert result.exit_code == 2
    assert "unknown judge" in result.stderr


def test_what_is_judged_again_or_follows_it_keeps_its_split_of_the_questions() -> None:
    row = replace(evaluation_row(), confirm_share=0.2, n_questions=4)
    assert (place_of(row).confirm_share, place_of(row).n_questions) == (0.2, 4)
