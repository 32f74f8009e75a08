"""Finished results whose row cannot be read, or whose key is not the row's."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby

from massact.doctor.base import Check, Finding, FinishedRun, Patient, decode_row
from massact.store.schema import EvaluationRow, Kind, Tag, decode_points, format_param, point_tag

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


# Keys that were finished more than once. The newest finished run counts; the others should say so.

_GROUPS_AT_ONCE = 100


@dataclass(frozen=True, slots=True, order=True)
class _Run:
    """A finished run of a key; the greatest counts, as for every question."""

    finished_at: int
    run_id: str
    is_tagged: bool


_Group = tuple[Kind, list[_Run]]


class DuplicateKeys(Check):
    """Older runs of a key without the tag that says which run counts in their place."""

    name = "duplicates"
    kinds = frozenset({Kind.EVALUATION, Kind.BASELINE, Kind.CONFIRMATION, Kind.CALIBRATION, Kind.EXTRACTION})
    tags = (Tag.KEY, Tag.SUPERSEDED, Tag.SAME_AS)

    def __init__(self, patient: Patient) -> None:
        self._patient = patient
        # on disk, so that a hundred thousand keys take no memory
        self._seen = sqlite3.connect("", isolation_level=None)
        for setting in ("journal_mode = OFF", "synchronous = OFF"):
            self._seen.execute(f"PRAGMA {setting}")
        self._seen.execute(
            "CREATE TABLE runs (kind TEXT, key TEXT, finished_at INT, run_id TEXT, is_tagged INT, "
            "PRIMARY KEY (kind, key, finished_at, run_id)) WITHOUT ROWID"
        )
        self._seen.execute("BEGIN")

    def see(self, run: FinishedRun) -> Iterator[Finding]:
        """Remember the key; what is found of it waits until all runs were seen."""
        tags, at = run.raw.tags, run.raw.finished_at
        if Tag.KEY in tags:
            values = (run.kind.value, tags[Tag.KEY], -1 if at is None else at, run.run_id)
            # one that was taken over from another label says so, and is meant to give way to an evaluation of its own
            is_tagged = Tag.SUPERSEDED in tags or Tag.SAME_AS in tags
            self._seen.execute("INSERT OR IGNORE INTO runs VALUES (?, ?, ?, ?, ?)", (*values, is_tagged))
        return iter(())

    def after(self) -> Iterator[Finding]:
        """Every older run that is not marked yet."""
        with closing(self._seen):
            groups: list[_Group] = []
            for group in self._groups():
                groups.append(group)
                if len(groups) == _GROUPS_AT_ONCE:
                    yield from self._unmarked(groups)
                    groups = []
            yield from self._unmarked(groups)

    def _groups(self) -> Iterator[_Group]:
        """The runs of every key that has an older run without the tag, the oldest first."""
        found = self._seen.execute(
            "SELECT kind, key, finished_at, run_id, is_tagged FROM runs WHERE (kind, key) IN "
            "(SELECT kind, key FROM runs GROUP BY kind, key HAVING count(*) - sum(is_tagged) > 1) "
            "ORDER BY kind, key, finished_at, run_id"
        )
        for (kind, _), runs in groupby(found, key=lambda one: one[:2]):
            yield Kind(kind), [_Run(at, run_id, bool(is_tagged)) for _, _, at, run_id, is_tagged in runs]

    def _unmarked(self, groups: Sequence[_Group]) -> Iterator[Finding]:
        counting = self._counting(groups)
        for kind, runs in groups:
            readable = [run for run in runs if run.run_id in counting]
            older, newest = readable[:-1], readable[-1:]
            yield from (self._finding(kind, run, *newest) for run in older if not run.is_tagged)

    def _counting(self, groups: Sequence[_Group]) -> set[str]:
        """Those of the runs that a question can read; another one supersedes nothing."""
        kinds = {run.run_id: kind for kind, runs in groups for run in runs}
        point = point_tag(self._patient.experiment)
        found = self._patient.source.finished_runs(list(kinds), tags=(Tag.ROW, point))
        tagged = [(run.run_id, run.finished_at, run.tags[point]) for run in found if point in run.tags]
        points, _ = decode_points(self._patient.experiment, tagged)
        readable = {run.run_id for run in found if decode_row(kinds[run.run_id], run.tags.get(Tag.ROW, ""))}
        return readable | set(points.run_ids)

    def _finding(self, kind: Kind, run: _Run, newest: _Run) -> Finding:
        def mend() -> str:
            self._patient.mender.tag(run.run_id, Tag.SUPERSEDED.value, newest.run_id)
            return f"marked as superseded by {newest.run_id}"

        return Finding(
            check=self.name,
            run_id=run.run_id,
            what=f"this {kind} was finished again by run {newest.run_id}: that one counts, once",
            advice="mark it with --fix; both runs stay",
            remedy=f"sets the tag {Tag.SUPERSEDED} on it",
            mend=mend,
        )


# Results that were taken over from an evaluation that is not there any more, or not as it was.


@dataclass(frozen=True, slots=True)
class _Taken:
    run_id: str
    row: EvaluationRow


class TakenOver(Check):
    """Evaluations that took over the result of an alike label, which has changed since. They still count."""

    name = "taken-over"
    kinds = frozenset({Kind.EVALUATION})
    tags = (Tag.ROW,)

    def __init__(self, patient: Patient) -> None:
        del patient
        self._figures: dict[str, set[int]] = {}
        """Of what was evaluated itself, by key; a digest each, of which there may be a hundred thousand."""
        self._taken: list[_Taken] = []

    def see(self, run: FinishedRun) -> Iterator[Finding]:
        """Remember it; what is found waits until all runs were seen."""
        row = run.row
        if isinstance(row, EvaluationRow):
            if row.same_as_key is None:
                self._figures.setdefault(row.key, set()).add(_figures(row))
            else:
                self._taken.append(_Taken(run.run_id, row))
        return iter(())

    def after(self) -> Iterator[Finding]:
        """Every one whose source is gone or another, but those that have been evaluated themselves since."""
        for one in self._taken:
            row = one.row
            source = self._figures.get(row.same_as_key or "")
            if row.key in self._figures or (source is not None and _figures(row) in source):
                continue
            state = (
                "is not in the store any more" if source is None else "was evaluated again with other figures"
            )
            yield Finding(
                check=self.name,
                run_id=one.run_id,
                what=f"evaluation {row.label} L{row.layer} c={format_param(row.coefficient)} took over the result of "
                f"{row.same_as}, which {state}; questions count it as it was",
                advice="run its phase again, which evaluates it or takes over the new result, or delete it "
                f"(mlflow runs delete --run-id {one.run_id})",
            )


def _figures(row: EvaluationRow) -> int:
    return hash((row.trait_mean, row.coherence_mean, row.delta, row.n_scored, row.n_unscored))
