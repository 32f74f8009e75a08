"""What the contract of run stores is tested on: runs of every status and kind, with all that may go wrong."""

import math
from typing import Any

from massact.store.schema import EvaluationRow, Kind, PublishedRow, Scores, Tag, point_tag
from massact.store.schema.rows import encode_scores
from tests.support.store_fixtures import EXPERIMENT, Filled, Filler, evaluation_row, point_tags, row_tags, stage_row

SCORES = Scores((1.0, None, 3.5, 4.0), (91.0, 92.0, None, 94.0))
POINT = point_tag(EXPERIMENT)


def fill(uri: str) -> Filled:
    """The same runs, with the same ids, in whatever database."""
    filler = Filler(uri, ids_by_name=True)
    home, elsewhere, deleted = (filler.client.create_experiment(name) for name in ("home", "elsewhere", "deleted"))
    _fill_evaluations(filler, home, elsewhere, deleted)
    _fill_unreadable(filler, home)
    _fill_points(filler, home, deleted)
    _fill_failures(filler, home)
    _fill_scores(filler, home)
    _fill_other_kinds(filler, home)
    _fill_confirmations(filler, home)
    _fill_foreign(filler, home, elsewhere)
    _fill_children(filler, home, elsewhere, deleted)
    filler.client.delete_experiment(deleted)
    return filler.filled


def _fill_evaluations(filler: Filler, home: str, elsewhere: str, deleted: str) -> None:
    first = row_tags(evaluation_row(key="k1", delta=1.0))
    filler.run("k1 old", home, tags=first, at=1000)
    filler.run("k1", home, tags=row_tags(evaluation_row(key="k1", delta=2.0)), at=2000)
    filler.client.delete_run(filler.run("k1 deleted", home, tags=first, at=3000))
    for name in ("k2 a", "k2 b"):  # a tie in time: the greater run id counts
        filler.run(name, home, tags=row_tags(evaluation_row(key="k2")), at=1500)
    filler.run("running", home, tags=row_tags(evaluation_row(key="k3")), status=None)
    filler.run("killed", home, tags=row_tags(evaluation_row(key="k4")), status="KILLED")
    filler.run("in a deleted experiment", deleted, tags=row_tags(evaluation_row(key="k5")))
    filler.run("of another file", home, tags=row_tags(evaluation_row(key="k6", experiment="other")))
    filler.run("elsewhere", elsewhere, tags=row_tags(evaluation_row(key="k7")), at=1700)


def _fill_unreadable(filler: Filler, home: str) -> None:
    first = row_tags(evaluation_row(key="k1", delta=1.0))
    nan = first[Tag.ROW.value].replace('"coherence_mean":80.0', '"coherence_mean":NaN')
    words = first[Tag.ROW.value].replace('"coherence_mean":80.0', '"coherence_mean":"high"')
    texts = ("not json", '{"kind":"evaluation"}', "[]", nan, words)
    for i, text in enumerate(texts):
        filler.run(f"bad {i}", home, tags={**first, Tag.ROW.value: text}, at=5000 + i)


def _fill_points(filler: Filler, home: str, deleted: str) -> None:
    """Evaluations with the tag that questions read, good and bad."""
    numbers = {"trait_mean": 0.1 + 0.2, "coherence_mean": 1 / 3, "delta": -1e-17}
    tags = point_tags(evaluation_row(key="p1", coefficient=1 / 7, **numbers))
    filler.run("point", home, tags=tags, at=1600)
    old = point_tags(evaluation_row(key="p1", delta=99.0))
    filler.run("point old", home, tags=old, at=1599)
    filler.client.delete_run(filler.run("point deleted", home, tags=old, at=9000))
    filler.run("point running", home, tags=point_tags(evaluation_row(key="p2")), status=None)
    filler.run("point failed", home, tags=point_tags(evaluation_row(key="p3")), status="FAILED")
    filler.run("point in a deleted experiment", deleted, tags=point_tags(evaluation_row(key="p4")))
    whole = point_tags(evaluation_row(key="p5", label="mean_diff"))
    filler.run("point broken", home, tags={**whole, POINT: "[1"}, at=1610)
    nan = whole[POINT].replace("80.0", "NaN")
    filler.run("point of NaN", home, tags={**whole, POINT: nan}, at=1611)
    newer = row_tags(evaluation_row(key="p6", delta=7.0))  # by a run that has no point
    filler.run("point overtaken", home, tags=point_tags(evaluation_row(key="p6")), at=1620)
    filler.run("without a point", home, tags=newer, at=1621)
    other = point_tags(evaluation_row(key="p7", experiment="other"))
    filler.run("point of another file", home, tags=other, at=1630)


def _fill_failures(filler: Filler, home: str) -> None:
    retried, lost = (row_tags(evaluation_row(key=key, delta=None)) for key in ("k1", "f1"))
    error = Tag.ERROR.value
    filler.run("failed, then done", home, tags={**retried, error: "once"}, status="FAILED", at=500)
    filler.run("failed old", home, tags={**lost, error: "first"}, status="FAILED", at=1000)
    filler.run("failed", home, tags={**lost, error: "out of memory"}, status="FAILED", at=2000)
    filler.run("failed, then killed", home, tags=lost, status="KILLED", at=3000)
    silent = row_tags(evaluation_row(key="f2", delta=None))
    filler.run("failed without a word", home, tags=silent, status="FAILED", at=2500)


