"""What the commands that evaluate nothing cost, this build against another, by turns.

Run in a folder with a finished store and its experiment file, such as a copy of a clone after `make demo`; `phase4`
adds a run to it each time:
    python benchmarks/commands.py --build /path/to/other/.venv/bin/massact --build .venv/bin/massact

Prints seconds of the processor (children included), by the clock, and the largest memory, medians of the repeats.
"""

import argparse
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

COMMANDS = {
    "status": ("status",),
    "gaps": ("gaps",),
    "phase4": ("phase4",),
    "export": ("export", "--output"),
    "report": ("report", "--output"),
}


def measure(build: str, arguments: tuple[str, ...], experiment: str) -> tuple[float, float, float]:
    """Processor seconds, seconds by the clock, and MB of one call."""
    with tempfile.TemporaryDirectory(prefix="massact-commands-") as folder:
        place = (str(Path(folder) / "out"),) if arguments[-1] == "--output" else ()
        began = time.perf_counter()
        child = subprocess.Popen(
            [build, *arguments, *place, "--experiment", experiment],
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
    asked = parser.parse_args()
    print("| command | build | processor s | wall s | MB | of the first |\n|---|---|---:|---:|---:|---:|")
    for name, arguments in COMMANDS.items():
        taken: dict[str, list[tuple[float, float, float]]] = {build: [] for build in asked.build}
        for _ in range(asked.repeats):
            for build in asked.build:
                taken[build].append(measure(build, arguments, asked.experiment))
        first = statistics.median(one[0] for one in taken[asked.build[0]])
        for number, build in enumerate(asked.build, 1):
            cpu, wall, memory = (statistics.median(values) for values in zip(*taken[build], strict=True))
            print(f"| `{name}` | {number} | {cpu:.2f} | {wall:.2f} | {memory:.0f} | {cpu / first:.2f} |")


if __name__ == "__main__":
    main()
