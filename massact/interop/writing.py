"""What an import writes and reports: one at a time into an experiment, its runs under one parent, every line counted.

Whoever imports sets a tag of its own on the MLflow experiment and waits while another's stands: one is void once its
process has ended, or once it has not changed for a while, seen from here, so no clocks are compared.
"""

import json
import random
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import asdict, astuple, dataclass, field, replace
from threading import Event, Thread
from types import TracebackType
from typing import Any, TypeVar

from massact.addresses import shown_uri
from massact.domain import DEFAULT_COHERENCE_FLOOR
from massact.errors import StoreError
from massact.interop.names import Target
from massact.store.retry import Patience
from massact.store.schema import MlflowTag
from massact.store.schema.names import IMPORTING_TAG
from massact.store.write.client import connect, is_alive, parent_tags, process_tag, read_process, without_password
from massact.store.write.run_writer import FinishedRun, RunWriter, open_writer
from massact.store.write.tracker import OpenRun, Tracker, ensure_experiment

SHOWN_PER_FILE = 20  # refusals, and notes, that a report shows of each file; the rest is counted
OUTPUT_SCHEMA_VERSION = 1
_REASON_LENGTH = 300


@dataclass(frozen=True, slots=True)
class Refusal:
    file: str
    line: int  # from 1
    reason: str


@dataclass(slots=True)
class Counts:
    """Lines of a file, or of all; `read` is the sum of the others."""

    imported: int = 0
    already_there: int = 0
    refused: int = 0
    headers: int = 0
    blank: int = 0

    @property
    def read(self) -> int:
        return sum(astuple(self))

    def to_document(self) -> dict[str, int]:
        return {"read": self.read, **asdict(self)}