def _fill_scores(filler: Filler, home: str) -> None:
    tagged = row_tags(evaluation_row(key="s1"), **{Tag.SCORES.value: encode_scores(SCORES) or ""})
    other = {"trait_score": [(0, 50.0)]}
    filler.run("tagged", home, tags=tagged, at=1800, steps=other)
    steps = {
        "trait_score": [(0, 7.0), (0, 1.0), (1, math.nan), (2, 3.5), (3, 4.0), (4, 99.0)],
        "coherence_score": [(0, 91.0), (1, 92.0), (2, math.inf), (3, 94.0)],
    }
    filler.run("stepped", home, tags=row_tags(evaluation_row(key="s2")), at=1810, steps=steps)
    broken = row_tags(evaluation_row(key="s3"), **{Tag.SCORES.value: '{"trait":"1234","coherence":[]}'})
    filler.run("broken tag", home, tags=broken, at=1820, steps=steps)
    filler.run("unscored", home, tags=row_tags(evaluation_row(key="s4")), at=1830)


def _fill_other_kinds(filler: Filler, home: str) -> None:
    for name, kind, key, at in (
        ("calibration old", Kind.CALIBRATION, "c1", 1000),
        ("calibration", Kind.CALIBRATION, "c1", 2000),
        ("extraction", Kind.EXTRACTION, "x1", 1000),
    ):
        filler.run(name, home, tags=row_tags(stage_row(kind, key)), at=at)
    filler.run("baseline", home, tags=row_tags(evaluation_row(key="b1", kind=Kind.BASELINE)))
    for name, delta, at in (("published old", 1.0, 1000), ("published", 28.3, 2000)):
        filler.run(name, home, tags=row_tags(published_row(delta)), at=at)
    for name, status, at in (("phase1", "FAILED", 1000), ("phase2", "FINISHED", 2000), ("phase3", None, 3000)):
        tags = {Tag.KIND.value: "phase", Tag.EXPERIMENT.value: EXPERIMENT, Tag.PHASE.value: name}
        filler.run(name, home, tags=tags, status=status, at=at)


def _fill_confirmations(filler: Filler, home: str) -> None:
    """They have all that an evaluation has but its point, and no question about the grid sees them."""
    encoded = {Tag.SCORES.value: encode_scores(SCORES) or ""}
    for name, number, status, at in (
        ("confirmation old", 1.0, "FINISHED", 1000),
        ("confirmation", 0.1 + 0.2, "FINISHED", 2000),
        ("confirmation failed", 3.0, "FAILED", 3000),
    ):
        tags = row_tags(confirmation_row(delta=number), **encoded)
        filler.run(name, home, tags=tags, status=status, at=at)
    filler.run("screening", home, tags=row_tags(screening_row(), **encoded), status="FINISHED", at=1500)
    lost = row_tags(confirmation_row(key="n2", delta=None))
    filler.run("confirmation lost", home, tags={**lost, Tag.ERROR.value: "lost"}, status="FAILED", at=1000)


def screening_row() -> EvaluationRow:
    return evaluation_row(kind=Kind.SCREENING, key="given-up-1", n_questions=4, coherence_mean=3.0)


def confirmation_row(**changes: Any) -> EvaluationRow:
    fields = {"kind": Kind.CONFIRMATION, "key": "n1", "setting": "setting-2", "confirm_share": 0.4}
    return evaluation_row(**{**fields, "confirms": "k1", **changes})


def _fill_foreign(filler: Filler, home: str, elsewhere: str) -> None:
    """Runs of other tools; those of `elsewhere` lie where no evaluation with a point does."""
    for name, place, status in (
        ("foreign", home, "FINISHED"),
        ("foreign too", home, "FINISHED"),
        ("foreign running", home, None),
        ("foreign elsewhere", elsewhere, "FINISHED"),
    ):
        filler.run(name, place, tags={"team": "vision"}, status=status)
    filler.client.delete_run(filler.run("foreign deleted", home, tags={}))


def _fill_children(filler: Filler, home: str, elsewhere: str, deleted: str) -> None:
    """Runs of another file below phases, as far as the end of the last matters."""
    below = [
        ("phase3", "child", home, "FAILED", 3500),
        ("phase3", "child early", home, "FINISHED", 3200),
        ("phase3", "child open", home, None, 9000),
        ("phase3", "child of a deleted experiment", deleted, "FINISHED", 9000),
        ("phase1", "child elsewhere", elsewhere, "KILLED", 1200),
        ("phase2", "child deleted", home, "FINISHED", 2500),
    ]
    for parent, name, place, status, at in below:
        tags = {Tag.KIND.value: "report", Tag.EXPERIMENT.value: "other"}
        tags[Tag.PARENT.value] = filler.filled.runs[parent]
        run_id = filler.run(name, place, tags=tags, status=status, at=at)
        if name == "child deleted":
            filler.client.delete_run(run_id)


def published_row(delta: float) -> PublishedRow:
    return PublishedRow(
        kind=Kind.PUBLISHED,
        experiment=EXPERIMENT,
        key="d1",
        source="a note, “quoted”",
        model="google/gemma-3-4b",
        trait="refusal",
        position="response[:5]",
        label="probe",
        delta=delta,
    )
