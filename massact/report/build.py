"""The report as a whole."""

from collections.abc import Mapping
from dataclasses import dataclass

from massact.report.contents import ReportInput
from massact.report.criteria import Criterion
from massact.report.document import make_document
from massact.report.findings import render_findings
from massact.report.html import render_html
from massact.report.markdown import render_markdown
from massact.report.summary import ShortAnswer


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
