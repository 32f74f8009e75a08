"""In which of several settings a model and trait are answered: the one rule that every part keeps to.

Where a file declares the setting it is that one, as far as the file alone can tell; of several that it cannot tell
apart the one run last. Where nothing of a model and trait was run as the file says, each place is answered in the
setting that it was run in last, and a note says so. Without a file each group is answered in the one that it was run
in last.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from massact.domain import Group
from massact.query.selection import Slice, Stratum
from massact.store.schema import DeclaredSetting

Spot = tuple[str, str, str]
"""Model, trait and position."""
Against = tuple[str, float | None]
"""A setting, and the trait mean of the baseline in it."""


@dataclass(frozen=True, slots=True)
class Currency:
    """Tells what is current, once `over` has looked at what there is."""

    declared: DeclaredSetting | None = None
    """`None`: no file says it."""
    chosen: Mapping[Spot, Against] | None = None
    """`None`: each group by itself, the one run last."""
    undeclared: tuple[tuple[str, str], ...] = ()
    """Models and traits of which nothing was run in the declared setting."""

    def over(self, by_group: Mapping[Group, Sequence[Slice]]) -> "Currency":
        """What is current of some groups, which must be all of a model and trait, whatever is shown of them."""
        if self.declared is None or self.chosen is not None:
            return self
        ranks: dict[tuple[str, str], dict[str, tuple[bool, bool, int, str]]] = defaultdict(dict)
        for group, parts in by_group.items():
            settings = ranks[group.model, group.trait]
            for part in parts:
                if self.declared.holds(part.sample):
                    rank = _rank(self.declared, part)
                    settings[part.setting] = max(rank, settings.get(part.setting, rank))
        winners = {pair: max(found, key=found.__getitem__) for pair, found in ranks.items() if found}
        newest: dict[Spot, Slice] = {}
        for group, parts in by_group.items():
            spot = (group.model, group.trait, group.position)
            for part in parts:
                if part.setting == winners.get(spot[:2], part.setting):
                    newest[spot] = max(part, newest.get(spot, part), key=_last)
        chosen = {spot: _against(part) for spot, part in newest.items()}
        return replace(self, chosen=chosen, undeclared=tuple(sorted(ranks.keys() - winners.keys())))

    @property
    def notes(self) -> tuple[str, ...]:
        """Where nothing was run in the declared setting, in words."""
        return tuple(
            f"{model}, {trait}: nothing was evaluated in the setting that the experiment file declares; what was run "
            "last is taken for current"
            for model, trait in self.undeclared
        )

    def part(self, group: Group, parts: Iterable[Slice]) -> Slice | None:
        """Of a group's parts, the one run last first, the current one."""
        if self.chosen is None:
            return next(iter(parts), None)
        wanted = self.chosen.get((group.model, group.trait, group.position))
        return next((part for part in parts if _against(part) == wanted), None)

    def stratum(self, several: Iterable[Stratum]) -> Stratum | None:
        """Of one place's strata the current one."""
        run = [one for one in several if one.setting is not None]
        if self.chosen is not None:
            run = [one for one in run if self._is_chosen(one)]
        return max(run, key=_recency, default=None)

    def _is_chosen(self, one: Stratum) -> bool:
        wanted = self.chosen.get((one.model, one.trait, one.position)) if self.chosen else None
        return (one.setting, one.baseline_trait_mean) == wanted


def _rank(declared: DeclaredSetting, part: Slice) -> tuple[bool, bool, int, str]:
    """Of the settings that are as the file says the greatest is answered in."""
    row, questions = part.sample, declared.question_sets.get(part.sample.trait)
    return (row.origin is None, questions in (None, row.question_set), part.last, part.setting)


def _last(part: Slice) -> tuple[int, bool, float]:
    baseline = part.baseline_trait_mean
    return (part.last, baseline is not None, baseline or 0.0)


def _against(part: Slice) -> Against:
    return (part.setting, part.baseline_trait_mean)


def _recency(stratum: Stratum) -> tuple[int, str]:
    return (max((part.last for part in stratum.slices.values()), default=-1), stratum.setting or "")
