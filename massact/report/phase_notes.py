"""What the run of a phase shows: its tables as Markdown for the run's note, its verdicts for tags."""

import hashlib
import re
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from massact.config import Experiment
from massact.query import Answers, CoefficientRatio
from massact.report.checks import Criterion, success_criteria, top2_shape
from massact.report.coefficient_tables import current_ratios, spreads
from massact.report.comparisons import before_after_figure, comparison_verdict, comparisons, curve_figure
from massact.report.confirmed import find_confirmations, mean_shrinkages
from massact.report.evidence import Evidence, counted, place_of
from massact.report.figure_style import fixed, save_png
from massact.report.limits import MOST_FIGURES, MOST_PANELS, key_places
from massact.report.sections import (
    before_after_section,
    coefficient_section,
    confirmed_section,
    controls_section,
    curve_section,
    gaps_section,
    n_gaps,
)
from massact.report.summary import caveat
from massact.report.table import Section, escape_markdown
from massact.report.trade_off import strength_figure, tradeoff_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


PhaseName = Literal["phase1", "phase2", "phase3", "phase4"]
NOTE_LIMIT = 7500
"""Characters of a phase's note: MLflow cuts a tag at 8,000 without a word."""
VERDICT_LIMIT = 250

_TITLES: dict[PhaseName, str] = {
    "phase1": "Phase 1: key comparisons at the coherence floor",
    "phase2": "Phase 2: clean-before against clean-after",
    "phase3": "Phase 3: cleaning curve",
    "phase4": "Phase 4: coefficient patterns",
}


def phase_markdown(
    phase: PhaseName,
    experiment: Experiment,
    answers: Answers,
    cosines: Mapping[tuple[str, str], float] | None = None,
) -> str:
    """The tables that answer a phase's question, in at most `NOTE_LIMIT` characters.

    What does not fit is cut by whole rows, and the text says how many.
    """
    whole = Evidence.of(experiment, answers, cosines)
    criterion = _criterion(phase, whole)
    head = [
        f"## {_TITLES[phase]}",
        f"{criterion.text}: **{criterion.verdict}**. {escape_markdown(criterion.reason)}.",
        caveat(whole),
    ]
    blocks = [_Block("\n\n".join(head))]
    for section in _sections(phase, whole):
        blocks += _blocks(section)
    return _fitted(blocks, f"{whole.command('report')} shows all")


def confirm_markdown(experiment: Experiment, answers: Answers) -> str:
    """What was confirmed on other questions, in at most `NOTE_LIMIT` characters."""
    evidence = Evidence.of(experiment, answers)
    section = confirmed_section(evidence)
    blocks = [] if section is None else _blocks(section)
    return _fitted(
        [_Block("## Confirm: winners on other questions"), *blocks], f"{evidence.command('report')} shows all"
    )


def confirm_verdicts(experiment: Experiment, answers: Answers) -> dict[str, str]:
    """The same in a few words each, for the tags of a run."""
    found = find_confirmations(Evidence.of(experiment, answers))
    if not found.done:
        return {}
    known = [place.wins_again for place in found.places if place.wins_again is not None]
    return {
        "winners": f"{sum(known)} of {len(known)} win again",
        "mean_shrinkage": mean_shrinkages(found.done),
    }


def phase_verdicts(
    phase: PhaseName,
    experiment: Experiment,
    answers: Answers,
    cosines: Mapping[tuple[str, str], float] | None = None,
) -> dict[str, str]:
    """The phase's answers in a few words each, for the tags of its run."""
    whole = Evidence.of(experiment, answers, cosines)
    part = whole if phase == "phase4" else whole.of_phase(phase)
    verdicts = {
        "criterion": _criterion(phase, whole).verdict,
        "gaps": f"{n_gaps(part)} of {len(part.answers.groups)} remain",
    }
    own = {"phase2": _comparisons, "phase3": _top2, "phase4": _patterns}
    if phase in own:
        verdicts |= own[phase](part)
    return {name: text[:VERDICT_LIMIT] for name, text in verdicts.items() if text}


def _criterion(phase: PhaseName, whole: Evidence) -> Criterion:
    return success_criteria(whole)[int(phase.removeprefix("phase")) - 1]


def _sections(phase: PhaseName, whole: Evidence) -> list[Section]:
    if phase == "phase4":
        return [coefficient_section(whole)]
    part = whole.of_phase(phase)
    if phase == "phase1":
        return [gaps_section(part)]
    if phase == "phase2":
        return [before_after_section(part), gaps_section(part)]
    return [curve_section(part), controls_section(part), gaps_section(part)]


def _comparisons(part: Evidence) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    for row in comparisons(part):
        place = part.name(place_of(row))
        found.setdefault(row.label_a, []).append(f"{place}: {comparison_verdict(row)}")
    return {label: "; ".join(lines) for label, lines in found.items()}


