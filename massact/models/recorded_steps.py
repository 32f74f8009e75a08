"""Decoding on a GPU: a step is recorded once as a CUDA graph and repeated.

A step then costs what its memory traffic costs: the host launches one graph instead of a thousand kernels
and never waits for a token. For that everything keeps its place in memory: tokens, masks and interventions lie
in buffers, and rows that have ended stay until half of them have; then the rest moves together.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from massact.domain import Generation
from massact.errors import PluginError
from massact.models.blocks import steer, text_config
from massact.models.cache import RowCache, is_out_of_memory, with_cache
from massact.models.decode import Batch, Enough, choose, end_tokens, finish, is_end
from massact.models.load import SteerableModel
from massact.models.operators import Edit
from massact.models.support import sharing_of

_STEPS_PER_LOOK = 8  # how often the host asks which rows have ended
_ROWS, _TOKENS = 8, 32  # graphs are recorded for multiples of these

Masks = torch.Tensor | dict[str, torch.Tensor]


def can_record(model: SteerableModel) -> bool:
    """Whether steps of a model can be recorded: it is on one CUDA GPU, and its masks can be made beforehand."""
    places = getattr(model.model, "hf_device_map", None) or {}
    return model.device.type == "cuda" and len(set(places.values())) <= 1 and has_known_masks(model)


def has_known_masks(model: SteerableModel) -> bool:
    """Whether a model takes masks that are made beforehand, and of a kind that is known here."""
    is_known = _layer_types(model) <= {"full_attention", "sliding_attention"}
    is_shared = sharing_of(model.model).obstacle is None
    return is_known and is_shared and model.model.config._attn_implementation in ("sdpa", "eager")


def padded_rows(n_rows: int) -> int:
    """How many rows a graph for `n_rows` has: a multiple of 8, above 64 a multiple of an eighth of it."""
    unit = max(_ROWS, 1 << max(0, n_rows.bit_length() - 4))
    return -(-n_rows // unit) * unit


@dataclass(slots=True)
class _Buffers:
    """What a recorded step reads and writes. All rows of it are meaningful to the step, live or not."""

    live: torch.Tensor
    valid: torch.Tensor
    positions: torch.Tensor
    chosen: torch.Tensor
    done: torch.Tensor
    edits: dict[int, Edit]
    steered: torch.Tensor | None
    draws: torch.Tensor | None
    written: torch.Tensor  # one row more than there are places, for what places without a row write
    step: torch.Tensor  # `[1]`: which token of the response is next
    place: torch.Tensor  # `[1]`: where the cache keeps the last token

    def state(self) -> list[torch.Tensor]:
        """What a step changes, the cache apart."""
        return [self.positions, self.chosen, self.done, self.written, self.step, self.place]


class Recorder:
    """Decodes the batches of one model by recorded steps; graphs are kept for batches of the same shape."""

    def __init__(self, model: SteerableModel) -> None:
        self._model = model
        self._ends = end_tokens(model)
        self._masks = _mask_maker(model)
        self._graphs: dict[tuple[int, int], Callable[[], None]] = {}
        self._buffers: _Buffers | None = None
        self._shape: tuple[object, ...] | None = None
        self._pool: Any = None
        self._is_refused = False

    def release(self) -> None:
        """Let go of graphs and buffers."""
        self._graphs.clear()
        self._buffers = self._shape = self._pool = None

    def finish(self, batch: Batch, settings: Generation, enough: Enough | None = None) -> None:
        """Generate the rest of a batch's responses, of rows that say enough no more than they do."""
        if self._is_refused:
            finish(self._model, batch, settings, enough)
            return
        n_rows, cache = len(batch.live), batch.cache
        buffers = self._take(batch, settings)
        cache.position = buffers.place
        n_places = padded_rows(n_rows)
        step = 1
        while step < settings.max_new_tokens and n_rows:
            window = min(cache.capacity, -(-(batch.width + step) // _TOKENS) * _TOKENS)
            n_steps = min(_STEPS_PER_LOOK, settings.max_new_tokens - step, window - batch.width - step + 1)
            repeat = self._repeatable(n_places, window, cache, settings)
            for _ in range(n_steps):
                repeat()
            step += n_steps
            cache.wrote(n_steps)
            if enough is not None:
                over = enough(buffers.written[: len(batch.written)]).to(buffers.done.device)
                buffers.done[:n_rows] |= over[buffers.live[:n_rows]]
            n_going = n_rows - int(buffers.done[:n_rows].sum())
            if n_going == 0:
                break
            if padded_rows(n_going) <= n_places // 2:
                _move_together(cache, buffers, n_rows, n_going)
                n_rows, n_places = n_going, padded_rows(n_going)
        batch.written.copy_(buffers.written[: len(batch.written)])

    def _take(self, batch: Batch, settings: Generation) -> _Buffers:
        """Copy a batch into the buffers, new ones where it does not fit in those that are there."""
        shapes = (
            (layer, edit.operators, [tensor.shape[1:] for tensor in edit.tensors()])
            for layer, edit in batch.edits.items()
        )
        n_places, tokens = padded_rows(len(batch.live)), None if batch.steered is None else batch.steered.dtype
        shape = (n_places, id(batch.cache), sorted(shapes), tokens, settings)
        if self._buffers is None or self._shape != shape:
            self.release()
            self._buffers, self._shape = _new_buffers(batch, n_places), shape
        buffers, n_rows = self._buffers, len(batch.live)
        buffers.live.fill_(n_places)
        buffers.done.fill_(True)
        buffers.valid.fill_(1)
        # places without a row go on counting, which must not lead beyond the model's last position
        buffers.positions.zero_()
        buffers.chosen.zero_()
        buffers.live[:n_rows], buffers.valid[:n_rows] = batch.live, batch.valid
        buffers.positions[:n_rows], buffers.chosen[:n_rows] = batch.positions, batch.chosen
        buffers.done[:n_rows] = is_end(batch.chosen, self._ends)
        for layer, edit in batch.edits.items():
            for buffer, values in zip(buffers.edits[layer].tensors(), edit.tensors(), strict=True):
                buffer[:n_rows] = values
        if buffers.steered is not None and batch.steered is not None:
            buffers.steered[:n_rows] = batch.steered
        if buffers.draws is not None and batch.draws is not None:
            buffers.draws[:n_rows] = batch.draws
        buffers.written[:n_rows] = batch.written
        buffers.step.fill_(1)
        buffers.place.fill_(batch.width)
        return buffers

    def _repeatable(self, n_places: int, window: int, cache: RowCache, settings: Generation) -> Callable[[], None]:
        """One step for so many rows and tokens, ready to be repeated."""
        cache.n_live, cache.n_attended = n_places, window
        if (n_places, window) not in self._graphs:
            buffers = self._buffers
            if buffers is None:
                raise RuntimeError("no buffers: a batch is taken before a step is recorded")
            step = partial(self._step, buffers, n_places, window, cache, settings)
            self._graphs[n_places, window] = self._record(step, buffers)
        return self._graphs[n_places, window]

    def _record(self, step: Callable[[], None], buffers: _Buffers) -> Callable[[], None]:
        """The step as a graph; itself where there is no GPU, or the model does what cannot be recorded."""
        if self._model.device.type != "cuda":
            return step  # nothing to record: the same step, called each time
        before = [buffer.clone() for buffer in buffers.state()]
        graph = torch.cuda.CUDAGraph()
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        try:
            # kernels are chosen and memory is taken on the first calls, which must not be recorded
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                step()
            torch.cuda.current_stream().wait_stream(side)
            with torch.cuda.graph(graph, pool=self._pool):
                step()
        except (RuntimeError, PluginError) as error:
            if is_out_of_memory(error):
                raise
            self._is_refused = True
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            warnings.warn(
                f"{self._model.identity.id}: its steps cannot be recorded as CUDA graphs, so that generation is slower "
                f"and otherwise the same: {reason}",
                stacklevel=2,
            )
            return step
        finally:
            for buffer, was in zip(buffers.state(), before, strict=True):
                buffer.copy_(was)
        self._pool = self._pool or graph.pool()
        return graph.replay

    def _step(self, buffers: _Buffers, n_places: int, window: int, cache: RowCache, settings: Generation) -> None:
        live, chosen = buffers.live[:n_places], buffers.chosen[:n_places]
        positions, done = buffers.positions[:n_places], buffers.done[:n_places]
        positions.add_(1)
        # the cache may have been moved to other rows since the last recording
        cache.n_live, cache.n_attended = n_places, window
        steered = buffers.steered
        if steered is not None:
            steered = steered[:n_places].index_select(1, buffers.place)
        edits = {layer: edit.map(lambda values: values[:n_places]) for layer, edit in buffers.edits.items()}
        with steer(self._model.blocks, {layer: partial(edit, shares=steered) for layer, edit in edits.items()}):
            output = self._model.model(
                input_ids=chosen[:, None].clamp_min(0),
                attention_mask=self._masks(buffers.valid[:n_places, :window], buffers.place),
                position_ids=positions,
                **with_cache(self._model.model, cache),
            )
        drawn = None if buffers.draws is None else buffers.draws.index_select(0, live)
        chosen.copy_(choose(output.logits, drawn, settings, buffers.step))
        buffers.written.index_put_((live, buffers.step.expand(n_places)), chosen)
        done.logical_or_(is_end(chosen, self._ends))
        buffers.step.add_(1)
        buffers.place.add_(1)


def _new_buffers(batch: Batch, n_places: int) -> _Buffers:
    def room(like: torch.Tensor) -> torch.Tensor:
        return like.new_zeros(n_places, *like.shape[1:])

    one_more = (n_places + 1, batch.written.shape[1])
    number = torch.zeros(1, dtype=torch.long, device=batch.live.device)
    return _Buffers(
        live=room(batch.live),
        valid=room(batch.valid),
        positions=room(batch.positions),
        chosen=room(batch.chosen),
        done=torch.ones(n_places, dtype=torch.bool, device=batch.live.device),
        edits={layer: edit.map(room) for layer, edit in batch.edits.items()},
        steered=None if batch.steered is None else room(batch.steered),
        draws=None if batch.draws is None else batch.draws.new_zeros(one_more),
        written=batch.written.new_zeros(one_more),
        step=number.clone(),
        place=number.clone(),
    )


def _move_together(cache: RowCache, buffers: _Buffers, n_rows: int, n_going: int) -> None:
    """Move rows that go on to the first places."""
    done = buffers.done[:n_rows]
    places = done[:n_going].nonzero().flatten()
    taken = (~done[n_going:]).nonzero().flatten() + n_going
    cache.move(taken, places, n_going)
    nobody = len(buffers.written) - 1
    edits = (values for edit in buffers.edits.values() for values in edit.tensors())
    steered = () if buffers.steered is None else (buffers.steered,)
    for buffer in (buffers.valid, buffers.positions, buffers.chosen, *edits, *steered):
        buffer[places] = buffer[taken]
    buffers.live[places] = buffers.live[taken]
    buffers.live[n_going:] = nobody
    buffers.done[:n_going] = False
    buffers.done[n_going:] = True


def _layer_types(model: SteerableModel) -> set[str]:
    config = text_config(model.model)
    types = getattr(config, "layer_types", None)
    if types:
        return set(types)
    return {"sliding_attention" if getattr(config, "sliding_window", None) else "full_attention"}


def _mask_maker(model: SteerableModel) -> Callable[[torch.Tensor, torch.Tensor], Masks]:
    """Masks for one new token of every row, as transformers would make them."""
    types = _layer_types(model)
    window = int(getattr(text_config(model.model), "sliding_window", None) or 0)
    is_additive = model.model.config._attn_implementation == "eager"
    dtype = model.model.dtype

    def finished(mask: torch.Tensor) -> torch.Tensor:
        mask = mask[:, None, None]
        return torch.where(mask, 0.0, torch.finfo(dtype).min).to(dtype) if is_additive else mask

    def make(valid: torch.Tensor, place: torch.Tensor) -> Masks:
        index = torch.arange(valid.shape[1], device=valid.device)
        full = valid.bool() & (index <= place)
        masks: Mapping[str, torch.Tensor] = {
            name: finished(full & (index > place - window) if name == "sliding_attention" else full) for name in types
        }
        return dict(masks) if len(masks) > 1 else next(iter(masks.values()))

    return make
