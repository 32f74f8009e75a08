"""`massact status`: what the store holds for an experiment, and which command makes what is missing."""

import click

from massact.addresses import shown_uri
from massact.cli.options import experiment_option, tracking_uri_option
from massact.config import load_experiment
from massact.phases.prerequisites import Prerequisite, list_prerequisites
from massact.store import open_store
from massact.store.base import NoRuns
from massact.store.contents import is_absent
from massact.store.reader import StoreReader


@click.command()
@experiment_option
@tracking_uri_option
@click.pass_context
def status(ctx: click.Context, experiment_file: str, tracking_uri: str) -> None:
    """Show what the store holds for an experiment, prerequisite by prerequisite.

    Exit code 1 when something is missing.

    \b
    Example:
      massact status --experiment experiments/toy.yaml
    """
    experiment = load_experiment(experiment_file)
    is_none = is_absent(tracking_uri)
    store = StoreReader(NoRuns()) if is_none else open_store(tracking_uri)
    try:
        where = f"store {shown_uri(tracking_uri)}{', not made yet' if is_none else ''}"
        click.echo(f"experiment {experiment.name}, {where}", err=True)
        found = list_prerequisites(experiment, store, confirmed=True)
        for warning in store.warnings:
            click.echo(f"warning: {warning}", err=True)
    finally:
        store.close()
    for one in found:
        click.echo(_line(one))
    missing = [one for one in found if not one.ok]
    if missing:
        click.echo(f"\n{len(missing)} of {len(found)} missing. Next: {missing[0].command}")
        ctx.exit(1)
    click.echo(f"\nall {len(found)} there")


def _line(one: Prerequisite) -> str:
    mark = "ok     " if one.ok else "missing"
    hint = "" if one.ok else f"  ->  {one.command}"
    return f"{mark}  {one.what}: {one.detail}{hint}"
