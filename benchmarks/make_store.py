"""Make a run store of any size with the real schema, to measure questions and the UI on.

Run from the project's root:
    python benchmarks/make_store.py --evaluations 100000 --tracking-uri sqlite:////tmp/bench.db

MLflow makes the database, massact's bulk writer fills it: one experiment, `main` and its phases, baselines,
and runs of evaluations over 4 models x 5 traits x 3 positions x 12 labels, one of the models under two judges.
About 0.5 % of them failed, 0.5 % were evaluated again later and 0.2 % are unscored. The figures are invented
(`invented_runs.py`). There are no artifacts.
"""

import argparse
import gc
import random
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import Any

import sqlalchemy as sa
from invented_runs import PHASES, Maker, share

from massact.domain import DEFAULT_COHERENCE_FLOOR
from massact.errors import MassactError
from massact.store.databases import database_url
from massact.store.schema import Kind, Tag
from massact.store.write.client import parent_tags, run_tags
from massact.store.write.run_writer import FinishedRun, RunWriter, open_writer
from massact.store.write.tracker import Tracker, view_tags

RUNS_AT_ONCE = 10_000
SECONDS_PER_RUN = 6


def make_store(tracking_uri: str, experiment: str, n: int, seed: int) -> tuple[dict[str, int], float]:
    """Fill a store. Returns how many runs of what, and the seconds that filling took."""
    from mlflow import MlflowClient

    sa.event.listen(sa.Engine, "connect", _hurry)
    tracker = Tracker(tracking_uri, experiment, floor=DEFAULT_COHERENCE_FLOOR)
    client = MlflowClient(tracking_uri=tracking_uri)
    if client.search_runs([tracker.experiment_id], max_results=1):
        raise SystemExit(f"the experiment {experiment!r} has runs already: name another, or another store")
    for key, value in view_tags(DEFAULT_COHERENCE_FLOOR).items():
        client.set_experiment_tag(tracker.experiment_id, key, value)
    now = int(time.time() * 1000) - n * SECONDS_PER_RUN * 1000
    maker = Maker(experiment, random.Random(seed), now)
    gc.disable()  # nothing here is cyclic; walking millions of tuples takes time
    began = time.perf_counter()
    writer = open_writer(tracking_uri, tracker.experiment_id)
    with _indexes_last(tracking_uri):
        _fill(writer, maker, n)
    writer.close()
    return dict(maker.made), time.perf_counter() - began


def _fill(writer: RunWriter, maker: Maker, n: int) -> None:
    until = maker.now + n * SECONDS_PER_RUN * 1000
    (main_id,) = writer.write([_phase(maker, "main", until, None)])
    budget = share(n)
    for name, labels in PHASES.items():
        (phase_id,) = writer.write([_phase(maker, name, until, main_id)])
        if not maker.baselines:
            writer.write(list(maker.baseline_runs(phase_id)))
        _write_behind(writer, maker.evaluation_runs(phase_id, labels, budget))


def _write_behind(writer: RunWriter, runs: Iterator[FinishedRun]) -> None:
    """Make the next runs while the database takes the last ones."""
    with ThreadPoolExecutor(1) as pool:
        written: Future[list[str]] | None = None
        while batch := list(islice(runs, RUNS_AT_ONCE)):
            if written:
                written.result()
            written = pool.submit(writer.write, batch)
        if written:
            written.result()


def _phase(maker: Maker, name: str, finished_at: int, parent_id: str | None) -> FinishedRun:
    tags = run_tags(Kind.PHASE, maker.experiment, name) | {Tag.PHASE.value: name}
    parent = parent_tags(parent_id) if parent_id else {}
    maker.made["phases"] += 1
    return FinishedRun(name=name, tags=tags | parent, started_at=maker.now, finished_at=finished_at)


@contextmanager
def _indexes_last(tracking_uri: str) -> Iterator[None]:
    """Build indexes when the tables are full: in PostgreSQL all of them, SQLite cannot drop a primary key's."""
    engine = sa.create_engine(database_url(tracking_uri))
    names = ("params", "tags", "metrics", "latest_metrics")
    tables = [sa.Table(name, sa.MetaData(), autoload_with=engine, resolve_fks=False) for name in names]
    indexes = [index for table in tables for index in table.indexes]
    keys = [table.primary_key for table in tables] if engine.name == "postgresql" else []
    with engine.begin() as connection:
        for index in indexes:
            index.drop(connection)
        for key in keys:
            connection.execute(sa.schema.DropConstraint(key))
    yield
    with engine.begin() as connection:
        for key in keys:
            connection.execute(sa.schema.AddConstraint(key))
        for index in indexes:
            index.create(connection)
        if keys:
            connection.execute(sa.text("ANALYZE"))  # as its autovacuum would do soon
    engine.dispose()


def _hurry(connection: Any, _record: object) -> None:
    """Settings that lose the database if the power fails: for a file that can be made again."""
    if "sqlite" in type(connection).__module__:
        for setting in ("cache_size = -4000000", "temp_store = MEMORY", "synchronous = OFF", "journal_mode = OFF"):
            connection.execute(f"PRAGMA {setting}")
    else:
        connection.execute("SET synchronous_commit = off")
        connection.execute("SET session_replication_role = replica")  # no look-up of the run for each row
        connection.execute("SET maintenance_work_mem = '1GB'")
        connection.commit()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluations", type=int, default=100_000, help="runs of evaluations, all together")
    parser.add_argument("--tracking-uri", required=True, help="sqlite:////PATH or postgresql://USER@HOST/DATABASE")
    parser.add_argument("--experiment", default="made-to-measure", help="name of the experiment")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    try:
        made, seconds = make_store(given.tracking_uri, given.experiment, given.evaluations, given.seed)
    except MassactError as error:
        raise SystemExit(str(error)) from error
    print(f"experiment {given.experiment!r} in {given.tracking_uri}")
    print(", ".join(f"{number} {what}" for what, number in sorted(made.items())))
    print(f"filled in {seconds:.1f} s, {sum(made.values()) / seconds:.0f} runs a second")


if __name__ == "__main__":
    main()
