"""`massact rejudge`: another judge on the responses that are there."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from massact.asked import Asked, ask
from massact.cli.options import FILTER_OPTIONS, Number, experiment_option, tracking_uri_option
from massact.cli.output import render
from massact.cli.session import open_session, working
from massact.cli.sync import spool_option
from massact.labels import normalise_label
from massact.posing import pose_judges
from massact.query import Filters
from massact.vectors.positions import parse_position


def _filters(command: Any) -> Any:
    for decorate in reversed(FILTER_OPTIONS):
        command = decorate(command)
    return command


@click.command()
@experiment_option
@tracking_uri_option
@click.option("--judge", metavar="NAME", help="Judge that scores, such as hf:MODEL; default: the file's.")
@click.option(
    "--from",
    "sources",
    multiple=True,
    metavar="NAME",
    help="Only what this judge scored (repeatable); default: what any did.",
)
@_filters
@spool_option
@click.option(
    "--store-timeout",
    type=Number(0),
    default=3600,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for a run store that went down during the work.",
)
@click.option(
    "--dry-run", is_flag=True, help="Only say what there is to score; writes nothing, asks no judge."
)
@click.pass_context
def rejudge(
    ctx: click.Context,
    /,
    experiment_file: str,
    tracking_uri: str,
    judge: str | None,
    sources: tuple[str, ...],
    spool: Path,
    store_timeout: float,
    *,
    dry_run: bool,
    **chosen: tuple[Any, ...],
) -> None:
    """Score stored responses with another judge, without generating any again.

    The results stand beside those of the judges before, and it is shown which winners flip. What the
    judge has scored already is not paid for again; what it left unscored is tried once more. Exit code 1
    when some evaluation could not be scored.

    \b
    Examples:
      massact rejudge --experiment my.yaml --judge openai:gpt-4.1 --dry-run
      massact rejudge --experiment my.yaml --judge hf:./judge --label probe --label mean_diff
    """
    from massact.phases.rejudge import run_rejudge
    from massact.phases.rescoring import plan_rejudge

    session = open_session(
        experiment_file, tracking_uri, judge=judge, spool=spool, store_timeout=store_timeout
    )
    only = _only(chosen)
    with working(session):
        if dry_run:
            session.is_dry = True
            plan = plan_rejudge(session, replace(only, judges=sources))
            session.show(f"{session.experiment.judge.name}: {plan}")
            return
        plan = run_rejudge(session, replace(only, judges=sources))
    _show_flips(experiment_file, tracking_uri, only)
    if plan.n_left_out:
        ctx.exit(1)


def _only(chosen: dict[str, tuple[Any, ...]]) -> Filters:
    return Filters(
        models=chosen["models"],
        traits=chosen["traits"],
        positions=tuple(str(parse_position(text)) for text in chosen["positions"]),
        labels=tuple(normalise_label(text) for text in chosen["labels"]),
        layers=chosen["layers"],
    )


def _show_flips(experiment_file: str, tracking_uri: str, only: Filters) -> None:
    answer = ask(pose_judges(Asked(experiment_file, tracking_uri, only)))
    click.echo(render(answer, "table"), nl=False)
    for note in answer.notes:
        click.echo(f"note: {note}", err=True)
