"""`massact confirm` on an embedded model and a real store: what it evaluates, and what no other question sees of it."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import massact
from massact.cli.app import cli
from massact.config import load_experiment
from massact.data.traits import split_questions
from massact.store.claims import Sharing
from massact.store.read import RunStore, open_store, stored_runs
from massact.store.read.base import Stored
from massact.store.responses import read_responses
from massact.store.schema import Artifact, EvaluationRow, Kind, MlflowTag, Tag
from massact.store.schema.names import POINT_TAG
from massact.store.write.client import connect
from massact.store.write.tracker import PROJECT_RUN
from massact.sweep.context import Interrupted, Interruption, Session, Workload
from massact.sweep.driver import Tally
from massact.sweep.winners import run_confirm
from massact.workflow import steps
from tests.support.prepared import PreparedStores
from tests.support.small_plan import EXPERIMENT
from tests.support.store_fixtures import tracking_server

pytestmark = pytest.mark.slow

SPLIT = (
    EXPERIMENT.replace("subset: 2", "subset: 3\nquestions: {confirm: 0.2}")
    .replace("max_new_tokens: 24", "max_new_tokens: 12")
    .replace("coefficients: [16, 24]", "coefficients: [16, 90]")
)
QUESTIONS = ("gaps", "best", "compare", "curve", "coefficients", "sensitivity", "runs", "judges")


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, prepared_stores: PreparedStores) -> Path:
    """A folder where phase 1 was run on the questions that choose."""
    folder = tmp_path_factory.mktemp("swept")
    prepared_stores.copy(SPLIT, folder)
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        result = run(folder, "phase1", "--max-rounds", "0")
        assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def place(swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it; artifacts are read where they were written."""
    for name in ("small.yaml", "mlflow.db"):
        shutil.copy(swept / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def uri(folder: Path) -> str:
    return f"sqlite:///{folder}/mlflow.db"


def run(folder: Path, *arguments: str) -> Result:
    options = ["--experiment", str(folder / "small.yaml"), "--tracking-uri", uri(folder)]
    result = CliRunner().invoke(cli, [*arguments, *options])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def rows(folder: Path) -> list[Stored[EvaluationRow]]:
    """Confirmed cells."""
    with closing(open_store(uri(folder))) as store:
        return [one for one in store.confirmations("small") if one.row.layer is not None]


def n_runs(folder: Path) -> int:
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        return int(database.execute("SELECT count(*) FROM runs").fetchone()[0])


def delete_coherent(folder: Path) -> None:
    """Leave only evaluations that are below the floor."""
    client = connect(uri(folder))
    with closing(open_store(uri(folder))) as store:
        for one in store.evaluations("small"):
            if (one.row.coherence_mean or 0) >= 68:
                client.delete_run(one.run_id)


def change(folder: Path, old: str, new: str) -> None:
    file = folder / "small.yaml"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))


def answers(folder: Path) -> dict[str, str]:
    """What every other question prints, to the byte, and what a sweep takes for finished."""
    found = {name: run(folder, name, "--format", "json").output for name in QUESTIONS}
    with closing(open_store(uri(folder))) as store:
        return {
            **found,
            "keys": repr(sorted(store.finished_keys("small"))),
            "baselines": repr(store.baselines("small")),
        }


def test_winners_are_confirmed_and_no_other_answer_changes(place: Path) -> None:
    before = answers(place)
    result = run(place, "confirm")
    assert result.exit_code == 0, result.output
    assert "confirm: 2 cells: 0 finished already, 2 evaluated" in result.stderr
    assert "Confirmed on other questions" in result.stdout
    assert answers(place) == before

    session = Session(load_experiment(place / "small.yaml"), uri(place))
    (trait,) = session.experiment.traits
    asked, confirming = split_questions(session.datasets.of(trait).questions, 0.2)
    best = {row.key: row for row in massact.best(place / "small.yaml", tracking_uri=uri(place)).rows}
    found = rows(place)
    assert {one.row.confirms for one in found} == {row.key for row in best.values() if row.status == "ok"}
    for one in found:
        chosen = best[one.row.confirms or ""]
        assert (one.row.label, one.row.layer, one.row.coefficient) == (chosen.label, chosen.layer, chosen.coefficient)
        assert (one.row.vector_digest, one.row.n_questions) == (chosen.vector_digest, len(confirming))
        assert one.row.delta == pytest.approx(one.row.trait_mean - one.row.baseline_trait_mean)  # type: ignore[operator]
        responses = read_responses(session.stores.fetch(one.run_id, Artifact.RESPONSES))
        assert tuple(response.question for response in responses) == confirming
        assert not {response.question for response in responses} & set(asked)

    with closing(sqlite3.connect(place / "mlflow.db")) as database:
        points = database.execute(
            "SELECT count(*) FROM tags p JOIN tags k USING (run_uuid) WHERE k.key = ? AND k.value = ? AND p.key LIKE ?",
            (Tag.KIND.value, Kind.CONFIRMATION.value, f"{POINT_TAG}%"),
        ).fetchone()
        parents = database.execute(
            "SELECT DISTINCT p.value FROM tags p JOIN tags k USING (run_uuid) WHERE k.key = ? AND k.value = ? "
            "AND p.key = 'mlflow.parentRunId'",
            (Tag.KIND.value, Kind.CONFIRMATION.value),
        ).fetchall()
    assert points == (0,)
    with closing(open_store(uri(place))) as store:
        (phase,) = [one for one in store.phases("small") if one.phase == "confirm"]
    assert parents == [(phase.run_id,)]
    assert phase.status == "FINISHED"


