"""The command group: errors become one clear message and an exit code, interruptions end in order."""

import difflib
import gc
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click

from massact import __version__, api
from massact._gc import collector_paused
from massact.errors import MassactError, UsageError
from massact.names import visible

_BY_MODULE: dict[str, dict[str, str]] = {
    "phases": {
        "main": "Run the whole plan: calibrate, extract, phases 1 to 4, report.",
        "calibrate": "Find each model's massive dims from neutral prompts.",
        "extract": "Extract activations and vectors, with every cleaning before and after.",
        "phase1": "Fill the coherence gaps of the key comparisons: the grid, gap analysis, a search, check again.",
        "phase2": "Compare cleaning before extraction with cleaning after it.",
        "phase3": "Trace the cleaning curve: 0, 1, 2, 3, 5 and all massive dims.",
        "phase4": "Work out coefficient patterns and recommendations from the store.",
        "confirm":
        "Evaluate winners and labels tied with them once more, on questions that took no part in choosing them.",
        "baselines": "Evaluate what winners are held against: a prompt, examples, random directions of the same norm.",
        "report": "Write the report of everything the store holds, as HTML and Markdown.",
        "predict": "Test what predicts the best coefficient and the cliff, and register what searches start from.",
        "status": "Show what the store holds for an experiment, prerequisite by prerequisite.",
    },
    "evaluate": {
        "evaluate": "Evaluate a grid of cells: labels x layers x coefficients at one window.",
        "search": "Search the best coefficient of labels at every layer, with few evaluations.",
        "fill-gaps": "Search what gaps reports, until no gap remains or it is said why one cannot be closed.",
    },
    "doctor": {
        "doctor": "Find what is wrong in the run store and the spool, and with --fix mend what can be mended.",
        "sync": "Send finished evaluations that wait in the spool to the run store.",
    },
    "judging": {
        "judge-check": "Show a judge texts whose scores are known, several times, and how much its scores vary.",
        "rejudge": "Score stored responses with another judge, without generating any again.",
        "label": "Have a person score stored responses, blind: without label, coefficient and the judge's scores.",
    },
    "serve": {
        "users": "Who may use a tracking server with logins: readers, writers and administrators.",
        "serve": "Start the tracking server and UI: database, artifacts and, with --auth, users.",
    },
    "steered": {
        "explore":
        "Show every evaluation of a store on a page of this machine: figures to click on, responses behind them.",
        "chat": "Talk with a steered model: every answer beside that of the same model unsteered.",
        "serve-model":
        "Serve a model and every best that the store holds of it, over the API of OpenAI: chats, texts and streams.",
        "bake": "Write what a stored evaluation does into its model's weights: a checkpoint that transformers loads.",
        "capability": "Run tasks of lm-evaluation-harness with what a stored evaluation does and without: its cost.",
    },
    "vectors": {
        "vectors": "Steering vectors as files of other tools, out and in.",
        "show":
        "Show what a model said: responses of an evaluation, each beside the unsteered one, with their scores.",
    },
    "transfer": {
        "import": "Import old results: a results.jsonl file, or a folder such as trait-interp's experiments/.",
        "export":
        "Export results as results.jsonl files, with responses, calibrations and vectors, in trait-interp's layout.",
        "init": "Write an experiment file NAME.yaml to begin with, commented, and folders for traits.",
    },
}  # fmt: skip

COMMANDS: dict[str, tuple[str, str]] = {
    name: (module, summary) for module, commands in _BY_MODULE.items() for name, summary in commands.items()
}
"""Of each command its module in `massact.cli`, and the first sentence of its help, for the list of commands."""

INTERRUPTED, TERMINATED = 130, 143


class _Shown(click.ClickException):
    """A mistake or failure that a person reads without a traceback."""

    def __init__(self, error: MassactError) -> None:
        super().__init__(str(error))
        self.exit_code = error.exit_code  # type: ignore[misc]  # click has it by class

    def show(self, file: Any = None) -> None:
        lines = (visible(line) for line in self.message.split("\n"))
        click.echo("error: " + "\n".join(lines), file=file or sys.stderr)


