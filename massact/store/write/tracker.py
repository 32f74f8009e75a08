"""Writing runs. Every run is created, filled and only then marked finished; until then no query counts it."""

import json
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from massact.addresses import check_path, first_line, is_database, moved_folder, shown_uri
from massact.errors import MassactError, StoreError, UnusableStoreError
from massact.floors import as_floor
from massact.store.databases import of_database
from massact.store.retry import Patience, StoreLostError, held_back, is_outage
from massact.store.schema import Declared, Kind, MlflowTag, Tag, encode_declared
from massact.store.write.artifacts import fetch_from
from massact.store.write.client import (
    connect,
    explained,
    find_run,
    fit_tag,
    log_in_batches,
    make_run,
    parent_tags,
    process_tag,
    run_tags,
    without_password,
)
from massact.store.write.database import write_tags
from massact.store.write.finished_run import FinishedRun, Step
from massact.store.write.run_writer import open_writer

T = TypeVar("T")
PROJECT_RUN = "MLFLOW_RUN_ID"

# The MLflow experiment that an experiment file's runs lie in.


def ensure_experiment(client: Any, tracking_uri: str, name: str, description: str) -> str:
    """The id of the MLflow experiment of a name, made where there is none; StoreError where it was deleted."""
    with explained(tracking_uri):
        known = client.get_experiment_by_name(name)
        if known is None:
            if is_database(tracking_uri):
                check_path(Path.cwd(), "the working directory, where artifacts would go,")
            return _create(client, name, description)
        if known.lifecycle_stage != "active":
            raise StoreError(
                f"the MLflow experiment {name!r} was deleted: restore it "
                f"(mlflow experiments restore --experiment-id {known.experiment_id}) or give the file another name"
            )
        _check_in_place(client, tracking_uri, known)
        return str(known.experiment_id)


def _create(client: Any, name: str, description: str) -> str:
    note = {MlflowTag.NOTE.value: description} if description else {}
    try:
        return str(client.create_experiment(name, tags=note))
    except Exception:
        # another process that began at the same time may have been faster
        made = client.get_experiment_by_name(name)
        if made is None or made.lifecycle_stage != "active":
            raise
        return str(made.experiment_id)


def _check_in_place(client: Any, tracking_uri: str, experiment: Any) -> None:
    """New artifacts must not go to where the store was before it was moved."""
    place = moved_folder(str(experiment.artifact_location), tracking_uri)
    if place is None:
        return
    runs = client.search_runs([experiment.experiment_id], max_results=100)
    if any((place / run.info.run_id).is_dir() for run in runs):
        raise UnusableStoreError(
            f"the run store was moved or copied: it says that artifacts of {experiment.name!r} are in "
            f"{experiment.artifact_location}, and not beside it in {place}. Run `massact doctor --experiment "
            f"{experiment.name} --fix`, which writes the new place into the store, or use it where it was; questions "
            "about it need neither"
        )


# Shared views of the MLflow UI: without one, its runs table opens on another page and shows no metric.

EVALUATIONS, PHASES = "evaluations", "phases"
VIEW_TAG = "mlflow.sharedViewState."

_METRICS, _PARAMS = ("coefficient", "coherence_mean", "delta", "layer"), ("label", "model", "position")
"""Few enough for a laptop's screen. The table puts metrics before params, so layer and coefficient are metrics."""
_PHASE_COLUMNS = ("metrics.`coherence_mean`", "metrics.`delta`", f"tags.`{Tag.VERDICT}.criterion`")
"""What a phase came to, and its evaluations: as many as fit beside the assistant's panel."""
_BY_START = "attributes.start_time"
"""The order in which the table nests runs under their parents; in any other it lists them flat."""


