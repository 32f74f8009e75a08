"""Print docs/cli.md: the help of every command, as `massact --help` shows it.

Run from the project's root: python tools/cli_reference.py > docs/cli.md
A test fails when the file is not what this prints.
"""

import sys
from collections.abc import Iterator

import click

from massact.cli.app import cli

WIDTH = 100


def walk(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """A command and all below it, in the order of their names."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in sorted(command.list_commands(context)):
            found = command.get_command(context, name)
            assert found is not None
            yield from walk(found, (*path, name))


def help_text(command: click.Command, path: tuple[str, ...]) -> str:
    """What `--help` prints, at a fixed width."""
    context = click.Context(cli, info_name=path[0], **{**cli.context_settings, "max_content_width": WIDTH})
    context.terminal_width = WIDTH
    for name in path[1:]:
        one = command if name == path[-1] else _child(context, name)
        context = click.Context(one, parent=context, info_name=name)
    return command.get_help(context)


def _child(context: click.Context, name: str) -> click.Command:
    assert isinstance(context.command, click.Group)
    found = context.command.get_command(context, name)
    assert found is not None
    return found


def reference() -> str:
    """The whole page."""
    parts = [
        "# Command line",
        "",
        "Made by `make docs` from the commands' own help. Every option can also be given as an environment",
        "variable: `MASSACT_<COMMAND>_<OPTION>`, such as `MASSACT_GAPS_FLOOR=70`. Exit codes: 0 done, 1 the",
        'answer is "no" or the work failed, 2 wrong input, 130 interrupted, 143 terminated.',
    ]
    for path, command in walk(cli, ("massact",)):
        parts += ["", f"## {' '.join(path)}", "", "```", help_text(command, path), "```"]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    sys.stdout.write(reference())
