"""Where short texts break: the scale of every ladder before any of its cells is judged.

All ladders are probed side by side: the steered model begins its answers to a few questions, and the unsteered model
reads how likely they are (`massact.judges.unsteered`). Halving finds the relative strength at which they cease to be
coherent. The experiment's judge is asked nothing and nothing is stored. Short texts break later than long ones, at all
ladders alike; by how much a search learns from its first evaluations.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from massact.config import JudgeConfig
from massact.domain import Coefficients
from massact.evaluation import Evaluation, Part, PlannedCell
from massact.labels import format_label
from massact.prediction.prior import Expectation, RelativeStrengthPrior, VectorFacts
from massact.sweep.planner import GridRequest
from massact.sweep.search.ladders import LadderKey

if TYPE_CHECKING:
    from massact.sweep.context import Session
    from massact.sweep.driver import Evaluator

QUESTIONS, TOKENS = 3, 16
"""Questions that a probe answers, and tokens of each answer."""
LEAST, GREATEST, HALVINGS = 0.1, 3.2, 5
"""Relative strengths between which texts are expected to break, and how often that interval is halved: to 11 %."""
_PRIOR = RelativeStrengthPrior()
"""What share of the cliff the best is expected at, and how far ladders scatter."""


def probe_cliffs(
    session: "Session", evaluator: "Evaluator", requests: Iterable[GridRequest], facts: Mapping[LadderKey, VectorFacts]
) -> dict[LadderKey, Expectation]:
    """What to expect of each ladder, by where its short texts break.

    Args:
        requests: positions, recipes and layers of the ladders.
        facts: of each ladder's vector. Those that lie in massive dims alone are left out of the answer, and so are
            ladders whose texts could not be generated or read: nothing is known of them.

    Raises:
        JudgeError: the unsteered model cannot read texts.
    """
    recipes = {(one.position, format_label(one.recipe)): one for one in requests}
    subject, questions = evaluator.subject, evaluator.planner.questions.questions[:QUESTIONS]
    judge = session.judges.of(subject.trait, subject.model, config=JudgeConfig("perplexity"))
    model = session.models.get(subject.model, subject.model.instruct)
    between = {key: (LEAST, GREATEST) for key, one in facts.items() if one.unit_strength > 0}

    def requested(key: LadderKey, strength: float) -> GridRequest:
        coefficient = key.sign * strength / facts[key].unit_strength
        request = recipes[key.position, key.label]
        return replace(request, layers=(key.layer,), coefficients=Coefficients((coefficient,)))

    from massact.sweep.executors.local import evaluate_cells

    for _ in range(HALVINGS):
        middles = {key: math.sqrt(low * high) for key, (low, high) in between.items()}
        cells = evaluator.planner.cells(requested(*each) for each in middles.items())
        for result in evaluate_cells(model, [_shortened(one) for one in cells.values()], Part(questions), judge):
            key = _key(result.planned)
            coherence = _coherence(result) if isinstance(result, Evaluation) else None
            low, high = between.pop(key)
            if coherence is not None:
                is_coherent = coherence >= session.experiment.coherence_floor
                between[key] = (middles[key], high) if is_coherent else (low, middles[key])
    share, source = _PRIOR.best / _PRIOR.cliff, f"where texts of {TOKENS} tokens break"
    cliffs = {key: math.sqrt(low * high) / facts[key].unit_strength for key, (low, high) in between.items()}
    return {key: Expectation(share * cliff, cliff, _PRIOR.spread, source) for key, cliff in cliffs.items()}


def _shortened(planned: PlannedCell) -> PlannedCell:
    setting = planned.cell.setting
    generation = replace(setting.generation, max_new_tokens=TOKENS)
    return replace(planned, cell=replace(planned.cell, setting=replace(setting, generation=generation)))


def _key(planned: PlannedCell) -> LadderKey:
    steering = planned.cell.steering
    assert steering is not None
    sign = int(math.copysign(1, steering.coefficient))
    return LadderKey(steering.position, format_label(steering.recipe), steering.layer, sign)


def _coherence(evaluation: Evaluation) -> float | None:
    scores = [one.coherence for one in evaluation.responses if one.coherence is not None]
    return sum(scores) / len(scores) if scores else None
