"""What a section of the report is; `massact.report.sections` lists them."""

from dataclasses import dataclass

from massact.report.table import Table


@dataclass(frozen=True, slots=True)
class Section:
    """One part of the report."""

    key: str
    """Names its place in the page, and its figures."""
    title: str
    text: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    bullets: tuple[str, ...] = ()
