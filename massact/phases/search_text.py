"""What a search came to, in words: the best of each label, and why the others have none."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from massact.domain import SearchMode
from massact.phases.search import Ending
from massact.phases.sweeping import Tally

Endings = Sequence[tuple[str, str, Ending]]
"""Model, trait and how a ladder ended."""


def search_text(endings: Endings, tally: Tally, mode: SearchMode, n_gaps: int) -> str:
    """All of it: the table, the reasons, the count and the gaps that the experiment is left with."""
    how = "the declared grid first, then a search" if mode == "scan" else "a search, no grid"
    parts = [result_table(endings)] if endings else ["Nothing to search: no gap among what is asked for."]
    reasons = reason_lines(endings)
    if reasons:
        parts.append("\n".join(f"- {line}" for line in reasons))
    gaps = "no gap remains" if not n_gaps else f"{n_gaps} gaps remain in the experiment: see massact gaps"
    parts.append(f"Mode {mode} ({how}): {tally}; {gaps}.")
    return "\n\n".join(parts)


def result_table(endings: Endings) -> str:
    """The best of each label over its layers, and what the search spent on it."""
    lines = [
        "| model | trait | position | label | layer | coefficient | delta | coherence | evaluations |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for (model, trait, position, label), own in _groups(endings).items():
        spent = sum(one.spent for one in own)
        best = max(own, key=lambda one: -1.0 if one.gain is None else one.gain)
        figures = " | | | |"
        if best.coefficient is not None and best.delta is not None and best.coherence is not None:
            figures = f" {best.key.layer} | {best.coefficient:g} | {best.delta:.1f} | {best.coherence:.1f} |"
        lines.append(f"| {model} | {trait} | {position} | {label} |{figures} {spent} |")
    return "\n".join(lines)


def reason_lines(endings: Endings) -> list[str]:
    """Why groups have no coherent result, or one that does nothing: a line for each, layer by layer."""
    lines = []
    for (model, trait, position, label), own in _groups(endings).items():
        if any(one.is_of_use for one in own):
            continue
        is_open = all(one.coefficient is None for one in own)
        by_reason: dict[str, dict[int, None]] = defaultdict(dict)
        for one in own:
            by_reason[one.reason][one.key.layer] = None
        reasons = "; ".join(f"layer {_list(layers)}: {reason}" for reason, layers in by_reason.items())
        what = "no coherent result" if is_open else "coherent, but of little use"
        lines.append(f"{model}, {trait}, {position}, {label}: {what}. {reasons[0].upper()}{reasons[1:]}")
    return lines


def _groups(endings: Endings) -> dict[tuple[str, str, str, str], list[Ending]]:
    groups: dict[tuple[str, str, str, str], list[Ending]] = defaultdict(list)
    for model, trait, one in endings:
        groups[model, trait, one.key.position, one.key.label].append(one)
    return groups


def _list(layers: Iterable[int]) -> str:
    return ", ".join(str(layer) for layer in layers)
