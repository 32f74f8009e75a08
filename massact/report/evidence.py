"""What a report is made from: the store's answers, each place in one setting, and the facts beside them.

A place (model, trait, position) may have been evaluated in several settings. A report answers each place in the
current one (`massact.query.groups.Currency`) and never mixes two.
"""

import math
import shlex
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from datetime import UTC, datetime
from functools import wraps
from typing import Any, Concatenate, Literal, NamedTuple, ParamSpec, TypeVar

from massact.config import Experiment
from massact.config.values import declared_by
from massact.domain import RANDOM, Direction, Group
from massact.floors import Floor, as_floor
from massact.query import Answers, Filters, Point
from massact.query.equal_grids import EqualGrids, on_equal_grids
from massact.query.evaluations import group_of, group_of_row
from massact.query.groups import ComparableGroups, Currency, gain, natural_order, rank, slices, strata
from massact.query.questions.coefficients import CoefficientsAnswer, ask_coefficients
from massact.query.questions.compare import ComparisonRow, ask_compare
from massact.query.questions.confirmations import ConfirmationsAnswer, ask_confirmations
from massact.query.questions.costs import CostRow
from massact.query.questions.curve import CurveRow, ask_curve
from massact.query.questions.effects import SideEffectRow
from massact.query.questions.gaps import GapRow, ask_gaps
from massact.query.questions.published import PublishedComparison, ask_compare_published
from massact.query.stats.intervals import NOTHING, Beliefs, Believed, Standing
from massact.store.schema import EvaluationRow, PublishedRow
from massact.store.schema.rows import AgreementRow
from massact.vectors.massive_dims import Calibration

P = ParamSpec("P")
T = TypeVar("T")
RowT = TypeVar("RowT", bound=Any)
SampleRole = Literal["baseline", "best", "over the cliff"]
RunLink = Callable[[str], str]  # address of a run by its id
TOY_BANNER = (
    "Toy models: tiny models whose massive dims were planted. They show and test the tool; these numbers "
    "say nothing about Gemma or any other real model."
)
TIE_POINTS = 0.05  # deltas that differ by less print the same: the report calls them tied


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    title: str
    question: str
    response: str
    trait: float | None  # judge's trait score, 0 to 100; `None` where unscored. The coherence likewise
    coherence: float | None
    run_id: str
    place: str = ""  # what it stands beside: samples of one place, in order, are shown side by side; empty: alone
    role: SampleRole | None = None
    judge: str | None = None
    thinking: str | None = None
    is_answered: bool = True  # whether its thought ended, if it had one


class SampleRow(NamedTuple):
    place: str
    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where labels are compared."""

    model: str
    trait: str
    position: str


Energies = Mapping[Place, Mapping[str, Mapping[int, float]]]
"""Share of each vector's squared norm in the massive dims of the uniform list, 0 to 1, by place, label and layer."""


def energies_of(rows: Iterable[EvaluationRow]) -> Energies:
    """Where the energy of each evaluated vector lies, by rising layer; the newest where several tell."""
    energies: dict[Place, dict[str, dict[int, float]]] = {}
    for row in sorted(rows, key=lambda row: row.layer or 0):
        if row.massive_energy is not None and row.layer is not None and row.position and row.label:
            at = energies.setdefault(Place(row.model, row.trait, row.position), {})
            at.setdefault(row.label, {})[row.layer] = row.massive_energy
    return energies


