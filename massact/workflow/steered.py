"""The interventions that a store holds of one model, by name: to steer by, to talk under, and as weights."""

import json
import math
import re
import shutil
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from massact.api import question
from massact.domain import Conversation, Generation
from massact.errors import UsageError
from massact.keys import cell_json
from massact.models.bake import Baked, bake, why_not
from massact.models.generate import Generator
from massact.models.load import SteerableModel, model_lock
from massact.models.prompting import Intervention, Row, encode_chat, read_response
from massact.models.thinking import generate_thinking
from massact.names import shown, visible
from massact.plugins import own_digest
from massact.query.answers import Filters
from massact.query.questions.best import BestRow, ranked
from massact.query.questions.runs import RunRow
from massact.store.read import base, open_source
from massact.store.schema import EvaluationRow, stored_cell
from massact.store.write.artifacts import Mender
from massact.sweep.context import Session
from massact.sweep.stored import LeftOutError, stored_plan, stored_subject
from massact.vectors.steering import intervention_of
from massact.workflow.show import columns, steered_row
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
        self.of_run = lru_cache(256)(lambda run_id: Steered(run_id, *stored_intervention(model, run_id, tracking_uri)))
        """The evaluation of a run by its id; UsageError where it is none of the model's with a vector."""

    def bests(self) -> dict[str, str]:
        """The run of each best by its name, `MODEL/TRAIT/POSITION/LABEL`; that of a trait's greatest delta by
        `MODEL/TRAIT` as well."""
        about: Any = {"tracking_uri": self.tracking_uri, "only": Filters(models=(self.name,))}
        rows: list[BestRow] = list(question("best").ask(self._experiment, about, {"intervals": False}).rows)
        known = [row for row in rows if row.run_id and row.is_current and not row.is_control]
        named: dict[str, str] = {}
        for row in sorted(known, key=ranked):
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

    def like(self, steered: Steered, *, layer: int | None = None, label: str | None = None) -> Steered:
        """The best evaluation at another layer, or of another label, else the most coherent one; UsageError: none."""
        row = steered.row
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


# Talking with a steered model in a terminal, what it says unsteered beside it.


HELP = (
    "/coefficient 24, /layer 3, /label probe: steer so from now on · /save: keep this with the evaluation's run · "
    "/new: begin anew · /quit"
)
_FACTS = ("model", "trait", "position", "label", "layer")
_Turns = list[tuple[str, str]]


