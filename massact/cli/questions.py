"""The commands that answer questions from the run store: they read, and never run a model."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import click

from massact._gc import collector_paused
from massact.api import ENTRIES, question
from massact.cli.options import (
    asked_experiment,
    asked_experiments_option,
    option_of,
    split_names,
    stacked,
    tracking_uri_option,
)
from massact.errors import UsageError
from massact.floors import as_floor
from massact.names import shown as shown_name
from massact.names import visible
from massact.query import Answer
from massact.query.question import ABOUT_FLOOR, FILTERS, Question
from massact.query.rows import Column, flatten, printed, text_table, to_json, to_mapping, with_differences

# answers as text; missing is empty or null, never 0

Format = Literal["table", "json", "csv", "markdown", "latex"]
FORMATS = ("table", "json", "csv", "markdown", "latex")
Rows = Sequence[tuple[Answer[Any], Any]]  # rows, each with the answer that it is of


def render(answer: Answer[Any], output_format: Format, *others: Answer[Any], columns: Sequence[str] = ()) -> str:
    """An answer as text, ending in a line break; with `others`, the same question's about other experiments, as one.
    `columns`: those of tables and CSV, by header or by field; empty: each format's own."""
    answers = (answer, *others)
    if output_format == "json":
        if columns:
            raise UsageError("--columns chooses among what tables and CSV show; JSON holds every field: leave it out")
        return to_json(*answers)
    if output_format == "csv":
        return _csv([(answer, row) for answer in answers for row in answer.rows], columns)
    draw = {"table": text_table, "markdown": _markdown, "latex": _latex}[output_format]
    parts = [draw(*table) for table in _tables(answers, columns)]
    mark = "% " if output_format == "latex" else "- "
    parts.append("".join(f"{mark}{line}\n" for answer in answers for line in answer.lines()))
    return "\n".join(part for part in parts if part)


def _tables(answers: Sequence[Answer[Any]], wanted: Sequence[str]) -> list[tuple[Sequence[Column], Sequence[object]]]:
    """Every table of the answers, each over all of them, with the columns that are wanted."""
    parts: dict[object, tuple[Sequence[Column], list[tuple[Answer[Any], Any]]]] = {}
    for answer in answers:
        for index, table in enumerate(answer.tables()):
            if table.rows:
                kind = type(table.rows[0]) if len(answers) > 1 else index
                parts.setdefault(kind, (table.columns, []))[1].extend((answer, row) for row in table.rows)
    tables: list[tuple[Sequence[Column], Sequence[object]]] = []
    unknown, headers = set(wanted) if parts else set[str](), dict[str, None]()
    for base, told in parts.values():
        pairs, columns = told, base
        if len(answers) > 1:  # which settings differ in depends on the experiment
            names = dict.fromkeys(name for _, row in told for name in getattr(row, "differs", ()))
            pairs = [(answer, replace(row, differs={**names, **row.differs}) if names else row) for answer, row in told]
            columns = with_differences(tuple(base), [row for _, row in pairs])
        about = (_about(pairs, "experiment"), _about(pairs, "floor"))
        shown: Sequence[Column] = (about[0], *columns) if len(answers) > 1 else columns
        headers |= dict.fromkeys(column.header for column in (*about, *columns))
        if wanted:
            known = {**_fields(pairs), **{_plain(column.header): column for column in (*columns, *about)}}
            taken = [known[_plain(name)] for name in wanted if _plain(name) in known]
            shown = [replace(column, is_optional=False, is_shared=False) for column in taken]
            unknown -= {name for name in wanted if _plain(name) in known}
        if shown:
            tables.append((shown, [row for _, row in pairs]))
    if unknown:
        wrong = ", ".join(map(shown_name, sorted(unknown)))
        raise UsageError(f"no column {wrong}; there is {', '.join(headers)}, and every field that --format csv has")
    return tables


def _about(pairs: Rows, name: str) -> Column:
    """What is asked about, of each row."""
    values = {id(row): getattr(answer, name) for answer, row in pairs}
    return Column(name, lambda row: _text(values[id(row)]), is_shared=True)


def _fields(pairs: Rows) -> dict[str, Column]:
    """A column for each field of the rows."""
    flat = {id(row): flatten(row) for _, row in pairs}
    return {
        _plain(name): Column(
            name,
            lambda row, name=name: _text(flat[id(row)].get(name)),  # type: ignore[misc]
            is_number=any(isinstance(fields.get(name), float) for fields in flat.values()),
        )
        for name in dict.fromkeys(name for fields in flat.values() for name in fields)
    }


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", " ").replace("-", " ")


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else str(_csv_value(value))


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


def _csv(pairs: Rows, wanted: Sequence[str]) -> str:
    """Every field of the rows, and of which experiment and at which floor they are."""
    told = [(answer.experiment, as_floor(answer.floor).limit, row) for answer, row in pairs]
    rows = [{"experiment": experiment, "floor": limit, **flatten(row)} for experiment, limit, row in told]
    names = {_plain(name): name for row in rows for name in row}
    if rows and (unknown := [name for name in wanted if _plain(name) not in names]):
        there = ", ".join(names.values())
        raise UsageError(f"no field {', '.join(map(shown_name, unknown))}; CSV has {there}")
    text = io.StringIO()
    if rows:
        fields = [names[_plain(name)] for name in wanted] or list(names.values())
        writer = csv.DictWriter(text, fieldnames=fields, lineterminator="\n", extrasaction="ignore")
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


