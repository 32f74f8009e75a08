"""An imported result as a whole run."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from massact.domain import Response
from massact.schema import TAG_LIMIT, Artifact, EvaluationRow, Kind, Scores, Tag
from massact.tracking.bulk import WholeRun, evaluation_run
from massact.transfer.document import LineError
from massact.transfer.lines import OWN
from massact.transfer.names import Context
from massact.transfer.native import Times
from massact.transfer.responses import responses_table

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
    # as massact.tracking.rows.run_name writes it, which loads torch; a label of an import may be long
    if row.kind is Kind.BASELINE:
        return f"baseline · {row.model} · {row.trait}"[:_NAME_LENGTH]
    position = (row.position or "").removeprefix("response")
    where = f"{position} · L{row.layer} · c={row.coefficient or 0:g}"
    return f"{(row.label or OWN)[:100]} {where} · {row.model}"[:_NAME_LENGTH]
