"""An evaluation whose result is that of another label, since their vectors are alike: nothing was generated for it."""

import time
from dataclasses import dataclass

from massact.pipeline.evaluate import PlannedCell
from massact.schema import EvaluationRow, MlflowTag, Scores
from massact.tracking.bulk import evaluation_run
from massact.tracking.evaluations import vector_files
from massact.tracking.rows import Place, run_name, taken_row
from massact.tracking.tags import parent_tags
from massact.tracking.tracker import OpenRun
from massact.tracking.whole_run import WholeRun


@dataclass(frozen=True, slots=True)
class Source:
    """The evaluation whose result is taken over."""

    run_id: str
    row: EvaluationRow
    scores: Scores | None


def taken_over_run(
    place: Place, planned: PlannedCell, source: Source, likeness: float, *, parent: OpenRun
) -> WholeRun:
    """The run of a cell that takes over a result: its own key, vector and geometry, the other's scores.

    It has no timings and no responses: its note says where they lie.

    Args:
        likeness: of the two vectors; see `massact.vectors.alike`.

    Raises:
        ValueError: the row does not fit in a tag.
    """
    row = taken_row(place, planned, source.row, likeness)
    now = int(time.time() * 1000)
    note = (
        f"The same as {source.row.label}: their vectors have cosine {likeness:.4f}, so this cell was not evaluated "
        f"itself. Figures and scores are those of run {source.run_id}, which has the responses."
    )
    return evaluation_run(
        row,
        source.scores,
        name=run_name(row),
        started_at=now,
        finished_at=now,
        tags=parent_tags(parent.run_id) | {MlflowTag.NOTE.value: note},
        files=vector_files(row, planned),
    )
