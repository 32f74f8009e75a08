"""`massact label`: a person scores responses in a terminal."""

import getpass
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from massact.cli.options import FILTER_OPTIONS, experiment_option, stacked, tracking_uri_option
from massact.config import load_experiment
from massact.data.labelled import SCORES, Labelled, append_labelled, columns_of, read_labelled
from massact.data.traits import load_trait
from massact.errors import UsageError
from massact.names import visible
from massact.query import Filters
from massact.query.load import normalised


@click.command()
@experiment_option
@tracking_uri_option
@stacked(*FILTER_OPTIONS)
@click.option(
    "--labels",
    "file",  # `labels` are those of --label
    type=click.Path(dir_okay=False, path_type=Path),
    default="labels.csv",
    metavar="FILE",
    help="Where scores are kept, those of several people too; the same command goes on where it stopped.",
)
@click.option("--annotator", default=getpass.getuser, show_default="your login", help="Whose scores these are.")
@click.option("-n", "--number", type=click.IntRange(1), default=50, help="Responses to score, those before included.")
@click.option("--seed", type=int, default=0, help="Which responses are drawn, and in which order they come.")
def label(experiment_file: str, tracking_uri: str, file: Path, annotator: str, **options: Any) -> None:
    """Have a person score stored responses, blind: without label, coefficient and the judge's scores.

    Drawn from all kept responses of a trait, unsteered ones among them, in random order; what others have scored in
    the same file comes first, so that people can be held against each other. `s` passes over a response, `b` goes
    back to the one before, `q` stops. massact judge-check --labels then holds judges against the scores.

    \b
    Examples:
      massact label --experiment experiments/toy.yaml --annotator ana
      massact label --trait refusal -n 100 --labels refusal.csv
    """
    experiment, number, seed = load_experiment(experiment_file), options.pop("number"), options.pop("seed")
    traits = [experiment.trait(name) for name in options["traits"]] or list(experiment.traits)
    if len(traits) > 1:
        raise UsageError(f"one trait at a time: --trait {' or --trait '.join(one.name for one in traits)}")
    from massact.workflow.people import to_label

    dataset = load_trait(experiment.resolve(traits[0].dataset))
    only = normalised(Filters(**{**options, "traits": (traits[0].name,)}))
    known = read_labelled(file) if file.exists() and file.stat().st_size else []
    columns_of(file)  # before anything is asked
    todo = to_label(tracking_uri, experiment.name, only, annotator, known, number, seed)
    if not todo:
        click.echo(f"nothing to score: {annotator} has scored what {file} and the run store offer", err=True)
        return
    told = " ".join(_plain(dataset.definition or dataset.eval_prompt or traits[0].name).split())
    click.echo(f"trait, 0 (not at all) to 100 (fully): {told}", err=True)
    click.echo("coherence, 0 to 100: grammar and structure alone, whatever it says", err=True)
    n_scored = _label(todo, file)
    click.echo(f"{n_scored} of {len(todo)} scored, in {file}", err=True)


def _label(todo: Sequence[Labelled], labels: Path) -> int:
    """Ask for the scores of each; returns how many were given."""
    place, scored = 0, set[int]()
    while place < len(todo):
        one = todo[place]
        click.echo(f"\n[{place + 1} of {len(todo)}] {_plain(one.question)}\n---\n{_plain(one.response)}\n---")
        said: list[float | str] = []
        while len(said) < len(SCORES) and not (said and isinstance(said[-1], str)):
            said.append(_ask(SCORES[len(said)].removesuffix("_score")))
        if said[-1] == "q":
            break
        if said[-1] == "b":
            place = max(0, place - 1)
            continue
        given: Any = [None] * len(SCORES) if said[-1] == "s" else said
        append_labelled(labels, replace(one, **dict(zip(SCORES, given, strict=True))))
        scored = scored - {place} if said[-1] == "s" else scored | {place}
        place += 1
    return len(scored)


def _ask(what: str) -> float | str:
    """A score, or `s`, `b` or `q`; the end of the input is `q`."""
    while True:
        try:
            text = click.prompt(f"{what} (0-100, s, b, q)", prompt_suffix=": ").strip().lower()
        except click.Abort:
            return "q"
        if text in ("s", "b", "q"):
            return str(text)
        with suppress(ValueError):
            if 0 <= float(text) <= 100:
                return float(text)
        click.echo("a number from 0 to 100; s passes over it, b goes back, q stops", err=True)


def _plain(text: str) -> str:
    """A text that a terminal can show, its lines kept."""
    return "\n".join(map(visible, text.splitlines()))
