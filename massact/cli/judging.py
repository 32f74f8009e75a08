"""`massact judge-check`, `rejudge` and `label`: judges on known texts, another judge on stored ones, and people."""

import getpass
import statistics
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import click

from massact.cli.options import FILTER_OPTIONS, experiment_option, stacked, tracking_uri_option
from massact.cli.questions import OUTPUT, OUTPUT_OPTIONS, print_answers
from massact.cli.session import force_option, open_session, spool_option, store_timeout_option, working
from massact.config import JudgeConfig, load_experiment
from massact.config.judges import judge_like
from massact.data.labelled import SCORES, Labelled, append_labelled, columns_of, read_labelled
from massact.data.traits import load_trait
from massact.errors import UsageError
from massact.labels import normalise_label
from massact.names import visible
from massact.query import Answer, Filters
from massact.query.load import normalised
from massact.query.questions.judges import ask_judges
from massact.query.rows import Column
from massact.query.tables import STATUS, number_column, text_column
from massact.vectors.positions import parse_position

if TYPE_CHECKING:
    from massact.judges.canaries import CanaryResult
    from massact.sweep.context import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryRow:
    columns: ClassVar[tuple[Column, ...]] = (
        *(text_column(name, is_shared=True) for name in ("judge", "trait", "model")),
        text_column("canary"),
        number_column("trait_mean", ".1f", "trait score"),
        number_column("trait_std", ".2f", "std"),
        number_column("coherence_mean", ".1f", "coherence"),
        number_column("coherence_std", ".2f", "std"),
        Column("unscored", lambda row: str(row.n_unscored or ""), is_number=True, is_optional=True),
        text_column("expected", is_optional=True),
        STATUS,
        text_column("failure", is_optional=True),
    )

    judge: str
    trait: str
    model: str | None  # of the judge `self`: which model it is
    canary: str
    trait_mean: float | None  # 0 to 100
    trait_std: float | None  # sample standard deviation over the repeats
    coherence_mean: float | None  # 0 to 100
    coherence_std: float | None
    n_scored: int
    n_unscored: int
    expected: str
    status: str  # `ok` or `failed`
    failure: str | None


@click.command("judge-check")
@experiment_option
@tracking_uri_option
@click.option(
    "--judge",
    "judges",
    multiple=True,
    metavar="NAME",
    help="Judge to check; default: the experiment file's. With --labels several, side by side.",
)
@click.option("--trait", metavar="NAME", help="Only for this trait; default: every one of the file.")
@click.option(
    "--repeats", type=click.IntRange(1), default=3, help="How often each text is scored, without the judge cache."
)
@click.option(
    "--labels",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Hold the judge against people: a CSV file of massact label, or of your own.",
)
@click.option(
    "--bands",
    type=click.IntRange(2, 101),
    help="With --labels, equal bands of 0 to 100 that the kappas count by; default: 2 where people gave no more than "
    "two different scores, else 5.",
)
@stacked(*OUTPUT_OPTIONS)
@click.pass_context
def judge_check(ctx: click.Context, /, experiment_file: str, tracking_uri: str, **options: Any) -> None:
    """Show a judge texts whose scores are known, several times, and how much its scores vary.

    Gibberish, loops and empty text must be incoherent, plain refusals and answers coherent, and an order to
    the judge within broken text must raise no score. Exits with 1 where the judge fails one. Needs no run store.

    With --labels it is held against people instead: correlations and kappas of its scores with theirs, which the run
    store keeps and the report prints beside the judge's name. Exits with 1 where it disagrees with them.

    \b
    Examples:
      massact judge-check --experiment experiments/toy.yaml --judge likelihood --repeats 5
      massact judge-check --labels labels.csv --judge self --judge openai:gpt-4.1-mini
    """
    session = open_session(experiment_file, tracking_uri if options["labels"] else "")
    configs = [judge_like(session.experiment.judge, name) for name in options["judges"]] or [session.experiment.judge]
    if options["labels"]:
        _hold_against_people(ctx, session, configs, options)
        return
    if len(configs) > 1 or options["bands"]:
        raise UsageError("several judges and --bands are for --labels FILE: without it one judge is checked at a time")
    (config,) = configs
    with working(session):
        rows = tuple(_rows(session, config, options["trait"], options["repeats"]))
    _tell(session, rows, _spreads(rows), options)
    n_failed = sum(row.status != "ok" for row in rows)
    if n_failed:
        click.echo(f"the judge {config.name} fails {n_failed} of {len(rows)} canaries", err=True)
        ctx.exit(1)
    click.echo(f"the judge {config.name} passes all {len(rows)} canaries", err=True)


def _hold_against_people(
    ctx: click.Context, session: "Session", configs: Sequence[JudgeConfig], options: dict[str, Any]
) -> None:
    from massact.workflow.people import hold_against

    labels = read_labelled(options["labels"])
    if (trait := options["trait"]) is not None:
        labels = [label for label in labels if label.trait in ("", session.experiment.trait(trait).name)]
    with working(session):
        lines, notes = hold_against(session, labels, configs, options["bands"])
    _tell(session, lines, notes, options, experiment=session.experiment.name)
    if any(line.judge_prompt and line.verdict == "disagrees" for line in lines):
        ctx.exit(1)


def _spreads(rows: Sequence[CanaryRow]) -> Iterator[str]:
    """How much the scores vary at most, in words."""
    for name in ("trait", "coherence"):
        if stds := [std for row in rows if (std := getattr(row, f"{name}_std")) is not None]:
            yield f"largest standard deviation of {name}: {max(stds):.2f}"


