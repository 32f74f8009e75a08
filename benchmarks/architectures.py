"""Every decoder of the installed transformers, tiny and random, held against transformers' own `generate`.

    python benchmarks/architectures.py run [--only 'gemma*' ...] [--shard 1/4] [--out architectures.jsonl]
    python benchmarks/architectures.py table architectures.jsonl > docs/architectures.md

Of each family (a `model_type`) a model of the genuine class with 4 layers of 64 dims is saved, loaded as a user loads
it and run: 28 rows (4 prompts of 3 to 21 tokens, as many as heads, so that no length tells them apart; plain,
coefficient 0, two added to at each of 4 layers, and each other operator at three choices of tokens of two layers), 8
tokens each. The oracle is a one-row `model.generate` with hooks of its own. A family has a process of its own; what is
in the file of results is not run again. All take a quarter of an hour of one core.
"""

import argparse
import copy
import dataclasses
import gc
import inspect
import json
import os
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from itertools import product
from pathlib import Path
from typing import Any

os.environ |= {
    "TRANSFORMERS_VERBOSITY": "critical", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1",
}  # fmt: skip
N_LAYERS, D_MODEL, VOCABULARY, WINDOW = 4, 64, 96, 8
LENGTHS, N_NEW, SECONDS = (3, 7, 11, 21), 8, 120
OPERATORS = {"ablate": 1.0, "clamp": 5.0, "rotate": 40.0, "replace": 0.5}
TOKENS = ("all", "response", "prompt[-1]")
Outcome = dict[str, Any]

# Tiny configurations: fields by name, then what single families need.

