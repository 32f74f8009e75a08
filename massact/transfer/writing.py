"""Where an import writes: runs under one parent, which exists only where there is something to write."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from types import TracebackType

from massact.domain import DEFAULT_COHERENCE_FLOOR
from massact.schema import MlflowTag
from massact.tracking.bulk import RunWriter, WholeRun, open_writer
from massact.tracking.tags import parent_tags
from massact.tracking.tracker import OpenRun, Tracker
from massact.transfer.names import Target
from massact.transfer.report import ImportReport


class Sink(AbstractContextManager["Sink"]):
    """Takes whole runs, a chunk at a time. This one lets them go, for a dry run."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return None

    def write(self, runs: Sequence[WholeRun]) -> None:
        """Write a chunk: all of it or, where the store can, none."""

    def finish(self, report: ImportReport) -> None:
        """Keep what came of the import."""


class StoreSink(Sink):
    """Writes into the run store, as children of one run of the phase `import`."""

    def __init__(
        self,
        tracking_uri: str,
        target: Target,
        params: Mapping[str, object],
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """`check` raises where another import writes into the experiment too."""
        self._tracking_uri = tracking_uri
        self._target = target
        self._params = params
        self._check = check
        self._stack = ExitStack()
        self._opened: tuple[Tracker, OpenRun, RunWriter] | None = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return self._stack.__exit__(kind, error, trace)

    def write(self, runs: Sequence[WholeRun]) -> None:
        """Write a chunk.

        Raises:
            StoreError: it cannot be written; chunks before it stay.
        """
        if not runs:
            return
        self._check()
        _, parent, writer = self._opened = self._opened or self._open()
        tags = parent_tags(parent.run_id)
        writer.write([replace(run, tags={**run.tags, **tags}) for run in runs])

    def finish(self, report: ImportReport) -> None:
        """Keep the report's counts and notes on the parent run, where there is one."""
        if self._opened is None:
            return
        tracker, parent, _ = self._opened
        totals = report.totals
        names = ("read", "imported", "already_there", "refused", "headers", "blank")
        tracker.log(parent, metrics={f"lines_{name}": float(getattr(totals, name)) for name in names})
        lines = [
            f"- {file.path}: {file.counts.imported} of {file.counts.read} lines" for file in report.files
        ]
        tracker.set_tag(parent, MlflowTag.NOTE.value, "Imported:\n\n" + "\n".join(lines))

    def _open(self) -> tuple[Tracker, OpenRun, RunWriter]:
        config = self._target.config
        tracker = Tracker(
            self._tracking_uri,
            self._target.experiment,
            description=config.description if config else "",
            floor=config.coherence_floor if config else DEFAULT_COHERENCE_FLOOR,
        )
        parent = self._stack.enter_context(tracker.phase("import", params=self._params))
        writer = open_writer(self._tracking_uri, parent.experiment_id)
        self._stack.callback(writer.close)
        return tracker, parent, writer
