"""The explorer's page on a large store, in a headless Chromium; and MLflow's own runs table and compare page on it.

Run from the project's root, on a store that benchmarks/make_store.py made:

    python benchmarks/explorer.py --tracking-uri sqlite:////tmp/bench.db

`massact serve` is started over it and asked once before. Measured are, from the load event on and from the navigation
on, the time until the figures are drawn; the steps of the floor's slider, each until it is drawn; what was transferred;
and the time until MLflow shows the first rows of its table of runs, and its comparison of ten of them.
"""

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from query import tracking_server, versions

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support.browser import Page, chromium

_SLIDE = """(async () => {
  const slider = document.getElementById("floor"), steps = [];
  for (let floor = 40; floor < 90; floor++) {
    const began = performance.now();
    slider.value = floor;
    slider.dispatchEvent(new Event("input"));
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    steps.push(performance.now() - began);
  }
  return steps;
})()"""
_DRAWN = "performance.getEntriesByName('massact.drawn')[0]?.startTime"
_BYTES = """performance.getEntriesByType('resource').concat(performance.getEntriesByType('navigation'))
  .reduce((sum, one) => sum + one.transferSize, 0)"""
_LOADED = "performance.getEntriesByType('navigation')[0].loadEventEnd"


def main() -> None:
    """Measure, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tracking-uri", required=True)
    parser.add_argument("--experiment", default="made-to-measure")
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions()}")
    print(f"load when it began: {os.getloadavg()[0]:.1f}\n")
    with (
        tracking_server(args.tracking_uri, "massact", ("--workers", "1")) as address,
        tempfile.TemporaryDirectory() as profile,
        chromium(Path(profile)) as page,
    ):
        page.show(1400, 1000)
        url = f"{address}/massact/#experiment={args.experiment}"
        first, *found = [measure(page, url) for _ in range(1 + args.repeat)]
        for one in found:
            one["transferred, MB"] = first["transferred, MB"]  # by a browser that has nothing yet
        print("| what | least | median |\n|---|---:|---:|")
        for name in found[0]:
            figures = [one[name] for one in found]
            print(f"| {name} | {min(figures):.2f} | {statistics.median(figures):.2f} |")
        for name, path, is_there in mlflow_pages(page):
            began = time.perf_counter()
            page.open(f"{address}{path}")
            page.wait_for(is_there, 600)
            print(f"| {name}, s | {time.perf_counter() - began:.2f} | |")


def measure(page: Page, url: str) -> dict[str, float]:
    """One visit."""
    page.open(url)
    page.wait_for(f"{_DRAWN} > 0", 600)
    drawn, loaded = page.run(_DRAWN), page.run(_LOADED)
    steps = page.run(_SLIDE)
    return {
        "first figures after the load event, s": (drawn - loaded) / 1000,
        "first figures after the navigation, s": drawn / 1000,
        "slider step, median, ms": statistics.median(steps),
        "slider step, slowest of 50, ms": max(steps),
        "transferred, MB": page.run(_BYTES) / 1e6,
    }


def mlflow_pages(page: Page) -> list[tuple[str, str, str]]:
    """MLflow's own pages of the same store: what each is, its address, and what is true once it is there."""
    search = "fetch('/api/2.0/mlflow/runs/search', {method: 'POST', headers: {'content-type': 'application/json'}, "
    body = "body: JSON.stringify({experiment_ids: ['1'], max_results: 10})}).then((one) => one.json())"
    runs: list[dict[str, Any]] = page.run(search + body)["runs"]
    ids = ",".join(f'"{run["info"]["run_id"]}"' for run in runs)
    home = runs[0]["info"]["experiment_id"]
    rows, compared = (
        "document.querySelectorAll('[role=row]').length > 10",
        "document.body.innerText.includes('Comparing')",
    )
    return [
        ("MLflow's table of runs", f"/#/experiments/{home}/runs", rows),
        ("MLflow's comparison of 10 runs", f'/#/compare-runs?runs=[{ids}]&experiments=["{home}"]', compared),
    ]


if __name__ == "__main__":
    main()
