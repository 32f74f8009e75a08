"""A check-up of the run store and the spool: what is wrong, what it means, and mending what can be mended.

Nothing is deleted, and without being told to mend nothing is written. See docs/design/doctor.md."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from massact.doctor.artifacts import Moved, Responses, UnreachableArtifacts, Vectors
from massact.doctor.base import CannotMendError, Check, CheckedRun, DoctorContext, Finding, RunFiles
from massact.doctor.rows import DuplicateKeys, StoredCells, TakenOver, UnreadableRows
from massact.doctor.unfinished import AbandonedRuns, SpoolLeftovers
from massact.store.read import open_source
from massact.store.schema import Tag
from massact.store.write.artifacts import Mender

__all__ = ["CHECKS", "FILE_CHECKS", "Finding", "Outcome", "State", "examine", "open_context"]

CHECKS: tuple[Callable[[DoctorContext], Check], ...] = (
    SpoolLeftovers,  # first: what it sends completes runs that were left running
    AbandonedRuns,
    UnreadableRows,
    DuplicateKeys,
    TakenOver,
    StoredCells,
)
FILE_CHECKS: tuple[Callable[[DoctorContext], Check], ...] = (Moved, Vectors, Responses, UnreachableArtifacts)
"""Those that read artifacts, which takes time and a way to the artifacts."""
_READERS = 8  # files that are read side by side: over a network each waits for its answer

State = Literal["found", "mended", "remains", "note"]


@dataclass(frozen=True, slots=True)
class Outcome:
    finding: Finding
    state: State  # `found`: --fix would try to mend it; `remains`: nothing mends it; `note`: nothing has to
    said: str  # what was done, would be done, or is to be done by hand


@contextmanager
def open_context(tracking_uri: str, experiment: str, **fields: Any) -> Iterator[DoctorContext]:
    """What checks look with, until the block ends."""
    with closing(open_source(tracking_uri)) as source:
        means: Any = {"source": source, "files": RunFiles(tracking_uri), "mender": Mender(tracking_uri)}
        now = int(time.time() * 1000)
        context = DoctorContext(tracking_uri=tracking_uri, experiment=experiment, now=now, **means, **fields)
        for note in source.notes:
            context.say(note)
        yield context


def examine(
    context: DoctorContext,
    checks: Sequence[Callable[[DoctorContext], Check]],
    *,
    fix: bool,
    looked_at: Callable[[int], None] = lambda _n: None,
) -> Iterator[Outcome]:
    """What is wrong, one after the other; with `fix` each is mended, if it can be, before the next comes."""
    built = [make(context) for make in checks]
    for finding in _findings(context, built, looked_at):
        yield _settle(finding, fix)


def _findings(context: DoctorContext, checks: Sequence[Check], looked_at: Callable[[int], None]) -> Iterator[Finding]:
    for check in checks:
        yield from check.before()
    kinds = frozenset[str]().union(*(check.kinds for check in checks))
    tags = sorted({str(Tag.KIND), *(str(tag) for check in checks for tag in check.tags)})
    quick = [check for check in checks if check.kinds and not check.reads_files]
    slow = [check for check in checks if check.kinds and check.reads_files]
    with ThreadPoolExecutor(_READERS) as pool:
        for page in context.source.pages(context.experiment, kinds, tags=tags) if kinds else ():
            runs = [CheckedRun(raw) for raw in page]
            for run in runs:
                yield from _seen(quick, run)
            if slow:
                for findings in pool.map(lambda run: list(_seen(slow, run)), runs):
                    yield from findings
            looked_at(len(runs))
    for check in checks:
        yield from check.after()


def _seen(checks: Iterable[Check], run: CheckedRun) -> Iterator[Finding]:
    return (finding for check in checks if run.kind in check.kinds for finding in check.see(run))


def _settle(finding: Finding, fix: bool) -> Outcome:
    if finding.level == "note":
        return Outcome(finding, "note", finding.advice)
    if finding.mend is None:
        return Outcome(finding, "remains", finding.advice)
    if not fix:
        return Outcome(finding, "found", f"--fix {finding.remedy}")
    try:
        return Outcome(finding, "mended", finding.mend())
    except CannotMendError as error:
        return Outcome(finding, "remains", f"{error}; {finding.advice}")
