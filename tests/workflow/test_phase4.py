"""When phase 4 writes no second run."""

from pathlib import Path

import pytest

from massact.config import load_experiment
from massact.store.schema import Tag
from massact.sweep.context import Session
from massact.workflow.outcome import _said_by

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_what_the_newest_run_of_phase_4_says_is_not_written_again(uri: str) -> None:
    session = Session(load_experiment(ROOT / "experiments/toy.yaml"), uri)

    def written(content: str) -> str:
        with session.stores.tracker.phase("phase4", params={}) as run:
            session.stores.tracker.set_tag(run, Tag.CONTENT, content)
        return run.run_id

    assert _said_by(session, "found") is None
    first = written("found")
    assert _said_by(session, "found") == first
    with session.stores.tracker.phase("phase1", params={}):
        pass
    assert _said_by(session, "found") == first
    written("found more")
    assert _said_by(session, "found") is None, "what was found since was deleted, and the newest run tells of it still"
