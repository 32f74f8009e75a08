"""Executors: who runs the cells of a plan. `local` is this process, `ray` a cluster.

Each satisfies `massact.executors.base.Executor`; `tests/test_executors.py` runs every one of them through the same
contract.
"""

EXECUTORS = ("local", "ray")
