"""Where an import writes: runs under one parent, which exists only where there is something to write."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from massact.domain import DEFAULT_COHERENCE_FLOOR, Response
from massact.interop.lines import OWN, LineError
from massact.interop.names import Context, Target
from massact.interop.own_format import Times
from massact.interop.report import ImportReport
from massact.interop.responses import responses_table
from massact.keys import cell_json
from massact.store.schema import TAG_LIMIT, Artifact, EvaluationRow, Kind, MlflowTag, Scores, Tag, stored_cell
from massact.store.write.client import parent_tags
from massact.store.write.run_writer import RunWriter, WholeRun, evaluation_run, open_writer
from massact.store.write.tracker import OpenRun, Tracker


class Sink(AbstractContextManager["Sink"]):
    """Takes whole runs, a chunk at a time. This one lets them go, for a dry run."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return None

    def write(self, runs: Sequence[WholeRun]) -> None:
        """Write a chunk: all of it or, where the store can, none."""

    def finish(self, report: ImportReport) -> None:
        """Keep what came of the import."""


class StoreSink(Sink):
    """Writes into the run store, as children of one run of the phase `import`."""

    def __init__(
        self,
        tracking_uri: str,
        target: Target,
        params: Mapping[str, object],
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """`check` raises where another import writes into the experiment too."""
        self._tracking_uri = tracking_uri
        self._target = target
        self._params = params
        self._check = check
        self._stack = ExitStack()
        self._opened: tuple[Tracker, OpenRun, RunWriter] | None = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return self._stack.__exit__(kind, error, trace)

    def write(self, runs: Sequence[WholeRun]) -> None:
        """Write a chunk.

        Raises:
            StoreError: it cannot be written; chunks before it stay.
        """
        if not runs:
            return
        self._check()
        _, parent, writer = self._opened = self._opened or self._open()
        tags = parent_tags(parent.run_id)
        writer.write([replace(run, tags={**run.tags, **tags}) for run in runs])

    def finish(self, report: ImportReport) -> None:
        """Keep the report's counts and notes on the parent run, where there is one."""
        if self._opened is None:
            return
        tracker, parent, _ = self._opened
        totals = report.totals
        names = ("read", "imported", "already_there", "refused", "headers", "blank")
        tracker.log(parent, metrics={f"lines_{name}": float(getattr(totals, name)) for name in names})
        lines = [
            f"- {file.path}: {file.counts.imported} of {file.counts.read} lines" for file in report.files
        ]
        tracker.set_tag(parent, MlflowTag.NOTE.value, "Imported:\n\n" + "\n".join(lines))

    def _open(self) -> tuple[Tracker, OpenRun, RunWriter]:
        config = self._target.config
        tracker = Tracker(
            self._tracking_uri,
            self._target.experiment,
            description=config.description if config else "",
            floor=config.coherence_floor if config else DEFAULT_COHERENCE_FLOOR,
        )
        parent = self._stack.enter_context(tracker.phase("import", params=self._params))
        writer = open_writer(self._tracking_uri, parent.experiment_id)
        self._stack.callback(writer.close)
        return tracker, parent, writer


# An imported result as a whole run.

IMPORTED_FILE = "imported.json"
"""Artifact that holds a line too long for the tag `massact.imported`."""
_NAME_LENGTH, _PARAM_LENGTH = 200, 6000


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a line stands."""

    path: Path
    line_number: int
    text: str
    context: Context

    def to_tag(self) -> tuple[str, bytes | None]:
        """The text of the tag `massact.imported`, and the artifact where the line does not fit in it."""
        header = self.context.header
        place = {"file": str(self.path), "line_number": self.line_number, **self.context.to_document()}
        whole = json.dumps(
            {**place, "header": header.document if header else None, "line": self.text},
            separators=(",", ":"),
            allow_nan=False,
        )
        if len(whole) <= TAG_LIMIT:
            return whole, None
        # the path, which may itself be long, is in the artifact too
        short = {"line_number": self.line_number, "artifact": IMPORTED_FILE}
        return json.dumps(short, separators=(",", ":")), whole.encode()


def imported_run(
    row: EvaluationRow,
    origin: Origin,
    responses: Sequence[Response],
    scores: Scores | None,
    content: str,
    at: int,
) -> WholeRun:
    """The run of an imported line; `at` is when it finished, in ms since 1970.

    Raises:
        LineError: its texts are longer than MLflow keeps.
    """
    tag, file = origin.to_tag()
    files = {} if file is None else {IMPORTED_FILE: file}
    tags = {Tag.CONTENT.value: content, Tag.IMPORTED.value: tag}
    return _run(row, scores, (at, at), tags, files, responses)


def native_run(
    row: EvaluationRow, scores: Scores | None, times: Times, responses: Sequence[Response]
) -> WholeRun:
    """The run of a measured result that came back from an export.

    Raises:
        LineError: its texts are longer than MLflow keeps.
    """
    return _run(row, scores, times, {}, {}, responses)


def _run(
    row: EvaluationRow,
    scores: Scores | None,
    times: Times,
    tags: dict[str, str],
    files: dict[str, bytes],
    responses: Sequence[Response],
) -> WholeRun:
    if responses:
        files = {**files, Artifact.RESPONSES.value: responses_table(responses)}
    if row.origin is None and (cell := stored_cell(row)) is not None:
        row = replace(row, cell=cell_json(cell))
    try:
        run = evaluation_run(
            row, scores, name=_name(row), started_at=times[0], finished_at=times[1], tags=tags, files=files
        )
    except ValueError as error:
        raise LineError(str(error)) from error
    for name, value in run.params.items():
        if len(value) > _PARAM_LENGTH:
            raise LineError(f"{name} has {len(value)} characters, MLflow keeps {_PARAM_LENGTH}")
    return run


def _name(row: EvaluationRow) -> str:
    # as massact.store.write.rows.run_name writes it, which loads torch; a label of an import may be long
    if row.kind is Kind.BASELINE:
        return f"baseline · {row.model} · {row.trait}"[:_NAME_LENGTH]
    position = (row.position or "").removeprefix("response")
    where = f"{position} · L{row.layer} · c={row.coefficient or 0:g}"
    return f"{(row.label or OWN)[:100]} {where} · {row.model}"[:_NAME_LENGTH]
