"""Response tables that a run announces: there, and readable."""

from collections.abc import Iterator

from massact.doctor.base import Check, Finding, FinishedRun, Patient
from massact.doctor.files import ArtifactError
from massact.json_text import parse_json
from massact.schema import Artifact, Kind, MlflowTag, Tag

_N_COLUMNS = 5


class Responses(Check):
    """Evaluations, baselines and confirmations whose table of responses is lost. Nothing can bring the texts back."""

    name = "responses"
    kinds = frozenset({Kind.EVALUATION, Kind.BASELINE, Kind.CONFIRMATION})
    tags = (MlflowTag.TABLES, Tag.ROW)
    reads_files = True

    def __init__(self, patient: Patient) -> None:
        self._patient = patient

    def see(self, run: FinishedRun) -> Iterator[Finding]:
        """Its table, where it has one: with `--save-responses none` there is none to look for."""
        if not _announces(run.raw.tags.get(MlflowTag.TABLES)):
            return
        try:
            _check_table(self._patient.files.read(run.raw.artifact_uri, Artifact.RESPONSES))
        except ArtifactError as error:
            if error.state == "unreachable":
                return
            wrong = "is missing" if error.state == "missing" else f"was not read: {error}"
        except ValueError as error:
            wrong = f"is damaged ({error})"
        else:
            return
        again = "`massact confirm`" if run.kind is Kind.CONFIRMATION else "the next sweep"
        yield Finding(
            check=self.name,
            run_id=run.run_id,
            what=f"the table of responses of this {run.kind} {wrong}; its scores are in the run and unharmed",
            advice="nothing can make the texts again: bring back a copy of the file, or delete the run "
            f"(mlflow runs delete --run-id {run.run_id}) and {again} generates and judges them anew",
        )


def _announces(text: str | None) -> bool:
    try:
        return any(one["path"] == Artifact.RESPONSES for one in parse_json(text or "[]"))
    except (ValueError, KeyError, TypeError):
        return False


def _check_table(content: bytes) -> None:
    """Make sure that it is a table such as `massact.tracking.tensors.write_responses` writes.

    Raises:
        ValueError: it is not.
    """
    table = parse_json(content)
    rows = table.get("data") if isinstance(table, dict) else None
    if not isinstance(rows, list) or not all(
        isinstance(row, list) and len(row) == _N_COLUMNS for row in rows
    ):
        raise ValueError(f"not a table of {_N_COLUMNS} columns")
