"""How long `best` and `gaps` take, beside what one would write with mlflow.search_runs and pandas.

Run from the project's root, on a store that benchmarks/make_store.py made:

    python benchmarks/query.py --tracking-uri sqlite:////tmp/bench.db
    python benchmarks/query.py --tracking-uri postgresql://USER@HOST/DATABASE
    python benchmarks/query.py --tracking-uri sqlite:////tmp/bench.db --rest

With --rest a tracking server with MLflow's default settings is started over the database, and both ways
ask the server. Each way runs in a process of its own, which has imported what it needs before the clock
starts; ours runs --repeat times (the store is opened anew each time) and the median counts, the pandas way
once. Both must name the same winners, or the benchmark fails.
"""

import argparse
import json
import os
import platform
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

FLOOR = 68.0
GROUP = ["params.model", "params.trait", "params.position", "params.label", "params.judge"]


def main() -> None:
    """Measure both ways and print a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tracking-uri", required=True)
    parser.add_argument("--experiment", default="made-to-measure")
    parser.add_argument("--rest", action="store_true", help="ask a tracking server over the database")
    parser.add_argument("--repeat", type=int, default=5, help="runs of our way")
    parser.add_argument("--only", choices=("ours", "pandas"), help="measure one way alone")
    parser.add_argument("--way", choices=("ours", "pandas"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        way = ours if args.way == "ours" else pandas_way
        print(json.dumps(way(args.tracking_uri, args.experiment, args.repeat)))
    elif args.rest:
        with tracking_server(args.tracking_uri) as address:
            measure(address, args)
    else:
        measure(args.tracking_uri, args)


def measure(uri: str, args: argparse.Namespace) -> None:
    """Each way in its own process, side by side in one table."""
    ways = [args.only] if args.only else ["ours", "pandas"]
    command = [sys.executable, __file__, "--tracking-uri", uri, "--experiment", args.experiment]
    found = {
        way: json.loads(subprocess.check_output([*command, "--repeat", str(args.repeat), "--way", way]))
        for way in ways
    }
    name = "server" if args.rest else uri.partition(":")[0]
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions()}")
    print(f"\n| {name} | best, s | gaps, s | peak memory, MB | rows read |")
    print("|---|---:|---:|---:|---:|")
    for way, figures in found.items():
        print(
            f"| {way} | {figures['best']:.2f} | {figures['gaps']:.2f} | {figures['memory']:.0f} | {figures['n_rows']} |"
        )
    if len(found) == 2:
        mine, theirs = found["ours"], found["pandas"]
        factors = (theirs[name] / mine[name] for name in ("best", "gaps"))
        print(f"| times faster | {' | '.join(f'{one:.0f}' for one in factors)} | | |")
        same = mine["winners"] == theirs["winners"]
        print(f"\nsame winners: {'yes' if same else 'NO'} ({len(mine['winners'])} groups with a best)")
        if not same:
            raise SystemExit(1)


def ours(uri: str, experiment: str, repeat: int) -> dict[str, Any]:
    """Seconds from opening the store to the answer."""
    import_module("numpy")  # loaded on first use; imports are not measured
    from massact.domain import Group
    from massact.query import Answers
    from massact.store import open_store

    def loaded() -> Answers:
        store = open_store(uri)
        try:
            return Answers.from_store(store, experiment)
        finally:
            store.close()

    def best() -> Any:
        return loaded().best(FLOOR)

    first = best()
    groups = tuple(dict.fromkeys(Group(r.model, r.trait, r.position, r.label) for r in first.rows))

    def gaps() -> Any:
        from dataclasses import replace

        return replace(loaded(), groups=groups).gaps(FLOOR)

    return {
        "best": statistics.median(seconds(best) for _ in range(repeat)),
        "gaps": statistics.median(seconds(gaps) for _ in range(repeat)),
        "memory": peak_memory(),
        "n_rows": len(loaded().evaluations),
        "winners": sorted(row.key for row in first.rows if row.status == "ok"),
    }


def pandas_way(uri: str, experiment: str, _repeat: int) -> dict[str, Any]:
    """Seconds of the search and of what pandas makes of it; both questions start with the same search."""
    import mlflow
    import pandas as pd

    mlflow.set_tracking_uri(uri)
    began = time.perf_counter()
    frame = mlflow.search_runs(
        experiment_names=[experiment],
        filter_string="tags.`massact.kind` = 'evaluation' and attributes.status = 'FINISHED'",
        max_results=10_000_000,
    )
    frame = frame.sort_values(["end_time", "run_id"]).drop_duplicates("tags.massact.key", keep="last")
    searching = time.perf_counter() - began

    def best() -> pd.DataFrame:
        coherent = frame[(frame["metrics.coherence_mean"] >= FLOOR) & frame["metrics.delta"].notna()].copy()
        coherent["size"] = coherent["params.coefficient"].astype(float).abs()
        coherent["layer"] = coherent["params.layer"].astype(int)
        order = ["metrics.delta", "size", "layer", "tags.massact.key"]
        ranked = coherent.sort_values(order, ascending=[False, True, True, True])
        return ranked.drop_duplicates(GROUP)

    def gaps() -> pd.DataFrame:
        filled = best()[GROUP]
        misses = frame[frame["metrics.coherence_mean"] < FLOOR]
        misses = misses.sort_values("metrics.coherence_mean", ascending=False).drop_duplicates(GROUP)
        return misses.merge(filled, on=GROUP, how="left", indicator=True).query("_merge == 'left_only'")

    winners = sorted(best()["tags.massact.key"])
    return {
        "best": searching + seconds(best),
        "gaps": searching + seconds(gaps),
        "memory": peak_memory(),
        "n_rows": len(frame),
        "winners": winners,
    }


def seconds(work: Callable[[], object]) -> float:
    """How long some work takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def peak_memory() -> float:
    """Of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def versions() -> str:
    """What was measured with."""
    from importlib.metadata import version

    return ", ".join(f"{name} {version(name)}" for name in ("mlflow", "sqlalchemy", "pandas"))


@contextmanager
def tracking_server(database_uri: str) -> Iterator[str]:
    """A tracking server with MLflow's default settings."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", database_uri]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "server.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, start_new_session=True)
        try:
            address = f"http://127.0.0.1:{port}"
            wait_for(f"{address}/health", server)
            yield address
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(30)


def wait_for(url: str, server: "subprocess.Popen[bytes]") -> None:
    """Until the server answers."""
    for _ in range(600):
        if server.poll() is not None:
            raise RuntimeError("the tracking server did not start")
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise RuntimeError("the tracking server did not answer within two minutes")


if __name__ == "__main__":
    main()
