"""What stored evaluations do to a model: to talk with, on a page, as weights, and what it costs on tasks."""

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
    run_option,
    run_or_best,
    stacked,
    tracking_uri_option,
)
from massact.cli.questions import OUTPUT, OUTPUT_OPTIONS, print_answers
from massact.cli.session import open_session, working
from massact.errors import MassactError, UsageError
from massact.query import Answer

if TYPE_CHECKING:
    from massact.workflow.steered import Stored


_KEY = "MASSACT_MODEL_KEY"


def _stored(experiment_file: str, tracking_uri: str, model: str | None) -> "Stored":
    """What the store holds of a model of the experiment file, which is loaded."""
    session = open_session(experiment_file, tracking_uri)
    from massact.workflow.steered import Stored

    models = session.experiment.models
    if model is None and len(models) > 1:
        raise UsageError(f"which model? Name one with --model: {', '.join(model.name for model in models)}")
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
def chat(
    run_id: str | None, experiment_file: str, tracking_uri: str, coefficient: float | None, *, best: bool,
    max_new_tokens: int | None, temperature: float, seed: int, **only: Any,
) -> None:  # fmt: skip
    """Talk with a steered model: every answer beside that of the same model unsteered.

    What a line begins with / is a command: /help lists them. Without a terminal the lines of standard input are asked.

    \b
    Examples:
      massact chat --best --model toy-gemma-3 --trait refusal
      echo "how do i open a door" | massact chat --best --model toy-gemma-3
    """
    from massact.workflow.show import read_row

    chosen = run_or_best(run_id, experiment_file, tracking_uri, only, best=best)
    row = read_row(chosen, tracking_uri)
    stored = _stored(experiment_file, tracking_uri, row.model)
    from massact.domain import Generation
    from massact.workflow.steered import HELP, Chat

    steered = stored.of_run(chosen)
    steered = steered if coefficient is None else steered.at(coefficient)
    settings = Generation(max_new_tokens or row.max_new_tokens or 200, temperature, seed)
    talk = Chat(stored, steered, settings, tracking_uri)
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
    experiment_file: str, tracking_uri: str, model: str | None, host: str, port: int, key_file: Path | None,
    batch_rows: int | None,
) -> None:  # fmt: skip
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

    serve(ModelServer(stored, key or secrets.token_urlsafe(24), batch_rows=batch_rows), host, port, click.echo)


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
    from massact.workflow.steered import bake_run

    with working(session):
        chosen = run_or_best(run_id, session.experiment.name, tracking_uri, only)
        baked = bake_run(session, chosen, output)
    click.echo(str(output))
    click.echo(
        f"run {chosen}; logits differ by at most {baked.from_weights:.1g} of the greatest from those with hooks on "
        f"what was changed, and by {baked.from_evaluated:.1g} from the evaluation's, whose hooks are on decoder blocks",
        err=True,
    )


@click.command()
@experiment_option
@tracking_uri_option
@click.option("--run", "run_id", metavar="ID", help="The evaluation with that run id.")
@click.option(
    "--best", is_flag=True, help="The best one at the coherence floor of what the filters admit; the default."
)
@stacked(*FILTER_OPTIONS)
@click.option(
    "--baselines",
    is_flag=True,
    help="Also with the winner there, and what it is held against: a prompt, examples, the random direction with the "
    "median delta.",
)
@click.option(
    "--tasks",
    required=True,
    metavar="NAMES",
    help="Tasks or groups of lm-evaluation-harness by name, or YAML files of your own; several with commas.",
)
@click.option("--num-fewshot", type=click.IntRange(0), help="Examples before each document; default: the task's.")
@click.option("--limit", type=click.IntRange(1), help="Documents of each task at most; default: all.")
@click.option("--batch-size", type=click.IntRange(1), default=16, help="Requests side by side.")
@click.option("--chat", "is_chat", is_flag=True, help="Put requests into the model's chat template.")
@stacked(*OUTPUT_OPTIONS)
def capability(
    experiment_file: str, tracking_uri: str, run_id: str | None, tasks: str, *, best: bool, baselines: bool, **told: Any
) -> None:
    """Run tasks of lm-evaluation-harness with what a stored evaluation does and without: its cost.

    The steered and the unsteered model are asked the same documents; deltas are paired by document. Each task becomes
    a run under the evaluation's, which massact best, its --cost, massact costs and the report read.

    \b
    Examples:
      massact capability --best --trait refusal --tasks hellaswag,mmlu --limit 500
      massact capability --best --baselines --tasks my_task.yaml
      massact capability --run 0123456789abcdef0123456789abcdef --tasks my_task.yaml
    """
    if best and run_id is not None:
        raise UsageError("--run and --best name two evaluations: give one of them")
    session = open_session(experiment_file, tracking_uri)
    from massact.workflow.capability import HarnessOptions, held_against, run_capability

    how = {name: told.pop(name) for name in ("num_fewshot", "limit", "batch_size", "is_chat")}
    names = tuple(dict.fromkeys(filter(None, map(str.strip, tasks.split(",")))))
    if not names:
        raise UsageError("--tasks names no task: write names with commas between them, or YAML files")
    asked, output = HarnessOptions(names, **how), {name: told.pop(name) for name in OUTPUT}
    with working(session):
        chosen = run_or_best(run_id, experiment_file, tracking_uri, told)
        runs = list(dict.fromkeys([chosen, *(held_against(session, chosen) if baselines else ())]))
        lines = [line for run in runs for line in run_capability(session, run, asked)]
    floor, name = session.experiment.coherence_floor, session.experiment.name
    print_answers(Answer(question="capability", floor=floor, rows=tuple(lines), experiment=name), **output)
    click.echo(f"run {', '.join(runs)}; figures in points, hundredths of the task's metric", err=True)
