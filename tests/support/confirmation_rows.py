"""Evaluations with scores by question, and their confirmations on other questions."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from massact.query.answers import Confirmed
from massact.query.stats.paired import QuestionScores
from massact.store.read.base import Stored
from massact.store.schema import EvaluationRow, Kind, Scores
from tests.support.store_fixtures import evaluated, evaluation_row, stored

BASE = (10.0, 12.0, 11.0, 9.0, 13.0, 11.0)
"""Trait scores of the baseline on the questions that choose."""
CONFIRM_BASE = (20.0, 22.0, 18.0, 20.0)
"""The same on those that confirm."""
Scored = tuple[Stored[EvaluationRow], Scores]


def chosen(
    label: str, coefficient: float, gains: Sequence[float], *, coherence: float = 80.0, **changes: Any
) -> Scored:
    """An evaluation on the questions that choose, with a gain over the baseline for each."""
    trait = tuple(base + gain for base, gain in zip(BASE, gains, strict=True))
    fields = {
        "baseline_trait_mean": fmean(BASE),
        "trait_mean": fmean(trait),
        "delta": fmean(trait) - fmean(BASE),
        "coherence_mean": coherence,
        "n_scored": len(BASE),
        "confirm_share": 0.4,
    }
    one = evaluated(label, 15, coefficient, **{**fields, **changes})
    return one, Scores(trait, (coherence,) * len(BASE))


def confirmed(
    source: Scored,
    gains: Sequence[float | None],
    *,
    coherence: float = 80.0,
    setting: str = "other questions",
    finished_at: int = 2000,
    **changes: Any,
) -> Scored:
    """The same cell on the questions that confirm; `None` where a response was not scored."""
    trait = tuple(None if gain is None else base + gain for base, gain in zip(CONFIRM_BASE, gains, strict=True))
    known = [score for score in trait if score is not None]
    row = source[0].row
    fields = {
        "kind": Kind.CONFIRMATION,
        "key": f"{setting}: {row.key}",
        "setting": setting,
        "question_set": "q2",
        "baseline_key": "confirmed baseline",
        "baseline_trait_mean": fmean(CONFIRM_BASE),
        "trait_mean": fmean(known) if known else None,
        "delta": fmean(known) - fmean(CONFIRM_BASE) if known else None,
        "coherence_mean": coherence if known else None,
        "n_scored": len(known),
        "confirms": row.key,
    }
    one = stored(replace(row, **{**fields, **changes}), finished_at=finished_at)
    return one, Scores(trait, tuple(None if score is None else coherence for score in trait))


def rows_of(found: Sequence[Scored]) -> list[Stored[EvaluationRow]]:
    return [one for one, _ in found]


def scores_of(found: Sequence[Scored]) -> QuestionScores:
    by_run = {one.run_id: scores for one, scores in found}
    return QuestionScores(by_run, {"baseline": Scores(BASE, (90.0,) * len(BASE))})


def confirmed_baseline() -> Scored:
    steering = ("position", "label", "method", "cleaning", "scope", "n_dims", "layer", "coefficient")
    nothing = dict.fromkeys((*steering, "vector_digest", "baseline_key", "baseline_trait_mean", "delta"))
    fields = {"kind": Kind.CONFIRMATION, "key": "confirmed baseline", "trait_mean": fmean(CONFIRM_BASE)}
    row = replace(evaluation_row(), **{**nothing, **fields, "confirms": "baseline"})  # type: ignore[arg-type]
    return stored(row), Scores(CONFIRM_BASE, (90.0,) * len(CONFIRM_BASE))


def all_confirmed(*cells: Scored) -> Confirmed:
    """Confirmations with the baseline on the same questions."""
    found = [confirmed_baseline(), *cells]
    rows, scores = rows_of(found), {one.run_id: scores for one, scores in found}
    baselines = {one.row.key: one for one in rows if one.row.layer is None}
    return Confirmed(tuple(one for one in rows if one.row.layer is not None), baselines, scores)
