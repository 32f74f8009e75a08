"""Responses files: a JSON list of objects with `prompt`, `response` and the two scores, beside a results file."""

import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from massact.domain import Response
from massact.errors import DataError, lfs_advice
from massact.interop.lines import LineError, Result, ResultLine, parse_document, score, without_nans
from massact.interop.names import BASELINE_RESPONSES, RESPONSES, is_within, responses_name
from massact.store.schema import Scores
from massact.words import counted

TOLERANCE = 0.05  # how far the mean of a file's scores may lie from its line's: files are rounded, lines are not
_MAX_BYTES = 64_000_000
_REASON = "unscored_because"
_CLOCK_SLACK_SECONDS = (0, 1)  # a responses file is named by a clock read just before the one that dates its line


class ResponsesFolder:
    """The folder `responses/` of one results file, and which of its files belong to a line."""

    def __init__(self, results: Path, notes: list[str]) -> None:
        """`notes` is told of files that cannot be used."""
        self._folder = results.parent / RESPONSES
        self._root = results.parent.resolve()
        self._notes = notes
        self._claimed: set[str] = set()

    def claim(self, line: ResultLine, *, is_newest_baseline: bool) -> str | None:
        if line.is_baseline:
            return self.claim_name(BASELINE_RESPONSES if is_newest_baseline else None)
        names = (responses_name(line, earlier=seconds) for seconds in _CLOCK_SLACK_SECONDS)
        return next((name for name in map(self.claim_name, names) if name is not None), None)

    def claim_name(self, name: str | None) -> str | None:
        try:
            if name is None or not (self._folder / name).is_file():
                return None
        except ValueError:  # a name with a null byte
            return None
        if not is_within(self._folder / name, self._root):
            self._notes.append(f"not used: {self._folder / name} leads to a file elsewhere")
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
            self._notes.append(f"not used: {error}")
            return ()
        differs = None if line is None else disagreement(responses, line.result)
        if differs is not None:
            self._notes.append(f"not used: {self._folder / name}: {differs}")
            return ()
        return responses

    def note_unclaimed(self) -> None:
        names = (path.relative_to(self._folder).as_posix() for path in sorted(self._folder.rglob("*.json")))
        left = [name for name in names if name not in self._claimed]
        if left:
            self._notes.append(
                f"not imported: {counted(len(left), 'file')} below {self._folder} without a line (first: {left[0]})"
            )


def read_responses_file(path: Path) -> tuple[Response, ...]:
    """The responses in a file, in its order."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise DataError(f"{path}: over {_MAX_BYTES // 1_000_000} MB, too large for responses")
        content = path.read_bytes()
        if advice := lfs_advice(content):
            raise DataError(f"{path}: {advice}")
        # wrapped, since only an object is a document
        document = parse_document(b'{"responses":' + content + b"}", allow_nan=True)
        return tuple(_response(fields) for fields in document["responses"])
    except (OSError, LineError, TypeError) as error:
        raise DataError(f"{path}: not a list of responses ({error})") from error


def _response(fields: Any) -> Response:
    if not isinstance(fields, dict):
        raise LineError("holds something that is not an object")
    # older files, and those of others, have other names for the prompt
    prompt = next((fields[name] for name in ("prompt", "question", "instruction") if name in fields), None)
    fields, nans = without_nans(fields, ("trait_score", "coherence_score"))
    response = fields.get("response")
    reason = fields.get(_REASON) or (f"the file has NaN as {' and '.join(nans)}" if nans else None)
    if not isinstance(prompt, str) or not isinstance(response, str) or not isinstance(reason, str | None):
        raise LineError("a response without a prompt or a text")
    trait, coherence = score(fields, "trait_score"), score(fields, "coherence_score")
    thinking, is_answered = fields.get("thinking"), fields.get("is_answered", True)
    if not isinstance(thinking, str | None) or not isinstance(is_answered, bool):
        raise LineError("a response whose thinking is no text, or whose is_answered is neither true nor false")
    return Response(prompt, response, trait, coherence, reason, thinking, is_answered)


def scores_of(responses: Sequence[Response]) -> Scores:
    return Scores(tuple(response.trait for response in responses), tuple(response.coherence for response in responses))


def disagreement(responses: Sequence[Response], result: Result) -> str | None:
    """Where the means of a file's scores are not those of its line; `None` where they agree."""
    for name in ("trait", "coherence"):
        known = [value for response in responses if (value := getattr(response, name)) is not None]
        said = getattr(result, f"{name}_mean")
        mean = statistics.fmean(known) if known else None
        if (mean is None) != (said is None) or abs((mean or 0.0) - (said or 0.0)) > TOLERANCE:
            shown = ("missing" if value is None else f"{value:.2f}" for value in (mean, said))
            return f"{name}_mean of its scores is {{}}, of the line {{}}".format(*shown)
    return None


def responses_json(responses: Iterable[Response]) -> bytes:
    """A responses file of the layout; `read_responses_file` reads it back."""
    documents = [
        {
            "prompt": response.question,
            "response": response.response,
            "system_prompt": None,
            "trait_score": response.trait,
            "coherence_score": response.coherence,
            **({} if response.reason is None else {_REASON: response.reason}),
            **({} if response.thinking is None else {"thinking": response.thinking}),
            **({} if response.is_answered else {"is_answered": False}),
        }
        for response in responses
    ]
    return ("[\n  " + ",\n  ".join(json.dumps(document, allow_nan=False) for document in documents) + "\n]\n").encode()