def _top2(part: Evidence) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    for place in part.places():
        for method in ("mean_diff", "probe"):
            shape = top2_shape(part, place, method) or "cannot say"
            found.setdefault(f"{method}_top2", []).append(f"{part.name(place)}: {shape}")
    return {name: "; ".join(lines) for name, lines in found.items()}


def _patterns(part: Evidence) -> dict[str, str]:
    ratios, shifts = current_ratios(part)
    strengths = [f"{one.model} {one.strength:.2f}" for one in spreads(part) if one.strength is not None]
    return {
        "ratio_mean_diff_to_probe": _by_model(ratios) or "cannot say",
        "shift_from_cleaning": _by_model(shifts) or "cannot say",
        "relative_strength": "; ".join(strengths) or "cannot say",
    }


def _by_model(rows: Sequence[CoefficientRatio]) -> str:
    """Per model and method the median factor, and the spread over places."""
    values: dict[str, list[float]] = {}
    for row in rows:
        values.setdefault(f"{row.model} {row.label}", []).append(row.ratio)
    return "; ".join(
        f"{name} {statistics.median(some):.2f} ({min(some):.2f} to {max(some):.2f}, {counted(len(some), 'place')})"
        for name, some in values.items()
    )


@dataclass(slots=True)
class _Block:
    """A heading (text, or a table's head) and the lines below it that may be cut."""

    head: str
    lines: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "\n".join([self.head, *self.lines])


def _blocks(section: Section) -> list[_Block]:
    text = [f"### {section.title}", *map(escape_markdown, section.text)]
    found = [_Block("\n\n".join(text))]
    for table in section.tables:
        lines = table.markdown().split("\n")
        head = [f"**{escape_markdown(table.caption)}**", "", *lines[:2]]
        found.append(_Block("\n".join(head), lines[2:]))
    if section.bullets:
        found.append(_Block("", [f"- {escape_markdown(line)}" for line in section.bullets]))
    return found


def _fitted(blocks: list[_Block], remedy: str) -> str:
    """The blocks joined; while too long, the last row of the longest goes, then the last block."""
    n_cut = 0
    while True:
        note = f"\n\n*{n_cut} rows did not fit and are left out; {remedy}.*" if n_cut else ""
        text = "\n\n".join(block.text.strip("\n") for block in blocks) + note
        if len(text) <= NOTE_LIMIT:
            return text
        longest = max(blocks, key=lambda block: sum(map(len, block.lines)))
        if longest.lines:
            longest.lines.pop()
            n_cut += 1
        elif len(blocks) > 1:
            blocks.pop()
            n_cut += 1
        else:
            return text[: NOTE_LIMIT - 1] + "\N{HORIZONTAL ELLIPSIS}"


# The figures that the run of a phase shows: those of its own question, as PNG.

_LONGEST = 120  # characters of a figure's file name


def phase_figures(
    phase: PhaseName,
    experiment: Experiment,
    answers: Answers,
    cosines: Mapping[tuple[str, str], float] | None = None,
) -> dict[str, bytes]:
    """PNG by name; nothing where there is nothing to draw.

    Args:
        answers: with all that the phase's tables are made from.
        cosines: of vectors by their digests, as `Evidence.of` takes them.
    """
    whole = Evidence.of(experiment, answers, cosines)
    evidence = whole if phase == "phase4" else whole.of_phase(phase)
    made: dict[str, bytes] = {}
    for name, draw in _figures(phase, evidence):
        figure = draw()
        if figure is not None:
            made[safe_name(name, made)] = save_png(fixed(figure))
    return made


def _figures(phase: PhaseName, evidence: Evidence) -> "Iterator[tuple[str, Callable[[], Figure | None]]]":
    if phase == "phase1":
        for place in key_places(evidence, evidence.strata, MOST_FIGURES):
            name = f"tradeoff-{place.model}-{place.trait}-{place.position}"
            yield name, lambda place=place: tradeoff_figure(evidence, place)  # type: ignore[misc]
    if phase == "phase2":
        yield "before-after", lambda: before_after_figure(evidence, MOST_PANELS)
    if phase == "phase3":
        yield "cleaning-curve", lambda: curve_figure(evidence, most=MOST_PANELS)
    if phase == "phase4":
        yield "relative-strength", lambda: strength_figure(evidence)


def safe_name(name: str, taken: Iterable[str] = ()) -> str:
    """A figure's name as that of a file, and of an id in a page; none of those that are taken, whatever their case."""
    text = re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.")
    if text and len(text) <= _LONGEST and text.lower() not in {other.lower() for other in taken}:
        return text
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{text[:_LONGEST]}-{digest}" if text else digest