def _tell(session: "Session", rows: Iterable[Any], notes: Iterable[str], options: dict[str, Any], **about: Any) -> None:
    """Print rows as an answer, and its notes."""
    floor, output = session.experiment.coherence_floor, {name: options[name] for name in OUTPUT}
    answer = Answer(question="judge-check", floor=floor, rows=tuple(rows), notes=tuple(notes), **about)
    print_answers(answer, **output)
    for note in answer.notes:
        click.echo(visible(note), err=True)


def _rows(session: "Session", config: JudgeConfig, trait: str | None, repeats: int) -> Iterator[CanaryRow]:
    experiment = session.experiment
    traits = experiment.traits if trait is None else (experiment.trait(trait),)
    models = experiment.models if config.reads_steered else (None,)
    for judged, model in product(traits, models):
        judge = session.judges.of(judged, model, config=config)
        results, _ = session.judges.check(config, judge, repeats=repeats)
        yield from (_row(config.name, judged.name, model.name if model else None, result) for result in results)


def _row(judge: str, trait: str, model: str | None, result: "CanaryResult") -> CanaryRow:
    from massact.judges.canaries import spread

    canary, n_scored = result.canary, sum(verdict.scored for verdict in result.verdicts)
    bounds = (("coherence", canary.coherence), ("trait", canary.trait))
    expected = [f"{name} {low:g} to {high:g}" for name, (low, high) in bounds if (low, high) != (0.0, 100.0)]
    return CanaryRow(
        judge=judge,
        trait=trait,
        model=model,
        canary=canary.name,
        trait_mean=statistics.fmean(result.trait) if result.trait else None,
        trait_std=spread(result.trait),
        coherence_mean=statistics.fmean(result.coherence) if result.coherence else None,
        coherence_std=spread(result.coherence),
        n_scored=n_scored,
        n_unscored=len(result.verdicts) - n_scored,
        expected=", ".join([*expected, *([f"both about as {canary.like}"] if canary.like else [])]),
        status="failed" if result.failure else "ok",
        failure=result.failure,
    )


@click.command()
@experiment_option
@tracking_uri_option
@click.option("--judge", metavar="NAME", help="Judge that scores, such as hf:MODEL; default: the file's.")
@click.option(
    "--from",
    "sources",
    multiple=True,
    metavar="NAME",
    help="Only what this judge scored (repeatable); default: what any did.",
)
@stacked(*FILTER_OPTIONS)
@spool_option
@store_timeout_option
@force_option
@click.option(
    "--every-trait",
    is_flag=True,
    help="Instead score the responses of winners, and of their baselines, for every other trait of the file: massact "
    "effects shows what they move.",
)
@click.option("--dry-run", is_flag=True, help="Only say what there is to score; writes nothing, asks no judge.")
@click.pass_context
def rejudge(
    ctx: click.Context, /, experiment_file: str, tracking_uri: str, sources: tuple[str, ...], *, every_trait: bool,
    dry_run: bool, **chosen: Any,
) -> None:  # fmt: skip
    """Score stored responses with another judge, without generating any again.

    The results stand beside those of the judges before, and it is shown which winners flip. What the
    judge has scored already is not paid for again; what it left unscored is tried once more. Exit code 1
    when some evaluation could not be scored.

    \b
    Examples:
      massact rejudge --experiment my.yaml --judge openai:gpt-4.1 --dry-run
      massact rejudge --experiment my.yaml --judge hf:./judge --label probe --label mean_diff
      massact rejudge --experiment my.yaml --every-trait
    """
    workload = {name: chosen.pop(name) for name in ("judge", "spool", "store_timeout", "force")}
    session = open_session(experiment_file, tracking_uri, **workload)
    from massact.sweep.rejudge import plan_rejudge, plan_side_effects, run_rejudge, run_side_effects

    positions = tuple(str(parse_position(text)) for text in chosen["positions"])
    only = Filters(**{**chosen, "positions": positions, "labels": tuple(map(normalise_label, chosen["labels"]))})
    if every_trait and (sources or any(chosen.values())):
        raise UsageError("--every-trait scores the winners of the experiment: leave out --from and the filters")
    with working(session):
        session.stores.is_dry = dry_run
        if every_trait:
            effects = plan_side_effects(session) if dry_run else run_side_effects(session)
            if dry_run:
                session.show(str(effects))
            elif effects.left_out:
                ctx.exit(1)
            return
        if dry_run:
            plan = plan_rejudge(session, replace(only, judges=sources))
            session.show(f"{session.experiment.judge.name}: {plan}")
            return
        plan = run_rejudge(session, replace(only, judges=sources))
    answer = ask_judges(experiment_file, tracking_uri=tracking_uri, only=only)
    print_answers(answer, output_format="table")
    for note in answer.notes:
        click.echo(f"note: {note}", err=True)
    if plan.left_out:
        ctx.exit(1)


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
        raise UsageError(f"one trait at a time: --trait {' or --trait '.join(trait.name for trait in traits)}")
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
        labelled = todo[place]
        click.echo(f"\n[{place + 1} of {len(todo)}] {_plain(labelled.question)}\n---\n{_plain(labelled.response)}\n---")
        said: list[float | str] = []
        while len(said) < len(SCORES) and not (said and isinstance(said[-1], str)):
            said.append(_ask(SCORES[len(said)].removesuffix("_score")))
        if said[-1] == "q":
            break
        if said[-1] == "b":
            place = max(0, place - 1)
            continue
        given: Any = [None] * len(SCORES) if said[-1] == "s" else said
        append_labelled(labels, replace(labelled, **dict(zip(SCORES, given, strict=True))))
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