_TEX = str.maketrans(
    {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {character: f"\\{character}" for character in "&%$#_{}"}
)


def _latex(columns: Sequence[Column], rows: Sequence[object]) -> str:
    """A tabular for the package booktabs; what all rows share stands above it as a comment."""
    found = printed(columns, rows)
    head, *body = (
        " & ".join(text.translate(_TEX) for text in cells) + r" \\"
        for cells in ([column.header for column in found.columns], *found.cells)
    )
    sides = "".join("r" if column.is_number else "l" for column in found.columns)
    shared = ", ".join(f"{header} {value}" for header, value in found.shared.items())
    lines = [rf"\begin{{tabular}}{{{sides}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"]
    return "\n".join([f"% {shared}", *lines] if shared else lines) + "\n"


OUTPUT_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option(
        "--format", "output_format", type=click.Choice(FORMATS), default="table",
        help="How the answer is written; latex: tabulars for the package booktabs.",
    ),
    click.option(
        "--columns", callback=split_names, metavar="NAMES",
        help="Columns of tables and CSV, with commas between them: headers, or fields as CSV and JSON name them.",
    ),
    click.option(
        "--output", type=click.Path(dir_okay=False, path_type=Path), help="File to write instead of standard output."
    ),
)  # fmt: skip


OUTPUT = ("output_format", "columns", "output")
"""Names of `OUTPUT_OPTIONS`."""


def print_answers(
    *answers: Answer[Any], output_format: Format, columns: Sequence[str] = (), output: Path | None = None
) -> None:
    """Print answers of one question as one, or write them into a file. Raises UsageError: it cannot be written."""
    write(render(answers[0], output_format, *answers[1:], columns=columns), output)


def command(name: str) -> click.Command:
    """The command of a question."""
    posed = question(name)
    # questions that are asked by a flag of this one's command, by the flag
    begin, others = f"{posed.command} --", map(question, ENTRIES) if posed.command == "compare" else ()
    flags = {other.command.removeprefix(begin): other for other in others if other.command.startswith(begin)}

    @click.pass_context
    def run(ctx: click.Context, /, **options: Any) -> None:
        asked = _asked_by_flag(posed, flags, options)
        with collector_paused():  # a question loads SQLAlchemy and answers; the process ends with it
            _answer(ctx, asked, options)

    options = stacked(
        asked_experiments_option,
        tracking_uri_option,
        *(option_of(parameter) for parameter in (*FILTERS, *ABOUT_FLOOR, *posed.shared)),
        *OUTPUT_OPTIONS,
        *(option_of(parameter, posed.default(parameter)) for parameter in posed.own),
        *(click.option(f"--{flag}", is_flag=True, help=f"{other.summary}.") for flag, other in flags.items()),
    )
    texts = [posed.help, *(f"With --{flag}: {other.help}" for flag, other in flags.items())]
    return click.command(posed.command, help="\n\n".join(texts).replace("\\b", "\b"))(options(run))


def _asked_by_flag(
    posed: Question[..., Any], flags: dict[str, Question[..., Any]], options: dict[str, Any]
) -> Question[..., Any]:
    """The question that is asked; its flag is taken out of the options."""
    wanted = [flag for flag in flags if options.pop(flag)]
    for flag in wanted:
        told = [(parameter, options.get(parameter.key)) for parameter in posed.own]
        written = ((parameter, value) for parameter, value in told if value not in (None, ()))
        given = [
            parameter.name
            for parameter, value in written
            if parameter.is_repeated or parameter.write(value) != posed.default(parameter)
        ]
        if given:
            raise UsageError(f"--{flag} is another question than --{given[0]}: ask for one of the two")
    return flags[wanted[0]] if wanted else posed


def _answer(ctx: click.Context, posed: Question[..., Any], options: dict[str, Any]) -> None:
    if posed.traits.no_floor and any(options[parameter.key] is not None for parameter in ABOUT_FLOOR):
        raise UsageError(posed.traits.no_floor)
    about, own = posed.split({name: value for name, value in options.items() if value not in (None, ())})
    names: tuple[str | None, ...] = tuple(dict.fromkeys(options["experiment"])) or (None,)
    asked = [asked_experiment(name, options["tracking_uri"]) for name in names]
    # a file and a name may stand for one experiment
    answers = [*{(one := posed.ask(experiment, about, own)).experiment: one for experiment in asked}.values()]
    for answer in answers:
        click.echo(f"experiment {visible(answer.experiment)}, store {answer.store}", err=True)
    print_answers(*answers, **{name: options[name] for name in OUTPUT})
    verdicts = [_say(answer, f"{visible(answer.experiment)}: " if len(answers) > 1 else "") for answer in answers]
    if not all(verdicts):
        ctx.exit(1)


def _say(answer: Answer[Any], whose: str) -> bool:
    """Say on stderr what has to be said about an answer. Returns False for a question that is answered with no."""
    for note in answer.notes:
        click.echo(f"note: {whose}{visible(note)}", err=True)
    is_yes, words = answer.verdict() or (True, "")
    if words:
        click.echo(f"{whose}{words}", err=True)
    return is_yes
