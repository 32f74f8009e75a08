"""Results that were taken over from an evaluation that is not there any more, or not as it was."""

from collections.abc import Iterator
from dataclasses import dataclass

from massact.doctor.base import Check, Finding, FinishedRun, Patient
from massact.schema import EvaluationRow, Kind, Tag, format_param


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
