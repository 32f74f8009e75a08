"""What a store holds of one experiment, loaded once: what every question is asked of."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

from massact._gc import collector_paused
from massact.domain import DEFAULT_LEAST_SCORED, Group
from massact.errors import UnknownNameError, UsageError
from massact.query.costs import Costs
from massact.query.evaluations import Evaluations, group_of, group_of_row
from massact.query.groups import Currency, natural_order, slices, strata
from massact.query.settings import differences
from massact.query.stats.coherent import coherent_chances
from massact.query.stats.means import bounded_mean_interval, delta_ends
from massact.query.stats.paired import CONFIDENCE, LEAST_QUESTIONS, QuestionScores
from massact.store.read import RunStore
from massact.store.read.base import Failure, Stored
from massact.store.schema import Declared, EvaluationRow, Points, PublishedRow, Scores, is_scored
from massact.store.schema.points import Place
from massact.words import counted

EVEN = 0.5  # chance of being truly coherent that is asked of nothing: what is at or above the floor counts


@dataclass(frozen=True, slots=True)
class Filters:
    """Which part of an experiment is asked about; an empty tuple is all."""

    models: tuple[str, ...] = ()
    traits: tuple[str, ...] = ()
    positions: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()  # in their one spelling; see `massact.labels.normalise_label`
    layers: tuple[int, ...] = ()
    judges: tuple[str, ...] = ()  # as the experiment file names them, such as `openai:gpt-4.1-mini`

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if isinstance(value := getattr(self, name), str | int):
                raise UsageError(f"{name}={value!r} is one value, and a filter a list: write {name}=[{value!r}]")

    def admits_group(self, group: Group) -> bool:
        """Whether a group of the declared matrix is asked about."""
        return all(not wanted or getattr(group, name) in wanted for name, wanted in self._wanted())

    def evaluations(self, given: Evaluations) -> Evaluations:
        def admits(place: Place) -> bool:
            by_judge = not self.judges or given.samples[place[0]].judge in self.judges
            return by_judge and self.admits_group(group_of(place))

        return given.only(admits, self.layers)

    def admits_row(self, row: EvaluationRow) -> bool:
        """Whether an evaluation is asked about."""
        by_place = self.admits_group(group_of_row(row)) and (not self.layers or row.layer in self.layers)
        return by_place and (not self.judges or row.judge in self.judges)

    def check(self, declared: Sequence[Group], evaluations: Evaluations, failures: Iterable[Failure] = ()) -> None:
        """Refuse a name that nothing has, so that a typing error is not taken for an answer."""
        failures = list(failures)
        groups = [*declared, *map(group_of, evaluations.by_place), *(group_of_row(failure.row) for failure in failures)]
        for name, wanted in self._wanted():
            _check_known(name, wanted, {getattr(group, name) for group in groups})
        judges = {row.judge for row in (*evaluations.samples.values(), *(failure.row for failure in failures))}
        _check_known("judge", self.judges, judges)
        layers = {layer for points in evaluations.by_place.values() for layer in points.layers}
        layers |= {failure.row.layer for failure in failures if failure.row.layer is not None}
        if layers:
            _check_known("evaluated layer", map(str, self.layers), {str(layer) for layer in layers})
        if groups and not any(map(self.admits_group, groups)):
            raise UnknownNameError("no group of this experiment has all that is asked for: drop one of the filters")

    def _wanted(self) -> list[tuple[str, tuple[str, ...]]]:
        return [(name, getattr(self, f"{name}s")) for name in ("model", "trait", "position", "label")]


def _check_known(name: str, wanted: Iterable[str], known: Collection[str]) -> None:
    for value in wanted:
        if value not in known:
            there = ", ".join(sorted(known, key=natural_order)) or "none"
            raise UnknownNameError(f"no {name} {value!r} in this experiment; there is {there}")


@dataclass(frozen=True, slots=True)
class Confirmed:
    """Evaluations that were repeated, on other questions or for another trait, and the baselines beside them."""

    cells: Sequence[Stored[EvaluationRow]] = ()
    baselines: Mapping[str, Stored[EvaluationRow]] = field(default_factory=dict)  # by key
    scores: Mapping[str, Scores] = field(default_factory=dict)  # by run id, of both

    @classmethod
    def counting(cls, store: RunStore, rows: list[Stored[EvaluationRow]], least_scored: float) -> "Confirmed":
        """Some rows, the oldest first, with their scores; what has scores of too few responses has no figures."""
        short = {stored.row.key for stored in rows if not is_scored(stored.row, least_scored)}
        counted = []
        for row in rows:
            counts = not short & {row.row.key, row.row.baseline_key}
            counted.append(row if counts else replace(row, row=replace(row.row, coherence_mean=None, delta=None)))
        cells = tuple(stored for stored in counted if stored.row.layer is not None)
        baselines = {stored.row.key: stored for stored in counted if stored.row.layer is None}
        return cls(cells, baselines, store.scores([row.run_id for row in rows if row.row.key not in short]))

    def only(self, filters: Filters) -> "Confirmed":
        return replace(self, cells=tuple(cell for cell in self.cells if filters.admits_row(cell.row)))

    def deltas(self, cell: Stored[EvaluationRow]) -> list[tuple[float | None, float]] | str:
        """Of each question that the baseline has a score of the cell's delta and that score; or why there are none."""
        baseline = self.baselines.get(cell.row.baseline_key or "")
        steered = self.scores.get(cell.run_id)
        unsteered = self.scores.get(baseline.run_id) if baseline else None
        if steered is None or unsteered is None or len(steered.trait) != len(unsteered.trait):
            return "the store has no scores by question of it, or of its baseline"
        pairs = zip(steered.trait, unsteered.trait, strict=True)
        return [(None if a is None else a - b, b) for a, b in pairs if b is not None]

    def interval(self, cell: Stored[EvaluationRow], *, confidence: float = CONFIDENCE) -> tuple[float, float] | str:
        """The interval of a cell's delta over questions that took no part in choosing it; or why there is none."""
        deltas = self.deltas(cell)
        if isinstance(deltas, str):
            return deltas
        known = [(delta, base) for delta, base in deltas if delta is not None]
        if len(known) < LEAST_QUESTIONS:
            return f"fewer than {LEAST_QUESTIONS} questions have a score of it and of its baseline"
        steered = [base + delta for delta, base in known]
        ends = delta_ends([base for _, base in known], steered, cell.row.direction)
        return bounded_mean_interval((delta for delta, _ in known), *ends, confidence=confidence)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What a store holds of one experiment, ready to be asked. Build it with `from_store`."""

    evaluations: Evaluations
    everything: Evaluations | None = None  # the same whatever the filters; `None`: as `evaluations`
    failures: tuple[Failure, ...] = ()
    groups: tuple[Group, ...] = ()  # the declared matrix
    scores: QuestionScores | None = None  # by question; `None`: answers carry no intervals
    filters: Filters = field(default_factory=Filters)
    confirmed: Confirmed = field(default_factory=Confirmed)
    choosing_scores: QuestionScores | None = None
    """By question, of all that may have won; `None`: nothing is to be confirmed."""
    coefficient_ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Per model, the least and greatest |coefficient| that may be tried."""
    currency: Currency = field(default_factory=Currency)  # which setting is current, whatever the filters hide
    baselines: Mapping[str, Stored[EvaluationRow]] = field(default_factory=dict)  # by key
    least_scored: float = DEFAULT_LEAST_SCORED
    """Share of its responses that an evaluation or a baseline must have scores of to count, 0 to 1."""
    declared: Declared | None = None  # what the experiment file says, or the store of it; `None` where neither does
    cosines: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """Of two vectors by their digests, in either order, where it is known."""
    published: tuple[PublishedRow, ...] = ()
    costs: Costs = field(default_factory=dict)
    controls: tuple[Stored[EvaluationRow], ...] = ()  # what winners are held against; see `massact.query.controls`
    side_effects: Confirmed = field(default_factory=Confirmed)
    """Responses scored for other traits, and the baselines scored for them."""

    @classmethod
    def from_store(
        cls, store: RunStore, experiment: str, declared: Declared | None = None, phase: str | None = None,
        *, least_scored: float | None = None,
    ) -> "Answers":  # fmt: skip
        """Everything that the questions need of one experiment, beside what is declared of it, in one phase or in all.
        `least_scored` is what counts instead of what is declared."""
        if least_scored is None:
            least_scored = declared.least_scored if declared else DEFAULT_LEAST_SCORED
        with collector_paused():
            points, failures = store.points_and_failures(experiment)
            baselines = {stored.row.key: stored for stored in store.baselines(experiment)}
            samples = _samples(store, points)
            poor = {key for key, stored in baselines.items() if not is_scored(stored.row, least_scored)}
            alone = {setting for setting, row in samples.items() if row.baseline_key in poor}
            return cls(
                evaluations=Evaluations.from_points(points.counting(least_scored, alone), samples),
                failures=tuple(failures),
                groups=tuple(declared.groups(phase)) if declared else (),
                coefficient_ranges=declared.coefficient_ranges if declared else {},
                currency=Currency(declared.setting if declared else None),
                baselines=baselines,
                least_scored=least_scored,
                declared=declared,
            )

    @property
    def baseline_notes(self) -> tuple[str, ...]:
        """Which baselines are none, since they have scores of too few responses."""
        rows = (stored.row for stored in self.baselines.values())
        return tuple(
            f"{row.model}, {row.trait}: the baseline has scores of {row.n_scored} of {row.n_scored + row.n_unscored} "
            f"responses, too few (less than {self.least_scored:g}): nothing is compared with it"
            for row in rows
            if not is_scored(row, self.least_scored)
        )

    @property
    def current_baselines(self) -> list[EvaluationRow]:
        """Of each model and trait the baseline of the setting that the file declares: what its evaluations are against.
        Where there are none yet, or no file, the newest that it can be."""
        declared, newest = self.currency.declared, dict[tuple[str, str], EvaluationRow]()
        for row in (stored.row for stored in self.baselines.values()):  # the oldest first
            # a baseline has no direction: it serves either
            if declared is None or declared.holds(replace(row, direction=declared.directions.get(row.trait))):
                newest[row.model, row.trait] = row
        currency = self.currency.over(slices(self.evaluations, self.failures))
        for (model, trait, _), (setting, _) in (currency.chosen or {}).items():
            sample = self.evaluations.samples.get(setting)
            used = self.baselines.get(sample.baseline_key or "") if sample else None
            if used is not None and (model, trait) not in currency.undeclared:
                newest[model, trait] = used.row
        return list(newest.values())

    def only(self, filters: Filters) -> "Answers":
        """The part that the filters admit."""
        spots = {place[1:4] for place in self.evaluations.by_place}
        names = {(control.row.model, control.row.trait, control_label(control.row)) for control in self.controls}
        controls = [Group(*spot, name) for *about, name in names for spot in spots if spot[:2] == tuple(about)]
        filters.check((*self.groups, *controls), self.evaluations, self.failures)
        return replace(
            self,
            evaluations=filters.evaluations(self.evaluations),
            everything=self.evaluations,
            filters=filters,
            currency=self._currency_of(filters),
            failures=tuple(failure for failure in self.failures if filters.admits_row(failure.row)),
            groups=tuple(filter(filters.admits_group, self.groups)),
        )

    def _currency_of(self, filters: Filters) -> Currency:
        """What is current is told by all of a model and trait, whatever is shown of them; a judge may be asked for."""
        if filters == Filters() or self.currency.declared is None:
            return self.currency
        declared = replace(self.currency.declared, judge="") if filters.judges else self.currency.declared
        whole = Filters(models=filters.models, traits=filters.traits, judges=filters.judges)
        failures = (failure for failure in self.failures if whole.admits_row(failure.row))
        return Currency(declared).over(slices(whole.evaluations(self.evaluations), failures))

    def in_current_setting(self) -> tuple["Answers", tuple[str, ...]]:
        """The part in the setting that the file declares, and what that leaves out, in words; all without a file."""
        whole = self.whatever_the_cell
        settings = {place[:3] for place in whole.by_place}
        settings |= {(failure.row.setting, failure.row.model, failure.row.trait) for failure in self.failures}
        is_one = len(settings) == len({setting[1:] for setting in settings})
        currency = self.currency if is_one else self.currency.over(slices(whole, self.failures))
        if is_one or currency.chosen is None:
            return self, ()
        current = {(*spot[:2], setting) for spot, (setting, _) in currency.chosen.items()}
        of_pair: dict[tuple[str, str], list[str]] = defaultdict(list)
        for model, trait, setting in current:
            of_pair[model, trait].append(setting)

        def is_current(place: Place) -> bool:
            return (place[1], place[2], place[0]) in current

        left_out: dict[tuple[str, str], dict[str, int]] = defaultdict(lambda: defaultdict(int))
        for place, points in self.evaluations.by_place.items():
            if not is_current(place):
                left_out[place[1], place[2]][place[0]] += len(points)
        notes = tuple(
            f"{model}, {trait}: {_left_out(counts)}; they differ in "
            + differences(whole.samples[s] for s in [*counts, *of_pair[model, trait]] if s in whole.samples)
            for (model, trait), counts in sorted(left_out.items())
        )
        everything = self.everything and self.everything.only(is_current)
        failures = tuple(f for f in self.failures if (f.row.model, f.row.trait, f.row.setting) in current)
        kept = replace(self, evaluations=self.evaluations.only(is_current), everything=everything, failures=failures)
        return replace(kept, currency=currency), notes

    def with_scores(self, store: RunStore, floor: float) -> "Answers":
        """The same with the scores by question from a floor on, which intervals and tests rest on."""
        scores = QuestionScores.from_store(store, self.whatever_the_cell, floor, self.baselines)
        more = store.scores(control.run_id for control in self.controls) if self.controls else {}
        return replace(self, scores=replace(scores, evaluations={**scores.evaluations, **more}))

    def with_confirmations(self, store: RunStore, experiment: str, floor: float) -> "Answers":
        """The same with what was confirmed, and the scores by question that winners were chosen by, from a floor on."""
        confirmed = Confirmed.counting(store, store.confirmations(experiment), self.least_scored)
        is_split = any(row.confirm_share is not None for row in self.whatever_the_cell.samples.values())
        scores = None
        if confirmed.cells or is_split:
            scores = self.scores or self.with_scores(store, floor).scores
        return replace(self, confirmed=confirmed, choosing_scores=scores)

    def surely_coherent(self, floor: float, chance: float) -> tuple["Answers", tuple[str, ...]]:
        """The same where only that counts as coherent which is so with a chance; and what that leaves out, in words. At
        a chance of 0.5 all count that are at or above the floor; as does always what has no scores by question."""
        if chance <= EVEN or self.scores is None:
            return self, ()
        places = strata(slices(self.whatever_the_cell))
        chances = {run: c for place in places for run, c in coherent_chances(place, floor, self.scores).items()}
        doubtful = {run for run, c in chances.items() if c < chance}
        whole = self.everything and self.everything.doubting(doubtful)
        n = sum(run in doubtful for points in self.evaluations.by_place.values() for run in points.run_ids())
        evaluations = counted(n, "evaluation is", "evaluations are")
        note = f"{evaluations} at or above the floor with a chance below {chance:g}: not counted as coherent"
        answers = replace(self, evaluations=self.evaluations.doubting(doubtful), everything=whole)
        return answers, (note,) if n else ()

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(sorted({group.label for group in self._all_groups}))

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(sorted({group.model for group in self._all_groups}))

    @property
    def _all_groups(self) -> Iterable[Group]:
        return chain(self.groups, map(group_of, self.evaluations.by_place))

    @property
    def side_by_side(self) -> Evaluations:
        """The evaluations, whatever labels are shown: what labels are set beside."""
        return self._whatever(replace(self.filters, labels=()))

    @property
    def whatever_the_cell(self) -> Evaluations:
        """The evaluations, whatever labels and layers are shown: what a winner won among."""
        return self._whatever(replace(self.filters, labels=(), layers=()))

    def _whatever(self, filters: Filters) -> Evaluations:
        return self.evaluations if self.everything is None else filters.evaluations(self.everything)

    def shows(self, label: str) -> bool:
        """Whether a question about labels side by side answers about this one."""
        return not self.filters.labels or label in self.filters.labels


def control_label(row: EvaluationRow) -> str:
    """What a control is called among labels: of random directions all are one."""
    return str(row.label) if row.prompting_digest else "random"


def _left_out(counts: Mapping[str, int]) -> str:
    n, n_settings = sum(counts.values()), len(counts)
    where = f"in {counted(n_settings, 'other setting')}"
    return f"{counted(n, f'evaluation {where} is', f'evaluations {where} are')} left out, --all-settings answers all"


def _samples(store: RunStore, points: Points) -> dict[str, EvaluationRow]:
    """A whole row of each setting: any that can be read; the store's warnings count those without one."""
    candidates: dict[str, list[str]] = {}
    for head, index in dict(zip(points.head.tolist(), range(len(points)), strict=True)).items():
        candidates.setdefault(points.heads[head][0], []).append(points.run_ids[index])
    rows = store.rows(run_ids[0] for run_ids in candidates.values())
    others = [run_ids[1:] for run_ids in candidates.values() if run_ids[0] not in rows]
    rows |= store.rows(chain.from_iterable(others)) if others else {}
    readable = ((setting, [rows[run] for run in runs if run in rows]) for setting, runs in candidates.items())
    return {setting: some[0] for setting, some in readable if some}
