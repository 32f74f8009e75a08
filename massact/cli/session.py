"""The session of a command and the options that decide how it works: bars and lines on stderr, results on stdout."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from massact.cli.options import Number, OrFile, stacked
from massact.config import load_experiment
from massact.config.judges import judge_like
from massact.config.parse import with_validation_split
from massact.domain import DEFAULT_ALIKE, DEFAULT_BUDGET, DEFAULT_SPOOL, floor_warning
from massact.errors import UsageError
from massact.plugins import plugin_names
from massact.sweep.executors import EXECUTORS, RayOptions
from massact.toy import is_toy

if TYPE_CHECKING:
    from massact.sweep.context import Session


EXECUTOR = ("executor", "ray_address", "workers", "gpus_per_worker", "gpus_per_judge", "judges_per_node")
"""Names of `executor_options`."""
_DEFAULT = RayOptions()


class _Executor(click.Choice):  # type: ignore[type-arg]  # generic only in newer releases of click
    """massact's executors, and those that other packages add."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value not in EXECUTORS and value in plugin_names("executors"):
            return value
        return super().convert(value, param, ctx)


executor_options = stacked(
    click.option(
        "--executor", type=_Executor(EXECUTORS), default="local",
        help="Who runs the cells: this process, or a cluster of Ray's (docs/scale.md).",
    ),
    click.option(
        "--ray-address", type=OrFile(click.STRING), metavar="HOST:PORT",
        help="Cluster of Ray's, or auto for the one on this machine; default: RAY_ADDRESS, else one of this "
        "machine alone.",
    ),
    click.option(
        "--workers", type=click.IntRange(0), default=0,
        help="Workers on the cluster; 0: as many as it has room for, more when it grows.",
    ),
    click.option(
        "--gpus-per-worker", type=OrFile(Number(0)), metavar="NUMBER",
        help="GPUs of each worker, or a part of one; default: 1 where the cluster has GPUs, else none.",
    ),
    click.option(
        "--gpus-per-judge", type=Number(0), default=0, metavar="NUMBER",
        help="GPUs of each judge that is a local model; 0: it computes on processors.",
    ),
    click.option(
        "--judges-per-node", type=click.IntRange(1), default=_DEFAULT.judges_per_node,
        help="Judges beside the workers of a machine of the cluster.",
    ),
)  # fmt: skip
"""Options of every command that evaluates cells; none of them changes a result."""


def chosen_executor(given: dict[str, Any]) -> dict[str, Any]:
    """The fields of `massact.sweep.executors.Workload` that the options come to; UsageError: Ray's without it."""
    executor = given.get("executor", "local")
    fields = {name: name.removeprefix("ray_") for name in EXECUTOR[1:]}
    options = RayOptions(**{field: given[name] for name, field in fields.items() if name in given})
    if executor == "ray":
        from massact.sweep.executors.ray.cluster import require_ray

        require_ray(options)
        return {"ray": options}
    for name, field in fields.items():
        if getattr(options, field) != getattr(_DEFAULT, field):
            raise UsageError(f"--{name.replace('_', '-')} says how Ray runs cells: add --executor ray")
    return {"executor": executor}


QUIET_SECONDS = 2.0  # work shorter than this shows no bar
LOG_SECONDS = 15.0  # how often a bar writes a line where stderr is no terminal
WORKLOAD = ("save_responses", "batch_rows", "alike", "force", "spool", "store_timeout", *EXECUTOR)
"""Names of `workload_options`, as `open_session` takes them."""
OFF = "off"  # what switches `--alike` off
_PARTING_SECONDS = 1.0  # how long an interrupted judge may still take


def _alike(value: str) -> float | None:
    """A cosine above which vectors are alike; `None` where it is off."""
    if value.strip().lower() == OFF:
        return None
    try:
        cosine = float(value)
    except ValueError:
        cosine = 0.0
    if not 0 < cosine <= 1:
        raise click.BadParameter(
            f"{value!r} is no cosine: give one above 0 and at most 1, such as {DEFAULT_ALIKE}, or {OFF!r} to "
            "evaluate every label itself"
        )
    return cosine


