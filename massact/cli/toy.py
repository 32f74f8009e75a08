"""`massact toy`: making the embedded models and their judge again."""

from pathlib import Path

import click

from massact.toy import MODEL_NAMES


@click.group()
def toy() -> None:
    """The embedded toy models.

    \b
    Example:
      massact toy build --output /tmp/toys
    """


@toy.command()
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Folder to write to; must not exist.",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    type=click.Choice(MODEL_NAMES),
    default=MODEL_NAMES,
    help="Only this model (repeatable); default: all four and the judge.",
)
def build(output: Path, models: tuple[str, ...]) -> None:
    """Train the embedded models and fit their judge again, from the recipe alone (about 20 minutes on one core).

    \b
    Example:
      massact toy build --output /tmp/toys
    """
    from massact.errors import UsageError
    from massact.toy.build import build as build_toys

    if output.exists():
        raise UsageError(
            f"{output} exists already: name a folder that does not, so that nothing is overwritten"
        )
    build_toys(output, models=models, progress=lambda line: click.echo(line, err=True))
    click.echo(str(output))
