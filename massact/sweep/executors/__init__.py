"""Executors: who runs the cells of a plan. `local` is this process, `ray` a cluster.

Each satisfies `massact.sweep.executors.base.Executor`; `tests/sweep/test_executors.py` runs each through the same
contract. Other packages add executors by entry points (docs/extending.md).
"""

from typing import TYPE_CHECKING

from massact.plugins import load_plugin

if TYPE_CHECKING:
    from massact.sweep.executors.base import Executor, Opening

EXECUTORS = ("local", "ray")
"""massact's own."""


def open_executor(name: str, opening: "Opening") -> "Executor":
    """The executor of that name; nothing is started before cells are to be run.

    Raises:
        UsageError: what it needs is not installed.
        PluginError: there is none of that name, or the package that adds it is broken.
    """
    if name == "local":
        from massact.sweep.executors.local import LocalExecutor

        return LocalExecutor(opening.load, opening.spool)
    if name == "ray":
        from massact.sweep.executors.options import RayOptions
        from massact.sweep.executors.ray.executor import RayExecutor

        return RayExecutor(opening.ray or RayOptions(), opening.context, spool=opening.spool, say=opening.say)
    executor: Executor = load_plugin("executors", name)(opening)
    return executor
