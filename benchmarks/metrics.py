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
metrics: [{metrics}]
metric_tokens: {read}
"""
LABELS = ("mean_diff", "probe")
WAYS = {
    "none": ((), 8),
    "the usual": (DEFAULT_METRICS, 8),
    "the usual, all tokens read": (DEFAULT_METRICS, 0),
    "the usual and kl_neutral": ((*DEFAULT_METRICS, "kl_neutral"), 8),
}


def prepared(folder: Path, args: argparse.Namespace, way: str) -> Session:
    """An experiment that is calibrated and extracted."""
    names, read = WAYS[way]
    is_toy = args.model.startswith("toy:")
    traits = Path(__file__).parents[1] / "experiments" / "traits"
    judge = "likelihood" if is_toy else "{trait: classifier, coherence: perplexity}"
    folder.mkdir()
    file = folder / "metrics.yaml"
    file.write_text(
        EXPERIMENT.format(
            trait="toy:refusal" if is_toy else traits / "refusal", judge=judge, metrics=", ".join(names), read=read,
            model=args.model if is_toy else Path(args.model).resolve(), layer=args.layer, tokens=args.tokens,
            subset=args.subset,
        ),
        encoding="utf-8",
    )  # fmt: skip
    workload = Workload(spool=folder / "spool")
    session = Session(load_experiment(file), f"sqlite:///{folder}/mlflow.db", workload=workload)
    with session.stores.tracker.phase("prepare", params={}) as run:
        run_calibrate(session, run)
        run_extract(session, run)
    return session


def sweep(session: Session, least: float, step: float, n_cells: int) -> float:
    """Processor seconds of a sweep."""
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
    args = parser.parse_args()
    taken: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory(prefix="massact-metrics-") as folder:
        os.chdir(folder)
        sessions = {way: prepared(Path(folder) / f"way{i}", args, way) for i, way in enumerate(WAYS)}
        for session in sessions.values():
            sweep(session, args.least * 0.9, 0.01, 2)  # the first of each makes ready
        for turn in range(args.repeat):
            for way, session in sessions.items():
                step = args.least * 2 / args.cells
                taken[way].append(sweep(session, args.least + turn * step / 10, step, args.cells))
        for session in sessions.values():
            session.stores.close()
        os.chdir("/")
    print("| metrics | processor seconds, by turn | median | of none |")
    print("|---|---|---:|---:|")
    none = statistics.median(taken["none"])
    for way, seconds in taken.items():
        middle = statistics.median(seconds)
        print(f"| {way} | {', '.join(f'{one:.1f}' for one in seconds)} | {middle:.1f} | {middle / none:.0%} |")


if __name__ == "__main__":
    main()
