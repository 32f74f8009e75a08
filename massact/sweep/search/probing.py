"""Where short texts break: the scale of every ladder before any of its cells is judged.

All ladders are probed side by side: the steered model begins its answers to a few questions, and the unsteered model
reads how likely they are (`massact.judges.unsteered`). Halving finds the relative strength at which they cease to be
coherent; where the floor is one of a metric, at which they cease to meet it. The experiment's judge is asked nothing.
Each text is generated where cells are evaluated and kept as a screening, in a setting of its own, so that no question
about results sees it and no later search asks it again. Short texts break later than long ones, at all ladders alike;
by how much a search learns from its first evaluations.
"""

import math
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import replace

from massact.config import JudgeConfig
from massact.domain import Coefficients
from massact.errors import UsageError
from massact.evaluation import Evaluation, Part, PlannedCell
from massact.floors import as_floor
from massact.keys import cell_key, screening_key
from massact.labels import format_label
from massact.metrics import Measured
from massact.prediction.prior import Expectation, RelativeStrengthPrior, VectorFacts
from massact.store.write.evaluations import Baseline, Place, RunMaker
from massact.sweep.context import Interrupted, Session
from massact.sweep.driver import Evaluator
from massact.sweep.executors.base import Work
from massact.sweep.planner import GridRequest
from massact.sweep.search.ladders import LadderKey

QUESTIONS, TOKENS = 3, 16  # questions that a probe answers at most, and tokens of each answer
LEAST, GREATEST, HALVINGS = 0.1, 3.2, 5
"""Relative strengths between which texts are expected to break, and how often that interval is halved: to 11 %."""
_COUNTED = ("longest_loop", "length")
"""Metrics that count a text's tokens: texts so short do not tell them."""
_PRIOR = RelativeStrengthPrior()  # what share of the cliff the best is expected at, and how far ladders scatter
Cells = Mapping[LadderKey, PlannedCell]


def probe_cliffs(
    session: Session, evaluator: Evaluator, requests: Iterable[GridRequest], facts: Mapping[LadderKey, VectorFacts]
) -> dict[LadderKey, Expectation]:
    """What to expect of each ladder, by where its short texts break.
    `requests`: positions, recipes and layers of the ladders. `facts`: of each ladder's vector. Those that lie in
    massive dims alone are left out of the answer, and so are ladders whose texts could not be generated or read:
    nothing is known of them.
    Raises JudgeError: the unsteered model cannot read texts; UsageError: short texts do not tell what the floor is of;
    Interrupted: somebody asked to stop; the texts in hand were finished."""
    recipes = {(request.position, format_label(request.recipe)): request for request in requests}
    probe = _Probe(session, evaluator)
    between = {key: (LEAST, GREATEST) for key, fact in facts.items() if fact.unit_strength > 0}

    def requested(key: LadderKey, strength: float) -> GridRequest:
        coefficient = key.sign * strength / facts[key].unit_strength
        request = recipes[key.position, key.label]
        return replace(request, layers=(key.layer,), coefficients=Coefficients((coefficient,)))

    for _ in range(HALVINGS):
        middles = {key: math.sqrt(low * high) for key, (low, high) in between.items()}
        cells = evaluator.planner.cells(requested(*each) for each in middles.items())
        measures = probe.measures({_key(cell): cell for cell in cells.values()})
        for key, (low, high) in list(between.items()):
            measure = measures.get(key)
            if measure is None:
                del between[key]
                continue
            is_met = measure >= session.experiment.coherence_floor
            between[key] = (middles[key], high) if is_met else (low, middles[key])
    share, source = _PRIOR.best / _PRIOR.cliff, f"where texts of {TOKENS} tokens break"
    cliffs = {key: math.sqrt(low * high) / facts[key].unit_strength for key, (low, high) in between.items()}
    return {key: Expectation(share * cliff, cliff, _PRIOR.spread, source) for key, cliff in cliffs.items()}


