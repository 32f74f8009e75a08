"""The whole pipeline on models of full shape with random weights: time of every step, and peak memory.

Run from the project's root; weights, store and spool go to a folder that is taken away afterwards:

    python benchmarks/full_size.py                          # gemma-2-2b in bfloat16: 5 GB of disk, 7 GB of memory
    python benchmarks/full_size.py --model gemma-3-4b       # with its vision wrapper: 9 GB of disk
    python benchmarks/full_size.py --layers 2 --prompts 4   # a trial of the command itself

Calibrates, extracts and sweeps through an experiment file, as `massact` does. The shapes are those that Google
publishes (github.com/google/gemma_pytorch, gemma/config.py, 2b-v2 and 4b; the 4b's rope and vocabulary as in
transformers). The tokenizer is the embedded toy's, so most generated tokens have no text and the scores mean
nothing; what is measured is whether a model of this size runs, how long it takes and what it needs. The defaults
are for a CPU without bfloat16 of its own, which multiplies about 1.3 billion numbers a second; on a GPU give more:

    python benchmarks/full_size.py --model gemma-3-4b --prompts 100 --tokens 64 --questions 10
"""

import argparse
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma2Config, Gemma3Config, PretrainedConfig
from transformers.utils import logging as transformers_logging

from massact.config import load_experiment
from massact.sweep.context import Session, Workload
from massact.toy import resolve
from massact.workflow.steps import run_calibrate, run_extract, run_grid_phase

EXPERIMENT = """\
name: full-size
traits: {{refusal: {{dataset: ./refusal}}}}
models:
  model:
    base: {{variant: base, model: ./model}}
    instruct: {{variant: instruct, model: ./model}}
    dtype: {dtype}
    layers: "50%"
    coefficients: [10, 20]
calibration: {{prompts: ./neutral.txt, max_new_tokens: {tokens}}}
extraction: {{positions: ["response[:2]"], methods: [mean_diff, probe], uniform_dims: [1], layer_dims: [1]}}
generation: {{max_new_tokens: {tokens}}}
judge: likelihood
subset: {questions}
phases:
  phase1: {{labels: [mean_diff, probe], positions: ["response[:2]"]}}
  phase2: {{labels: [mean_diff_preclean_u1], positions: ["response[:2]"]}}
  phase3: {{labels: [mean_diff_top1], positions: ["response[:2]"]}}
"""

_HEADS: dict[str, Any] = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256}


def gemma_2_2b(n_layers: int | None) -> PretrainedConfig:
    """Gemma 2 with 2 B."""
    return Gemma2Config(
        vocab_size=256_000, hidden_size=2304, intermediate_size=9216, num_hidden_layers=n_layers or 26, **_HEADS,
        query_pre_attn_scalar=256, sliding_window=4096, attn_logit_softcapping=50.0, final_logit_softcapping=30.0,
    )  # fmt: skip


def gemma_3_4b(n_layers: int | None) -> PretrainedConfig:
    """Gemma 3 with 4 B, and the vision tower that its checkpoint has and text never runs through."""
    text = {
        "vocab_size": 262_208, "hidden_size": 2560, "intermediate_size": 10_240, "num_hidden_layers": n_layers or 34,
        **_HEADS, "query_pre_attn_scalar": 256, "sliding_window": 1024,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1_000_000.0},
        },
    }  # fmt: skip
    vision = {
        "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16,
        "image_size": 896, "patch_size": 14,
    }  # fmt: skip
    return Gemma3Config(text_config=text, vision_config=vision)


MODELS: dict[str, Callable[[int | None], PretrainedConfig]] = {"gemma-2-2b": gemma_2_2b, "gemma-3-4b": gemma_3_4b}


