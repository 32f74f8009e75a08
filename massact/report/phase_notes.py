"""What the run of a phase shows: its tables as Markdown for the run's note, its verdicts for tags, its figures."""

import statistics
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from massact.config import Experiment
from massact.query import Answers
from massact.query.questions.coefficients import CoefficientRatio
from massact.report import style
from massact.report.before_after import before_after_section, comparison_verdict, comparisons
from massact.report.checks import Criterion, success_criteria, top2_shape
from massact.report.coefficients import coefficients_section, current_ratios, spreads
from massact.report.curve import curve_section
from massact.report.evidence import Evidence, place_of
from massact.report.page import section_markdown
from massact.report.results import confirmed_section, confirmed_verdicts, controls_section, gaps_section
from massact.report.section import Figure, Section, escape_markdown, named_drawings
from massact.report.summary import (
    ShortAnswer,
    before_or_after,
    caveat,
    drop_off,
    leads,
    limited,
    predictable,
    which_label,
    wrapped,
)
from massact.report.trade_off import against_coefficient
from massact.words import counted

PhaseName = Literal["phase1", "phase2", "phase3", "phase4"]
NOTE_LIMIT = 7500  # characters of a phase's note: MLflow cuts a tag at 8,000 without a word
VERDICT_LIMIT = 250


@dataclass(frozen=True, slots=True)
class _Phase:
    """What answers a phase's question: sections of the report."""

    title: str
    sections: tuple[Callable[[Evidence], Section], ...]
    verdicts: Callable[[Evidence], Mapping[str, str]]  # in a few words each, by the name of a tag
    answer: Callable[[Evidence], ShortAnswer]  # in a sentence, with what it rests on


def phase_markdown(phase: PhaseName, whole: Evidence) -> str:
    """The tables that answer a phase's question, in at most `NOTE_LIMIT` characters."""
    criterion, part = _criterion(phase, whole), _part(phase, whole)
    head = (
        f"## {_PHASES[phase].title}",
        f"{criterion.text}: **{criterion.verdict}**. {escape_markdown(criterion.reason)}.",
        caveat(whole),
    )
    return _fitted("\n\n".join(head), [make(part) for make in _PHASES[phase].sections], whole)


def phase_verdicts(phase: PhaseName, whole: Evidence) -> dict[str, str]:
    """The phase's answers in a few words each, for the tags of its run."""
    part = _part(phase, whole)
    verdicts = {
        "criterion": _criterion(phase, whole).verdict,
        "gaps": f"{part.n_gaps} of {len(part.answers.groups)} remain",
        **_PHASES[phase].verdicts(part),
    }
    return {name: text[:VERDICT_LIMIT] for name, text in verdicts.items() if text}


def phase_brief(phase: PhaseName, whole: Evidence) -> str:
    """What a phase found, for a screen of a terminal."""
    criterion, part = _criterion(phase, whole), _part(phase, whole)
    answer = _PHASES[phase].answer(part)
    lines = {"phase1": list(leads(part)), "phase4": part.coefficients().recommendations}.get(phase, answer.lines)
    check = criterion.verdict + ("" if criterion.ok else f", {criterion.reason}")
    done = [
        f"{criterion.text}: {check}",
        f"{part.n_gaps} of {counted(len(part.answers.groups), 'group')} without a result.",
    ]
    return wrapped([_PHASES[phase].title, *done, answer.verdict, *limited(lines, "-v")])


def phase_figures(phase: PhaseName, whole: Evidence) -> dict[str, bytes]:
    """The figures of a phase's question as PNG by name; nothing where there is nothing to draw."""
    part = _part(phase, whole)
    figures: list[Figure] = [figure for make in _PHASES[phase].sections for figure in make(part).figures]
    if phase == "phase1":
        figures = against_coefficient(part)
    return {name: style.save_png(drawn) for name, _, drawn in named_drawings(figures)}


