"""Tags of the runs we write, and how long one may be."""

from massact.schema import TAG_LIMIT, EvaluationRow, Kind, MlflowTag, PublishedRow, StageRow, Tag, encode_row
from massact.tracking.provenance import provenance_tags


def run_tags(kind: Kind, experiment: str, name: str) -> dict[str, str]:
    """Tags that every run of ours has."""
    tags = {Tag.KIND.value: kind.value, Tag.EXPERIMENT.value: experiment, MlflowTag.NAME.value: name}
    return provenance_tags() | tags


def row_tags(row: EvaluationRow | StageRow | PublishedRow) -> dict[str, str]:
    """Tags of a run that holds a row."""
    return {Tag.KEY.value: row.key, Tag.ROW.value: encode_row(row)}


def parent_tags(run_id: str) -> dict[str, str]:
    """Tags of a run that lies under another in the UI."""
    return {MlflowTag.PARENT.value: run_id, Tag.PARENT.value: run_id}


def fit_tag(text: str) -> str:
    """A text as long as a tag may be: MLflow would cut it anywhere, without a word."""
    if len(text) <= TAG_LIMIT:
        return text
    mark = "\n\n(cut: the rest is in the run's artifacts)"
    kept = text[: TAG_LIMIT - len(mark)]
    return (kept.rpartition("\n")[0] or kept) + mark
