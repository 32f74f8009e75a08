"""`massact vectors`: steering vectors out to other tools."""

from pathlib import Path
from typing import Any

import click

from massact.cli.options import FILTER_OPTIONS, asked_experiment_option, run_or_best, stacked, tracking_uri_option
from massact.errors import UsageError

_HOOKPOINT = "layers.{layer}"
_FORMATS = ("safetensors", "gguf", "pt", "lm-eval", "hub-folder")


@click.group()
def vectors() -> None:
    """Steering vectors as files of other tools."""


@vectors.command("export")
@asked_experiment_option
@tracking_uri_option
@click.option("--run", "run_id", metavar="ID", help="The evaluation with that run id; default: the best one.")
@stacked(*FILTER_OPTIONS)
@click.option(
    "--format",
    "form",
    type=click.Choice(_FORMATS),
    default="safetensors",
    help="gguf: llama.cpp and repeng; pt: a tensor [n_layers, d_model]; lm-eval: its --model steered; hub-folder: a "
    "folder with a model card.",
)
@click.option(
    "--output", type=click.Path(path_type=Path), required=True, help="File to write; of hub-folder, the folder."
)
@click.option(
    "--hookpoint",
    default=_HOOKPOINT,
    metavar="NAME",
    help="Of lm-eval: what a block is called within the model's base_model, {layer} for its number.",
)
def export(
    experiment: str | None, tracking_uri: str, run_id: str | None, form: str, output: Path, hookpoint: str, **only: Any
) -> None:
    """Write what a stored evaluation adds to the residual stream: its coefficient times its unit vector.

    Without --run it is the best one at the coherence floor of one model and trait.

    \b
    Examples:
      massact vectors export --model toy-gemma-3 --format gguf --output refusal.gguf
      massact vectors export --run 0123456789abcdef0123456789abcdef --format lm-eval --output refusal.pt
    """
    from massact.workflow.vectors import read_vector, write_vector

    if hookpoint != _HOOKPOINT and form != "lm-eval":
        raise UsageError(f"--hookpoint is of --format lm-eval alone, and this is {form}: leave it out")
    one = read_vector(run_or_best(run_id, experiment, tracking_uri, only), tracking_uri)
    for path in write_vector(one, form, output, hookpoint):
        click.echo(str(path))
    facts = one.facts
    click.echo(
        f"{facts['model']}, {facts['trait']}: {facts['label']}, {facts['position']}, layer {one.layer}, coefficient "
        f"{facts['coefficient']:g} (run {facts['run_id']}); to be added to the output of block {one.layer}, from 0, at "
        "every token, at strength 1",
        err=True,
    )
