"""What a report is made from, and the evidence that its text, tables and figures are computed from.

A place (model, trait, position) may have been evaluated in several settings. A report answers each place
in the current one (`massact.query.groups`) and never mixes two.
"""

import shlex
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal, Protocol, TypeVar

from massact.config import Experiment
from massact.config.matrix import declared_by
from massact.domain import Direction, Group
from massact.query import Answers, CoefficientsAnswer, Point
from massact.query.evaluations import group_of
from massact.query.groups import ComparableGroups, Currency, natural_order, slices, strata
from massact.query.questions.coefficients import ask_coefficients
from massact.query.stats.intervals import NOTHING, Believed, Standing, believe, standings
from massact.store.schema import EvaluationRow, PublishedRow
from massact.vectors.massive_dims import Calibration

# What a report is told beside the store's answers: responses, vectors, and where the numbers come from.

SampleRole = Literal["baseline", "best", "over the cliff"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A response shown in the report."""

    title: str
    question: str
    response: str
    trait: float | None
    """Judge's trait score, 0 to 100; `None` where unscored."""
    coherence: float | None
    """Judge's coherence score, 0 to 100; `None` where unscored."""
    run_id: str
    place: str = ""
    """What it stands beside: samples of one place, in order, are shown side by side; empty: alone."""
    role: SampleRole | None = None
    judge: str | None = None
    """Who scored it."""


@dataclass(frozen=True, slots=True)
class SampleRow:
    """Samples side by side."""

    place: str
    samples: tuple[Sample, ...]


def sample_rows(samples: tuple[Sample, ...]) -> tuple[SampleRow, ...]:
    """Samples by place, in order; one without a place has a row of its own."""
    rows: dict[str, list[Sample]] = {}
    for index, sample in enumerate(samples):
        rows.setdefault(sample.place or f"\0{index}", []).append(sample)
    return tuple(SampleRow(place.partition("\0")[0], tuple(some)) for place, some in rows.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorFact:
    """Where one vector's energy lies."""

    model: str
    trait: str
    position: str
    label: str
    layer: int
    massive_energy: float
    """Share of its squared norm in the massive dims of the uniform list, 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CosineMatrix:
    """Cosines between the vectors of some labels at one place and layer."""

    model: str
    trait: str
    position: str
    layer: int
    labels: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]
    """`[n_labels, n_labels]`, -1 to 1; symmetric."""


@dataclass(frozen=True, slots=True, order=True)
class Commit:
    """A commit of massact that runs were made by."""

    commit: str
    """Empty where the runs do not tell."""
    n_runs: int
    n_dirty: int
    """How many of them with changes in the tree that no commit holds."""


@dataclass(frozen=True, slots=True)
class Judging:
    """What the judges of the phases' runs were asked."""

    calls: int
    prompt_tokens: int
    completion_tokens: int
    cached: int
    """Responses whose verdict was known."""
    cost_usd: float | None
    """At the experiment file's prices; `None` where it gives none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where the numbers come from."""

    n_evaluations: int
    total_seconds: float | None = None
    """Generating and judging, all evaluations together."""
    git_commit: str | None = None
    """Of the report."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Package to version."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """How many runs of each kind there are, by its name in words, such as `screenings`."""
    generation_seconds: float | None = None
    judge_seconds: float | None = None
    commits: tuple[Commit, ...] = ()
    """Of the evaluations; the most runs first."""
    datasets: Mapping[str, str] = field(default_factory=dict)
    """Digest of each trait's dataset, as its files are now."""
    judging: Judging | None = None
    """`None` where no phase's run tells."""


T = TypeVar("T")
EFFECT_POINTS = 30.0
"""A delta of at least so many points in the trait's direction is an effect that steering surely had."""
TIE_POINTS = 0.05
"""Deltas that differ by less print the same: the report calls them tied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportInput:
    """Everything that a report is made from."""

    experiment: Experiment
    answers: Answers
    baselines: tuple[EvaluationRow, ...]
    """The oldest first, as a run store gives them."""
    calibrations: Mapping[str, Calibration]
    """By the model's name."""
    generated_at: datetime
    provenance: Provenance
    samples: tuple[Sample, ...] = ()
    run_link: Callable[[str], str] | None = None
    """Address of a run by its id, where there is a UI to link to."""
    toy: bool = False
    """Whether any model is an embedded toy: the report then says what its numbers are about."""
    same_vector_cosines: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """Cosine of two vectors by their digests, as `Answers.compare` takes it."""
    published: tuple[PublishedRow, ...] = ()
    """Figures that somebody printed."""
    vectors: tuple[VectorFact, ...] = ()
    cosines: tuple[CosineMatrix, ...] = ()

    @property
    def sample_rows(self) -> tuple[SampleRow, ...]:
        """The samples that stand side by side."""
        return sample_rows(self.samples)


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where labels are compared."""

    model: str
    trait: str
    position: str


class HasPlace(Protocol):
    """A row of any answer."""

    @property
    def model(self) -> str: ...
    @property
    def trait(self) -> str: ...
    @property
    def position(self) -> str: ...
    @property
    def setting(self) -> str | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The store's answers, each place in the one setting that the report answers it in."""

    experiment: Experiment
    answers: Answers
    strata: Mapping[Place, ComparableGroups]
    """Only places where something was run."""
    whole: Mapping[Place, ComparableGroups]
    """The same whatever phase is looked at: what standings are among."""
    evaluated: frozenset[Group]
    """Groups with an evaluation in any setting."""
    cosines: Mapping[tuple[str, str], float]
    _beliefs: dict[tuple[Place, str], Believed] = field(default_factory=dict, repr=False, compare=False)
    """What `belief` has found so far: several parts of a report ask for the same."""
    _done: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    """What `once` has worked out; a copy with other evidence starts anew."""

    @classmethod
    def of(
        cls,
        experiment: Experiment,
        answers: Answers,
        cosines: Mapping[tuple[str, str], float] | None = None,
    ) -> "Evidence":
        """The evidence of a whole experiment, whatever groups the answers were loaded with."""
        by_group = slices(answers.evaluations, answers.failures)
        currency = answers.currency
        if currency.declared is None and experiment.name:
            currency = Currency(declared_by(experiment).setting)
        currency = currency.over(by_group)
        found: dict[Place, list[ComparableGroups]] = defaultdict(list)
        for stratum in strata(by_group):
            found[place_of(stratum)].append(stratum)
        current = {place: one for place, some in found.items() if (one := currency.stratum(some)) is not None}
        return cls(
            experiment=experiment,
            answers=replace(answers, groups=experiment.groups(), currency=currency),
            strata=current,
            whole=current,
            evaluated=frozenset(
                group for group, parts in by_group.items() if any(len(p.points) for p in parts)
            ),
            cosines=cosines or {},
        )

    @property
    def floor(self) -> float:
        return self.experiment.coherence_floor

    def of_phase(self, phase: str) -> "Evidence":
        """The part that a phase declares; nothing where the file declares no such phase."""
        groups = self.experiment.groups(phase) if self.declares(phase) else ()
        wanted = set(groups)
        evaluations = self.answers.evaluations.only(lambda place: group_of(place) in wanted)
        failures = (one for one in self.answers.failures if _group(one.row) in wanted)
        parts = {
            place: replace(
                stratum,
                slices={label: part for label, part in stratum.slices.items() if part.group in wanted},
            )
            for place, stratum in self.strata.items()
        }
        return replace(
            self,
            answers=replace(self.answers, evaluations=evaluations, failures=tuple(failures), groups=groups),
            strata={place: stratum for place, stratum in parts.items() if stratum.slices},
            _beliefs=self._beliefs,
        )

    def declares(self, phase: str) -> bool:
        """Whether the experiment file has the phase."""
        return any(one.name == phase for one in self.experiment.phases)

    def is_current(self, row: HasPlace) -> bool:
        """Whether a row is of the setting that its place is answered in (of none, if nothing was run)."""
        stratum = self.strata.get(Place(row.model, row.trait, row.position))
        return row.setting == (stratum.setting if stratum else None)

    def places(self) -> tuple[Place, ...]:
        """Every place declared, in the file's order, then any other where something was run."""
        declared = (Place(group.model, group.trait, group.position) for group in self.answers.groups)
        return tuple(
            dict.fromkeys(
                [
                    *declared,
                    *sorted(
                        self.strata, key=lambda p: [natural_order(n) for n in (p.model, p.trait, p.position)]
                    ),
                ]
            )
        )

    def labels(self, place: Place) -> tuple[str, ...]:
        """Every label declared or run at a place, the declared ones first and in the file's order."""
        declared = [g.label for g in self.answers.groups if Place(g.model, g.trait, g.position) == place]
        stratum = self.strata.get(place)
        return tuple(dict.fromkeys([*declared, *sorted(stratum.slices if stratum else ())]))

    def best(self, place: Place, label: str) -> Point | None:
        """The best at or above the floor."""
        stratum = self.strata.get(place)
        return stratum.best(label, self.floor) if stratum else None

    def once(self, what: str, work: Callable[[], T]) -> T:
        """Work that several parts of a report need, done for the first of them alone.

        Args:
            what: names the work; the same name must always mean the same.
        """
        if what not in self._done:
            self._done[what] = work()
        found: T = self._done[what]
        return found

    def coefficients(self) -> CoefficientsAnswer:
        """Where the best coefficients lie, at the floor."""
        return self.once("coefficients", lambda: ask_coefficients.of(self.answers, self.floor))

    def belief(self, place: Place, label: str) -> Believed:
        """The interval of a label's best, its having been picked allowed for; empty where nothing tells."""
        best, scores = self.best(place, label), self.answers.scores
        if best is None or scores is None:
            return NOTHING
        known = self._beliefs.get((place, label))
        if known is None:
            known = believe(self.strata[place].slices[label], best, self.floor, scores)
            self._beliefs[place, label] = known
        return known

    @property
    def has_intervals(self) -> bool:
        """Whether any best has an interval: imported means have no scores by question to make one from."""
        some = ((place, label) for place in self.strata for label in self.labels(place))
        return any(self.belief(place, label).delta_low is not None for place, label in some)

    def standings(self, place: Place, labels: Collection[str] | None = None) -> Mapping[str, Standing]:
        """Which of the labels has the best delta and which cannot be told from it; empty where nothing tells.

        Among all labels of the place, whatever phase is looked at; or among some alone, as those of a curve.
        """
        stratum, scores = self.whole.get(place), self.answers.scores
        if stratum is None or scores is None:
            return {}
        if labels is not None:
            some = {label: part for label, part in stratum.slices.items() if label in labels}
            stratum = replace(stratum, slices=some)
        return standings(stratum, self.floor, scores, self.cosines)

    def status(self, place: Place, label: str) -> str:
        """`ok`, `below_floor`, `missing` or `failed`, and `unscored`: evaluated, but without a score."""
        stratum = self.strata.get(place)
        if stratum is None:
            return "missing"
        status = stratum.status(label, self.floor)
        part = stratum.slices.get(label)
        return "unscored" if status == "missing" and part and len(part.points) else status

    def name(self, place: Place) -> str:
        """The place in words; the trait only where there is more than one."""
        trait = f"{place.trait}, " if len(self.experiment.traits) > 1 else ""
        return f"{place.model}, {trait}{place.position}"

    def gain(self, place: Place, delta: float) -> float:
        """Delta in the direction that is wanted: the larger, the better."""
        return gain(delta, self.direction(place))

    def direction(self, place: Place) -> Direction:
        stratum = self.strata.get(place)
        if stratum and stratum.sample and stratum.sample.direction:
            return stratum.sample.direction
        return next((t.direction for t in self.experiment.traits if t.name == place.trait), "positive")

    def command(self, step: str) -> str:
        """The command that does a step, as Markdown code."""
        return f"`massact {step} --experiment {shlex.quote(str(self.experiment.file))}`"


def gain(delta: float, direction: Direction) -> float:
    """Delta in the direction that is wanted: the larger, the better."""
    return -delta if direction == "negative" else delta


def place_of(row: HasPlace | Group) -> Place:
    """The place of any row or group."""
    return Place(row.model, row.trait, row.position)


def listed(words: Iterable[str], limit: int = 4) -> str:
    """`a, b and c`, and how many more beyond the limit."""
    found = list(words)
    shown, rest = found[:limit], len(found) - limit
    if rest > 0:
        return f"{', '.join(shown)} and {rest} more"
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """`1 group`, `2 groups`."""
    return f"{count} {noun if count == 1 else plural or noun + 's'}"


def _group(row: EvaluationRow) -> Group:
    return Group(row.model, row.trait, row.position or "", row.label or "")