def view_tags(floor: float, metrics: Sequence[str] = (), params: Sequence[str] = _PARAMS) -> dict[str, str]:
    """Experiment tags that define the views: evaluations by delta above the floor, and phases. `metrics`: columns that
    an experiment has besides those of all; `params`: those that it has."""
    asked = as_floor(floor)
    limit = f"metrics.{'coherence_mean' if asked.is_coherence else asked.metric} {'<=' if asked.is_most else '>='}"
    above = f"tags.`{Tag.KIND}` = '{Kind.EVALUATION}' and {limit} {asked.limit:g}"
    columns = [f"metrics.`{name}`" for name in (*_METRICS, *metrics)]
    columns += [f"params.`{name}`" for name in params]
    views = {EVALUATIONS: _state(columns, above, "metrics.`delta`"), PHASES: _state(_PHASE_COLUMNS, "", _BY_START)}
    return {f"{VIEW_TAG}{view}": state for view, state in views.items()}


def view_link(address: str, experiment_id: str, view: str) -> str:
    """A link that opens the runs table in a view."""
    return f"{address}/{_place(experiment_id, view)}"


def with_view_links(note: str, experiment_id: str) -> str:
    """An experiment's description with links to the views, once; what people wrote there stays. They come first, since
    the UI shows one line of it, and hold no address, so that they lead to whoever shows them."""
    evaluations, phases = _place(experiment_id, EVALUATIONS), _place(experiment_id, PHASES)
    if f"({evaluations})" in note:
        return note
    links = f"Open [evaluations by delta above the floor]({evaluations}) or [phases]({phases})."
    return f"{links}\n\n{note}" if note.strip() else links


def _place(experiment_id: str, view: str) -> str:
    return f"#/experiments/{experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={view}"


def _state(columns: Sequence[str], search: str, order: str) -> str:
    view = {"selectedColumns": columns, "searchFilter": search, "orderByKey": order, "orderByAsc": False}
    return json.dumps({**view, "viewMaximized": True})


@dataclass(frozen=True, slots=True)
class OpenRun:
    """A run that is being written."""

    run_id: str
    experiment_id: str
    artifact_uri: str


