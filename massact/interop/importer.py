"""The import: files are read line by line, each accounted for; what the store lacks is written in chunks."""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from massact.domain import TRAIT_INTERP_DIFFERS
from massact.errors import DataError, lfs_advice
from massact.interop.figures import PublishedFile, published_run, read_calibration_file
from massact.interop.lines import Header, LineError, ResultLine, parse_document, parse_line, read_lines
from massact.interop.names import Context, Source, Target, direction_note, resolve_context
from massact.interop.responses import ResponsesFolder, scores_of
from massact.interop.rows import (
    FileBaseline,
    OwnLine,
    content_digest,
    imported_cell,
    imported_row,
    imported_tag,
    is_own,
    measured_identity,
    n_asked,
    parse_own_line,
    result_run,
)
from massact.interop.writing import FileReport, ImportReport, open_import
from massact.keys import canonical_json, digest_text
from massact.store.read import stored_contents
from massact.store.read.base import RawRun
from massact.store.schema import Kind, Tag
from massact.store.write.run_writer import FinishedRun
from massact.words import counted

CHUNK_RUNS, CHUNK_BYTES = 500, 32_000_000  # a chunk is written when it has so many runs, or so many bytes of artifacts
_NAN = "NaN, numpy's mean of no scores, in {}: kept as missing values"
_TIES = (
    "{} of a cell and a time that another result has too: "
    "which of them counts is left to chance, so delete the wrong runs"
)
_OTHERWISE = (
    "{} in the store as of another number of questions than the file tells "
    "(an earlier version mixed them, or the file has grown), so compared with the wrong ones: "
    "import the file into a new experiment"
)


@dataclass(frozen=True, slots=True)
class FileLine:
    number: int  # from 1
    text: bytes  # empty where it was too long to be read
    value: Header | OwnLine | ResultLine | LineError | None
    """What it holds, or why it is refused; `None` for a blank one."""


@dataclass(frozen=True, slots=True)
class Scan:
    """What the lines of a results file share: its header and its baselines, wherever they stand."""

    context: Context | None
    problem: str = ""  # why there is no context: then no line but those of our own export can be imported
    baselines: Mapping[tuple[str | None, int | None], FileBaseline] = field(default_factory=dict)
    """The newest baseline of each trait judge and number of questions."""
    counts: frozenset[int] = frozenset()  # how many scores the baselines have
    newest_baseline: str | None = None  # content digest of the one whose responses `baseline.json` holds

    def baseline(self, line: ResultLine, n_questions: int | None) -> FileBaseline | None:
        """What an evaluation is compared with: a baseline of its judge over as many questions. One that does not say
        over how many is taken where there is no such baseline."""
        of_judge = {n: baseline for (judge, n), baseline in self.baselines.items() if judge == line.trait_judge}
        if line.is_baseline:
            return None
        if n_questions is None and None not in of_judge and len(of_judge) == 1:
            return next(iter(of_judge.values()))
        return of_judge.get(n_questions, of_judge.get(None))


_BINARY = "it is no text in UTF-8: results are lines of JSON, as trait-interp writes them"


def read_results(source: Source, experiment: str) -> tuple[list[FileLine], int]:
    """All lines of a results file, and when it was changed last, in milliseconds since 1970."""
    lines = []
    try:
        with source.path.open("rb") as file:
            changed_at = os.fstat(file.fileno()).st_mtime_ns // 1_000_000
            for number, line in read_lines(file):
                advice = lfs_advice(line or b"") or (_BINARY if b"\0" in (line or b"") else None)
                if number == 1 and advice:
                    raise DataError(f"{source.path}: {advice}")
                lines.append(FileLine(number, line or b"", _parsed(line, experiment)))
    except OSError as error:
        raise DataError(f"{source.path}: cannot be read ({error.strerror})") from error
    return lines, changed_at


def _parsed(line: bytes | None, experiment: str) -> Header | OwnLine | ResultLine | LineError | None:
    if line is not None and not line.strip():
        return None
    try:
        document = parse_document(line, allow_nan=True)
        return parse_own_line(line or b"", experiment) if is_own(document) else parse_line(document)
    except LineError as error:
        return error