def main() -> None:
    """Run every step and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="gemma-2-2b")
    parser.add_argument("--layers", type=int, help="fewer decoder blocks than the model has")
    parser.add_argument("--dtype", choices=("bfloat16", "float32", "float16"), default="bfloat16")
    parser.add_argument(
        "--prompts", type=int, default=3, help="contrastive prompts of each side, and calibration prompts (3)"
    )
    parser.add_argument("--tokens", type=int, default=4, help="tokens of a response (4)")
    parser.add_argument("--questions", type=int, default=1, help="questions of a cell (1)")
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the folder is taken away then too
    folder = Path(tempfile.mkdtemp(prefix="massact-full-size-", dir=args.folder))
    try:
        run(folder, args)
    finally:
        shutil.rmtree(folder)


def run(folder: Path, args: argparse.Namespace) -> None:
    """Make the model in a folder and run the steps there."""
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    print(f"{args.model}, {args.dtype}, torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    print("| step | seconds | peak memory (GiB) |", *(["GPU peak (GiB) |"] if _has_gpu() else []))
    print("|---|---:|---:|" + ("---:|" if _has_gpu() else ""), flush=True)
    with step("random weights made and saved"):
        make_model(folder / "model", MODELS[args.model](args.layers), getattr(torch, args.dtype))
    make_data(folder, args.prompts)
    (folder / "experiment.yaml").write_text(
        EXPERIMENT.format(dtype=args.dtype, tokens=args.tokens, questions=args.questions)
    )
    session = Session(
        load_experiment(folder / "experiment.yaml"),
        f"sqlite:///{folder}/store.db",
        workload=Workload(spool=folder / "spool", max_rounds=0),
    )
    experiment = session.experiment.models[0]
    with step("an empty run store made"):
        session.stores.tracker  # noqa: B018  its first use makes it
    with step("weights digested and loaded"):
        model = session.models.get(experiment, experiment.instruct)
    n_parameters = sum(one.numel() for one in model.model.parameters())
    kind, attention = type(model.model).__name__, model.attention
    shape = model.shape
    del model
    for name, work in (
        (f"calibrate: {args.prompts} prompts", lambda: run_calibrate(session)),
        (f"extract: {2 * args.prompts} prompts, 6 vectors a layer", lambda: run_extract(session)),
        (f"phase 1: baseline and 4 cells, questions: {args.questions}", lambda: run_grid_phase(session, "phase1")),
    ):
        with step(name):
            work()
    session.stores.close()
    print(
        f"\n{kind}: {n_parameters / 1e9:.2f} B parameters, {shape.n_layers} layers of {shape.d_model}, attention "
        f"{attention}; responses of {args.tokens} tokens."
    )


def make_model(folder: Path, config: PretrainedConfig, dtype: torch.dtype) -> None:
    """Save a model of random weights with the toy's tokenizer."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(resolve("toy:gemma-3-instruct"))
    config.get_text_config().eos_token_id = config.eos_token_id = tokenizer.eos_token_id
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)  # type: ignore[no-untyped-call]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_data(folder: Path, n_prompts: int) -> None:
    """A few of the toy's prompts."""
    toy = resolve("toy:refusal")
    (folder / "refusal").mkdir()
    for path in toy.iterdir():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = lines[:n_prompts] if path.name in ("positive.txt", "negative.txt") else lines
        (folder / "refusal" / path.name).write_text("".join(kept), encoding="utf-8")
    neutral = resolve("toy:calibration").read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "neutral.txt").write_text("".join(neutral[:n_prompts]), encoding="utf-8")


@contextmanager
def step(name: str) -> Iterator[None]:
    """Print what a step took."""
    _forget_peak()
    began = time.perf_counter()
    yield
    seconds = time.perf_counter() - began
    gpu = f" {torch.cuda.max_memory_allocated() / 2**30:.1f} |" if _has_gpu() else ""
    print(f"| {name} | {seconds:,.1f} | {_peak_bytes() / 2**30:.1f} |{gpu}", flush=True)


def _forget_peak() -> None:
    if _has_gpu():
        torch.cuda.reset_peak_memory_stats()
    if os.access("/proc/self/clear_refs", os.W_OK):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak_bytes() -> int:
    """Peak of resident memory since it was last forgotten; since the start where Linux does not tell."""
    status = Path("/proc/self/status")
    if status.is_file():
        lines = dict(line.split(":", 1) for line in status.read_text(encoding="ascii").splitlines())
        return int(lines["VmHWM"].split()[0]) << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _has_gpu() -> bool:
    return torch.cuda.is_available()


if __name__ == "__main__":
    main()
