"""How fast a grid of mixed operators, layers and tokens is generated, beside the add-only grid of an earlier build.

    git archive COMMIT massact | tar -x -C /tmp/before
    python benchmarks/interventions.py --before /tmp/before

Each build runs in a process of its own, one grid at a time, by turns; processor time of one thread counts, the least of
the runs. A grid has 12 labels x 6 coefficients x 10 questions x 64 tokens on the embedded toy, or 256 rows of as many;
no row ends early.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any
from unittest import mock

N_TOKENS, N_QUESTIONS, STRENGTHS = 64, 10, (1, 2, 3, 4, 5, 6)
LAYER, LAYERS = 3, (2, 3, 4)
OPERATORS = {"add": 4.0, "ablate": 0.3, "clamp": 4.0, "rotate": 0.5}
TOKENS = ("all", "response", "prompt[-1]", "response[:8]")
GRIDS = ("one layer", "three layers")
NEW_GRIDS = (
    *GRIDS, "operators", "operators, three layers", "operators, three layers, tokens",
    "operators, three layers, tokens, decay, gates", "replace", "response only", "all 8 layers at once",
    "one direction ablated at all 8 layers", "256 unsteered", "256 vectors",
)  # fmt: skip


def main() -> None:
    """Measure all grids by turns and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="folder that holds the earlier build's package")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work()
        return
    builds = {"before": (args.before, GRIDS), "now": (Path(__file__).parents[1], NEW_GRIDS)}
    workers = {name: start(folder) for name, (folder, _) in builds.items() if folder}
    ways = [(name, grid) for name in workers for grid in builds[name][1]]
    best: dict[tuple[str, str], float] = {}
    for (name, grid), _ in ((way, turn) for turn in range(args.repeat) for way in ways):
        seconds = ask(workers[name], grid)
        best[name, grid] = min(seconds, best.get((name, grid), seconds))
    rates = {way: n_rows(way[1]) * N_TOKENS / seconds for way, seconds in best.items()}
    print(f"load {os.getloadavg()[1]:.0f}\n")
    print("| build | grid | tokens per second of processor time | of the first |\n|---|---|---:|---:|")
    for (name, grid), rate in rates.items():
        first = rates[name, "256 unsteered"] if grid.startswith("256") else rates[ways[0]]
        print(f"| {name} | {grid} | {rate:,.0f} | {rate / first:.1%} |")
    for worker in workers.values():
        worker.communicate()


def n_rows(grid: str) -> int:
    """How many responses a grid has."""
    return 256 if grid.startswith("256") else 12 * len(STRENGTHS) * N_QUESTIONS


def start(folder: Path) -> subprocess.Popen[str]:
    """A process that generates with the build in a folder."""
    return subprocess.Popen(
        [sys.executable, __file__, "--work"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"},
    )


def ask(worker: subprocess.Popen[str], grid: str) -> float:
    """Seconds of processor time that it takes for a grid."""
    assert worker.stdin
    assert worker.stdout
    worker.stdin.write(grid + "\n")
    worker.stdin.flush()
    return float(json.loads(worker.stdout.readline()))


def work() -> None:
    """Generate each grid that is named on the standard input, and print what it took."""
    import torch

    from massact.config import LoadConfig
    from massact.data.traits import load_trait
    from massact.domain import Generation
    from massact.models import generate, prompting
    from massact.models.load import load_model

    torch.set_num_threads(1)
    model = load_model("toy:gemma-3-instruct", options=LoadConfig(dtype="float32", device="cpu"))
    questions = load_trait("toy:refusal").questions[:N_QUESTIONS]
    prompts = [prompting.encode_chat(model, question) for question in questions]
    # a build of before has another name for it
    kind: Callable[..., Any] = getattr(prompting, "Intervention", None) or prompting.Addition  # type: ignore[attr-defined]
    torch.manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(12, 8, model.shape.d_model), dim=-1)
    generator = generate.Generator(model)
    rows_of: dict[str, list[Any]] = {}
    for line in sys.stdin:
        grid = line.strip()
        if grid not in rows_of:
            if grid.startswith("256"):
                many = torch.nn.functional.normalize(torch.randn(256, model.shape.d_model), dim=-1)
                each = [None if "unsteered" in grid else kind(LAYER, one, 1e-3) for one in many]
                rows_of[grid] = [prompting.Row(prompts[i % len(prompts)], one, i) for i, one in enumerate(each)]
            else:
                steered = [kind(*one) for one in interventions(grid, vectors)]
                rows_of[grid] = [prompting.Row(p, one, i) for one in steered for i, p in enumerate(prompts)]
            with unending():
                generator.generate(rows_of[grid][:20], Generation(4))
        began = time.process_time()
        with unending():
            generator.generate(rows_of[grid], Generation(N_TOKENS))
        print(json.dumps(time.process_time() - began), flush=True)


@contextmanager
def unending() -> Iterator[None]:
    """Every row is generated, whether another is like it or not, and none ends."""
    import torch

    from massact.models import decode, generate

    def never(chosen: torch.Tensor, _ends: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(chosen, dtype=torch.bool)

    def all_rows(rows: Any, _settings: Any) -> tuple[list[Any], list[int]]:
        return list(rows), list(range(len(rows)))

    with mock.patch.object(decode, "is_end", never), mock.patch.object(generate, "distinct_rows", all_rows):
        yield


def interventions(grid: str, vectors: Any) -> Iterator[tuple[Any, ...]]:
    """Arguments of each: layer, vector, coefficient, and operator, tokens and the rest where not the default."""
    from massact import domain

    names = ["replace"] if grid == "replace" else list(OPERATORS) if "operators" in grid else ["add"]
    names += ["replace"] if "gates" in grid else []
    for number, (label, strength) in enumerate(product(range(12), STRENGTHS)):
        operator, layer = names[label % len(names)], LAYER
        if "three" in grid:
            layer = LAYERS[label // len(names) % 3]
        vector = vectors[label, layer]
        if "all" in grid:
            layer, vector = 0, vectors[label]
        if "ablated" in grid:
            operator, vector = "ablate", vectors[label, LAYER].expand(8, -1)
        if operator == "replace":
            vector = replaced(vectors[label, :3])
        tokens = "response" if "response" in grid else TOKENS[number % 4] if "tokens" in grid else "all"
        more: tuple[Any, ...] = () if (operator, tokens) == ("add", "all") else (operator, tokens)
        if "gates" in grid:  # open to every prompt
            more = (
                operator,
                tokens,
                (),
                (1.0, 0.9)[number % 2],
                domain.Gate(LAYER, "prompt[-1]", -1e9),
                vectors[label, 0],
            )
        yield (layer, vector, OPERATORS.get(operator, 0.1) * strength, *more)


def replaced(directions: Any) -> Any:
    """What `replace` takes at a layer, of three directions."""
    import torch

    basis = torch.linalg.qr(directions.T).Q.T
    return torch.cat([basis, basis[:1], basis[1:2]])[None]


if __name__ == "__main__":
    main()
