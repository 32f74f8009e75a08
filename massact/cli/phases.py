"""Commands of the phases, each an entry point of the MLproject too, and what is said of them: status, predict."""

from collections.abc import Callable
from contextlib import closing
from functools import partial, update_wrapper
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

import click

from massact.addresses import shown_uri
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


def _phase(run: str, *options: Any, show: str = "", **own: Any) -> Callable[[Callable[[], None]], click.Command]:
    """The command of a phase, from a function that has its name and its help. `run` and `show`: what does its work and
    what shows it, as `module:function` within massact; `own`: what these take besides the session."""

    def decorate(described: Callable[[], None]) -> click.Command:
        def command(experiment_file: str, tracking_uri: str, *, dry_run: bool = False, **given: Any) -> None:
            output = {"output": given.pop("output")} if "output" in given else {}
            session = open_session(experiment_file, tracking_uri, **given)
            work, *shown = (partial(resolve_name(f"massact.{one}"), **own) for one in (run, show) if one)
            _work(session, partial(work, **output), shown[0] if dry_run else None)

        return click.command()(_places(stacked(*options)(update_wrapper(command, described))))

    return decorate


@_phase("workflow.steps:run_calibrate")
def calibrate() -> None:
    """Find each model's massive dims from neutral prompts.

    \b
    Example:
      massact calibrate --experiment experiments/toy.yaml
    """


@_phase("workflow.steps:run_extract", val_split_option, force_option)
def extract() -> None:
    """Extract activations and vectors, with every cleaning before and after.

    \b
    Example:
      massact extract --experiment experiments/toy.yaml
    """


_grid_phase = partial(_phase, "workflow.steps:run_grid_phase", _grid_options, show="workflow.dry_run:show_phase")


@_grid_phase(name="phase1")
def phase1() -> None:
    """Fill the coherence gaps of the key comparisons: the grid, gap analysis, a search, check again.

    \b
    Example:
      massact phase1 --experiment experiments/toy.yaml --save-responses best
    """


@_grid_phase(name="phase2")
def phase2() -> None:
    """Compare cleaning before extraction with cleaning after it.

    \b
    Example:
      massact phase2 --experiment experiments/toy.yaml
    """


@_grid_phase(name="phase3")
def phase3() -> None:
    """Trace the cleaning curve: 0, 1, 2, 3, 5 and all massive dims.

    \b
    Example:
      massact phase3 --experiment experiments/toy.yaml
    """


@_phase("workflow.outcome:run_patterns")
def phase4() -> None:
    """Work out coefficient patterns and recommendations from the store.

    \b
    Example:
      massact phase4 --experiment experiments/toy.yaml
    """


@_phase("sweep.winners:run_confirm", evaluating_options, dry_run_option, show="workflow.dry_run:show_confirm")
def confirm() -> None:
    """Evaluate winners and labels tied with them once more, on questions that took no part in choosing them.

    The experiment file says which share of the questions is kept for that. What is confirmed is not run again;
    massact confirmations shows it.

    \b
    Example:
      massact confirm --experiment my-experiment.yaml
    """


@_phase("sweep.winners:run_baselines", evaluating_options, dry_run_option, show="workflow.dry_run:show_baselines")
def baselines() -> None:
    """Evaluate what winners are held against: a prompt, examples, random directions of the same norm.

    The experiment file says which, under the key baselines; massact costs shows them beside the winners.

    \b
    Example:
      massact baselines --experiment experiments/costs.yaml
    """


@_phase("workflow.steps:run_main", _grid_options, _output_option, show="workflow.dry_run:show_main")
def main_command() -> None:
    """Run the whole plan: calibrate, extract, phases 1 to 4, report. What is finished is not run again.

    Where the experiment file keeps questions for it, winners are confirmed on them before the report; where it names
    baselines, they are evaluated; where it has several traits, winners are scored for all of them.

    \b
    Example:
      massact main --experiment experiments/toy.yaml
    """


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
    for one in listed:
        mark, hint = ("ok     ", "") if one.ok else ("missing", f"  ->  {one.command}")
        click.echo(f"{mark}  {one.what}: {one.detail}{hint}")
    missing = [one for one in listed if not one.ok]
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
