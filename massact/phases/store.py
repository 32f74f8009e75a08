"""Reading the run store with patience: once work is under way, a store that is down is asked again."""

from collections.abc import Callable
from typing import Any, cast

from massact.schema import Kind
from massact.store import RunStore, open_store
from massact.store.base import NoRuns
from massact.store.contents import is_absent, stored_runs
from massact.store.reader import StoreReader
from massact.tracking.holding import uninterrupted
from massact.tracking.patience import Patience, is_unreadable


class _PatientStore:
    """Passes every reading on to a store that it opens, and opens anew after a failure."""

    def __init__(self, tracking_uri: str, patience: Patience) -> None:
        self._uri, self._patience = tracking_uri, patience
        self._store: RunStore | None = None
        self._warnings: list[str] = []
        self._patience.ask(uninterrupted(self._open), is_outage=is_unreadable)

    @property
    def warnings(self) -> list[str]:
        return [*self._warnings, *(self._store.warnings if self._store else [])]

    def close(self) -> None:
        if self._store is not None:
            self._warnings += self._store.warnings
            self._store.close()
        self._store = None

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def read(*args: Any, **kwargs: Any) -> Any:
            reading = uninterrupted(lambda: self._read(name, args, kwargs))
            return self._patience.ask(reading, is_outage=is_unreadable)

        return read

    def _read(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            return getattr(self._open(), name)(*args, **kwargs)
        except Exception:
            self.close()
            raise

    def _open(self) -> RunStore:
        if self._store is None:
            is_none = not self._patience.is_under_way and is_absent(self._uri)
            self._store = StoreReader(NoRuns()) if is_none else open_store(self._uri)
        return self._store


def open_patient_store(tracking_uri: str, patience: Patience) -> RunStore:
    """The run store at a tracking URI, read with patience; one that is not there yet holds nothing.

    Raises:
        StoreError: as `massact.store.open_store`.
    """
    return cast(RunStore, _PatientStore(tracking_uri, patience))


def artifact_places(tracking_uri: str, experiment: str) -> dict[str, str]:
    """By run id, where the artifacts of each calibration and extraction lie."""
    return {
        run.run_id: run.artifact_uri
        for kind in (Kind.CALIBRATION, Kind.EXTRACTION)
        for run in stored_runs(tracking_uri, experiment, kind, tags=())
    }
