"""`massact chat`, `serve-model` and `explore`: steered models to talk with, and a page to find them on."""

import os
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from massact.cli.options import (
    FILTER_OPTIONS,
    asked_experiment,
    asked_experiment_option,
    experiment_option,
    run_argument,
    run_or_best,
    stacked,
    tracking_uri_option,
)
from massact.cli.session import open_session
from massact.errors import MassactError, UsageError

if TYPE_CHECKING:
    from massact.workflow.steered import Stored

_KEY = "MASSACT_MODEL_KEY"


def _stored(experiment_file: str, tracking_uri: str, model: str | None) -> "Stored":
    """What the store holds of a model of the experiment file, which is loaded."""
    session = open_session(experiment_file, tracking_uri)
    from massact.workflow.steered import Stored

    models = session.experiment.models
    if model is None and len(models) > 1:
        raise UsageError(f"which model? Name one with --model: {', '.join(one.name for one in models)}")
    chosen = session.experiment.model(model) if model else models[0]
    return Stored(session.models.get(chosen, chosen.instruct), chosen.name, experiment_file, tracking_uri)


@click.command()
@run_argument
@experiment_option
@tracking_uri_option
@stacked(*FILTER_OPTIONS)
@click.option("--coefficient", type=float, help="Instead of the evaluation's own.")
@click.option("--max-new-tokens", type=click.IntRange(1), help="Tokens of an answer at most; default: as evaluated.")
@click.option("--temperature", type=click.FloatRange(0, 2), default=0.0, help="0: greedy.")
@click.option("--seed", type=int, default=0, help="Of the sampling.")
def chat(run_id: str | None, experiment_file: str, tracking_uri: str, coefficient: float | None, **told: Any) -> None:
    """Talk with a steered model: every answer beside that of the same model unsteered.

    What a line begins with / is a command: /help lists them. Without a terminal the lines of standard input are asked.

    \b
    Examples:
      massact chat --best --model toy-gemma-3 --trait refusal
      echo "how do i open a door" | massact chat --best --model toy-gemma-3
    """
    from massact.workflow.show import read_row

    best, n_new, *sampling = (told.pop(name) for name in ("best", "max_new_tokens", "temperature", "seed"))
    chosen = run_or_best(run_id, experiment_file, tracking_uri, told, best=best)
    row = read_row(chosen, tracking_uri)
    stored = _stored(experiment_file, tracking_uri, row.model)
    from massact.domain import Generation
    from massact.workflow.chat import HELP, Chat

    steered = stored.of_run(chosen)
    steered = steered if coefficient is None else steered.at(coefficient)
    talk = Chat(stored, steered, Generation(n_new or row.max_new_tokens or 200, *sampling), tracking_uri)
    click.echo(f"{row.model}, {row.trait}: {steered} (run {chosen})\n{HELP}", err=True)
    is_asked = sys.stdin.isatty()
    while True:
        try:
            line = input("\n> " if is_asked else "").strip()
        except (EOFError, KeyboardInterrupt):
            return
        if line in ("/quit", "/exit"):
            return
        if line:
            try:
                click.echo(talk.answer(line))
            except MassactError as error:
                click.echo(f"error: {error}", err=True)


@click.command("serve-model")
@experiment_option
@tracking_uri_option
@click.option("--model", help="Which model of the experiment file; default: its only one.")
@click.option(
    "--host", default="127.0.0.1", help="Address to listen on; another than this machine's own lets others ask as well."
)
@click.option("--port", type=click.IntRange(0, 65535), default=8080, help="Port to listen on; 0: one that is free.")
@click.option(
    "--key-file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help=f"Read the key that clients give from a file; default: {_KEY}, else a new one, which is printed.",
)
@click.option("--batch-rows", type=click.IntRange(1), help="Responses side by side at most; default: as many as fit.")
def serve_model(
    experiment_file: str, tracking_uri: str, model: str | None, host: str, port: int, key_file: Path | None, **rows: Any
) -> None:
    """Serve a model and every best that the store holds of it, over the API of OpenAI: chats, texts and streams.

    A best is a model there, NAME or NAME@coefficient=24. Requests of different ones are generated in one batch.

    \b
    Example:
      massact serve-model --experiment experiments/toy.yaml --model toy-gemma-3
    """
    try:
        key = key_file.read_text(encoding="utf-8").strip() if key_file else os.environ.get(_KEY, "")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the key from {key_file}: {error}") from error
    if key_file and not key:
        raise UsageError(f"{key_file} is empty: write a key into it")
    stored = _stored(experiment_file, tracking_uri, model)
    from massact.workflow.model_server import ModelServer, serve

    serve(ModelServer(stored, key or secrets.token_urlsafe(24), **rows), host, port, click.echo)


@click.command()
@asked_experiment_option
@tracking_uri_option
@click.option("--port", type=click.IntRange(0, 65535), default=5001, help="Port to listen on; 0: one that is free.")
@click.option("--open/--no-open", "is_opened", default=False, help="Open it in the browser.")
def explore(experiment: str | None, tracking_uri: str, port: int, is_opened: bool) -> None:
    """Show every evaluation of a store on a page of this machine: figures to click on, responses behind them.

    massact serve shows the same at /massact/ of its address.

    \b
    Example:
      massact explore --experiment massive-activations-toy --open
    """
    from massact.query.load import declared_by_file
    from massact.workflow.explore import explore as serve_page
    from massact.workflow.explore import link

    chosen = asked_experiment(experiment, tracking_uri)
    declared = declared_by_file(chosen)

    def show(address: str) -> str:
        page = link(address, declared.experiment if declared else chosen)
        if is_opened:
            click.launch(page)
        return f"explorer: {page}\nstop:     Ctrl-C"

    serve_page(tracking_uri, port, click.echo, show)
