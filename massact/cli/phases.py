"""Commands of the phases, each an entry point of the MLproject too, and what is said of them: status, predict."""

from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

import click

from massact.addresses import shown_uri
from massact.cli.app import described
from massact.cli.options import OrFile, Written, experiment_option, stacked, tracking_uri_option, val_split_option
from massact.cli.session import (
    dry_run_option,
    evaluating_options,
    force_option,
    open_session,
    rounds_option,
    verbose_option,
    working,
    workload_options,
)
from massact.config import load_experiment
from massact.domain import floor_warning
from massact.query.question import FLOOR
from massact.store.read import open_store
from massact.words import counted

if TYPE_CHECKING:
    from massact.sweep.context import Session
    from massact.sweep.driver import Tally

_TOY = "experiments/toy.yaml"
_places = stacked(experiment_option, tracking_uri_option, verbose_option)
_grid_options = stacked(rounds_option, val_split_option, workload_options, dry_run_option)
_output_option = click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default="reports",
    help="Folder for report.html and report.md, within one named as the experiment.",
)


def _work(session: "Session", run: "Callable[[Session], Tally | None]", show: Callable[..., None] | None) -> None:
    """Do a command's work and say where to look next, or only show what there is to do; exit code 1 if cells failed."""
    from massact.workflow.outcome import next_lines

    with working(session):
        if show is not None:
            show(session)
            return
        tally = run(session)
        for line in next_lines(session.stores):
            session.say(line)
    if tally is not None and tally.failed:
        click.echo(
            f"{counted(tally.failed, 'cell')} failed; the runs hold the reason, running again tries them", err=True
        )
        raise click.exceptions.Exit(1)


def _phase(
    name: str, run: str, /, *options: Any, show: str = "", more: str = "", example: str = _TOY, **own: Any
) -> click.Command:
    """The command of a phase. `run` and `show`: what does its work and what shows it, as `module:function` within
    massact; `own`: what these take besides the session. `more`: of its help, after its summary; `example`: how an
    example ends."""

    def command(experiment_file: str, tracking_uri: str, *, dry_run: bool = False, **given: Any) -> None:
        output = {"output": given.pop("output")} if "output" in given else {}
        session = open_session(experiment_file, tracking_uri, **given)
        work, *shown = (partial(resolve_name(f"massact.{function}"), **own) for function in (run, show) if function)
        _work(session, partial(work, **output), shown[0] if dry_run else None)

    return click.command(name, help=described(name, more, f"--experiment {example}"))(
        _places(stacked(*options)(command))
    )


def _grid_phase(name: str, example: str = _TOY) -> click.Command:
    show = "workflow.dry_run:show_phase"
    return _phase(name, "workflow.steps:run_grid_phase", _grid_options, show=show, example=example, name=name)


calibrate = _phase("calibrate", "workflow.steps:run_calibrate")
extract = _phase("extract", "workflow.steps:run_extract", val_split_option, force_option)
phase1 = _grid_phase("phase1", f"{_TOY} --save-responses best")
phase2 = _grid_phase("phase2")
phase3 = _grid_phase("phase3")
phase4 = _phase("phase4", "workflow.outcome:run_patterns")
confirm = _phase(
    "confirm", "sweep.winners:run_confirm", evaluating_options, dry_run_option, show="workflow.dry_run:show_confirm",
    more="\n\nThe experiment file says which share of the questions is kept for that. What is confirmed is not run "
    "again; massact confirmations shows it.", example="my-experiment.yaml",
)  # fmt: skip
baselines = _phase(
    "baselines", "sweep.winners:run_baselines", evaluating_options, dry_run_option,
    show="workflow.dry_run:show_baselines", more="\n\nThe experiment file says which, under the key baselines; massact "
    "costs shows them beside the winners.", example="experiments/costs.yaml",
)  # fmt: skip
main = _phase(
    "main", "workflow.steps:run_main", _grid_options, _output_option, show="workflow.dry_run:show_main",
    more=" What is finished is not run again.\n\nWhere the experiment file keeps questions for it, winners are "
    "confirmed on them before the report; where it names baselines, they are evaluated; where it has several traits, "
    "winners are scored for all of them.",
)  # fmt: skip


