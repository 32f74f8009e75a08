"""The executor that runs cells in this process, one batch after the other."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from itertools import groupby
from typing import Any, Unpack, cast

import torch

from massact.domain import Choice, Message
from massact.errors import PluginError
from massact.evaluation import Evaluation, FailedCell, Part, PlannedCell, Progress, Take, first_cells, silent
from massact.judges import Exchange, Judge
from massact.judges.rules import choice_text
from massact.metrics import NEUTRAL, Reading
from massact.models.generate import Generator, Intervention, NotFiniteError, Row
from massact.models.load import SteerableModel, describe, load_model, model_lock
from massact.models.neutral import NeutralPrompts
from massact.models.prompting import AskedChoice, after, encode_chat, encode_choice, read_response
from massact.models.reading import Likelihoods
from massact.models.thinking import generate_and_read
from massact.store.spool import Spool
from massact.store.write.tracker import OpenRun
from massact.sweep.executors import base
from massact.vectors.steering import intervention_of

# Generating the responses of a batch of cells; what fails is tried again by halves, so that a bad cell fails alone.


class CellGenerator:
    """Generates the responses of cells to the same questions."""

    def __init__(self, model: SteerableModel, part: Part, generator: Generator) -> None:
        self._model, self._questions, self._generator = model, part.questions, generator
        self._measured, self._neutral = part.measured, NeutralPrompts(model)
        self._draws = range(len(part.questions)) if part.numbers is None else part.numbers
        self._prompts: dict[tuple[Message, ...], list[tuple[int, ...]]] = {}  # by what stands before every question
        self._choices: dict[tuple[Message, ...], list[AskedChoice]] = {}
        is_chosen = any(isinstance(question, Choice) for question in part.questions)
        self._made = self._choose if is_chosen else self._generate
        n_rows = generator.batch_rows * generator.n_batches(self._encoded(()))
        self.n_cells = max(1, n_rows // len(part.questions))  # cells that are generated at a time

    def _encoded(self, before: tuple[Message, ...]) -> list[tuple[int, ...]]:
        if before not in self._prompts:
            self._prompts[before] = [encode_chat(self._model, after(before, question)) for question in self._questions]
        return self._prompts[before]

    def run(self, batch: Sequence[PlannedCell]) -> Iterator[base.Generated]:
        """The responses of a batch: in one piece, or in several where some cell cannot be generated."""
        try:
            with model_lock(self._model.model):  # the judge may be the same model
                generated = list(self._made(batch))
        except (RuntimeError, ValueError, PluginError) as error:
            reason = str(error) if isinstance(error, PluginError) else f"{type(error).__name__}: {error}"
        else:
            yield from generated
            return
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(batch) == 1:
            yield base.Generated(batch, (), 0.0, (), reason)
            return
        for half in (batch[: len(batch) // 2], batch[len(batch) // 2 :]):
            yield from self.run(half)

    def _choose(self, batch: Sequence[PlannedCell]) -> Iterator[base.Generated]:
        """What the model's probabilities choose: nothing is generated. Each question is asked in both orders."""
        for cell in batch:
            began = time.perf_counter()
            if cell.before not in self._choices:
                orders = [order for question in self._questions for order in cast(Choice, question).orders]
                self._choices[cell.before] = [encode_choice(self._model, cell.before, order) for order in orders]
            asked, intervention = self._choices[cell.before], _intervention(cell, len(self._model.blocks))
            rows = self._generator.opened([Row(each.prompt, intervention, n_drawn=each.n_drawn) for each in asked])
            found = self._generator.reader.next_log_probabilities(rows, [each.tokens for each in asked])
            said = [choice_text(*pair) for pair in zip(found[::2], found[1::2], strict=True)]
            exchanges = [Exchange(str(question), text) for question, text in zip(self._questions, said, strict=True)]
            yield base.Generated([cell], [exchanges], time.perf_counter() - began, [0])

    def _generate(self, batch: Sequence[PlannedCell]) -> Iterator[base.Generated]:
        width, n_blocks = len(self._questions), len(self._model.blocks)
        rows = [
            Row(prompt, _intervention(cell, n_blocks), draw)
            for cell in batch
            for draw, prompt in zip(self._draws, self._encoded(cell.before), strict=True)
        ]
        reasons: dict[int, str] = {}
        began = time.perf_counter()
        try:
            settings = batch[0].cell.setting.generation
            n_read = self._measured.n_read(settings.max_new_tokens)
            tokens, read = generate_and_read(self._model, self._generator, rows, settings, n_read)
        except NotFiniteError as error:
            # a cell fails with the first of its rows that is not finite; the others were generated as they are
            for i in reversed([i for i, said in enumerate(error.said) if said is None]):
                reasons[i // width] = error.reason(i)
            tokens, read = [said or () for said in error.said], list(error.read)
        neutral = (
            [()] * len(batch)
            if NEUTRAL not in self._measured.names
            else self._neutral.kl(self._generator, [row.intervention for row in rows[::width]])
        )
        for n, cell in enumerate(batch):
            if cell.before:  # held against the questions alone
                neutral[n], some = (), slice(n * width, (n + 1) * width)
                if n_read:
                    bare = self._encoded(())
                    read[some] = self._generator.reader.read(rows[some], tokens[some], n_read, bare=bare)
        share = (time.perf_counter() - began) / len(batch)
        for reason, group in groupby(range(len(batch)), reasons.get):
            numbers = list(group)
            if reason is not None:
                yield from (base.Generated([batch[n]], (), 0.0, (), reason) for n in numbers)
                continue
            said = [tokens[n * width : (n + 1) * width] for n in numbers]
            exchanges = [[self._exchange(*pair) for pair in zip(self._questions, mine, strict=True)] for mine in said]
            n_tokens = [sum(map(len, mine)) for mine in said]
            metrics = [
                self._metrics(asked, mine, read[n * width : (n + 1) * width], neutral[n])
                for n, mine, asked in zip(numbers, said, exchanges, strict=True)
            ]
            cells, measured = [batch[n] for n in numbers], self._measured
            yield base.Generated(cells, exchanges, share * len(cells), n_tokens, metrics=metrics, measured=measured)

    def _metrics(
        self,
        exchanges: Sequence[Exchange],
        said: Sequence[tuple[int, ...]],
        read: Sequence[Likelihoods],
        neutral: tuple[float, ...],
    ) -> list[dict[str, float | None]]:
        """The metrics of a cell's responses."""
        likelihoods = read or [Likelihoods()] * len(said)
        return [
            self._measured.of(Reading(e.question, e.response, tokens, told.log_probabilities, told.kl, neutral))
            for e, tokens, told in zip(exchanges, said, likelihoods, strict=True)
        ]

    def _exchange(self, question: str, tokens: tuple[int, ...]) -> Exchange:
        thought, answer = read_response(self._model, tokens)
        return Exchange(question, answer or "", thought, answer is not None)


def _intervention(planned: PlannedCell, n_blocks: int) -> Intervention | None:
    steering = planned.cell.steering
    if steering is None or planned.vector is None:
        return None
    return intervention_of(steering, planned.vector, n_blocks)


def load_use(use: base.ModelUse) -> SteerableModel:
    """Load a model."""
    return load_model(use.reference, revision=use.revision, adapter=use.adapter, options=use.options)


class ModelEngine:
    """The engine of real models; it keeps the last one, and the memory of its batches."""

    def __init__(self) -> None:
        self._use: tuple[base.ModelUse, int | None] | None = None
        self._model: SteerableModel | None = None
        self._generator: Generator | None = None
        self._cells: tuple[Part, CellGenerator] | None = None

    def load(self, use: base.ModelUse, batch_rows: int | None) -> tuple[base.Loaded, int]:
        """Load a model where it is not loaded yet. Returns what it says of itself, and how many rows a batch has."""
        if self._use is None or self._use[0] != use:
            self._model = self._generator = self._cells = None
            self._model = load_use(use)
        if self._generator is None or self._use != (use, batch_rows):
            assert self._model is not None
            self._generator, self._cells = Generator(self._model, batch_rows=batch_rows), None
        self._use = (use, batch_rows)
        assert self._model is not None
        loaded = base.Loaded(describe(self._model), self._model.attention, self._model.unused_settings)
        return loaded, self._generator.batch_rows

    def generate(self, cells: Sequence[PlannedCell], part: Part) -> Iterator[base.Generated]:
        """The responses of a batch, whose vectors are in numpy, as they have travelled; see `CellGenerator.run`."""
        if self._model is None or self._generator is None:
            raise RuntimeError("no model is loaded")
        if self._cells is None or self._cells[0] != part:
            self._cells = (part, CellGenerator(self._model, part, self._generator))
        whole = [cell if cell.vector is None else replace(cell, vector=torch.as_tensor(cell.vector)) for cell in cells]
        return self._cells[1].run(whole)


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
) -> base.Results:
    """Evaluate cells, several side by side, and yield each, in order, when it is judged.
    A batch that fails is tried again by halves, so that one bad cell fails alone. Raises JudgeError as
    `Executor.evaluate`.
    `cells`: cells that share the model's setting (questions, generation, judge). `questions`: the steering questions,
    in order, or a part of them. `batch_rows`: responses generated and judged side by side at most; `None` leaves it to
    the generator. `take`: asked for each batch; where it gives none, the batches that were begun are finished."""
    part = questions if isinstance(questions, Part) else Part(questions)
    rows = Generator(model, batch_rows=batch_rows)
    generator = CellGenerator(model, part, rows)
    batches = _batches(cells, generator.n_cells, take)
    with ExitStack() as stack:
        stack.callback(rows.release)
        advance = stack.enter_context(progress("evaluating cells", len(cells)))
        judging = stack.enter_context(closing(base.JudgeThread(judge)))
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
    generator: CellGenerator, judging: base.JudgeThread, batches: Iterator[Sequence[PlannedCell]]
) -> Iterator[Evaluation | FailedCell]:
    failure = None
    try:
        for batch in batches:
            for generated in generator.run(batch):
                judging.put(generated)
                yield from judging.results(wait=False)
    except Exception as error:
        failure = error
    # what was generated before a failure is judged all the same: it is whole
    yield from judging.results(wait=True)
    if failure is not None:
        raise failure


class LocalExecutor(base.Executor):
    """Generates here and judges in a thread beside it; `massact.sweep.executors.base.Executor`."""

    def __init__(self, load: Callable[[base.ModelUse], SteerableModel], spool: Callable[[], Spool]) -> None:
        self._load, self._spool = load, spool

    def loaded(self, use: base.ModelUse) -> base.Loaded:
        model = self._load(use)
        return base.Loaded(describe(model), model.attention, model.unused_settings)

    def evaluate(self, work: base.Work, cells: Sequence[PlannedCell], **watch: Unpack[base.Watch]) -> base.Results:
        """See `Executor`; results come in the order of the cells."""
        should_stop, take, progress = watch["should_stop"], watch.get("take", first_cells), watch["progress"]

        def take_on(left: Sequence[PlannedCell], n: int) -> Sequence[PlannedCell]:
            return () if should_stop() else take(left, n)

        options: Any = {"batch_rows": work.batch_rows, "progress": progress, "take": take_on}
        return evaluate_cells(self._load(work.model), cells, work.part, work.judge, **options)

    def keep(self, result: base.Result, make: base.MakeRun, *, home: OpenRun) -> None:
        self._spool().put(make(result), experiment_id=home.experiment_id)
