"""How fast the two ways are that a model can be steered in, by processor time of one thread and by turns.

    python benchmarks/ways.py plain [FAMILY ...]          # the plain way against one padded batch through `generate`
    python benchmarks/ways.py shared OLD [FAMILY ...]     # the shared way here against that of another checkout

The models are those of `benchmarks/architectures.py`, tiny and random: what is measured is what we add to a model, not
the model. The grid is 100 vectors at one layer on 5 prompts of 14 to 30 tokens, 32 tokens each; padded batches are of
100 rows, as many as the plain way then has of one length. Each way runs in a process of its own, which waits while the
others run; the least of several turns counts.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

PLAIN = ("mamba", "mamba2", "qwen3_next", "falcon_h1", "falcon", "bloom", "jamba", "lfm2")
SHARED = (
    "gemma2", "gemma3_text", "gemma3", "mistral", "llama", "qwen2", "qwen3", "phi3", "olmo2", "gpt_neox", "gpt2",
    "mixtral",
)  # fmt: skip
N_VECTORS, LENGTHS, N_TOKENS, LAYER, STRENGTH = 100, (14, 18, 22, 26, 30), 32, 1, 0.3


def work(way: str, family: str) -> None:
    """Run a way once for every line on the standard input, and tell the seconds that it took of the processor."""
    import torch
    from architectures import D_MODEL, prompt, tiny_model

    from massact.domain import Generation, ModelIdentity
    from massact.models import generate as engine
    from massact.models.load import SteerableModel

    class Tokenizer:
        chat_template, eos_token_id = None, 1

    torch.set_num_threads(1)
    model = SteerableModel(tiny_model("text", family, None), Tokenizer(), ModelIdentity("m", "0", "float32"))
    numbers = torch.Generator().manual_seed(1)
    vectors = [torch.randn(D_MODEL, generator=numbers) for _ in range(N_VECTORS)]
    # as other checkouts called it
    steered = getattr(engine, "Intervention", None) or engine.Addition  # type: ignore[attr-defined]
    rows = [engine.Row(prompt(n), steered(LAYER, v, STRENGTH), n) for v in vectors for n in LENGTHS]
    every = torch.stack([v for v in vectors for _ in LENGTHS])
    generator = engine.Generator(model)
    ways: dict[str, Callable[[], Any]] = {
        "ours": lambda: generator.generate(rows, Generation(N_TOKENS)),
        "padded": lambda: [
            padded(model, [row.prompt for row in rows[i : i + N_VECTORS]], every[i : i + N_VECTORS])
            for i in range(0, len(rows), N_VECTORS)
        ],
    }
    ways[way]()
    for _ in sys.stdin:
        began = time.process_time()
        ways[way]()
        print(time.process_time() - began, flush=True)


def padded(model: Any, prompts: Sequence[tuple[int, ...]], vectors: Any) -> Any:
    """The prompts as one padded batch through `model.generate`, a vector `[n, d_model]` each added by one hook."""
    import torch

    width = max(map(len, prompts))
    tokens = torch.tensor([(0,) * (width - len(one)) + one for one in prompts])
    mask = torch.tensor([(0,) * (width - len(one)) + (1,) * len(one) for one in prompts])
    added = STRENGTH * vectors[:, None]

    def hook(_module: Any, _inputs: Any, output: Any) -> Any:
        return (output[0] + added, *output[1:]) if isinstance(output, tuple) else output + added

    handle = model.blocks[LAYER].register_forward_hook(hook)
    try:
        with torch.inference_mode():
            return model.model.generate(
                tokens, attention_mask=mask, max_new_tokens=N_TOKENS, max_length=None, do_sample=False
            )
    finally:
        handle.remove()


class Runner:
    """A process that runs a way when it is told to."""

    def __init__(self, way: str, family: str, checkout: Path) -> None:
        path = os.pathsep.join([str(checkout), str(Path(__file__).parent)])
        self._process = subprocess.Popen(
            [sys.executable, __file__, "work", way, family],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        )

    def __call__(self) -> float:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(file=self._process.stdin, flush=True)
        return float(self._process.stdout.readline())

    def end(self) -> None:
        self._process.communicate()


def compare(family: str, runners: Sequence[Runner], repeat: int) -> None:
    """A line of the table: the seconds of both, and the second's speed as a share of the first's."""
    turns = [[runner() for runner in runners] for _ in range(repeat)]
    for runner in runners:
        runner.end()
    first, second = map(min, zip(*turns, strict=True))
    print(f"| {family} | {first:.2f} | {second:.2f} | {first / second:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("plain", "shared", "work"))
    parser.add_argument("names", nargs="*")
    parser.add_argument("--repeat", type=int, default=7)
    given = parser.parse_args()
    here = Path(__file__).resolve().parents[1]
    if given.what == "work":
        work(*given.names)
        return
    old = given.names.pop(0) if given.what == "shared" else None
    print(f"| family | {'before' if old else 'one padded batch'}, s | here, s | speed |\n|---|---:|---:|---:|")
    for family in given.names or (SHARED if old else PLAIN):
        first = Runner("ours", family, Path(old)) if old else Runner("padded", family, here)
        compare(family, (first, Runner("ours", family, here)), given.repeat)


if __name__ == "__main__":
    main()
