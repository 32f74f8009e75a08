"""Evaluations that others take over the result of, read back from the run store."""

from collections.abc import Collection

from massact.phases.session import Session
from massact.tracking.taking_over import Source


def read_sources(session: Session, keys: Collection[str]) -> dict[str, Source]:
    """The newest finished evaluation of each key, with its scores by question; a key without one is absent.

    Raises:
        StoreError: the store cannot be read.
    """
    with session.store() as store:
        points = store.points(session.experiment.name)
        runs = {key: run for key, run in zip(points.keys, points.run_ids, strict=True) if key in keys}
        rows, scores = store.rows(runs.values()), store.scores(runs.values())
    return {key: Source(run, rows[run], scores.get(run)) for key, run in runs.items() if run in rows}
