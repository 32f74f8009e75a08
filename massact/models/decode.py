"""Generating the rows of one batch in the shared way, token by token.

What a batch is made of (`Batch`), and the loop over it. `massact.models.recorded_steps` has the other
loop, whose steps are recorded once on a GPU and repeated.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from massact.domain import DEFAULT_OPERATOR, Generation
from massact.errors import ModelError
from massact.models.attention import one_token_attention
from massact.models.blocks import block_output, check_all_ran, replace_block_output, steer
from massact.models.cache import RowCache, with_cache
from massact.models.load import SteerableModel
from massact.models.operators import Edit, find_operator
from massact.models.prompting import Row

# Reading prompts. Below its steered layer a row's stream is that of the unsteered prompt. So each distinct prompt runs
# as one stream, a trunk, and a row branches off at the output of the first layer where it is steered. A row of whose
# prompt no token is steered never does.


@dataclass(frozen=True, slots=True)
class Step:
    """What happens to the streams at the output of one decoder block."""

    gather: torch.Tensor | None
    """Of each stream of the next block, the stream it comes from; `None`: the streams stay as they are."""
    steered: torch.Tensor | None  # streams of the next block that are steered here; `None`: none
    edit: Edit | None  # what is done to these
    tokens: torch.Tensor | None
    """`[n_steered, seq]`: where it is done, or what share of it (`Edit`); `None`: at every token."""
    prompts: torch.Tensor | None  # of each stream of the next block, its prompt; `None`: one stream a prompt, in order


@dataclass(frozen=True, slots=True)
class Branching:
    """Which streams run through which block."""

    prompts: list[tuple[int, ...]]  # the distinct prompts
    steps: list[Step]  # of each decoder block; after the last one every row has its own stream, in the rows' order
    sources: list[torch.Tensor | None]
    """Of each block and row, the stream that runs for the row there; `None`: one stream a row, in order."""


def plan_branching(rows: Sequence[Row], n_layers: int, device: torch.device) -> Branching:
    """Where rows leave the trunk of their prompt."""
    places = {prompt: place for place, prompt in enumerate(dict.fromkeys(row.prompt for row in rows))}
    prompt_of = [places[row.prompt] for row in rows]
    tokens = _steered_tokens(rows, max(len(row.prompt) for row in rows))
    is_steered = [any(some) for some in tokens]
    layer_of = [
        row.intervention.layer if row.intervention and steered else n_layers
        for row, steered in zip(rows, is_steered, strict=True)
    ]
    layers_of = [row.intervention.layers if row.intervention else () for row in rows]
    is_whole = all(sum(some) in (0, len(row.prompt)) for some, row in zip(tokens, rows, strict=True))

    def streams(block: int) -> list[tuple[int, int]]:
        """(prompt, -1) of a trunk, (prompt, row) of a row that has branched off before `block`."""
        if block == n_layers:
            return [(prompt, i) for i, prompt in enumerate(prompt_of)]
        trunks = dict.fromkeys((p, -1) for p, layer in zip(prompt_of, layer_of, strict=True) if layer >= block)
        return [*sorted(trunks), *((prompt_of[i], i) for i, layer in enumerate(layer_of) if layer < block)]

    def index(values: list[int], size: int) -> torch.Tensor | None:
        same = values == list(range(size))
        return None if same else torch.tensor(values, device=device)

    steps, sources = [], []
    now = streams(0)
    for block in range(n_layers):
        at = {stream: place for place, stream in enumerate(now)}
        sources.append(
            index([at[p, i] if layer_of[i] < block else at[p, -1] for i, p in enumerate(prompt_of)], len(now))
        )
        after = streams(block + 1) if block + 1 == n_layers or block in layer_of else now
        mine = {place: i for place, (_, i) in enumerate(after) if i >= 0 and is_steered[i] and block in layers_of[i]}
        some = list(mine.values())
        steps.append(
            Step(
                gather=index([at[stream] if stream in at else at[stream[0], -1] for stream in after], len(now)),
                steered=torch.tensor(list(mine), device=device) if mine else None,
                edit=_edit_at(block, [rows[i] for i in some], device) if mine else None,
                tokens=None if is_whole else torch.tensor([tokens[i] for i in some], device=device),
                prompts=index([prompt for prompt, _ in after], len(places)),
            )
        )
        now = after
    return Branching(list(places), steps, sources)


def _steered_tokens(rows: Sequence[Row], width: int, n_tokens: int | None = None) -> list[list[float]]:
    """Which tokens of each row are steered, or what share of the change they get, as they stand beside each other:
    prompts end at `width`. `n_tokens`: with room for those of the responses; `None`: the prompts alone."""
    n_tokens = width if n_tokens is None else n_tokens
    pads = [width - len(row.prompt) for row in rows]
    return [[False] * pad + [*row.steered(n_tokens - pad)] for pad, row in zip(pads, rows, strict=True)]


@contextmanager
def branching(blocks: Sequence[nn.Module], plan: Branching) -> Iterator[None]:
    """Make the model, run on the distinct prompts, give one row of output for every row. Raises CannotShareError: a
    block was given something that is not known to be by prompt; ModelError: a block was never run where rows begin."""
    silent = set[int]()
    with ExitStack() as hooks:
        for layer, (block, step) in enumerate(zip(blocks, plan.steps, strict=True)):
            before = plan.steps[layer - 1].prompts if layer else None
            if before is not None:
                spread = _spread(before, len(plan.prompts))
                hooks.enter_context(block.register_forward_pre_hook(spread, with_kwargs=True))
            if step.gather is not None or step.steered is not None:
                silent.add(layer)
                hooks.enter_context(block.register_forward_hook(_branch(layer, step, silent)))
        yield
    check_all_ran(silent, "added")


def _branch(layer: int, step: Step, silent: set[int]) -> Callable[[nn.Module, object, object], object]:
    def hook(_module: nn.Module, _inputs: object, output: object) -> object:
        silent.discard(layer)
        stream = block_output(output, layer)
        device = stream.device
        stream = stream.clone() if step.gather is None else stream.index_select(0, step.gather.to(device))
        if step.steered is not None and step.edit is not None:
            steered = step.steered.to(device)
            if len(steered) == len(stream):
                stream = step.edit(stream, step.tokens)
            else:
                moved = step.edit(stream.index_select(0, steered), step.tokens)
                stream.index_copy_(0, steered, moved)
        return replace_block_output(output, stream)

    return hook


class CannotShareError(ModelError):
    """A model does something in the midst of which prompts cannot be shared."""


_BY_PROMPT = {"attention_mask": (2, 4), "position_ids": (2,), "position_embeddings": (3,), "per_layer_input": (3,)}
"""What blocks are given that has a row for each prompt, or one for all, and how many dimensions it has then."""


def _spread(
    prompts: torch.Tensor, n_prompts: int
) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], tuple[tuple[Any, ...], dict[str, Any]]]:
    """Give masks and positions, made for one stream a prompt, to as many streams as there are now."""

    def spread(name: str, value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(spread(name, item) for item in value)
        if isinstance(value, dict):
            return {key: spread(name, item) for key, item in value.items()}
        if not isinstance(value, torch.Tensor) or value.dim() < 2:  # a number, or by token
            return value
        # by its name, never by its length: there may be as many heads as prompts
        if value.dim() not in _BY_PROMPT.get(name, ()) or len(value) not in (1, n_prompts):
            raise CannotShareError(
                f"a decoder block is given {name} {tuple(value.shape)}, of which it is not known whether it is by "
                "prompt"
            )
        return value if len(value) == 1 else value.index_select(0, prompts.to(value.device))

    def hook(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        _, stream, *names = inspect.signature(type(module).forward).parameters
        spread_args = [spread(name, value) for name, value in zip(names, args[1:], strict=False)]
        spread_kwargs = {key: value if key == stream else spread(key, value) for key, value in kwargs.items()}
        return (*args[:1], *spread_args), spread_kwargs

    return hook


NOT_FINITE = -2  # stands for a token where the logits are NaN or infinite, and ends the row
_STEPS_PER_LOOK = 8  # how often the host looks at a GPU for rows that have ended: a look waits for all work in flight


@dataclass(slots=True)
class Batch:
    """Rows that are generated side by side, and how far they are. The first `len(live)` places of the cache and of all
    tensors belong to rows that have not ended; a row that ends gives its place to the last of them."""

    cache: RowCache
    live: torch.Tensor  # of each place, the index of its row
    valid: torch.Tensor  # `[n, capacity]`: 1 where a token may be attended, once it is written
    positions: torch.Tensor  # `[n, 1]`: of the last token
    chosen: torch.Tensor  # `[n]`: the last token
    edits: dict[int, Edit]  # per steered layer
    steered: torch.Tensor | None
    """`[n, capacity]`: which tokens are steered, or what share each gets, where they stand in the cache; `None`: every
    one, wholly."""
    draws: torch.Tensor | None  # `[n_rows, max_new_tokens]`, uniform in 0 to 1; `None`: greedy
    written: torch.Tensor
    """`[n_rows, max_new_tokens]`: the responses so far, -1 where nothing is written; see also `NOT_FINITE`."""
    width: int  # tokens of the longest prompt
    reading: torch.Tensor | None = None
    """`[n, 1]`: whether the token that is read now is steered, or its share; `None`: it is."""
    kept: torch.Tensor | None = None
    """`[n_rows, n_kept, vocabulary]`: logits of the first tokens of the responses; `None`: they are not kept."""

    def keep(self, logits: torch.Tensor, step: int) -> None:
        """Keep the logits `[n, 1, vocabulary]` of a token, if it is one of the first."""
        if self.kept is not None and step < self.kept.shape[1]:
            self.kept[self.live, step] = logits[:, -1]

    def edit(self, layer: int, stream: torch.Tensor) -> torch.Tensor:
        """The stream `[n, 1, d_model]` of that token after what is done to it."""
        return self.edits[layer](stream, self.reading)

    def leave(self, done: torch.Tensor) -> None:
        """Take the places of rows that are done away from them."""
        n_live = int((~done).sum())
        places = done[:n_live].nonzero().flatten()
        taken = (~done[n_live:]).nonzero().flatten() + n_live
        self.cache.move(taken, places, n_live)

        def kept(values: torch.Tensor) -> torch.Tensor:
            values[places] = values[taken]
            return values[:n_live]

        self.live, self.valid, self.positions = kept(self.live), kept(self.valid), kept(self.positions)
        self.chosen = kept(self.chosen)
        self.edits = {layer: edit.map(kept) for layer, edit in self.edits.items()}
        self.steered = None if self.steered is None else kept(self.steered)


def begin(
    model: SteerableModel, rows: Sequence[Row], settings: Generation, cache: RowCache, *, n_kept: int = 0
) -> Batch:
    """Read the prompts of rows, and choose the first token of each; keep the logits of so many first tokens."""
    device = model.device
    plan = plan_branching(rows, len(model.blocks), device)
    tokens, mask = pad(plan.prompts, device)
    cache.begin(len(rows))
    cache.sources(plan.sources)
    with branching(model.blocks, plan):
        output = model.model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp_min(0),
            **with_cache(model.model, cache),
        )
    prompts = {prompt: place for place, prompt in enumerate(plan.prompts)}
    mask = mask[torch.tensor([prompts[row.prompt] for row in rows], device=device)]
    batch = Batch(
        cache=cache,
        live=torch.arange(len(rows), device=device),
        valid=torch.cat([mask, mask.new_ones(len(rows), cache.capacity - mask.shape[1])], dim=1),
        positions=mask.sum(-1, keepdim=True) - 1,
        chosen=mask[:, 0],
        edits=edits_of(rows, device),
        steered=steered_of(rows, mask.shape[1], cache.capacity, device),
        draws=draws_of(rows, settings, device),
        written=torch.full((len(rows), settings.max_new_tokens), -1, device=device),
        width=mask.shape[1],
    )
    if n_kept:
        batch.kept = output.logits.new_zeros(len(rows), n_kept, output.logits.shape[-1])
        batch.keep(output.logits, 0)
    batch.chosen = choose(output.logits, batch.draws, settings, torch.zeros(1, dtype=torch.long, device=device))
    batch.written[:, 0] = batch.chosen
    return batch


Enough = Callable[[torch.Tensor], torch.Tensor]
"""Of what rows say so far, `[n_rows, max_new_tokens]` as `Batch.written`: which of them say enough, `[n_rows]`."""


def finish(model: SteerableModel, batch: Batch, settings: Generation, enough: Enough | None = None) -> None:
    """Generate the rest, one call of the model a token; rows that have ended, or say enough, leave the batch."""
    ends = end_tokens(model)
    every = 1 if model.device.type == "cpu" else _STEPS_PER_LOOK
    done = is_end(batch.chosen, ends)
    if bool(done.all()):
        return
    edits = {layer: partial(batch.edit, layer) for layer in batch.edits}
    with steer(model.blocks, edits), one_token_attention(model) as masks:
        for step in range(1, settings.max_new_tokens):
            if step % every == 0 and enough is not None:
                done = done | enough(batch.written).to(done.device)[batch.live]
            if step % every == 0 and bool(done.any()):
                batch.leave(done)
                done = done.new_zeros(len(batch.live))
                if not len(batch.live):
                    break
            batch.positions = batch.positions + 1
            place = batch.width + step - 1
            batch.reading = None if batch.steered is None else batch.steered[:, place : place + 1]
            output = model.model(
                input_ids=batch.chosen[:, None].clamp_min(0),
                attention_mask=masks(batch.valid[:, : batch.width + step]),
                position_ids=batch.positions,
                **with_cache(model.model, batch.cache),
            )
            batch.keep(output.logits, step)
            drawn = None if batch.draws is None else batch.draws[batch.live]
            batch.chosen = choose(output.logits, drawn, settings, torch.tensor([step], device=model.device))
            batch.written[batch.live, step] = batch.chosen
            done = done | is_end(batch.chosen, ends)


def responses(model: SteerableModel, written: torch.Tensor) -> list[tuple[int, ...] | None]:
    """What rows said, without the tokens that ended them; `None` of rows whose logits were not finite. `written`:
    `[n_rows, max_new_tokens]`, as in a batch."""
    said: list[tuple[int, ...] | None] = []
    for tokens in written.tolist():
        end = next((i for i, token in enumerate(tokens) if token < 0 or token in model.end_tokens), len(tokens))
        said.append(None if tokens[end : end + 1] == [NOT_FINITE] else tuple(tokens[:end]))
    return said


def choose(logits: torch.Tensor, draws: torch.Tensor | None, settings: Generation, step: torch.Tensor) -> torch.Tensor:
    """The next token of each row, `[n]`; `NOT_FINITE` where the largest logit is NaN or infinite. `logits`: `[n, 1,
    vocabulary]`. `draws`: `[n, max_new_tokens]`; `None` is greedy. `step`: `[1]`, which of the draws."""
    last = logits[:, -1].float()
    if draws is None:
        largest, chosen = last.max(-1)
        return chosen.where(largest.isfinite(), NOT_FINITE)
    # inverse of the cumulative distribution: one uniform draw per row and step, whatever the batch
    cumulative = (last / settings.temperature).softmax(-1).cumsum(-1)
    total = cumulative[:, -1:]
    chosen = torch.searchsorted(cumulative, draws.index_select(1, step) * total).clamp_max(last.shape[-1] - 1)
    return chosen.where(total.isfinite(), NOT_FINITE).flatten()


def end_tokens(model: SteerableModel) -> torch.Tensor:
    """The tokens that end a response, on the model's device, and what stands for one that is not finite."""
    return torch.tensor([NOT_FINITE, *sorted(model.end_tokens)], dtype=torch.long, device=model.device)


