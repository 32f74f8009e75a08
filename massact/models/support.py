"""What can be done with a model, told by its configuration and its class before any weight is read.

A model is steered in one of two ways. *Shared*: rows of several prompts, lengths and layers in one batch, a prompt read
once for all of them, in a cache of our own. *Plain*: rows of one length in a batch, through transformers' own
`generate`, cache and positions. The shared way is several times as fast and stands on what a model does with masks,
positions and keys; so it is taken only by models that were held against transformers (`benchmarks/architectures.py`).
"""

import importlib.util
import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from massact.errors import ModelError
from massact.models.blocks import find_decoder_blocks, record, text_config

_SHARED = """
    afmoe apertus arcee aria_text axk1 aya_vision biogpt bitnet codegen cohere cohere2 cohere2_moe cohere2_vision
    cohere_compass_text ctrl cwm dbrx deepseek_v2 deepseek_v3 diffllama doge dots1 ernie4_5 ernie4_5_moe exaone4
    exaone_moe flex_olmo flint fuyu gemma gemma2 gemma3 gemma3_text gemma4 gemma4_text gemma4_unified
    gemma4_unified_text glm glm4 glm4_moe glm4_moe_lite got_ocr2 gpt2 gpt_neox gpt_neox_japanese gpt_oss gptj granite
    granite_swa granitemoe granitemoe_swa granitemoeshared helium hunyuan_v1_dense hunyuan_v1_moe hy_v3 hyperclovax
    idefics3 internlm3 internvl iquestcoder jais2 jetmoe kimi_k25 kolibri1 laguna llama llama4 llama4_text llava
    llava_onevision mellum mimo_v2_flash minicpm3 minimax_m2 minimax_m3_vl_text ministral ministral3 mistral mistral3
    mistral4 mixtral modernbert-decoder nanochat nemotron olmo olmo2 olmo3 olmoe opt persimmon phi phi3 phi4_multimodal
    phimoe qwen2 qwen2_moe qwen3 qwen3_moe seed_oss smollm3 smolvlm solar_open stablelm starcoder2 vaultgemma xglm youtu
"""
SHARED = frozenset(_SHARED.split())
"""`model_type` of the configurations, wrappers and their text parts, that were exact in the shared way."""
_KEPT_KEYS = {"DynamicLayer", "DynamicSlidingWindowLayer"}
"""Layers of transformers' cache that hold keys and values of tokens and nothing else."""
_STEADY_ROPES = {"default", "linear", "llama3", "yarn", "proportional"}
"""Rotary embeddings that depend on a token's own position alone."""
_ALONE = frozenset({"rwkv"})  # kinds whose rows mix when two are generated side by side
_OTHER_STREAMS = {"xlnet": "[seq, batch, d_model]"}
"""Kinds whose blocks pass on another shape, which only their weights would tell."""
_NO_TEXT = re.compile(r"For(\w*Classification|QuestionAnswering|MultipleChoice)$")
"""Classes whose checkpoints lack the head that chooses tokens."""
_STREAM_COUNTS = ("altup_num_inputs", "hc_mult", "hc_count")
"""How configurations call the number of streams that their blocks pass on."""


@dataclass(frozen=True, slots=True)
class Sharing:
    """Whether a model is steered in the shared way."""

    obstacle: str | None  # why it never is
    n_positions: int | None  # tokens, prompt and response together, up to which it is; `None`: any number
    n_rows: int | None = None  # rows that are generated side by side at most, where it is not; `None`: any number

    def allows(self, n_tokens: int) -> bool:
        """Whether it is for rows of so many tokens, their responses included."""
        return self.obstacle is None and (self.n_positions is None or n_tokens < self.n_positions)

    @property
    def note(self) -> str | None:
        """What a user should know of it before a sweep."""
        if self.obstacle is None:
            return None
        together = "one at a time" if self.n_rows == 1 else "prompts of one length at a time"
        return f"responses come from transformers' own `generate`, {together}: {self.obstacle}"


