"""The verdict of `massact predict` as Markdown, and its cases one by one as CSV."""

import csv
import io
import math
from collections.abc import Iterable, Mapping

from massact.prediction.verdict import (
    STRENGTH,
    TARGETS,
    WITHIN_FACTOR,
    WORDS,
    Decision,
    Target,
    Trial,
    by_strength,
    own_strengths,
    resolution,
    scatter_words,
)
from massact.report.evidence import TOY_BANNER
from massact.report.section import Cell, Table

_HEADINGS: dict[Target, str] = {"best": "The best coefficient", "cliff": "The coherence cliff"}


def prediction_markdown(
    trial: Trial,
    decisions: Iterable[Decision],
    *,
    floor: float,
    left_out: Mapping[str, int],
    toy: bool = False,
) -> str:
    """Verdicts first, then the figures that they rest on, then what was left out.

    Args:
        toy: whether the models are the embedded ones, which the text then says.
    """
    n_cases = f"{len(trial.cases)} vectors of {len(trial.groups)} models and traits"
    parts = [
        *((TOY_BANNER,) if toy else ()),
        *(f"**{_HEADINGS[decision.target]}.** {decision.text}" for decision in decisions),
    ]
    for target in TARGETS:
        parts.append(f"{_HEADINGS[target]}, {n_cases}, each model and trait left out in turn:")
        parts.append(_score_table(trial, target).markdown())
    parts.append(
        f"At coherence floor {floor:g}. The cliffs were found between coefficients a factor of "
        f"{resolution(trial.cases):.2f} apart (median): nothing predicts them more exactly than that."
    )
    parts += [scatter_words(own_strengths(trial.cases)), _strength_table(trial).markdown()]
    if left_out:
        lines = "\n".join(f"- {count}: {reason}" for reason, count in sorted(left_out.items()))
        parts += ["Left out, by vector and layer:", lines]
    return "\n\n".join(parts)


def prediction_csv(trial: Trial) -> str:
    """Every vector: what was found, and what each form expected of it without its model and trait."""
    text = io.StringIO()
    names = ("setting", "model", "trait", "position", "label", "layer", "best", "low", "high")
    forms = [f"{target}:{form}" for target, form in trial.predicted]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*names, "cliff", "relative_strength_best", *forms])
    for index, case in enumerate(trial.cases):
        outcome = case.outcome
        strength = outcome.best / math.exp(by_strength(case.facts))
        measured = [*(getattr(outcome, name) for name in names), outcome.cliff, strength]
        expected = [values[index] for values in trial.predicted.values()]
        writer.writerow([f"{v:.6g}" if isinstance(v, float) else v for v in (*measured, *expected)])
    return text.getvalue()


def _score_table(trial: Trial, target: Target) -> Table:
    within = f"#within x{WITHIN_FACTOR:g}"
    headers = ("predicted by", "#half within", "#nine in ten within", within, "#error / relative strength's")
    reference = trial.scores[target, STRENGTH]
    rows = []
    for form, words in WORDS.items():
        score = trial.scores[target, form]
        factors = f"x{score.median_factor:.2f}", f"x{score.high_factor:.2f}", f"{score.share_within:.0%}"
        rows.append((words, *factors, Cell("" if form == STRENGTH else str(score.against(reference)))))
    return Table.of("", headers, rows)


def _strength_table(trial: Trial) -> Table:
    headers = (
        "model",
        "trait",
        "#vectors",
        "#best at strength",
        "#scatter",
        "#cliff at strength",
        "#scatter",
    )
    rows = [
        (
            *strengths.group,
            str(strengths.n_cases),
            f"{strengths.best:.2f}",
            f"x{strengths.best_scatter:.2f}",
            f"{strengths.cliff:.2f}",
            f"x{strengths.cliff_scatter:.2f}",
        )
        for strengths in own_strengths(trial.cases)
    ]
    return Table.of("", headers, rows)
