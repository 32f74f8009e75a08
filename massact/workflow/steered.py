"""The interventions that a store holds of one model, by the names that people ask for them, as they are or changed."""

import math
import re
import threading
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from massact.api import question
from massact.errors import UsageError
from massact.models.load import SteerableModel
from massact.models.prompting import Intervention
from massact.names import shown
from massact.plugins import own_digest
from massact.query.answers import Filters
from massact.query.groups import gain
from massact.query.questions.best import BestRow
from massact.query.questions.runs import RunRow
from massact.store.schema import EvaluationRow, stored_cell
from massact.vectors.steering import intervention_of
from massact.workflow.vectors import stored_vector

_RUN_ID, _CHANGES = re.compile(r"[0-9a-f]{32}"), re.compile(r"@(?=[a-z]+=[^@/]*$)")


def stored_intervention(model: SteerableModel, run_id: str, tracking_uri: str) -> tuple[EvaluationRow, Intervention]:
    """A stored evaluation, and what it did; UsageError where it is none with a vector, or another model's."""
    row, vector, _ = stored_vector(run_id, tracking_uri)
    cell, mine = stored_cell(row), model.identity
    if cell is None or cell.steering is None or cell.setting.model != mine:
        steered = "what cannot be told: it is imported, or an earlier version's" if cell is None else cell.setting.model
        raise UsageError(f"run {run_id} steered {steered}, and this is {mine}")
    if cell.steering.operator_source != own_digest("operators", cell.steering.recipe.operator):
        raise UsageError(f"run {run_id}: the file of the operator {cell.steering.recipe.operator} was changed since")
    return row, intervention_of(cell.steering, vector, model.shape.n_layers)


@dataclass(frozen=True, slots=True)
class Steered:
    """A stored evaluation of the model, perhaps with another coefficient."""

    run_id: str
    row: EvaluationRow
    intervention: Intervention

    def at(self, coefficient: float) -> "Steered":
        if not math.isfinite(coefficient):
            raise UsageError(f"coefficient {coefficient} is not a finite number")
        return replace(self, intervention=replace(self.intervention, coefficient=coefficient))

    def __str__(self) -> str:
        row, coefficient = self.row, self.intervention.coefficient
        return f"{row.label}, {row.position}, layer {row.layer}, coefficient {coefficient:g}"


class Stored:
    """What a store holds of one model of an experiment. Threads may share it."""

    def __init__(self, model: SteerableModel, name: str, experiment: str, tracking_uri: str) -> None:
        """`name`: the model's in the experiment file; `experiment`: its file, or its name."""
        self.model, self.name = model, name
        self._experiment, self.tracking_uri = experiment, tracking_uri
        self._lock, self._bests = threading.Lock(), dict[str, str]()
        self.of_run = lru_cache(256)(self._of_run)
        """The evaluation of a run by its id; UsageError where it is none of the model's with a vector."""

    def _of_run(self, run_id: str) -> Steered:
        return Steered(run_id, *stored_intervention(self.model, run_id, self.tracking_uri))

    def bests(self) -> dict[str, str]:
        """The run of each best by its name, `MODEL/TRAIT/POSITION/LABEL`; that of a trait's greatest delta by
        `MODEL/TRAIT` as well."""
        about: Any = {"tracking_uri": self.tracking_uri, "only": Filters(models=(self.name,))}
        rows: list[BestRow] = list(question("best").ask(self._experiment, about, {"intervals": False}).rows)
        known = [row for row in rows if row.run_id and row.is_current and not row.is_control]
        named: dict[str, str] = {}
        for row in sorted(known, key=lambda row: -gain(row.delta, row.direction)):
            named.setdefault(f"{row.model}/{row.trait}", str(row.run_id))
            named[f"{row.model}/{row.trait}/{row.position}/{row.label}"] = str(row.run_id)
        with self._lock:
            self._bests = named
        return named

    def find(self, name: str) -> Steered | None:
        """What a name means: the model unsteered (`None`), one of `bests`, or a run's id; with
        `@layer=3,coefficient=24` behind it at that layer, with that coefficient. Raises UsageError: nothing has it."""
        base, *changes = _CHANGES.split(name)
        changed = _changes(changes[0]) if changes else {}
        if base == self.name and not changed:
            return None
        with self._lock:
            run_id = base if _RUN_ID.fullmatch(base) else self._bests.get(base)
        run_id = run_id or self.bests().get(base)
        if run_id is None:
            raise UsageError(f"no model {shown(name)}; there are {', '.join([self.name, *self.bests()])}, and run ids")
        found = self.of_run(run_id)
        if "layer" in changed:
            found = self.like(found, layer=int(changed["layer"]))
        return found.at(changed["coefficient"]) if "coefficient" in changed else found

    def like(self, one: Steered, *, layer: int | None = None, label: str | None = None) -> Steered:
        """The best evaluation at another layer, or of another label, else the most coherent one; UsageError: none."""
        row = one.row
        only = Filters(models=(row.model,), traits=(row.trait,), positions=(str(row.position),))
        only = replace(only, labels=(label or str(row.label),), layers=() if layer is None else (layer,))
        answer = question("runs").ask(
            self._experiment, {"tracking_uri": self.tracking_uri, "only": only}, {"sort": "delta"}
        )
        there: list[RunRow] = [row for row in answer.rows if row.status != "failed"]
        if not there:
            where = "" if layer is None else f" at layer {layer}"
            raise UsageError(f"{row.model}, {row.trait}: no evaluation of {only.labels[0]}, {row.position}{where}")
        coherent = (row for row in there if row.status == "ok")
        return self.of_run(next(coherent, max(there, key=lambda row: row.coherence_mean or 0.0)).run_id)


def _changes(text: str) -> dict[str, float]:
    """What stands behind the @ of a name."""
    changed: dict[str, float] = {}
    for part in text.split(","):
        key, _, value = part.partition("=")
        is_whole = value.isascii() and value.isdigit()
        try:
            changed[key] = float(value)
        except ValueError:
            changed[key] = math.nan
        if key not in ("coefficient", "layer") or not math.isfinite(changed[key]) or (key == "layer" and not is_whole):
            raise UsageError(f"@{shown(text)}: write @coefficient=24 or @layer=3, or both with a comma between")
    return changed
