"""The run store of one command: its writer, its reader, and the spool on the way to it."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from massact.config import Experiment
from massact.domain import DEFAULT_OPERATOR, STEERED_TOKENS
from massact.errors import MassactError, StoreError
from massact.labels import parse_label
from massact.query.load import declared_by_data
from massact.store.claims import Sharing
from massact.store.read import RunStore, open_patient_store, stored_runs
from massact.store.retry import Patience, StoreLostError
from massact.store.schema import Kind
from massact.store.spool import Spool, send_leftovers
from massact.store.write.artifacts import fetch_from
from massact.store.write.database import undo_cut_off_write
from massact.store.write.tracker import OpenRun, Tracker
from massact.sweep.executors import Workload
from massact.sweep.executors.base import Executor

Say = Callable[[str], None]
_NOT_SHOWN = ("distinct_2", "longest_loop", "length")  # metrics whose column would take too much of a screen
PARTING_SECONDS = 30.0  # how long an ending command waits for the spools of other machines


def view_columns(experiment: Experiment) -> tuple[list[str], list[str]]:
    """Metrics, besides those of all, and params that tell an experiment's evaluations apart in MLflow's table."""
    recipes = [parse_label(label) for phase in experiment.phases for label in phase.labels]
    grids = [model.grid for model in experiment.models] + [grid for p in experiment.phases for _, grid in p.grids]
    used = {
        "label": True,
        "model": len(experiment.models) > 1,
        "trait": len(experiment.traits) > 1,
        "position": len({position for phase in experiment.phases for position in phase.positions}) > 1,
        "operator": any(recipe.operator != DEFAULT_OPERATOR for recipe in recipes),
        "n_vectors": any(recipe.n_layers > 1 or recipe.depth for recipe in recipes),
        "depth": any(recipe.depth for recipe in recipes),
        "steered_tokens": any(recipe.tokens != STEERED_TOKENS for recipe in recipes),
        "decay": any(recipe.decay for recipe in recipes),
        "gate": any(recipe.gate for recipe in recipes),
    }
    metrics = [name for name in experiment.metrics if name not in _NOT_SHOWN]
    if any(grid.coefficients.is_relative for grid in grids):
        metrics.insert(0, "relative_strength")
    return metrics, [name for name, is_used in used.items() if is_used]


class Stores:
    """The run store of one command, written and read, and the spool on the way to it."""

    def __init__(self, experiment: Experiment, tracking_uri: str, workload: Workload, say: Say) -> None:
        self.tracking_uri = tracking_uri
        self.patience = Patience(workload.store_timeout, say=say)
        self.is_dry = False  # whether nothing is to be written, and no weights loaded
        self.executor: Executor | None = None  # has spools of its own on other machines
        self._experiment, self._workload, self._say = experiment, workload, say
        self._artifact_uris: dict[str, str] | None = None
        self._spool: Spool | None = None
        self._sharing: Sharing | None = None
        self._has_sent_leftovers = False

    @cached_property
    def tracker(self) -> Tracker:
        """The writer; the first use creates the store where there is none."""
        tracker = Tracker(
            self.tracking_uri,
            self._experiment.name,
            description=self._experiment.description,
            floor=self._experiment.coherence_floor,
            patience=self.patience,
            declared=declared_by_data(self._experiment),
            say=self._say,
        )
        tracker.columns = view_columns(self._experiment)
        return tracker

    @property
    def is_written(self) -> bool:
        """Whether anything was written, or was to be."""
        return "tracker" in vars(self)

    @property
    def spool(self) -> Spool:
        """Where finished evaluations go; the first use makes the folder, or raises a SpoolFolderError."""
        if self._spool is None:
            self._spool = Spool(self._workload.spool, self.tracking_uri, self._experiment.name, say=self._say)
        return self._spool

    @contextmanager
    def read(self) -> Iterator[RunStore]:
        """The reader, of a store that has all that was evaluated. It is there once a run was opened."""
        self.settle()
        if not self.is_dry:
            undo_cut_off_write(self.tracking_uri)
        store = open_patient_store(self.tracking_uri, self.patience)
        try:
            yield store
            for warning in store.warnings:
                self._say(f"warning: {warning}")
        finally:
            store.close()

    def fetch(self, run_id: str, path: str) -> Path:
        """An artifact on this machine. Raises StoreError: the run holds no such artifact, or it cannot be had."""
        if not self.is_dry:
            return self.tracker.fetch(run_id, path)
        if self._artifact_uris is None:
            stages = (Kind.CALIBRATION, Kind.EXTRACTION)
            runs = stored_runs(self.tracking_uri, self._experiment.name, *stages, tags=())
            self._artifact_uris = {run.run_id: run.artifact_uri for run in runs}
        return fetch_from(self._artifact_uris[run_id], path, tracking_uri=self.tracking_uri)

    def sharing(self, run: OpenRun) -> Sharing:
        """What this command and others at once have taken, under the run of the phase that is at work."""
        if self._sharing is None or self._sharing.run_id != run.run_id:
            self._end_sharing()
            self._sharing = Sharing(self.tracker, run, patience=self.patience, say=self._say)
        return self._sharing

    def _end_sharing(self) -> None:
        if self._sharing is not None:
            self._sharing.close()

    def send_leftovers(self) -> None:
        """Send what earlier commands left in the spool for this store, lest it is evaluated again; else a
        StoreError."""
        if self._has_sent_leftovers:
            return
        folder = self._workload.spool
        reports = send_leftovers(folder, self.tracking_uri, say=self._say, only_here=True)
        left = sum(report.left - len(report.refused) for report in reports)
        left += self.executor.send_leftovers() if self.executor else 0
        if left > 0:
            raise StoreError(
                f"{left} evaluations of earlier commands wait in {folder} and cannot be sent now: see "
                "massact sync, or name another folder with --spool to evaluate those cells again"
            )
        self._has_sent_leftovers = True

    def settle(self) -> None:
        """Wait until the store has what was evaluated so far; StoreLostError where that takes too long."""
        timeout, began = self._workload.store_timeout, time.monotonic()
        left = self.executor.settle(timeout) if self.executor else 0
        if self._spool is not None:
            left += self._spool.flush(max(0.0, timeout - (time.monotonic() - began)))
        # what the store refused is left too, but not waited for; the spool tells of it when it is closed
        if left and time.monotonic() - began >= timeout:
            raise StoreLostError(
                f"{left} evaluations wait in {self._workload.spool}: the tracking store did not take them within "
                f"{timeout:g} s; massact sync sends them when it does again"
            )

    def close(self) -> int:
        """Send what can be sent in a few seconds, and let go of the spool. Returns how many evaluations wait there."""
        left = 0
        self._end_sharing()
        try:
            left = self.executor.close(PARTING_SECONDS) if self.executor else 0
        finally:
            left += self._spool.close() if self._spool else 0
        return left

    def close_after(self, _error: BaseException) -> None:
        """The same after an error, which what goes wrong now must not hide."""
        try:
            self.close()
        except MassactError as second:
            self._say(f"error: {second}")

    def abandon(self) -> None:
        """Let go of workers and of the spool at once: what was evaluated is on the disk."""
        self._end_sharing()
        for held in (self.executor, self._spool):
            if held is not None:
                held.abandon()
