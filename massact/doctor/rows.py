"""Finished results whose row cannot be read, or whose key is not the row's."""

from collections.abc import Iterator

from massact.doctor.base import Check, Finding, FinishedRun, Patient
from massact.schema import Kind, Tag

_AGAIN = "delete the run (mlflow runs delete --run-id {}): it stays restorable, and {}"
_MADE_BY = {
    Kind.EVALUATION: "the next sweep evaluates the cell again",
    Kind.BASELINE: "the next sweep evaluates the baseline again",
    Kind.CONFIRMATION: "`massact confirm` evaluates it again",
    Kind.SCREENING: "the next search looks at the cell again",
    Kind.CALIBRATION: "`massact calibrate` makes it again",
    Kind.EXTRACTION: "`massact extract` makes it again",
    Kind.PUBLISHED: "`massact import --published` reads it again",
}
RESULTS = frozenset(_MADE_BY)


class UnreadableRows(Check):
    """Rows that nothing can read."""

    name = "rows"
    kinds = RESULTS
    tags = (Tag.ROW, Tag.KEY)

    def __init__(self, patient: Patient) -> None:
        del patient

    def see(self, run: FinishedRun) -> Iterator[Finding]:
        """A row that cannot be read, or that is another key's."""
        key = run.raw.tags.get(Tag.KEY)
        if run.row is None:
            what = f"the row of this {run.kind} cannot be read: questions that need it leave it out"
        elif key != run.row.key:
            what = f"this {run.kind} says key {key!r} in its tag and {run.row.key!r} in its row"
        else:
            return
        advice = _AGAIN.format(run.run_id, _MADE_BY[run.kind])
        yield Finding(check=self.name, run_id=run.run_id, what=what, advice=advice)
