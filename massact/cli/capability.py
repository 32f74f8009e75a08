"""`massact capability`: what a stored evaluation costs on tasks of lm-evaluation-harness."""

from typing import Any

import click

from massact.cli.options import FILTER_OPTIONS, experiment_option, run_or_best, stacked, tracking_uri_option
from massact.cli.questions import OUTPUT, OUTPUT_OPTIONS, print_answers
from massact.cli.session import open_session, working
from massact.errors import UsageError
from massact.query import Answer


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
def capability(experiment_file: str, tracking_uri: str, run_id: str | None, tasks: str, **told: Any) -> None:
    """Run tasks of lm-evaluation-harness with what a stored evaluation does and without: its cost.

    The steered and the unsteered model are asked the same documents; deltas are paired by document. Each task becomes
    a run under the evaluation's, which massact best, its --cost, massact costs and the report read.

    \b
    Examples:
      massact capability --best --trait refusal --tasks hellaswag,mmlu --limit 500
      massact capability --best --baselines --tasks my_task.yaml
      massact capability --run 0123456789abcdef0123456789abcdef --tasks my_task.yaml
    """
    if told.pop("best") and run_id is not None:
        raise UsageError("--run and --best name two evaluations: give one of them")
    session = open_session(experiment_file, tracking_uri)
    from massact.workflow.capability import HarnessOptions, held_against, run_capability

    how = {name: told.pop(name) for name in ("num_fewshot", "limit", "batch_size", "is_chat")}
    names = tuple(dict.fromkeys(filter(None, map(str.strip, tasks.split(",")))))
    if not names:
        raise UsageError("--tasks names no task: write names with commas between them, or YAML files")
    asked, has_baselines = HarnessOptions(names, **how), told.pop("baselines")
    output = {name: told.pop(name) for name in OUTPUT}
    with working(session):
        chosen = run_or_best(run_id, experiment_file, tracking_uri, told)
        runs = list(dict.fromkeys([chosen, *(held_against(session, chosen) if has_baselines else ())]))
        lines = [line for run in runs for line in run_capability(session, run, asked)]
    floor, name = session.experiment.coherence_floor, session.experiment.name
    print_answers(Answer(question="capability", floor=floor, rows=tuple(lines), experiment=name), **output)
    click.echo(f"run {', '.join(runs)}; figures in points, hundredths of the task's metric", err=True)
