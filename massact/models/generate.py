"""Steered generation: rows of one call may carry different prompts, vectors, layers, operators
and coefficients, at different tokens.

Rows that cannot differ are generated once. The rest is cut into batches by length and by memory. In the shared way
(`massact.models.support`) what rows of one prompt share is computed once, and rows that have ended leave their batch.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from massact.domain import Generation
from massact.errors import ModelError
from massact.models.attention import attends_here
from massact.models.blocks import text_config
from massact.models.cache import RowCache, is_out_of_memory, measure_memory, return_freed
from massact.models.decode import CannotShareError, Enough, begin, end_tokens, finish, responses
from massact.models.gates import GateReader
from massact.models.load import SteerableModel
from massact.models.plain import generate_plainly
from massact.models.prompting import Intervention, Row, distinct_rows
from massact.models.reading import Likelihoods, ResponseReader
from massact.models.recorded_steps import Recorder, can_record, padded_rows
from massact.models.support import Sharing, sharing_of

__all__ = ["Generator", "Intervention", "NotFiniteError", "Responses", "Row", "generate"]

Progress = Callable[[int], None]
Look = Callable[[int, tuple[int, ...], bool], bool]
"""Shown what a row, by its index, says so far, and whether it has ended, while others go on: whether it is enough."""
Responses = list[tuple[int, ...] | None]  # tokens of each row; `None` where its logits were not finite
_MANY_ROWS, _SMALL_ROWS, _FEW_ROWS = 1024, 512, 256  # on a GPU, of a small model elsewhere, of others
"""Beyond these a batch is hardly faster: only its memory grows, and what a crash would lose."""
_SMALL_MODEL = 20_000_000  # parameters below which a CPU spends more time between its calculations than in them


class NotFiniteError(ModelError):
    """The logits of some rows were NaN or infinite; what the others said is kept."""

    def __init__(
        self, model: SteerableModel, rows: Sequence[Row], said: Responses, read: Sequence[Likelihoods] = ()
    ) -> None:
        """
        Args:
            rows: what was generated.
            said: tokens of each row, `None` where its logits were not finite.
            read: of each row, where that was asked for.
        """
        self.said, self.read, self._dtype, self._rows = said, read, model.identity.dtype, rows
        super().__init__(f"{model.identity.id}: {self.reason(said.index(None))}")

    def reason(self, row: int) -> str:
        """What is wrong with a row, and what to do."""
        intervention = self._rows[row].intervention
        where, advice = "unsteered", "another dtype (bfloat16 or float32)"
        if intervention is not None:
            where = f"at layer {intervention.layer}, coefficient {intervention.coefficient:g}"
            advice += " or a smaller coefficient"
        return f"not finite in {self._dtype} {where}: its logits are NaN or infinite; use {advice}"


class Generator:
    """Generates with one model. It keeps the memory of its batches, so use one for a whole sweep."""

    def __init__(
        self,
        model: SteerableModel,
        *,
        memory: int | None = None,
        batch_rows: int | None = None,
        recorded: bool | None = None,
    ) -> None:
        """
        Args:
            memory: bytes that batches may take; `None`: measured on the device before each batch.
            batch_rows: rows generated side by side at most; `None`: as many as are of use.
            recorded: whether steps are recorded and repeated; `None`: on a GPU, where the model allows it.
                Elsewhere the same steps run unrecorded, which only tests want.

        """
        self._model, self._memory = model, memory
        self._sharing, self._gates = sharing_of(model.model), GateReader(model)
        self._rows_at_most = batch_rows or _useful_rows(model)
        self._cache: RowCache | None = None
        self.reader = ResponseReader(model)
        self._recorder = Recorder(model) if (can_record(model) if recorded is None else recorded) else None

    @property
    def batch_rows(self) -> int:
        """Rows generated side by side at most; fewer once memory has run out."""
        return self._rows_at_most

    def n_batches(self, prompts: Sequence[tuple[int, ...]]) -> int:
        """Batches that rows of some prompts cannot be fewer than: in the plain way one for each length."""
        return len({len(prompt) for prompt in prompts}) if self._sharing.obstacle else 1

    def generate(
        self, rows: Sequence[Row], settings: Generation, *, progress: Progress | None = None, look: Look | None = None
    ) -> list[tuple[int, ...]]:
        """Response tokens of every row, in order, without the token that ended them.
        They do not depend on how rows are batched, as far as the dtype's arithmetic does not
        (docs/design/generation.md).
        `rows`: what to generate. `settings`: greedy where the temperature is 0, else sampled with the seed and each
        row's draw. `progress`: called with the number of rows that were finished. `look`: called as tokens come; a row
        that says enough may still get some more.
        Raises NotFiniteError: the logits of some rows were not finite; it has what the others said; ModelError: the
        memory does not suffice for one row."""
        return self.generate_and_read(rows, settings, 0, progress=progress, look=look)[0]

    def generate_and_read(
        self,
        rows: Sequence[Row],
        settings: Generation,
        n_tokens: int,
        *,
        progress: Progress | None = None,
        look: Look | None = None,
    ) -> tuple[list[tuple[int, ...]], list[Likelihoods]]:
        """The same, and what the first `n_tokens` of each response are to the steered and the unsteered model."""
        kept, places = distinct_rows(self.opened(rows), settings)
        like, n_tokens = Counter(places), min(n_tokens, settings.max_new_tokens)
        rows_of = {place: [i for i, other in enumerate(places) if other == place] for place in like}
        said_by_row: Responses = [() for _ in kept]
        read_by_row = [Likelihoods() for _ in kept]
        # rows of one prompt side by side share its reading; rows of one length need no padding
        order = sorted(range(len(kept)), key=lambda i: (len(kept[i].prompt), kept[i].prompt))
        start = 0
        while start < len(order):
            next_rows = [kept[i] for i in order[start : start + self._rows_at_most]]
            batch = order[start : start + self._fitting(self._together(next_rows, settings), settings, n_tokens)]
            enough = None if look is None else self._enough(look, [rows_of[i] for i in batch])
            done = self._batch([kept[i] for i in batch], settings, n_tokens, enough)
            if done is None:  # out of memory, or not to be shared: once more with fewer rows
                continue
            for place, i in enumerate(batch):
                said_by_row[i] = done[0][place]
                read_by_row[i] = done[1][place] if n_tokens else read_by_row[i]
            start += len(batch)
            if progress is not None:
                progress(sum(like[i] for i in batch))
        all_said = [said_by_row[place] for place in places]
        all_read = [read_by_row[place] for place in places]
        finite = [tokens for tokens in all_said if tokens is not None]
        if len(finite) < len(all_said):
            raise NotFiniteError(self._model, rows, all_said, all_read)
        return finite, all_read

    def opened(self, rows: Sequence[Row]) -> list[Row]:
        """The rows, unsteered where their gate is closed."""
        return self._gates.opened(rows)

    def _together(self, rows: Sequence[Row], settings: Generation) -> Sequence[Row]:
        """The rows that may be in one batch with the first of them, which is the shortest."""
        if self._shares(rows, settings):
            return rows
        alike = [row for row in rows if len(row.prompt) == len(rows[0].prompt)]
        return alike[: self._sharing.n_rows]

    def _shares(self, rows: Sequence[Row], settings: Generation) -> bool:
        """Whether rows are generated in the shared way (`massact.models.support`)."""
        return self._sharing.allows(len(rows[-1].prompt) + settings.max_new_tokens)

    def _fitting(self, rows: Sequence[Row], settings: Generation, n_tokens: int) -> int:
        """How many of the rows, from the first on, fit in the memory side by side."""
        memory = measure_memory(self._model, self._memory, held=self._cache)
        logits = n_tokens * text_config(self._model.model).vocab_size * self._model.model.dtype.itemsize
        memory = replace(memory, row_bytes=memory.row_bytes + logits)
        return max(1, memory.fitting(rows, settings.max_new_tokens))

    def _enough(self, look: Look, rows_of: Sequence[Sequence[int]]) -> Enough:
        """The same of a batch, of each of whose rows it is given for which rows it stands."""

        def enough(written: torch.Tensor) -> torch.Tensor:
            ended = torch.isin(written, end_tokens(self._model)[1:]).any(1).tolist()
            said = zip(rows_of, responses(self._model, written), ended, strict=True)
            told = ([look(i, tokens or (), end) for i in like] for like, tokens, end in said)
            return torch.tensor(list(map(all, told)))

        return enough

    def _batch(
        self, rows: Sequence[Row], settings: Generation, n_tokens: int, enough: Enough | None
    ) -> tuple[Responses, list[Likelihoods]] | None:
        try:
            said, kept = self._run(rows, settings, n_tokens, enough)
            return said, self.reader.read(rows, said, n_tokens, kept) if n_tokens else []
        except CannotShareError as error:
            # a kind that does otherwise in another release or variant
            self._sharing = self.reader.sharing = Sharing(str(error), None)
            return None
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(rows) == 1:
                raise ModelError(
                    f"one response of {len(rows[0].prompt)} + {settings.max_new_tokens} tokens does not fit in the "
                    f"memory of {self._model.device}: {str(error).splitlines()[0]} Use fewer tokens, or a smaller model"
                ) from error
        # outside the handler, whose traceback holds on to the tensors of the batch
        self._rows_at_most = len(rows) // 2
        self.release()
        return None

    @torch.inference_mode()
    def _run(
        self, rows: Sequence[Row], settings: Generation, n_tokens: int, enough: Enough | None
    ) -> tuple[Responses, torch.Tensor | None]:
        """What rows say, and the logits of their first tokens; `None`: they were not kept."""
        if not self._shares(rows, settings):
            return responses(self._model, generate_plainly(self._model, rows, settings, enough)), None
        capacity = max(len(row.prompt) for row in rows) + settings.max_new_tokens
        n_kept = n_tokens if self._recorder is None else 0
        batch = begin(self._model, rows, settings, self._room(len(rows), capacity), n_kept=n_kept)
        if settings.max_new_tokens > 1:
            if self._recorder is None:
                finish(self._model, batch, settings, enough)
            else:
                self._recorder.finish(batch, settings, enough)
        return responses(self._model, batch.written), batch.kept

    def _room(self, n_rows: int, capacity: int) -> RowCache:
        held = self._cache
        if self._recorder is not None:
            n_rows = padded_rows(n_rows)
        if held is None or held.n_rows < n_rows or held.capacity < capacity:
            held = None  # nothing else holds its memory
            self.release()
            by_dim = self._recorder is None and attends_here(self._model)
            self._cache = held = RowCache(text_config(self._model.model), n_rows, capacity, by_dim=by_dim)
        return held

    def release(self) -> None:
        """Give back the memory that is kept between batches."""
        self._cache = None
        if self._recorder is not None:
            self._recorder.release()
        if self._model.device.type == "cuda":
            torch.cuda.empty_cache()
        return_freed()


def generate(
    model: SteerableModel,
    rows: Sequence[Row],
    settings: Generation,
    *,
    batch_rows: int | None = None,
    progress: Progress | None = None,
) -> list[tuple[int, ...]]:
    """Generate once; see `Generator.generate`."""
    return Generator(model, batch_rows=batch_rows).generate(rows, settings, progress=progress)


def _useful_rows(model: SteerableModel) -> int:
    n_parameters = sum(parameter.numel() for parameter in model.model.parameters())
    if model.device.type == "cuda":
        return _MANY_ROWS
    return _SMALL_ROWS if n_parameters < _SMALL_MODEL else _FEW_ROWS