spool_option = click.option(
    "--spool",
    type=click.Path(file_okay=False, path_type=Path),
    default=DEFAULT_SPOOL,
    envvar="MASSACT_SPOOL",
    metavar="DIR",
    help="Folder where finished evaluations are kept until the run store has them.",
)
store_timeout_option = click.option(
    "--store-timeout",
    type=Number(0),
    default=3600,
    metavar="SECONDS",
    help="How long to wait for a run store that went down during the work.",
)
force_option = click.option(
    "--force", is_flag=True, help="Go on where the judge leaves most canaries or the baseline unscored."
)
evaluating_options = stacked(
    click.option(
        "--save-responses",
        type=click.Choice(["all", "best", "none"]),
        default="all",
        help="Whose responses are kept: all, the best of each group so far, or none.",
    ),
    click.option(
        "--batch-rows",
        type=click.IntRange(0),
        default=0,
        help="Responses generated side by side at most; 0: as many as are of use and fit in memory.",
    ),
    force_option,
    spool_option,
    store_timeout_option,
    executor_options,
)
"""Options of every command that evaluates anything; none of them changes a result."""
workload_options = stacked(
    evaluating_options,
    click.option(
        "--alike",
        type=_alike,
        default=str(DEFAULT_ALIKE),
        metavar="COSINE",
        help="Labels whose vectors have a greater cosine at a layer are evaluated once there, and the others take over "
        "that result, marked as the same; 1: only equal vectors; off: every label is evaluated itself.",
    ),
)
"""Options of every command that evaluates cells of labels; none of them but `--alike` changes a result."""
verbose_option = click.option(
    "--verbose", "-v", is_flag=True, help="Show the tables too, and tell every step of the work."
)
dry_run_option = click.option(
    "--dry-run",
    is_flag=True,
    help="Only show what there is to do, how long it may take and what the judge is asked; writes nothing.",
)
rounds_option = click.option(
    "--max-rounds",
    type=click.IntRange(0),
    default=DEFAULT_BUDGET,
    help="Rounds of the search that fills the gaps which the grid leaves: coefficients tried at a layer; 0: none.",
)


def open_session(
    experiment_file: str,
    tracking_uri: str,
    *,
    judge: str | None = None,
    val_split: float | None = None,
    verbose: bool = True,
    **workload: Any,
) -> "Session":
    """A session that shows its work to a person; `judge` and `val_split` stand in place of the file's. Commands import
    what loads torch after this, since the number of its threads is settled here."""
    executor = chosen_executor({name: workload.pop(name) for name in EXECUTOR if name in workload})
    experiment = with_validation_split(load_experiment(experiment_file), val_split)
    warning = floor_warning(experiment.coherence_floor)
    if warning:
        click.echo(f"warning: {experiment.file}: {warning}", err=True)
    if judge is not None:
        experiment = replace(experiment, judge=judge_like(experiment.judge, judge))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if all(is_toy(variant.reference) for model in experiment.models for variant in (model.base, model.instruct)):
        # matrices so small that a second thread costs more than it does; read when torch and numpy load
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    from massact.sweep.context import Session, Workload

    return Session(
        experiment,
        tracking_uri,
        workload=Workload(**workload, **executor),
        progress=show_bar,
        say=lambda line: click.echo(line, err=True),
        show=lambda text: click.echo(text + "\n"),
        verbose=verbose,
    )


@contextmanager
def working(session: "Session") -> Iterator[None]:
    """Until the command's work is done: however it ends, what was evaluated is sent or kept in the spool. Raises
    click.exceptions.Exit: it was interrupted (128 and the signal's number), or the store refused something."""
    with session.interruption.watched():
        try:
            yield
            left = session.stores.close()
        except KeyboardInterrupt as error:
            _stop(session, str(error))
        except BaseException as error:
            session.stores.close_after(error)
            raise
    if left:
        raise click.exceptions.Exit(1)


def _stop(session: "Session", text: str) -> NoReturn:
    from massact.sweep.executors.base import THREAD

    if session.interruption.count > 1:
        session.stores.abandon()
    else:
        try:
            session.stores.close()
        except KeyboardInterrupt:
            session.stores.abandon()
    # Ray raises an interruption of its own, without our text
    click.echo(text or "interrupted: what was finished is kept; run the same command again to go on", err=True)
    code = 128 + session.interruption.signal
    for thread in threading.enumerate():
        if thread.name.startswith(THREAD):
            thread.join(_PARTING_SECONDS)
            if thread.is_alive():
                # in the middle of a batch or of a request: the interpreter must not take itself apart under it
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
    raise click.exceptions.Exit(code)


@contextmanager
def show_bar(what: str, total: int) -> Iterator[Callable[[int], Any]]:
    """On stderr, for what takes over two seconds: what is being done and how much is left. A bar on a terminal;
    elsewhere, such as in a log of CI, a line now and then."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(total=total, desc=what, file=sys.stderr, delay=QUIET_SECONDS, leave=False) as bar:
            yield bar.update
        return
    began = said = time.monotonic()
    done = 0

    def advance(n: int) -> None:
        nonlocal said, done
        done, now = done + n, time.monotonic()
        if now - said < LOG_SECONDS or done >= total:
            return
        said = now
        # work comes in batches: what a first small share took says little about the rest
        left = "" if done < total / 10 else f", about {(now - began) / done * (total - done):.0f} s left"
        click.echo(f"{what}: {done} of {total}{left}", err=True)

    yield advance
