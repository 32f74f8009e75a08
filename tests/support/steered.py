"""Logits of a model that is steered by massact's own hook."""

import torch

import massact
from massact.models.blocks import steer
from massact.models.decode import edits_of
from massact.models.prompting import Intervention, Row


def steered_logits(
    model: massact.Model, tokens: tuple[int, ...], added: tuple[int, torch.Tensor] | None
) -> torch.Tensor:
    """`[1, n_tokens, n_vocabulary]`, float32.

    Args:
        added: a layer, and what is added to its output; `None`: nothing.
    """
    steerable, one = model.steerable, None
    if added is not None:
        layer, vector = added
        one = Intervention(layer, vector / vector.norm(), float(vector.norm()))
    edits = edits_of([Row(tokens, one)], steerable.device)
    with torch.no_grad(), steer(steerable.blocks, edits):
        logits: torch.Tensor = steerable.model(torch.tensor([tokens])).logits
    return logits.float()
