"""What a check of the doctor is, what it finds, and what it is given to look and mend with."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

from massact.doctor.files import RunFiles
from massact.errors import MassactError
from massact.store.read.base import RawRun, RunSource
from massact.store.schema import (
    EvaluationRow,
    Kind,
    Row,
    Tag,
    decode_evaluation,
    decode_published,
    decode_stage,
)
from massact.store.write.artifacts import Mender

Level = Literal["problem", "note"]


class CannotMendError(MassactError):
    """A finding that --fix cannot mend after all; the message says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is not as it should be."""

    check: str
    """The name of the check that found it."""
    run_id: str | None
    """The run that it is about, if it is about one."""
    what: str
    """What was found, and what it means for results."""
    advice: str
    """What a person can do where it is not mended."""
    remedy: str | None = None
    """What --fix does about it; `None`: nothing mends it."""
    mend: Callable[[], str] | None = field(default=None, repr=False, compare=False)
    """Mends it and says what was done. Raises `CannotMendError`, or `StoreError` where the store fails."""
    level: Level = "problem"
    """A note is told, and is nothing that has to be mended."""


@dataclass(frozen=True, kw_only=True)
class DoctorContext:
    """What is looked over, and what checks look and mend with."""

    tracking_uri: str
    experiment: str
    """The experiment's name, as in the tag `massact.experiment`."""
    source: RunSource
    files: RunFiles
    mender: Mender
    now: int
    """Milliseconds since 1970."""
    stale_after_hours: float
    """How long a run of a process that cannot be asked is left alone."""
    spool: Path
    seed: int | None = None
    """The extraction's seed in the experiment file; `None` where only the store knows the experiment."""
    told: Callable[[EvaluationRow], Mapping[str, str]] = lambda _row: {}
    """What the files of today tell of a row's cell, for rows that lack it; see `massact.store.schema.stored_cell`."""
    say: Callable[[str], None] = lambda _line: None


class FinishedRun:
    """A finished run, as checks are shown it."""

    def __init__(self, raw: RawRun) -> None:
        self.raw = raw
        self.run_id = raw.run_id
        self.kind = Kind(raw.tags[Tag.KIND])

    @cached_property
    def row(self) -> Row | None:
        """The row; `None` where it cannot be read."""
        return decode_row(self.kind, self.raw.tags.get(Tag.ROW, ""), self.raw.tags.get(Tag.CELL))


class Check:
    """Looks for one thing that may be wrong. It is built with a `DoctorContext`, and only reads.

    A new check is a class that inherits this one, and an entry in `massact.doctor.CHECKS`.
    """

    name: ClassVar[str]
    """As findings show it."""
    kinds: ClassVar[frozenset[Kind]] = frozenset()
    """Of which kinds it wants to see the finished runs."""
    tags: ClassVar[tuple[str, ...]] = ()
    """The tags that it needs of those."""
    reads_files: ClassVar[bool] = False
    """Whether it reads artifacts: then `see` is called from several threads."""

    def __init__(self, context: DoctorContext) -> None:
        self.context = context

    def before(self) -> Iterator[Finding]:
        """What there is to find beside the finished runs."""
        return iter(())

    def see(self, run: FinishedRun) -> Iterator[Finding]:  # noqa: ARG002  # for those who override it
        """What is wrong with one finished run; superseded runs come too."""
        return iter(())

    def after(self) -> Iterator[Finding]:
        """What follows from all finished runs together."""
        return iter(())


def decode_row(kind: Kind, text: str, cell: str | None = None) -> Row | None:
    """The row of a run of some kind; `None` where it cannot be read or is another kind's."""
    try:
        if kind in (Kind.EVALUATION, Kind.BASELINE, Kind.CONFIRMATION, Kind.SCREENING):
            row: Row = decode_evaluation(text, cell)
        elif kind == Kind.PUBLISHED:
            row = decode_published(text, cell)
        else:
            row = decode_stage(text, cell)
    except (ValueError, TypeError):
        return None
    return row if row.kind == kind else None
