"""Places of artifacts that cannot be looked at from here: nothing is said of what may lie there."""

from collections.abc import Iterator

from massact.doctor.base import Check, Finding, Patient


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
