"""`massact toy`: making the embedded models and their judge again."""

from pathlib import Path

import click


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
def build(output: Path) -> None:
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
    build_toys(output, progress=lambda line: click.echo(line, err=True))
    click.echo(str(output))