def scan_lines(lines: Sequence[FileLine], source: Source, target: Target) -> Scan:
    """What has to be known of a file before its lines can be imported."""
    context = _context(lines, source, target)
    if isinstance(context, str):
        return Scan(None, context)
    ranked = sorted(
        (line.value for line in lines if isinstance(line.value, ResultLine) and line.value.is_baseline),
        # one without a time is older than any other; equal times are settled by content, not by order
        key=lambda line: (-1 if line.finished_at is None else line.finished_at, canonical_json(line.document)),
    )
    newest = {(line.trait_judge, line.result.n): line for line in ranked}
    counts = frozenset(line.result.n for line in newest.values() if line.result.n)
    baselines = {}
    for line in ranked:
        if newest[line.trait_judge, line.result.n] is line:
            n = n_asked(context, line, counts)
            key = digest_text(imported_cell(context, line, n))
            baselines[line.trait_judge, n] = (key, line.result.trait_mean)
    last = content_digest(context, ranked[-1]) if ranked else None
    return Scan(context, baselines=baselines, counts=counts, newest_baseline=last)


def _context(lines: Sequence[FileLine], source: Source, target: Target) -> Context | str:
    """Where the lines belong, or why that cannot be told."""
    headers: dict[str, tuple[int, Header]] = {}
    problem = ""
    for line in lines:
        if isinstance(line.value, Header):
            content = canonical_json({"header": line.value.document, "extra": line.value.extra})
            headers.setdefault(content, (line.number, line.value))
        elif isinstance(line.value, LineError) and b'"header"' in line.text:
            problem = f"the header in line {line.number} is refused: {line.value}"
    if len(headers) > 1:
        first, second, *_ = (number for number, _ in headers.values())
        return f"two different headers, in lines {first} and {second}: split the file"
    if problem and not headers:
        return problem
    try:
        return resolve_context(source, next((header for _, header in headers.values()), Header()), target)
    except LineError as error:
        return str(error)


def import_into(
    tracking_uri: str, target: Target, what: PublishedFile | Sequence[Source], *, path: Path, dry_run: bool = False,
    on_bytes: Callable[[int], None] = lambda _n: None, say: Callable[[str], None] = lambda _line: None,
) -> ImportReport:  # fmt: skip
    """Import into a run store, while nobody else imports into the experiment. `path`: what was named, for the run."""
    params = {"path": str(path), "model": target.model, "trait": target.trait}
    with nullcontext() if dry_run else open_import(tracking_uri, target, params, say) as writer:
        stored = stored_contents(tracking_uri, target.experiment)
        write = writer.write if writer else lambda _runs: None
        report = Importer(target, stored, write, on_bytes=on_bytes).run(what)
        if writer:
            writer.finish(report)
    return report


@dataclass(slots=True)
class _File:
    source: Source
    scan: Scan
    report: FileReport
    responses: ResponsesFolder
    changed_at: int  # milliseconds since 1970
    without_baseline: Counter[str] = field(default_factory=Counter)
    """How many evaluations there are that each kind of baseline lacks for."""
    remarks: Counter[str] = field(default_factory=Counter)  # how many results each of the remarks above is about


