"""A stored evaluation's intervention written into the weights of its model, as a checkpoint."""

import json
import shutil
from pathlib import Path

from massact.errors import UsageError
from massact.keys import cell_json
from massact.models.bake import Baked, bake, why_not
from massact.models.load import SteerableModel
from massact.models.prompting import encode_chat
from massact.names import shown
from massact.store.read.base import Stored
from massact.sweep.context import Session
from massact.sweep.stored import LeftOutError, stored_plan, stored_subject
from massact.vectors.steering import intervention_of
from massact.workflow.show import steered_row

_PROMPTS = 4  # of the trait's questions: what logits are compared on


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
    vector = stored_plan(session, cell, Stored(run_id, "FINISHED", None, row)).vector
    assert cell.steering is not None
    assert vector is not None
    n_blocks = session.models.description(subject.model, subject.model.instruct).shape.n_layers
    one = intervention_of(cell.steering, vector, n_blocks)
    if reason := why_not(one, n_blocks):  # before weights are loaded
        raise UsageError(f"it cannot be baked: {reason}")
    model = session.models.get(subject.model, subject.model.instruct)
    if model.identity != cell.setting.model:
        raise UsageError(f"run {shown(run_id)} steered {cell.setting.model}, and the file's model is {model.identity}")
    questions = session.datasets.of(subject.trait).questions[:_PROMPTS]
    baked = bake(model, one, [encode_chat(model, question) for question in questions])
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
