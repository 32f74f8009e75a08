"""`massact doctor` and `massact sync`: look over and mend the run store and the spool, and send what waits there."""

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import click

from massact.addresses import shown_uri
from massact.cli.options import (
    Number,
    asked_experiment,
    asked_experiment_option,
    experiments_in,
    table_or_json_option,
    tracking_uri_option,
)
from massact.cli.session import LOG_SECONDS, spool_option
from massact.config import Experiment, load_experiment
from massact.errors import MassactError, UsageError
from massact.names import as_held, visible
from massact.query.load import find_experiment_file, named_file
from massact.query.rows import OUTPUT_SCHEMA_VERSION
from massact.store.spool import send_leftovers
from massact.words import counted

if TYPE_CHECKING:
    from massact.doctor import Outcome
    from massact.store.schema import EvaluationRow
    from massact.sweep.context import Session

SHOWN = 10  # findings of one kind that are shown one by one


@click.command()
@asked_experiment_option
@tracking_uri_option
@click.option("--fix", is_flag=True, help="Mend what can be mended; without it nothing is written.")
@click.option(
    "--stale-after",
    type=Number(0),
    default=48,
    metavar="HOURS",
    help="When a run that another machine or an older massact left running counts as dead: after so many "
    "hours without a sign of life.",
)
@click.option("--no-artifacts", is_flag=True, help="Leave out vectors and responses, which are files.")
@spool_option
@table_or_json_option("A line a finding, the first ten of each kind; or all of them as JSON.")
@click.pass_context
def doctor(
    ctx: click.Context, /, experiment: str | None, tracking_uri: str, spool: Path, *, fix: bool, stale_after: float,
    no_artifacts: bool, output_format: str,
) -> None:  # fmt: skip
    """Find what is wrong in the run store and the spool, and with --fix mend what can be mended.

    Runs left running by dead processes, evaluations without their vector or responses, vectors that are
    not the row's, keys finished more than once, results that were not sent. No result is ever deleted.
    Exit code 1 while something remains.

    \b
    Examples:
      massact doctor --experiment experiments/toy.yaml
      massact doctor --experiment experiments/toy.yaml --fix
    """
    from massact.doctor import CHECKS, FILE_CHECKS, examine, open_context
    from massact.store.write.database import undo_cut_off_write

    _check_spool(ctx, spool)
    if fix:
        undo_cut_off_write(tracking_uri)
    asked = asked_experiment(experiment, tracking_uri)
    file = named_file(asked)
    declared = load_experiment(file) if file else None
    name = as_held(declared.name if declared else asked, experiments_in(tracking_uri))
    looking = open_context(
        tracking_uri,
        name,
        spool=spool,
        stale_after_hours=stale_after,
        seed=declared.extraction.seed if declared else None,
        told=_files_of_today(declared, tracking_uri),
        say=lambda line: click.echo(line, err=True),
    )
    checks = CHECKS if no_artifacts else (*CHECKS, *FILE_CHECKS)
    report = _Report(name, fix=fix, is_json=output_format == "json")
    with looking as context:
        for outcome in examine(context, checks, fix=fix, looked_at=report.looked_at):
            report.add(outcome)
    click.echo(f"experiment {visible(name)}, store {shown_uri(tracking_uri)}", err=True)
    if declared is None and not report.n_runs and not report.states:
        raise UsageError(
            f"{visible(f'no experiment file {find_experiment_file(name)}')}, and the run store holds no run of an "
            f"experiment {name!r}: pass --experiment FILE, or the name of one that the store holds"
        )
    report.end()
    if report.n_left:
        ctx.exit(1)


def _check_spool(ctx: click.Context, spool: Path) -> None:
    if ctx.get_parameter_source("spool") is click.core.ParameterSource.COMMANDLINE and not spool.is_dir():
        raise UsageError(f"there is no folder {spool}: name the one that --spool named before")


