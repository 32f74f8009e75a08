"""A sweep: batches of cells are generated one after the other, each judged while the next is generated."""

from collections.abc import Generator as Iteration
from collections.abc import Iterator, Sequence
from contextlib import closing

from massact.judges.base import Judge
from massact.models.generate import Generator
from massact.models.load import SteerableModel
from massact.pipeline.evaluate import Evaluation, FailedCell, Part, PlannedCell, Take, first_cells
from massact.pipeline.generating import CellGenerator
from massact.pipeline.judging import JudgeThread
from massact.pipeline.progress import Progress, silent

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
        left = [one for one in left if id(one) not in taken]
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
