"""How long `best` and `gaps` take, beside what one would write with mlflow.search_runs and pandas.

Run from the project's root, on a store that benchmarks/make_store.py made:

    python benchmarks/query.py --tracking-uri sqlite:////tmp/bench.db
    python benchmarks/query.py --tracking-uri sqlite:////tmp/bench.db \\
        --tracking-uri postgresql://USER@HOST/DATABASE --pandas-repeat 1
    python benchmarks/query.py --tracking-uri sqlite:////tmp/bench.db --rest

Several stores are measured one after the other and stand in one table. With --rest a tracking server with
MLflow's default settings is started over the database, and both ways ask the server; with --app massact it
has the query API. Each way runs in a
process of its own, which has imported what it needs before the clock starts; ours runs --repeat times (the
store is opened anew each time), the pandas way --pandas-repeat times. The least and the median are given, and
the least processor time of this side, which other work on the machine changes less. Both ways must name the
same winners, or the benchmark fails.
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
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

FLOOR = 68.0
QUESTIONS = ("best", "gaps", "best with intervals")
GROUP = ["params.model", "params.trait", "params.position", "params.label", "params.judge"]


def main() -> None:
    """Measure both ways and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tracking-uri", required=True, action="append", help="repeatable")
    parser.add_argument("--experiment", default="made-to-measure")
    parser.add_argument("--rest", action="store_true", help="ask a tracking server over the database")
    parser.add_argument("--app", help="with --rest: the server's app, such as massact")
    parser.add_argument("--repeat", type=int, default=5, help="runs of our way")
    parser.add_argument("--pandas-repeat", type=int, default=1, help="runs of the pandas way")
    parser.add_argument("--only", choices=("ours", "pandas"), help="measure one way alone")
    parser.add_argument("--way", choices=("ours", "pandas"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        way, repeat = (ours, args.repeat) if args.way == "ours" else (pandas_way, args.pandas_repeat)
        print(json.dumps(way(args.tracking_uri[0], args.experiment, repeat)))
        return
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions()}")
    print(f"load when it began: {os.getloadavg()[0]:.1f}\n")
    print(f"| store | way | {' | '.join(f'{name}, s' for name in QUESTIONS)} | peak memory, MB | rows read |")
    print("|---|---" + "|---:" * (len(QUESTIONS) + 2) + "|")
    agreed = [measure_at(uri, args) for uri in args.tracking_uri]
    if not all(agreed):
        raise SystemExit(1)


def measure_at(uri: str, args: argparse.Namespace) -> bool:
    """A store, or a server over it. Returns whether both ways agree."""
    if not args.rest:
        return measure(uri, uri.partition(":")[0], args)
    with tracking_server(uri, args.app) as address:
        name = f"server ({args.app or 'no app'}) over {uri.partition(':')[0]}"
        return measure(address, name, args)


def measure(uri: str, name: str, args: argparse.Namespace) -> bool:
    """Each way in its own process, side by side in one table."""
    ways = [args.only] if args.only else ["ours", "pandas"]
    command = [sys.executable, __file__, "--tracking-uri", uri, "--experiment", args.experiment]
    command += ["--repeat", str(args.repeat), "--pandas-repeat", str(args.pandas_repeat)]
    found = {way: json.loads(subprocess.check_output([*command, "--way", way])) for way in ways}
    for way, figures in found.items():
        cells = [shown(figures[question]) for question in QUESTIONS]
        print(f"| {name} | {way} | {' | '.join(cells)} | {figures['memory']:.0f} | {figures['n_rows']} |", flush=True)
    if len(found) == 1:
        return True
    mine, theirs = found["ours"], found["pandas"]
    factors = [
        f"{theirs[question]['least'] / mine[question]['least']:.1f}" if theirs[question] else ""
        for question in QUESTIONS
    ]
    print(f"| {name} | times faster | {' | '.join(factors)} | | |")
    same = mine["winners"] == theirs["winners"]
    agreement = f"same {len(mine['winners'])} winners: {'yes' if same else 'NO'}"
    print(f"| {name} | {agreement} | {'| ' * (len(QUESTIONS) + 2)}|", flush=True)
    return bool(same)


def shown(figures: dict[str, float] | None) -> str:
    """Seconds in a cell of the table."""
    if figures is None:
        return ""
    return f"{figures['least']:.2f} (median {figures['median']:.2f}, processor {figures['processor']:.2f})"


def ours(uri: str, experiment: str, repeat: int) -> dict[str, Any]:
    """Seconds from opening the store to the answer."""
    for name in ("numpy", "scipy.optimize", "scipy.special"):
        import_module(name)  # loaded on first use; imports are not measured
    from massact.domain import Group
    from massact.query import Answers
    from massact.query.questions.best import ask_best
    from massact.query.questions.gaps import ask_gaps
    from massact.store.read import open_store

    def loaded(*, with_scores: bool = False) -> Answers:
        store = open_store(uri)
        try:
            answers = Answers.from_store(store, experiment)
            return answers.with_scores(store, FLOOR) if with_scores else answers
        finally:
            store.close()

    def best() -> Any:
        return ask_best.of(loaded(), FLOOR)

    first = best()
    groups = tuple(dict.fromkeys(Group(r.model, r.trait, r.position, r.label) for r in first.rows))

    def gaps() -> Any:
        return ask_gaps.of(replace(loaded(), groups=groups), FLOOR)

    def intervals() -> Any:
        return ask_best.of(loaded(with_scores=True), FLOOR)

    figures: dict[str, Any] = {"best": timed(best, repeat), "gaps": timed(gaps, repeat)}
    figures["best with intervals"] = timed(intervals, repeat)
    figures["memory"] = peak_memory()
    for question in QUESTIONS:
        del figures[question]["result"]
    figures["n_rows"] = len(loaded().evaluations)
    figures["winners"] = sorted(row.key for row in first.rows if row.status == "ok")
    return figures


def pandas_way(uri: str, experiment: str, repeat: int) -> dict[str, Any]:
    """Seconds of the search and of what pandas makes of it; both questions start with the same search."""
    import mlflow
    import pandas as pd

    mlflow.set_tracking_uri(uri)

    def searched() -> pd.DataFrame:
        frame = mlflow.search_runs(
            experiment_names=[experiment],
            filter_string="tags.`massact.kind` = 'evaluation' and attributes.status = 'FINISHED'",
            max_results=10_000_000,
        )
        return frame.sort_values(["end_time", "run_id"]).drop_duplicates("tags.massact.key", keep="last")

    def best(frame: pd.DataFrame) -> pd.DataFrame:
        coherent = frame[(frame["metrics.coherence_mean"] >= FLOOR) & frame["metrics.delta"].notna()].copy()
        coherent["size"] = coherent["params.coefficient"].astype(float).abs()
        coherent["layer"] = coherent["params.layer"].astype(int)
        order = ["metrics.delta", "size", "layer", "tags.massact.key"]
        ranked = coherent.sort_values(order, ascending=[False, True, True, True])
        return ranked.drop_duplicates(GROUP)

    def gaps(frame: pd.DataFrame) -> pd.DataFrame:
        filled = best(frame)[GROUP]
        misses = frame[frame["metrics.coherence_mean"] < FLOOR]
        misses = misses.sort_values("metrics.coherence_mean", ascending=False).drop_duplicates(GROUP)
        return misses.merge(filled, on=GROUP, how="left", indicator=True).query("_merge == 'left_only'")

    searching = timed(searched, repeat)
    frame = searching["result"]
    asked = {"best": timed(lambda: best(frame), 3), "gaps": timed(lambda: gaps(frame), 3)}
    names = ("least", "median", "processor")
    return {
        **{q: {name: searching[name] + asked[q][name] for name in names} for q in asked},
        "best with intervals": None,
        "memory": peak_memory(),
        "n_rows": len(frame),
        "winners": sorted(best(frame)["tags.massact.key"]),
    }


def timed(work: Callable[[], object], repeat: int) -> dict[str, Any]:
    """How long some work takes, and what came of it last."""
    seconds, processor, result = [], [], None
    for _ in range(repeat):
        result = None  # not two at once
        began, used = time.perf_counter(), time.process_time()
        result = work()
        seconds.append(time.perf_counter() - began)
        processor.append(time.process_time() - used)
    return {"least": min(seconds), "median": statistics.median(seconds), "processor": min(processor), "result": result}


def peak_memory() -> float:
    """Of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def versions() -> str:
    """What was measured with."""
    from importlib.metadata import version

    return ", ".join(f"{name} {version(name)}" for name in ("mlflow", "sqlalchemy", "pandas"))


@contextmanager
def tracking_server(database_uri: str, app: str | None, options: tuple[str, ...] = ()) -> Iterator[str]:
    """A tracking server with MLflow's default settings, or with other options."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", database_uri]
    command += ["--host", "127.0.0.1", "--port", str(port), *(["--app-name", app] if app else []), *options]
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
