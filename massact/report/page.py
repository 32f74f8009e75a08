"""The report: every section in its order, as Markdown, as one HTML page that needs nothing else, and as findings."""

import base64
import hashlib
import json
import pickle
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

from massact.addresses import write_whole
from massact.errors import UsageError
from massact.floors import as_floor
from massact.report import style
from massact.report.before_after import before_after_section
from massact.report.checks import Criterion, sanity_checks, success_criteria
from massact.report.coefficients import coefficients_section
from massact.report.costs import costs_section, effects_section
from massact.report.curve import curve_section
from massact.report.evidence import TOY_BANNER, Evidence, Provenance, RunLink, SampleRow, listed
from massact.report.glance import glance_section
from massact.report.heat_maps import heat_section, positions_section
from massact.report.massive import massive_section
from massact.report.published import published_section
from massact.report.results import (
    best_section,
    confirmed_section,
    controls_section,
    gaps_section,
    judge_in_words,
    judges_held,
    provenance_section,
    samples_section,
)
from massact.report.section import Picture, Section, escape_markdown, number, pictures
from massact.report.summary import ShortAnswer, answers_in_short, caveat
from massact.report.trade_off import tradeoff_section
from massact.words import counted

SECTIONS: tuple[Callable[[Evidence], Section | None], ...] = (
    gaps_section,
    tradeoff_section,
    heat_section,
    positions_section,
    before_after_section,
    curve_section,
    published_section,
    coefficients_section,
    controls_section,
    costs_section,
    effects_section,
    massive_section,
    best_section,
    confirmed_section,
    samples_section,
    provenance_section,
)
"""The report's sections in its order; one that gives `None` is left out."""
BEGIN = "<!-- massact findings: begin; written anew by `massact report --findings`, up to the end mark -->"
END = "<!-- massact findings: end -->"
_BEGIN_MARK, _END_MARK = "<!-- massact findings: begin", "<!-- massact findings: end"
_FINDINGS = ("coefficients", "before-after", "curve", "confirmed", "costs", "effects", "published")
"""Sections whose tables and advice are findings."""
_MARKS = {"yes": "[x]", "no": "[ ]", "cannot say": "[ ]"}


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything that a report says, computed and drawn once for every format."""

    evidence: Evidence
    answers: tuple[ShortAnswer, ...]
    criteria: tuple[Criterion, ...]
    sanity: tuple[Criterion, ...]
    glance: Section  # the first screen
    sections: tuple[Section, ...]
    pictures: Mapping[str, tuple[Picture, ...]]  # by the key of their section

    @property
    def name(self) -> str:
        return self.evidence.experiment.name

    @property
    def banner(self) -> str:
        """Empty where no toy is involved."""
        return TOY_BANNER if self.evidence.facts.toy else ""

    @property
    def caveat(self) -> str:
        return caveat(self.evidence)

    @property
    def figures(self) -> dict[str, str]:
        """SVG on white by name; the Markdown report looks for each at `figures/<name>.svg`."""
        return {picture.name: style.on_white(picture.svg) for some in self.pictures.values() for picture in some}

    @cached_property
    def markdown(self) -> str:
        return "\n\n".join(filter(None, _markdown(self))) + "\n"

    @cached_property
    def findings(self) -> str:
        """What a findings document takes of it, as Markdown: answers, advice and tables, without figures."""
        return "\n\n".join(filter(None, _findings(self)))

    @cached_property
    def html(self) -> str:
        return _html(self)

    @property
    def about(self) -> tuple[str, ...]:
        """What was asked, and of whom."""
        evidence, experiment = self.evidence, self.evidence.experiment
        judges = [judge_in_words(*named) for named in judges_held(evidence).items()]
        judged = f"{'Judge' if len(judges) < 2 else 'Judges'}: {listed(judges)}. " if judges else ""
        models = listed([model.name for model in experiment.models], limit=8)
        traits = listed([f"{trait.name} ({trait.direction})" for trait in experiment.traits], limit=8)
        facts = (
            f"Models: {models}. Traits: {traits}. {judged}{as_floor(experiment.coherence_floor).name.capitalize()}. "
            f"{counted(evidence.facts.provenance.n_evaluations, 'evaluation')} in the store; "
            f"written {evidence.facts.generated_at.isoformat(' ', 'minutes')}."
        )
        return tuple(filter(None, (experiment.description.strip(), facts)))


READING = (
    "Delta is the mean trait score minus that of the unsteered model; `+93.1 @ 97` is a delta of +93.1 at a mean "
    "coherence of 97. A result counts only at or above the floor."
)


def build_report(evidence: Evidence, kept: Path | None = None) -> Report:
    """The report. `kept`: the file with the figures of the last one, drawn anew only where they would differ."""
    glance, made = glance_section(evidence), (make(evidence) for make in SECTIONS)
    # what the first screen shows whole is not shown twice
    sections = tuple(
        replace(section, tables=tuple(table for table in section.tables if table not in glance.tables))
        for section in made
        if section
    )
    drawn = _kept(evidence, (glance, *sections), kept) if kept else _drawn((glance, *sections))
    return Report(
        evidence=evidence,
        answers=answers_in_short(evidence),
        criteria=success_criteria(evidence),
        sanity=sanity_checks(evidence),
        glance=glance,
        sections=sections,
        pictures=drawn,
    )


def _kept(evidence: Evidence, sections: Sequence[Section], file: Path) -> dict[str, tuple[Picture, ...]]:
    """The figures that the last report kept in a file, where they show the same; else drawn, and kept for the next."""
    key = drawn_from(evidence)
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        content = json.loads(file.read_bytes())
        if key and content["drawn_from"] == key:
            return {name: tuple(Picture(**picture) for picture in some) for name, some in content["pictures"].items()}
    drawn = _drawn(sections)
    content = {
        "drawn_from": key,
        "pictures": {name: [asdict(picture) for picture in some] for name, some in drawn.items()},
    }
    if key:
        with suppress(OSError, UsageError):  # there may be no room
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, [json.dumps(content).encode()], "")
    return drawn


def drawn_from(evidence: Evidence) -> str | None:
    """Digest of everything that figures show, and of massact's code; `None` where that cannot be told."""
    nothing = Provenance(n_evaluations=0)
    facts = replace(evidence.facts, generated_at=datetime.min, provenance=nothing, run_link=None)
    seen = hashlib.sha256(version("matplotlib").encode())
    with suppress(pickle.PicklingError, AttributeError, TypeError):  # something of somebody else's is in it
        seen.update(pickle.dumps((evidence.experiment, evidence.answers, facts)))
        for file in sorted(Path(__file__).parents[1].rglob("*.py")):
            seen.update(file.read_bytes())
        return seen.hexdigest()
    return None


