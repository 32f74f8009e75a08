"""`massact import` and `massact export`: results as files of trait-interp's layout."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from massact.domain import DEFAULT_COHERENCE_FLOOR

if TYPE_CHECKING:
    from massact.interop.claim import ImportClaim
    from massact.interop.names import Target
    from massact.interop.published import PublishedFile
    from massact.interop.report import ImportReport, RefusalLog
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

from massact.cli.options import experiments_in, tracking_uri_option
from massact.cli.session import show_bar
from massact.config import load_experiment
from massact.errors import UsageError
from massact.names import as_held, check_name
from massact.query.load import named_file

if TYPE_CHECKING:
    from massact.interop.names import Target
    from massact.interop.report import ImportReport, RefusalLog


# `massact import --published`: the figures of a write-up, as a report of the import.


def import_figures(
    path: Path, target: "Target", refusals: "RefusalLog", *, tracking_uri: str, dry_run: bool
) -> "ImportReport":
    """Import a CSV file of published figures.

    Raises:
        UsageError: the file is no such file, or the store cannot be used; nothing was written.
    """
    from massact.interop.published import import_published, read_published

    if dry_run:
        known = _known_keys(tracking_uri, target.experiment)
        file = read_published(path, target.experiment)
        imported = sum(row.key not in known for row in file.rows)
    else:
        from massact.store.write.tracker import Tracker

        read_published(path, target.experiment)  # a file that cannot be read must not make a store
        config = target.config
        tracker = Tracker(
            tracking_uri,
            target.experiment,
            description=config.description if config else "",
            floor=config.coherence_floor if config else DEFAULT_COHERENCE_FLOOR,
        )
        with claimed(tracking_uri, target):
            known = _known_keys(tracking_uri, target.experiment)
            done = import_published(path, tracker=tracker, known_keys=known)
        file, imported = done.file, len(done.imported)
    return _report(path, target.experiment, file, imported, refusals)


def claimed(tracking_uri: str, target: "Target") -> "ImportClaim":
    """The experiment for one import alone."""
    from massact.interop.claim import ImportClaim

    description = target.config.description if target.config else ""
    say = partial(click.echo, err=True)
    return ImportClaim(tracking_uri, target.experiment, description=description, say=say)


def _known_keys(tracking_uri: str, experiment: str) -> set[str]:
    from massact.store.read import open_store
    from massact.store.read.database import is_absent

    if is_absent(tracking_uri):
        return set()
    store = open_store(tracking_uri)
    try:
        return {one.row.key for one in store.published(experiment)}
    finally:
        store.close()


def _report(
    path: Path, experiment: str, file: "PublishedFile", imported: int, refusals: "RefusalLog"
) -> "ImportReport":
    from massact.interop.report import FileReport, ImportReport

    report = FileReport(str(path), "published")
    report.counts.headers = 1
    report.counts.imported = imported
    report.counts.already_there = len(file.rows) - imported + len(file.repeats)
    for one in file.refusals:
        refusals.append(report.refuse(one.line, one.reason))
    for repeat in file.repeats:
        report.note(f"line {repeat.line} says what line {repeat.first} says, and counts once")
    return ImportReport(experiment, [report])


F = TypeVar("F", bound=Callable[..., Any])
OUTPUT_SCHEMA_VERSION = 1
_COUNTS = ("read", "imported", "already_there", "refused", "headers", "blank")


def target_option(command: F) -> F:
    """`--experiment`, which has no default here: results of others do not belong into the toys' experiment."""
    return click.option(
        "--experiment",
        "experiment",
        required=True,
        envvar="MASSACT_EXPERIMENT",
        metavar="FILE_OR_NAME",
        help="Experiment file, its bare name under experiments/, or the name of an experiment without a file.",
    )(command)


