"""The report's sections, once for Markdown, HTML and the notes of the phases' runs."""

from massact.domain import LEAST_EFFECT
from massact.query import GapRow
from massact.query.groups import setting_notes, slices
from massact.query.questions.gaps import ask_gaps
from massact.query.same_vector import taken_over_note
from massact.report.coefficient_tables import (
    massive_tables,
    ratio_table,
    shift_table,
    spread_table,
    uniform_line,
)
from massact.report.comparisons import before_after_table, curve_tables
from massact.report.confirmed import confirmed_table, confirmed_text, find_confirmations, place_lines
from massact.report.evidence import Evidence, ReportInput, counted, place_of
from massact.report.heat_maps import heat_text
from massact.report.positions import window_tables, windows
from massact.report.provenance import provenance_section
from massact.report.published import published_section
from massact.report.result_tables import baseline_table, best_tables, gap_matrices, random_table
from massact.report.table import Section, Table, cells, columns, number
from massact.report.vectors import cosine_text_lines, energy_lines, energy_tables


def gaps_section(evidence: Evidence) -> Section:
    """What every group of the matrix has, and what to try where it has nothing."""
    answer = ask_gaps.of(evidence.answers, evidence.floor)
    remaining = n_gaps(evidence)
    groups = len(evidence.answers.groups)
    at = f"at coherence {evidence.floor:g} or more"
    text = f"{remaining} of {counted(groups, 'declared group')} remain without a result {at}."
    if groups and not remaining:
        text = f"Every one of the {counted(groups, 'declared group')} has a result {at}."
    rows = [row for row in answer.remaining if evidence.is_current(row)]
    tables = (*gap_matrices(evidence), _next_table(rows)) if groups else ()
    notes = setting_notes(slices(evidence.answers.evaluations))
    bests = (evidence.best(place_of(group), group.label) for group in evidence.answers.groups)
    taken = taken_over_note([best for best in bests if best], "best", "bests")
    return Section("gaps", "Results by group", (text, *notes, *taken), _filled(tables))


def n_gaps(evidence: Evidence) -> int:
    """Declared groups without a best in the setting that their place is answered in."""
    return sum(evidence.best(place_of(group), group.label) is None for group in evidence.answers.groups)


def _next_table(rows: list[GapRow]) -> Table:
    found = []
    for row in rows:
        place = f"{row.model}, {row.position}"
        for bracket in row.brackets:
            tries = ", ".join(f"{value:g}" for value in bracket.try_next) or bracket.reason
            found.append(
                cells(
                    place,
                    row.label,
                    str(bracket.layer),
                    number(bracket.low, "g"),
                    number(bracket.high, "g"),
                    tries,
                )
            )
        if row.status == "failed":
            error = (row.error or "no error text was kept").partition("\n")[0][:120]
            found.append(cells(place, row.label, None, None, None, f"failed: {error}"))
    headers = ("place", "label", "#layer", "#largest coherent", "#smallest below floor", "try next")
    return Table("Gaps that remain, and what to try next", columns(*headers), tuple(found))


def before_after_section(evidence: Evidence) -> Section:
    """Phase 2's question."""
    text = (
        "Zeroing dims is linear: for mean_diff, before and after give the same direction, so a difference "
        "between the two would be noise and is not shown. A probe's weights depend on what it was trained on."
    )
    table = before_after_table(evidence)
    empty = () if table.rows else ("No clean-before label is declared or was evaluated.",)
    return Section("before-after", "Clean-before against clean-after", (text, *empty), _filled((table,)))


def curve_section(evidence: Evidence) -> Section:
    """Phase 3's question."""
    tables = curve_tables(evidence)
    text = (
        "Best delta at or above the floor against the number of cleaned dims. Each step has its own best "
        "layer and coefficient."
        if tables
        else "Nothing was evaluated that makes a curve.",
    )
    return Section("curve", "Cleaning curve", text, tables)


