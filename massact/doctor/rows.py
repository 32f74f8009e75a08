"""Finished results: rows that cannot be read, keys finished twice, results taken over, cells that runs do not hold."""

import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from massact.doctor.base import (
    MADE_AGAIN,
    RESULTS,
    ArtifactError,
    CannotMendError,
    Check,
    CheckedRun,
    DoctorContext,
    Finding,
)
from massact.keys import cell_json, digest_text, screening_key
from massact.store.schema import TAG_LIMIT, Artifact, EvaluationRow, Kind, StageRow, Tag, point_tag, stored_cell
from massact.store.schema.names import ROW_TAGS
from massact.store.schema.points import decode_points
from massact.store.schema.rows import Row, format_param, row_of
from massact.words import counted

_AGAIN = "delete the run (mlflow runs delete --run-id {}): it stays restorable, and {}"
_MADE_BY = {
    Kind.EVALUATION: "the next sweep evaluates the cell again",
    Kind.BASELINE: "the next sweep evaluates the baseline again",
    **{kind: f"{command} evaluates it again" for kind, command in MADE_AGAIN.items()},
    Kind.SCREENING: "the next search looks at the cell again",
    Kind.CALIBRATION: "`massact calibrate` makes it again",
    Kind.EXTRACTION: "`massact extract` makes it again",
    Kind.PUBLISHED: "`massact import --published` reads it again",
    Kind.AGREEMENT: "`massact judge-check --labels` makes it again",
    Kind.CAPABILITY: "`massact capability` makes it again",
}
_AT_ONCE = 100
_DIGEST = re.compile(r"[0-9a-f]{64}")  # a key that is none was made by another program


class UnreadableRows(Check):
    """Rows that nothing can read, and rows of another key."""

    name = "rows"
    kinds = frozenset(_MADE_BY)
    tags = (Tag.ROW, Tag.KEY)

    def see(self, run: CheckedRun) -> Iterator[Finding]:
        key = run.raw.tags.get(Tag.KEY)
        if run.row is None:
            what = f"the row of this {run.kind} cannot be read: questions that need it leave it out"
        elif key != run.row.key:
            what = f"this {run.kind} says key {key!r} in its tag and {run.row.key!r} in its row"
        else:
            return
        advice = _AGAIN.format(run.run_id, _MADE_BY[run.kind])
        yield self.finding(what, advice, run_id=run.run_id)


class StoredCells(Check):
    """Runs that do not hold the cell that they are of, as those of earlier versions, or hold another."""

    name = "cells"
    kinds = frozenset(_MADE_BY)
    tags = (*ROW_TAGS, Tag.KEY)

    def __init__(self, context: DoctorContext) -> None:
        super().__init__(context)
        self._provable: list[str] = []
        self._n_unknown = 0

    def see(self, run: CheckedRun) -> Iterator[Finding]:
        """Count those without a cell; one that holds another is told by itself."""
        row = run.row
        if row is None or run.raw.tags.get(Tag.KEY) != row.key or not _DIGEST.fullmatch(row.key):
            return
        if row.cell is not None:
            key = digest_text(row.cell)
            if row.key != (screening_key(key) if row.kind is Kind.SCREENING else key):
                yield self._damaged(run.run_id, row)
        elif self._cell(row) is not None:
            self._provable.append(run.run_id)
        elif isinstance(row, EvaluationRow | StageRow) and row.origin is None and not self._in_artifact(run):
            self._n_unknown += 1

    def _in_artifact(self, run: CheckedRun) -> bool:
        """Whether the cell of a calibration or an extraction, too long for a tag, lies beside its files."""
        if not isinstance(run.row, StageRow):
            return False
        try:
            cell = self.context.files.read(run.raw.artifact_uri, Artifact.CELL).decode()
        except (ArtifactError, ValueError):
            return False
        return digest_text(cell) == run.row.key

    def after(self) -> Iterator[Finding]:
        """What is missing, together: an earlier version wrote such runs by the thousand."""
        if self._provable:
            yield self.finding(
                what=f"{_without_cell(len(self._provable))}: what it was evaluated with is told by the row alone",
                advice="have the cells written with --fix",
                remedy="writes the cells, each proven by its run's key",
                mend=self._write,
            )
        if self._n_unknown:
            yield self.finding(
                what=f"{_without_cell(self._n_unknown)}, and none can be proven: rows of that version do not tell "
                "all that decided the outcome, or files have changed since",
                advice="results count as ever; what tells two of them apart cannot always be said",
                level="note",
            )

    def _cell(self, row: Row) -> str | None:
        if not isinstance(row, EvaluationRow) or row.origin is not None:
            return None
        cell = stored_cell(row)
        if cell is None and None in (row.trait_digest, row.chat_template_digest):
            cell = stored_cell(row, self.context.told(row))
        return None if cell is None else cell_json(cell)

    def _damaged(self, run_id: str, row: Row) -> Finding:
        cell = self._cell(row)

        def mend() -> str:
            self.context.mender.tag(run_id, Tag.CELL.value, cell or "")
            return "the cell of its key is written"

        return self.finding(
            run_id=run_id,
            what=f"this {row.kind} holds a cell that is not its key's",
            advice=_AGAIN.format(run_id, _MADE_BY[row.kind]),
            remedy=None if cell is None else "writes the cell anew, from its row",
            mend=None if cell is None else mend,
        )

    def _write(self) -> str:
        n_written, run_ids = 0, self._provable
        for start in range(0, len(run_ids), _AT_ONCE):
            some = run_ids[start : start + _AT_ONCE]
            for raw in self.context.source.finished_runs(some, tags=(*ROW_TAGS, Tag.KIND)):
                row = CheckedRun(raw).row
                cell = None if row is None else self._cell(row)
                if cell is not None and len(cell) <= TAG_LIMIT:
                    self.context.mender.tag(raw.run_id, Tag.CELL.value, cell)
                    n_written += 1
        if n_written < len(run_ids):
            raise CannotMendError(f"{n_written} of {len(run_ids)} cells were written")
        return f"{counted(n_written, 'cell')} written"


