"""`massact vectors` and `show`: steering vectors out to other tools, and theirs in, and what a model said."""

import json
import re
from pathlib import Path
from typing import Any

import click

from massact.cli.options import (
    FILTER_OPTIONS,
    asked_experiment_option,
    experiment_option,
    run_argument,
    run_option,
    run_or_best,
    stacked,
    table_or_json_option,
    tracking_uri_option,
)
from massact.config import VectorConfig
from massact.domain import IMPORTED
from massact.errors import UsageError
from massact.labels import format_layers

_HOOKPOINT = "layers.{layer}"
_FORMATS = ("safetensors", "gguf", "pt", "lm-eval", "hub-folder")


@click.group()
def vectors() -> None:
    """Steering vectors as files of other tools, out and in."""


@vectors.command("export")
@asked_experiment_option
@tracking_uri_option
@run_option
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
    vector = read_vector(run_or_best(run_id, experiment, tracking_uri, only), tracking_uri)
    for path in write_vector(vector, form, output, hookpoint):
        click.echo(str(path))
    facts = vector.facts
    click.echo(
        f"{facts['model']}, {facts['trait']}: {facts['label']}, {facts['position']}, layer {vector.layer}, coefficient "
        f"{facts['coefficient']:g} (run {facts['run_id']}); to be added to the output of block {vector.layer}, from 0, "
        "at every token, at strength 1",
        err=True,
    )


def _method(_ctx: click.Context, _param: click.Parameter, name: str) -> str:
    if not re.fullmatch(r"[a-z0-9_]+", name):
        raise click.BadParameter(f"{name!r}: write lower-case letters, digits and _")
    return IMPORTED + name.removeprefix(IMPORTED)


@vectors.command("import")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--as", "name", metavar="NAME", required=True, callback=_method, help="The method becomes imported_NAME.")
@experiment_option
@click.option("--model", help="Which model of the experiment file they are of; default: any.")
@click.option("--trait", help="Which trait; default: any.")
@click.option("--layer", type=click.IntRange(0), help="Of a file with one vector that does not say of which, from 0.")
@click.option(
    "--layer-shift",
    type=click.IntRange(-1, 1),
    default=0,
    help="Added to the files' layer numbers; -1 for what llama.cpp's own generator made.",
)
@click.option("--index", type=click.IntRange(0), help="Of a SAELens folder: which feature.")
def import_(files: tuple[Path, ...], experiment_file: str, name: str, **read: Any) -> None:
    """Make vectors of another tool a method: copied beside the experiment file, and named under its key vectors.

    Read are safetensors, GGUF control vectors, .pt files and folders of layers, and features of a SAELens folder.

    \b
    Examples:
      massact vectors import refusal.gguf --as lab --experiment my.yaml --model gemma
      massact vectors import sae/ --index 1234 --as feature --experiment my.yaml
    """
    from massact.vectors.methods import normalise, vector_digest
    from massact.workflow.vectors import import_vectors

    wanted = VectorConfig(name=name, file=f"./vectors/{name}.safetensors", **read)
    made = import_vectors(files, wanted, Path(experiment_file))
    for layer, vector in made.items():
        click.echo(f"layer {layer}: length {vector.norm():.4g}, digest {vector_digest(normalise(vector))[:16]}")
    click.echo(
        f"{name}: {len(vector)} dims at layers {format_layers(made)}, in {Path(experiment_file).parent / wanted.file}; "
        f"evaluated as unit vectors, so that a coefficient of the other tool is to be multiplied by the length:\n"
        f"massact evaluate --experiment {experiment_file} --method {name} --layers {','.join(map(str, made))} …",
        err=True,
    )


@click.command()
@run_argument
@asked_experiment_option
@tracking_uri_option
@stacked(*FILTER_OPTIONS)
@click.option("--limit", type=click.IntRange(1), help="Questions at most; default: all.")
@table_or_json_option("How they are written; json has all questions.")
def show(
    run_id: str | None, experiment: str | None, tracking_uri: str, output_format: str, *, best: bool,
    limit: int | None, **only: Any,
) -> None:  # fmt: skip
    """Show what a model said: responses of an evaluation, each beside the unsteered one, with their scores.

    \b
    Examples:
      massact show 0123456789abcdef0123456789abcdef
      massact show --best --model toy-gemma-3 --label probe
    """
    from massact.workflow.show import read_shown

    found = read_shown(run_or_best(run_id, experiment, tracking_uri, only, best=best), tracking_uri)
    click.echo(json.dumps(found.content(), indent=2) if output_format == "json" else found.text(limit), nl=False)
