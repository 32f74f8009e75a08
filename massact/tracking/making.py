"""Making the run of a result, in this process or in another one, with the same outcome."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from massact.pipeline.evaluate import Evaluation, FailedCell
from massact.pipeline.screening import StoppedCell
from massact.tracking.evaluations import evaluation_whole_run, failure_whole_run, screening_whole_run
from massact.tracking.provenance import provenance_tags
from massact.tracking.rows import Baseline, Place
from massact.tracking.tracker import OpenRun
from massact.tracking.whole_run import WholeRun


@dataclass(frozen=True, slots=True, kw_only=True)
class RunMaker:
    """Everything that a result's run needs beside the result."""

    place: Place
    parent: OpenRun
    baseline: Baseline | None = None
    """`None` for a baseline, and for a failure, which is compared with nothing."""
    keep_responses: bool = True
    confirms: str | None = None
    """Key of the evaluation that it repeats on other questions."""
    finished_at: int = field(default_factory=lambda: int(time.time() * 1000))
    """Milliseconds since 1970: the same wherever the run is made, or a spool could not tell that it is the same."""
    provenance: Mapping[str, str] = field(default_factory=provenance_tags)
    """Who ran what: the command, not the machine that a cell was evaluated on."""

    def __call__(self, result: Evaluation | FailedCell | StoppedCell) -> WholeRun:
        run = self._run(result)
        own = {key: value for key, value in run.tags.items() if key not in provenance_tags()}
        return replace(run, tags={**self.provenance, **own})

    def _run(self, result: Evaluation | FailedCell | StoppedCell) -> WholeRun:
        if isinstance(result, FailedCell):
            return failure_whole_run(
                self.place, result, parent=self.parent, confirms=self.confirms, finished_at=self.finished_at
            )
        if isinstance(result, StoppedCell):
            if self.baseline is None:
                raise ValueError("a cell is given up by comparing it with a baseline")
            return screening_whole_run(
                self.place, result, baseline=self.baseline, parent=self.parent, finished_at=self.finished_at
            )
        run, _ = evaluation_whole_run(
            self.place,
            result,
            baseline=self.baseline,
            keep_responses=self.keep_responses,
            parent=self.parent,
            finished_at=self.finished_at,
            confirms=self.confirms,
        )
        return run
