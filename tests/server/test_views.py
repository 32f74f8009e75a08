"""What the explorer's page is made of: the same that the questions answer, and nothing that may not be read."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

import massact
from massact.query.answers import Filters
from massact.server.answering import Answering
from massact.server.page import page_blueprint
from massact.server.processes import Limits
from tests.support.query_api import fill
from tests.support.store_fixtures import EXPERIMENT, Filled

DIGITS = 5


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Filled:
    return fill(f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db")


def view(filled: Filled, name: str, readable: list[int] | None = None, **given: Any) -> dict[str, Any]:
    asked = {"view": name, "given": given, "readable": readable, "is_packed": True}
    reply = Answering(filled.uri, Limits()).answer(asked)
    if reply.status != 200:
        return {"status": reply.status, **json.loads(reply.body)}
    assert reply.headers["Content-Encoding"] == "gzip"
    told: dict[str, Any] = json.loads(gzip.decompress(reply.body))
    return told


def test_every_evaluation_that_runs_lists_is_told_by_column(filled: Filled) -> None:
    told = view(filled, "explore", experiment=EXPERIMENT)
    rows = massact.runs(EXPERIMENT, tracking_uri=filled.uri).rows
    found = {
        columns["run_id"][i]: (
            place["model"],
            label,
            columns["layer"][i],
            columns["coefficient"][i],
            columns["delta"][i],
        )
        for place in told["places"]
        for label, columns in place["labels"].items()
        for i, run_id in enumerate(columns["run_id"])
    }
    assert found == {
        row.run_id: (row.model, row.label, row.layer, row.coefficient, round(row.delta, DIGITS))
        for row in rows
        if row.status != "failed" and row.delta is not None
    }
    assert sum(place["n_failed"] for place in told["places"]) == sum(row.status == "failed" for row in rows)
    assert told["floor"] == {"value": 70, "metric": "coherence", "limit": 70, "is_most": False}  # as its file declares
    again = view(filled, "explore", experiment=EXPERIMENT, version=told["version"])
    assert again == {"version": told["version"]}


def test_at_every_floor_standings_are_those_of_best(filled: Filled) -> None:
    place = next(one for one in view(filled, "explore", experiment=EXPERIMENT)["places"] if one["model"] == "gemma")
    where = {name: place[name] for name in ("model", "trait", "position", "setting")}
    told = view(filled, "standings", experiment=EXPERIMENT, baseline=place["baseline_trait_mean"], **where)["places"]
    assert len(told) > 2  # they change with the floor
    for floor in (0, 50, 51, 70, 76, 90, 100):
        known = [one for one in told if one["floor"] <= floor][-1]["standings"]
        rows = massact.best(
            EXPERIMENT, tracking_uri=filled.uri, floor=floor, only=Filters(models=("gemma",), traits=(place["trait"],))
        ).rows
        assert known == {row.label: row.standing for row in rows if row.standing and row.setting == place["setting"]}


def test_a_coherence_is_never_told_above_what_it_is(filled: Filled) -> None:
    rows = {row.run_id: row for row in massact.runs(EXPERIMENT, tracking_uri=filled.uri).rows}
    for place in view(filled, "explore", experiment=EXPERIMENT)["places"]:
        for columns in place["labels"].values():
            for run_id, coherence in zip(columns["run_id"], columns["coherence"], strict=True):
                mean = rows[run_id].coherence_mean
                assert mean is not None
                assert mean - 10**-DIGITS < coherence <= mean


def test_one_evaluation_is_told_whole_with_the_runs_of_its_responses(filled: Filled) -> None:
    run = filled.runs["probe_preclean 16 1200 1000"]
    told = view(filled, "evaluation", run_id=run)
    assert (told["facts"]["label"], told["facts"]["layer"], told["responses_run"]) == ("probe_preclean", 16, run)
    assert told["baseline_run"] == filled.runs["baseline 1000" if "baseline 1000" in filled.runs else "baseline"]
    assert view(filled, "evaluation", run_id="0" * 32)["status"] == 404


def test_who_may_not_read_is_told_nothing(filled: Filled) -> None:
    from mlflow import MlflowClient

    public = MlflowClient(filled.uri).get_experiment_by_name("public")
    assert public is not None
    may = [int(public.experiment_id)]
    assert view(filled, "experiments", may) == {"experiments": [EXPERIMENT]}
    assert "secret" not in json.dumps(view(filled, "explore", may, experiment=EXPERIMENT))
    assert view(filled, "evaluation", may, run_id=filled.runs["secret best 1000"])["status"] == 404
    assert view(filled, "explore", [], experiment=EXPERIMENT)["status"] == 404


def test_the_page_loads_nothing_from_elsewhere_and_nothing_may_frame_it() -> None:
    from flask import Flask

    app = Flask("page")
    app.register_blueprint(page_blueprint("/lab/massact", "", has_runs_pages=True))
    client = app.test_client()
    page = client.get("/lab/massact/", headers={"Accept-Encoding": "gzip"})
    assert page.headers["Content-Encoding"] == "gzip"
    text = gzip.decompress(page.data).decode()
    assert 'data-runs="../#/runs/"' in text
    assert "http" not in text.replace('value="http://127.0.0.1:8080"', "")
    assert "script-src 'self'" in page.headers["Content-Security-Policy"]
    plotly = client.get("/lab/massact/plotly.js")
    assert b"plotly.js v" in plotly.data[:200]
    assert client.get("/lab/massact/plotly.js", headers={"If-None-Match": plotly.headers["ETag"]}).status_code == 304
    assert client.get("/lab/massact/../app.py").status_code == 404


def test_the_script_is_small_and_writes_no_markup() -> None:
    text = (Path(massact.__file__).parent / "server" / "explorer" / "explorer.js").read_text()
    assert text.count("\n") < 700
    assert not [word for word in ("innerHTML", "insertAdjacentHTML", "document.write", "eval(") if word in text]
