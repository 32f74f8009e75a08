"""Figures kept from one report to the next: drawing takes most of its time, and a store mostly stays as it is."""

import hashlib
import json
import pickle
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from massact.addresses import write_whole
from massact.errors import UsageError
from massact.report.evidence import Evidence, Provenance
from massact.report.section import Picture

Drawn = Mapping[str, tuple[Picture, ...]]  # by the key of their section
_NOTHING = Provenance(n_evaluations=0)


def drawn_from(evidence: Evidence) -> str | None:
    """Digest of everything that figures show, and of massact's code; `None` where that cannot be told."""
    facts = replace(evidence.facts, generated_at=datetime.min, provenance=_NOTHING, run_link=None)
    seen = hashlib.sha256(version("matplotlib").encode())
    with suppress(pickle.PicklingError, AttributeError, TypeError):  # something of somebody else's is in it
        seen.update(pickle.dumps((evidence.experiment, evidence.answers, facts)))
        for file in sorted(Path(__file__).parents[1].rglob("*.py")):
            seen.update(file.read_bytes())
        return seen.hexdigest()
    return None


def read_kept(file: Path, key: str | None) -> Drawn | None:
    """The figures of the last report, where they were drawn from the same; else `None`."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        content = json.loads(file.read_bytes())
        if content["drawn_from"] == key:
            return {name: tuple(Picture(**one) for one in some) for name, some in content["pictures"].items()}
    return None


def keep(file: Path, key: str | None, drawn: Drawn) -> None:
    """Have them for the next report, if there is room."""
    pictures = {name: [asdict(one) for one in some] for name, some in drawn.items()}
    with suppress(OSError, UsageError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, [json.dumps({"drawn_from": key, "pictures": pictures}).encode()], "")
