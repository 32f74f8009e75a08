"""The executor that runs cells in this process, one batch after the other."""

from collections.abc import Callable, Sequence
from collections.abc import Generator as Iteration

from massact.executors.base import Finished, Loaded, MakeRun, ModelUse, Result, Work, WorkerReport
from massact.models.identity import describe
from massact.models.load import SteerableModel
from massact.pipeline.evaluate import PlannedCell, Take, first_cells
from massact.pipeline.progress import Progress
from massact.pipeline.sweep import evaluate_cells
from massact.tracking.spool import Spool
from massact.tracking.tracker import OpenRun


class LocalExecutor:
    """Generates here and judges in a thread beside it; `massact.executors.base.Executor`."""

    def __init__(self, load: Callable[[ModelUse], SteerableModel], spool: Callable[[], Spool]) -> None:
        """
        Args:
            load: gives a model, the same again while no other is asked for.
            spool: of this command.
        """
        self._load, self._spool = load, spool

    def loaded(self, use: ModelUse) -> Loaded:
        """See `Executor`."""
        model = self._load(use)
        return Loaded(describe(model), model.attention, model.unused_settings)

    def evaluate(
        self,
        work: Work,
        cells: Sequence[PlannedCell],
        *,
        progress: Progress,
        should_stop: Callable[[], bool],
        take: Take = first_cells,
    ) -> Iteration[Result, None, None]:
        """See `Executor`; results come in the order of the cells."""
        return evaluate_cells(
            self._load(work.model),
            cells,
            work.part,
            work.judge,
            batch_rows=work.batch_rows,
            progress=progress,
            take=lambda left, n: () if should_stop() else take(left, n),
        )

    def keep(self, result: Finished, make: MakeRun, *, home: OpenRun) -> None:
        """See `Executor`."""
        self._spool().put(make(result), experiment_id=home.experiment_id)

    def settle(self, timeout: float) -> int:  # noqa: ARG002  # the protocol's
        """Nothing is anywhere else."""
        return 0

    def send_leftovers(self) -> int:
        """Nothing is anywhere else."""
        return 0

    @property
    def reports(self) -> Sequence[WorkerReport]:
        """None: this process is the only one."""
        return ()

    def close(self, timeout: float) -> int:  # noqa: ARG002  # the protocol's
        """Nothing is to be ended."""
        return 0

    def abandon(self) -> None:
        """Nothing is to be ended."""
