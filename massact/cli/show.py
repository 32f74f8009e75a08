"""`massact show`: responses in the terminal, unsteered beside steered."""

import json
from typing import Any

import click

from massact.cli.options import (
    FILTER_OPTIONS,
    asked_experiment_option,
    run_or_best,
    stacked,
    table_or_json_option,
    tracking_uri_option,
)
from massact.errors import UsageError


@click.command()
@click.argument("run_id", metavar="[RUN]", required=False)
@click.option("--best", is_flag=True, help="The best evaluation at the floor of what the filters admit.")
@asked_experiment_option
@tracking_uri_option
@stacked(*FILTER_OPTIONS)
@click.option("--limit", type=click.IntRange(1), default=3, help="Questions at most.")
@table_or_json_option("How they are written; json has all questions.")
def show(
    run_id: str | None,
    *,
    best: bool,
    experiment: str | None,
    tracking_uri: str,
    limit: int,
    output_format: str,
    **only: Any,
) -> None:
    """Show what a model said: responses of an evaluation, each beside the unsteered one, with their scores.

    \b
    Examples:
      massact show 0123456789abcdef0123456789abcdef
      massact show --best --model toy-gemma-3 --label probe
    """
    from massact.workflow.show import read_shown

    if best == (run_id is not None):
        raise UsageError("name a run, as massact runs and best --format json do, or write --best: one of the two")
    found = read_shown(run_or_best(run_id, experiment, tracking_uri, only), tracking_uri)
    click.echo(json.dumps(found.content(), indent=2) if output_format == "json" else found.text(limit), nl=False)
