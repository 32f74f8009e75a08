"""What of a set of requests is finished or need not be evaluated, as far as vectors are known: for `--dry-run`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from massact.config import ModelConfig, TraitConfig
from massact.errors import MissingPrerequisiteError
from massact.keys import cell_key
from massact.labels import format_label
from massact.phases.alike import Alikeness, Known, known_results
from massact.phases.planning import GridRequest, Overrides, Planner
from massact.phases.session import Session
from massact.pipeline.evaluate import PlannedCell
from massact.schema import EvaluationRow, Points, is_scored

Spot = tuple[object, ...]
"""Model, trait, position, label, layer and coefficient."""


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What is known of some requests before anything is done."""

    done: set[Spot]
    """Finished."""
    same: set[Spot]
    """To take over the result of another label."""
    needs_baseline: bool
    note: str
    """What is not known, and why."""


@dataclass(frozen=True, slots=True)
class Ahead:
    """What the store holds, and what earlier phases of one command will have evaluated, by model and trait."""

    points: Points
    baselines: Mapping[str, EvaluationRow]
    """By key."""
    planned: dict[tuple[str, str], Known] = field(default_factory=dict)

    def foresee(
        self,
        session: Session,
        subject: tuple[ModelConfig, TraitConfig],
        requests: Sequence[GridRequest],
        overrides: Overrides,
    ) -> Foreseen:
        """What of the requests is finished, and what takes over another's result; they are planned from then on."""
        try:
            planner = Planner(session, *subject, overrides)
            baseline = self.baselines.get(cell_key(planner.baseline().cell))
        except MissingPrerequisiteError as error:
            return Foreseen(set(), set(), True, f"all to do, since cells have no vectors yet ({error})")
        cells, notes = _cells(planner, requests)
        names = (subject[0].name, subject[1].name)
        least = session.experiment.least_scored
        held = known_results(
            self.points,
            session.workload.alike,
            model=names[0],
            trait=names[1],
            least_scored=least,
            baseline=baseline,
        )
        planned = self.planned.setdefault(names, Known())
        todo = {key: one for key, one in cells.items() if not held.has(key) and not planned.has(key)}
        both = Known(held.evaluated | planned.evaluated, labels=held.labels | planned.labels)
        same = Alikeness(planner, session).of(todo, both)
        planned.evaluated.update(todo.keys() - same.keys())
        planned.taken.update(same)
        planned.labels.update(_place(todo[key]) for key in todo.keys() - same.keys())
        note = "; ".join(notes)
        return Foreseen(
            done={_spot(names, one) for key, one in cells.items() if held.has(key)},
            same={_spot(names, todo[key]) for key in same},
            needs_baseline=baseline is None or not is_scored(baseline, least),
            note=f"cells without vectors count as to do ({note})" if note else "",
        )


def _cells(
    planner: Planner, requests: Iterable[GridRequest]
) -> tuple[Mapping[str, PlannedCell], Iterable[str]]:
    """The cells that have vectors, and why the others have none."""
    cells: dict[str, PlannedCell] = {}
    notes: dict[str, None] = {}
    for request in requests:
        try:
            cells |= planner.cells([request])
        except MissingPrerequisiteError as error:
            notes[str(error)] = None
    return cells, notes


def _place(planned: PlannedCell) -> tuple[str, str]:
    steering = planned.cell.steering
    return (steering.position, format_label(steering.recipe)) if steering else ("", "")


def _spot(names: tuple[str, str], planned: PlannedCell) -> Spot:
    steering = planned.cell.steering
    if steering is None:
        raise ValueError("a baseline is no cell of the grid")
    return (*names, *_place(planned), steering.layer, float(steering.coefficient))
