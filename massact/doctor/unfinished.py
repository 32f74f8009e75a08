"""Runs without an end whose process is gone: killed, out of memory, a machine that lost its power."""

from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from massact.doctor.base import CannotMendError, Check, Finding
from massact.store.read.base import UNENDED, RawRun
from massact.store.schema import MlflowTag, Tag
from massact.store.spool import JournalReport, send_leftovers
from massact.store.spool.journal import DAMAGED_SUFFIX, SUFFIX, Contents, open_journal, read_contents
from massact.store.spool.recover import describe
from massact.store.write.client import Process, is_alive, read_process
from massact.words import counted

LEFT_RUNNING = "left running by a process that ended"  # the error of a run that is marked as killed
_HOUR = 3_600_000  # ms
_TAGS = (Tag.KIND, Tag.PROCESS, Tag.PARENT, Tag.SPOOL, MlflowTag.NAME)


class AbandonedRuns(Check):
    """Runs left `RUNNING`. One whose process lives is never touched."""

    name = "abandoned"

    def before(self) -> Iterator[Finding]:
        """Every run without an end, but those that are at work."""
        runs = self.context.source.runs(self.context.experiment, kind=None, statuses=UNENDED, tags=_TAGS)
        signs = _last_signs(runs, self.context.source.last_child_ends([run.run_id for run in runs]))
        for run in sorted(runs, key=lambda run: (run.started_at or 0, run.run_id)):
            if finding := self._judge(run, signs[run.run_id]):
                yield finding

    def _judge(self, run: RawRun, last_sign: int) -> Finding | None:
        process = read_process(run.tags.get(Tag.PROCESS))
        if alive := is_alive(process) if process else None:
            return None
        hours = max(self.context.now - last_sign, 0) / _HOUR
        name = f"{run.tags.get(Tag.KIND, 'run')} {run.tags.get(MlflowTag.NAME, '')!r}"
        if process and alive is False:
            what = f"{name} was left running by {_shown(process)}, which ended; last sign of life {_ago(hours)}"
            return self._abandoned(run, what, LEFT_RUNNING, last_sign)
        why = _unknown(run, process)
        if hours >= self.context.stale_after_hours:
            what = f"{name} is marked as running, and gave its last sign of life {_ago(hours)} ({why})"
            return self._abandoned(run, what, f"left running: no sign of life since {_day(last_sign)}", last_sign)
        return self.finding(
            run_id=run.run_id,
            what=f"{name} may be at work: last sign of life {_ago(hours)} ({why})",
            advice=f"it is left alone until {self.context.stale_after_hours:g} hours without a sign of life "
            "have passed; give --stale-after fewer hours if you know that nothing works on it",
            level="note",
        )

    def _abandoned(self, run: RawRun, what: str, error: str, ended_at: int) -> Finding:
        def mend() -> str:
            if self.context.mender.end(run.run_id, ended_at=ended_at, error=error):
                return f"marked as killed at {_day(ended_at)}"
            return "it has ended meanwhile"

        return self.finding(
            run_id=run.run_id,
            what=f"{what}. No question counts it",
            advice="mark it as killed with --fix",
            remedy="marks it as killed",
            mend=mend,
        )


def _last_signs(runs: list[RawRun], child_ends: dict[str, int]) -> dict[str, int]:
    """When something last happened in each run: its start, or the end or start of what lies below it."""
    signs = {run.run_id: max(run.started_at or 0, child_ends.get(run.run_id, 0)) for run in runs}
    parents = {run.run_id: run.tags.get(Tag.PARENT) for run in runs}
    for run in runs:
        above, seen = parents[run.run_id], {run.run_id}
        while above in signs and above not in seen:
            signs[above] = max(signs[above], signs[run.run_id])
            seen.add(above)
            above = parents[above]
    return signs


def _unknown(run: RawRun, process: Process | None) -> str:
    if process is not None:
        return f"of {_shown(process)}, which cannot be asked from here"
    if Tag.SPOOL in run.tags:
        return "half sent from a spool: the sweep or `massact sync` that has the spool completes it"
    return "written by an older massact, which did not say by which process"


def _shown(process: Process) -> str:
    return f"process {process.pid} on {process.host}"


def _ago(hours: float) -> str:
    if hours < 1:
        return f"{hours * 60:.0f} min ago"
    return f"{hours:.0f} h ago" if hours < 48 else f"{hours / 24:.0f} days ago"


def _day(milliseconds: int) -> str:
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (ValueError, OverflowError, OSError):  # whoever made the run said when
        return f"{milliseconds} ms after 1970"


# Results that an ended process left in the spool: finished, safe on this disk, and not in the run store.


class SpoolLeftovers(Check):
    """Journals of ended processes; one that a process works on is left alone."""

    name = "spool"

    def before(self) -> Iterator[Finding]:
        """One finding a journal. All are looked at before any is sent: sending takes the whole folder."""
        folder = self.context.spool
        findings = [self._look(path) for path in sorted(folder.glob(f"*{SUFFIX}"))]
        aside = sorted(folder.glob(f"*{DAMAGED_SUFFIX}"))
        yield from (finding for finding in findings if finding is not None)
        for path in aside:
            yield self.finding(
                f"{path} was set aside: some of its lines are damaged, all others were sent",
                "look into it if you miss a result; the next sweep evaluates what is missing. Then delete it",
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
        return self.finding(
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
        reports = send_leftovers(self.context.spool, self.context.tracking_uri, say=lambda _line: None)
        return {report.path: report for report in reports}


def _inside(contents: Contents) -> str:
    if contents.other_format is not None:
        return f"was written by another version of massact (format {contents.other_format})"
    stores = sorted({home.store for home, _ in contents.waiting.values()})
    count = len(contents.waiting)
    parts = []
    if count:
        results = counted(count, "finished result that is", "finished results that are")
        parts.append(f"holds {results} not known to have reached {', '.join(stores)}")
    if contents.damaged:
        parts.append(f"has damaged lines ({', '.join(map(str, contents.damaged))}): what they held is lost")
    return " and ".join(parts)
