"""What a process that ended left in the spool."""

import time
from contextlib import closing
from pathlib import Path

from massact.addresses import stored_uri
from massact.store.schema import Tag
from massact.store.spool.journal import Home, Opening, RunRecord, create_journal, encode
from massact.store.write.run_writer import evaluation_run
from tests.support.doctor_store import Made
from tests.support.store_fixtures import EXPERIMENT, evaluation_row


def leave(made: Made, spool: Path, *layers: int, store: str | None = None) -> Path:
    """The journal of a process that ended before it sent one evaluation a layer."""
    place, now = stored_uri(store or made.uri), int(time.time() * 1000)
    opening = Opening(place, EXPERIMENT, "host", 1, now)
    with closing(create_journal(spool, encode(opening))) as journal:
        for layer in layers:
            id_ = f"{layer:032x}"
            row = evaluation_row("probe", layer, vector_digest=None, origin="imported")
            run = evaluation_run(row, None, started_at=now - 10, finished_at=now, tags={Tag.SPOOL.value: id_})
            journal.append([encode(RunRecord(id_, Home(place, made.phase.experiment_id), run))])
        return journal.path
