"""Keep the spool of a machine on a cluster: what was made there is written and sent there."""

import socket
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from massact.executors.ray.messages import About, Draft, News, about
from massact.executors.ray.worker_env import Environment

if TYPE_CHECKING:
    from massact.executors.base import Finished
    from massact.tracking.spool.sending import Outcome


class SpoolActor:
    """Keeps the spool of a machine. Several threads may call it."""

    def __init__(
        self, environment: Environment, folder: Path, tracking_uri: Environment, experiment: str
    ) -> None:
        """
        Args:
            tracking_uri: in an environment, which shows it to nobody.
        """
        from massact.tracking.spool import Spool

        environment.set()
        self._changed = threading.Condition()
        self._arrived: list[str] = []
        self._refused: list[str] = []
        self._lines: list[str] = []
        self._folder, self._uri = folder, tracking_uri.values["MLFLOW_TRACKING_URI"]
        self._spool = Spool(folder, self._uri, experiment, say=self._say, heard=self._hear)

    def about(self) -> About:
        """Who this is."""
        return about()

    def leftovers(self) -> tuple[int, News]:
        """Send what earlier commands left on this machine. Returns how many runs are left."""
        from massact.tracking.spool import send_leftovers

        reports = send_leftovers(self._folder, self._uri, say=self._say, only_here=True)
        return sum(one.left - len(one.refused) for one in reports), self.news(0)

    def write(self, drafts: Sequence[Draft]) -> None:
        """Put results into the spool; they are on the disk when it returns.

        Raises:
            SpoolError: the journal cannot be written.
        """
        import ray

        for draft in drafts:
            run = draft.make(
                whole_result(draft.result, None if draft.vector is None else ray.get(draft.vector))
            )
            self._spool.put(run, experiment_id=draft.experiment_id, record_id=draft.id)
        self._spool.wait_written()

    def news(self, seconds: float) -> News:
        """What became of records since the last time; waits for something to tell."""
        with self._changed:
            self._changed.wait_for(lambda: self._arrived or self._refused or self._lines, seconds)
            news = News(tuple(self._arrived), tuple(self._refused), tuple(self._lines))
            for told in (self._arrived, self._refused, self._lines):
                told.clear()
            return news

    def hurry(self) -> None:
        """Somebody waits: an attempt that is put off is made now."""
        self._spool.flush(0)

    def close(self, seconds: float) -> News:
        """Send what can be sent within some seconds, and let go of the journal."""
        self._spool.close(seconds)
        return self.news(0)

    def _hear(self, outcome: "Outcome") -> None:
        with self._changed:
            self._arrived += [*outcome.sent, *outcome.there]
            self._refused += outcome.refused
            self._changed.notify_all()

    def _say(self, line: str) -> None:
        with self._changed:
            self._lines.append(f"{socket.gethostname()}: {line}")
            self._changed.notify_all()


def whole_result(result: "Finished", vector: Any) -> "Finished":
    """A result with its cell's vector, `[d_model]` in numpy, put back."""
    if vector is None:
        return result
    import torch

    from massact.pipeline.screening import StoppedCell

    tensor = torch.from_numpy(vector.copy())
    if isinstance(result, StoppedCell):
        evaluation = result.evaluation
        return replace(
            result, evaluation=replace(evaluation, planned=replace(evaluation.planned, vector=tensor))
        )
    return replace(result, planned=replace(result.planned, vector=tensor))
