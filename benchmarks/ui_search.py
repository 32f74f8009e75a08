"""How long the searches take that MLflow's UI makes, by MLflow's own store; before and after `massact serve --tune`.

Run from the project's root, on a store that benchmarks/make_store.py made:

    python benchmarks/ui_search.py --tracking-uri sqlite:////tmp/bench.db
    MLFLOW_BACKEND_STORE_URI=sqlite:////tmp/bench.db massact serve --tune
    python benchmarks/ui_search.py --tracking-uri sqlite:////tmp/bench.db

Each search runs in a process of its own, --repeat times; the least is given, or that it took longer than --limit.
"""

import argparse
import subprocess
import sys
import time

ABOVE = "tags.`massact.kind` = 'evaluation' and metrics.coherence_mean >= 68"
SEARCHES = {
    "the view `evaluations`: at or above the floor, by delta": (ABOVE, "metrics.delta DESC"),
    "by delta, unfiltered": ("", "metrics.delta DESC"),
    "newest first": ("", "attributes.start_time DESC"),
    "a label": ("params.label = 'probe'", "attributes.start_time DESC"),
    "a label at or above the floor, by delta": (
        "params.label = 'probe' and metrics.coherence_mean >= 68",
        "metrics.delta DESC",
    ),
    "phases": ("tags.`massact.kind` = 'phase'", "attributes.start_time DESC"),
    "failed": ("attributes.status = 'FAILED'", "attributes.start_time DESC"),
}
PAGE = 100


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tracking-uri", required=True)
    parser.add_argument("--experiment", default="made-to-measure")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--limit", type=float, default=60, help="seconds for one search, all repeats")
    parser.add_argument("--search", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.search:
        print(least(args.tracking_uri, args.experiment, args.search, args.repeat))
        return
    print("| search, its first 100 runs | seconds |\n|---|---:|")
    for name in SEARCHES:
        command = [sys.executable, __file__, "--tracking-uri", args.tracking_uri, "--search", name]
        command += ["--experiment", args.experiment, "--repeat", str(args.repeat)]
        try:
            found = f"{float(subprocess.check_output(command, timeout=args.limit)):.2f}"
        except subprocess.TimeoutExpired:
            found = f"over {args.limit:g}"
        print(f"| {name} | {found} |", flush=True)


def least(uri: str, experiment: str, name: str, repeat: int) -> float:
    """Seconds of the quickest of a few."""
    import logging

    from mlflow.entities import ViewType
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    logging.disable(logging.WARNING)
    store = SqlAlchemyStore(uri, "mlflow-artifacts:/")  # type: ignore[no-untyped-call]
    found = store.get_experiment_by_name(experiment)  # type: ignore[no-untyped-call]
    assert found is not None, f"no experiment {experiment!r}"
    text, order = SEARCHES[name]
    seconds = []
    for _ in range(repeat):
        began = time.perf_counter()
        store.search_runs([found.experiment_id], text, ViewType.ACTIVE_ONLY, PAGE, [order], None)  # type: ignore[no-untyped-call]
        seconds.append(time.perf_counter() - began)
    return min(seconds)


if __name__ == "__main__":
    main()