def _drawn(sections: Iterable[Section]) -> dict[str, tuple[Picture, ...]]:
    drawn: dict[str, tuple[Picture, ...]] = {}
    for section in sections:
        taken = (picture.name for some in drawn.values() for picture in some)
        drawn[section.key] = tuple(pictures(section.figures, taken))
    return drawn


def _markdown(report: Report) -> Iterator[str]:
    yield f"# {escape_markdown(report.name)}"
    yield f"> **{report.banner}**" if report.banner else ""
    yield from map(escape_markdown, (*report.about, READING))
    yield from _glance(report, "##", report.pictures["glance"])
    yield "## Answers in short"
    yield escape_markdown(report.caveat)
    for answer in report.answers:
        yield f"**{answer.question}**"
        yield from (escape_markdown(answer.verdict), bullets(answer.lines))
    yield from ("## Success criteria", _checklist(report.criteria))
    yield from ("## Is the store sane?", _checklist(report.sanity))
    for section in report.sections:
        yield from section_markdown(section, "##", report.pictures[section.key], report.evidence.facts.run_link)
        if section.key == "samples":
            for row in report.evidence.facts.sample_rows:
                yield from _samples(report, row)


def _findings(report: Report) -> Iterator[str]:
    yield f"## Findings: {escape_markdown(report.name)}"
    yield f"> **{report.banner}**" if report.banner else ""
    yield from map(escape_markdown, (report.about[-1], READING))
    yield from _glance(report, "###")
    for answer in report.answers:
        yield from (f"### {answer.question}", escape_markdown(answer.verdict), bullets(answer.lines))
    yield from ("### Success criteria", _checklist(report.criteria))
    for section in report.sections:
        if section.key in _FINDINGS:
            yield from section_markdown(section, "###", run_link=report.evidence.facts.run_link)


def _glance(report: Report, heading: str, drawn: Sequence[Picture] = ()) -> Iterator[str]:
    as_list = replace(report.glance, text=(), bullets=report.glance.text)
    yield from section_markdown(as_list, heading, drawn, report.evidence.facts.run_link)


