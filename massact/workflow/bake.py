"""A stored evaluation's intervention written into the weights of its model, as a checkpoint."""

import json
import shutil
from pathlib import Path

from massact.errors import UsageError
from massact.keys import cell_json
from massact.models.bake import Baked, bake
from massact.models.load import SteerableModel
from massact.models.prompting import encode_chat
from massact.sweep.context import Session
from massact.sweep.stored import stored_intervention

_PROMPTS = 4
"""Of the trait's questions: what logits are compared on."""


def bake_run(session: Session, run_id: str, output: Path) -> Baked:
    """Write the checkpoint: the weights that were steered, with what the evaluation of a run did to them.

    Raises:
        UsageError: the run is no evaluation of the file's, it cannot be written into weights, or the folder is there.
        DataError, StoreError: its vector cannot be read.
    """
    if output.exists():
        raise UsageError(f"{output} is there already: name a folder that is not")
    stored = stored_intervention(session, run_id)
    model = stored.model
    questions = session.datasets.of(stored.subject.trait).questions[:_PROMPTS]
    baked = bake(model, stored.intervention, [encode_chat(model, question) for question in questions])
    facts = {"run_id": run_id, "cell": json.loads(cell_json(stored.cell))}
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