class Chat:
    """Two conversations with the same questions: one with the model as it is, one with it steered."""

    def __init__(self, stored: Stored, steered: Steered, settings: Generation, tracking_uri: str) -> None:
        self.steered, self._stored = steered, stored
        self._settings, self._uri = settings, tracking_uri
        self._generator = Generator(stored.model)
        self._said: tuple[_Turns, _Turns] = ([], [])
        self._kept: list[dict[str, Any]] = []

    def answer(self, line: str) -> str:
        """What is to be shown for a line: two columns, or what a command did. Raises UsageError: it cannot be done."""
        if not line.startswith("/"):
            return self._ask(line)
        name, _, value = line[1:].partition(" ")
        commands: dict[str, Callable[[str], str]] = {
            "coefficient": lambda text: self._steer(self.steered.at(_number(text))),
            "layer": lambda text: self._steer(self._stored.like(self.steered, layer=int(_number(text)))),
            "label": lambda text: self._steer(self._stored.like(self.steered, label=text)),
            "save": lambda _text: self.save(),
            "new": lambda _text: self._begin(),
            "help": lambda _text: HELP,
        }
        if name not in commands:
            raise UsageError(f"no command /{visible(name)}. {HELP}")
        return commands[name](value.strip())

    def _steer(self, steered: Steered) -> str:
        self.steered = steered
        return str(steered)

    def _begin(self) -> str:
        self._said = ([], [])
        return "begun anew"

    def _ask(self, question: str) -> str:
        model = self._stored.model
        asked: list[_Turns] = [[*turns, ("user", question)] for turns in self._said]
        interventions = (None, self.steered.intervention)
        rows = [
            Row(encode_chat(model, Conversation(turns)), how) for turns, how in zip(asked, interventions, strict=True)
        ]
        with model_lock(model.model):
            said = generate_thinking(model, self._generator, rows, self._settings)
        texts = [read_response(model, tokens)[1] or "" for tokens in said]
        self._said = tuple([*turns, ("assistant", text)] for turns, text in zip(asked, texts, strict=True))  # type: ignore[assignment]
        facts: dict[str, Any] = {name: getattr(self.steered.row, name) for name in _FACTS}
        facts |= {"coefficient": self.steered.intervention.coefficient, "settings": str(self._settings)}
        told = {"question": question, "unsteered": texts[0], "steered": texts[1], "run_id": self.steered.run_id}
        self._kept.append(told | facts)
        names = ("unsteered", str(self.steered))
        width = shutil.get_terminal_size((120, 24)).columns
        # without what a terminal would obey
        shown_texts = ["\n".join(map(visible, text.splitlines())) or "(nothing)" for text in texts]
        return "\n".join(columns([f"{n}\n{text}" for n, text in zip(names, shown_texts, strict=True)], width))

    def save(self) -> str:
        """Keep what was said as an artifact of the run of the evaluation that steers now."""
        if not self._kept:
            raise UsageError("nothing was said yet")
        with closing(open_source(self._uri)) as source:
            (run,) = source.finished_runs([self.steered.run_id], tags=())
        name = f"chats/{datetime.now(UTC):%Y-%m-%dT%H-%M-%SZ}.json"
        content = json.dumps(self._kept, ensure_ascii=False, indent=2).encode()
        Mender(self._uri).put(run.artifact_uri, name, content)
        return f"kept as {name} of run {run.run_id}"


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"{shown(text)} is no number") from None


# An intervention written into the weights of its model, as a checkpoint.


_COMPARED = 4  # of the trait's questions: what logits are compared on


def bake_run(session: Session, run_id: str, output: Path) -> Baked:
    """Write the checkpoint: the weights that were steered, with what the evaluation of a run did to them. Raises
    UsageError: the run is no evaluation of the file's, it cannot be written into weights, or the folder is there.
    DataError, StoreError: its vector cannot be read."""
    if output.exists():
        raise UsageError(f"{output} is there already: name a folder that is not")
    with session.stores.read() as store:
        row = steered_row(store, run_id)
    try:
        subject, cell = stored_subject(session, row)
    except LeftOutError as error:
        raise UsageError(f"run {shown(run_id)} cannot be baked: {error}") from None
    vector = stored_plan(session, cell, base.Stored(run_id, "FINISHED", None, row)).vector
    assert cell.steering is not None
    assert vector is not None
    n_blocks = session.models.description(subject.model, subject.model.instruct).shape.n_layers
    intervention = intervention_of(cell.steering, vector, n_blocks)
    if reason := why_not(intervention, n_blocks):  # before weights are loaded
        raise UsageError(f"it cannot be baked: {reason}")
    model = session.models.get(subject.model, subject.model.instruct)
    if model.identity != cell.setting.model:
        raise UsageError(f"run {shown(run_id)} steered {cell.setting.model}, and the file's model is {model.identity}")
    questions = session.datasets.of(subject.trait).questions[:_COMPARED]
    baked = bake(model, intervention, [encode_chat(model, question) for question in questions])
    facts = {"run_id": run_id, "cell": json.loads(cell_json(cell))}
    _save(model, json.dumps(facts, indent=2), output)
    return baked


def _save(model: SteerableModel, facts: str, output: Path) -> None:
    begun = output.with_name(f".{output.name}.part")
    shutil.rmtree(begun, ignore_errors=True)
    try:
        model.model.save_pretrained(begun)
        model.tokenizer.save_pretrained(begun)
        (begun / "massact.json").write_text(f"{facts}\n", encoding="utf-8")
        begun.rename(output)
    except OSError as error:
        raise UsageError(f"cannot write {output}: {error.strerror or error}; name another --output") from error
    finally:
        shutil.rmtree(begun, ignore_errors=True)