def _files_of_today(declared: Experiment | None, tracking_uri: str) -> Callable[["EvaluationRow"], Mapping[str, str]]:
    """What dataset and tokenizer tell that rows of earlier versions do not; nothing is loaded before one asks."""

    @cache
    def session() -> "Session":
        from massact.sweep.context import Session

        assert declared is not None
        return Session(declared, tracking_uri)

    known: dict[tuple[str, str], Mapping[str, str]] = {}

    def told(row: "EvaluationRow") -> Mapping[str, str]:
        from massact.sweep.stored import subject_of, told_by_files

        place = (row.model, row.trait)
        if declared is not None and place not in known:
            with suppress(MassactError):  # the files are not there any more
                subject = subject_of(session(), row)
                known[place] = {} if subject is None else told_by_files(session(), subject)
        return known.setdefault(place, {})

    return told


class _Report:
    """What was looked at and found: a line a finding, of many of one kind the first few, or all as one JSON object."""

    def __init__(self, experiment: str, *, fix: bool, is_json: bool) -> None:
        self._head = {"schema_version": OUTPUT_SCHEMA_VERSION, "experiment": experiment, "fix": fix}
        self._is_json = is_json
        self.states: Counter[str] = Counter()
        self.n_runs = 0
        self._said = time.monotonic()
        self._counts: Counter[tuple[str, str]] = Counter()
        self._findings: list[dict[str, str | None]] = []

    @property
    def n_left(self) -> int:
        return self.states["found"] + self.states["remains"]

    def looked_at(self, n: int) -> None:
        """Count finished runs; says so now and then on stderr."""
        self.n_runs += n
        now = time.monotonic()
        if now - self._said >= LOG_SECONDS:
            self._said = now
            click.echo(f"{counted(self.n_runs, 'finished run')} looked at", err=True)

    def add(self, outcome: "Outcome") -> None:
        finding, state = outcome.finding, outcome.state
        self.states[state] += 1
        if self._is_json:
            fields = {"check": finding.check, "run_id": finding.run_id, "what": finding.what}
            self._findings.append({**fields, "state": state, "said": outcome.said})
            return
        self._counts[state, finding.check] += 1
        if self._counts[state, finding.check] <= SHOWN:
            about = f"run {finding.run_id}: " if finding.run_id else ""
            click.echo(f"{state:<7}  {finding.check:<10}  {about}{finding.what}  ->  {outcome.said}")

    def end(self) -> None:
        if self._is_json:
            counts = {state: self.states[state] for state in ("found", "mended", "remains", "note")}
            body = {"finished_runs": self.n_runs, "counts": counts, "findings": self._findings}
            click.echo(json.dumps({**self._head, **body}, indent=2))
            return
        for (state, check), count in self._counts.items():
            if count > SHOWN:
                more = f"and {count - SHOWN} more like these; --format json lists all"
                click.echo(f"{state:<7}  {check:<10}  {more}")
        click.echo(f"{chr(10) if self._counts else ''}{self._in_short()}")

    def _in_short(self) -> str:
        words = {"mended": "mended", "found": "can be mended with --fix", "remains": "to be seen to by hand"}
        parts = [f"{self.states[state]} {what}" for state, what in words.items() if self.states[state]]
        notes = self.states["note"]
        told = f" ({counted(notes, 'note')})" if notes else ""
        return f"{counted(self.n_runs, 'finished run')} looked at: {', '.join(parts) if parts else 'healthy'}{told}"


@click.command()
@spool_option
@tracking_uri_option
@click.pass_context
def sync(ctx: click.Context, spool: Path, tracking_uri: str) -> None:
    """Send finished evaluations that wait in the spool to the run store.

    Each goes to the store that it was meant for, once, however often this is run; MLFLOW_TRACKING_URI
    only adds the password of a database, which the spool does not hold. What a process at work
    has in hand is left alone. Exit code 1 when something is left or was lost.

    \b
    Examples:
      massact sync
      massact sync --spool /scratch/spool
    """
    _check_spool(ctx, spool)
    reports = send_leftovers(spool, tracking_uri, say=click.echo)
    n_left = sum(report.left for report in reports)
    n_lost = sum(len(report.damaged) for report in reports)
    unread = [report for report in reports if report.problem and not report.left]
    parts = [f"{n_left} left in {spool}: run massact sync again"] if n_left else []
    parts += [f"{n_lost} damaged lines lost"] if n_lost else []
    parts += [f"{len(unread)} journals could not be read"] if unread else []
    click.echo("; ".join(parts) or f"nothing is left in {spool}")
    if not all(report.is_clear for report in reports):
        ctx.exit(1)
