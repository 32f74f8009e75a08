"""`massact sync`: send what earlier commands could not."""

from pathlib import Path

import click

from massact.cli.options import tracking_uri_option
from massact.errors import UsageError
from massact.store.spool import DEFAULT_SPOOL, JournalReport, send_leftovers

spool_option = click.option(
    "--spool",
    type=click.Path(file_okay=False, path_type=Path),
    default=DEFAULT_SPOOL,
    show_default=True,
    envvar="MASSACT_SPOOL",
    metavar="DIR",
    help="Folder where finished evaluations are kept until the run store has them.",
)


@click.command()
@spool_option
@tracking_uri_option
@click.pass_context
def sync(ctx: click.Context, spool: Path, tracking_uri: str) -> None:
    """Send finished evaluations that wait in the spool to the run store.

    Each goes to the store that it was meant for, once, however often this is run; MLFLOW_TRACKING_URI
    only adds the password of a database, which the spool does not hold. What a process at work
    has in hand is left alone. Exit code 1 when something is left or was lost.

    \b
    Examples:
      massact sync
      massact sync --spool /scratch/spool
    """
    is_given = ctx.get_parameter_source("spool") is click.core.ParameterSource.COMMANDLINE
    if is_given and not spool.is_dir():
        raise UsageError(f"there is no folder {spool}: name the one that --spool named before")
    reports = send_leftovers(spool, tracking_uri, say=click.echo)
    click.echo(_summary(spool, reports))
    if not all(report.is_clear for report in reports):
        ctx.exit(1)


def _summary(spool: Path, reports: list[JournalReport]) -> str:
    n_left = sum(report.left for report in reports)
    n_lost = sum(len(report.damaged) for report in reports)
    unread = [report for report in reports if report.problem and not report.left]
    parts = [f"{n_left} left in {spool}: run massact sync again"] if n_left else []
    parts += [f"{n_lost} damaged lines lost"] if n_lost else []
    parts += [f"{len(unread)} journals could not be read"] if unread else []
    return "; ".join(parts) or f"nothing is left in {spool}"
