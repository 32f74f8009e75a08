"""How long `massact report` takes on a store of many evaluations, stage by stage.

Run from the project's root:
    python benchmarks/report.py --evaluations 10000

Makes a store in a temporary folder (`make_store.py`, 60 places with 12 labels each), writes the report on it
(`report.yaml`) in a process of its own, and prints seconds by the clock and of the processor.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
EXPERIMENT = HERE / "report.yaml"
_CHILD = """
import json, sys, time
from pathlib import Path
import massact.workflow.report as phase, massact.report.page as page
import massact.report.section as section, massact.report.style as style

spent = {}

def timed(module, name):
    work = getattr(module, name)
    def measured(*args, **kwargs):
        began = time.process_time()
        try:
            return work(*args, **kwargs)
        finally:
            spent[name] = spent.get(name, 0.0) + time.process_time() - began
    setattr(module, name, measured)

for name in ("_collect", "build_report"):
    timed(phase, name)
for name in ("answers_in_short", "_html", "_markdown"):
    timed(page, name)
timed(section, "drawing")
timed(style, "save_svg")
from massact.cli.app import main
sys.argv = ["massact", "report", "--experiment", sys.argv[1], "--tracking-uri", sys.argv[2], "--output", sys.argv[3]]
try:
    main()
finally:
    Path(sys.argv[-1], "spent.json").write_text(json.dumps({**spent, "whole process": time.process_time()}))
"""
_STAGES = {
    "_collect": "reading the store, cosines, samples",
    "build_report": "building the report: words, tables and figures, of it:",
    "answers_in_short": "  the answers in short",
    "drawing": "  drawing the figures",
    "save_svg": "  saving them, layout included",
    "_html": "the page",
    "_markdown": "the Markdown",
    "whole process": "the whole process",
}


def main() -> None:
    """Measure once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluations", type=int, default=10_000)
    parser.add_argument("--store", type=Path, help="an SQLite file made by make_store.py; it gets a report's run")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = given.store or _made(Path(folder), given.evaluations)
        _measure(f"sqlite:///{store.resolve()}", Path(folder))


def _made(folder: Path, n: int) -> Path:
    store = folder / "store.db"
    arguments = ["--evaluations", str(n), "--tracking-uri", f"sqlite:///{store}", "--experiment", "made-to-measure"]
    subprocess.run([sys.executable, HERE / "make_store.py", *arguments], check=True, stdout=subprocess.DEVNULL)
    return store


def _measure(uri: str, folder: Path) -> None:
    load = os.getloadavg()[0]
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", _CHILD, EXPERIMENT, uri, folder], check=True, cwd=folder, stdout=subprocess.DEVNULL
    )
    clock = time.perf_counter() - began
    spent = json.loads((folder / "spent.json").read_text(encoding="utf-8"))
    print(f"by the clock: {clock:.1f} s (load before: {load:.1f} on {os.cpu_count()} cores)")
    print("seconds of the processor:")
    for name, what in _STAGES.items():
        print(f"{spent.get(name, 0.0):7.1f}  {what}")
    pages = sorted(folder.glob("made-to-measure/*.html"))
    print(f"{len(list(folder.glob('made-to-measure/figures/*.svg')))} figures; {pages[0].stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