@click.command(name="import")
@click.argument("path", type=click.Path(path_type=Path))
@target_option
@tracking_uri_option
@click.option(
    "--model", help="Name to store the model under; default: the experiment file's, else the header's."
)
@click.option(
    "--trait", help="Name to store the trait under; default: the experiment file's, else the path's."
)
@click.option(
    "--published",
    is_flag=True,
    help="PATH is a CSV file of published figures; they are kept apart from what was measured.",
)
@click.option("--dry-run", is_flag=True, help="Read and report, and write nothing.")
@click.option(
    "--refusals",
    "refusals_file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="File for all refused lines, one JSON object a line.",
)
@click.option(
    "--format",
    "output_format",
    type=click.Choice(("table", "json")),
    default="table",
    show_default=True,
    help="How the report is written.",
)
@click.pass_context
def import_command(
    ctx: click.Context,
    path: Path,
    *,
    experiment: str,
    tracking_uri: str,
    model: str | None,
    trait: str | None,
    published: bool,
    dry_run: bool,
    refusals_file: Path | None,
    output_format: str,
) -> None:
    """Import old results: a results.jsonl file, or a folder such as trait-interp's experiments/.

    What is there already is passed over, so the same command can be run again: after an interruption, or
    when the files have grown. Exits with 1 if a line was refused.

    \b
    Examples:
      massact import old/experiments/massive-activations --experiment experiments/massive-activations.yaml
      massact import --published figures.csv --experiment experiments/massive-activations.yaml
    """
    from massact.interop.report import RefusalLog

    if published and (model or trait):
        raise UsageError("--model and --trait rename imported results; published figures stay as printed")
    if path.suffix.lower() == ".csv" and not published:
        raise UsageError(f"{path} is a CSV file: published figures are imported with --published")
    target = find_target(experiment, model=model, trait=trait)
    with closing(RefusalLog()) as refusals:
        if published:
            report = import_figures(path, target, refusals, tracking_uri=tracking_uri, dry_run=dry_run)
        else:
            report = _import(path, target, refusals, tracking_uri=tracking_uri, dry_run=dry_run)
        if refusals_file is not None:
            _write_lines(refusals_file, refusals)
        if output_format == "json":
            _print_json(report, refusals, dry_run=dry_run)
        else:
            _print_table(report, dry_run=dry_run)
    if report.totals.refused:
        ctx.exit(1)


def find_target(
    experiment: str, *, model: str | None = None, trait: str | None = None, held: Sequence[str] = ()
) -> "Target":
    """What `--experiment` names: a file, or an experiment without one.

    Args:
        held: the experiments of a store that is only read; the name of one of them may be any.

    Raises:
        UsageError: no such file, or a name that its file does not declare.
    """
    from massact.interop.names import Target

    if not experiment.strip():
        raise UsageError("--experiment is empty: give an experiment file or a name")
    file = named_file(experiment)
    if file is None:
        named = (None if one is None else check_name(one) for one in (model, trait))
        name = as_held(experiment, held)
        return Target(name if name in held else check_name(name, "experiment"), None, *named)
    config = load_experiment(file)
    if model is not None:
        config.model(model)
    if trait is not None:
        config.trait(trait)
    return Target(as_held(config.name, held), config, model, trait)


def _import(
    path: Path, target: "Target", refusals: "RefusalLog", *, tracking_uri: str, dry_run: bool
) -> "ImportReport":
    """Import into the store; a dry run looks at what is there and writes nothing."""
    from massact.interop.importer import Importer
    from massact.interop.names import find_sources
    from massact.interop.report import Seen
    from massact.interop.writing import Sink, StoreSink
    from massact.store.read.contents import stored_contents

    sources = find_sources(path)
    params = {"path": str(path), "model": target.model, "trait": target.trait}
    n_bytes = sum(source.path.stat().st_size for source in sources if source.path.is_file())
    with (
        nullcontext() if dry_run else claimed(tracking_uri, target) as claim,
        Sink() if claim is None else StoreSink(tracking_uri, target, params, claim.check) as sink,
        closing(Seen(stored_contents(tracking_uri, target.experiment))) as seen,
        show_bar("bytes imported", n_bytes) as advance,
    ):
        job = Importer(target, seen, sink, on_refusal=refusals.append, on_bytes=advance)
        report = job.run(sources)
        sink.finish(report)
    return report


def _print_table(report: "ImportReport", *, dry_run: bool) -> None:
    names = [name.replace("_", " ") for name in _COUNTS]
    rows = [[file.path, *(getattr(file.counts, name) for name in _COUNTS)] for file in report.files]
    totals = ["all lines" if len(rows) != 1 else "", *(getattr(report.totals, name) for name in _COUNTS)]
    rows += [totals] if len(rows) > 1 else []
    width = max(len("file"), *(len(str(row[0])) for row in rows))
    click.echo("  ".join([f"{'file':<{width}}", *names]))
    for row in rows:
        counts = (f"{value:>{len(name)}}" for name, value in zip(names, row[1:], strict=True))
        click.echo("  ".join([f"{row[0]:<{width}}", *counts]))
    click.echo()
    done = "would be imported" if dry_run else "imported"
    click.echo(f"{report.totals.imported} results {done} into the experiment {report.experiment!r}")
    for line in _remarks(report):
        click.echo(line, err=True)