def _without_cell(count: int) -> str:
    does_not = "run of an earlier version does not hold its cell", "runs of an earlier version do not hold their cells"
    return counted(count, *does_not)


class _Run(NamedTuple):
    """A finished run of a key; the greatest counts, as for every question."""

    finished_at: int
    run_id: str
    is_tagged: bool


_Group = tuple[Kind, list[_Run]]


class DuplicateKeys(Check):
    """Older runs of a key without the tag that says which run counts in their place."""

    name = "duplicates"
    kinds = frozenset({*RESULTS, Kind.CALIBRATION, Kind.EXTRACTION})
    tags = (Tag.KEY, Tag.SUPERSEDED, Tag.SAME_AS)

    def __init__(self, context: DoctorContext) -> None:
        super().__init__(context)
        self._seen: dict[tuple[Kind, str], set[_Run]] = {}  # by kind and key

    def see(self, run: CheckedRun) -> Iterator[Finding]:
        tags, at = run.raw.tags, run.raw.finished_at
        if Tag.KEY in tags:
            # one that was taken over from another label says so, and is meant to give way to an evaluation of its own
            is_tagged = Tag.SUPERSEDED in tags or Tag.SAME_AS in tags
            runs = self._seen.setdefault((run.kind, tags[Tag.KEY]), set())
            runs.add(_Run(-1 if at is None else at, run.run_id, is_tagged))
        return iter(())

    def after(self) -> Iterator[Finding]:
        """Of every key that has an older run without the tag."""
        several = (place for place, runs in self._seen.items() if sum(not run.is_tagged for run in runs) > 1)
        groups = ((place[0], sorted(self._seen[place])) for place in sorted(several))
        while some := list(islice(groups, _AT_ONCE)):
            counting = self._counting(some)
            for kind, runs in some:
                readable = [run for run in runs if run.run_id in counting]
                older, newest = readable[:-1], readable[-1:]
                yield from (self._finding(kind, run, *newest) for run in older if not run.is_tagged)

    def _counting(self, groups: Sequence[_Group]) -> set[str]:
        """Those of the runs that a question can read; another one supersedes nothing."""
        kinds = {run.run_id: kind for kind, runs in groups for run in runs}
        point = point_tag(self.context.experiment)
        raw = self.context.source.finished_runs(list(kinds), tags=(Tag.ROW, point))
        tagged = [(run.run_id, run.finished_at, run.tags[point]) for run in raw if point in run.tags]
        points, _ = decode_points(self.context.experiment, tagged)
        readable = {run.run_id for run in raw if row_of(kinds[run.run_id], run.tags)}
        return readable | set(points.run_ids)

    def _finding(self, kind: Kind, run: _Run, newest: _Run) -> Finding:
        def mend() -> str:
            self.context.mender.tag(run.run_id, Tag.SUPERSEDED.value, newest.run_id)
            return f"marked as superseded by {newest.run_id}"

        return self.finding(
            run_id=run.run_id,
            what=f"this {kind} was finished again by run {newest.run_id}: that one counts, once",
            advice="mark it with --fix; both runs stay",
            remedy=f"sets the tag {Tag.SUPERSEDED} on it",
            mend=mend,
        )


class TakenOver(Check):
    """Evaluations that took over the result of an alike label, which has changed since. They still count."""

    name = "taken-over"
    kinds = frozenset({Kind.EVALUATION})
    tags = (Tag.ROW,)

    def __init__(self, context: DoctorContext) -> None:
        super().__init__(context)
        self._figures: dict[str, set[int]] = {}
        """Of what was evaluated itself, by key; a digest each, of which there may be a hundred thousand."""
        self._taken: list[tuple[str, EvaluationRow]] = []

    def see(self, run: CheckedRun) -> Iterator[Finding]:
        row = run.row
        if isinstance(row, EvaluationRow):
            if row.same_as_key is None:
                self._figures.setdefault(row.key, set()).add(_figures(row))
            else:
                self._taken.append((run.run_id, row))
        return iter(())

    def after(self) -> Iterator[Finding]:
        """Every one whose source is gone or another, but those that have been evaluated themselves since."""
        for run_id, row in self._taken:
            source = self._figures.get(row.same_as_key or "")
            if row.key in self._figures or (source is not None and _figures(row) in source):
                continue
            gone = "is not in the store any more"
            state = gone if source is None else "was evaluated again with other figures"
            yield self.finding(
                run_id=run_id,
                what=f"evaluation {row.label} L{row.layer} c={format_param(row.coefficient)} took over the result of "
                f"{row.same_as}, which {state}; questions count it as it was",
                advice="run its phase again, which evaluates it or takes over the new result, or delete it "
                f"(mlflow runs delete --run-id {run_id})",
            )


def _figures(row: EvaluationRow) -> int:
    return hash((row.trait_mean, row.coherence_mean, row.delta, row.n_scored, row.n_unscored))