class Importer:
    def __init__(
        self,
        target: Target,
        stored: Iterable[RawRun],
        write: Callable[[Sequence[FinishedRun]], object],
        *,
        on_bytes: Callable[[int], None] = lambda _n: None,
    ) -> None:
        """`stored` is what the run store holds already; `write` takes the new runs, a chunk at a time."""
        self._target = target
        self._write = write
        self._on_bytes = on_bytes
        self._known: set[str] = set()  # by what results are known again, those of the store and of this import
        self._has_measured = self._has_imported = False
        for run in stored:
            self._has_measured |= run.tags[Tag.KIND] == Kind.EVALUATION and Tag.CONTENT not in run.tags
            self._known.add(measured_identity(run.tags[Tag.KEY], run.finished_at))
            self._known.update([run.tags[Tag.CONTENT]] if Tag.CONTENT in run.tags else ())
        self._chunk: list[FinishedRun] = []
        self._chunk_bytes = 0

    def run(self, what: PublishedFile | Iterable[Source]) -> ImportReport:
        report = ImportReport(self._target.experiment)
        if isinstance(what, PublishedFile):
            report.files.append(what.report)
            for row in what.rows:
                self._add(what.report, row.key, partial(published_run, row, int(time.time() * 1000)))
        else:
            report.files += map(self._import_source, what)
        self._flush()
        if self._has_imported and self._has_measured:
            report.notes.append(TRAIT_INTERP_DIFFERS)
        return report

    def _import_source(self, source: Source) -> FileReport:
        file = FileReport(str(source.path), source.kind)
        if source.leads_out:
            file.refuse(0, f"{source.path}: a link to a file elsewhere; if it is meant, import it by its own path")
            return file
        try:
            if source.kind == "calibration":
                calibration = read_calibration_file(source, self._target)
                self._on_bytes(len(calibration.file))
                self._add(file, calibration.identity, calibration.to_run)
            else:
                self._import_results(source, file)
        except LineError as error:
            file.refuse(1, str(error))
        except DataError as error:  # a file that vanished, or may not be read, does not stop the others
            file.refuse(0, str(error))
        return file

    def _import_results(self, source: Source, report: FileReport) -> None:
        lines, changed_at = read_results(source, self._target.experiment)
        scan, responses = scan_lines(lines, source, self._target), ResponsesFolder(source.path, report.notes)
        file = _File(source, scan, report, responses, changed_at)
        for line in lines:
            self._on_bytes(len(line.text))
            try:
                self._import_line(file, line)
            except LineError as error:
                report.refuse(line.number, str(error))
        for named, count in sorted(file.without_baseline.items()):
            report.notes.append(
                f"no scored baseline{named}: {counted(count, 'evaluation has', 'evaluations have')} no delta"
            )
        if scan.context and (contradiction := direction_note(scan.context, self._target)):
            report.notes.append(contradiction)
        report.notes += [remark.format(counted(count, "result")) for remark, count in file.remarks.items() if count]
        responses.note_unclaimed()

    def _import_line(self, file: _File, line: FileLine) -> None:
        match line.value:
            case None:
                file.report.counts.blank += 1
            case LineError() as error:
                raise error
            case Header():
                file.report.counts.headers += 1
            case OwnLine() as measured:
                name = file.responses.claim_name(measured.responses)
                self._add(
                    file.report,
                    measured_identity(measured.row.key, measured.times[1]),
                    lambda: result_run(measured.row, measured.scores, measured.times, file.responses.read(name)),
                )
            case ResultLine() as result:
                if file.scan.context is None:
                    raise LineError(file.scan.problem)
                self._import_result(file, line, result, file.scan.context)

    def _import_result(self, file: _File, at: FileLine, line: ResultLine, context: Context) -> None:
        n_questions = n_asked(context, line, file.scan.counts)
        baseline = file.scan.baseline(line, n_questions)
        row = imported_row(self._target.experiment, context, line, baseline, n_questions=n_questions)
        content = content_digest(context, line)
        finished_at = file.changed_at if line.finished_at is None else line.finished_at
        name = file.responses.claim(line, is_newest_baseline=content == file.scan.newest_baseline)

        def build() -> FinishedRun:
            responses = file.responses.read(name, line)
            scores = scores_of(responses) if responses else None
            tag, files = imported_tag(file.source.path, at.number, at.text.decode().strip(), context)
            tags = {Tag.CONTENT.value: content, Tag.IMPORTED.value: tag}
            return result_run(row, scores, (finished_at, finished_at), responses, tags=tags, files=files)

        is_new = self._add(file.report, content, build)
        identity = measured_identity(row.key, finished_at)
        is_known = identity in self._known
        if is_new:
            self._has_imported = True
            self._known.add(identity)
            file.remarks[_NAN] += row.unscored_because is not None
            file.remarks[_TIES] += is_known
            if not line.is_baseline and row.baseline_trait_mean is None:
                _count_without_baseline(file, line, n_questions)
        else:
            file.remarks[_OTHERWISE] += line.finished_at is not None and not is_known

    def _add(self, report: FileReport, identity: str, build: Callable[[], FinishedRun]) -> bool:
        """Add a run to the chunk unless it is there already. Returns whether it was added."""
        if identity in self._known:
            report.counts.already_there += 1
            return False
        self._chunk.append(build())
        self._known.add(identity)
        report.counts.imported += 1
        self._chunk_bytes += sum(map(len, self._chunk[-1].files.values()))
        if len(self._chunk) >= CHUNK_RUNS or self._chunk_bytes >= CHUNK_BYTES:
            self._flush()
        return True

    def _flush(self) -> None:
        chunk, self._chunk, self._chunk_bytes = self._chunk, [], 0
        self._write(chunk)


def _count_without_baseline(file: _File, line: ResultLine, n_questions: int | None) -> None:
    named = "" if line.trait_judge is None else f" of the trait judge {line.trait_judge!r}"
    if n_questions is not None and any(judge == line.trait_judge for judge, _ in file.scan.baselines):
        named += f" over {n_questions} questions, and none over other numbers is taken in its place"
    file.without_baseline[named] += 1