def described(name: str, more: str, example: str) -> str:
    """The help of a command: its summary, what there is to say besides, and an example, which ends so."""
    return f"{COMMANDS[name][1]}{more}\n\n\b\nExample:\n  massact {name} {example}"


def summaries() -> dict[str, str]:
    """The first sentence of every command's help."""
    entries = {name: summary for name, (_, summary) in COMMANDS.items()}
    return {**entries, **api.summaries()}


class Group(click.Group):
    """A group whose commands are loaded when they are run, may raise `MassactError` and be interrupted."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        return sorted(summaries())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in self.commands:
            with collector_paused():  # hundreds of modules, none of which is garbage
                if cmd_name in COMMANDS:
                    home = COMMANDS[cmd_name][0]
                    held = vars(import_module(f"massact.cli.{home}")).values()
                    # a group's own command may be called as another module's is, such as `vectors export`
                    for each in held:
                        if isinstance(each, click.Command) and COMMANDS.get(each.name or "", ("",))[0] == home:
                            self.add_command(each)
                elif api.is_command(cmd_name):
                    self.commands[cmd_name] = import_module("massact.cli.questions").command(cmd_name)
        return self.commands.get(cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        unknown = not ctx.resilient_parsing and self.get_command(ctx, args[0]) is None
        if unknown and (near := difflib.get_close_matches(args[0], self.list_commands(ctx), n=1)):
            ctx.fail(f"No such command {args[0]!r}. Did you mean {near[0]!r}?")
        found = super().resolve_command(ctx, args)
        if found[1] is not None and not ctx.resilient_parsing:
            refuse_repeated(found[1], found[2])
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  # click's signature
        by_name = dict(sorted(summaries().items()))
        room = formatter.width - 6 - max(map(len, by_name))
        rows = [(name, click.Command(name, help=text).get_short_help_str(room)) for name, text in by_name.items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except MassactError as error:
            raise _Shown(error) from error
        except KeyboardInterrupt:
            click.echo("interrupted: what was finished is kept; run the same command again to go on", err=True)
            ctx.exit(INTERRUPTED)


def refuse_repeated(command: click.Command, arguments: Sequence[str]) -> None:
    """Refuse an option that takes one value and is given two: the second would replace the first in silence."""
    context, written = (
        click.Context(command, resilient_parsing=True),
        {argument.partition("=")[0] for argument in arguments},
    )
    _, rest, order = command.make_parser(context).parse_args(list(arguments))
    for option, times in Counter(order).items():
        if times > 1 and isinstance(option, click.Option) and not option.multiple:
            names = sorted({*option.opts, *option.secondary_opts} & written) or option.opts[:1]
            if not option.is_flag or len(names) > 1:
                raise UsageError(f"{' and '.join(names)} given {times} times, of which one counts: write it once")
    if isinstance(command, click.Group) and rest and rest[0] in command.commands:
        refuse_repeated(command.commands[rest[0]], rest[1:])


@click.group(
    cls=Group,
    context_settings={
        "auto_envvar_prefix": "MASSACT",
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
        "show_default": True,
    },
)
@click.version_option(__version__, prog_name="massact")
def cli() -> None:
    """Activation-steering experiments on MLflow: run them, and ask what is missing and what is best.

    \b
    Examples:
      massact main --experiment experiments/toy.yaml     run the whole plan
      massact gaps                                       what is still missing, of the store's only experiment
      massact best --label probe                         the best coefficient at the coherence floor
    """


def main() -> None:
    """Console script: SIGTERM ends like an interruption, so that no run is left open."""
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(TERMINATED))
    try:
        cli()
    finally:
        gc.freeze()  # the process ends: a last look through everything takes as long as a small question
