"""Stored results as lines of a results file, with their responses beside it."""

import json
from collections.abc import Iterable
from contextlib import closing, suppress
from pathlib import Path

from massact.domain import Response
from massact.errors import StoreError
from massact.schema import EvaluationRow, Kind, Scores, decode_evaluation, decode_scores
from massact.store import open_store
from massact.transfer.artifacts import ArtifactReader
from massact.transfer.document import parse_document
from massact.transfer.files import write_whole
from massact.transfer.layout import ImportedLine
from massact.transfer.lines import parse_result_line
from massact.transfer.native import native_document
from massact.transfer.responses import responses_json
from massact.transfer.shelf import Kept
from massact.transfer.tree import BASELINE_RESPONSES, RESPONSES, responses_name


class LineWriter:
    """Makes the lines of one results file."""

    def __init__(self, results: Path, tracking_uri: str, artifacts: ArtifactReader | None) -> None:
        """`artifacts` is `None` where no responses are wanted."""
        self._folder = results.parent / RESPONSES
        self._tracking_uri = tracking_uri
        self._artifacts = artifacts
        self._taken: set[str] = set()
        self.n_baselines = self.n_evaluations = self.n_responses = 0
        self._newest_baseline: dict[tuple[str, int | None], tuple[str, float | None]] = {}
        self.n_other_baseline = 0
        """Imported evaluations whose baseline is not the newest of their file: it was deleted, or came later."""
        self.notes: list[str] = []

    def line(self, kept: Kept, imported: ImportedLine | None) -> bytes:
        """A run as a line; its responses are written.

        Raises:
            UsageError: a responses file cannot be written.
            StoreError: the store cannot be read.
        """
        if kept.kind is Kind.BASELINE:
            self.n_baselines += 1
        else:
            self.n_evaluations += 1
        responses = self._responses(kept)
        row = decode_evaluation(kept.row)
        if imported is not None:
            self._compare_baselines(row)
            self._write_imported(kept, imported, responses)
            return imported.text.encode() + b"\n"
        times = (kept.started_at, kept.finished_at)
        document = native_document(row, times, self._scores(kept), None)
        if responses:
            name = self._free_name(kept, row, _name(document))
            document = native_document(row, times, self._scores(kept), name)
            self._write(name, responses)
        return json.dumps(document, allow_nan=False).encode() + b"\n"

    def _compare_baselines(self, row: EvaluationRow) -> None:
        """Count the lines whose delta an import of this file would compute in another way."""
        if row.kind is Kind.BASELINE:
            self._newest_baseline[row.judge, row.n_questions] = (row.key, row.trait_mean)
            return
        without_number = self._newest_baseline.get((row.judge, None), (None, None))
        newest = self._newest_baseline.get((row.judge, row.n_questions), without_number)
        self.n_other_baseline += newest != (row.baseline_key, row.baseline_trait_mean)

    def _responses(self, kept: Kept) -> tuple[Response, ...]:
        if self._artifacts is None or not kept.has_responses:
            return ()
        try:
            return self._artifacts.read_responses(kept.run_id)
        except StoreError as error:
            self.notes.append(f"responses left out: {error}")
            return ()

    def _write_imported(self, kept: Kept, imported: ImportedLine, responses: Iterable[Response]) -> None:
        """Under the name by which an import finds them again; of baselines, the newest keeps it."""
        if not responses:
            return
        name = _name(parse_document(imported.text.encode(), allow_nan=True))
        if name is None or (name in self._taken and kept.kind is not Kind.BASELINE):
            self.notes.append(
                f"responses of run {kept.run_id} left out: their file's name is taken or cannot be"
            )
        else:
            self._write(name, responses)

    def _free_name(self, kept: Kept, row: EvaluationRow, name: str | None) -> str:
        name = name or f"{row.component or 'other'}/other/{kept.key[:16]}.json"
        if name in self._taken:
            name = f"{name.removesuffix('.json')}_{kept.key[:8]}_{kept.finished_at}.json"
        return name

    def _write(self, name: str, responses: Iterable[Response]) -> None:
        self.n_responses += name not in self._taken
        self._taken.add(name)
        write_whole(self._folder / name, [responses_json(responses)])

    def _scores(self, kept: Kept) -> Scores | None:
        if kept.scores is not None:
            with suppress(ValueError, TypeError, KeyError):  # damaged: the stepped metrics hold them too
                return decode_scores(kept.scores)
        # too many for a tag
        with closing(open_store(self._tracking_uri)) as store:
            scores = store.scores([kept.run_id]).get(kept.run_id)
        has_any = scores is not None and any(one is not None for one in (*scores.trait, *scores.coherence))
        return scores if has_any else None


def _name(document: dict[str, object]) -> str | None:
    """The responses file of a line, within `responses/`."""
    if document.get("type") == "baseline":
        return BASELINE_RESPONSES
    return responses_name(parse_result_line(document))