@dataclass(frozen=True, slots=True)
class CosineMatrix:
    """Cosines between the vectors of some labels at one place and layer."""

    model: str
    trait: str
    position: str
    layer: int
    labels: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]  # `[n_labels, n_labels]`, -1 to 1; symmetric


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where the numbers come from, beside what each row tells of itself."""

    n_evaluations: int
    generation_seconds: float | None = None
    judge_seconds: float | None = None
    git_commit: str | None = None  # of the report
    versions: Mapping[str, str] = field(default_factory=dict)  # package to version, of the report
    counts: Mapping[str, int] = field(default_factory=dict)
    """How many runs of each kind there are, by its name in words, such as `screenings`."""
    commits: tuple[tuple[str, int, int], ...] = ()
    """Of massact, that the evaluations were made by, the most runs first: the commit (empty where the runs do not
    tell), how many runs, and how many of them with changes in the tree that no commit holds."""
    judging: Mapping[str, float] = field(default_factory=dict)
    """What the judges of the phases' runs were asked, as `JudgeMetric`; empty where no run tells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a report is told beside the store's answers."""

    baselines: tuple[EvaluationRow, ...] = ()  # the oldest first, as a run store gives them
    calibrations: Mapping[str, Calibration] = field(default_factory=dict)  # by the model's name
    published: tuple[PublishedRow, ...] = ()
    costs: tuple[CostRow, ...] = ()
    effects: tuple[SideEffectRow, ...] = ()
    energies: Energies = field(default_factory=dict)
    label_cosines: tuple[CosineMatrix, ...] = ()
    samples: tuple[Sample, ...] = ()
    agreements: tuple[AgreementRow, ...] = ()  # judges held against people, the oldest first
    provenance: Provenance = Provenance(n_evaluations=0)
    generated_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    run_link: RunLink | None = None  # `None`: there is no UI to link to
    toy: bool = False  # whether any model is an embedded toy: the report then says what its numbers are about

    @property
    def sample_rows(self) -> tuple[SampleRow, ...]:
        """The samples by place, in order; one without a place has a row of its own."""
        rows: dict[str, list[Sample]] = {}
        for index, sample in enumerate(self.samples):
            rows.setdefault(sample.place or f"\0{index}", []).append(sample)
        return tuple(SampleRow(place.partition("\0")[0], tuple(some)) for place, some in rows.items())


def once(work: "Callable[Concatenate[Evidence, P], T]") -> "Callable[Concatenate[Evidence, P], T]":
    """Of work that several parts of a report need: it is done for the first of them alone."""

    @wraps(work)
    def done(evidence: "Evidence", /, *about: P.args, **named: P.kwargs) -> T:
        key = (work, about, *named.items())
        if key not in evidence._done:
            evidence._done[key] = work(evidence, *about, **named)
        known: T = evidence._done[key]
        return known

    return done


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The store's answers, each place in the one setting that the report answers it in, and the facts beside them."""

    experiment: Experiment
    answers: Answers
    facts: Facts
    strata: Mapping[Place, ComparableGroups]  # only places where something was run
    whole: Mapping[Place, ComparableGroups]  # the same whatever phase is looked at: what standings are among
    evaluated: frozenset[Group]  # groups with an evaluation in any setting
    _beliefs: dict[tuple[Place, str], Believed] = field(default_factory=dict, repr=False, compare=False)
    """What `interval` has worked out so far: several parts of a report ask for the same."""
    _done: dict[object, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    """What `once` has worked out; a copy with other evidence starts anew."""

    @classmethod
    def of(cls, experiment: Experiment, answers: Answers, facts: Facts | None = None) -> "Evidence":
        """The evidence of a whole experiment, whatever groups the answers were loaded with."""
        by_group = slices(answers.evaluations, answers.failures)
        currency, declared = answers.currency, declared_by(experiment)
        if currency.declared is None and experiment.name:
            currency = Currency(declared.setting)
        currency = currency.over(by_group)
        by_place: dict[Place, list[ComparableGroups]] = defaultdict(list)
        for stratum in strata(by_group):
            by_place[place_of(stratum)].append(stratum)
        current = {place: latest for place, some in by_place.items() if (latest := currency.stratum(some))}
        return cls(
            experiment=experiment,
            answers=replace(answers, groups=experiment.groups(), currency=currency, declared=declared),
            facts=facts or Facts(),
            strata=current,
            whole=current,
            evaluated=frozenset(group for group, parts in by_group.items() if any(len(part.points) for part in parts)),
        )

    @property
    def floor(self) -> Floor:
        return as_floor(self.experiment.coherence_floor)

    def strengths(self, model: str) -> tuple[float, ...]:
        """The relative strengths that the file declares for a model, in any phase."""
        grids = (phase.grid(self.experiment.model(model)) for phase in self.experiment.phases if model in phase.models)
        declared = (grid.coefficients for grid in grids)
        return tuple(
            dict.fromkeys(v for coefficients in declared if coefficients.is_relative for v in coefficients.values)
        )

    def of_phase(self, phase: str) -> "Evidence":
        """The part that a phase declares; nothing where the file declares no such phase."""
        groups = self.experiment.groups(phase) if self.declares(phase) else ()
        wanted = set(groups)
        evaluations = self.answers.evaluations.only(lambda place: group_of(place) in wanted)
        failures = tuple(failure for failure in self.answers.failures if group_of_row(failure.row) in wanted)
        strata = {}
        for place, stratum in self.strata.items():
            parts = {label: part for label, part in stratum.slices.items() if part.group in wanted}
            if parts:
                strata[place] = replace(stratum, slices=parts)
        answers = replace(self.answers, evaluations=evaluations, failures=failures, groups=groups)
        return replace(self, answers=answers, strata=strata, _beliefs=self._beliefs)

    def declares(self, phase: str) -> bool:
        return any(declared.name == phase for declared in self.experiment.phases)

    def current(self, rows: Iterable[RowT]) -> tuple[RowT, ...]:
        """Those of an answer's rows that are of the setting that their place is answered in."""
        settings = {place: stratum.setting for place, stratum in self.strata.items()}
        return tuple(row for row in rows if row.setting == settings.get(place_of(row)))

    @property
    def traits(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(place.trait for place in self.places()))

    def places(self) -> tuple[Place, ...]:
        """Every place declared, in the file's order, then any other where something was run."""
        others = sorted(self.strata, key=lambda p: natural_order(*astuple(p)))
        return tuple(dict.fromkeys([*map(place_of, self.answers.groups), *others]))

    def in_order(self, rows: Iterable[RowT]) -> list[RowT]:
        order = {place: index for index, place in enumerate(self.places())}
        return sorted(rows, key=lambda row: order[place_of(row)])

    @property
    def run_places(self) -> list[Place]:
        """Those of them where something was run."""
        return [place for place in self.places() if place in self.strata]

    def labels(self, place: Place) -> tuple[str, ...]:
        """Every label declared or run at a place, the declared ones first and in the file's order."""
        declared = [group.label for group in self.answers.groups if place_of(group) == place]
        return tuple(dict.fromkeys([*declared, *sorted(self._at(place).slices)]))

    def _at(self, place: Place) -> ComparableGroups:
        return self.strata.get(place) or ComparableGroups(*astuple(place))

    def best(self, place: Place, label: str) -> Point | None:
        return self._at(place).best(label, self.floor)

    def bests(self, place: Place, labels: Iterable[str] | None = None) -> dict[str, Point]:
        """The bests with a delta of some labels, or of all but a random direction."""
        if labels is None:
            labels = (label for label in self.labels(place) if label != RANDOM)
        bests = ((label, self.best(place, label)) for label in labels)
        return {label: best for label, best in bests if best is not None and best.delta is not None}

    def top(self, place: Place, bests: Mapping[str, Point]) -> str:
        """The winner among bests, equal deltas decided as in `best`."""
        direction = self.direction(place)
        return min(bests, key=lambda label: rank((label, bests[label]), direction))

    def top_gain(self, place: Place) -> float:
        """The largest delta of a place in the direction that is wanted; a random direction's does not count."""
        return max((self.gain(place, best.delta) for best in self.bests(place).values()), default=-math.inf)

    def on_equal_grids(self, place: Place, labels: Iterable[str]) -> tuple["Evidence", EqualGrids]:
        """The same where labels of a place have those evaluations alone that they are compared by; what is left out."""
        return self._on_equal_grids(place, frozenset(labels))

    @once
    def _on_equal_grids(self, place: Place, labels: frozenset[str]) -> tuple["Evidence", EqualGrids]:
        stratum = self._at(place)
        grids = on_equal_grids(stratum, labels, self.floor)
        if grids.stratum is stratum:
            return self, grids
        kept = {label: grids.stratum.slices[label] for label in labels & stratum.slices.keys()}
        whole = replace(self.whole[place], slices={**self.whole[place].slices, **kept})
        strata = {**self.strata, place: grids.stratum}
        return replace(self, strata=strata, whole={**self.whole, place: whole}, _beliefs={}), grids

    def nearest_miss(self, place: Place, label: str) -> Point | None:
        return self._at(place).nearest_miss(label, self.floor)

    # the questions that a report asks, at its floor and of the current rows alone

    @once
    def gaps(self) -> tuple[GapRow, ...]:
        return self.current(ask_gaps.of(self.answers, self.floor).rows)

    def compare(self, pairs: Sequence[tuple[str, str]] | None = None) -> tuple[ComparisonRow, ...]:
        return self.current(ask_compare.of(self.answers, self.floor, pairs=pairs).rows)

    @once
    def curve(self, /, **kind: Any) -> tuple[CurveRow, ...]:
        """The steps of each curve, over the cells that all of its steps have; `kind`: as `massact curve` is told."""
        return self.current(ask_curve.of(self.answers, self.floor, **kind).rows)

    @once
    def coefficients(self) -> CoefficientsAnswer:
        answer = ask_coefficients.of(self.answers, self.floor)
        ratios, shifts = self.current(answer.method_ratios), self.current(answer.cleaning_shifts)
        return replace(answer, rows=self.current(answer.rows), method_ratios=ratios, cleaning_shifts=shifts)

    def confirmations(self) -> ConfirmationsAnswer:
        answer = ask_confirmations.of(self.answers, self.floor)
        return replace(answer, rows=self.current(answer.rows), places=self.current(answer.places))

    @once
    def compare_published(self) -> tuple[PublishedComparison, ...]:
        answers = replace(self.answers, published=self.facts.published, filters=Filters())
        return ask_compare_published.of(answers, self.floor).rows

    def believed(self, place: Place, label: str) -> Believed:
        """What the scores by question say of a best, its having been picked allowed for."""
        best = self.best(place, label)
        if best is None or self.answers.scores is None:
            return NOTHING
        if (place, label) not in self._beliefs:
            self._beliefs[place, label] = self.beliefs_of(place).of(self.strata[place].slices[label], best)
        return self._beliefs[place, label]

    def interval(self, place: Place, label: str) -> tuple[float, float] | None:
        """The 95 % interval of a best's delta; `None` where nothing tells."""
        low, high = (known := self.believed(place, label)).delta_low, known.delta_high
        return None if low is None or high is None else (low, high)

    @property
    def has_intervals(self) -> bool:
        """Whether any best has an interval: imported means have no scores by question to make one from."""
        return any(self.interval(place, label) for place in self.strata for label in self.labels(place))

    def standings(self, place: Place, labels: Collection[str] | None = None) -> Mapping[str, Standing]:
        """Which of the labels has the best delta and which cannot be told from it; empty where nothing tells. Among all
        labels of the place, whatever phase is looked at; or among some alone, as those of a curve."""
        stratum, scores = self.whole.get(place), self.answers.scores
        if stratum is None or scores is None:
            return {}
        if labels is not None:
            some = {label: part for label, part in stratum.slices.items() if label in labels}
            return Beliefs(replace(stratum, slices=some), self.floor, scores, self.answers.cosines).standings
        return self.beliefs_of(place).standings

    @once
    def beliefs_of(self, place: Place) -> Beliefs:
        """Of all labels of a place, whatever phase is looked at; there must be scores by question."""
        assert self.answers.scores is not None
        return Beliefs(self.whole[place], self.floor, self.answers.scores, self.answers.cosines)

    def status(self, place: Place, label: str) -> str:
        """`ok`, `below_floor`, `missing` or `failed`, and `unscored`: evaluated, but without a score."""
        status, part = self._at(place).status(label, self.floor), self._at(place).slices.get(label)
        return "unscored" if status == "missing" and part and len(part.points) else status

    @property
    def n_gaps(self) -> int:
        """Declared groups without a best in the setting that their place is answered in."""
        return sum(self.best(place_of(group), group.label) is None for group in self.answers.groups)

    @property
    def baselines(self) -> list[EvaluationRow]:
        """Per model and trait the baseline that deltas are taken from, or else the newest."""
        samples = (stratum.sample for stratum in self.strata.values())
        used = {sample.baseline_key for sample in samples if sample is not None}
        kept: dict[tuple[str, str], EvaluationRow] = {}
        for row in self.facts.baselines:
            other = kept.get((row.model, row.trait))
            if other is None or row.key in used or other.key not in used:
                kept[row.model, row.trait] = row
        return [kept[pair] for pair in sorted(kept)]

    def name(self, place: Place) -> str:
        """The place in words; the trait only where there is more than one."""
        return f"{place.model}{self.of_trait(place.trait)}, {place.position}"

    def of_trait(self, trait: str) -> str:
        """`, trait`; nothing where there is but one."""
        return f", {trait}" if len(self.experiment.traits) > 1 else ""

    def gain(self, place: Place, delta: float | None) -> float:
        return gain(delta, self.direction(place))

    def direction(self, place: Place) -> Direction:
        return self._at(place).direction or self.declared_direction(place.trait)

    def declared_direction(self, trait: str) -> Direction:
        return next((declared.direction for declared in self.experiment.traits if declared.name == trait), "positive")

    def command(self, step: str) -> str:
        """The command that does a step, as Markdown code."""
        return f"`massact {step} --experiment {shlex.quote(str(self.experiment.file))}`"


def place_of(row: Any) -> Place:
    """Of a group, or a row of any answer."""
    return Place(row.model, row.trait, row.position)


def group_at(place: Place, label: str) -> Group:
    return Group(place.model, place.trait, place.position, label)


def listed(words: Iterable[str], limit: int = 4) -> str:
    """`a, b and c`, and how many more beyond the limit."""
    every = list(words)
    shown, rest = every[:limit], len(every) - limit
    if rest > 0:
        return f"{', '.join(shown)} and {rest} more"
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)
