"""`massact import` and `export`: results as files of trait-interp's layout, and published figures; `init`: to begin."""

import json
import shlex
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from massact.cli.options import experiments_in, table_or_json_option, tracking_uri_option
from massact.cli.questions import write
from massact.cli.session import show_bar
from massact.config import load_experiment
from massact.data.new import new_files, write_new
from massact.errors import UsageError
from massact.names import as_held, check_name
from massact.query.load import named_file
from massact.words import counted

if TYPE_CHECKING:
    from massact.interop.names import Target
    from massact.interop.writing import ImportReport


target_option = click.option(
    "--experiment",
    "experiment",
    required=True,
    envvar="MASSACT_EXPERIMENT",
    metavar="FILE_OR_NAME",
    help="Experiment file, its bare name under experiments/ or here, or the name of an experiment without a file.",
)
"""It has no default here: results of others do not belong into the toys' experiment."""


@click.command(name="import")
@click.argument("path", type=click.Path(path_type=Path))
@target_option
@tracking_uri_option
@click.option("--model", help="Name to store the model under; default: the experiment file's, else the header's.")
@click.option("--trait", help="Name to store the trait under; default: the experiment file's, else the path's.")
@click.option(
    "--published",
    is_flag=True,
    help="PATH is a CSV file of published figures; they are kept apart from what was measured.",
)
@click.option("--dry-run", is_flag=True, help="Read and report, and write nothing.")
@click.option(
    "--refusals",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="File for all refused lines, one JSON object a line.",
)
@table_or_json_option("How the report is written.")
@click.pass_context
def import_command(
    ctx: click.Context, /, path: Path, experiment: str, tracking_uri: str, *, model: str | None, trait: str | None,
    published: bool, dry_run: bool, refusals: Path | None, output_format: str,
) -> None:  # fmt: skip
    """Import old results: a results.jsonl file, or a folder such as trait-interp's experiments/.

    What is there already is passed over, so the same command can be run again: after an interruption, or
    when the files have grown. Exits with 1 if a line was refused.

    \b
    Examples:
      massact import old/experiments/massive-activations --experiment experiments/massive-activations.yaml
      massact import --published figures.csv --experiment experiments/massive-activations.yaml
    """
    if published and (model or trait):
        raise UsageError("--model and --trait rename imported results; published figures stay as printed")
    if path.suffix.lower() == ".csv" and not published:
        raise UsageError(f"{path} is a CSV file: published figures are imported with --published")
    target = find_target(experiment, model=model, trait=trait)
    report = _import(path, target, tracking_uri, published=published, dry_run=dry_run)
    if refusals is not None:
        write("".join(f"{json.dumps(refusal)}\n" for refusal in report.refusals), refusals)
    if output_format == "json":
        click.echo(json.dumps(report.to_document(dry_run=dry_run), indent=2))
    else:
        _print_table(report, dry_run=dry_run)
    if report.totals.refused:
        ctx.exit(1)


def find_target(
    experiment: str, *, model: str | None = None, trait: str | None = None, held: Sequence[str] = ()
) -> "Target":
    """What `--experiment` names: a file, or an experiment without one. `held` are the experiments of a store that is
    only read; the name of one of them may be any. Raises UsageError: no such file, or a name that it does not
    declare."""
    from massact.interop.names import Target

    if not experiment.strip():
        raise UsageError("--experiment is empty: give an experiment file or a name")
    file = named_file(experiment)
    if file is None:
        named = (None if name is None else check_name(name) for name in (model, trait))
        name = as_held(experiment, held)
        return Target(name if name in held else check_name(name, "experiment"), None, *named)
    config = load_experiment(file)
    if model is not None:
        config.model(model)
    if trait is not None:
        config.trait(trait)
    return Target(as_held(config.name, held), config, model, trait)


def _import(path: Path, target: "Target", tracking_uri: str, *, published: bool, dry_run: bool) -> "ImportReport":
    """Import into the store; a file of published figures that cannot be read does not make one."""
    from massact.interop.figures import read_published
    from massact.interop.importer import import_into
    from massact.interop.names import find_sources

    sources = [] if published else find_sources(path)
    what = read_published(path, target.experiment) if published else sources
    n_bytes = sum(source.path.stat().st_size for source in sources if source.path.is_file())
    with show_bar("bytes imported", n_bytes) as advance:
        options: Any = {"on_bytes": advance, "say": partial(click.echo, err=True)}
        return import_into(tracking_uri, target, what, path=path, dry_run=dry_run, **options)


