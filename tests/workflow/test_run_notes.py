"""What MLflow shows of an evaluation by itself, as the phases and the report leave it."""

import json
import sqlite3
import xml.etree.ElementTree as ET
from contextlib import closing
from pathlib import Path

import pytest

from massact.report.evidence import Place
from massact.workflow.outcome import place_svg
from tests.support.prepared import PreparedStores
from tests.support.report_rows import evidence, scored, toy_rows
from tests.support.small_plan import EXPERIMENT

PLACE = Place("toy-gemma-3", "refusal", "response[:5]")


def test_the_picture_has_the_curve_of_its_label_the_floor_and_the_evaluation_ringed() -> None:
    whole = evidence(toy_rows())
    points = list(whole.strata[PLACE].slices["probe"].points)
    point, best = points[0], whole.best(PLACE, "probe")
    root = ET.fromstring(place_svg(whole, PLACE, point, points, best))
    of_kind = {kind: [e for e in root.iter() if e.tag.endswith(kind)] for kind in ("circle", "polyline", "text")}
    n_curve = sum(one.layer == point.layer for one in points)
    assert len(of_kind["polyline"][0].attrib["points"].split()) == n_curve
    rings = [e for e in of_kind["circle"] if e.attrib["fill"] == "none"]
    assert len(rings) == 1
    assert f"{rings[0].attrib['cx']},{rings[0].attrib['cy']}" in of_kind["polyline"][0].attrib["points"]
    assert "floor 68" in [e.text for e in of_kind["text"]]


def test_names_of_others_stay_text_in_the_picture() -> None:
    hostile = "<script>alert(1)</script>"
    whole = evidence([scored(30.0, 90.0, model=hostile), scored(20.0, 92.0, model=hostile, coefficient=5.0)])
    (place,) = whole.strata
    points = list(whole.strata[place].slices["probe"].points)
    drawn = place_svg(whole, place, points[0], points, None)
    assert "<script" not in drawn
    assert hostile in "".join(ET.fromstring(drawn).itertext())


@pytest.mark.slow
def test_every_evaluation_says_what_it_is_whether_it_counts_and_what_is_best(
    tmp_path: Path, prepared_stores: PreparedStores
) -> None:
    prepared_stores.finished(EXPERIMENT, tmp_path)
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        kind = "join tags k on k.run_uuid = r.run_uuid and k.key = 'massact.kind' and k.value = 'evaluation'"
        note = "left join tags n on n.run_uuid = r.run_uuid and n.key = 'mlflow.note.content'"
        select = f"select r.run_uuid, r.artifact_uri, n.value from runs r {kind} {note}"
        told = {run: (Path(place.removeprefix("file://")), text) for run, place, text in database.execute(select)}
    assert len(told) >= 16
    for folder, text in told.values():
        first = text.split("\n\n")[0]
        assert first.startswith("**Evaluation**: `")
        assert ("; counts, one of 2 of its label; " in first) != ("does not count" in first)
        assert (folder / "place.svg").read_bytes().startswith(b"<svg")
        if (folder / "responses.json").exists():  # the one table of responses, as `mlflow.log_table` writes it
            assert set(json.loads((folder / "responses.json").read_text())) == {"columns", "data"}
            assert [file.name for file in folder.glob("*.json")] == ["responses.json"]
    (best,) = [run for run, (_, text) in told.items() if "it is the best of its place" in text]
    others = [text for run, (_, text) in told.items() if run != best]
    assert all(f"/runs/{best})" in text for text in others)
    assert any("The same as " in text for text in others), "what a run's note said before stays"
