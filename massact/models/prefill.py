"""Reading prompts: what rows of one prompt share is computed once.

Below its steered layer a row's stream is that of the unsteered prompt. So each distinct prompt runs as one
stream, a trunk, and a row branches off at the output of the layer where it is steered.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from massact.models.blocks import block_output, replace_block_output
from massact.models.rows import Row


@dataclass(frozen=True, slots=True)
class Step:
    """What happens to the streams at the output of one decoder block."""

    gather: torch.Tensor | None
    """Of each stream of the next block, the stream it comes from; `None`: the streams stay as they are."""
    branched: torch.Tensor | None
    """Streams of the next block that begin here, and so get an addition; `None`: none."""
    additions: torch.Tensor | None
    """`[n_branched, 1, d_model]`, float32."""
    prompts: torch.Tensor | None
    """Of each stream of the next block, its prompt; `None`: one stream a prompt, in order."""


@dataclass(frozen=True, slots=True)
class Branching:
    """Which streams run through which block."""

    prompts: list[tuple[int, ...]]
    """The distinct prompts."""
    steps: list[Step]
    """Of each decoder block; after the last one every row has its own stream, in the rows' order."""
    sources: list[torch.Tensor | None]
    """Of each block and row, the stream that runs for the row there; `None`: one stream a row, in order."""


def plan_branching(rows: Sequence[Row], n_layers: int, device: torch.device) -> Branching:
    """Where rows leave the trunk of their prompt."""
    places = {prompt: place for place, prompt in enumerate(dict.fromkeys(row.prompt for row in rows))}
    prompt_of = [places[row.prompt] for row in rows]
    layer_of = [n_layers if row.push is None else row.push.layer for row in rows]

    def streams(block: int) -> list[tuple[int, int]]:
        """(prompt, -1) of a trunk, (prompt, row) of a row that has branched off before `block`."""
        if block == n_layers:
            return [(prompt, i) for i, prompt in enumerate(prompt_of)]
        trunks = dict.fromkeys(
            (p, -1) for p, layer in zip(prompt_of, layer_of, strict=True) if layer >= block
        )
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
        begun = [place for place, (_, i) in enumerate(after) if i >= 0 and layer_of[i] == block]
        additions = [rows[after[place][1]].push.addition for place in begun]  # type: ignore[union-attr]
        steps.append(
            Step(
                gather=index(
                    [at[stream] if stream in at else at[stream[0], -1] for stream in after], len(now)
                ),
                branched=torch.tensor(begun, device=device) if begun else None,
                additions=torch.stack(additions)[:, None].to(device) if begun else None,
                prompts=index([prompt for prompt, _ in after], len(places)),
            )
        )
        now = after
    return Branching(list(places), steps, sources)


@contextmanager
def branching(blocks: Sequence[nn.Module], plan: Branching) -> Iterator[None]:
    """Make the model, run on the distinct prompts, give one row of output for every row."""
    handles = []
    for layer, (block, step) in enumerate(zip(blocks, plan.steps, strict=True)):
        before = plan.steps[layer - 1].prompts if layer else None
        if before is not None:
            spread = _spread(before, len(plan.prompts))
            handles.append(block.register_forward_pre_hook(spread, with_kwargs=True))
        if step.gather is not None or step.branched is not None:
            handles.append(block.register_forward_hook(_branch(layer, step)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _branch(layer: int, step: Step) -> Callable[[nn.Module, object, object], object]:
    def hook(_module: nn.Module, _inputs: object, output: object) -> object:
        stream = block_output(output, layer)
        device = stream.device
        stream = stream.clone() if step.gather is None else stream.index_select(0, step.gather.to(device))
        if step.branched is not None and step.additions is not None:
            branched, additions = step.branched.to(device), step.additions.to(device)
            if len(branched) == len(stream):
                stream = (stream.float() + additions).to(stream.dtype)
            else:
                moved = stream.index_select(0, branched).float() + additions
                stream.index_copy_(0, branched, moved.to(stream.dtype))
        return replace_block_output(output, stream)

    return hook


def _spread(
    prompts: torch.Tensor, n_prompts: int
) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], tuple[tuple[Any, ...], dict[str, Any]]]:
    """Give masks and positions, made for one stream a prompt, to as many streams as there are now."""

    def spread(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            # a tensor of one dimension has none for the batch
            is_by_prompt = value.dim() > 1 and len(value) == n_prompts
            return value.index_select(0, prompts.to(value.device)) if is_by_prompt else value
        if isinstance(value, tuple):
            return tuple(spread(item) for item in value)
        if isinstance(value, dict):
            return {key: spread(item) for key, item in value.items()}
        return value

    def hook(
        _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        stream = ("hidden_states",) if not args else ()
        given = {key: value if key in stream else spread(value) for key, value in kwargs.items()}
        return (*args[:1], *(spread(value) for value in args[1:])), given

    return hook
