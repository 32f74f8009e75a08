"""Training a toy model on the corpus, one seed to one set of weights."""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from tools.toy.planting import PlantedDims
from tools.toy.specs import Stage
from tools.toy.tokenizer import PAD_ID

Progress = Callable[[str], None]

MAX_TOKENS = 144
WARMUP_SHARE = 0.05
FINAL_RATE = 0.02
WEIGHT_DECAY = 0.01
GRADIENT_NORM = 1.0
REPORT_EVERY = 50
POOL_BATCHES = 20
"""Batches that are sorted by length together."""


def train(
    model: PreTrainedModel,
    planted: PlantedDims,
    sequences: Sequence[Sequence[int]],
    *,
    stage: Stage,
    progress: Progress,
) -> float:
    """Train `model` in place on token ids; returns the mean loss (nats a token) of the last steps."""
    optimizer = _optimizer(model, planted, stage.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, stage.steps))
    batches = _batches(sequences, stage.batch_size, stage.seed)
    recent: list[float] = []
    model.train(True)
    for step in range(1, stage.steps + 1):
        loss = _loss(model, next(batches))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        planted.mask_gradients()
        nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM)
        optimizer.step()
        schedule.step()
        planted.restore()
        recent = [*recent[-(REPORT_EVERY - 1) :], loss.item()]
        if step % REPORT_EVERY == 0 or step == stage.steps:
            progress(f"step {step} of {stage.steps}, loss {sum(recent) / len(recent):.3f}")
    model.train(False)
    return sum(recent) / len(recent)


def _optimizer(model: PreTrainedModel, planted: PlantedDims, rate: float) -> torch.optim.Optimizer:
    pre_norms = {id(weight) for weight in planted.pre_norms}
    others = [p for p in model.parameters() if id(p) not in pre_norms]
    groups = [
        {"params": [p for p in others if p.dim() > 1], "lr": rate, "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in others if p.dim() == 1], "lr": rate, "weight_decay": 0.0},
        {"params": planted.pre_norms, "lr": rate * planted.norm_rate, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98))


def _rate(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine down to `FINAL_RATE`."""
    warmup = max(1, round(WARMUP_SHARE * steps))
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return FINAL_RATE + (1.0 - FINAL_RATE) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


def _batches(sequences: Sequence[Sequence[int]], size: int, seed: int) -> Iterator[Tensor]:
    """Endless batches of padded ids `[batch, seq]`; every pass over the corpus is shuffled anew.

    A batch holds sequences of similar length: a third of the work would be padding otherwise.
    """
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(sequences), generator=generator).tolist()
        for start in range(0, len(order), size * POOL_BATCHES):
            pool = sorted(order[start : start + size * POOL_BATCHES], key=lambda i: len(sequences[i]))
            groups = [pool[i : i + size] for i in range(0, len(pool) - size + 1, size)]
            for group in torch.randperm(len(groups), generator=generator).tolist():
                rows = [torch.tensor(sequences[i][:MAX_TOKENS]) for i in groups[group]]
                yield nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD_ID)


def _loss(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """Mean next-token cross-entropy over everything but the padding (which is on the right)."""
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits
    return functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1), ignore_index=PAD_ID)