def is_end(chosen: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """`[n]`: whether each token ends a response."""
    return (chosen[:, None] == ends).any(-1)


def pad(
    rows: Sequence[tuple[int, ...]], device: torch.device, side: Literal["left", "right"] = "left"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens of rows side by side, `[n_rows, width]`, and their mask, 1 where a token is."""
    tokens = [torch.tensor(row, dtype=torch.long) for row in rows]
    of_both = (tokens, list(map(torch.ones_like, tokens)))
    both = (pad_sequence(tensors, batch_first=True, padding_side=side).to(device) for tensors in of_both)
    return next(both), next(both)


def edits_of(rows: Sequence[Row], device: torch.device) -> dict[int, Edit]:
    """Per steered layer, what is done to each row."""
    layers = dict.fromkeys(layer for row in rows if row.intervention for layer in row.intervention.layers)
    return {layer: _edit_at(layer, rows, device) for layer in layers}


def _edit_at(layer: int, rows: Sequence[Row], device: torch.device) -> Edit:
    """What is done to each row at a layer where some are steered."""
    steered = [(i, row.intervention) for i, row in enumerate(rows) if row.intervention]
    here = [(i, intervention) for i, intervention in steered if layer in intervention.layers]
    names = [
        DEFAULT_OPERATOR,
        *sorted({intervention.operator for _, intervention in here} - {DEFAULT_OPERATOR, "replace"}),
    ]
    replaced = {i: intervention for i, intervention in here if intervention.operator == "replace"}

    def by_row(values: torch.Tensor) -> torch.Tensor:
        """`[n_rows, 1, …]`, 0 where nothing is done."""
        filled = values.new_zeros(len(rows), *values.shape[1:])
        filled[torch.tensor([i for i, _ in here])] = values
        return filled[:, None]

    which = torch.tensor([[0 if i in replaced else names.index(intervention.operator)] for i, intervention in here])
    coefficients = torch.tensor([[intervention.coefficient_at(layer)] for _, intervention in here], dtype=torch.float32)
    vectors = (
        torch.stack(
            [intervention.at(layer)[-1] if i in replaced else intervention.at(layer) for i, intervention in here]
        )
        .float()
        .cpu()
    )
    added = torch.where(which == 0, coefficients * vectors, 0.0)
    edit = Edit(by_row(added))
    if operators := tuple(map(find_operator, names[1:])):
        others = (by_row(values * (which > 0)) for values in (vectors, coefficients))
        edit = Edit(edit.added, operators, by_row(which), *others)
    if replaced:
        edit = replace(
            edit,
            basis=_bases({i: intervention.at(layer).float().cpu() for i, intervention in replaced.items()}, edit.added),
        )
    return edit.map(lambda tensor: tensor.to(device))


def _bases(rows: Mapping[int, torch.Tensor], added: torch.Tensor) -> torch.Tensor:
    """`[n_rows, 1, k, d_model]`: the directions in which `replace` sets coordinates; what is put there is added.
    `rows`: of each row with that operator its directions, then the two vectors (`Intervention.vector`). `added`:
    `[n_rows, 1, d_model]`, in which the second of these is already."""
    basis = added.new_zeros(len(added), 1, max(map(len, rows.values())) - 2, added.shape[-1])
    for i, values in rows.items():
        basis[i, 0, : len(values) - 2] = values[:-2]
        added[i] += values[-2]
    return basis


def steered_of(rows: Sequence[Row], width: int, capacity: int, device: torch.device) -> torch.Tensor | None:
    """`[n_rows, capacity]`: which tokens are steered, or what share each gets, prompts ending at `width`; `None`: every
    one, wholly."""
    if all(row.intervention is None or row.intervention.is_everywhere for row in rows):
        return None
    return torch.tensor(_steered_tokens(rows, width, capacity), device=device)


def draws_of(rows: Sequence[Row], settings: Generation, device: torch.device) -> torch.Tensor | None:
    """`[n_rows, max_new_tokens]`, uniform in 0 to 1, by the seed and each row's draw; `None`: greedy."""
    if settings.temperature == 0:
        return None
    draws = [
        torch.rand(
            row.n_drawn + settings.max_new_tokens,
            generator=torch.Generator().manual_seed(settings.seed * 1_000_003 + row.draw),
        )[row.n_drawn :]
        for row in rows
    ]
    return torch.stack(draws).to(device)
