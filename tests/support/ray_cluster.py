"""A cluster of Ray's for a test module, and executors on it."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from massact.config import JudgeConfig, LoadConfig
from massact.evaluation import Part
from massact.judges import Subject
from massact.judges.caching import CachingJudge
from massact.sweep.executors import RayOptions
from massact.sweep.executors.base import JudgeUse, ModelUse, Work
from tests.support.ray_stand_ins import IDENTITY, PART, Engine, Judge

# on loopback, for seconds; and no token is left in the home of whoever runs the tests
os.environ["RAY_AUTH_MODE"] = "disabled"
USE = ModelUse("tiny", None, None, LoadConfig())
ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def cluster(n_cpus: int = 3) -> Iterator[Any]:
    """This machine as a cluster with so many processors, whatever it has."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(ROOT)  # where its processes find the stand-ins
    import ray

    ray.init(
        address="local", num_cpus=n_cpus, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
        object_store_memory=200_000_000,
    )  # fmt: skip
    try:
        yield ray
    finally:
        ray.shutdown()
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def executor(
    spool: Callable[[], Any],
    *,
    say: Callable[[str], None] = lambda _line: None,
    uri: str = "sqlite:///none.db",
    folder: Path = Path("spool"),
    engine: Any = Engine,
    workers: int = 2,
    options: RayOptions | None = None,
) -> Any:
    """An executor with stand-ins on the cluster that is there."""
    from massact.sweep.executors import CommandContext
    from massact.sweep.executors.ray.executor import RayExecutor

    context = CommandContext(tracking_uri=uri, experiment="e", spool=folder.absolute(), key_variable="OPENAI_API_KEY")
    options = options or RayOptions(workers=workers, gpus_per_worker=0)
    return RayExecutor(options, context, spool=spool, say=say, engine=engine, opener=Judge)


def work(made: Any, *, use: ModelUse = USE, part: Part = PART, batch_rows: int | None = None, trait: str = "d") -> Work:
    """What an executor of ours is asked to do."""
    judge = JudgeUse(JudgeConfig("scripted"), Subject(trait), (), None, IDENTITY, None)
    return Work(use, CachingJudge(made.judge(judge)), part, batch_rows)
