"""Places of artifacts that cannot be looked at from here: nothing is said of what may lie there."""

from collections.abc import Iterator
from pathlib import Path

from massact.addresses import check_path, moved_folder
from massact.doctor.base import Check, Finding, FinishedRun, Patient
from massact.doctor.files import place_of
from massact.store.schema import Kind


class Moved(Check):
    """Artifacts that lie beside the database, and not where the store says: it was moved."""

    name = "moved"
    kinds = frozenset({Kind.CALIBRATION, Kind.EXTRACTION, Kind.BASELINE, Kind.EVALUATION, Kind.CONFIRMATION})

    def __init__(self, patient: Patient) -> None:
        self._patient = patient
        self._places: dict[str, Path | None] = {}

    def see(self, run: FinishedRun) -> Iterator[Finding]:
        """Look once at each place."""
        place = place_of(run.raw.artifact_uri)
        if place not in self._places:
            self._places[place] = moved_folder(place, self._patient.tracking_uri)
        return iter(())

    def after(self) -> Iterator[Finding]:
        """One finding a place."""
        for old, new in self._places.items():
            if new is not None:
                yield self._finding(old, new)

    def _finding(self, old: str, new: Path) -> Finding:
        def mend() -> str:
            to = str(check_path(new, "the folder of artifacts"))
            return f"the store says {to} of {self._patient.mender.move(old, to)} runs"

        return Finding(
            check=self.name,
            run_id=None,
            what=f"the store was moved: it says that artifacts are in {old}, which is not there; they are in {new}",
            advice="write the new place into the store with --fix, or move it back",
            remedy="writes the new place into the store, without which no phase adds to it",
            mend=mend,
        )


class Reach(Check):
    """Comes after the checks that read files, and tells what they could not read."""

    name = "artifacts"

    def __init__(self, patient: Patient) -> None:
        self._files = patient.files

    def after(self) -> Iterator[Finding]:
        """One finding a place."""
        for place, why in sorted(self._files.unreachable.items()):
            count = self._files.n_unseen[place]
            yield Finding(
                check=self.name,
                run_id=None,
                what=f"{count} files under {place} could not be looked at: {why}",
                advice="run it where that place can be read, or with --no-artifacts to leave files out",
            )