def _remarks(report: "ImportReport") -> Iterator[str]:
    """Refusals and notes, the first ones of each file and how many there are."""
    yield from (f"note: {note}" for note in report.notes)
    for file in report.files:
        for note in file.notes:
            yield f"note: {file.path}: {note}"
        if file.n_notes > len(file.notes):
            yield f"note: {file.path}: {file.n_notes - len(file.notes)} more notes"
        for one in file.refusals:
            yield f"refused: {one.file}:{one.line}: {one.reason}"
        left = file.counts.refused - len(file.refusals)
        if left:
            yield f"refused: {file.path}: {left} more lines (all of them: --refusals FILE or --format json)"
    if report.totals.refused:
        yield f"{report.totals.refused} {'line' if report.totals.refused == 1 else 'lines'} refused"


def _print_json(report: "ImportReport", refusals: "RefusalLog", *, dry_run: bool) -> None:
    """The report as JSON, the refusals written as they are read: there may be a million."""
    files = [
        {
            "path": file.path,
            "kind": file.kind,
            **{name: getattr(file.counts, name) for name in _COUNTS},
            "notes": file.notes,
            "n_notes": file.n_notes,
        }
        for file in report.files
    ]
    head = {
        "schema_version": OUTPUT_SCHEMA_VERSION,
        "experiment": report.experiment,
        "dry_run": dry_run,
        "notes": report.notes,
        "totals": {name: getattr(report.totals, name) for name in _COUNTS},
        "files": files,
    }
    click.echo(json.dumps(head, indent=2)[:-2] + ',\n  "refusals": [', nl=False)
    for index, line in enumerate(refusals):
        click.echo(("," if index else "") + "\n    " + line, nl=False)
    click.echo("\n  ]\n}" if report.totals.refused else "]\n}")


def _write_lines(path: Path, lines: "RefusalLog") -> None:
    try:
        with path.open("w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
    except OSError as error:
        raise UsageError(
            f"cannot write {path}: {error.strerror}. Name a file in a folder that exists"
        ) from error


@click.command(name="export")
@target_option
@tracking_uri_option
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    metavar="DIR",
    help="Folder to write into; it is made where it is not there.",
)
@click.option("--no-responses", is_flag=True, help="Leave the responses out.")
@click.option("--no-vectors", is_flag=True, help="Leave the vectors out.")
@click.option(
    "--superseded", is_flag=True, help="Also results that a newer one of the same cell has replaced."
)
@click.option("--overwrite", is_flag=True, help="Replace results files that are there.")
def export_command(
    experiment: str,
    *,
    tracking_uri: str,
    output: Path,
    no_responses: bool,
    no_vectors: bool,
    superseded: bool,
    overwrite: bool,
) -> None:
    """Export results as results.jsonl files, with responses, calibrations and vectors, in trait-interp's layout.

    Imported lines come out as they went in. Importing the export changes nothing.

    \b
    Example:
      massact export --experiment experiments/toy.yaml --output exported
    """
    from massact.interop.exporter import Exporter, ExportOptions
    from massact.store.read.database import is_absent

    target = find_target(experiment, held=experiments_in(tracking_uri))
    if is_absent(tracking_uri):
        raise UsageError("there is no run store yet: run `massact main` or pass --tracking-uri")
    options = ExportOptions(
        responses=not no_responses, vectors=not no_vectors, superseded=superseded, overwrite=overwrite
    )
    datasets = {trait.name: trait.dataset for trait in (target.config.traits if target.config else ())}
    report = Exporter(tracking_uri, target.experiment, options, datasets).run(output)
    for file in report.files:
        held = f"{file.n_evaluations} evaluations, {file.n_baselines} baselines, {file.n_responses} with responses"
        other = f"vectors of {file.n_labels} labels" if file.n_labels else "calibration"
        click.echo(f"{file.path}: {held if file.n_evaluations + file.n_baselines else other}")
    for note in report.notes:
        click.echo(f"note: {note}", err=True)