class Tracker:
    """Writes to one tracking store, for one experiment file."""

    def __init__(
        self,
        tracking_uri: str,
        experiment: str,
        *,
        description: str = "",
        floor: float,
        patience: Patience | None = None,
        declared: Declared | None = None,
        say: Callable[[str], None] = lambda _line: None,
    ) -> None:
        """Connect, and create the MLflow experiment where it does not exist.
        `description`: of the experiment, for the UI. `floor`: the coherence floor that the UI's views show. `patience`:
        with a store that is down once a phase was begun; `None`: none. `declared`: what the experiment file declares,
        which phases keep in the store; `None`: no file does. `say`: told in one line what could not be kept."""
        self.tracking_uri = tracking_uri
        self.experiment = experiment
        self._floor = floor
        self.columns: tuple[Sequence[str], Sequence[str]] = ((), _PARAMS)  # of the UI's views; see `view_tags`
        self._patience = patience or Patience(0)
        self._declared, self._say = declared, say
        self._client = connect(tracking_uri, say=say)
        self.experiment_id = ensure_experiment(self._client, tracking_uri, experiment, description)
        self._places: dict[str, str] = {}  # where artifacts of runs lie, which never changes
        self.shown_experiment_id = self.experiment_id
        """MLflow experiment of the last phase: under `mlflow run` the one that it chose."""

    def _ask(self, attempt: Callable[[], T]) -> T:
        """Something that may be asked twice: the second time changes nothing."""
        with self._explained():
            return self._patience.ask(attempt)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """A database that refuses for good, in one line."""
        try:
            yield
        except Exception as error:
            cause = of_database(error)
            if isinstance(error, MassactError) or cause is None or is_outage(error):
                raise
            why = without_password(getattr(cause, "orig", None) or error, self.tracking_uri)
            raise UnusableStoreError(f"tracking store {shown_uri(self.tracking_uri)}: {why}") from error

    def _describe(self, experiment_id: str) -> None:
        """Its views, and what the file declares, for questions that are asked without the file."""

        tags = view_tags(self._floor, *self.columns)
        note = self._ask(partial(self._client.get_experiment, experiment_id)).tags.get(MlflowTag.NOTE, "")
        linked = with_view_links(note, experiment_id)
        if linked != note:
            tags[MlflowTag.NOTE] = linked
        self._tag_experiment(experiment_id, tags)
        if self._declared is None:
            return
        try:
            self._tag_experiment(experiment_id, encode_declared(self._declared, at=int(time.time() * 1000)))
        except Exception as error:  # no phase fails for that
            self._say(
                f"warning: the store does not keep what the experiment file declares ({first_line(error)}): "
                "questions about what is missing need the file"
            )

    def _tag_experiment(self, experiment_id: str, tags: Mapping[str, str]) -> None:
        for key, value in tags.items():
            attempt = partial(self._client.set_experiment_tag, experiment_id, key, value)
            try:
                self._ask(attempt)
            except Exception:  # another process set it first, in the same moment
                self._ask(attempt)

    @contextmanager
    def phase(
        self, name: str, *, kind: Kind = Kind.PHASE, parent: OpenRun | None = None, params: Mapping[str, object]
    ) -> Iterator[OpenRun]:
        """An entry point's run: the one that `mlflow run` made, where this is its outermost one. It ends FINISHED, or
        FAILED with the error's first line as a tag, or KILLED when interrupted."""
        with self._writing(lambda: self._open_phase(name, kind, parent)) as run:
            if parent is None:
                self._describe(run.experiment_id)
                self.shown_experiment_id = run.experiment_id
            self._patience.is_under_way = True
            known = self._get(run.run_id).data.params  # `mlflow run` has logged some already
            fresh = {key: value for key, value in params.items() if value is not None and key not in known}
            self.log(run, params={key: str(value) for key, value in fresh.items()})
            yield run

    def write(self, run: FinishedRun, parent: OpenRun) -> None:
        """Write a finished run where another lies, once, however often it has to be tried."""
        id_ = uuid.uuid4().hex
        records = {id_: replace(run, tags={**run.tags, Tag.SPOOL.value: id_})}

        def attempt() -> None:
            writer = open_writer(self.tracking_uri, parent.experiment_id)
            try:
                writer.write_once(records, look=True)
            finally:
                writer.close()

        self._ask(attempt)

    @contextmanager
    def _writing(self, make: Callable[[], OpenRun]) -> Iterator[OpenRun]:
        """A run that does not stay open, whatever happens: an interruption waits until it is known."""
        with ExitStack() as holding:
            holding.enter_context(held_back())
            run = make()
            try:
                holding.close()
                yield run
                holding.enter_context(held_back())
            except (KeyboardInterrupt, SystemExit):
                self._end_badly(run, "KILLED", "interrupted")
                raise
            except BaseException as error:
                self._end_badly(run, "FAILED", f"{type(error).__name__}: {error}")
                raise
            self._end(run, "FINISHED")

    def _end_badly(self, run: OpenRun, status: str, error: str) -> None:
        """End a run after an error, which a store that is down must not hide: `massact doctor` ends it then."""
        self._patience.is_under_way = False
        try:
            self._end(run, status, error=error)
        except Exception as second:
            if not is_outage(second):
                raise

    def _open_phase(self, name: str, kind: Kind, parent: OpenRun | None) -> OpenRun:
        tags = run_tags(kind, self.experiment, name) | {Tag.PROCESS.value: process_tag(), Tag.PHASE.value: name}
        if parent is not None:
            return self._create(parent.experiment_id, tags | parent_tags(parent.run_id), name)
        if not (run_id := os.environ.get(PROJECT_RUN)):
            return self._create(self.experiment_id, tags, name)
        info = self._get(run_id).info  # the run that `mlflow run` made for this process
        for key, value in tags.items():
            self._ask(partial(self._client.set_tag, run_id, key, value))
        return OpenRun(run_id, str(info.experiment_id), str(info.artifact_uri))

    def _create(self, experiment_id: str, tags: Mapping[str, str], name: str) -> OpenRun:
        about: dict[str, Any] = {"name": name, "started_at": int(time.time() * 1000), "tags": tags}
        with self._explained():
            run_id, artifact_uri = self._patience.ask(
                partial(make_run, self._client, self.tracking_uri, experiment_id, **about),
                before_again=partial(find_run, self._client, experiment_id, **about),
            )
        return OpenRun(run_id, experiment_id, artifact_uri)

    def log(
        self,
        run: OpenRun,
        *,
        params: Mapping[str, str] | None = None,
        metrics: Mapping[str, float] | None = None,
        steps: Sequence[Step] = (),
    ) -> None:
        """Log params and metrics in as few requests as the server's limits allow."""
        values = [Step(key, value, 0) for key, value in (metrics or {}).items()]
        now = int(time.time() * 1000)
        self._ask(lambda: log_in_batches(self._client, run.run_id, params or {}, [*values, *steps], at=now))

    def _get(self, run_id: str) -> Any:
        return self._ask(lambda: self._client.get_run(run_id))

    def metrics(self, run_id: str) -> dict[str, float]:
        """The last value of each metric of a run."""
        return dict(self._get(run_id).data.metrics)

    def tags(self, run_id: str) -> dict[str, str]:
        """The tags of a run."""
        return dict(self._get(run_id).data.tags)

    def set_tag(self, run: OpenRun, key: str, value: str) -> None:
        """Set a tag; a text longer than MLflow keeps is cut where a line ends, and says so."""
        self._ask(lambda: self._client.set_tag(run.run_id, key, fit_tag(value)))

    def set_notes(self, notes: Mapping[str, str]) -> None:
        """Set the notes of many runs, by run id: of a database in one transaction."""
        texts = {run_id: fit_tag(text) for run_id, text in notes.items()}
        if is_database(self.tracking_uri):
            self._ask(lambda: write_tags(self.tracking_uri, MlflowTag.NOTE.value, texts))
            return
        for run_id, text in texts.items():
            self._ask(partial(self._client.set_tag, run_id, MlflowTag.NOTE.value, text))

    def set_tags(self, run: OpenRun, tags: Mapping[str, str]) -> None:
        """Set tags in one request, which is made once: whoever asks for it knows whether it may wait."""
        from mlflow.entities import RunTag

        self._client.log_batch(run.run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def status(self, run_id: str) -> str:
        """MLflow's status of a run, such as `FINISHED`."""
        return str(self._client.get_run(run_id).info.status)

    @contextmanager
    def artifacts(self, run: OpenRun) -> Iterator[Path]:
        """A folder whose files become the run's artifacts when the block ends."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        with tempfile.TemporaryDirectory(prefix="massact-") as folder:
            yield Path(folder)
            repository = get_artifact_repository(run.artifact_uri, tracking_uri=self.tracking_uri)
            self._ask(lambda: repository.log_artifacts(folder))  # type: ignore[no-untyped-call]

    def fetch(self, run_id: str, path: str) -> Path:
        """An artifact on this machine: where it lies, or a downloaded copy; StoreError where it cannot be had."""
        from mlflow.exceptions import MlflowException

        def download() -> Path:
            if run_id not in self._places:
                self._places[run_id] = str(self._client.get_run(run_id).info.artifact_uri)
            return fetch_from(self._places[run_id], path, tracking_uri=self.tracking_uri)

        try:
            return self._patience.ask(download, is_passing=lambda error: is_outage(error) and self._is_down())
        except (MlflowException, StoreError) as error:
            if isinstance(error, StoreLostError):
                raise
            why = error if isinstance(error, StoreError) else first_line(error)
            raise StoreError(f"run {run_id} has no artifact {path!r}: {why}") from error

    def _is_down(self) -> bool:
        """A server answers 500 where an artifact is missing, as it does when it is broken."""
        try:
            self._client.search_experiments(max_results=1)
        except Exception as error:
            return is_outage(error)
        return False

    def discard(self, run: OpenRun) -> None:
        """Delete a run that came to nothing, where that is allowed; the one that `mlflow run` made stays."""
        if run.run_id != os.environ.get(PROJECT_RUN):
            with suppress(Exception):
                self._client.delete_run(run.run_id)

    def _end(self, run: OpenRun, status: str, *, error: str | None = None) -> None:
        if error is not None:
            self._ask(lambda: self._client.set_tag(run.run_id, Tag.ERROR.value, error[:1000]))
        self._ask(lambda: self._client.set_terminated(run.run_id, status=status))
