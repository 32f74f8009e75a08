"""The executor that runs cells in this process, one batch after the other."""

from collections.abc import Callable, Iterator, Sequence
from collections.abc import Generator as Iteration
from contextlib import closing

from massact.evaluation import Evaluation, FailedCell, Part, PlannedCell, Progress, Take, first_cells, silent
from massact.judges import Judge
from massact.models.generate import Generator
from massact.models.load import SteerableModel, describe
from massact.store.spool import Spool
from massact.store.write.tracker import OpenRun
from massact.sweep.executors.base import Executor, Finished, Loaded, MakeRun, ModelUse, Result, Work
from massact.sweep.generating import CellGenerator
from massact.sweep.judging import JudgeThread

__all__ = ["Part", "evaluate_cells"]


def evaluate_cells(
    model: SteerableModel,
    cells: Sequence[PlannedCell],
    questions: Sequence[str] | Part,
    judge: Judge,
    *,
    batch_rows: int | None = None,
    progress: Progress = silent,
    take: Take = first_cells,
) -> Iteration[Evaluation | FailedCell, None, None]:
    """Evaluate cells, several side by side, and yield each, in order, when it is judged.

    A batch that fails is tried again by halves, so that one bad cell fails alone.

    Args:
        cells: cells that share the model's setting (questions, generation, judge).
        questions: the steering questions, in order, or a part of them.
        batch_rows: responses generated side by side at most; `None` leaves it to the generator. The judge
            gets as many at a time, in whole cells.
        take: asked for each batch; where it gives none, the batches that were begun are finished.

    Raises:
        JudgeError: the judge as a whole cannot be used; nothing after it would be scored.
    """
    part = questions if isinstance(questions, Part) else Part(questions)
    generator = CellGenerator(model, part, Generator(model, batch_rows=batch_rows))
    batches = _batches(cells, generator.n_cells, take)
    with progress("evaluating cells", len(cells)) as advance, closing(JudgeThread(judge)) as judging:
        for result in _through(generator, judging, batches):
            yield result
            advance(1)


def _batches(cells: Sequence[PlannedCell], size: int, take: Take) -> Iterator[Sequence[PlannedCell]]:
    left = list(cells)
    while left and (batch := take(left, size)):
        taken = set(map(id, batch))
        left = [cell for cell in left if id(cell) not in taken]
        yield batch


def _through(
    generator: CellGenerator, judging: JudgeThread, batches: Iterator[Sequence[PlannedCell]]
) -> Iterator[Evaluation | FailedCell]:
    failure = None
    try:
        for batch in batches:
            for generated in generator.run(batch):
                judging.put(generated)
                yield from judging.ready()
    except Exception as error:
        failure = error
    # what was generated before a failure is judged all the same: it is whole
    yield from judging.rest()
    if failure is not None:
        raise failure


class LocalExecutor(Executor):
    """Generates here and judges in a thread beside it; `massact.sweep.executors.base.Executor`."""

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
