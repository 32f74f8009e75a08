"""The verdict of `massact predict` as Markdown, and its cases one by one as CSV."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence

from massact.prediction.forms import STRENGTH, TARGETS, WORDS, Target, by_strength
from massact.prediction.leaving_out import GIVEN, WITHIN_FACTOR, Score, Trial
from massact.prediction.verdict import (
    Decision,
    OwnStrengths,
    own_strengths,
    ratio_words,
    resolution,
    scatter_words,
)
from massact.report.page import TOY_BANNER
from massact.report.table import Cell, Table, columns

_HEADINGS: dict[Target, str] = {"best": "The best coefficient", "cliff": "The coherence cliff"}
_WORDS = {**WORDS, GIVEN: "relative strength, as given"}


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
    own = own_strengths(trial.cases)
    verdicts = "\n\n".join(f"**{_HEADINGS[one.target]}.** {one.text}" for one in decisions)
    tables = "\n\n".join(
        f"{_HEADINGS[target]}, {_n_cases(trial)}, each model and trait left out in turn:\n\n"
        f"{_score_table(trial, target).markdown()}"
        for target in TARGETS
    )
    grid = (
        f"At coherence floor {floor:g}. The cliffs were found between coefficients a factor of "
        f"{resolution(trial.cases):.2f} apart (median): nothing predicts them more exactly than that."
    )
    strengths = f"{scatter_words(own)}\n\n{_own_table(own).markdown()}"
    banner = (TOY_BANNER,) if toy else ()
    return "\n\n".join((*banner, verdicts, tables, grid, strengths, *_left_out(left_out)))


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
        found = [*(getattr(outcome, name) for name in names), outcome.cliff, strength]
        expected = [values[index] for values in trial.predicted.values()]
        writer.writerow([f"{v:.6g}" if isinstance(v, float) else v for v in (*found, *expected)])
    return text.getvalue()


def _n_cases(trial: Trial) -> str:
    return f"{len(trial.cases)} vectors of {len(trial.groups)} models and traits"


def _score_table(trial: Trial, target: Target) -> Table:
    headers = (
        "predicted by",
        "#half within",
        "#nine in ten within",
        f"#within x{WITHIN_FACTOR:g}",
        "#error / relative strength's",
    )
    reference = trial.scores[target, STRENGTH]
    rows = tuple(_score_row(one, reference) for (of, _), one in trial.scores.items() if of == target)
    return Table("", columns(*headers), rows)


def _score_row(score: Score, reference: Score) -> tuple[Cell, ...]:
    against = "" if score.form == STRENGTH else ratio_words(score.against(reference))
    figures = (
        f"x{score.median_factor:.2f}",
        f"x{score.high_factor:.2f}",
        f"{score.share_within:.0%}",
        against,
    )
    return (Cell(_WORDS[score.form]), *map(Cell, figures))


def _own_table(own: Sequence[OwnStrengths]) -> Table:
    headers = (
        "model",
        "trait",
        "#vectors",
        "#best at strength",
        "#scatter",
        "#cliff at strength",
        "#scatter",
    )
    rows = tuple(
        (
            *map(Cell, one.group),
            Cell(str(one.n_cases)),
            *(Cell(t) for t in (f"{one.best:.2f}", f"x{one.best_scatter:.2f}")),
            *(Cell(t) for t in (f"{one.cliff:.2f}", f"x{one.cliff_scatter:.2f}")),
        )
        for one in own
    )
    return Table("", columns(*headers), rows)


def _left_out(left_out: Mapping[str, int]) -> list[str]:
    if not left_out:
        return []
    lines = "\n".join(f"- {count}: {reason}" for reason, count in sorted(left_out.items()))
    return [f"Left out, by vector and layer:\n\n{lines}"]
