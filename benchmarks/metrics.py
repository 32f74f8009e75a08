"""What the metrics of every evaluation cost a sweep.

Run from the project's root; it works in a folder of its own and takes it away afterwards:

    python benchmarks/metrics.py
    python benchmarks/metrics.py --model SMOLLM2.gguf --cells 32 --tokens 32 --subset 6 --repeat 2

By turns, always other coefficients: the same number of cells planned, generated, judged, spooled and sent to SQLite,
with and without metrics. Processor time of the whole process, since the machine may do other work. The embedded models
are judged by `likelihood`, another one by its own unsteered reading, as in experiments/smollm2.yaml.
"""

import argparse
import os
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is loaded

from massact.config import load_experiment
from massact.domain import Coefficients
from massact.labels import parse_label
from massact.metrics import DEFAULT_METRICS
from massact.sweep.context import Session, Workload
from massact.sweep.driver import Evaluator
from massact.sweep.planner import GridRequest
from massact.workflow.steps import run_calibrate, run_extract

EXPERIMENT = """\
name: metrics
traits: {{refusal: {{dataset: "{trait}"}}}}
models:
  one: {{instruct: {{model: "{model}"}}, dtype: float32, layers: "{layer}", coefficients: [16]}}
calibration: {{prompts: "toy:calibration", max_new_tokens: 8}}
extraction: {{positions: ["response[:5]"], methods: [mean_diff, probe], uniform_dims: [], layer_dims: []}}
generation: {{max_new_tokens: {tokens}}}
judge: {judge}
subset: {subset}
"""
LABELS = ("mean_diff", "probe")
WAYS = {
    "none": ((), 8),
    "the usual": (DEFAULT_METRICS, 8),
    "the usual, all tokens read": (DEFAULT_METRICS, 0),
    "the usual and kl_neutral": ((*DEFAULT_METRICS, "kl_neutral"), 8),
}


def prepared(folder: Path, args: argparse.Namespace) -> Session:
    """An experiment that is calibrated and extracted."""
    is_toy = args.model.startswith("toy:")
    traits = Path(__file__).resolve().parents[1] / "experiments" / "traits"
    judge = "likelihood" if is_toy else "{trait: classifier, coherence: perplexity}"
    file = folder / "metrics.yaml"
    file.write_text(
        EXPERIMENT.format(
            trait="toy:refusal" if is_toy else traits / "refusal", judge=judge, model=args.model, layer=args.layer,
            tokens=args.tokens, subset=args.subset,
        ),
        encoding="utf-8",
    )  # fmt: skip
    session = Session(load_experiment(file), f"sqlite:///{folder}/mlflow.db", workload=Workload(spool=folder / "spool"))
    with session.stores.tracker.phase("prepare", params={}) as run:
        run_calibrate(session, run)
        run_extract(session, run)
    return session


def sweep(session: Session, way: str, least: float, step: float, n_cells: int) -> float:
    """Processor seconds of a sweep that measures in a way."""
    names, read = WAYS[way]
    session.experiment = replace(session.experiment, metrics=names, metric_tokens=read)
    values = tuple(least + step * i for i in range(n_cells // 2))
    layer = int(session.experiment.models[0].grid.layers)
    requests = [GridRequest("response[:5]", parse_label(label), (layer,), Coefficients(values)) for label in LABELS]
    began = time.process_time()
    with session.stores.tracker.phase("sweep", params={}) as run:
        Evaluator(session, run, session.experiment.models[0], session.experiment.traits[0]).run(requests)
        session.stores.settle()
    return time.process_time() - began


def main() -> None:
    """Measure by turns and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="toy:gemma-3-instruct")
    parser.add_argument("--layer", type=int, default=3)
    parser.add_argument("--least", type=float, default=8.0, help="the least coefficient")
    parser.add_argument("--cells", type=int, default=160)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--subset", type=int, default=10)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=[*WAYS])
    args = parser.parse_args()
    if not args.model.startswith("toy:"):
        args.model = str(Path(args.model).resolve())
    taken: dict[str, list[float]] = {way: [] for way in args.ways}
    with tempfile.TemporaryDirectory(prefix="massact-metrics-") as folder:
        os.chdir(folder)
        session = prepared(Path(folder), args)
        sweep(session, args.ways[-1], args.least * 0.9, 0.01, 2)  # the first makes ready
        step = args.least * 2 / args.cells
        for turn in range(args.repeat):
            for i, way in enumerate(args.ways):
                taken[way].append(
                    sweep(session, way, args.least + (turn + i / 10) * step / args.repeat, step, args.cells)
                )
        session.stores.close()
        os.chdir("/")
    print("| metrics | processor seconds, by turn | median | of none |")
    print("|---|---|---:|---:|")
    none = statistics.median(taken[args.ways[0]])
    for way, seconds in taken.items():
        middle = statistics.median(seconds)
        print(f"| {way} | {', '.join(f'{one:.1f}' for one in seconds)} | {middle:.1f} | {middle / none:.0%} |")


if __name__ == "__main__":
    main()
