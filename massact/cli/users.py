"""`massact users`: who may use a tracking server, and what for."""

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import click

from massact.cli.options import tracking_uri_option
from massact.errors import UsageError
from massact.service.users import GRANTS, MIN_PASSWORD, Role, Users, check_password, generate_password

F = TypeVar("F", bound=Callable[..., Any])
ROLES = click.Choice([role.value for role in Role])


def _password_options(command: F) -> F:
    """Where a new password comes from; never from the command line, which everybody on a machine can read."""
    for option in (
        click.option("--generate", is_flag=True, help="Make a password and print it, this once."),
        click.option(
            "--password-file",
            type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
            metavar="FILE",
            help="Read the password from a file's first line, - for standard input; default: ask for it.",
        ),
    ):
        command = option(command)
    return command


@click.group()
def users() -> None:
    """Who may use a tracking server with logins: readers, writers and administrators.

    For administrators of a server started with `massact serve --auth`; one's own password anybody changes.
    What each may do: docs/access.md.

    \b
    Example:
      massact users add ada --role writer --generate
    """


@users.command("list")
@click.option(
    "--format", "output_format", type=click.Choice(["table", "json"]), default="table", show_default=True,
    help="How to print them.",
)  # fmt: skip
@tracking_uri_option
def list_users(output_format: str, tracking_uri: str) -> None:
    """List users with their roles.

    \b
    Example:
      massact users list --tracking-uri https://mlflow.example.org
    """
    with closing(Users(tracking_uri)) as known:
        found = known.all()
    if output_format == "json":
        click.echo(json.dumps([asdict(user) for user in found], indent=2))
        return
    width = max([len("name"), *(len(user.name) for user in found)])
    click.echo(f"{'name'.ljust(width)}  role    grants on experiments")
    for user in found:
        click.echo(f"{user.name.ljust(width)}  {user.role:<6}  {user.n_grants:>21}")


@users.command()
@click.argument("name")
@click.option("--role", type=ROLES, default=Role.READER.value, show_default=True, help="What they may do.")
@_password_options
@tracking_uri_option
def add(name: str, role: str, generate: bool, password_file: Path | None, tracking_uri: str) -> None:
    """Make the user NAME.

    \b
    Examples:
      massact users add ada --role writer --generate
      massact users add grace --password-file grace.txt
    """
    with closing(Users(tracking_uri)) as known:
        password = _password(generate=generate, file=password_file)
        known.add(name, password, Role(role))
    click.echo(f"{name} is a {role}" if role != Role.ADMIN else f"{name} is an administrator")
    _show(password, generate=generate)


@users.command()
@click.argument("name")
@click.argument("role", type=ROLES)
@tracking_uri_option
def role(name: str, role: str, tracking_uri: str) -> None:
    """Make the user NAME a reader, a writer or an admin.

    Who becomes a reader also loses the right to write to experiments and models that they made or were granted.

    \b
    Example:
      massact users role ada reader
    """
    with closing(Users(tracking_uri)) as known:
        n_lost = known.set_role(name, Role(role))
    lost = f"; {n_lost} grants to write were taken back" if n_lost else ""
    click.echo((f"{name} is a {role}" if role != Role.ADMIN else f"{name} is an administrator") + lost)


@users.command()
@click.argument("name")
@_password_options
@tracking_uri_option
def password(name: str, generate: bool, password_file: Path | None, tracking_uri: str) -> None:
    """Change the password of the user NAME.

    \b
    Example:
      massact users password ada --generate
    """
    with closing(Users(tracking_uri)) as known:
        new = _password(generate=generate, file=password_file)
        known.set_password(name, new)
    click.echo(f"the password of {name} is changed")
    _show(new, generate=generate)


@users.command()
@click.argument("name")
@tracking_uri_option
def remove(name: str, tracking_uri: str) -> None:
    """Remove the user NAME.

    Their experiments and runs stay; administrators may write to them, and whom they grant it.

    \b
    Example:
      massact users remove ada
    """
    with closing(Users(tracking_uri)) as known:
        known.remove(name)
    click.echo(f"{name} is removed; what they logged stays")


@users.command()
@click.argument("name")
@click.argument("experiment")
@click.argument("may", type=click.Choice(list(GRANTS)))
@tracking_uri_option
def grant(name: str, experiment: str, may: str, tracking_uri: str) -> None:
    """Say what the user NAME may do with one EXPERIMENT, by its name in MLflow.

    `nothing` hides it from them, `read`, `write` and `manage` (also delete, and grant to others) allow that;
    `default` is what their role says. For administrators and who may manage the experiment.

    \b
    Examples:
      massact users grant ada gemma-refusal write
      massact users grant grace gemma-refusal nothing
    """
    with closing(Users(tracking_uri)) as known:
        known.grant(name, experiment, may)
    click.echo(f"{name} may do with {experiment}: {may}")


def _password(*, generate: bool, file: Path | None) -> str:
    if generate and file is not None:
        raise UsageError("--generate and --password-file: give one of them")
    if generate:
        return generate_password()
    if file is None:
        text = click.prompt(
            f"Password (at least {MIN_PASSWORD} characters)", hide_input=True, confirmation_prompt=True
        )
    else:
        text = _first_line(file)
    check_password(text)
    return str(text)


def _first_line(file: Path) -> str:
    try:
        with click.open_file(str(file), encoding="utf-8") as lines:
            return str(lines.readline()).rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"cannot read the password from {file}: {reason}") from None


def _show(password: str, *, generate: bool) -> None:
    if generate:
        click.echo(f"password, shown this once: {password}")
