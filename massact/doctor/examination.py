"""Looking a run store over: every check, the finished runs once, and mending where it was asked for."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from massact.doctor.base import CannotMendError, Check, Finding, FinishedRun, Patient
from massact.store.schema import Tag

_READERS = 8
"""Files that are read side by side: over a network each waits for its answer."""

State = Literal["found", "mended", "remains", "note"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finding, and what came of it."""

    finding: Finding
    state: State
    """`found`: --fix would try to mend it; `remains`: nothing mends it; `note`: nothing has to."""
    said: str
    """What was done, would be done, or is to be done by hand."""


def examine(
    patient: Patient,
    checks: Sequence[Callable[[Patient], Check]],
    *,
    fix: bool,
    looked_at: Callable[[int], None] = lambda _n: None,
) -> Iterator[Outcome]:
    """What is wrong, one after the other; with `fix` each is mended, if it can be, before the next comes.

    Args:
        looked_at: called with how many more finished runs have been looked at.

    Raises:
        StoreError: the run store cannot be read, or not be written any more.
    """
    for finding in _findings(patient, checks, looked_at):
        yield _settle(finding, fix)


def _findings(
    patient: Patient, makers: Sequence[Callable[[Patient], Check]], looked_at: Callable[[int], None]
) -> Iterator[Finding]:
    checks = [make(patient) for make in makers]
    for check in checks:
        yield from check.before()
    kinds = frozenset[str]().union(*(check.kinds for check in checks))
    tags = sorted({str(Tag.KIND), *(str(tag) for check in checks for tag in check.tags)})
    quick = [check for check in checks if check.kinds and not check.reads_files]
    slow = [check for check in checks if check.kinds and check.reads_files]
    with ThreadPoolExecutor(_READERS) as pool:
        for page in patient.source.pages(patient.experiment, kinds, tags=tags) if kinds else ():
            runs = [FinishedRun(raw) for raw in page]
            for run in runs:
                yield from _seen(quick, run)
            if slow:
                for found in pool.map(lambda run: list(_seen(slow, run)), runs):
                    yield from found
            looked_at(len(runs))
    for check in checks:
        yield from check.after()


def _seen(checks: Iterable[Check], run: FinishedRun) -> Iterator[Finding]:
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
