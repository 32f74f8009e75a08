"""The command group: errors become one clear message and an exit code, interruptions end in order."""

import signal
import sys
from types import FrameType
from typing import Any

import click

from massact import __version__
from massact.cli.evaluate import evaluate
from massact.cli.phases import calibrate, extract, main_command, phase1, phase2, phase3, phase4, report
from massact.cli.questions import best, coefficients, compare, curve, gaps, runs, sensitivity
from massact.cli.status import status
from massact.cli.toy import toy
from massact.cli.transfer import export_command, import_command
from massact.errors import MassactError

INTERRUPTED, TERMINATED = 130, 143


class _Shown(click.ClickException):
    """A mistake or failure that a person reads without a traceback."""

    def show(self, file: Any = None) -> None:
        click.echo(f"error: {self.message}", file=file or sys.stderr)


class _Misused(_Shown):
    """The same for input that must be changed."""

    exit_code = 2


class Group(click.Group):
    """A group whose commands may raise `MassactError` and be interrupted."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except MassactError as error:
            shown = _Misused if error.exit_code == _Misused.exit_code else _Shown
            raise shown(str(error)) from error
        except KeyboardInterrupt:
            click.echo(
                "interrupted: what was finished is kept; run the same command again to go on", err=True
            )
            ctx.exit(INTERRUPTED)


@click.group(
    cls=Group,
    context_settings={
        "auto_envvar_prefix": "MASSACT",
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
    },
)
@click.version_option(__version__, prog_name="massact")
def cli() -> None:
    """Activation-steering experiments on MLflow: run them, and ask what is missing and what is best.

    \b
    Examples:
      massact main --experiment experiments/toy.yaml     run the whole plan
      massact gaps                                       what is still missing
      massact best --label probe                         the best coefficient at the coherence floor
    """


for command in (
    main_command, calibrate, extract, phase1, phase2, phase3, phase4, evaluate, report, gaps, best,
    compare, curve, coefficients, sensitivity, runs, status, toy, import_command,
    export_command,
):  # fmt: skip
    cli.add_command(command)


def main() -> None:
    """Console script: SIGTERM ends like an interruption, so that no run is left open."""
    signal.signal(signal.SIGTERM, _terminate)
    cli()


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(TERMINATED)
