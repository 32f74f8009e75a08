#!/usr/bin/env bash
# steering-vectors 0.12.2 needs transformers 4, where Gemma 2 loads without its attention's soft cap
#
# Expected: activations of a Gemma 2, and so steering vectors of it, are the same whichever attention computes them, or
#     what cannot be computed is refused or told.
# Seen: transformers 4.57.6 loads Gemma 2 with sdpa unless told otherwise, and sdpa leaves `attn_logit_softcapping` out
#     without a word. steering-vectors 0.12.2 asks for transformers below 5, so a vector that it makes of a Gemma 2 with
#     `from_pretrained`'s defaults is of a slightly other model: here, with a small cap that shows it, 10 % and more in
#     relative norm, with the checkpoints' cap of 50 0.03 %. `attn_implementation="eager"` heals it.
# Versions: steering-vectors 0.12.2, transformers 4.57.6, torch 2.13.0.
# Date: 2026-11-30
#
# A small random Gemma 2; no download but the packages.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 transformers==4.57.6 steering-vectors==0.12.2
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import warnings
from importlib.metadata import requires

import torch
from steering_vectors import train_steering_vector
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma2ForCausalLM, PreTrainedTokenizerFast

print("steering-vectors requires", [one for one in requires("steering-vectors") if one.startswith("transformers")])
words = [f"w{i}" for i in range(64)]
vocabulary = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="w0"))
vocabulary.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=vocabulary, pad_token="w0")
pairs = [(" ".join(words[i : i + 8]), " ".join(words[i + 9 : i + 17])) for i in range(1, 40)]
differences = {}
for cap in (2.0, 50.0):
    torch.manual_seed(0)
    model = Gemma2ForCausalLM(
        Gemma2Config(
            vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4,
            num_key_value_heads=2, head_dim=8, query_pre_attn_scalar=8, attn_logit_softcapping=cap, pad_token_id=0,
        )
    )
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(8)  # random weights as they are attend everywhere alike
    model.save_pretrained("gemma2")
    vectors = {}
    for attention in (None, "eager"):
        chosen = {} if attention is None else {"attn_implementation": attention}
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            loaded = AutoModelForCausalLM.from_pretrained("gemma2", **chosen).eval()
            trained = train_steering_vector(loaded, tokenizer, pairs, layers=[2])
        assert not [one for one in said if "softcap" in str(one.message).lower()]
        vectors[attention] = trained.layer_activations[2]
        used = loaded.config._attn_implementation
        print(f"cap {cap:g}, asked for {attention}: {used}, vector norm {vectors[attention].norm():.4f}")
    differences[cap] = float((vectors[None] - vectors["eager"]).norm() / vectors["eager"].norm())
    print(f"cap {cap:g}: relative difference of the default's vector {differences[cap]:.2%}")
assert differences[2.0] > 0.05, "the soft cap is no longer left out"
PYTHON
