"""What the commands that evaluate nothing cost, this build against another, by turns.

Run in a folder with a finished store and its experiment file, such as a copy of a clone after `make demo`, to which
`phase4` and `report` add runs:
    python benchmarks/commands.py --build /path/to/other/.venv/bin/massact --build .venv/bin/massact

`phase4 (new)` and `report (new)` are made to forget what they wrote before. Prints seconds of the processor (children
included), by the clock, and the largest memory, medians of the repeats.
"""

import argparse
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

COMMANDS = {
    "--help": ("--help",),
    "phase3 --help": ("phase3", "--help"),
    "status": ("status",),
    "gaps": ("gaps",),
    "phase4 (new)": ("phase4",),
    "phase4": ("phase4",),
    "export": ("export", "--output"),
    "report (new)": ("report", "--output"),
    "report": ("report", "--output"),
}


def forget() -> None:
    """Have `phase4` and `report` not know what they wrote."""
    shutil.rmtree(".massact/figures", ignore_errors=True)
    if Path("mlflow.db").exists():
        with closing(sqlite3.connect("mlflow.db", timeout=60)) as database, database:
            phases = "SELECT run_uuid FROM tags WHERE key = 'massact.phase'"
            database.execute(f"DELETE FROM tags WHERE key = 'massact.content' AND run_uuid IN ({phases})")


def measure(build: str, arguments: tuple[str, ...], experiment: str) -> tuple[float, float, float]:
    """Processor seconds, seconds by the clock, and MB of one call."""
    with tempfile.TemporaryDirectory(prefix="massact-commands-") as folder:
        place = (str(Path(folder) / "out"),) if arguments[-1] == "--output" else ()
        began = time.perf_counter()
        child = subprocess.Popen(
            [build, *arguments, *place, *(() if arguments[-1] == "--help" else ("--experiment", experiment))],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _, code, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(code)
    if child.returncode not in (0, 1):
        raise SystemExit(f"{build} {' '.join(arguments)} failed with exit code {child.returncode}")
    return usage.ru_utime + usage.ru_stime, time.perf_counter() - began, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", action="append", required=True, help="a massact command; the first is the reference")
    parser.add_argument("--experiment", default="experiments/toy.yaml")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    asked = parser.parse_args()
    print("| command | build | processor s | wall s | MB | of the first |\n|---|---|---:|---:|---:|---:|")
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", file=sys.stderr)
    for name in asked.only:
        taken: dict[str, list[tuple[float, float, float]]] = {build: [] for build in asked.build}
        for _ in range(asked.repeats):
            for build in asked.build:
                if name.endswith("(new)"):
                    forget()
                taken[build].append(measure(build, COMMANDS[name], asked.experiment))
        first = statistics.median(one[0] for one in taken[asked.build[0]])
        for number, build in enumerate(asked.build, 1):
            cpu, wall, memory = (statistics.median(values) for values in zip(*taken[build], strict=True))
            print(f"| `{name}` | {number} | {cpu:.2f} | {wall:.2f} | {memory:.0f} | {cpu / first:.2f} |")


if __name__ == "__main__":
    main()
