"""The responses that lie beside a results file, and which of its lines they belong to."""

from collections.abc import Callable
from pathlib import Path

from massact.domain import Response
from massact.errors import DataError
from massact.transfer.lines import ResultLine
from massact.transfer.responses import disagreement, read_responses_file
from massact.transfer.tree import BASELINE_RESPONSES, RESPONSES, find_responses, is_within


class ResponsesFolder:
    """The folder `responses/` of one results file."""

    def __init__(self, results: Path, note: Callable[[str], None]) -> None:
        self._results = results
        self._folder = results.parent / RESPONSES
        self._root = results.parent.resolve()
        self._is_there = self._folder.is_dir()
        self._note = note
        self._claimed: set[str] = set()

    def claim(self, line: ResultLine, *, is_newest_baseline: bool) -> str | None:
        """The file that belongs to a line, by its name within the folder."""
        if not self._is_there:
            return None
        if line.is_baseline:
            return self.claim_name(BASELINE_RESPONSES if is_newest_baseline else None)
        path = find_responses(self._results, line)
        return None if path is None else self.claim_name(path.relative_to(self._folder).as_posix())

    def claim_name(self, name: str | None) -> str | None:
        """The file of that name, where it is there."""
        if name is None or not _is_file(self._folder / name):
            return None
        if not is_within(self._folder / name, self._root):
            self._note(f"not used: {self._folder / name} leads to a file elsewhere")
            return None
        self._claimed.add(name)
        return name

    def read(self, name: str | None, line: ResultLine | None = None) -> tuple[Response, ...]:
        """The responses of a claimed file; none, and a note, where their scores are not the line's."""
        if name is None:
            return ()
        try:
            responses = read_responses_file(self._folder / name)
        except DataError as error:
            self._note(f"not used: {error}")
            return ()
        differs = None if line is None else disagreement(responses, line.result)
        if differs is not None:
            self._note(f"not used: {self._folder / name}: {differs}")
            return ()
        return responses

    def note_unclaimed(self) -> None:
        """Say which files belong to no line of the results file."""
        if not self._is_there:
            return
        names = (path.relative_to(self._folder).as_posix() for path in sorted(self._folder.rglob("*.json")))
        left = [name for name in names if name not in self._claimed]
        if left:
            self._note(
                f"not imported: {len(left)} files below {self._folder} that belong to no line (first: {left[0]})"
            )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except ValueError:  # a name with a null byte
        return False
