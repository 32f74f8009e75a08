"""What a sweep costs beside generating: planning, judging, the spool and the run store.

Run from the project's root; it works in a folder of its own and takes it away afterwards:

    python benchmarks/sweep.py
    python benchmarks/sweep.py --tokens 256        # cells that take longer

By turns, on the embedded Gemma-3 and always other coefficients: cells generated and judged and nothing kept
(unlogged), and the same number planned, generated, judged, spooled and sent to SQLite (logged). How much of
the judge's time is hidden behind generation shows in the unlogged way: wall time against the sum of both.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is loaded

from massact.config import ModelConfig, TraitConfig, load_experiment
from massact.domain import Coefficients
from massact.judges import Exchange, Judge, Usage, Verdict
from massact.labels import parse_label
from massact.sweep.context import Session
from massact.sweep.driver import Evaluator
from massact.sweep.executors.local import evaluate_cells
from massact.sweep.planner import GridRequest, Planner
from massact.workflow.steps import run_calibrate, run_extract

EXPERIMENT = """\
name: sweep
traits:
  refusal: {{dataset: "toy:refusal"}}
models:
  toy:
    base: {{variant: base, model: "toy:gemma-3-base"}}
    instruct: {{variant: instruct, model: "toy:gemma-3-instruct"}}
    dtype: float32
    layers: "3"
    coefficients: [16]
calibration: {{prompts: "toy:calibration", max_new_tokens: 8}}
extraction: {{positions: ["response[:5]"], methods: [mean_diff, probe], uniform_dims: [1, all], layer_dims: [1]}}
generation: {{max_new_tokens: {tokens}}}
judge: likelihood
subset: 10
phases:
  phase1: {{labels: [probe, mean_diff], positions: ["response[:5]"]}}
  phase2: {{labels: [probe_preclean, mean_diff_preclean], positions: ["response[:5]"]}}
  phase3: {{labels: [mean_diff, mean_diff_top1], positions: ["response[:5]"]}}
"""
LABELS = ("probe", "mean_diff", "probe_top1", "mean_diff_top1")


class TimedJudge:
    """A judge, and the seconds that it took."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self.identity = judge.identity
        self.seconds = 0.0

    @property
    def usage(self) -> Usage:
        """See `massact.judges.Judge`."""
        return self._judge.usage

    def prepare(self) -> None:
        """See `massact.judges.Judge`."""
        self._judge.prepare()

    def score(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
        """See `massact.judges.Judge`."""
        began = time.perf_counter()
        verdicts = self._judge.score(exchanges)
        self.seconds += time.perf_counter() - began
        return verdicts


class Subject:
    """An experiment that is calibrated and extracted."""

    def __init__(self, folder: Path, tokens: int, n_cells: int, batch_rows: int) -> None:
        file = folder / "sweep.yaml"
        file.write_text(EXPERIMENT.format(tokens=tokens), encoding="utf-8")
        self._file, self._uri, self._batch_rows = file, f"sqlite:///{folder}/mlflow.db", batch_rows
        self._n_coefficients = -(-n_cells // len(LABELS))
        self.session = self._open()
        with self.session.stores.tracker.phase("prepare", params={}) as run:
            run_calibrate(self.session, run)
            run_extract(self.session, run)

    def _open(self) -> Session:
        from massact.sweep.context import Workload

        return Session(load_experiment(self._file), self._uri, workload=Workload(batch_rows=self._batch_rows))

    def requests(self, shift: float) -> list[GridRequest]:
        """Cells that no other shift has."""
        coefficients = Coefficients(tuple(8 + 0.5 * i + shift for i in range(self._n_coefficients)))
        return [GridRequest("response[:5]", parse_label(label), (3,), coefficients) for label in LABELS]

    def unlogged(self, shift: float) -> tuple[float, float, float]:
        """Seconds of the whole, of generation and of the judge."""
        session, model, trait = self.session, *self._names()
        planner = Planner(session, model, trait)
        cells = list(planner.cells(self.requests(shift)).values())
        judge = TimedJudge(self._open().judges.of(trait))
        network = session.models.get(model, model.instruct)
        began = time.perf_counter()
        found = list(
            evaluate_cells(network, cells, planner.questions.questions, judge, batch_rows=self._batch_rows or None)
        )
        seconds = time.perf_counter() - began
        return (seconds, sum(one.timing.generation_seconds for one in found if hasattr(one, "timing")), judge.seconds)

    def logged(self, shift: float) -> tuple[float, float]:
        """Seconds until everything was evaluated, and until everything was sent."""
        session, model, trait = self.session, *self._names()
        began = time.perf_counter()
        with session.stores.tracker.phase("sweep", params={}) as run:
            Evaluator(session, run, model, trait).run(self.requests(shift))
            evaluated = time.perf_counter()
            session.stores.settle()
        return evaluated - began, time.perf_counter() - began

    def _names(self) -> tuple[ModelConfig, TraitConfig]:
        return self.session.experiment.models[0], self.session.experiment.traits[0]


def main() -> None:
    """Measure by turns and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=160)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--batch-rows", type=int, default=0)
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="massact-sweep-") as folder:
        os.chdir(folder)
        subject = Subject(Path(folder), args.tokens, args.cells, args.batch_rows)
        subject.logged(0.01)  # the first of each makes ready
        rows = [(*subject.unlogged(0.1 + i / 1000), *subject.logged(0.2 + i / 1000)) for i in range(args.repeat)]
        subject.session.stores.close()
        os.chdir("/")
    print("| unlogged | of it generation | the judge | logged, evaluated | logged, sent | sent / unlogged |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        print("| " + " | ".join(f"{value:.2f} s" for value in row) + f" | {row[-1] / row[0]:.2f} |")
    middle = [statistics.median(column) for column in zip(*rows, strict=True)]
    print(
        f"\nmedian a cell: {1e3 * middle[0] / args.cells:.0f} ms unlogged, {1e3 * middle[-1] / args.cells:.0f} ms sent"
    )


if __name__ == "__main__":
    main()
