"""The first reading of a results file: its header and its baselines, wherever they stand."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from massact.errors import DataError, lfs_advice
from massact.keys import canonical_json
from massact.transfer.document import LineError, parse_document, read_lines
from massact.transfer.lines import Header, ResultLine, parse_header, parse_result_line
from massact.transfer.names import Context, Target, resolve_context
from massact.transfer.native import is_native
from massact.transfer.rows import FoundBaseline, cell_key, content_digest, n_asked
from massact.transfer.tree import Source

_Scored = tuple[str | None, int | None]
"""A trait judge, and how many scores it gave."""
_Rank = tuple[int, str]


@dataclass(slots=True)
class _Found:
    headers: dict[str, tuple[int, Header]] = field(default_factory=dict)
    """Distinct headers, two at most, by their content."""
    problem: str | None = None
    newest: "dict[_Scored, tuple[_Rank, ResultLine]]" = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Survey:
    """What has to be known of a file before its lines can be imported."""

    context: Context | None
    problem: str | None
    """Why there is no context: then no line but those of our own export can be imported."""
    baselines: Mapping[tuple[str | None, int | None], FoundBaseline]
    """The newest baseline of each trait judge and number of questions."""
    counts: frozenset[int]
    """How many scores the baselines have."""
    newest_baseline: str | None
    """Content digest of the one whose responses `baseline.json` holds."""

    def baseline(self, line: ResultLine, n_questions: int | None) -> FoundBaseline | None:
        """What an evaluation is compared with: a baseline of its judge over as many questions.

        One that does not say over how many is taken where there is no such baseline.
        """
        if line.is_baseline:
            return None
        of_judge = {n: one for (judge, n), one in self.baselines.items() if judge == line.trait_judge}
        if n_questions is None and None not in of_judge and len(of_judge) == 1:
            return next(iter(of_judge.values()))
        return of_judge.get(n_questions, of_judge.get(None))

    def has_other_baseline(self, line: ResultLine) -> bool:
        """Whether its judge has a baseline at all."""
        return any(judge == line.trait_judge for judge, _ in self.baselines)


def survey_file(source: Source, target: Target) -> Survey:
    """Read a file for what its lines share. Only lines with a `type` are parsed.

    Raises:
        DataError: the file cannot be read.
    """
    found = _Found()
    try:
        with source.path.open("rb") as file:
            for number, line in read_lines(file):
                if number == 1 and line is not None and (advice := lfs_advice(line)):
                    raise DataError(f"{source.path}: {advice}")
                # a backslash may spell the word in another way
                if line is not None and (b'"type"' in line or b"\\u" in line):
                    _look_at(number, line, found)
    except OSError as error:
        raise DataError(f"{source.path}: cannot be read ({error.strerror})") from error
    context, problem = _context(source, found, target)
    if context is None:
        return Survey(None, problem, {}, frozenset(), None)
    counts = frozenset(n for _, n in found.newest if n)
    baselines = {}
    for (judge, _), (_, baseline) in sorted(found.newest.items(), key=lambda one: one[1][0]):
        n = n_asked(context, baseline, counts)
        baselines[judge, n] = FoundBaseline(cell_key(context, baseline, n), baseline.result.trait_mean)
    last = max(found.newest.values(), key=lambda one: one[0], default=None)
    newest = content_digest(context, last[1]) if last else None
    return Survey(context, None, baselines, counts, newest)


def _look_at(number: int, line: bytes, found: _Found) -> None:
    try:
        document = parse_document(line, allow_nan=True)
        if document.get("type") == "header":
            _add_header(number, parse_header(document), found)
        elif document.get("type") == "baseline" and not is_native(document):
            baseline = parse_result_line(document)
            # one without a time is older than any other; equal times are settled by content, not by order
            rank = (
                -1 if baseline.finished_at is None else baseline.finished_at,
                canonical_json(baseline.document),
            )
            place = (baseline.trait_judge, baseline.result.n)
            known = found.newest.get(place)
            if known is None or rank > known[0]:
                found.newest[place] = (rank, baseline)
    except LineError as error:
        # the second reading refuses the line; here it matters only that a header was meant
        if b'"header"' in line:
            found.problem = f"the header in line {number} is refused: {error}"


def _add_header(number: int, header: Header, found: _Found) -> None:
    content = canonical_json({"header": header.document, "own": header.own})
    if content not in found.headers and len(found.headers) < 2:
        found.headers[content] = (number, header)


def _context(source: Source, found: _Found, target: Target) -> tuple[Context | None, str | None]:
    numbers = [number for number, _ in found.headers.values()]
    if len(numbers) > 1:
        return None, f"two different headers, in lines {numbers[0]} and {numbers[1]}: split the file"
    header = next((header for _, header in found.headers.values()), None)
    if header is None and found.problem is not None:
        return None, found.problem
    try:
        return resolve_context(source, header, target), None
    except LineError as error:
        return None, str(error)