def coefficient_section(evidence: Evidence) -> Section:
    """Phase 4's question."""
    answer = evidence.coefficients()
    text = (
        "Relative strength is coefficient × ‖v without massive dims‖ / mean ‖h without massive dims‖. How "
        "well it predicts the best coefficient is measured below on the groups with an effect (a delta of "
        f"{LEAST_EFFECT:g} or more) whose best does not lie at the end of its grid: the nearer a factor is to 1, the "
        "better one value would serve all groups.",
    )
    tables = (ratio_table(evidence), shift_table(evidence), spread_table(evidence))
    advice = answer.recommendations or ("cannot say: nothing was evaluated",)
    return Section("coefficients", "Coefficient patterns", text, _filled(tables), advice)


def controls_section(evidence: Evidence, baselines: Table | None = None) -> Section:
    """What a real effect is measured against."""
    table = random_table(evidence)
    filled = _filled((table,) if baselines is None else (baselines, table))
    text = () if filled else ("Neither a baseline nor a random direction was evaluated.",)
    return Section("controls", "Baselines and random directions", text, filled)


def massive_section(given: ReportInput, evidence: Evidence) -> Section:
    """What the calibrations found, and where the vectors lie."""
    models = [model.name for model in given.experiment.models]
    lines = tuple(uniform_line(model, given.calibrations.get(model)) for model in models)
    planted = ("These dims were planted when the toys were made, not discovered.",) if given.toy else ()
    text = (*planted, *energy_lines(given.vectors), *cosine_text_lines(given.cosines))
    text = text if given.vectors else planted
    tables = (*massive_tables(given.calibrations, models), *energy_tables(evidence, given.vectors))
    return Section("massive", "Massive dims", text, tables, lines)


def confirmed_section(evidence: Evidence) -> Section | None:
    """Winners on other questions; `None` where none are kept for that and nothing was confirmed."""
    found = find_confirmations(evidence)
    if not found.is_split and not found.rows:
        return None
    text = confirmed_text(evidence, found)
    if not found.done:
        return Section("confirmed", "Confirmed on other questions", text)
    tables = (confirmed_table(evidence, found.rows),)
    lines = tuple(place_lines(evidence, found.places))
    return Section("confirmed", "Confirmed on other questions", text, tables, lines)


_BEST_TEXT = (
    "The interval holds the true delta in 95 of 100 experiments; it allows for the best having been picked among many "
    "noisy evaluations. A label is tied where it cannot be told from the winner of its place.",
)


def report_sections(given: ReportInput, evidence: Evidence) -> tuple[Section, ...]:
    """All sections but the responses."""
    baselines = baseline_table(evidence, given.baselines)
    confirmed, published = confirmed_section(evidence), published_section(evidence, given.published)
    return (
        gaps_section(evidence),
        Section("tradeoff", "Trade-off between trait and coherence", (_tradeoff_text(evidence),)),
        Section("heat-maps", "Layer and coefficient", heat_text(evidence)),
        Section("positions", "Position windows", window_text(evidence), window_tables(evidence)),
        before_after_section(evidence),
        curve_section(evidence),
        *(() if published is None else (published,)),
        coefficient_section(evidence),
        controls_section(evidence, baselines),
        massive_section(given, evidence),
        Section("best", "Best of every group", _BEST_TEXT, _filled(best_tables(evidence))),
        *(() if confirmed is None else (confirmed,)),
        provenance_section(given, evidence),
    )


def window_text(evidence: Evidence) -> tuple[str, ...]:
    """How the windows are read."""
    if not windows(evidence):
        return ("No label was evaluated at two position windows.",)
    return (
        "Vectors of one label from another window of tokens. Each has its own best layer and coefficient; bars are "
        "95 % intervals that allow for the best having been picked.",
    )


def _tradeoff_text(evidence: Evidence) -> str:
    if not evidence.strata:
        return "Nothing was evaluated."
    return (
        "Delta against coherence along the coefficient, then both against the coefficient. Each label is drawn at the "
        f"layer of its best, or of its nearest miss. Hollow points lie below the floor of {evidence.floor:g} and do "
        "not count."
    )


def _filled(tables: tuple[Table, ...]) -> tuple[Table, ...]:
    return tuple(table for table in tables if table.rows)
