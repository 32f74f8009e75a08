#!/usr/bin/env bash
# lm-eval 0.4.13 scores a continuation wrongly where another request is the same text, cut elsewhere
#
# Expected: the log-likelihood of a continuation after its context does not depend on what else is asked, in `loglikelihood`
#     of a list of requests as in requests one by one.
# Seen: the default of `logits_cache` puts requests whose tokens are the same but for the last into one group and reads the
#     group once, as long as the continuation of one of them. ("the text", " goes on") and ("the text goes", " on") come
#     out unlike each of them alone: one of the two is wrong by several nats. `logits_cache=False` heals it. Where a steered
#     model is held against the unsteered one on a task whose choices begin alike, both can be wrong.
# Versions: lm-eval 0.4.13, transformers 5.23.0, torch 2.13.0.
# Date: 2026-11-30
#
# A small random Llama; no download but the packages.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 transformers==5.23.0 accelerate==1.15.0 lm-eval==0.4.13
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

words = ["<s>", "the", "text", "goes", "on", "and", "ends", "here"]
vocabulary = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<s>"))
vocabulary.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=vocabulary, bos_token="<s>", eos_token="<s>", pad_token="<s>")
torch.manual_seed(0)
model = LlamaForCausalLM(
    LlamaConfig(
        vocab_size=len(words), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=64, bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )
).eval()
with torch.no_grad():
    for weight in model.parameters():
        weight.mul_(8)  # random weights as they are find all words equally likely
PAIRS = [("the text", " goes on"), ("the text goes", " on")]
worst = {}
for cache in (True, False):
    harness = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4, logits_cache=cache)

    def asked(pairs):
        requests = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
        return [one[0] for one in harness.loglikelihood(requests, disable_tqdm=True)]

    together, alone = asked(PAIRS), [asked([pair])[0] for pair in PAIRS]
    for pair, both, one in zip(PAIRS, together, alone):
        print(f"logits_cache={cache}: {pair}: together {both:.2f}, alone {one:.2f}")
    worst[cache] = max(abs(both - one) for both, one in zip(together, alone))
assert worst[False] < 1e-3
assert worst[True] > 0.5, "requests that are one text no longer disturb each other"
PYTHON