def confirm_markdown(experiment: Experiment, answers: Answers) -> str:
    """What was confirmed on other questions, in at most `NOTE_LIMIT` characters."""
    evidence = Evidence.of(experiment, answers)
    section = confirmed_section(evidence)
    return _fitted("## Confirm: winners on other questions", [section] if section else [], evidence)


def confirm_verdicts(experiment: Experiment, answers: Answers) -> dict[str, str]:
    """The same in a few words each, for the tags of a run."""
    return confirmed_verdicts(Evidence.of(experiment, answers))


def _criterion(phase: PhaseName, whole: Evidence) -> Criterion:
    return success_criteria(whole)[int(phase.removeprefix("phase")) - 1]


def _part(phase: PhaseName, whole: Evidence) -> Evidence:
    return whole if phase == "phase4" else whole.of_phase(phase)


def _comparisons(part: Evidence) -> dict[str, str]:
    lines = defaultdict(list)
    for row in comparisons(part):
        lines[row.label_a].append(f"{part.name(place_of(row))}: {comparison_verdict(row)}")
    return {label: "; ".join(some) for label, some in lines.items()}


def _top2(part: Evidence) -> dict[str, str]:
    return {
        f"{method}_top2": "; ".join(
            f"{part.name(place)}: {top2_shape(part, place, method) or 'cannot say'}" for place in part.places()
        )
        for method in ("mean_diff", "probe")
    }


def _patterns(part: Evidence) -> dict[str, str]:
    ratios, shifts = current_ratios(part)
    strengths = [f"{spread.name} {spread.strength:.2f}" for spread in spreads(part) if spread.strength is not None]
    return {
        "ratio_mean_diff_to_probe": _medians(part, ratios) or "cannot say",
        "shift_from_cleaning": _medians(part, shifts) or "cannot say",
        "relative_strength": "; ".join(strengths) or "cannot say",
    }


def _medians(part: Evidence, rows: Sequence[CoefficientRatio]) -> str:
    """Per model, trait and method the median factor, and the spread over places."""
    values = defaultdict(list)
    for row in rows:
        values[f"{row.model}{part.of_trait(row.trait)} {row.label}"].append(row.ratio)
    return "; ".join(
        f"{name} {statistics.median(some):.2f} ({min(some):.2f} to {max(some):.2f}, {counted(len(some), 'place')})"
        for name, some in values.items()
    )


_PHASES: dict[PhaseName, _Phase] = {
    "phase1": _Phase("Phase 1: key comparisons at the coherence floor", (gaps_section,), lambda _: {}, which_label),
    "phase2": _Phase(
        "Phase 2: clean-before against clean-after", (before_after_section, gaps_section), _comparisons, before_or_after
    ),
    "phase3": _Phase("Phase 3: cleaning curve", (curve_section, controls_section, gaps_section), _top2, drop_off),
    "phase4": _Phase("Phase 4: coefficient patterns", (coefficients_section,), _patterns, predictable),
}


def _fitted(head: str, sections: Sequence[Section], whole: Evidence) -> str:
    """All of it; where that is too long its last lines go, and the text says how many."""
    parts = (part for section in sections for part in section_markdown(section, "###"))
    lines = "\n\n".join(filter(None, (head, *parts))).split("\n")
    if len(text := "\n".join(lines)) <= NOTE_LIMIT:
        return text
    rest = f"left out, which did not fit; {whole.command('report')} shows all.*"
    room = NOTE_LIMIT - len(f"\n\n*{counted(len(lines), 'line')} {rest}")
    n = bisect_right(list(accumulate(len(line) + 1 for line in lines)), room)
    if n == 0:
        return text[: NOTE_LIMIT - 1] + "\N{HORIZONTAL ELLIPSIS}"
    return "\n".join(lines[:n]).rstrip() + f"\n\n*{counted(len(lines) - n, 'line')} {rest}"
