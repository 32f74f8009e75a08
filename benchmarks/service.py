"""What a tracking server with users takes: writers and readers at once, over HTTP, on PostgreSQL.

Run from the project's root, which needs the packages of the tests (PostgreSQL comes with one of them):
    python benchmarks/service.py --evaluations 100000 --seconds 30

Starts a PostgreSQL of its own, fills it with `make_store.py`, starts `massact serve --auth` over it and makes users.
Then 1, 4 and 16 writers, each a process of its own, log evaluations one after the other through the spool, as a
sweep does: put, and wait until the server has it. After that 4 writers go on while one reader asks for the first 100
of all runs by a metric, as the UI's table does, and another asks the query API for `best`, without intervals. In the
end every key has to be there once.
Nothing is written outside a folder of its own in the system's temporary one.
"""

import argparse
import json
import os
import secrets
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

import requests

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from massact.store.credentials import log_in  # noqa: E402

HELD, WRITTEN = "made-to-measure", "written"
ADMIN, WRITER = ("admin", secrets.token_urlsafe(24)), ("ada", secrets.token_urlsafe(24))
_COUNTED: Counter[str] = Counter()
LOGIN = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluations", type=int, default=100_000, help="runs that are there before")
    parser.add_argument("--seconds", type=float, default=30, help="how long each part takes")
    parser.add_argument("--writers", default="1,4,16", help="how many at once, in turn")
    parser.add_argument("--as", dest="part", choices=sorted(PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        PARTS[given.part](given.url, given.seconds)
        return
    from tests.support.postgres_server import postgres_server

    with postgres_server() as postgres, tempfile.TemporaryDirectory(prefix="massact-service-") as folder:
        uri = postgres.fresh()
        _PIDS["PostgreSQL"] = postgres.pid
        print(f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", flush=True)
        _step(
            "make_store.py",
            ["benchmarks/make_store.py", "--evaluations", str(given.evaluations), "--tracking-uri", uri],
        )
        with _server(uri, Path(folder)) as url:
            _measure(url, given)
            print(f"load after: {os.getloadavg()[0]:.1f}")
        _check(uri)


def _measure(url: str, given: argparse.Namespace) -> None:
    from massact.service.users import Role, Users

    os.environ.update(zip(LOGIN, ADMIN, strict=True))
    with closing(Users(url)) as known:
        known.add(*WRITER, Role.WRITER)
    os.environ.update(zip(LOGIN, WRITER, strict=True))
    for name in ("search", "best"):
        _show(f"{name} alone", _together(url, given.seconds, {name: 1}))
    for n in map(int, given.writers.split(",")):
        _show(f"{n} writers", _together(url, given.seconds, {"write": n}))
    _show("4 writers, search, best", _together(url, 2 * given.seconds, {"write": 4, "search": 1, "best": 1}))


def _together(url: str, seconds: float, parts: Mapping[str, int]) -> dict[str, list[float]]:
    """Seconds that each answer took, by part; processes start when all are ready."""
    command = [sys.executable, __file__, "--url", url, "--seconds", str(seconds)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    processes = [
        (
            part,
            subprocess.Popen([*command, "--as", part], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment),
        )
        for part, n in parts.items()
        for _ in range(n)
    ]
    for _, process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
    began = _worked()
    for _, process in processes:
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.close()
    taken: dict[str, list[float]] = {}
    for part, process in processes:
        assert process.stdout is not None
        answers = json.loads(process.stdout.read())
        taken.setdefault(part, []).extend(answers)
        _COUNTED[part] += len(answers) + 1  # one to warm up
        if process.wait():
            raise SystemExit(f"{part} failed")
    n, after = sum(map(len, taken.values())), _worked()
    shares = ", ".join(f"{name} {1000 * (after[name] - began[name]) / n:.0f} ms" for name in began)
    print(f"processor time an answer: {shares}")
    return taken


def _worked() -> dict[str, float]:
    """Seconds of processor time that the server and the database have taken so far."""
    import psutil

    worked = {}
    for name, pid in _PIDS.items():
        main_process = psutil.Process(pid)
        times = [one.cpu_times() for one in (main_process, *main_process.children(recursive=True))]
        worked[name] = sum(time.user + time.system for time in times)
    return worked


_PIDS: dict[str, int] = {}


def _timed(seconds: float, act: Callable[[], object]) -> None:
    """Do something again and again, and print how long each time took."""
    act()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    taken: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.perf_counter()
        act()
        taken.append(time.perf_counter() - began)
    sys.stdout.write(json.dumps(taken))


def _write(url: str, seconds: float) -> None:
    from log_evaluation import PLACE, evaluation

    from massact.store.spool import Spool
    from massact.store.write.evaluations import Baseline, RunMaker
    from massact.store.write.tracker import Tracker

    tracker = Tracker(url, WRITTEN, floor=68.0)
    with tempfile.TemporaryDirectory() as folder, tracker.phase("benchmark", params={}) as parent:
        spool = Spool(Path(folder), url, WRITTEN)

        def log() -> None:
            one = evaluation(0)  # its vector is drawn anew, so its key is new
            run = RunMaker(place=PLACE, parent=parent, baseline=Baseline("b", 1.0))(one)
            spool.put(run, experiment_id=tracker.experiment_id)
            if spool.flush(300):
                raise SystemExit("an evaluation was not taken within 300 s")

        _timed(seconds, log)
        spool.close()


def _search(url: str, seconds: float) -> None:
    session = requests.Session()
    log_in(session)
    found = session.get(f"{url}/api/2.0/mlflow/experiments/get-by-name", params={"experiment_name": HELD}, timeout=300)
    body = {
        "experiment_ids": [found.json()["experiment"]["experiment_id"]],
        "filter": "",
        "run_view_type": "ACTIVE_ONLY",
        "max_results": 100,
        "order_by": ["metrics.`delta` DESC"],
    }

    def ask() -> None:
        answer = session.post(f"{url}/ajax-api/2.0/mlflow/runs/search", json=body, timeout=300)
        assert len(answer.json()["runs"]) == 100, answer.text

    _timed(seconds, ask)


def _best(url: str, seconds: float) -> None:
    session = requests.Session()
    log_in(session)

    def ask() -> None:
        query = {"experiment": HELD, "intervals": "false"}
        answer = session.get(f"{url}/massact/v1/best", params=query, timeout=300)
        assert answer.ok, answer.text
        assert answer.json()["rows"]

    _timed(seconds, ask)


PARTS: dict[str, Callable[[str, float], None]] = {"write": _write, "search": _search, "best": _best}


def _show(title: str, taken: Mapping[str, list[float]]) -> None:
    for part, seconds in taken.items():
        quantiles = statistics.quantiles(seconds, n=100) if len(seconds) > 1 else seconds * 99
        p50, p95, p99 = (1000 * quantiles[at - 1] for at in (50, 95, 99))
        rate = len(seconds) / (sum(seconds) / _n(title, part)) if seconds else 0.0
        print(
            f"{title:<24} {part:<7} {len(seconds):>6} answers  {rate:>6.1f}/s  p50 {p50:>6.0f} ms  p95 {p95:>6.0f} ms  "
            f"p99 {p99:>6.0f} ms  longest {1000 * max(seconds):>6.0f} ms",
            flush=True,
        )


def _n(title: str, part: str) -> int:
    """How many did it at once."""
    return int(title.split(maxsplit=1)[0]) if part == "write" else 1


def _check(uri: str) -> None:
    """Every evaluation that a writer was told of is there, finished, once, with its files."""
    import psycopg

    query = (
        "SELECT count(*), count(DISTINCT k.value) FROM runs r JOIN experiments e USING (experiment_id) "
        "JOIN tags k ON k.run_uuid = r.run_uuid AND k.key = 'massact.key' "
        "JOIN tags t ON t.run_uuid = r.run_uuid AND t.key = 'massact.kind' AND t.value = 'evaluation' "
        "WHERE e.name = %s AND r.status = 'FINISHED'"
    )
    with psycopg.connect(uri) as connection:
        row = connection.execute(query, (WRITTEN,)).fetchone()
    assert row is not None
    print(f"{row[0]} evaluations in the database, {row[1]} different keys; {_COUNTED['write']} were logged")
    if not row[0] == row[1] == _COUNTED["write"]:
        raise SystemExit("evaluations were lost or doubled")


def _step(name: str, arguments: list[str]) -> None:
    began = time.monotonic()
    subprocess.run([sys.executable, *arguments], check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)


@contextmanager
def _server(uri: str, folder: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "massact", "serve", "--auth", "--port", str(port)]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "MLFLOW_BACKEND_STORE_URI": uri,
        "MLFLOW_AUTH_ADMIN_PASSWORD": ADMIN[1],
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    _PIDS["massact serve"] = process.pid
    try:
        deadline = time.monotonic() + 180
        while True:
            try:
                if requests.get(f"{url}/health", timeout=5).ok:
                    break
            except requests.RequestException:
                time.sleep(0.2)
            if time.monotonic() > deadline or process.poll() is not None:
                raise SystemExit(f"the server did not start:\n{(folder / 'log').read_text()[-3000:]}")
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


if __name__ == "__main__":
    main()
