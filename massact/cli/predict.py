"""`massact predict`: can the best coefficient be told from the vector?"""

import click

from massact.cli.options import Number, OrFile, experiment_option, tracking_uri_option
from massact.cli.session import open_session, working
from massact.domain import floor_warning


@click.command()
@experiment_option
@tracking_uri_option
@click.option(
    "--floor",
    type=OrFile(Number(0, 100)),
    metavar="COHERENCE",
    help="Least mean coherence that counts; default: the file's. At another one nothing is registered.",
)
@click.option("--dry-run", is_flag=True, help="Only test and show; writes nothing.")
def predict(experiment_file: str, tracking_uri: str, floor: float | None, *, dry_run: bool) -> None:
    """Test what predicts the best coefficient and the cliff, and register what searches start from.

    Models from plain to regressions are fitted on the evaluations of all models and traits but one, and
    predict that one. A regression becomes the prior only where it beats relative strength.

    \b
    Examples:
      massact predict --experiment experiments/toy.yaml --dry-run
      massact predict --experiment benchmarks/coefficients.yaml
    """
    from massact.phases.predict import run_predict, show_prediction

    session = open_session(experiment_file, tracking_uri)
    warning = None if floor is None else floor_warning(floor)
    if warning:
        click.echo(f"warning: --floor: {warning}", err=True)
    with working(session):
        if dry_run:
            session.is_dry = True
            show_prediction(session, floor)
            return
        run_predict(session, floor)