def sharing(config: Any) -> Sharing:
    """How a model of that configuration is steered."""
    text = config.get_text_config(decoder=True)
    n_rows = 1 if config.model_type in _ALONE else None
    return Sharing(_obstacle(config, text), min(_changing_positions(text), default=None), n_rows)


def sharing_of(model: nn.Module) -> Sharing:
    """How a model is steered; code that is not transformers' own always in the plain way."""
    if not type(model).__module__.startswith("transformers."):
        return Sharing(f"{type(model).__name__} is no class of transformers", None)
    return sharing(model.config)


def _obstacle(config: Any, text: Any) -> str | None:
    from transformers.cache_utils import DynamicCache

    layers = [type(layer).__name__ for layer in DynamicCache(config=config).layers]
    if (others := set(layers) - _KEPT_KEYS) or len(layers) != text.num_hidden_layers:
        return f"its layers keep other things than keys of their own ({', '.join(sorted(others)) or 'shared ones'})"
    if getattr(text, "use_bidirectional_attention", None) in (True, "all"):
        return "the tokens of a prompt see those after them"
    if untried := {config.model_type, text.model_type} - SHARED:
        return f"{', '.join(sorted(untried))} has not been shown to be exact otherwise"
    return None


def _changing_positions(text: Any) -> Iterator[int]:
    """Numbers of tokens beyond which a token is read differently for how long its row is."""
    ropes = getattr(text, "rope_parameters", None) or {}
    for rope in [ropes] if "rope_type" in ropes else [rope for rope in ropes.values() if isinstance(rope, dict)]:
        if rope.get("rope_type") not in _STEADY_ROPES:
            trained = getattr(text, "original_max_position_embeddings", None)
            yield int(rope.get("original_max_position_embeddings") or trained or text.max_position_embeddings)
    if getattr(text, "attn_temperature_tuning", None):
        yield int(text.floor_scale)


def check_config(reference: str, config: Any, auto: Any) -> None:
    """Refuse a kind of model that cannot be steered. One that was tried is not looked at again.
    Its class is built without weights and run as far as it can be without numbers.
    `auto`: the class of transformers that loads it, such as `AutoModelForCausalLM`.
    Raises ModelError: it was saved as a classifier, has several streams, its decoder blocks are not to be told, or it
    does not run on text alone."""
    if saved_as := next(filter(_NO_TEXT.search, config.architectures or ()), None):
        raise ModelError(
            f"{reference}: its weights were saved from {saved_as}, which writes no text; give the model that it was "
            "trained from"
        )
    text = config.get_text_config(decoder=True)
    for count in _STREAM_COUNTS:
        if (n_streams := getattr(text, count, None) or 1) > 1:
            raise ModelError(
                f"{reference}: the decoder blocks of {type(config).__name__.removesuffix('Config')} pass on "
                f"{n_streams} residual streams ({count}), so that a layer's activation is not defined; use a model "
                "with one"
            )
    if config.model_type in _OTHER_STREAMS:
        raise ModelError(
            f"{reference}: the decoder blocks of {config.model_type} pass on {_OTHER_STREAMS[config.model_type]}, not "
            "[batch, seq, d_model]; docs/architectures.md lists the decoders that work"
        )
    is_known_code = type(config).__module__.startswith("transformers.")
    if {config.model_type, text.model_type} <= SHARED or not is_known_code:
        return
    document = config.to_json_string(use_diff=False)
    if document not in _problems:
        _problems[document] = _problem_without_weights(config, auto)
    if (problem := _problems[document]) is not None:
        raise ModelError(f"{reference}: {problem}. docs/architectures.md lists the decoders that work")


_problems: dict[str, str | None] = {}


