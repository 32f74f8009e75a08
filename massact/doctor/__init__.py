"""A check-up of the run store and the spool: what is wrong, what it means, and mending what can be mended.

Nothing is deleted, and without being told to mend nothing is written. See docs/design/doctor.md.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

from massact.doctor.artifacts import Responses, Vectors
from massact.doctor.base import Check, Finding, Patient
from massact.doctor.examination import Outcome, State, examine
from massact.doctor.files import RunFiles
from massact.doctor.reach import Moved, Reach
from massact.doctor.rows import DuplicateKeys, TakenOver, UnreadableRows
from massact.doctor.unfinished import AbandonedRuns, SpoolLeftovers
from massact.store.read import open_source
from massact.store.write.repairs import Mender

__all__ = ["CHECKS", "FILE_CHECKS", "Asked", "Finding", "Outcome", "State", "examine", "open_patient"]

CHECKS: tuple[Callable[[Patient], Check], ...] = (
    SpoolLeftovers,  # first: what it sends completes runs that were left running
    AbandonedRuns,
    UnreadableRows,
    DuplicateKeys,
    TakenOver,
)
FILE_CHECKS: tuple[Callable[[Patient], Check], ...] = (Moved, Vectors, Responses, Reach)
"""Those that read artifacts, which takes time and a way to the artifacts."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be looked over."""

    tracking_uri: str
    experiment: str
    """The experiment's name."""
    _: KW_ONLY
    spool: Path
    stale_after_hours: float
    seed: int | None = None
    """The extraction's seed in the experiment file; `None` without a file."""


@contextmanager
def open_patient(asked: Asked, *, say: Callable[[str], None] = lambda _line: None) -> Iterator[Patient]:
    """What checks look with, until the block ends.

    Args:
        say: takes a line about work that takes a while.

    Raises:
        StoreError: the run store cannot be read.
    """
    source = open_source(asked.tracking_uri)
    for note in source.notes:
        say(note)
    try:
        yield Patient(
            tracking_uri=asked.tracking_uri,
            experiment=asked.experiment,
            source=source,
            files=RunFiles(asked.tracking_uri),
            mender=Mender(asked.tracking_uri),
            now=int(time.time() * 1000),
            stale_after_hours=asked.stale_after_hours,
            spool=asked.spool,
            seed=asked.seed,
            say=say,
        )
    finally:
        source.close()
