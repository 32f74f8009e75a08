#!/usr/bin/env bash
# repeng's default method leaves out what all pairs share
#
# Expected: a control vector that repeng trains with its default, `pca_diff`, points where a trait's pairs differ. In
#     pairs of one template that is above all the mean difference, which is what RepE's PCA of differences and
#     difference-in-means are taken for.
# Seen: the differences are centred before their first component is taken (scikit-learn's PCA does so), so that the
#     part that all pairs share is lost and what is left is how the pairs differ from each other: cosines of 0.12 to
#     0.49 with the mean difference by layer. `pca_center`, which takes both sides of each pair, gives 0.999 or
#     more on the same pairs. A vector of the one is no vector of the other, and neither file says which it is.
# Versions: repeng 0.4.0 (default method pca_diff), scikit-learn 1.9.1, transformers 4.57.6, torch 2.13.0, numpy 1.26.4.
# Date: 2026-11-30
#
# A small random Llama, 40 pairs "you are extremely calm ..." against "you are extremely angry ..."; no download but
# the packages.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 transformers==4.57.6 repeng==0.4.0 scikit-learn==1.9.1 numpy==1.26.4
"$folder/venv/bin/python" - <<'PYTHON'
import inspect
import random

import numpy as np
import torch
from repeng import ControlVector, DatasetEntry
from repeng.extract import read_representations
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = (
    "<pad> you are extremely calm angry the cat sat on a mat dog ran to house tree river went home we saw blue bird "
    "stone small old road"
).split()
LAYERS = [1, 2, 3, 4, 5]

words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<pad>"))
words.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>")
torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=len(WORDS), hidden_size=64, intermediate_size=128, num_hidden_layers=6, num_attention_heads=4,
    num_key_value_heads=4, pad_token_id=0,
)
model = LlamaForCausalLM(config).eval()
with torch.no_grad():
    for weight in model.parameters():
        if weight.dim() > 1:
            weight.mul_(4)  # random weights as they are hardly move the stream

chance = random.Random(0)
ends = [" ".join(chance.choices(WORDS[6:], k=chance.randint(3, 6))) for _ in range(40)]
pairs = [DatasetEntry(f"you are extremely calm {end}", f"you are extremely angry {end}") for end in ends]


@torch.no_grad()
def last_token(text):
    states = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states
    return torch.stack([layer[0, -1] for layer in states]).numpy()


shared = np.mean([last_token(pair.positive) - last_token(pair.negative) for pair in pairs], axis=0)
assert inspect.signature(read_representations).parameters["method"].default == "pca_diff"
assert ControlVector
cosines = {}
for method in ("pca_diff", "pca_center"):
    found = read_representations(model, tokenizer, pairs, hidden_layers=LAYERS, method=method)
    cosines[method] = [
        float(found[i] @ shared[i + 1] / np.linalg.norm(found[i]) / np.linalg.norm(shared[i + 1])) for i in LAYERS
    ]
    print(method, "cosine with the mean difference, layers 1 to 5:", [round(one, 3) for one in cosines[method]])
assert max(map(abs, cosines["pca_diff"])) < 0.6, "the default keeps the shared direction now"
assert min(cosines["pca_center"]) > 0.99
PYTHON
