"""How fast a grid of mixed operators, layers and tokens is generated, beside the add-only grid of an earlier build.

    git archive COMMIT massact | tar -x -C /tmp/before
    python benchmarks/interventions.py --before /tmp/before

Each build runs in a process of its own, one grid at a time, by turns; processor time counts, the least of the runs. A
grid has 12 labels x 6 coefficients x 10 questions x 64 tokens on the embedded toy, or 256 rows of as many; no row ends
early. One grid of another model, both builds' responses compared:

    python benchmarks/interventions.py --before /tmp/before --model toy:gemma-2-instruct --grids "one layer"
    python benchmarks/interventions.py --before /tmp/before --model FOLDER --questions 3 --threads 2 --grids "one layer"
"""

import argparse
import hashlib
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
MODEL = "toy:gemma-3-instruct"
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
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--questions", type=int, default=N_QUESTIONS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--grids", nargs="+", choices=NEW_GRIDS, default=NEW_GRIDS)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(args)
        return
    builds = {"before": (args.before, GRIDS), "now": (Path(__file__).parents[1], NEW_GRIDS)}
    workers = {name: start(folder, args) for name, (folder, _) in builds.items() if folder}
    ways = [(name, grid) for name in workers for grid in builds[name][1] if grid in args.grids]
    best: dict[tuple[str, str], list[float]] = {}
    said: dict[tuple[str, str], str] = {}
    for (name, grid), _ in ((way, turn) for turn in range(args.repeat) for way in ways):
        *seconds, said[name, grid] = ask(workers[name], grid)
        best[name, grid] = list(map(min, seconds, best.get((name, grid), seconds)))
    rates = {way: n_rows(way[1], args.questions) * N_TOKENS / seconds[0] for way, seconds in best.items()}
    print(f"{args.model}, load {os.getloadavg()[1]:.0f}\n")
    print("| build | grid | tokens per second of processor time | of the first | seconds | by the clock | as before |")
    print("|---|---|---:|---:|---:|---:|---|")
    for (name, grid), rate in rates.items():
        first = rates[name, "256 unsteered"] if grid.startswith("256") else rates[ways[0]]
        same = {True: "yes", False: "no"}[said[name, grid] == said.get(("before", grid), said[name, grid])]
        spent, clock = best[name, grid]
        print(f"| {name} | {grid} | {rate:,.0f} | {rate / first:.1%} | {spent:.2f} | {clock:.2f} | {same} |")
    for worker in workers.values():
        worker.communicate()


def n_rows(grid: str, n_questions: int) -> int:
    """How many responses a grid has."""
    return 256 if grid.startswith("256") else 12 * len(STRENGTHS) * n_questions


def start(folder: Path, args: argparse.Namespace) -> subprocess.Popen[str]:
    """A process that generates with the build in a folder."""
    how = {"--model": args.model, "--questions": args.questions, "--threads": args.threads}
    return subprocess.Popen(
        [sys.executable, __file__, "--work", *(str(one) for pair in how.items() for one in pair)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": str(args.threads)},
    )


def ask(worker: subprocess.Popen[str], grid: str) -> tuple[float, float, str]:
    """Seconds that it takes for a grid, of the processor and by the clock, and a digest of what was said."""
    assert worker.stdin
    assert worker.stdout
    worker.stdin.write(grid + "\n")
    worker.stdin.flush()
    spent, clock, said = json.loads(worker.stdout.readline())
    return spent, clock, said


def work(args: argparse.Namespace) -> None:
    """Generate each grid that is named on the standard input, and print what it took."""
    import torch

    from massact.config import LoadConfig
    from massact.data.traits import load_trait
    from massact.domain import Generation
    from massact.models import generate, prompting
    from massact.models.load import load_model

    torch.set_num_threads(args.threads)
    model = load_model(args.model, options=LoadConfig(dtype="float32", device="cpu"))
    questions = load_trait("toy:refusal").questions[: args.questions]
    prompts = [prompting.encode_chat(model, question) for question in questions]
    # a build of before has another name for it
    kind: Callable[..., Any] = getattr(prompting, "Intervention", None) or prompting.Addition  # type: ignore[attr-defined]
    torch.manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(12, len(model.blocks), model.shape.d_model), dim=-1)
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
        began, clock = time.process_time(), time.perf_counter()
        with unending():
            said = generator.generate(rows_of[grid], Generation(N_TOKENS))
        taken = time.process_time() - began, time.perf_counter() - clock
        print(json.dumps([*taken, hashlib.sha256(repr(said).encode()).hexdigest()]), flush=True)


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
            operator, vector = "ablate", vectors[label, LAYER].expand(vectors.shape[1], -1)
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
