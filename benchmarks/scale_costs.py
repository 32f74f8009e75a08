"""What an evaluation costs on its way: bytes between the processes of a cluster, and to a tracking server over HTTP.

Run from the project's root: `python benchmarks/scale_costs.py --http 60`
"""

import argparse
import os
import pickle
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
from scale import D_MODEL, QUESTIONS, Sleeper, plan

from massact.domain import Response, Timing
from massact.evaluation import Evaluation, Part
from massact.store.spool import Spool
from massact.store.spool.journal import Home, RunRecord, encode
from massact.store.write.evaluations import Baseline, Place, RunMaker
from massact.store.write.finished_run import FinishedRun
from massact.store.write.tracker import OpenRun, Tracker
from massact.sweep.executors.ray.results import Draft


def sizes() -> None:
    """Bytes of what travels for one cell of ten questions, pickled as Ray does."""
    from massact.domain import Response, Timing

    batch, timing = [replace(one, vector=None) for one in plan(40)[:8]], Timing(1.0, 1.0, 640)
    (generated,) = Sleeper(0, 8).generate(batch, Part(QUESTIONS))
    judged = [
        Evaluation(cell, tuple(Response(one.question, one.response, 50.0, 80.0) for one in exchanges), timing)
        for cell, exchanges in zip(batch, pickle.loads(pickle.dumps(generated.exchanges)), strict=True)
    ]
    responses = judged[0].responses
    maker = RunMaker(place=Place("scale", "m", "v", 10), parent=_home(), baseline=Baseline("k", 10.0))
    draft = Draft("0" * 32, Evaluation(batch[0], responses, timing), None, maker, "1")
    text = sum(len(one.response) for one in generated.exchanges[0])
    print(f"one cell: ten responses of {text // 10} characters")
    for name, value, n in (
        ("driver to worker (cell)", batch, len(batch)),
        ("worker to judge (responses)", generated, len(batch)),
        ("judge to driver (responses, scores)", judged, len(batch)),
        ("driver to spool actor (draft)", draft, 1),
    ):
        print(f"| {name} | {len(pickle.dumps(value)) / n:,.0f} |")
    print(f"| a vector of {D_MODEL} dims, once a machine | {4 * D_MODEL:,} |")
    run = _whole_run(0)
    line = encode(RunRecord("0" * 32, Home("http://server", "1"), run))
    print(f"| a line of the journal | {len(line):,} |")
    for path, content in run.files.items():
        print(f"| artifact {path} | {len(content):,} |")


def _whole_run(number: int) -> FinishedRun:
    """A run as a spool actor makes it, with its vector and its responses."""
    planned = plan(100)[number % 100]
    (generated,) = Sleeper(0, 1).generate([planned], Part(QUESTIONS))
    responses = tuple(Response(one.question, one.response, 50.0, 80.0) for one in generated.exchanges[0])
    maker = RunMaker(place=Place("scale", "m", "v", 10), parent=_home(), baseline=Baseline("k", 10.0))
    return maker(Evaluation(planned, responses, Timing(1.0, 1.0, 640)))


def over_http(n: int) -> None:
    """What an evaluation costs on the way to a tracking server of one worker: bytes, processor time, and seconds."""
    with (
        tempfile.TemporaryDirectory() as folder,
        _server(Path(folder)) as (process, port),
        _relay(port) as (own, counts),
    ):
        uri = f"http://127.0.0.1:{own}"
        tracker = Tracker(uri, "scale", floor=68.0)
        spool = Spool(Path(folder) / "spool", uri, "scale")
        home = tracker.experiment_id
        spool.put(_whole_run(0), experiment_id=home)  # the first asks what the server is
        spool.flush(60)
        runs = [_whole_run(i + 1) for i in range(n)]
        counts[:] = [0, 0]
        before, began = _processor(process.pid), time.perf_counter()
        for run in runs:
            spool.put(run, experiment_id=home)
        left, took = spool.flush(600), time.perf_counter() - began
        spent = _processor(process.pid) - before
        print(f"| evaluations that arrived | {n - left} of {n} |")
        print(f"| bytes sent / received over HTTP, each | {counts[0] / n:,.0f} / {counts[1] / n:,.0f} |")
        print(f"| seconds / of it the server's processor, each | {took / n:.4f} / {spent / n:.4f} |")
        spool.close()


def _processor(pid: int) -> float:
    own = psutil.Process(pid)
    return sum(float(t.user + t.system) for t in (one.cpu_times() for one in (own, *own.children(recursive=True))))


@contextmanager
def _server(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", f"{folder}/artifacts",
    ]  # fmt: skip
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        while process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.3)
        yield process, port
    finally:
        for one in (*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)):
            one.kill()
        process.wait()


@contextmanager
def _relay(port: int) -> Iterator[tuple[int, list[int]]]:
    """Passes connections on to a port, and counts the bytes to it and back."""
    counts = [0, 0]

    def pump(source: socket.socket, target: socket.socket, which: int) -> None:
        while data := source.recv(65536):
            counts[which] += len(data)
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)

    def serve(listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", port))
            for source, target, which in ((client, server, 0), (server, client, 1)):
                threading.Thread(target=pump, args=(source, target, which), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        yield listener.getsockname()[1], counts


def _home() -> OpenRun:
    return OpenRun("0" * 32, "1", "mlflow-artifacts:/1/run/artifacts")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--http", type=int, default=0, metavar="N", help="also send N evaluations to a server")
    asked = parser.parse_args()
    sizes()
    if asked.http:
        over_http(asked.http)


if __name__ == "__main__":
    main()