@click.command()
@_places
@_output_option
@click.option(
    "--findings",
    type=click.Path(dir_okay=False),  # empty, as `mlflow run` gives what is not said: none
    help="File whose marked section is written anew with the findings, the rest left alone; the section is added at "
    "the end of a file that has none.",
)
def report(experiment_file: str, tracking_uri: str, output: Path, findings: str | None, *, verbose: bool) -> None:
    """Write the report of everything the store holds, as HTML and Markdown.

    \b
    Examples:
      massact report --experiment experiments/toy.yaml --output reports
      massact report --experiment experiments/toy.yaml --findings docs/research_findings.md
    """
    opened = open_session(experiment_file, tracking_uri, verbose=verbose)
    from massact.workflow.report import run_report

    def run(session: "Session") -> None:
        written = run_report(session, output, findings=Path(findings) if findings else None)
        session.tell(written.checklist, written.summary)

    _work(opened, run, None)


@click.command()
@experiment_option
@tracking_uri_option
@click.pass_context
def status(ctx: click.Context, experiment_file: str, tracking_uri: str) -> None:
    """Show what the store holds for an experiment, prerequisite by prerequisite.

    Exit code 1 when something is missing.

    \b
    Example:
      massact status --experiment experiments/toy.yaml
    """
    from massact.store.databases import is_absent
    from massact.workflow.status import list_prerequisites

    experiment = load_experiment(experiment_file)
    is_none = is_absent(tracking_uri)
    with closing(open_store(tracking_uri, may_be_absent=True)) as store:
        where = f"store {shown_uri(tracking_uri)}{', not made yet' if is_none else ''}"
        click.echo(f"experiment {experiment.name}, {where}", err=True)
        listed = list_prerequisites(experiment, store, confirmed=True)
        for warning in store.warnings:
            click.echo(f"warning: {warning}", err=True)
    for prerequisite in listed:
        mark, hint = ("ok     ", "") if prerequisite.ok else ("missing", f"  ->  {prerequisite.command}")
        click.echo(f"{mark}  {prerequisite.what}: {prerequisite.detail}{hint}")
    missing = [prerequisite for prerequisite in listed if not prerequisite.ok]
    if missing:
        click.echo(f"\n{len(missing)} of {len(listed)} missing. Next: {missing[0].command}")
        ctx.exit(1)
    click.echo(f"\nall {len(listed)} there")


@click.command()
@experiment_option
@tracking_uri_option
@click.option(
    "--floor",
    type=OrFile(Written(FLOOR)),
    metavar="FLOOR",
    help="Which results count: a least mean coherence, or a metric's limit such as kl<=0.3; default: the file's. At "
    "another one nothing is registered.",
)
@click.option(
    "--judge",
    type=OrFile(click.STRING),
    metavar="NAME",
    help="Look at what this judge scored; default: the file's. With another one nothing is registered.",
)
@click.option("--dry-run", is_flag=True, help="Only test and show; writes nothing.")
def predict(experiment_file: str, tracking_uri: str, floor: float | None, judge: str | None, *, dry_run: bool) -> None:
    """Test what predicts the best coefficient and the cliff, and register what searches start from.

    Each way of predicting is fitted on the evaluations of all models and traits but one, and predicts that
    one. The prior is relative strength: refitted, unless the constant that massact comes with does better.

    \b
    Examples:
      massact predict --experiment experiments/toy.yaml --dry-run
      massact predict --experiment benchmarks/coefficients.yaml
    """
    session = open_session(experiment_file, tracking_uri)
    from massact.workflow.predict import run_predict

    warning = None if floor is None else floor_warning(floor)
    if warning:
        click.echo(f"warning: --floor: {warning}", err=True)
    with working(session):
        session.stores.is_dry = dry_run
        run_predict(session, floor, judge)