@dataclass(slots=True)
class FileReport:
    """One file of an import; a `calibration.json` counts as one line."""

    path: str
    kind: str
    counts: Counts = field(default_factory=Counts)
    refusals: list[Refusal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what is to be known and refuses no line

    def refuse(self, line: int, reason: str) -> None:
        """Count a refused line; its reason becomes one short line of text."""
        self.counts.refused += 1
        self.refusals.append(Refusal(self.path, line, " ".join(reason.split())[:_REASON_LENGTH]))


@dataclass(slots=True)
class ImportReport:
    """All files of an import, in the order they were read."""

    experiment: str
    files: list[FileReport] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def totals(self) -> Counts:
        return Counts(*map(sum, zip(*(astuple(file.counts) for file in self.files), strict=True)))

    @property
    def refusals(self) -> list[dict[str, Any]]:
        """Every refused line with `file`, `line` and `reason`."""
        return [asdict(refusal) for file in self.files for refusal in file.refusals]

    def to_document(self, *, dry_run: bool) -> dict[str, Any]:
        files = [
            {
                "path": file.path,
                "kind": file.kind,
                **file.counts.to_document(),
                "notes": file.notes[:SHOWN_PER_FILE],
                "n_notes": len(file.notes),
            }
            for file in self.files
        ]
        return {
            "schema_version": OUTPUT_SCHEMA_VERSION,
            "experiment": self.experiment,
            "dry_run": dry_run,
            "notes": self.notes,
            "totals": self.totals.to_document(),
            "files": files,
            "refusals": self.refusals,
        }


T = TypeVar("T")
_PATIENCE_SECONDS = 60.0


class ImportClaim(AbstractContextManager["ImportClaim"]):
    """Held while an import reads what is there and writes what is new."""

    def __init__(
        self,
        tracking_uri: str,
        experiment: str,
        *,
        description: str = "",
        say: Callable[[str], None] = lambda _line: None,
        beat_seconds: float = 5.0,
        silent_seconds: float = 60.0,
    ) -> None:
        """
        Args:
            description: of an MLflow experiment that is made for it.
            say: told in one line who is waited for.
            beat_seconds: how often the claim is renewed.
            silent_seconds: how long another's may stay the same before it is void.
        """
        self._uri, self._experiment, self._description = tracking_uri, experiment, description
        self._say, self._beat_seconds, self._silent_seconds = say, beat_seconds, silent_seconds
        self._key = f"{IMPORTING_TAG}.{uuid.uuid4().hex[:12]}"
        self._since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        self._beats = 0
        self._is_lost = False
        self._ended = Event()
        self._thread: Thread | None = None
        self._seen: dict[str, tuple[str, float]] = {}
        """Of others' claims the last value, and since when it has been that one."""

    def __enter__(self) -> "ImportClaim":
        """Wait until nobody else imports."""
        self._client = connect(self._uri)
        self._experiment_id = ensure_experiment(self._client, self._uri, self._experiment, self._description)
        try:
            self._ask(self._renew)
            while self._ask(self._others):
                self._ask(lambda: self._remove(self._key))
                self._wait()
                self._ask(self._renew)
        except BaseException:
            self._withdraw()
            raise
        self._thread = Thread(target=self._beat, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        self._withdraw()

    def check(self) -> None:
        if self._is_lost:
            raise StoreError(
                "this import was silent for so long that another began in its place: run it again, nothing is "
                "imported twice"
            )

    def _wait(self) -> None:
        told: set[str] = set()
        while others := self._ask(self._others):
            for key, text in others.items():
                if key not in told:
                    told.add(key)
                    process, who = read_process(text), "another process"
                    if process is not None:
                        since = json.loads(text).get("since")
                        who = f"process {process.pid} on {process.host} (since {since})"
                    self._say(f"waiting: {who} imports into the experiment {self._experiment!r}")
            time.sleep(random.uniform(0.2, 1.0))  # noqa: S311  so that two do not begin again together

    def _others(self) -> dict[str, str]:
        """The claims of others that stand; those that are void are removed."""
        tags = self._client.get_experiment(self._experiment_id).tags
        others = {
            key: text for key, text in tags.items() if key.startswith(f"{IMPORTING_TAG}.") and key != self._key and text
        }
        standing = {key: text for key, text in others.items() if self._stands(key, text)}
        for key in others.keys() - standing.keys():
            self._remove(key)
        return standing

    def _stands(self, key: str, text: str) -> bool:
        process = read_process(text)
        alive = None if process is None else is_alive(process)
        if alive is not None:  # however silent: a long write to SQLite keeps its own sign of life out
            return alive
        last, since = self._seen.get(key, (text, time.monotonic()))
        self._seen[key] = (text, since if text == last else time.monotonic())
        return time.monotonic() - self._seen[key][1] < self._silent_seconds

    def _renew(self) -> None:
        self._beats += 1
        claim = {**json.loads(process_tag()), "since": self._since, "beat": self._beats}
        self._client.set_experiment_tag(self._experiment_id, self._key, json.dumps(claim))

    def _beat(self) -> None:
        while not self._ended.wait(self._beat_seconds):
            with suppress(Exception):  # a store that is busy or down: the next beat tries again
                if not self._client.get_experiment(self._experiment_id).tags.get(self._key):  # see `_remove`
                    self._is_lost = True
                    return
                self._renew()

    def _withdraw(self) -> None:
        if not self._is_lost:
            with suppress(Exception):  # a store that is down: the claim is void when this process ends
                self._remove(self._key)

    def _remove(self, key: str) -> None:
        try:
            self._client.delete_experiment_tag(self._experiment_id, key)
        except Exception:
            # gone already, or a server of an MLflow that cannot delete tags of experiments
            if key in self._client.get_experiment(self._experiment_id).tags:
                self._client.set_experiment_tag(self._experiment_id, key, "")

    def _ask(self, attempt: Callable[[], T]) -> T:
        patience = Patience(_PATIENCE_SECONDS)
        patience.is_under_way = True  # another's writing may keep a SQLite file locked
        try:
            return patience.ask(attempt)
        except StoreError:
            raise
        except Exception as error:
            raise StoreError(f"tracking store {shown_uri(self._uri)}: {without_password(error, self._uri)}") from error


class ImportWriter(ExitStack):
    """Writes into the run store, as children of one run of the phase `import`."""

    def __init__(
        self, tracking_uri: str, target: Target, params: Mapping[str, object], claim: ImportClaim | None
    ) -> None:
        """`claim` is `None` for a dry run, which writes nothing."""
        super().__init__()
        self._tracking_uri = tracking_uri
        self._target = target
        self._params = params
        self._claim = claim
        self._opened: tuple[Tracker, OpenRun, RunWriter] | None = None

    def write(self, runs: Sequence[FinishedRun]) -> None:
        """Write a chunk: all of it or, where the store can, none."""
        if not runs or self._claim is None:
            return
        self._claim.check()
        _, parent, writer = self._opened = self._opened or self._open()
        tags = parent_tags(parent.run_id)
        writer.write([replace(run, tags={**run.tags, **tags}) for run in runs])

    def finish(self, report: ImportReport) -> None:
        if self._opened is None:
            return
        tracker, parent, _ = self._opened
        counts = report.totals.to_document()
        tracker.log(parent, metrics={f"lines_{name}": float(count) for name, count in counts.items()})
        lines = [f"- {file.path}: {file.counts.imported} of {file.counts.read} lines" for file in report.files]
        tracker.set_tag(parent, MlflowTag.NOTE.value, "Imported:\n\n" + "\n".join(lines))

    def _open(self) -> tuple[Tracker, OpenRun, RunWriter]:
        config = self._target.config
        tracker = Tracker(
            self._tracking_uri,
            self._target.experiment,
            description=config.description if config else "",
            floor=config.coherence_floor if config else DEFAULT_COHERENCE_FLOOR,
        )
        parent = self.enter_context(tracker.phase("import", params=self._params))
        writer = open_writer(self._tracking_uri, parent.experiment_id)
        self.callback(writer.close)
        return tracker, parent, writer
