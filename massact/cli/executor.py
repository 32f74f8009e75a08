"""`--executor` and what belongs to it."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from massact.cli.options import Number, OrFile
from massact.errors import UsageError
from massact.executors import EXECUTORS
from massact.executors.options import RayOptions

F = TypeVar("F", bound=Callable[..., Any])
EXECUTOR = ("executor", "ray_address", "workers", "gpus_per_worker", "gpus_per_judge", "judges_per_node")
"""Names of `executor_options`."""
_DEFAULT = RayOptions()


def executor_options(command: F) -> F:
    """Options of every command that evaluates cells; none of them changes a result."""
    options = (
        click.option(
            "--executor", type=click.Choice(EXECUTORS), default="local", show_default=True,
            help="Who runs the cells: this process, or a cluster of Ray's (docs/scale.md).",
        ),
        click.option(
            "--ray-address", type=OrFile(click.STRING), metavar="HOST:PORT",
            help="Cluster of Ray's, or auto for the one on this machine; default: RAY_ADDRESS, else one of this "
            "machine alone.",
        ),
        click.option(
            "--workers", type=click.IntRange(0), default=0, show_default=True,
            help="Workers on the cluster; 0: as many as it has room for, more when it grows.",
        ),
        click.option(
            "--gpus-per-worker", type=OrFile(Number(0)), metavar="NUMBER",
            help="GPUs of each worker, or a part of one; default: 1 where the cluster has GPUs, else none.",
        ),
        click.option(
            "--gpus-per-judge", type=Number(0), default=0, show_default=True, metavar="NUMBER",
            help="GPUs of each judge that is a local model; 0: it computes on processors.",
        ),
        click.option(
            "--judges-per-node", type=click.IntRange(1), default=_DEFAULT.judges_per_node, show_default=True,
            help="Judges beside the workers of a machine of the cluster.",
        ),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def ray_options(given: dict[str, Any]) -> RayOptions | None:
    """What the options come to; `None`: cells are run in this process.

    Raises:
        UsageError: an option of Ray's is given without it, or Ray is not installed.
    """
    executor = given.get("executor", "local")
    options = RayOptions(
        address=given.get("ray_address"),
        workers=given.get("workers", 0),
        gpus_per_worker=given.get("gpus_per_worker"),
        gpus_per_judge=given.get("gpus_per_judge", 0),
        judges_per_node=given.get("judges_per_node", _DEFAULT.judges_per_node),
    )
    if executor == "local":
        for name in EXECUTOR[1:]:
            field = name.removeprefix("ray_")
            if getattr(options, field) != getattr(_DEFAULT, field):
                raise UsageError(f"--{name.replace('_', '-')} says how Ray runs cells: add --executor ray")
        return None
    from massact.executors.ray.cluster import require_ray

    require_ray(options)
    return options
