"""The import: files are read line by line, what the store lacks is written in chunks.

Every line is accounted for, and a bad one stops no other. An import that was interrupted goes on when it
is run again: what was written is found there by its content.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from massact.domain import TRAIT_INTERP_DIFFERS
from massact.errors import DataError, lfs_advice
from massact.interop.calibrations import read_calibration_file
from massact.interop.lines import (
    Header,
    LineError,
    ResultLine,
    parse_document,
    parse_header,
    parse_result_line,
    read_lines,
)
from massact.interop.names import Context, Source, Target, direction_note, resolve_context
from massact.interop.own_format import is_native, parse_native
from massact.interop.report import FileReport, ImportReport, OnRefusal, Seen, measured_identity
from massact.interop.responses import ResponsesFolder, scores_of
from massact.interop.rows import FoundBaseline, cell_json, content_digest, imported_row, n_asked
from massact.interop.writing import Origin, Sink, imported_run, native_run
from massact.keys import canonical_json, digest_text
from massact.store.write.run_writer import WholeRun

# The first reading of a results file: its header and its baselines, wherever they stand.

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
        baselines[judge, n] = FoundBaseline(
            digest_text(cell_json(context, baseline, n)), baseline.result.trait_mean
        )
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


CHUNK_RUNS, CHUNK_BYTES = 500, 32_000_000
"""A chunk is written when it has so many runs, or so many bytes of artifacts."""
_JUDGES_NAMED = 20


@dataclass(slots=True)
class _File:
    """A results file that is being imported."""

    source: Source
    survey: Survey
    report: FileReport
    responses: ResponsesFolder
    modified_at: int
    """Milliseconds since 1970."""
    without_baseline: dict[str, int] = field(default_factory=dict)
    """How many evaluations there are that each kind of baseline lacks for."""
    n_nan: int = 0
    """Results with NaN as a mean."""
    n_ties: int = 0
    """Lines of a cell and a time that another line has too."""
    n_otherwise: int = 0
    """Lines that the store holds as of another number of questions."""


class Importer:
    """One import into one experiment."""

    def __init__(
        self,
        target: Target,
        seen: Seen,
        sink: Sink,
        *,
        on_refusal: OnRefusal,
        on_bytes: Callable[[int], None],
    ) -> None:
        self._target = target
        self._seen = seen
        self._sink = sink
        self._on_refusal = on_refusal
        self._on_bytes = on_bytes
        self._chunk: list[WholeRun] = []
        self._chunk_bytes = 0
        self._n_of_others = 0
        """New results that massact did not measure."""

    def run(self, sources: Iterable[Source]) -> ImportReport:
        """Import files, one after the other.

        Raises:
            StoreError: the store cannot be written; what was written stays.
        """
        report = ImportReport(self._target.experiment)
        for source in sources:
            file = FileReport(str(source.path), source.kind)
            report.files.append(file)
            try:
                _check_place(source)
                # a file that vanished, or may not be read, does not stop the others
                if source.kind == "calibration":
                    self._import_calibration(source, file)
                else:
                    self._import_results(source, file)
            except DataError as error:
                self._on_refusal(file.refuse(0, str(error)))
        self._flush()
        if self._n_of_others and self._seen.has_measured:
            report.notes.append(TRAIT_INTERP_DIFFERS)
        return report

    def _import_results(self, source: Source, report: FileReport) -> None:
        survey = survey_file(source, self._target)
        try:
            with source.path.open("rb") as opened:
                modified_at = source.path.stat().st_mtime_ns // 1_000_000
                responses = ResponsesFolder(source.path, report.note)
                file = _File(source, survey, report, responses, modified_at)
                for number, line in read_lines(opened):
                    self._on_bytes(0 if line is None else len(line))
                    try:
                        self._import_line(file, number, line)
                    except LineError as error:
                        self._on_refusal(report.refuse(number, str(error)))
        except OSError as error:
            raise DataError(f"{source.path}: cannot be read ({error.strerror})") from error
        for named, count in sorted(file.without_baseline.items()):
            have = "evaluation has" if count == 1 else "evaluations have"
            report.note(f"no scored baseline{named}: {count} {have} no delta")
        contradiction = survey.context and direction_note(survey.context, self._target)
        if contradiction:
            report.note(contradiction)
        if file.n_nan:
            report.note(f"NaN, numpy's mean of no scores, in {file.n_nan} results: kept as missing values")
        if file.n_ties:
            report.note(
                f"{file.n_ties} results are of a cell and a time that another result has too: "
                "which of them counts is left to chance, so delete the wrong runs"
            )
        if file.n_otherwise:
            report.note(
                f"{file.n_otherwise} results are in the store as of another number of questions than the file tells "
                "(an earlier version mixed them, or the file has grown), so they are compared with the wrong ones: "
                "import it into a new experiment"
            )
        file.responses.note_unclaimed()

    def _import_line(self, file: _File, number: int, line: bytes | None) -> None:
        if line is not None and not line.strip():
            file.report.counts.blank += 1
            return
        document = parse_document(line, allow_nan=True)
        assert line is not None  # parse_document refuses it
        if document.get("type") == "header":
            parse_header(document)
            file.report.counts.headers += 1
        elif is_native(document):
            self._import_native(file, line)
        else:
            result = parse_result_line(document)
            if file.survey.context is None:
                raise LineError(file.survey.problem or "no header")
            origin = Origin(file.source.path, number, line.decode().strip(), file.survey.context)
            self._import_result(file, origin, file.survey.context, result)

    def _import_native(self, file: _File, line: bytes) -> None:
        native = parse_native(line, self._target.experiment)
        times = (native.started_at, native.finished_at)

        name = file.responses.claim_name(native.responses)

        def build() -> WholeRun:
            return native_run(native.row, native.scores, times, file.responses.read(name))

        self._add(file.report, measured_identity(native.row.key, native.finished_at), build)

    def _import_result(self, file: _File, origin: Origin, context: Context, line: ResultLine) -> None:
        n_questions = n_asked(context, line, file.survey.counts)
        baseline = file.survey.baseline(line, n_questions)
        row = imported_row(self._target.experiment, context, line, baseline, n_questions=n_questions)
        content = content_digest(context, line)
        at = file.modified_at if line.finished_at is None else line.finished_at

        is_newest = content == file.survey.newest_baseline
        name = file.responses.claim(line, is_newest_baseline=is_newest)

        def build() -> WholeRun:
            responses = file.responses.read(name, line)
            scores = scores_of(responses) if responses else None
            return imported_run(row, origin, responses, scores, content, at)

        is_new = self._add(file.report, content, build)
        self._n_of_others += is_new
        identity = measured_identity(row.key, at)
        file.n_otherwise += not is_new and line.finished_at is not None and identity not in self._seen
        file.n_ties += is_new and not self._seen.add(identity)
        file.n_nan += is_new and row.unscored_because is not None
        if is_new and not line.is_baseline and row.baseline_trait_mean is None:
            _count_without_baseline(file, line, n_questions)

    def _import_calibration(self, source: Source, report: FileReport) -> None:
        try:
            calibration = read_calibration_file(source, self._target)
            self._on_bytes(len(calibration.file))
            self._add(report, calibration.identity, calibration.to_run)
        except LineError as error:
            self._on_refusal(report.refuse(1, str(error)))

    def _add(self, report: FileReport, identity: str, build: Callable[[], WholeRun]) -> bool:
        """Add a run to the chunk unless it is there already. Returns whether it was added."""
        if not self._seen.add(identity):
            report.counts.already_there += 1
            return False
        try:
            run = build()
        except LineError:
            self._seen.discard(identity)
            raise
        report.counts.imported += 1
        self._chunk.append(run)
        self._chunk_bytes += sum(len(content) for content in run.files.values())
        if len(self._chunk) >= CHUNK_RUNS or self._chunk_bytes >= CHUNK_BYTES:
            self._flush()
        return True

    def _flush(self) -> None:
        chunk, self._chunk, self._chunk_bytes = self._chunk, [], 0
        self._sink.write(chunk)


def _count_without_baseline(file: _File, line: ResultLine, n_questions: int | None) -> None:
    named = "" if line.trait_judge is None else f" of the trait judge {line.trait_judge!r}"
    if file.survey.has_other_baseline(line) and n_questions is not None:
        named += f" over {n_questions} questions, and none over other numbers is taken in its place"
    if named in file.without_baseline or len(file.without_baseline) < _JUDGES_NAMED:
        file.without_baseline[named] = file.without_baseline.get(named, 0) + 1


def _check_place(source: Source) -> None:
    if source.leads_out:
        raise DataError(
            f"{source.path}: a link to a file elsewhere; if it is meant, import it by its own path"
        )
