"""What is written to MLflow, read back from a real SQLite store."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from massact.domain import (
    Cell,
    Cleaning,
    Generation,
    Geometry,
    JudgeIdentity,
    ModelIdentity,
    Recipe,
    Response,
    Setting,
    Steering,
    Timing,
)
from massact.errors import StoreError
from massact.evaluation import Evaluation, FailedCell, PlannedCell
from massact.keys import cell_key
from massact.store.read import RunStore, open_store
from massact.store.schema import EvaluationRow, Kind, MlflowTag, Tag
from massact.store.schema.rows import evaluation_metrics, evaluation_params
from massact.store.write.client import connect
from massact.store.write.evaluations import Baseline, Place, RunMaker, evaluation_row
from massact.store.write.run_writer import ClientWriter
from massact.store.write.tracker import OpenRun, Tracker
from massact.vectors.methods import vector_digest
from tests.support.spool_runs import logged

SETTING = Setting(
    model=ModelIdentity("tiny", "r1", "float32"),
    trait="refusal",
    trait_digest="t",
    questions_digest="q",
    subset=0,
    chat_template_digest="c",
    generation=Generation(8),
    judge=JudgeIdentity("likelihood", "m", "p"),
)
BASELINE = Baseline("b", 1.0)
PLACE = Place("study", "tiny", "instruct", 3, attention="eager")
VECTOR = torch.tensor([0.6, 0.8, 0.0])


def _evaluation(coefficient: float = 12.5, *, steered: bool = True) -> Evaluation:
    steering = Steering(
        vector_digest=vector_digest(VECTOR),
        position="response[:5]",
        recipe=Recipe("probe", Cleaning("before", "layer", 2)),
        layer=3,
        coefficient=coefficient,
        direction="positive",
    )
    planned = PlannedCell(
        Cell(SETTING, steering if steered else None),
        VECTOR if steered else None,
        Geometry(0.25, 0.5, 0.75) if steered else None,
        n_dims_cleaned=2 if steered else None,
    )
    responses = (
        Response("q0", "r0", 10.0, 80.0),
        Response("q1", "<script>r1</script>", 30.0, 90.0),
        Response("q2", "r2", None, None, "the judge said nothing"),
    )
    return Evaluation(planned, responses, Timing(2.0, 0.5, 100))


def _log(
    tracker: Tracker,
    phase: OpenRun,
    evaluation: Evaluation | None = None,
    *,
    baseline: Baseline | None = BASELINE,
    keep_responses: bool = True,
) -> tuple[str, EvaluationRow]:
    evaluation = evaluation or _evaluation()
    make = RunMaker(place=PLACE, parent=phase, baseline=baseline, keep_responses=keep_responses)
    return logged(tracker, phase, make(evaluation)), evaluation_row(PLACE, evaluation, baseline)


@pytest.fixture
def tracker(uri: str) -> Tracker:
    return Tracker(uri, "study", floor=68.0)


@pytest.fixture
def store(tracker: Tracker, uri: str) -> Iterator[RunStore]:
    opened = open_store(uri)
    yield opened
    opened.close()


def _run(tracker: Tracker, run_id: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=tracker.tracking_uri).get_run(run_id)


def test_an_evaluation_is_a_finished_child_with_params_metrics_and_artifacts(tracker: Tracker, store: RunStore) -> None:
    evaluation = _evaluation()
    with tracker.phase("phase2", params={"judge": "likelihood"}) as phase:
        run_id, row = _log(tracker, phase, evaluation, baseline=Baseline("b", 5.0), keep_responses=True)
    run = _run(tracker, run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags[MlflowTag.PARENT] == phase.run_id
    assert run.data.tags[Tag.ATTENTION] == "eager"  # known of the run, and no part of its row or key
    assert "eager" not in run.data.tags[Tag.ROW]
    assert run.data.params == evaluation_params(row)
    assert {k: v for k, v in run.data.metrics.items() if not k.endswith("_score")} == evaluation_metrics(row)
    assert (row.trait_mean, row.delta, row.n_scored, row.n_unscored) == (20.0, 15.0, 2, 1)
    assert run.data.params["label"] == "probe_preclean_la2"
    (stored,) = store.evaluations("study")
    assert stored.row == row
    assert stored.row.key == cell_key(evaluation.planned.cell)
    scores = store.scores([run_id])[run_id]
    assert scores.trait == (10.0, 30.0, None)
    with safe_open(tracker.fetch(run_id, "vector.safetensors"), framework="pt") as file:
        torch.testing.assert_close(file.get_tensor("vector"), VECTOR)
        assert file.metadata()["label"] == "probe_preclean_la2"
    table = json.loads(tracker.fetch(run_id, "responses.json").read_text())
    assert table["data"][1][1] == "<script>r1</script>"
    assert table["data"][2] == ["q2", "r2", None, None, "the judge said nothing"]


def test_an_unscored_question_has_no_step(tracker: Tracker) -> None:
    from mlflow import MlflowClient

    with tracker.phase("phase1", params={}) as phase:
        run_id = _log(tracker, phase, baseline=Baseline("b", 5.0), keep_responses=False)[0]
    history = MlflowClient(tracking_uri=tracker.tracking_uri).get_metric_history(run_id, "trait_score")
    assert [(one.step, one.value) for one in history] == [(0, 10.0), (1, 30.0)]


def test_a_baseline_without_a_score_gives_no_delta(tracker: Tracker) -> None:
    with tracker.phase("phase1", params={}) as phase:
        run_id, row = _log(tracker, phase, _evaluation(), baseline=Baseline("b", None), keep_responses=False)
    assert row.delta is None
    assert "delta" not in _run(tracker, run_id).data.metrics


def test_responses_are_kept_only_when_asked(tracker: Tracker) -> None:
    with tracker.phase("phase1", params={}) as phase:
        run_id = _log(tracker, phase, baseline=Baseline("b", 1.0), keep_responses=False)[0]
    with pytest.raises(StoreError, match=r"responses\.json"):
        tracker.fetch(run_id, "responses.json")
    # why some have no score is kept all the same
    table = json.loads(tracker.fetch(run_id, "unscored.json").read_text())
    assert table == {"columns": ["question", "reason"], "data": [["q2", "the judge said nothing"]]}


def test_what_was_not_finished_does_not_exist_for_a_query(
    tracker: Tracker, store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Power(BaseException):
        """As if the process had died: nothing after this line runs."""

    def cut(*_: object, **__: object) -> None:
        raise Power

    with tracker.phase("phase1", params={}) as phase:
        run = RunMaker(place=PLACE, parent=phase, baseline=BASELINE)(_evaluation())
        client = connect(tracker.tracking_uri)
        writer = ClientWriter(tracker.tracking_uri, phase.experiment_id, client)
        monkeypatch.setattr(client, "set_terminated", cut)
        with pytest.raises(Power):
            writer.write([run])
    assert store.evaluations("study") == []
    assert store.finished_keys("study") == {}


def test_a_failed_cell_is_a_failure_until_it_is_finished(tracker: Tracker, store: RunStore) -> None:
    evaluation = _evaluation()
    with tracker.phase("phase1", params={}) as phase:
        failed = FailedCell(evaluation.planned, "RuntimeError: out of memory")
        logged(tracker, phase, RunMaker(place=PLACE, parent=phase)(failed))
        assert [one.error for one in store.failures("study")] == ["RuntimeError: out of memory"]
        assert store.evaluations("study") == []
        _log(tracker, phase, evaluation, keep_responses=False)
    assert store.failures("study") == []
    assert len(store.evaluations("study")) == 1


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (ValueError("no such thing"), "FAILED", "ValueError: no such thing"),
        (KeyboardInterrupt(), "KILLED", "interrupted"),
        (SystemExit(143), "KILLED", "interrupted"),
    ],
    ids=["error", "ctrl-c", "sigterm"],
)
def test_a_phase_that_does_not_end_well_says_so(tracker: Tracker, error: BaseException, status: str, text: str) -> None:
    with pytest.raises(type(error)), tracker.phase("phase3", params={}) as phase:
        raise error
    run = _run(tracker, phase.run_id)
    assert run.info.status == status
    assert run.data.tags[Tag.ERROR] == text


def test_the_run_of_mlflow_run_is_the_phases_run(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=tracker.tracking_uri)
    made = client.create_run("0", run_name="what-mlflow-called-it")
    client.log_param(made.info.run_id, "experiment", "'quoted.yaml'")
    monkeypatch.setenv("MLFLOW_RUN_ID", made.info.run_id)
    with (
        tracker.phase("main", params={"experiment": "study", "judge": "likelihood"}) as main,
        tracker.phase("phase1", parent=main, params={}) as child,
    ):
        pass
    run = _run(tracker, made.info.run_id)
    assert main.run_id == made.info.run_id
    assert run.data.params == {"experiment": "'quoted.yaml'", "judge": "likelihood"}
    assert (run.info.status, run.info.run_name) == ("FINISHED", "main")
    nested = _run(tracker, child.run_id)
    assert nested.info.experiment_id == "0"
    assert nested.data.tags[MlflowTag.PARENT] == main.run_id
    experiment = client.get_experiment("0")
    assert any(key.startswith("mlflow.sharedViewState.") for key in experiment.tags)


def test_an_experiments_description_leads_to_its_views_and_keeps_what_people_wrote(tracker: Tracker) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=tracker.tracking_uri)

    def described() -> str:
        with tracker.phase("phase1", params={}):
            pass
        return str(client.get_experiment(tracker.experiment_id).tags[MlflowTag.NOTE])

    first = described()
    assert first.startswith("Open [evaluations by delta above the floor](#/experiments/")
    assert "viewStateShareKey=phases)" in first
    client.set_experiment_tag(tracker.experiment_id, MlflowTag.NOTE, f"mine\n\n{first}")
    assert described() == f"mine\n\n{first}"
    client.set_experiment_tag(tracker.experiment_id, MlflowTag.NOTE, "mine alone")
    assert described() == first.split("\n\n")[0] + "\n\nmine alone"


def test_a_baseline_is_found_as_one(tracker: Tracker, store: RunStore) -> None:
    with tracker.phase("phase1", params={}) as phase:
        _log(tracker, phase, _evaluation(steered=False), baseline=None)
    (stored,) = store.baselines("study")
    assert stored.row.kind is Kind.BASELINE
    assert (stored.row.layer, stored.row.delta, stored.row.trait_mean) == (None, None, 20.0)


def test_more_metrics_than_a_request_holds_all_arrive(tracker: Tracker) -> None:
    from massact.store.write.finished_run import Step

    with tracker.phase("phase1", params={}) as phase:
        tracker.log(
            phase, params={f"p{i}": "x" for i in range(150)}, steps=[Step("curve", float(i), i) for i in range(2300)]
        )
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=tracker.tracking_uri)
    assert len(client.get_metric_history(phase.run_id, "curve")) == 2300
    assert len(_run(tracker, phase.run_id).data.params) == 150


def test_an_unusable_store_is_one_clear_line_without_the_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # seven of them take half a minute
    (tmp_path / "text.db").write_text("this is no database, and long enough to be read as one" * 40)
    with pytest.raises(StoreError, match="cannot be used"):
        Tracker(f"sqlite:///{tmp_path}/text.db", "study", floor=68)
    with pytest.raises(StoreError) as caught:
        Tracker("http://someone:secret@127.0.0.1:9/", "study", floor=68)
    assert "secret" not in str(caught.value)


def test_a_deleted_experiment_says_how_to_restore_it(tracker: Tracker, uri: str) -> None:
    from mlflow import MlflowClient

    MlflowClient(tracking_uri=uri).delete_experiment(tracker.experiment_id)
    with pytest.raises(StoreError, match="mlflow experiments restore"):
        Tracker(uri, "study", floor=68)


def test_a_text_too_long_for_a_tag_is_cut_at_a_line_and_says_so(tracker: Tracker) -> None:
    lines = [f"| row {i} |" for i in range(2000)]
    with tracker.phase("phase1", params={}) as phase:
        tracker.set_tag(phase, MlflowTag.NOTE, "\n".join(lines))
    note = _run(tracker, phase.run_id).data.tags[MlflowTag.NOTE]
    *kept, blank, mark = note.split("\n")
    assert len(note) <= 8000
    assert kept == lines[: len(kept)]
    assert (blank, mark) == ("", "(cut: the rest is in the run's artifacts)")


def test_fetching_leaves_nothing_behind(tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.store.artifact import artifact_repository_registry as registry

    from massact.store.write import artifacts as fetching

    with tracker.phase("phase1", params={}) as phase:
        run_id, _ = _log(tracker, phase)
    place = tracker.fetch(run_id, "responses.json")
    assert str(place).startswith(_run(tracker, run_id).info.artifact_uri.removeprefix("file://"))

    class Remote:
        """As of a store on another machine."""

        def download_artifacts(self, path: str, folder: str) -> str:
            copy = Path(folder) / path
            copy.write_bytes(b"content")
            return str(copy)

    monkeypatch.setattr(registry, "get_artifact_repository", lambda *_, **__: Remote())
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    fetching._copies.cache_clear()
    try:
        places = {fetching.fetch_from("s3://bucket/run", "a", tracking_uri="") for _ in range(3)}
        assert [place.read_bytes() for place in places] == [b"content"]
        assert len(list(temporary.iterdir())) == 1
    finally:
        fetching._copies.cache_clear()
    assert list(temporary.iterdir()) == [], "copies go when the process ends, or nothing holds on to them"
