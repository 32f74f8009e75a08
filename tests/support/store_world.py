"""A real SQLite store, and the oracle's history of it: what happens to one happens to both."""

import json
import os
import random
import shutil
import sqlite3
import uuid
from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from massact.errors import StoreError
from massact.interop.names import Target
from massact.store.write.client import connect
from massact.store.write.run_writer import FinishedRun, evaluation_run, open_writer
from tests.support.oracle import History
from tests.support.store_events import (
    ELSEWHERE,
    FILE_TIME,
    HOME,
    Delete,
    DeleteHome,
    Finish,
    Import,
    Log,
    Restore,
    RestoreHome,
)
from tests.support.store_fixtures import EXPERIMENT, evaluation_row
from tests.support.transfer_files import header, import_to_store, write_lines

TARGET = Target(EXPERIMENT, model="gemma", trait="refusal")


class Store:
    """A real store and the oracle's history of it; `do` lets an event happen to both."""

    def __init__(self, template: Path, folder: Path, seed: int) -> None:
        self.folder = folder
        self.path = folder / "store.db"
        shutil.copy(template, self.path)
        self.uri = f"sqlite:///{self.path}"
        self.client = connect(self.uri)
        self.home_ids = {name: self.client.create_experiment(name) for name in (HOME, ELSEWHERE)}
        self.history = History(self.home_ids)
        self.keys: dict[tuple[Any, ...], str] = {}
        self._ids = random.Random(seed)

    def do(self, event: Any) -> None:
        """Let an event happen, as far as it can."""
        # run ids that a failing example keeps: they settle which of two runs of one end counts
        with mock.patch("uuid.uuid4", side_effect=self._new_id):
            getattr(self, f"_{type(event).__name__.lower()}")(event)

    def _new_id(self) -> uuid.UUID:
        return uuid.UUID(int=self._ids.getrandbits(128), version=4)

    def _log(self, event: Log) -> None:
        run = _whole_run(event)
        if not self.history.is_home_active[event.home]:
            with pytest.raises(StoreError, match="was deleted"):
                open_writer(self.uri, self.home_ids[event.home])
            return
        if event.status == "RUNNING":
            made = self.client.create_run(self.home_ids[event.home], start_time=1, tags=run.all_tags)
            run_id = made.info.run_id
        else:
            with closing(open_writer(self.uri, self.home_ids[event.home])) as writer:
                [run_id] = writer.write([run])
        ended = None if event.status == "RUNNING" else event.end
        self._add(run_id, event.home, event.status, ended, {**event.fields, "kind": "evaluation", "line": None})

    def _add(self, run_id: str, home: str, status: str, end: int | None, fields: dict[str, Any]) -> None:
        where = {"id": run_id, "home": home, "status": status, "end": end, "active": True}
        self.history.runs[run_id] = {**fields, **where, "model": "gemma", "trait": "refusal"}

    def _picked(self, index: int, runs: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
        found = list(runs)
        return found[index % len(found)] if found else None

    def _finish(self, event: Finish) -> None:
        all_runs = self.history.runs.values()
        running = (run for run in all_runs if run["status"] == "RUNNING" and run["active"])
        if run := self._picked(event.index, running):
            self.client.set_terminated(run["id"], "FINISHED", end_time=event.end)
            run.update(status="FINISHED", end=event.end)

    def _delete(self, event: Delete) -> None:
        if run := self._picked(event.index, self.history.runs.values()):
            self.client.delete_run(run["id"])
            run["active"] = False

    def _restore(self, event: Restore) -> None:
        if run := self._picked(event.index, self.history.runs.values()):
            self.client.restore_run(run["id"])
            run["active"] = True

    def _deletehome(self, event: DeleteHome) -> None:
        if self.history.is_home_active[event.home]:
            self.client.delete_experiment(self.home_ids[event.home])
            self.history.delete_home(event.home)

    def _restorehome(self, event: RestoreHome) -> None:
        if not self.history.is_home_active[event.home]:
            self.client.restore_experiment(self.home_ids[event.home])
            self.history.restore_home(event.home)

    def _import(self, event: Import) -> None:
        texts = [line["text"] for line in event.lines]
        path = write_lines(self.folder / "results.jsonl", [header(), *texts])
        os.utime(path, (FILE_TIME / 1000, FILE_TIME / 1000))
        wanted = {line["text"]: line for line in self.history.to_import(event.lines)}
        if wanted and not self.history.is_home_active[HOME]:
            with pytest.raises(StoreError, match="was deleted"):
                import_to_store(self.uri, path, TARGET)
            return
        totals = import_to_store(self.uri, path, TARGET).totals
        assert (totals.imported, totals.refused) == (len(wanted), 0)
        new = self._imported()
        assert sorted(text for _, _, text, _ in new) == sorted(wanted)
        for run_id, end, text, row in new:
            self._check(wanted[text], row, end)
            given = {"key": row["key"], "setting": row["setting"], "direction": "positive", "error": None}
            fields = {**wanted[text], **given, "line": text}
            self._add(run_id, HOME, "FINISHED", end, fields)

    def _imported(self) -> list[tuple[str, int, str, dict[str, Any]]]:
        """The imported runs that the history does not know yet: id, end, line and row."""
        query = (
            "SELECT r.run_uuid, r.end_time, i.value, w.value FROM runs r "
            "JOIN tags i ON i.run_uuid = r.run_uuid AND i.key = 'massact.imported' "
            "JOIN tags w ON w.run_uuid = r.run_uuid AND w.key = 'massact.row'"
        )
        with closing(sqlite3.connect(self.path)) as database:
            found = database.execute(query).fetchall()
        return [
            (run_id, end, json.loads(tag)["line"], json.loads(row))
            for run_id, end, tag, row in found
            if run_id not in self.history.runs
        ]

    def _check(self, line: dict[str, Any], row: dict[str, Any], end: int) -> None:
        """A row says what its line says, and two lines have one key where they are of one cell."""
        names = {"coherence": "coherence_mean", "baseline": "baseline_trait_mean"}
        same = ("kind", "position", "label", "layer", "coefficient", "trait_mean", "coherence", "baseline", "delta")
        assert {name: row.get(names.get(name, name)) for name in same} == {name: line[name] for name in same}
        assert end == line["end"]
        cell = tuple(line[name] for name in ("kind", "judge", "position", "label", "layer", "coefficient"))
        if end == FILE_TIME:  # a line without a time is a cell of its own
            cell += (line["trait_mean"], line["coherence"])
        assert self.keys.setdefault(cell, row["key"]) == row["key"]
        assert len(set(self.keys.values())) == len(self.keys)


def _whole_run(event: Log) -> FinishedRun:
    fields = {name: value for name, value in event.fields.items() if name != "error"}
    names = {"coherence": "coherence_mean", "baseline": "baseline_trait_mean"}
    row = evaluation_row(**{names.get(name, name): value for name, value in fields.items()})
    tags = {"massact.error": event.fields["error"]} if event.fields["error"] else {}
    run = evaluation_run(row, None, name="run", started_at=1, finished_at=event.end, tags=tags)
    return run if event.status == "RUNNING" else replace(run, status=event.status)
