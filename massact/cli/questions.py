"""The commands that answer questions from the run store: they read, and never run a model."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import click

from massact._gc import collector_paused
from massact.api import ENTRIES, question
from massact.cli.options import asked_experiment, asked_experiment_option, option_of, stacked, tracking_uri_option
from massact.errors import UsageError
from massact.names import visible
from massact.query import Answer
from massact.query.question import ABOUT_FLOOR, FILTERS, Parameter, Question
from massact.query.rows import Column, flatten, text_table, to_json, to_mapping

# answers as text; missing is empty or null, never 0

Format = Literal["table", "json", "csv", "markdown"]
FORMATS = ("table", "json", "csv", "markdown")


def render(answer: Answer[Any], output_format: Format) -> str:
    """An answer as text, ending in a line break."""
    if output_format == "json":
        return to_json(answer)
    if output_format == "csv":
        return _csv(answer)
    return answer.text(text_table if output_format == "table" else _markdown)


def write(text: str, output: Path | None) -> None:
    """Print to standard output, or write a file. Raises UsageError: the file cannot be written."""
    # half of a character, in a store that others wrote, shows as an escape
    text = text.encode("utf-8", "backslashreplace").decode()
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {output}: {error.strerror}. Name a file in a folder that exists") from error


def _csv(answer: Answer[Any]) -> str:
    rows = [flatten(row) for row in answer.rows]
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _csv_value(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def _csv_value(value: object) -> object:
    if isinstance(value, bool):
        return "true" if value else "false"
    # lists (brackets, warnings) stay readable by programs
    return json.dumps(to_mapping(value), allow_nan=False) if isinstance(value, tuple) else value


def _markdown(columns: Sequence[Column], rows: Sequence[object]) -> str:
    if not rows:
        return ""
    lines = [[column.header for column in columns]]
    lines.append(["---:" if column.is_number else "---" for column in columns])
    lines += [[visible(column.text(row)).replace("|", "\\|") for column in columns] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


OUTPUT_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option(
        "--format", "output_format", type=click.Choice(FORMATS), default="table", help="How the answer is written."
    ),
    click.option(
        "--output", type=click.Path(dir_okay=False, path_type=Path), help="File to write instead of standard output."
    ),
)


def command(name: str) -> click.Command:
    """The command of a question."""
    posed = question(name)
    flags = _flags_of(posed.command)

    @click.pass_context
    def run(ctx: click.Context, /, **options: Any) -> None:
        asked = _asked_by_flag(posed, flags, options)
        with collector_paused():  # a question loads SQLAlchemy and answers; the process ends with it
            _answer(ctx, asked, options)

    options = stacked(
        asked_experiment_option,
        tracking_uri_option,
        *(option_of(one) for one in (*FILTERS, *ABOUT_FLOOR, *posed.shared)),
        *OUTPUT_OPTIONS,
        *(option_of(one, posed.default(one)) for one in posed.own),
        *(click.option(f"--{flag}", is_flag=True, help=f"{one.summary}.") for flag, one in flags.items()),
    )
    texts = [posed.help, *(f"With --{flag}: {one.help}" for flag, one in flags.items())]
    return click.command(posed.command, help="\n\n".join(texts).replace("\\b", "\b"))(options(run))


def _flags_of(command_name: str) -> dict[str, Question[..., Any]]:
    """Questions that are asked by a flag of another's command, by the flag."""
    begin = f"{command_name} --"
    others = [question(name) for name in ENTRIES] if command_name == "compare" else []
    return {one.command.removeprefix(begin): one for one in others if one.command.startswith(begin)}


def _asked_by_flag(
    posed: Question[..., Any], flags: dict[str, Question[..., Any]], options: dict[str, Any]
) -> Question[..., Any]:
    """The question that is asked; its flag is taken out of the options."""
    wanted = [flag for flag in flags if options.pop(flag)]
    for flag in wanted:
        given = [one.name for one in posed.own if not _is_default(posed, one, options.get(one.key))]
        if given:
            raise UsageError(f"--{flag} is another question than --{given[0]}: ask for one of the two")
    return flags[wanted[0]] if wanted else posed


def _is_default(posed: Question[..., Any], parameter: Parameter, value: Any) -> bool:
    return value in (None, ()) or (not parameter.is_repeated and parameter.write(value) == posed.default(parameter))


def _answer(ctx: click.Context, posed: Question[..., Any], options: dict[str, Any]) -> None:
    if posed.traits.no_floor and any(options[one.key] is not None for one in ABOUT_FLOOR):
        raise UsageError(posed.traits.no_floor)
    about, own = posed.split({name: value for name, value in options.items() if value not in (None, ())})
    experiment = asked_experiment(options["experiment"], options["tracking_uri"])
    answer = posed.ask(experiment, about, own)
    show(answer, options["output_format"], options["output"])
    verdict = answer.verdict()
    if verdict is not None:
        is_yes, words = verdict
        click.echo(words, err=True)
        if not is_yes:
            ctx.exit(1)


def show(answer: Answer[Any], output_format: Format, output: Path | None) -> None:
    """Print an answer, and say on stderr what has to be said about it."""
    click.echo(f"experiment {visible(answer.experiment)}, store {answer.store}", err=True)
    write(render(answer, output_format), output)
    for note in answer.notes:
        click.echo(f"note: {visible(note)}", err=True)