def test_a_second_time_nothing_is_evaluated_and_what_is_lost_is_done_again(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "at least" not in run(place, "confirm", "--dry-run").stdout
    assert "| confirm | toy | refusal | 2 | 0 | 0 | 0 | 2 |" in run(place, "confirm", "--dry-run").stdout
    assert "0 of 2 confirmed" in run(place, "status").stdout
    assert run(place, "confirm").exit_code == 0
    assert "2 of 2 confirmed" in run(place, "status").stdout
    before, count = rows(place), n_runs(place)
    database = (place / "mlflow.db").read_bytes()
    assert "| confirm | toy | refusal | 2 | 2 | 0 | 0 | 0 |" in run(place, "confirm", "--dry-run").stdout
    assert (place / "mlflow.db").read_bytes() == database

    with no_model(monkeypatch):
        again = run(place, "confirm")
    assert again.exit_code == 0
    assert "2 cells: 2 finished already, 0 evaluated; everything was confirmed already" in again.stderr
    assert "Confirmed on other questions" in again.stdout
    assert (rows(place), n_runs(place)) == (before, count)

    connect(uri(place)).delete_run(before[0].run_id)
    assert "confirm: 2 cells: 1 finished already, 1 evaluated" in run(place, "confirm").stderr
    after = {one.row.key: one.row.delta for one in rows(place)}
    assert after == {one.row.key: one.row.delta for one in before}


@contextmanager
def no_model(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def load(*_: object, **__: object) -> None:
        raise AssertionError("weights were loaded")

    with monkeypatch.context() as patched:
        patched.setattr("massact.sweep.executors.local.load_model", load)
        yield


class AskedToStop(Interruption):
    """Interrupted after the baseline and one cell: it is asked before each batch."""

    n_asked = 0

    @property
    def is_requested(self) -> bool:
        self.n_asked += 1
        return self.n_asked > 2


def test_an_interruption_keeps_what_was_confirmed(place: Path) -> None:
    def session() -> Session:
        work = Workload(batch_rows=1, save_responses="none")
        return Session(load_experiment(place / "small.yaml"), uri(place), workload=work)

    first = session()
    first.interruption = AskedToStop(first.say)
    with pytest.raises(Interrupted, match="interrupted: 1 of 2 cells finished; run the same command again"):
        run_confirm(first)
    assert len(rows(place)) == 1
    assert run_confirm(session()) == Tally(wanted=2, finished_before=1, evaluated=1)
    assert {one.row.n_unscored for one in rows(place)} == {0}
    kept = stored_runs(uri(place), "small", Kind.CONFIRMATION, tags=(MlflowTag.TABLES,))
    assert [MlflowTag.TABLES in one.tags for one in kept].count(True) == 1, "the baseline's alone"


def test_what_has_too_few_scores_is_confirmed_again_also_beside_another_sweep(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(place, "confirm").exit_code == 0
    with closing(open_store(uri(place))) as store:
        before = {one.run_id for one in store.confirmations("small")}
    read = RunStore.evaluations

    def with_short(reader: RunStore, name: str, kind: Kind = Kind.EVALUATION) -> list[Stored[EvaluationRow]]:
        """What is there now as if the judge had been down for nearly all of it."""
        return [
            replace(one, row=replace(one.row, trait_mean=99.0, n_scored=1, n_unscored=19))
            if one.run_id in before
            else one
            for one in read(reader, name, kind)
        ]

    monkeypatch.setattr(RunStore, "evaluations", with_short)
    monkeypatch.setattr(Sharing, "look", lambda _: True)
    session = Session(load_experiment(place / "small.yaml"), uri(place))
    assert run_confirm(session) == Tally(wanted=2, evaluated=2)
    found = rows(place)
    assert not {one.run_id for one in found} & before
    with closing(open_store(uri(place))) as store:
        (baseline,) = [one for one in store.confirmations("small") if one.row.layer is None]
    assert baseline.run_id not in before
    assert {one.row.baseline_trait_mean for one in found} == {baseline.row.trait_mean}
    assert baseline.row.trait_mean != 99


def test_main_confirms_before_the_report(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "run_phases", lambda *_: Tally(wanted=4, finished_before=4))
    monkeypatch.setattr(steps, "run_report", lambda *_: type("Written", (), {"summary": "written", "checklist": ""}))
    said: list[str] = []
    session = Session(load_experiment(place / "small.yaml"), uri(place), say=said.append, show=said.append)
    tally = steps.run_main(session, place)
    assert (tally.wanted, tally.evaluated) == (6, 2)
    assert "nothing was evaluated again" not in said[-1]
    steps.run_main(session, place)
    assert "nothing was evaluated again" in said[-1]
    kinds = [one.phase for one in open_store(uri(place)).phases("small")]
    assert kinds[-4:] == ["main", "confirm", "main", "confirm"]

    delete_coherent(place)
    session = Session(load_experiment(place / "small.yaml"), uri(place), say=said.append)
    assert steps.run_main(session, place).wanted == 4
    assert any("confirm: nothing to confirm: no winner reaches coherence 68" in line for line in said)


def test_a_dry_run_of_main_counts_the_least(place: Path) -> None:
    shown = run(place, "main", "--dry-run").stdout
    assert "| confirm | toy | refusal | 1 | 0 | 0 | 0 | at least 1 |" in shown
    assert "at least 11 cells to do" in shown, "six of phase 2, where two are alike, four of phase 3, and one winner"
    assert "and all labels tied with it" in shown


def test_a_server_gives_the_very_same_answer(place: Path, tmp_path: Path) -> None:
    assert run(place, "confirm").exit_code == 0
    ask = lambda where: massact.confirmations(place / "small.yaml", tracking_uri=where)  # noqa: E731
    with tracking_server(uri(place), tmp_path) as address:
        answer = ask(address)
    assert answer == ask(uri(place))
    assert [row.status for row in answer.rows] == ["confirmed"] * 2
    assert list(answer.to_frame()["confirmed_delta"]) == [row.confirmed_delta for row in answer.rows]


def test_under_mlflow_run_the_run_says_what_it_is_though_nothing_is_to_do(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(place, "confirm").exit_code == 0
    client = connect(uri(place))
    made = client.create_run(client.get_experiment_by_name("small").experiment_id)  # type: ignore[union-attr]
    monkeypatch.setenv(PROJECT_RUN, made.info.run_id)
    assert run(place, "confirm").exit_code == 0
    tags = client.get_run(made.info.run_id).data.tags
    assert tags[Tag.PHASE.value] == "confirm"
    assert tags[f"{Tag.VERDICT}.winners"].endswith("of 1 win again")


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("questions: {confirm: 0.2}", "", "small.yaml keeps no questions for confirming: declare"),
        ("confirm: 0.2", "confirm: 0.00001", "24 select and 0 confirm"),
        ("confirm: 0.2", "confirm: 0.5", "2 left out: chosen on other questions than those"),
        ("max_new_tokens: 12", "max_new_tokens: 13", "2 left out: evaluated in another setting"),
        ("name: small", "name: another", "nothing was evaluated; run massact main"),
    ],
)
def test_what_cannot_be_confirmed_is_said_and_nothing_written(old: str, new: str, complaint: str, place: Path) -> None:
    change(place, old, new)
    count = n_runs(place)
    result = run(place, "confirm")
    assert result.exit_code == 2, result.output
    assert complaint in result.stderr
    assert n_runs(place) == count
    assert run(place, "confirm", "--dry-run").exit_code == 2


def test_that_nothing_is_coherent_is_said(place: Path) -> None:
    delete_coherent(place)
    result = run(place, "confirm")
    assert result.exit_code == 2
    assert "no winner reaches coherence 68; massact gaps --experiment" in result.stderr


def test_without_a_store_there_is_nothing_to_confirm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(SPLIT)
    result = run(tmp_path, "confirm", "--dry-run")
    assert (result.exit_code, "no run store is there yet" in result.stderr) == (2, True)
    assert not (tmp_path / "mlflow.db").exists()


def test_a_lost_vector_fails_alone(place: Path) -> None:
    (run_id, *_) = [
        row.run_id for row in massact.best(place / "small.yaml", tracking_uri=uri(place)).rows if row.label == "probe"
    ]
    (lost,) = [one for one in stored_runs(uri(place), "small", Kind.EVALUATION, tags=()) if one.run_id == run_id]
    path = Path(lost.artifact_uri.removeprefix("file://")) / Artifact.VECTOR
    kept = path.read_bytes()
    path.unlink()
    try:
        result = run(place, "confirm")
    finally:
        path.write_bytes(kept)
    assert result.exit_code == 1
    assert f"failed: the vector of run {run_id}" in result.stderr
    assert "confirm: 2 cells: 0 finished already, 1 evaluated, 1 failed" in result.stderr
    assert [one.row.label for one in rows(place)] == ["mean_diff"]
