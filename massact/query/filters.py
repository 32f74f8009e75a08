"""Which part of an experiment a question is asked about."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from massact.domain import Group
from massact.errors import UnknownNameError
from massact.query.evaluations import Evaluations, group_of
from massact.query.selection import natural_order
from massact.store.read.base import Failure
from massact.store.schema import EvaluationRow, Place


@dataclass(frozen=True, slots=True)
class Filters:
    """Which part of an experiment is asked about; an empty tuple is all."""

    models: tuple[str, ...] = ()
    traits: tuple[str, ...] = ()
    positions: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    """In their one spelling; see `massact.labels.normalise_label`."""
    layers: tuple[int, ...] = ()
    judges: tuple[str, ...] = ()
    """As the experiment file names them, such as `openai:gpt-4.1-mini`."""

    def admits_group(self, group: Group) -> bool:
        """Whether a group of the declared matrix is asked about."""
        return all(not wanted or value in wanted for _, wanted, value in self._named(group))

    def evaluations(self, given: Evaluations) -> Evaluations:
        """Those evaluations that are asked about."""

        def admits(place: Place) -> bool:
            by_judge = not self.judges or given.samples[place[0]].judge in self.judges
            return by_judge and self.admits_group(group_of(place))

        return given.only(admits, self.layers)

    def admits_row(self, row: EvaluationRow) -> bool:
        """Whether an evaluation is asked about."""
        return (
            self.admits_group(Group(row.model, row.trait, row.position or "", row.label or ""))
            and (not self.layers or row.layer in self.layers)
            and (not self.judges or row.judge in self.judges)
        )

    def failures(self, given: Iterable[Failure]) -> tuple[Failure, ...]:
        """Those failures that are asked about."""
        return tuple(one for one in given if self.admits_row(one.row))

    def check(
        self, declared: Sequence[Group], evaluations: Evaluations, failures: Iterable[Failure] = ()
    ) -> None:
        """Refuse a name that nothing has, so that a typing error is not taken for an answer.

        Raises:
            UnknownNameError: a filter names what the experiment does not have, or together they admit nothing.
        """
        failures = list(failures)
        groups = [
            *declared,
            *map(group_of, evaluations.by_place),
            *map(_failed_group, failures),
        ]
        for index, (name, wanted, _) in enumerate(self._named(Group("", "", "", ""))):
            _check_known(name, wanted, {self._named(group)[index][2] for group in groups})
        judges = {row.judge for row in (*evaluations.samples.values(), *(one.row for one in failures))}
        _check_known("judge", self.judges, judges)
        layers = {layer for points in evaluations.by_place.values() for layer in points.layers}
        layers |= {one.row.layer for one in failures if one.row.layer is not None}
        if layers:
            _check_known("evaluated layer", map(str, self.layers), {str(layer) for layer in layers})
        if groups and not any(map(self.admits_group, groups)):
            raise UnknownNameError(
                "no group of this experiment has all that is asked for: drop one of the filters"
            )

    def _named(self, group: Group) -> tuple[tuple[str, tuple[str, ...], str], ...]:
        return (
            ("model", self.models, group.model),
            ("trait", self.traits, group.trait),
            ("position", self.positions, group.position),
            ("label", self.labels, group.label),
        )


def _check_known(name: str, wanted: Iterable[str], known: Collection[str]) -> None:
    for value in wanted:
        if value not in known:
            there = ", ".join(sorted(known, key=natural_order)) or "none"
            raise UnknownNameError(f"no {name} {value!r} in this experiment; there is {there}")


def _failed_group(failure: Failure) -> Group:
    row = failure.row
    return Group(row.model, row.trait, row.position or "", row.label or "")