def _print_table(report: "ImportReport", *, dry_run: bool) -> None:
    counts = [(file.path, file.counts.to_document()) for file in report.files]
    if len(counts) != 1:
        counts.append(("all lines", report.totals.to_document()))
    width = max(len("file"), *(len(path) for path, _ in counts))
    names = report.totals.to_document().keys()
    shown = [name.replace("_", " ") for name in names]
    click.echo("  ".join([f"{'file':<{width}}", *shown]))
    for path, of_file in counts:
        columns = (f"{of_file[name]:>{len(name)}}" for name in names)
        click.echo("  ".join([f"{path:<{width}}", *columns]))
    click.echo()
    done = "would be imported" if dry_run else "imported"
    click.echo(f"{counted(report.totals.imported, 'result')} {done} into the experiment {report.experiment!r}")
    for line in _remarks(report):
        click.echo(line, err=True)


def _remarks(report: "ImportReport") -> Iterator[str]:
    """Refusals and notes, the first ones of each file and how many there are."""
    from massact.interop.writing import SHOWN_PER_FILE

    yield from (f"note: {note}" for note in report.notes)
    for file in report.files:
        yield from (f"note: {file.path}: {note}" for note in file.notes[:SHOWN_PER_FILE])
        if len(file.notes) > SHOWN_PER_FILE:
            yield f"note: {file.path}: {counted(len(file.notes) - SHOWN_PER_FILE, 'more note')}"
        for refusal in file.refusals[:SHOWN_PER_FILE]:
            yield f"refused: {refusal.file}:{refusal.line}: {refusal.reason}"
        left = len(file.refusals) - SHOWN_PER_FILE
        if left > 0:
            yield f"refused: {file.path}: {counted(left, 'more line')} (all of them: --refusals FILE or --format json)"
    if report.totals.refused:
        yield f"{counted(report.totals.refused, 'line')} refused"


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
@click.option("--superseded", is_flag=True, help="Also results that a newer one of the same cell has replaced.")
@click.option("--overwrite", is_flag=True, help="Replace results files that are there.")
def export_command(
    experiment: str, tracking_uri: str, output: Path, *, no_responses: bool, no_vectors: bool, **told: bool
) -> None:
    """Export results as results.jsonl files, with responses, calibrations and vectors, in trait-interp's layout.

    Imported lines come out as they went in. Importing the export changes nothing.

    \b
    Example:
      massact export --experiment experiments/toy.yaml --output exported
    """
    from massact.interop.exporter import Exporter, ExportOptions
    from massact.store.databases import is_absent

    target = find_target(experiment, held=experiments_in(tracking_uri))
    if is_absent(tracking_uri):
        raise UsageError("there is no run store yet: run `massact main` or pass --tracking-uri")
    options = ExportOptions(responses=not no_responses, vectors=not no_vectors, **told)
    datasets = {trait.name: trait.dataset for trait in (target.config.traits if target.config else ())}
    report = Exporter(tracking_uri, target.experiment, options, datasets).run(output)
    for file, held in report.files.items():
        click.echo(f"{file}: {held}")
    for note in report.notes:
        click.echo(f"note: {note}", err=True)


@click.command()
@click.argument("name", default="my-study")
@click.option(
    "--trait",
    "traits",
    multiple=True,
    metavar="NAME",
    help="Begin a folder traits/NAME with two example lines in each file (repeatable).",
)
@click.option(
    "--model",
    default="HuggingFaceTB/SmolLM2-135M-Instruct",
    help="Hub id, folder or GGUF file of the model that is steered.",
)
def init(name: str, traits: tuple[str, ...], model: str) -> None:
    """Write an experiment file NAME.yaml to begin with, commented, and folders for traits. Nothing is overwritten.

    \b
    Example:
      massact init my-study --trait kindness --model ./my-model
    """
    made = new_files(name, traits, model)
    write_new(made)
    for path in made:
        click.echo(f"wrote {path}")
    file = next(iter(made))
    begun = "replace the example lines of each trait, then: " if traits else "name your traits' folders, then: "
    click.echo(f"{begun}massact main --experiment {shlex.quote(str(file))} --dry-run", err=True)
