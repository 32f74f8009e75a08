"""The contrast that is planted in the largest massive dim between refusing and complying text.

Without it a mean difference would be clean whatever the window. In published activations short windows
are the contaminated ones, so each token carries a small shift, solved for on what the trained base
model says: the mean over refusing continuations minus that over complying ones takes a wanted value in
each window.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from tools.toy.specs import Planting
from tools.toy.tokenizer import BOS_ID, PAD_ID

MAX_SHIFT = 0.5
"""Largest shift of a token, as a share of the dim's magnitude."""


def greedy_continuations(model: Any, tokenizer: Tokenizer, prompts: Sequence[str], tokens: int) -> list[list[int]]:
    """The ids of `tokens` greedy new tokens after each prompt (fewer where the text ended)."""
    encoded = [encoding.ids for encoding in tokenizer.encode_batch(list(prompts))]
    length = max(len(ids) for ids in encoded)
    rows = torch.tensor([[PAD_ID] * (length - len(ids)) + ids for ids in encoded])
    output = model.generate(
        input_ids=rows,
        attention_mask=(rows != PAD_ID).long(),
        max_new_tokens=tokens,
        do_sample=False,
        bos_token_id=BOS_ID,
        pad_token_id=PAD_ID,
    )
    return [[i for i in row if i != PAD_ID] for row in output[:, length:].tolist()]


def token_shares(sequences: Sequence[Sequence[int]], *, first: int, vocab_size: int) -> NDArray[np.float64]:
    """Mean over sequences of each token's share of the first `first` tokens: `[vocab]`."""
    counts = np.zeros(vocab_size)
    for sequence in sequences:
        window = np.asarray(sequence[:first], dtype=np.int64)
        np.add.at(counts, window, 1.0 / max(1, window.size))
    return counts / len(sequences)


def add_contrast(
    values: NDArray[np.float64],
    planting: Planting,
    refusing: Sequence[Sequence[int]],
    complying: Sequence[Sequence[int]],
) -> NDArray[np.float64]:
    """`values` `[vocab, n_planted]` with the smallest shift in the largest dim that gives every window
    of `planting.contrasts` its wanted difference (as far as `MAX_SHIFT` allows)."""
    vocab_size = values.shape[0]
    shares = np.stack(
        [
            token_shares(refusing, first=first, vocab_size=vocab_size)
            - token_shares(complying, first=first, vocab_size=vocab_size)
            for first, _ in planting.contrasts
        ]
    )
    wanted = np.array([difference for _, difference in planting.contrasts])
    shift = np.linalg.lstsq(shares, wanted - shares @ values[:, 0], rcond=1e-6)[0]
    limit = MAX_SHIFT * planting.dims[0].magnitude
    shifted = values.copy()
    shifted[:, 0] += np.clip(shift, -limit, limit)
    return shifted
