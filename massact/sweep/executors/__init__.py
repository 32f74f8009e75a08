"""Executors: who runs the cells of a plan. `local` is this process, `ray` a cluster.

Each satisfies `massact.sweep.executors.base.Executor`; `tests/test_executors.py` runs each through the same
contract.
"""

EXECUTORS = ("local", "ray")