def section_markdown(
    section: Section, heading: str, drawn: Sequence[Picture] = (), run_link: RunLink | None = None
) -> Iterator[str]:
    """The parts of a section, some of them empty."""
    yield f"{heading} {section.title}"
    yield from map(escape_markdown, section.text)
    yield bullets(section.bullets)
    for picture in drawn:
        alt = re.sub(r"[\[\]\n]", " ", escape_markdown(picture.alt))
        yield from (f"![{alt}]({picture.path})", f"*{escape_markdown(picture.caption)}*")
    for table in section.filled:
        yield f"**{escape_markdown(table.caption)}**"
        yield table.markdown(run_link)


def bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {escape_markdown(line)}" for line in lines)


def _checklist(criteria: Sequence[Criterion]) -> str:
    return "\n".join(
        f"- {_MARKS[line.verdict]} {escape_markdown(line.text)}: **{line.verdict}**. {escape_markdown(line.reason)}"
        for line in criteria
    )


def _samples(report: Report, row: SampleRow) -> Iterator[str]:
    """Samples of one place, one below the other: Markdown has no columns that may hold any text."""
    run_link = report.evidence.facts.run_link
    yield f"### {escape_markdown(row.place)}" if row.place else ""
    for sample in row.samples:
        run = f"[run]({run_link(sample.run_id)})" if run_link else f"run `{sample.run_id}`"
        trait, coherence = (
            "unscored" if value is None else number(value, ".1f") for value in (sample.trait, sample.coherence)
        )
        judge = f", judge {escape_markdown(sample.judge)}" if sample.judge else ""
        yield f"{'####' if row.place else '###'} {escape_markdown(sample.title)}"
        yield f"trait {trait}, coherence {coherence}{judge}; {run}"
        if sample.thinking:
            yield from ("Thought:", _fenced(sample.thinking))
        response = sample.response if sample.is_answered else "(no answer: its thought did not end)"
        yield _fenced(f"{sample.question}\n\n{response}")


def _fenced(text: str) -> str:
    """Text that a model wrote, in a fence longer than any that it holds: nothing of it is Markdown or HTML."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def _html(report: Report) -> str:
    """The whole page. Every text is escaped; only the figures, which are ours, go in as they are. The page's policy
    lets no script run but the one that sorts tables: whatever a model wrote, it stays text."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup, escape

    def inline(text: str) -> Markup:
        """Escaped text, `code` in backticks as such; options and percentages are not broken over two lines."""
        whole = str(escape(text)).replace(" %", "\N{NO-BREAK SPACE}%").replace(" n ", " n\N{NO-BREAK SPACE}")
        safe = re.sub(r"`([^`]+)`", r"<code>\1</code>", whole)
        return Markup(re.sub(r"(?<!\S)(--[a-z][a-z-]*)", r'<span class="whole">\1</span>', safe))  # noqa: S704

    environment = Environment(
        loader=PackageLoader("massact.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["inline"] = inline
    environment.filters["svg"] = lambda picture: Markup(page_svg(picture))  # noqa: S704  # drawn by us
    styles, script = (environment.get_template(f"report.{kind}").render() for kind in ("css", "js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("report.html.j2").render(
        report=report,
        reading=READING,
        facts=report.evidence.facts,
        styles=Markup(styles),  # noqa: S704  # a file of ours
        script=Markup(script),  # noqa: S704  # likewise
        script_digest=f"sha256-{digest}",
    )


def page_svg(picture: Picture) -> str:
    """A figure to stand within the page: it takes the page's text colour, and its ids are its own."""
    from markupsafe import escape

    svg = picture.svg[picture.svg.index("<svg") :].replace(style.INK, "currentColor")
    svg = svg.replace(style.BLUE.lower(), "var(--blue)")  # which is too dark on a dark ground
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # ids are unique in a page, and every figure has a figure_1
    svg = re.sub(r"""(\bid="|url\(#|href="#)""", rf"\g<1>{picture.name}-", svg)
    opening = f'<svg role="img" aria-label="{escape(picture.alt)}"'
    return re.sub(r' width="[^"]+pt" height="[^"]+pt"', "", svg, count=1).replace("<svg", opening, 1)


def read_for_findings(file: Path) -> str:
    """The file as it is, empty where there is none yet: looked at before anything is worked out. Raises UsageError: it
    cannot be read, its folder does not exist, or its marks are not one pair in order."""
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
    """Write the section into the file, whole or not at all."""
    text = with_findings(read_for_findings(file), findings)
    write_whole(file.resolve(), [text.encode()], "Name a file in a folder of yours")  # a link stays one
