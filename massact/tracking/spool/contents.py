"""What a journal holds: read line by line, so that damage to one line costs that line only."""

from dataclasses import dataclass, field

from massact.tracking.spool.journal import Journal, Slot
from massact.tracking.spool.records import (
    DamagedLineError,
    Home,
    Opening,
    OtherFormatError,
    RunRecord,
    Sent,
    decode,
)


@dataclass(slots=True)
class Contents:
    """A journal as it was found."""

    opening: Opening | None = None
    waiting: dict[str, tuple[Home, Slot]] = field(default_factory=dict)
    """By record id, the runs that are not marked as sent, in the order in which they were put."""
    damaged: list[int] = field(default_factory=list)
    """Numbers of lines that are not as they were written, from 1."""
    torn_at: int | None = None
    """Where a last line without its end begins: it was being written when its process or machine died."""
    other_format: str | None = None
    """The first format that is not this version's, where there is one."""


def read_contents(journal: Journal) -> Contents:
    """Everything that can be read of a journal, in the memory of one line."""
    contents = Contents()
    for number, (slot, line) in enumerate(journal.lines(), start=1):
        if not line.endswith(b"\n"):
            contents.torn_at = slot.offset
            break
        try:
            record = decode(line)
        except DamagedLineError:
            contents.damaged.append(number)
        except OtherFormatError as error:
            contents.other_format = contents.other_format or str(error)
        else:
            _take(contents, record, slot)
    return contents


def _take(contents: Contents, record: Opening | RunRecord | Sent, slot: Slot) -> None:
    if isinstance(record, Opening):
        contents.opening = record
    elif isinstance(record, RunRecord):
        contents.waiting[record.id] = (record.home, slot)
    else:
        for id_ in record.ids:
            contents.waiting.pop(id_, None)
