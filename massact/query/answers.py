"""All questions over what a store holds of one experiment, loaded once."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

from massact._gc import collector_paused
from massact.domain import DEFAULT_LEAST_SCORED, Group, Scope, When
from massact.labels import format_label
from massact.query.confirmed import Confirmed
from massact.query.current import Currency
from massact.query.evaluations import Evaluations
from massact.query.filters import Filters
from massact.query.questions.best import BestRow, best
from massact.query.questions.coefficients import CoefficientsAnswer, coefficients
from massact.query.questions.compare import ComparisonRow, before_after_pairs, compare
from massact.query.questions.confirmations import ConfirmationsAnswer, confirmations
from massact.query.questions.curve import CurveRow, curve
from massact.query.questions.gaps import GapsAnswer, gaps
from massact.query.questions.judges import JudgesAnswer, judges
from massact.query.questions.published import PublishedComparison, compare_published
from massact.query.questions.runs import RunRow, SortBy, runs
from massact.query.questions.sensitivity import FLOORS, SensitivityAnswer, sensitivity
from massact.query.rows import Answer
from massact.query.selection import recipe_of, slices, strata, told_apart
from massact.query.split_half import halves
from massact.query.stats.paired import QuestionScores
from massact.store.read import Failure, RunStore, Stored
from massact.store.schema import DeclaredSetting, EvaluationRow, Points, PublishedRow, is_scored


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What a store holds of one experiment, ready to be asked. Build it with `from_store`."""

    evaluations: Evaluations
    any_label: Evaluations | None = None
    """The same whatever the label, for questions that set labels side by side; `None`: as `evaluations`."""
    labels_shown: tuple[str, ...] = ()
    """The labels that such questions answer about; empty is all."""
    failures: tuple[Failure, ...] = ()
    groups: tuple[Group, ...] = ()
    """The declared matrix."""
    scores: QuestionScores | None = None
    """By question; `None`: answers carry no intervals."""
    any_cell: Evaluations | None = None
    """As `any_label`, whatever the layer too, for questions about what won."""
    filters: Filters = field(default_factory=Filters)
    """What was asked for."""
    confirmed: Confirmed = field(default_factory=Confirmed)
    """What was evaluated once more on other questions."""
    choosing_scores: QuestionScores | None = None
    """By question, of all that may have won; `None`: nothing is to be confirmed."""
    coefficient_ranges: Mapping[str, tuple[float, float]]
    """Per model, the least and greatest |coefficient| that may be tried."""
    currency: Currency = field(default_factory=Currency)
    """Which setting is current, whatever the filters hide."""
    baselines: Mapping[str, Stored[EvaluationRow]] = field(default_factory=dict)
    """By key."""
    least_scored: float = DEFAULT_LEAST_SCORED
    """Share of its responses that an evaluation or a baseline must have scores of to count, 0 to 1."""

    @classmethod
    def from_store(
        cls,
        store: RunStore,
        experiment: str,
        *,
        groups: Sequence[Group] = (),
        coefficient_ranges: Mapping[str, tuple[float, float]] | None = None,
        setting: DeclaredSetting | None = None,
        least_scored: float = DEFAULT_LEAST_SCORED,
    ) -> "Answers":
        """Everything that the questions need of one experiment.

        Args:
            groups: the declared matrix.
            coefficient_ranges: per model, the least and greatest |coefficient| that may be tried.
            setting: what the file declares of it; `None`: what was run last is current.
            least_scored: share of its responses that an evaluation or a baseline must have scores of to count.

        Raises:
            StoreError: the store cannot be read.
        """
        with collector_paused():
            points, failures = store.points_and_failures(experiment)
            baselines = {one.row.key: one for one in store.baselines(experiment)}
            samples = _samples(store, points)
            poor = {key for key, one in baselines.items() if not is_scored(one.row, least_scored)}
            alone = {setting for setting, row in samples.items() if row.baseline_key in poor}
            return cls(
                evaluations=Evaluations.from_points(points.counting(least_scored, alone), samples),
                failures=tuple(failures),
                groups=tuple(groups),
                coefficient_ranges=coefficient_ranges or {},
                currency=Currency(setting),
                baselines=baselines,
                least_scored=least_scored,
            )

    @property
    def baseline_notes(self) -> tuple[str, ...]:
        """Which baselines are none, since they have scores of too few responses."""
        rows = (one.row for one in self.baselines.values())
        return tuple(
            f"{row.model}, {row.trait}: the baseline has scores of {row.n_scored} of {row.n_scored + row.n_unscored} "
            f"responses, too few (less than {self.least_scored:g}): nothing is compared with it"
            for row in rows
            if not is_scored(row, self.least_scored)
        )

    @property
    def current_baselines(self) -> list[EvaluationRow]:
        """Of each model and trait the newest baseline in the setting that the file declares, if there is a file."""
        declared, found = self.currency.declared, dict[tuple[str, str], EvaluationRow]()
        for one in self.baselines.values():  # the oldest first
            # a baseline has no direction: it serves either
            row = replace(one.row, direction=declared.directions.get(one.row.trait) if declared else None)
            if declared is None or declared.holds(row):
                found[row.model, row.trait] = one.row
        return list(found.values())

    def only(self, filters: Filters) -> "Answers":
        """The part that the filters admit.

        Raises:
            UsageError: a filter names what the experiment does not have, or they admit nothing.
        """
        filters.check(self.groups, self.evaluations, self.failures)
        return replace(
            self,
            evaluations=filters.evaluations(self.evaluations),
            any_label=replace(filters, labels=()).evaluations(self.evaluations),
            any_cell=replace(filters, labels=(), layers=()).evaluations(self.evaluations),
            filters=filters,
            currency=self._currency_of(filters),
            labels_shown=filters.labels,
            failures=filters.failures(self.failures),
            groups=tuple(group for group in self.groups if filters.admits_group(group)),
        )

    def _currency_of(self, filters: Filters) -> Currency:
        """What is current is told by all of a model and trait, whatever is shown of them; a judge may be asked for."""
        if filters == Filters() or self.currency.declared is None:
            return self.currency
        declared = replace(self.currency.declared, judge="") if filters.judges else self.currency.declared
        whole = Filters(models=filters.models, traits=filters.traits, judges=filters.judges)
        by_group = slices(whole.evaluations(self.evaluations), whole.failures(self.failures))
        return Currency(declared).over(by_group)

    def with_scores(self, store: RunStore, floor: float) -> "Answers":
        """The same with the scores by question from a floor on, which intervals and tests rest on.

        Raises:
            StoreError: the store cannot be read.
        """
        return replace(self, scores=self._scores(store, floor))

    def _scores(self, store: RunStore, floor: float) -> QuestionScores:
        return QuestionScores.from_store(store, self._whatever_the_cell, floor, self.baselines)

    def with_confirmations(self, store: RunStore, experiment: str, floor: float) -> "Answers":
        """The same with what was confirmed, and the scores by question that winners were chosen by, from a floor on.

        Raises:
            StoreError: the store cannot be read.
        """
        confirmed = Confirmed.from_store(store, experiment, self.least_scored)
        evaluations = self._whatever_the_cell
        is_split = any(row.confirm_share is not None for row in evaluations.samples.values())
        scores = None
        if confirmed.cells or is_split:
            scores = self.scores or self._scores(store, floor)
        return replace(self, confirmed=confirmed, choosing_scores=scores)

    @property
    def labels(self) -> tuple[str, ...]:
        """Every label declared or evaluated, sorted."""
        found = {group.label for group in self.groups} | {place[4] for place in self.evaluations.by_place}
        return tuple(sorted(found))

    @property
    def models(self) -> tuple[str, ...]:
        """Every model declared or evaluated, sorted."""
        found = {group.model for group in self.groups} | {place[1] for place in self.evaluations.by_place}
        return tuple(sorted(found))

    def gaps(self, floor: float) -> GapsAnswer:
        """See `massact.query.gaps`."""
        with collector_paused():
            return gaps(
                self.evaluations,
                failures=self.failures,
                groups=self.groups,
                floor=floor,
                coefficient_ranges=self.coefficient_ranges,
                currency=self.currency,
            )

    def best(self, floor: float) -> Answer[BestRow]:
        """See `massact.query.best`."""
        with collector_paused():
            return best(
                self.evaluations,
                groups=self.groups,
                failures=self.failures,
                floor=floor,
                scores=self.scores,
                among=self.any_cell if self.filters.labels or self.filters.layers else None,
                currency=self.currency,
            )

    def compare(
        self,
        floor: float,
        *,
        pairs: Sequence[tuple[str, str]] | None = None,
        cosines: Mapping[tuple[str, str], float] | None = None,
    ) -> Answer[ComparisonRow]:
        """See `massact.query.compare`; without pairs, clean-before against clean-after."""
        shown = set(self.labels_shown)
        wanted = before_after_pairs(self._side_by_side_labels) if pairs is None else tuple(pairs)
        kept = tuple(pair for pair in wanted if not shown or shown.issuperset(map(_one_spelling, pair)))
        found = compare(
            self._side_by_side,
            pairs=kept,
            floor=floor,
            groups=self.groups,
            cosines=cosines,
            scores=self.scores,
        )
        if kept:
            return found
        note = (
            "no label here is cleaned before extraction, so there is nothing to compare with its counterpart"
            if not wanted
            else "no pair has both its labels among those of --label"
        )
        return replace(found, notes=(*found.notes, f"{note}: name two labels as a pair"))

    def curve(
        self, floor: float, *, method: str, when: When = "after", scope: Scope = "uniform"
    ) -> Answer[CurveRow]:
        """See `massact.query.curve`."""
        found = curve(
            self._side_by_side, method=method, floor=floor, when=when, scope=scope, groups=self.groups
        )
        kept = (row for row in found.rows if not self.labels_shown or row.label in self.labels_shown)
        return replace(found, rows=tuple(kept))

    def coefficients(self, floor: float) -> CoefficientsAnswer:
        """See `massact.query.coefficients`."""
        return coefficients(self._side_by_side, floor=floor, labels=self.labels_shown)

    @property
    def _whatever_the_cell(self) -> Evaluations:
        return self.evaluations if self.any_cell is None else self.any_cell

    @property
    def _side_by_side(self) -> Evaluations:
        return self.evaluations if self.any_label is None else self.any_label

    @property
    def _side_by_side_labels(self) -> tuple[str, ...]:
        return tuple(sorted({*self.labels, *(place[4] for place in self._side_by_side.by_place)}))

    def sensitivity(
        self, floors: Iterable[float] = FLOORS, *, floor: float | None = None
    ) -> SensitivityAnswer:
        """See `massact.query.sensitivity`; with scores by question also halves of the questions, at `floor`."""
        found = sensitivity(self.evaluations, floors=floors, groups=self.groups)
        if self.labels_shown:
            alone = "only the labels asked for compete: others may be ahead of them"
            found = replace(found, notes=(*found.notes, alone))
        if self.scores is None or floor is None:
            return found
        by_group = slices(self.evaluations)
        rows = halves(strata(by_group), floor=floor, scores=self.scores)
        return told_apart(replace(found, halves=rows), by_group)

    def judges(self, floor: float) -> JudgesAnswer:
        """See `massact.query.judges`."""
        found = judges(self._side_by_side, floor=floor)
        kept = (row for row in found.rows if not self.labels_shown or row.label in self.labels_shown)
        return replace(found, rows=tuple(kept))

    def confirmations(self, floor: float, *, is_split: bool = False) -> ConfirmationsAnswer:
        """See `massact.query.questions.confirmations`.

        Labels and layers choose what is shown, not among what a winner won."""
        shown = self.filters
        found = confirmations(
            self._whatever_the_cell,
            confirmed=self.confirmed.only(replace(shown, labels=(), layers=())),
            scores=self.choosing_scores or QuestionScores({}, {}),
            floor=floor,
            is_split=is_split,
        )
        rows = tuple(
            row
            for row in found.rows
            if (not shown.labels or row.label in shown.labels)
            and (not shown.layers or row.layer in shown.layers)
        )
        left = {(row.model, row.trait, row.position, row.setting) for row in rows}
        places = (one for one in found.places if (one.model, one.trait, one.position, one.setting) in left)
        return replace(found, rows=rows, places=tuple(places))

    def runs(
        self, floor: float, *, sort: SortBy = "finished", limit: int | None = None, offset: int = 0
    ) -> Answer[RunRow]:
        """See `massact.query.runs`."""
        return runs(
            self.evaluations, failures=self.failures, floor=floor, sort=sort, limit=limit, offset=offset
        )

    def compare_published(
        self, published: Iterable[PublishedRow], floor: float, *, model_names: Mapping[str, str]
    ) -> Answer[PublishedComparison]:
        """See `massact.query.compare_published`."""
        return compare_published(
            published,
            self.evaluations,
            floor=floor,
            groups=self.groups,
            model_names=model_names,
            currency=self.currency,
        )


def _one_spelling(label: str) -> str:
    recipe = recipe_of(label)
    return label if recipe is None else format_label(recipe)


def _samples(store: RunStore, points: Points) -> dict[str, EvaluationRow]:
    """A whole row of each setting.

    Where a row cannot be read others of the setting are tried; a setting without any is left out,
    which the store's warnings count.
    """
    candidates: dict[str, list[str]] = {}
    for head, index in dict(zip(points.head.tolist(), range(len(points)), strict=True)).items():
        candidates.setdefault(points.heads[head][0], []).append(points.run_ids[index])
    rows = store.rows(run_ids[0] for run_ids in candidates.values())
    others = [run_ids[1:] for run_ids in candidates.values() if run_ids[0] not in rows]
    rows |= store.rows(chain.from_iterable(others)) if others else {}
    found = {
        setting: next((rows[run_id] for run_id in run_ids if run_id in rows), None)
        for setting, run_ids in candidates.items()
    }
    return {setting: row for setting, row in found.items() if row is not None}
