"""The report as Markdown, with its figures beside it."""

import re
from collections.abc import Sequence

from massact.report.contents import ReportInput
from massact.report.criteria import Criterion
from massact.report.document import Document
from massact.report.facts import SampleRow
from massact.report.section import Section
from massact.report.table import escape_markdown, number

_MARKS = {"yes": "[x]", "no": "[ ]", "cannot say": "[ ]"}


def render_markdown(document: Document) -> str:
    """The whole report."""
    given = document.given
    parts = [f"# {escape_markdown(given.experiment.name)}"]
    if document.banner:
        parts.append(f"> **{document.banner}**")
    parts += map(escape_markdown, document.about)
    parts.append("## Answers in short")
    parts.append(escape_markdown(document.caveat))
    for answer in document.answers:
        parts += [f"**{answer.question}**", escape_markdown(answer.verdict)]
        parts.append("\n".join(f"- {escape_markdown(line)}" for line in answer.lines))
    parts += ["## Success criteria", checklist(document.criteria)]
    parts += ["## Is the store sane?", checklist(document.sanity)]
    for section in document.sections:
        parts += _section(document, section)
    return "\n\n".join(part for part in parts if part) + "\n"


def checklist(criteria: Sequence[Criterion]) -> str:
    """Criteria as a list with boxes, each with its verdict and the reason."""
    return "\n".join(
        f"- {_MARKS[one.verdict]} {escape_markdown(one.text)}: **{one.verdict}**. {escape_markdown(one.reason)}"
        for one in criteria
    )


def _section(document: Document, section: Section) -> list[str]:
    given = document.given
    parts = [f"## {section.title}", *map(escape_markdown, section.text)]
    if section.bullets:
        parts.append("\n".join(f"- {escape_markdown(line)}" for line in section.bullets))
    for picture in document.pictures:
        if picture.section == section.key:
            parts += [f"![{_alt(picture.alt)}]({picture.path})", f"*{escape_markdown(picture.caption)}*"]
    for table in section.tables:
        parts += [f"**{escape_markdown(table.caption)}**", table.markdown(given.run_link)]
    if section.key == "samples":
        parts += [part for row in given.sample_rows for part in _samples(given, row)]
    return parts


def _samples(given: ReportInput, row: SampleRow) -> list[str]:
    """Samples of one place, one below the other: Markdown has no columns that may hold any text."""
    parts = [f"### {escape_markdown(row.place)}"] if row.place else []
    for sample in row.samples:
        run = sample.run_id
        shown = f"[run]({given.run_link(run)})" if given.run_link else f"run `{run}`"
        judge = f", judge {escape_markdown(sample.judge)}" if sample.judge else ""
        scores = f"trait {_score(sample.trait)}, coherence {_score(sample.coherence)}{judge}"
        parts += [
            f"{'####' if row.place else '###'} {escape_markdown(sample.title)}",
            f"{scores}; {shown}",
            fenced(f"{sample.question}\n\n{sample.response}"),
        ]
    return parts


def _score(value: float | None) -> str:
    return "unscored" if value is None else number(value, ".1f")


def fenced(text: str) -> str:
    """Text that a model wrote, in a fence longer than any that it holds: nothing of it is Markdown or HTML."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def _alt(text: str) -> str:
    return re.sub(r"[\[\]\n]", " ", escape_markdown(text))
