"""What was written of a run, as the database holds it and as MLflow's client gives it."""

from typing import Any

import sqlalchemy as sa

from massact.domain import (
    Cell,
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
from massact.evaluation import Evaluation, PlannedCell
from massact.store.databases import database_url
from massact.store.schema import Tag
from massact.store.write import run_writer
from massact.store.write.client import connect


def rows_in_database(uri: str, run_id: str) -> dict[str, list[tuple[Any, ...]]]:
    """Every column of everything that a database holds of a run, the run's id left out."""
    engine = sa.create_engine(database_url(uri))
    found = {}
    with engine.connect() as connection:
        for name in run_writer.COLUMNS:
            query = sa.text(f"SELECT * FROM {name} WHERE run_uuid = :run_id")
            rows = connection.execute(query, {"run_id": run_id}).all()
            # a run that is worked on says by whom; one that is written at once has nothing to say
            rows = [row for row in rows if row[0] != Tag.PROCESS]
            found[name] = sorted((tuple(str(v).replace(run_id, "ID") for v in row) for row in rows), key=repr)
    engine.dispose()
    return found


def an_evaluation(*, steered: bool) -> Evaluation:
    setting = Setting(
        model=ModelIdentity("tiny", "r1", "float32"),
        trait="refusal",
        trait_digest="t",
        questions_digest="q",
        subset=0,
        chat_template_digest="c",
        generation=Generation(8),
        judge=JudgeIdentity("likelihood", "m", "p"),
    )
    steering = Steering("v", "response[:5]", Recipe("probe"), 3, 12.5, "positive")
    planned = PlannedCell(
        Cell(setting, steering if steered else None), None, Geometry(0.25, 0.5, 0.75) if steered else None
    )
    responses = (Response("q0", "r0", 10.0, 80.0), Response("q1", "r1", None, None, "the judge said nothing"))
    return Evaluation(planned, responses, Timing(2.0, 0.5, 100))


def seen_by_client(uri: str, run_id: str) -> dict[str, Any]:
    """A run as MLflow's client gives it, without what differs between two runs of one content."""
    client = connect(uri)
    run = client.get_run(run_id)
    histories = {key: client.get_metric_history(run_id, key) for key in run.data.metrics}
    return {
        "name": run.info.run_name,
        "status": run.info.status,
        "stage": run.info.lifecycle_stage,
        "experiment": run.info.experiment_id,
        "user": run.info.user_id,
        "artifacts": run.info.artifact_uri.replace(run_id, "ID"),
        # a run that is worked on says by whom; one that is written whole has nothing to say
        "tags": {key: value for key, value in run.data.tags.items() if key != Tag.PROCESS},
        "params": run.data.params,
        "metrics": run.data.metrics,
        "histories": {key: sorted((one.step, one.value) for one in values) for key, values in histories.items()},
        "files": sorted(one.path for one in client.list_artifacts(run_id)),
    }