class _Probe:
    """Has cells of one model and trait answered and read in short, unless the store knows what came of them."""

    def __init__(self, session: Session, evaluator: Evaluator) -> None:
        self._session, self._evaluator = session, evaluator
        self._floor = as_floor(session.experiment.coherence_floor)
        if self._floor.metric in _COUNTED:
            raise UsageError(
                f"--start probe: texts of {TOKENS} tokens do not tell {self._floor.metric}, which the "
                f"{self._floor.name} is of: use --start prior, or a floor of coherence, kl, perplexity or distinct_2"
            )
        trait, model = evaluator.subject.trait, evaluator.subject.model
        n = min(QUESTIONS, len(evaluator.planner.questions.questions))
        self._questions = session.datasets.questions(trait, n)
        self._judge = session.judges.of(trait, model, config=JudgeConfig("perplexity"))
        with session.stores.read() as store:
            self._stored = {
                screening.row.key: screening.run_id for screening in store.screenings(session.experiment.name)
            }

    def measures(self, cells: Cells) -> dict[LadderKey, float | None]:
        """Of each cell's short texts the mean of what the floor is of, on its scale; `None`: none could be read. What
        failed is absent."""
        short = {key: self._shortened(cell) for key, cell in cells.items()}
        run_ids = {
            key: self._stored[stored]
            for key, cell in short.items()
            if (stored := screening_key(cell_key(cell.cell))) in self._stored
        }
        found: dict[LadderKey, float | None] = {}
        metric = self._floor.metric
        if run_ids:
            with self._session.stores.read() as store:
                scores = store.scores(run_ids.values())
                scores = scores if self._floor.is_coherence else store.with_metrics(scores, [metric])
            told = {
                run_id: score.coherence if self._floor.is_coherence else score.metrics.get(metric)
                for run_id, score in scores.items()
            }
            found = {key: self._mean(values) for key, id_ in run_ids.items() if (values := told.get(id_)) is not None}
        if todo := [cell for key, cell in short.items() if key not in found]:
            found |= {
                _key(result.planned): self._mean(map(self._floor.of_response, result.responses))
                for result in self._answered(todo)
            }
        return found

    def _mean(self, values: Iterable[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return self._floor.measure(sum(known) / len(known)) if known else None

    def _answered(self, cells: list[PlannedCell]) -> Iterable[Evaluation]:
        session, evaluator, interruption = self._session, self._evaluator, self._session.interruption
        model, experiment = evaluator.subject.model, session.experiment
        loaded, baseline = session.models.loaded(model, model.instruct), evaluator.baseline_row()
        about = (experiment.name, model.name, model.instruct.name, 0, loaded.attention)
        place = Place(*about, confirm_share=experiment.confirm_share)
        names = () if self._floor.is_coherence else (self._floor.metric,)
        part = Part(self._questions.questions, measured=Measured.by(names, experiment.metric_tokens))
        work = Work(session.models.use(model, model.instruct), self._judge, part)
        results = session.models.executor.evaluate(
            work, cells, progress=session.progress, should_stop=lambda: interruption.is_requested
        )
        with interruption.finishing(), closing(results):
            for result in results:
                if isinstance(result, Evaluation):
                    maker = RunMaker(place=place, parent=evaluator.parent, baseline=Baseline(baseline.key, None))
                    kept = replace(result, given_up=f"a probe, {TOKENS} tokens long, of where texts break")
                    session.models.executor.keep(kept, maker, home=evaluator.parent)
                    yield result
        if interruption.is_requested:
            session.stores.close()
            raise Interrupted("interrupted: the short texts read so far are kept; run the same command again to go on")

    def _shortened(self, planned: PlannedCell) -> PlannedCell:
        setting = planned.cell.setting
        short = replace(
            setting,
            questions_digest=self._questions.digest,
            subset=self._questions.subset,
            generation=replace(setting.generation, max_new_tokens=TOKENS),
            judge=self._judge.identity,
        )
        return replace(planned, cell=replace(planned.cell, setting=short))


def _key(planned: PlannedCell) -> LadderKey:
    steering = planned.cell.steering
    assert steering is not None
    sign = int(math.copysign(1, steering.coefficient))
    return LadderKey(steering.position, format_label(steering.recipe), steering.layer, sign)
