"""Results that an ended process left in the spool: finished, safe on this disk, and not in the run store."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from massact.doctor.base import CannotMendError, Check, Finding, Patient
from massact.tracking.spool import JournalReport, send_leftovers
from massact.tracking.spool.contents import Contents, read_contents
from massact.tracking.spool.journal import DAMAGED_SUFFIX, SUFFIX, open_journal
from massact.tracking.spool.leftovers import describe


class SpoolLeftovers(Check):
    """Journals of ended processes; one that a process works on is left alone."""

    name = "spool"

    def __init__(self, patient: Patient) -> None:
        self._patient = patient

    def before(self) -> Iterator[Finding]:
        """One finding a journal. All are looked at before any is sent: sending takes the whole folder."""
        folder = self._patient.spool
        found = [self._look(path) for path in sorted(folder.glob(f"*{SUFFIX}"))]
        found += [self._set_aside(path) for path in sorted(folder.glob(f"*{DAMAGED_SUFFIX}"))]
        return (finding for finding in found if finding is not None)

    def _set_aside(self, path: Path) -> Finding:
        return Finding(
            check=self.name,
            run_id=None,
            what=f"{path} was set aside: some of its lines are damaged, all others were sent",
            advice="look into it if you miss a result; the next sweep evaluates what is missing. Then delete it",
            level="note",
        )

    def _look(self, path: Path) -> Finding | None:
        try:
            journal = open_journal(path)
            if journal is None:
                return None
            try:
                contents = read_contents(journal)
            finally:
                journal.close()
        except OSError as error:
            return self._finding(path, f"cannot be read ({error.strerror})", is_sendable=False)
        if not (contents.waiting or contents.damaged or contents.other_format):
            return None
        return self._finding(path, _inside(contents), is_sendable=contents.other_format is None)

    def _finding(self, path: Path, what: str, *, is_sendable: bool) -> Finding:
        return Finding(
            check=self.name,
            run_id=None,
            what=f"{path} of an ended process {what}",
            advice="see that its store can be reached, and run massact sync",
            remedy="sends what it holds, as massact sync does" if is_sendable else None,
            mend=(lambda: self._mend(path)) if is_sendable else None,
        )

    def _mend(self, path: Path) -> str:
        report = self._reports.get(path)
        if report is None:
            return "nothing is left in it"
        said = "; ".join(line.removeprefix(f"{path}: ") for line in describe(report))
        if not report.is_clear:
            raise CannotMendError(said)
        return f"{report.sent} sent" + (f", {report.there} there already" if report.there else "")

    @cached_property
    def _reports(self) -> dict[Path, JournalReport]:
        """What came of sending, of all journals at once."""
        patient = self._patient
        found = send_leftovers(patient.spool, patient.tracking_uri, say=lambda _line: None)
        return {report.path: report for report in found}


def _inside(contents: Contents) -> str:
    if contents.other_format is not None:
        return f"was written by another version of massact (format {contents.other_format})"
    stores = sorted({home.store for home, _ in contents.waiting.values()})
    count = len(contents.waiting)
    parts = []
    if count:
        results = "1 finished result that is" if count == 1 else f"{count} finished results that are"
        parts.append(f"holds {results} not known to have reached {', '.join(stores)}")
    if contents.damaged:
        parts.append(f"has damaged lines ({', '.join(map(str, contents.damaged))}): what they held is lost")
    return " and ".join(parts)