_SIZES: dict[Any, str] = {
    64: "out_hidden_size text_hidden_size hidden_size n_embd d_model n_embed embed_dim dim emb_dim model_dim "
    "embedding_size word_embed_proj_dim hidden_dim decoder_hidden_size lru_width dim_model embedding_dim "
    "encoder_hidden_dim attention_hidden_size embed_dimension cross_attention_hidden_size intermediate_size "
    "ffn_dim n_inner d_ff ffn_hidden_size dim_ff decoder_ffn_dim encoder_ffn_dim feed_forward_size dff "
    "d_inner intermediate_size_mlp mlp_hidden_size expansion_hidden mlp_dim shared_intermediate_size "
    "block_ff_dim attention_hidden dense_intermediate_size",
    N_LAYERS: "num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers num_decoder_layers depth "
    "num_encoder_layers num_blocks num_attention_heads n_head n_heads decoder_attention_heads "
    "encoder_attention_heads num_heads num_decoder_attention_heads num_encoder_attention_heads "
    "attention_heads num_experts num_local_experts n_routed_experts moe_num_experts num_moe_experts "
    "num_routed_experts index_topk mamba_n_heads n_mamba_heads linear_num_value_heads mamba_num_heads "
    "linear_num_heads mamba_dt_rank time_step_rank",
    2: "index_kpool num_key_value_heads num_kv_heads kv_n_heads swa_num_key_value_heads num_experts_per_tok "
    "moe_top_k moe_k moe_topk num_experts_per_token top_k_experts index_n_heads linear_num_key_heads "
    "bos_token_id",
    16: "head_dim kv_channels attention_head_dim d_kv dim_head global_head_dim swa_head_dim attention_head_size "
    "d_head q_lora_rank kv_lora_rank v_head_dim o_lora_rank index_head_dim mamba_chunk_size chunk_size "
    "laurel_rank logits_chunk hidden_size_per_layer_input",
    VOCABULARY: "vocab_size n_vocab vocab_size_per_layer_input",
    256: "max_position_embeddings n_positions max_seq_len max_sequence_length n_ctx context_length "
    "max_target_positions",
    1: "n_group topk_group n_groups_router num_expert_group n_shared_experts moe_num_shared_experts "
    "num_shared_experts num_shared_expert first_k_dense_replace moe_layer_start_index num_dense_layers "
    "mamba_n_groups n_groups mamba_ngroups eos_token_id",
    32: "moe_intermediate_size shared_expert_intermediate_size expert_ffn_hidden_size moe_ffn_hidden_size "
    "moe_shared_expert_intermediate_size expert_intermediate_size moe_shared_intermediate_size",
    WINDOW: "sliding_window attention_chunk_size attention_window_size window_size local_attention "
    "sliding_window_size local_window_size qk_rope_head_dim qk_nope_head_dim linear_key_head_dim "
    "linear_value_head_dim linear_head_dim mamba_d_state state_size ssm_state_size",
    0.15: "initializer_range init_std",
    0: "pad_token_id attention_dropout hidden_dropout_prob attention_probs_dropout_prob dropout resid_pdrop "
    "embd_pdrop attn_pdrop activation_dropout layerdrop decoder_layerdrop encoder_layerdrop embedding_dropout "
    "residual_dropout emb_dropout resid_dropout attn_dropout",
}  # fmt: skip
SIZE = {name: value for value, names in _SIZES.items() for name in names.split()}
_STAYS_NONE = """q_lora_rank n_inner kv_lora_rank num_key_value_heads sliding_window attention_chunk_size head_dim
num_local_experts num_experts shared_intermediate_size vocab_size_per_layer_input hidden_size_per_layer_input
global_head_dim v_head_dim"""
_LINEAR = ["linear_attention", "full_attention"] * 2
_SLIDING = ["sliding_attention", "full_attention"] * 2
_CONV = ["conv", "full_attention"] * 2
_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_MROPE = {"text_config": {"rope_parameters": {**_ROPE, "mrope_section": [2, 3, 3]}}}
_GEMMA4 = {"global_head_dim": 32, "layer_types": _SLIDING, "head_dim": 16}
_SHARED_KEYS = {"num_hidden_layers": 6, "layer_types": _SLIDING + _SLIDING[:2], "num_kv_shared_layers": 2}
_GEMMA3N = {**_SHARED_KEYS, "activation_sparsity_pattern": [0.95, *[0.0] * 5]}
_QWEN4 = {
    "indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 16, "indexer_budget": 8,
    "indexer_compress_ratio": 2, "hc_lowrank": 16,
}  # fmt: skip
_WINDOWED = {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 2}
SPECIAL: dict[str, dict[str, Any]] = {
    "codegen": {"rotary_dim": 8}, "gptj": {"rotary_dim": 8}, "bamba": {"attn_layer_indices": [1, 3]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1}, "granitemoehybrid": {"layer_types": _LINEAR},
    "cohere_compass_text": {"layer_types": _SLIDING, "rope_parameters": dict.fromkeys(_SLIDING, _ROPE)},
    "gemma3n": {"text_config": _GEMMA3N, "audio_config": None}, "gemma3n_text": _GEMMA3N,
    "fast_vlm": {"vision_config": {"hidden_size": 64}},
    "perception_lm": {"vision_config": {
        "architecture": "vit_tiny_patch16_224", "model_args": {"embed_dim": 64, "depth": 1, "num_heads": 4}}},
    "chameleon": {"vocabulary_map": {"<image>": 90}},
    "gemma4_text": _GEMMA4, "gemma4_unified_text": _GEMMA4, "gemma4": {"text_config": _GEMMA4, "audio_config": None},
    "gemma4_unified": {"text_config": _GEMMA4, "audio_config": None},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]}, "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16}, "ministral": {"head_dim": 16}, "nemotron": {"num_key_value_heads": 2},
    "lfm2": {"layer_types": _CONV}, "lfm2_moe": {"layer_types": _CONV},
    "longcat_flash": {"num_layers": 2, "head_dim": 8},
    "lfm2_vl": {"text_config": {"layer_types": _CONV}}, "mamba2": {"num_heads": 8, "head_dim": 16},
    "dbrx": {"attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0}},
    "zaya": {"num_experts_per_tok": 1},
    "dots3_note_text": {"num_key_value_heads": 4}, "dots3_note": {"text_config": {"num_key_value_heads": 4}},
    "molmo2": {"adapter_config": {"vision_feature_layer": [3, 1]}},
    "cohere_compass": {"text_config": {"layer_types": _SLIDING, "rope_parameters": dict.fromkeys(_SLIDING, _ROPE)}},
    "qwen2_vl": _MROPE, "qwen2_5_vl": _MROPE, "glm4v": _MROPE,
    "glm4v_moe": {"text_config": {
        "rope_parameters": {**_ROPE, "partial_rotary_factor": 0.5, "mrope_section": [1, 1, 2]}}},
    "glm46v": _MROPE, "glm_ocr": _MROPE, "glmga": _MROPE, "paddleocr_vl": _MROPE,
    "qwen2_5_omni_thinker": {**_MROPE, "vision_start_token_id": 90},
    "qwen3_omni_moe_thinker": {"vision_start_token_id": 90},
    "xlstm": {"chunk_size": 64, "qk_dim_factor": 1.0, "num_heads": 4},
    "zamba": {"attention_hidden_size": 128, "attention_head_dim": 32}, "qwen4_exp_text": _QWEN4,
    "qwen4_exp": {"text_config": _QWEN4}, "mpt": {"attn_config": {"attn_pdrop": 0}},
}  # fmt: skip
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {  # what genuine checkpoints of a class also have
    "gemma4_text": {
        "k_eq_v": {**_GEMMA4, "attention_k_eq_v": True, "num_global_key_value_heads": 1,
                   "hidden_size_per_layer_input": 0},
        "shared": {**_GEMMA4, **_SHARED_KEYS},
        "moe": {**_GEMMA4, "enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 32,
                "hidden_size_per_layer_input": 0},
    },
    **{family: {"sliding": _WINDOWED} for family in ("qwen2", "qwen3", "qwen2_moe", "qwen3_moe")},
    **{family: {"window": {"sliding_window": WINDOW}} for family in ("mistral", "mixtral", "starcoder2", "phimoe")},
    "falcon": {
        "alibi": {"alibi": True}, "new": {"new_decoder_architecture": True, "num_kv_heads": 2},
        "rw": {"alibi": True, "multi_query": False, "num_kv_heads": 4, "parallel_attn": False, "bias": True},
    },
    "phi3": {
        "window": {"sliding_window": WINDOW},
        "longrope": {"original_max_position_embeddings": 16, "rope_parameters": {
            "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 8,
            "long_factor": [1.0, 2.0, 4.0, 8.0] * 2, "original_max_position_embeddings": 16}},
    },
    "llama": {"dynamic": {"max_position_embeddings": 16, "rope_parameters": {
        "rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}}},
    "llama4_text": {"temperature": {"floor_scale": 8, "attn_temperature_tuning": True}},
    "smollm3": {"sliding": {"use_sliding_window": True, "sliding_window": WINDOW, "no_rope_layers": [1, 1, 1, 0]}},
    "exaone4": {"sliding": {"sliding_window": WINDOW, "layer_types": _SLIDING}},
    "opt": {"proj": {"word_embed_proj_dim": 32, "do_layer_norm_before": False}},
    "bloom": {"post": {"apply_residual_connection_post_layernorm": True}},
    "gpt_neox": {"seq": {"use_parallel_residual": False}}, "gpt_bigcode": {"mha": {"multi_query": False}},
    "gemma3_text": {"bidirectional": {"use_bidirectional_attention": True}},
    "olmo3": {"window": {"sliding_window": WINDOW, "layer_types": _SLIDING}},
    "recurrent_gemma": {"4": {"block_types": ["recurrent", "recurrent", "attention", "recurrent"]}},
}  # fmt: skip


def shrink(kind: Any, special: dict[str, Any]) -> Any:
    """A tiny configuration of a class: its default with sizes by the fields' names."""
    default, next_id = kind(), VOCABULARY - 1
    parts: dict[str, Any] = getattr(kind, "sub_configs", None) or {}
    fields: dict[str, Any] = {}
    n_default, n_layers = _read(default, "num_hidden_layers"), special.get("num_hidden_layers", N_LAYERS)
    for field in dataclasses.fields(kind):
        name, value = field.name, _read(default, field.name, field.default)
        if not field.init or (name in special and name not in parts):
            continue
        if name in parts:
            if name in special and special[name] is None:
                fields[name] = None
            elif value is not None:
                fields[name] = shrink(type(value), special.get(name, {}))
        elif name in SIZE and not (value is None and name in _STAYS_NONE.split()):
            if isinstance(value, list | tuple) and name != "eos_token_id":
                fields[name] = [SIZE[name]] * (n_layers if len(value) == n_default else len(value))
            elif not isinstance(value, str):
                fields[name] = type(value)(SIZE[name]) if type(value) in (int, float) else SIZE[name]
        elif isinstance(value, list | tuple) and value and len(value) == n_default:
            kinds = list(dict.fromkeys(value))
            fields[name] = [kinds[i % len(kinds)] for i in range(n_layers)]
        elif name.endswith(("_token_id", "_token_index")) and isinstance(value, int) and value >= VOCABULARY:
            fields[name], next_id = next_id, next_id - 1
        elif name == "rope_parameters" and isinstance(value, dict) and "mrope_section" in value:
            fields[name] = {**copy.deepcopy(value), "mrope_section": [2, 3, 3]}
    n_shared = _read(default, "num_key_value_heads")
    if n_shared is not None and n_shared == _read(default, "num_attention_heads") and "num_key_value_heads" in fields:
        fields["num_key_value_heads"] = fields.get("num_attention_heads", 4)
    return kind(**fields, **{name: value for name, value in special.items() if name not in parts})


def _read(config: Any, name: str, default: Any = None) -> Any:
    try:
        return getattr(config, name, default)
    except Exception:  # attributes that differ by layer are not to be asked for
        return default


def tiny_model(kind: str, family: str, variant: str | None) -> Any:
    """A random model of a family's genuine class, whose norms and biases do something as well."""
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForImageTextToText

    config_class = CONFIG_MAPPING[family]
    config = shrink(config_class, VARIANTS[family][variant] if variant else SPECIAL.get(family, {}))
    if "is_decoder" in inspect.signature(config_class).parameters:
        config.is_decoder = True
    torch.manual_seed(0)
    auto: Any = AutoModelForCausalLM if kind == "text" else AutoModelForImageTextToText
    model = auto.from_config(config).float().eval().requires_grad_(False)
    noise = torch.Generator().manual_seed(0)
    for name, weights in model.named_parameters():
        if weights.is_floating_point() and not any(part in name for part in ("A_log", "dt_bias", "time_", ".D")):
            size = 0.12 if weights.dim() > 1 else 0.05
            weights.add_(size * torch.randn(weights.shape, generator=noise).to(weights.dtype))
    asked = model.generation_config
    asked.eos_token_id, asked.pad_token_id, asked.bos_token_id, asked.max_length = 1, 0, 2, 20
    asked.forced_eos_token_id = asked.forced_bos_token_id = None
    return model


def save(model: Any, folder: Path) -> Path:
    """A checkpoint as a user has it, with a tokenizer of a token a word."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<eos>", "<bos>", *(f"t{i}" for i in range(3, VOCABULARY))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    model.save_pretrained(folder)
    fast: Any = PreTrainedTokenizerFast
    fast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>").save_pretrained(folder)
    return folder


# What is held against what.


def study(kind: str, family: str, variant: str | None) -> Outcome:
    """All that is seen of one family: `ok`, or what is wrong, of each thing that massact does with it."""
    import torch

    outcome: Outcome = {"kind": kind, "family": family, "variant": variant}
    torch.set_num_threads(1)
    with torch.inference_mode():
        model = _attempt(outcome, "built", lambda: tiny_model(kind, family, variant))
        if model is None:
            return outcome
        outcome["class"] = type(model).__name__
        ran = _attempt(outcome, "ran", lambda: _check_finite(model))
        loaded = _load(outcome, model)  # what does not run on text is to be refused
        if ran and loaded is not None:
            Study(outcome, loaded).all()
    return outcome


def _check_finite(model: Any) -> bool:
    import torch

    if not torch.isfinite(model(input_ids=torch.tensor([prompt(21)])).logits).all():
        raise ValueError("logits are not finite")
    return True


def _load(outcome: Outcome, model: Any) -> Any:
    from massact.config import LoadConfig
    from massact.models.load import load_model, read_description

    options = LoadConfig(dtype="float32", device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        if _attempt(outcome, "saved", lambda: save(model, Path(folder))) is None:
            return None
        described = _attempt(outcome, "described", lambda: read_description(folder, options=options), folder)
        if described is None:
            return None
        outcome["note"] = described.note
        return _attempt(outcome, "loaded", lambda: load_model(folder, options=options), folder)


def _attempt(outcome: Outcome, what: str, act: Callable[[], Any], hidden: str = "\0") -> Any:
    """What an act gives, noted as `ok`; `None` where it is refused or fails, noted with the reason."""
    from massact.errors import ModelError

    try:
        result = act()
    except ModelError as error:
        outcome[what] = "refused: " + str(error).replace(hidden, "FOLDER").split(". Lists of modules")[0][:300]
        return None
    except Exception as error:  # any crash is a finding
        last = traceback.extract_tb(error.__traceback__)[-1]
        text = (str(error).strip().splitlines() or [""])[0][:200]
        outcome[what] = f"crash: {type(error).__name__}: {text} ({Path(last.filename).name}:{last.lineno})"
        return None
    outcome.setdefault(what, "ok")
    return result


def prompt(length: int, seed: int = 0) -> tuple[int, ...]:
    """A random prompt of `length` tokens."""
    import torch

    numbers = torch.Generator().manual_seed(100 * length + seed)
    return (2, *torch.randint(3, VOCABULARY - 8, (length - 1,), generator=numbers).tolist())


class Study:
    def __init__(self, outcome: Outcome, loaded: Any) -> None:
        self.outcome, self.loaded, self.model, self.blocks = outcome, loaded, loaded.model, loaded.blocks

    def all(self) -> None:
        """Look at everything; see `study`."""
        from massact.models.recorded_steps import has_known_masks

        for what in ("recorded", "padded", "steered"):
            self._note(what, getattr(self, what))
        if self._note("oracle", self.expect) != "ok":
            return
        self._note("generated", self.generated)
        if has_known_masks(self.loaded):
            self._note("steps", lambda: self.generated(recorded=True))

    def _note(self, what: str, act: Callable[[], str]) -> str:
        result = _attempt(self.outcome, what, act)
        if result is not None:
            self.outcome[what] = result
        return str(self.outcome[what])

    def streams(self, tokens: Any) -> list[Any]:
        """Every block's output, of tokens read at once."""
        import torch

        from massact.models.blocks import record
        from massact.models.support import reading_arguments

        seen: dict[int, Any] = {}
        with record(self.blocks, lambda layer, stream: seen.update({layer: stream.clone()})):
            self.output = self.model(
                input_ids=tokens, **reading_arguments(self.model, torch.ones_like(tokens)), output_hidden_states=True
            )
        return [seen[layer] for layer in range(len(self.blocks))]

    def recorded(self) -> str:
        """What is recorded, against `hidden_states` where those are taken at the same places."""
        import torch

        streams = self.streams(torch.tensor([prompt(21)]))
        states = self.output.hidden_states
        if states is None or len(states) != len(streams) + 1:
            return "ok (no hidden_states to compare)"
        for ahead, where in ((1, "ok"), (0, "ok (hidden_states[L] is layer L)")):
            pairs = ((states[layer + ahead], streams[layer]) for layer in range(1, len(streams) - 1))
            if all(torch.equal(state, stream) for state, stream in pairs):
                return where
        return "differs from hidden_states"

    def padded(self) -> str:
        """Texts as extraction reads them, against each alone."""
        import torch

        from massact.vectors.streams import Continued, read_streams

        texts = [Continued(prompt(n), prompt(m, 9)[1:]) for n, m in ((3, 4), (9, 12), (9, 12), (5, 2), (20, 11))]
        worst, start, got = 0.0, 0, dict[int, Any]()

        def keep(layer: int, stream: Any) -> None:
            got[layer] = stream.clone()

        for n_read in read_streams(self.loaded, texts, lambda _: keep):
            for i, text in enumerate(texts[start : start + n_read]):
                for layer, alone in enumerate(self.streams(torch.tensor([text.tokens]))):
                    gap = (got[layer][i, : len(text.tokens)] - alone[0]).abs().max() / (alone.abs().mean() + 1e-6)
                    worst = max(worst, float(gap))
            start += n_read
        return "ok" if worst < 1e-2 else f"differs by {worst:.3g} of the mean"

    def steered(self) -> str:
        """A layer moves by the vector bit by bit, what is before it not at all, what is after it does."""
        import torch

        from massact.models.blocks import steer
        from massact.models.operators import Edit

        tokens = torch.tensor([prompt(21)])
        plain, logits = self.streams(tokens), self.output.logits
        addition = 3 * unit(self.loaded.shape.d_model)
        for layer in range(len(self.blocks)):
            with steer(self.blocks, {layer: Edit(addition.view(1, 1, -1))}):
                moved = self.streams(tokens)
            same = [torch.equal(a, b) for a, b in zip(moved, plain, strict=True)]
            if not all(same[:layer]) or any(same[layer:]) or torch.equal(logits, self.output.logits):
                return f"differs: steering layer {layer} leaves these as they were: {same}"
            if not torch.equal(moved[layer], plain[layer] + addition):
                return f"differs: layer {layer} moves otherwise than by the vector"
        return "ok"

    def expect(self) -> str:
        """What each row says by itself through `model.generate`, with a hook that shares nothing with massact."""
        import torch

        from massact.models.generate import Intervention, Row

        streams = self.streams(torch.tensor([prompt(21)]))
        vector, prompts = unit(self.loaded.shape.d_model), [prompt(length) for length in LENGTHS]
        norms = [max(2.0, round(0.7 * float(stream.norm(dim=-1).mean()), 2)) for stream in streams]
        self.rows = [Row(tokens) for tokens in prompts] + [
            Row(tokens, Intervention(1, vector, 0.0)) for tokens in prompts
        ]
        plain = [self._alone(row) for row in self.rows[: len(prompts)]]
        steered = [
            Row(tokens, Intervention(layer, vector, norm))
            for layer, norm in enumerate(norms)
            for tokens in prompts[layer % 2 :: 2]
        ]
        more = product(enumerate(OPERATORS), enumerate(TOKENS))
        steered += [
            Row(
                prompts[number % len(prompts)],
                Intervention(place, _rows_of(operator, vector, norms[0]), OPERATORS[operator], operator, tokens),
            )
            for (number, operator), (place, tokens) in more
        ]
        self.expected = [*plain, *plain, *map(self._alone, steered)]
        self.rows += steered
        return "ok"

    @contextmanager
    def _hooked(self, row: Any) -> Iterator[None]:
        if row.intervention is None:
            yield
            return
        one, n_prompt = row.intervention, len(row.prompt)

        def hooked(layer: int) -> Any:
            vector, seen = one.at(layer), [0]

            def hook(_module: Any, _inputs: Any, output: Any) -> Any:
                stream = output[0] if isinstance(output, tuple) else output
                moved = _operate(one.operator, stream.float(), vector, one.coefficient).to(stream.dtype)
                steered = [_is_steered(one.tokens, seen[0] + i, n_prompt) for i in range(stream.shape[1])]
                seen[0] += stream.shape[1]
                stream = moved.where(moved.new_tensor(steered)[:, None] > 0, stream)
                return (stream, *output[1:]) if isinstance(output, tuple) else stream

            return hook

        handles = [self.blocks[layer].register_forward_hook(hooked(layer)) for layer in one.layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _alone(self, row: Any) -> tuple[int, ...]:
        import torch

        tokens = torch.tensor([row.prompt])
        self.model(input_ids=tokens[:, :1])  # lets dynamic rotary embeddings forget longer rows
        with self._hooked(row):
            said = self.model.generate(
                tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=N_NEW, max_length=None, do_sample=False
            )[0, len(row.prompt) :].tolist()
        return tuple(said[: said.index(1)] if 1 in said else said)

    def generated(self, recorded: bool = False) -> str:
        """All rows together, against each alone; a tie of two tokens in the last bits is no difference."""
        from massact.domain import Generation
        from massact.models.generate import Generator

        found = Generator(self.loaded, recorded=recorded).generate(self.rows, Generation(N_NEW))
        wrong = [i for i, pair in enumerate(zip(found, self.expected, strict=True)) if not self._same(i, *pair)]
        if wrong:
            first = self.rows[wrong[0]]
            where = "unsteered" if first.intervention is None else f"layer {first.intervention.layer}"
            return f"wrong: {len(wrong)} of {len(found)} rows, such as a prompt of {len(first.prompt)}, {where}"
        n_said = len(set(found))
        return "ok" if n_said > len(LENGTHS) else f"ok (only {n_said} different responses)"

    def _same(self, i: int, found: tuple[int, ...], expected: tuple[int, ...]) -> bool:
        import torch

        if found == expected:
            return True
        place = next(
            (n for n, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b),
            min(map(len, (found, expected))),
        )
        mine, other = ([*tokens, 1][place] for tokens in (found, expected))
        with self._hooked(self.rows[i]):
            tokens = torch.tensor([[*self.rows[i].prompt, *expected[:place]]])
            logits = self.model(input_ids=tokens, use_cache=False).logits[0, -1]
        return abs(float(logits[mine] - logits[other])) < 2e-4


def _rows_of(operator: str, vector: Any, norm: float) -> Any:
    """What an operator takes at two layers: two vectors, or the directions of two subspaces and their coordinates."""
    import torch

    vectors = torch.stack([vector, vector.roll(1)])
    if operator != "replace":
        return vectors
    basis = torch.linalg.qr(torch.stack([vector, vector.roll(1)]).T).Q.T
    return torch.stack([torch.cat([basis, norm * basis[:1], norm * basis[1:]])] * 2)


def _operate(operator: str, h: Any, v: Any, c: float) -> Any:
    """A stream `[..., d_model]` after an operator, by its equation."""
    import torch

    if operator == "add":
        return h + c * v
    if operator == "replace":
        return h - (h @ v[:-2].T) @ v[:-2] + v[-2] + c * v[-1]
    along = (h @ v)[..., None] * v
    if operator == "ablate":
        return h - c * along
    if operator == "clamp":
        return h - along + c * v
    u = (h - along) / (h - along).norm(dim=-1, keepdim=True)
    p, q, angle = (h * v).sum(-1, True), (h * u).sum(-1, True), torch.deg2rad(torch.tensor(c))
    return (p * angle.cos() + q * angle.sin()) * v + (q * angle.cos() - p * angle.sin()) * u


def _is_steered(tokens: str, i: int, n_prompt: int) -> bool:
    return {"all": True, "response": i >= n_prompt, "prompt[-1]": i == n_prompt - 1}[tokens]


def unit(width: int) -> Any:
    """A random unit vector `[width]`."""
    import torch

    vector = torch.randn(width, generator=torch.Generator().manual_seed(3))
    return vector / vector.norm()


# Running them, each in a process of its own.


def families(only: list[str] | None = None) -> list[tuple[str, str, str | None]]:
    """(`text` or `image-text`, family, variant) of all, or of those that match a pattern, such as `gemma*`."""
    from transformers.models.auto import modeling_auto

    kinds = {
        "text": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        "image-text": modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    }
    return [
        (kind, family, variant)
        for kind, names in kinds.items()
        for family in names
        for variant in (None, *(VARIANTS.get(family, ()) if kind == "text" else ()))
        if only is None or any(fnmatch(family, pattern) or fnmatch(f"{kind}:{family}", pattern) for pattern in only)
    ]


def study_apart(kind: str, family: str, variant: str | None) -> Outcome:
    """`study` in a forked process, so that a class that dies, hangs or takes all memory is a finding as well."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        import resource

        signal.alarm(SECONDS)
        resource.setrlimit(resource.RLIMIT_AS, (14 << 30, 14 << 30))
        try:
            outcome = study(kind, family, variant)
        except BaseException as error:
            outcome = {"kind": kind, "family": family, "variant": variant, "built": f"crash: {error!r}"}
        with os.fdopen(writer, "w") as pipe:
            json.dump(outcome, pipe)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return json.loads(text) if text else {"kind": kind, "family": family, "variant": variant, "ran": "crash: died"}


def run(only: list[str] | None, shard: str, out: Path, *, shared: bool = False) -> None:
    """Study families that the file of results has not yet, and add them to it.

    Args:
        shared: go the shared way also with kinds that are not known to be exact so.
    """
    # what every child process needs is imported once, and stays shared memory
    import transformers.generation.utils
    import transformers.models.auto.tokenization_auto  # noqa: F401
    from transformers import CONFIG_MAPPING, PreTrainedTokenizerFast  # noqa: F401

    import massact.models.support
    import massact.vectors.activations

    gc.freeze()
    if shared:
        massact.models.support.SHARED = frozenset(CONFIG_MAPPING)
    kept = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    known = {(one["kind"], one["family"], one["variant"]) for one in kept}
    part, parts = map(int, shard.split("/"))
    for one in [one for one in families(only)[part - 1 :: parts] if one not in known]:
        outcome = study_apart(*one)
        with out.open("a") as file:
            file.write(json.dumps(outcome) + "\n")
        print(*(word for word in one if word), "->", verdict(outcome)[0], *verdict(outcome)[1:], flush=True)


# The table.

_STEPS = ("described", "loaded", "recorded", "padded", "steered", "generated", "steps")


def verdict(outcome: Outcome) -> tuple[str, str]:
    """`exact`, `refused`, `wrong`, `crashed` or `not built`, and the reason."""
    unfit = [outcome[what] for what in ("built", "saved", "ran", "oracle") if outcome.get(what, "ok") != "ok"]
    if "described" not in outcome and unfit:
        return "not built", unfit[0]
    bad = [(what, outcome[what]) for what in _STEPS if not outcome.get(what, "ok").startswith("ok")]
    for what, text in bad:
        if text.startswith("refused"):
            late = "" if what == "described" else " (once its weights are loaded)"
            return "refused", text.removeprefix("refused: ").removeprefix("FOLDER: ") + late
    if unfit:
        return "not built", unfit[0]
    for name, marks in (("crashed", ("crash",)), ("wrong", ("wrong", "differs"))):
        for what, text in bad:
            if text.startswith(marks):
                return name, f"{what}: {text}"
    return "exact", ""


_HEAD = """# Every decoder of transformers

Made by `python benchmarks/architectures.py table`, which says how each was tried: tiny random models of the genuine
classes, on the CPU, in float32; transformers {transformers}, torch {torch}. No GPU was at hand: *steps* are those
that a GPU records, run unrecorded on the CPU. *Way*: shared or plain ([models](models.md#what-can-be-steered)). What
could not be built as a tiny model, or whose own `generate` fails, is listed at the end.

"""


def table(paths: list[Path]) -> str:
    """The page with all results."""
    import torch
    import transformers

    outcomes = {}
    for line in (line for path in paths for line in path.read_text().splitlines()):
        one = json.loads(line)
        outcomes[one["kind"], one["family"], one["variant"] or ""] = one
    lines = [_HEAD.format(transformers=transformers.__version__, torch=torch.__version__.split("+")[0])]
    for kind in ("text", "image-text"):
        rows = [one for key, one in sorted(outcomes.items()) if key[0] == kind]
        counts = Counter(verdict(one)[0] for one in rows)
        n_families = len({one["family"] for one in rows})
        lines.append(f"## {kind} models: {n_families} families, {len(rows)} with their variants\n\n")
        lines.append(", ".join(f"{n} {name}" for name, n in counts.most_common()) + ".\n\n")
        lines.append("| family | class | way | recorded | steered | generated | steps | |\n|" + "---|" * 8 + "\n")
        built = [one for one in rows if verdict(one)[0] != "not built"]
        lines += [_line(one) for one in sorted(built, key=lambda one: verdict(one)[0] != "exact")]
        lines.append(
            "\nNot built: "
            + "; ".join(f"{one['family']} ({_short(verdict(one)[1])})" for one in rows if one not in built)
            + ".\n\n"
        )
    return "".join(lines).rstrip() + "\n"


def _line(outcome: Outcome) -> str:
    name = outcome["family"] + (f" ({outcome['variant']})" if outcome["variant"] else "")
    way = "plain" if outcome.get("note") else "shared" if "note" in outcome else "–"
    seen = [_short(outcome.get(what, "–")) for what in ("recorded", "steered", "generated", "steps")]
    result, reason = verdict(outcome)
    cells = [name, outcome["class"], way, *seen, result + (f": {reason}" if reason else "")]
    return "| " + " | ".join(cell.replace("|", "/").replace("\n", " ") for cell in cells) + " |\n"


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:79] + "…"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument(
        "--only", nargs="*", help="patterns of families, such as gemma*; text: or image-text: before one"
    )
    parser.add_argument("--shard", default="1/1", help="which part of how many")
    parser.add_argument("--out", type=Path, default=Path("architectures.jsonl"))
    parser.add_argument(
        "--shared", action="store_true", help="go the shared way also with kinds not known to be exact so"
    )
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    if given.what == "table":
        sys.stdout.write(table(given.files))
    else:
        run(given.only, given.shard, given.out, shared=given.shared)


if __name__ == "__main__":
    main()