def _problem_without_weights(config: Any, auto: Any) -> str | None:
    reasons = []
    # mixtures of experts need bfloat16 here, and some others mix it with float32
    for dtype in (torch.bfloat16, torch.float32):
        try:
            with torch.device("meta"):
                # other attention than eager looks into its masks
                model = auto.from_config(config, attn_implementation="eager", dtype=dtype).eval()
                check_streams(model, device="meta")
        except (ModelError, ImportError) as error:  # a tower may need a package that is not installed
            return " ".join(str(error).split(" Please note")[0].split()).rstrip(".")
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            reasons.append(f"{type(error).__name__}: {lines[0].rstrip('.')}")
        else:
            return None
    if any("meta" in reason for reason in reasons):  # it needs numbers, so that only its weights tell
        return None
    return f"{type(config).__name__.removesuffix('Config')} cannot be run on text: {reasons[-1]}"


@torch.inference_mode()
def check_streams(model: nn.Module, *, device: Any, generating: bool = False) -> None:
    """See that every decoder block passes on one residual stream when the model reads text. `generating`: also while it
    generates, two rows side by side where it can, for which it needs its weights. Raises ModelError: it does not."""
    from transformers import GenerationMixin

    name, width = type(model).__name__, text_config(model).hidden_size
    needed = {argument.name for argument in _parameters(model).values() if argument.default is argument.empty}
    if extra := needed - {"self", "input_ids", "kwargs"}:
        raise ModelError(f"{name} does not run on text alone: it needs {', '.join(sorted(extra))}")
    if getattr(type(model), "generate", None) is not GenerationMixin.generate:
        raise ModelError(f"{name} generates in a way of its own, not with transformers' `generate`")

    def see(layer: int, stream: torch.Tensor) -> None:
        if stream.shape not in shapes:
            raise ModelError(
                f"decoder block {layer} of {name} returned {tuple(stream.shape)} for {n_rows} rows of {shapes[-1][1]} "
                f"tokens, which is no residual stream {shapes[-1]}"
            )

    n_rows = sharing(model.config).n_rows or 2
    ones, shapes = torch.ones(n_rows, 3, dtype=torch.long, device=device), [(n_rows, 3, width)]
    generate: Any = model.generate if generating else None
    try:
        with record(find_decoder_blocks(model), see):
            model(input_ids=ones, **reading_arguments(model, ones))
            if generating:
                shapes += [(n_rows, 4, width), (n_rows, 1, width)]
                generate(ones, attention_mask=ones, max_new_tokens=2, min_new_tokens=2, do_sample=False)
    except (TypeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise ModelError(f"{name} does not run on text alone: {reason}") from error


def reading_arguments(model: nn.Module, mask: torch.Tensor, *, n_logits: int = 1) -> dict[str, Any]:
    """The arguments with which rows, padded on the right if at all, are read once as they would be generated. `mask`:
    `[batch, seq]`, 1 where a token is. `n_logits`: of how many last tokens logits are wanted; there may be more."""
    arguments: dict[str, Any] = {"attention_mask": mask, "use_cache": False}
    if "position_ids" in _parameters(model):  # some classes count otherwise by themselves than when they generate
        arguments["position_ids"] = torch.arange(mask.shape[1], device=mask.device).expand(mask.shape)
    if sharing_of(model).obstacle is None:  # others may leave out tokens that no logit needs (Gemma 4)
        arguments["logits_to_keep"] = n_logits
    return arguments


def gives_all_logits(model: nn.Module) -> bool:
    """Whether a model gives logits of every token whether they are wanted or not."""
    return "logits_to_keep" not in _parameters(model)


def _parameters(model: nn.Module) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(type(model).forward).parameters


def require(package: str, extra: str, what: str) -> None:
    """See that a package is installed. Raises ModelError: it is not; the message has the command that installs it."""
    if importlib.util.find_spec(package) is None:
        raise ModelError(f"{what} needs the package {package}: pip install 'massact[{extra}]'")
