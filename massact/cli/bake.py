"""`massact bake`: what a stored evaluation does, as weights."""

from pathlib import Path
from typing import Any

import click

from massact.cli.options import FILTER_OPTIONS, experiment_option, run_option, run_or_best, stacked, tracking_uri_option
from massact.cli.session import open_session, working


@click.command()
@experiment_option
@tracking_uri_option
@run_option
@stacked(*FILTER_OPTIONS)
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder to write; it must not exist.")
def bake(experiment_file: str, tracking_uri: str, run_id: str | None, output: Path, **only: Any) -> None:
    """Write what a stored evaluation does into its model's weights: a checkpoint that transformers loads.

    What can be: add at every token, where a block ends in a bias or has room for one, and ablate everywhere with
    coefficient 1. Its logits are held against those with hooks before it is saved.

    \b
    Example:
      massact bake --experiment study.yaml --label mean_diff+ablate+everylayer --output ./without-refusal
    """
    session = open_session(experiment_file, tracking_uri)
    from massact.workflow.bake import bake_run

    with working(session):
        chosen = run_or_best(run_id, session.experiment.name, tracking_uri, only)
        baked = bake_run(session, chosen, output)
    click.echo(str(output))
    click.echo(
        f"run {chosen}; logits differ by at most {baked.from_weights:.1g} of the greatest from those with hooks on "
        f"what was changed, and by {baked.from_evaluated:.1g} from the evaluation's, whose hooks are on decoder blocks",
        err=True,
    )
