"""Whole runs through MLflow's client, for tracking servers: a run is made, filled and then ended."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from massact.schema import Tag
from massact.tracking.bulk_files import explained, write_files
from massact.tracking.creation import request_run
from massact.tracking.process import process_tag
from massact.tracking.tracker import log_in_batches
from massact.tracking.whole_run import WholeRun, check_runs

_PAGE = 1000


@dataclass(frozen=True, slots=True)
class _Held:
    """A run that the server holds already."""

    run_id: str
    status: str
    artifact_uri: str
    is_deleted: bool


class ClientWriter:
    """One run after the other; one that was cut off stays RUNNING, which no query counts."""

    at_once = 1
    """Each run is sent by itself, and so can be told apart when the server fails between two."""

    def __init__(self, uri: str, experiment_id: str, client: Any) -> None:
        self._uri = uri
        self._experiment_id = experiment_id
        self._client = client

    def write(self, runs: Sequence[WholeRun]) -> list[str]:
        """Write all of them, or as many as went well before an error.

        Raises:
            StoreError: a run cannot be written, before any was; or the server does not answer any more.
        """
        check_runs(runs)
        with explained(self._uri):
            return [self._write(run) for run in runs]

    def write_once(self, records: Mapping[str, WholeRun], *, look: bool) -> set[str]:
        """Write runs that carry their record's id as a tag; see `massact.tracking.bulk.RunWriter`.

        One that an earlier attempt left half written is completed, whatever its status is now.
        """
        check_runs(records.values())
        with explained(self._uri):
            held = self._held(records) if look else {}
            there = {id_ for id_, run in held.items() if run.status == records[id_].status}
            for id_, run in records.items():
                if id_ in there:
                    continue
                half = held.get(id_)
                run_id, artifact_uri = (half.run_id, half.artifact_uri) if half else self._create_once(run)
                self._fill(run_id, artifact_uri, run)
        return there

    def close(self) -> None:
        """Nothing to let go of: MLflow's client shares its connections."""

    def _write(self, run: WholeRun) -> str:
        created = self._client.create_run(
            self._experiment_id, start_time=run.started_at, tags=run.all_tags, run_name=run.name
        )
        run_id = str(created.info.run_id)
        self._fill(run_id, str(created.info.artifact_uri), run)
        return run_id

    def _fill(self, run_id: str, artifact_uri: str, run: WholeRun) -> None:
        # what is there already of a run that was cut off stays as it is: the values are the same
        log_in_batches(self._client, run_id, run.params, run.history, timestamp=run.finished_at)
        write_files([(artifact_uri, run.files)], self._uri)
        self._client.set_terminated(run_id, status=run.status, end_time=run.finished_at)

    def _create_once(self, run: WholeRun) -> tuple[str, str]:
        """Make a run by one request. Returns its id and artifact URI."""
        return request_run(
            self._uri,
            self._experiment_id,
            name=run.name,
            started_at=run.started_at,
            tags={**run.all_tags, Tag.PROCESS.value: process_tag()},
        )

    def _held(self, records: Mapping[str, WholeRun]) -> dict[str, _Held]:
        """By record, the run that the server holds: where there are several, one that is whole."""
        found: dict[str, _Held] = {}
        for id_, run in self._runs_of_the_time(records):
            if id_ not in records:
                continue
            is_whole = run.status == records[id_].status
            # one that was deleted half written cannot be completed: it is as if it had not been
            if is_whole or (id_ not in found and not run.is_deleted):
                found[id_] = run
        return found

    def _runs_of_the_time(self, records: Mapping[str, WholeRun]) -> Iterator[tuple[str, _Held]]:
        """Runs that went through a spool and began when these did, with their records' ids.

        By time, since the server's search knows no list of a tag's values, and has no index on one.
        """
        from mlflow.entities import ViewType

        starts = [run.started_at for run in records.values()]
        within = f"attributes.start_time >= {min(starts)} AND attributes.start_time <= {max(starts)}"
        token: str | None = None
        while True:
            page = self._client.search_runs(
                [self._experiment_id],
                filter_string=within,
                run_view_type=ViewType.ALL,
                max_results=_PAGE,
                page_token=token,
            )
            for run in page:
                info, record_id = run.info, run.data.tags.get(Tag.SPOOL.value)
                if record_id is not None:
                    yield (
                        record_id,
                        _Held(info.run_id, info.status, info.artifact_uri, info.lifecycle_stage != "active"),
                    )
            token = page.token
            if not token:
                return
