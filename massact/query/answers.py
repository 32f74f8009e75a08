"""All questions over what a store holds of one experiment, loaded once."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from massact.domain import Group, Scope, When
from massact.errors import UsageError
from massact.query.cleaning_curve import CurveRow, curve
from massact.query.coefficient_patterns import CoefficientsAnswer, coefficients
from massact.query.comparison import ComparisonRow, before_after_pairs, compare
from massact.query.gap_analysis import GapsAnswer, gaps
from massact.query.rows import Answer
from massact.query.winners import BestRow, best
from massact.schema import EvaluationRow
from massact.store.base import Failure, RunStore, Stored


@dataclass(frozen=True, slots=True)
class Filters:
    """Which part of an experiment is asked about; an empty tuple is all."""

    models: tuple[str, ...] = ()
    traits: tuple[str, ...] = ()
    positions: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    """In their one spelling; see `massact.labels.normalise_label`."""
    layers: tuple[int, ...] = ()

    def admits_group(self, group: Group) -> bool:
        return all(not wanted or value in wanted for _, wanted, value in self._named(group))

    def admits_row(self, row: EvaluationRow) -> bool:
        in_layers = not self.layers or row.layer in self.layers
        return in_layers and self.admits_group(_group(row))

    def check(self, groups: Iterable[Group]) -> None:
        """Refuse a name that no group has, so that a typing error is not taken for an answer.

        Raises:
            UsageError: a filter names what the experiment does not have, or together they admit nothing.
        """
        groups = list(groups)
        for index, (name, wanted, _) in enumerate(self._named(Group("", "", "", ""))):
            known = sorted({self._named(group)[index][2] for group in groups})
            for value in wanted:
                if value not in known:
                    raise UsageError(
                        f"no {name} {value!r} in this experiment; there is {', '.join(known) or 'none'}"
                    )
        if groups and not any(map(self.admits_group, groups)):
            raise UsageError("no group of this experiment has all that is asked for: drop one of the filters")

    def _named(self, group: Group) -> tuple[tuple[str, tuple[str, ...], str], ...]:
        return (
            ("model", self.models, group.model),
            ("trait", self.traits, group.trait),
            ("position", self.positions, group.position),
            ("label", self.labels, group.label),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What a store holds of one experiment, ready to be asked. Build it with `from_store`."""

    rows: tuple[Stored[EvaluationRow], ...]
    failures: tuple[Failure, ...] = ()
    groups: tuple[Group, ...] = ()
    """The declared matrix."""
    coefficient_ranges: Mapping[str, tuple[float, float]]
    """Per model, the least and greatest |coefficient| that may be tried."""

    @classmethod
    def from_store(
        cls,
        store: RunStore,
        experiment: str,
        *,
        groups: Sequence[Group] = (),
        coefficient_ranges: Mapping[str, tuple[float, float]] | None = None,
    ) -> "Answers":
        """Everything that the questions need of one experiment.

        Raises:
            StoreError: the store cannot be read.
        """
        return cls(
            rows=tuple(store.evaluations(experiment)),
            failures=tuple(store.failures(experiment)),
            groups=tuple(groups),
            coefficient_ranges=coefficient_ranges or {},
        )

    def only(self, filters: Filters) -> "Answers":
        """The part that the filters admit.

        Raises:
            UsageError: a filter names what the experiment does not have, or they admit nothing.
        """
        stored = [one.row for one in self.rows] + [one.row for one in self.failures]
        filters.check([*self.groups, *map(_group, stored)])
        return replace(
            self,
            rows=tuple(one for one in self.rows if filters.admits_row(one.row)),
            failures=tuple(one for one in self.failures if filters.admits_row(one.row)),
            groups=tuple(group for group in self.groups if filters.admits_group(group)),
        )

    @property
    def labels(self) -> tuple[str, ...]:
        """Every label declared or evaluated, sorted."""
        found = {group.label for group in self.groups} | {one.row.label or "" for one in self.rows}
        return tuple(sorted(found - {""}))

    def gaps(self, floor: float) -> GapsAnswer:
        """See `massact.query.gaps`."""
        return gaps(
            self.rows,
            failures=self.failures,
            groups=self.groups,
            floor=floor,
            coefficient_ranges=self.coefficient_ranges,
        )

    def best(self, floor: float) -> Answer[BestRow]:
        """See `massact.query.best`."""
        return best(self.rows, groups=self.groups, failures=self.failures, floor=floor)

    def compare(
        self,
        floor: float,
        *,
        pairs: Sequence[tuple[str, str]] | None = None,
        cosines: Mapping[tuple[str, str], float] | None = None,
    ) -> Answer[ComparisonRow]:
        """See `massact.query.compare`; without pairs, clean-before against clean-after."""
        pairs = before_after_pairs(self.labels) if pairs is None else pairs
        return compare(self.rows, pairs=pairs, floor=floor, groups=self.groups, cosines=cosines)

    def curve(
        self, floor: float, *, method: str, when: When = "after", scope: Scope = "uniform"
    ) -> Answer[CurveRow]:
        """See `massact.query.curve`."""
        return curve(self.rows, method=method, floor=floor, when=when, scope=scope, groups=self.groups)

    def coefficients(self, floor: float) -> CoefficientsAnswer:
        """See `massact.query.coefficients`."""
        return coefficients(self.rows, floor=floor)


def _group(row: EvaluationRow) -> Group:
    return Group(row.model, row.trait, row.position or "", row.label or "")
