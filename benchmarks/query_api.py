"""The query API over a large store: whole commands, single requests, the server's processor, and who waits for whom.

Run from the project's root, on a store that benchmarks/make_store.py made:

    python benchmarks/query_api.py --tracking-uri sqlite:////tmp/bench.db
    python benchmarks/query_api.py --tracking-uri postgresql://USER@HOST/DATABASE --workers 4

A tracking server with --app-name massact is started over it. Every command is a process of its own, imports
counted; --repeat times each, the least and the median are given, and the processor time of the server with all
its processes. Then a client logs runs through the server, first alone and then while --askers clients ask for
`best` with intervals without a pause: how long a run takes to be created, filled with 50 metrics and ended.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import requests
from query import tracking_server, versions

_TICKS = os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure, and print Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tracking-uri", required=True)
    parser.add_argument("--experiment", default="made-to-measure")
    parser.add_argument("--workers", type=int, default=4, help="processes of the server; MLflow's default is 4")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--runs", type=int, default=40, help="runs that are logged, alone and beside questions")
    parser.add_argument("--askers", type=int, default=4)
    args = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions()}")
    print(f"{args.tracking_uri.partition(':')[0]}; load when it began: {os.getloadavg()[0]:.1f}\n")
    with tracking_server(args.tracking_uri, "massact", ("--workers", str(args.workers))) as address:
        measure_questions(address, args)
        measure_logging(address, args)


def measure_questions(address: str, args: argparse.Namespace) -> None:
    """Whole commands and single requests."""
    ask = f"{address}/massact/v1"
    about = {"experiment": args.experiment}

    def command(*line: str, uri: str = address) -> Callable[[], object]:
        whole = [sys.executable, "-m", "massact", *line, "--experiment", args.experiment, "--tracking-uri", uri]
        return lambda: subprocess.run(whole, check=True, capture_output=True)

    def request(path: str, **given: str) -> Callable[[], object]:
        return lambda: requests.get(f"{ask}/{path}", {**about, **given}, timeout=600).raise_for_status()

    def points() -> None:
        requests.post(f"{ask}/raw/points", json=about, timeout=600).raise_for_status()

    measured = {
        "`massact best --no-intervals`, the database": command("best", "--no-intervals", uri=args.tracking_uri),
        "`massact best --no-intervals`, the server": command("best", "--no-intervals"),
        "`massact best`, the database": command("best", uri=args.tracking_uri),
        "`massact best`, the server": command("best"),
        "GET /massact/v1/best?intervals=false": request("best", intervals="false"),
        "GET /massact/v1/best": request("best"),
        "GET /massact/v1/coefficients": request("coefficients"),
        "GET /massact/v1/runs?limit=10": request("runs", limit="10"),
        "POST /massact/v1/raw/points": points,
    }
    print("| what | least, s | median, s | server's processor, s |\n|---|---:|---:|---:|")
    for name, work in measured.items():
        work()  # the first one starts a process that answers
        seconds, processor = [], []
        for _ in range(args.repeat):
            began, used = time.perf_counter(), server_seconds()
            work()
            seconds.append(time.perf_counter() - began)
            processor.append(server_seconds() - used)
        figures = (min(seconds), statistics.median(seconds), min(processor))
        print(f"| {name} | {' | '.join(f'{value:.2f}' for value in figures)} |", flush=True)


def measure_logging(address: str, args: argparse.Namespace) -> None:
    """How long it takes to log a run, alone and beside questions."""
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=address)
    name = f"logged beside questions {time.time():.0f}"
    experiment_id = client.create_experiment(name)
    print("\n| runs logged | median, ms | 95th percentile, ms | slowest, ms | questions meanwhile |")
    print("|---|---:|---:|---:|---:|")
    for n_askers in (0, args.askers):
        is_over, answered = threading.Event(), [0]

        def keep_asking(is_over: threading.Event = is_over, answered: list[int] = answered) -> None:
            while not is_over.is_set():
                answer = requests.get(f"{address}/massact/v1/best", {"experiment": args.experiment}, timeout=600)
                answered[0] += answer.ok

        threads = [threading.Thread(target=keep_asking) for _ in range(n_askers)]
        for thread in threads:
            thread.start()
        time.sleep(1)
        took = [log_run(client, experiment_id) for _ in range(args.runs)]
        is_over.set()
        for thread in threads:
            thread.join()
        figures = (statistics.median(took), statistics.quantiles(took, n=20)[-1], max(took))
        said = f"beside {n_askers} askers" if n_askers else "alone"
        print(f"| {said} | {' | '.join(f'{value * 1000:.0f}' for value in figures)} | {answered[0]} |", flush=True)
    client.delete_experiment(experiment_id)


def log_run(client: "object", experiment_id: str) -> float:
    """Seconds to create a run, fill and end it."""
    from mlflow.entities import Metric

    began = time.perf_counter()
    run_id = client.create_run(experiment_id).info.run_id  # type: ignore[attr-defined]
    client.log_batch(run_id, [Metric(f"m{i}", i, 0, 0) for i in range(50)])  # type: ignore[attr-defined]
    client.set_terminated(run_id)  # type: ignore[attr-defined]
    return time.perf_counter() - began


def server_seconds() -> float:
    """Processor time so far of all processes that this one started and theirs, those that ended left out."""
    parents, used = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        # utime, stime, and those of its children that ended
        parents[int(folder.name)] = int(fields[1])
        used[int(folder.name)] = sum(int(value) for value in fields[11:15]) / _TICKS

    def is_ours(pid: int) -> bool:
        while pid in parents:
            if parents[pid] == os.getpid():
                return True
            pid = parents[pid]
        return False

    return sum(seconds for pid, seconds in used.items() if is_ours(pid))


if __name__ == "__main__":
    main()
