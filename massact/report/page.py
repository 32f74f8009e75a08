"""The report as a whole."""

import base64
import hashlib
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from massact.errors import UsageError
from massact.report.checks import Criterion, sanity_checks, success_criteria
from massact.report.evidence import Evidence, ReportInput, SampleRow, counted, listed
from massact.report.figure_style import BLUE, INK
from massact.report.pictures import Picture, report_pictures
from massact.report.sections import report_sections
from massact.report.summary import ShortAnswer, answers_in_short, caveat
from massact.report.table import Section, escape_markdown, number

# The whole report before it is Markdown or HTML.

TOY_BANNER = (
    "Toy models: tiny models whose massive dims were planted. They show and test the tool; these numbers "
    "say nothing about Gemma or any other real model."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """Everything that a report says, computed once for every format."""

    given: ReportInput
    banner: str
    """Empty where no toy is involved."""
    about: tuple[str, ...]
    caveat: str
    answers: tuple[ShortAnswer, ...]
    criteria: tuple[Criterion, ...]
    sanity: tuple[Criterion, ...]
    sections: tuple[Section, ...]
    pictures: tuple[Picture, ...]


def make_document(given: ReportInput) -> Document:
    """Compute and draw everything."""
    evidence = Evidence.of(given.experiment, given.answers, given.same_vector_cosines)
    return Document(
        given=given,
        banner=TOY_BANNER if given.toy else "",
        about=_about(given, evidence),
        caveat=caveat(evidence),
        answers=answers_in_short(evidence),
        criteria=success_criteria(evidence),
        sanity=sanity_checks(evidence, given.baselines),
        sections=_sections(given, evidence),
        pictures=report_pictures(given, evidence),
    )


def _about(given: ReportInput, evidence: Evidence) -> tuple[str, ...]:
    experiment = given.experiment
    judges = sorted({s.sample.judge for s in evidence.strata.values() if s.sample is not None})
    judged = f"{'Judge' if len(judges) < 2 else 'Judges'}: {listed(judges)}. " if judges else ""
    models = listed([model.name for model in experiment.models], limit=8)
    traits = listed([f"{trait.name} ({trait.direction})" for trait in experiment.traits], limit=8)
    facts = (
        f"Models: {models}. Traits: {traits}. {judged}Coherence floor: {experiment.coherence_floor:g}. "
        f"{counted(given.provenance.n_evaluations, 'evaluation')} in the store; "
        f"written {given.generated_at.isoformat(' ', 'minutes')}."
    )
    reading = (
        "Delta is the mean trait score minus that of the unsteered model; `+93.1 @ 97` is a delta of +93.1 at "
        "a mean coherence of 97. A result counts only at or above the floor."
    )
    return tuple(text for text in (experiment.description.strip(), facts, reading) if text)


def _sections(given: ReportInput, evidence: Evidence) -> tuple[Section, ...]:
    *results, provenance = report_sections(given, evidence)
    text = () if given.samples else ("No responses were kept, or none were handed to the report.",)
    return (*results, Section("samples", "Responses", text), provenance)


# The report as one HTML page that needs nothing else: no network, figures within, one script that sorts tables.


def render_html(document: Document) -> str:
    """The whole page. Every text is escaped; only the figures, which are ours, go in as they are."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup, escape

    def inline(text: str) -> Markup:
        """Escaped text, `code` in backticks as such; options and percentages are not broken over two lines."""
        safe = re.sub(
            r"`([^`]+)`",
            r"<code>\1</code>",
            str(escape(text)).replace(" %", "\N{NO-BREAK SPACE}%").replace(" n ", " n\N{NO-BREAK SPACE}"),
        )
        return Markup(re.sub(r"(?<!\S)(--[a-z][a-z-]*)", r'<span class="whole">\1</span>', safe))  # noqa: S704

    environment = Environment(
        loader=PackageLoader("massact.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["inline"] = inline
    figures: Mapping[str, Markup] = {
        picture.name: Markup(page_svg(picture))  # noqa: S704  # drawn by us, its texts escaped by matplotlib
        for picture in document.pictures
    }
    styles, script = (environment.get_template(f"report.{kind}").render() for kind in ("css", "js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("report.html.j2").render(
        document=document,
        given=document.given,
        figures=figures,
        styles=Markup(styles),  # noqa: S704  # a file of ours
        script=Markup(script),  # noqa: S704  # likewise
        script_digest=f"sha256-{digest}",
    )


def page_svg(picture: Picture) -> str:
    """A figure to stand within the page: it takes the page's text colour, and its ids are its own."""
    from markupsafe import escape

    svg = picture.svg[picture.svg.index("<svg") :].replace(INK, "currentColor")
    svg = svg.replace(BLUE.lower(), "var(--blue)")  # which is too dark on a dark ground
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # ids are unique in a page, and every figure has a figure_1
    for pattern in (r'(\bid=")', r"(url\(#)", r'(href="#)'):
        svg = re.sub(pattern, rf"\g<1>{picture.name}-", svg)
    opening = f'<svg role="img" aria-label="{escape(picture.alt)}"'
    return re.sub(r' width="[^"]+pt" height="[^"]+pt"', "", svg, count=1).replace("<svg", opening, 1)


# The report as Markdown, with its figures beside it.

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


# The plan's findings document: a marked section of a file that people write, the rest of it left alone.

BEGIN = "<!-- massact findings: begin; written anew by `massact report --findings`, up to the end mark -->"
END = "<!-- massact findings: end -->"
_BEGIN_MARK, _END_MARK = "<!-- massact findings: begin", "<!-- massact findings: end"
_SECTIONS = ("coefficients", "before-after", "curve", "confirmed", "published")
"""Sections of the report whose tables and advice are findings."""


def render_findings(document: Document) -> str:
    """The section's text: answers, recommendations and the tables they rest on, without figures."""
    given = document.given
    parts = [f"## Findings: {escape_markdown(given.experiment.name)}"]
    if document.banner:
        parts.append(f"> **{document.banner}**")
    facts = document.about[-2:]
    parts += [escape_markdown(text) for text in (*facts, document.caveat)]
    for answer in document.answers:
        parts += [f"### {answer.question}", escape_markdown(answer.verdict)]
        parts.append("\n".join(f"- {escape_markdown(line)}" for line in answer.lines))
    parts += ["### Success criteria", checklist(document.criteria)]
    for section in document.sections:
        if section.key not in _SECTIONS:
            continue
        parts += [f"### {section.title}", *map(escape_markdown, section.text)]
        if section.bullets:
            parts.append("\n".join(f"- {escape_markdown(line)}" for line in section.bullets))
        for table in section.tables:
            parts += [f"**{escape_markdown(table.caption)}**", table.markdown(given.run_link)]
    return "\n\n".join(part for part in parts if part)


def read_for_findings(file: Path) -> str:
    """The file as it is, empty where there is none yet: looked at before anything is worked out.

    Raises:
        UsageError: it cannot be read, its folder does not exist, or its marks are not one pair in order.
    """
    try:
        text = file.read_bytes().decode() if file.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {file} as UTF-8 text: {error}. Name another file") from error
    if not file.parent.is_dir():
        raise UsageError(f"cannot write {file}: its folder does not exist. Make it, or name another file")
    begins, ends = text.count(_BEGIN_MARK), text.count(_END_MARK)
    if (begins, ends) not in ((0, 0), (1, 1)) or text.find(_END_MARK) < text.find(_BEGIN_MARK):
        raise UsageError(
            f"{file}: the marks of the findings section are not one pair in order ({begins} begin, {ends} end): "
            "nothing was written. Leave one of each, or take both out to have the section added at the end"
        )
    return text


def with_findings(text: str, findings: str) -> str:
    """A text with its marked section replaced; without marks the section is added at the end."""
    section = f"{BEGIN}\n\n{findings.strip()}\n\n{END}"
    if _BEGIN_MARK not in text:
        return f"{text.rstrip()}\n\n{section}\n" if text.strip() else f"{section}\n"
    before, _, rest = text.partition(_BEGIN_MARK)
    _, _, after = rest.partition(_END_MARK)
    return f"{before}{section}{after.partition('-->')[2]}"


def write_findings(file: Path, findings: str) -> None:
    """Write the section into the file, whole or not at all.

    Raises:
        UsageError: the file cannot be written, or its marks are not in order.
    """
    text = with_findings(read_for_findings(file), findings)
    target = file.resolve()  # a link stays one
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as out:
            out.write(text)
        Path(name).chmod(target.stat().st_mode & 0o7777 if target.exists() else 0o644)
        Path(name).replace(target)
    except OSError as error:
        raise UsageError(
            f"cannot write {file}: {error.strerror}. Name a file in a folder of yours"
        ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The report in each of its forms."""

    markdown: str
    html: str
    """One page that needs nothing else."""
    findings: str
    """What a findings document takes of it, as Markdown."""
    figures: Mapping[str, bytes]
    """PNG by name; the Markdown report looks for each at `figures/<name>.png`."""
    criteria: tuple[Criterion, ...]
    """The plan's success criteria."""
    sanity: tuple[Criterion, ...]
    """Checks of the store itself."""
    answers: tuple[ShortAnswer, ...]
    """The answers in short."""


def build_report(given: ReportInput) -> Report:
    """Everything that a report says, as Markdown, as a page and as figures."""
    document = make_document(given)
    return Report(
        markdown=render_markdown(document),
        html=render_html(document),
        findings=render_findings(document),
        figures={picture.name: picture.png for picture in document.pictures},
        criteria=document.criteria,
        sanity=document.sanity,
        answers=document.answers,
    )
