"""`massact init`: from nothing to an experiment file and the folders of its traits."""

import shlex

import click

from massact.data.new import new_files, write_new


@click.command()
@click.argument("name", default="my-study")
@click.option(
    "--trait",
    "traits",
    multiple=True,
    metavar="NAME",
    help="Begin a folder traits/NAME with two example lines in each file (repeatable).",
)
@click.option(
    "--model",
    default="HuggingFaceTB/SmolLM2-135M-Instruct",
    help="Hub id, folder or GGUF file of the model that is steered.",
)
def init(name: str, traits: tuple[str, ...], model: str) -> None:
    """Write an experiment file NAME.yaml to begin with, commented, and folders for traits. Nothing is overwritten.

    \b
    Example:
      massact init my-study --trait kindness --model ./my-model
    """
    made = new_files(name, traits, model)
    write_new(made)
    for path in made:
        click.echo(f"wrote {path}")
    file = next(iter(made))
    begun = "replace the example lines of each trait, then: " if traits else "name your traits' folders, then: "
    click.echo(f"{begun}massact main --experiment {shlex.quote(str(file))} --dry-run", err=True)
