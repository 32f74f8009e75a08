"""`massact serve`: the tracking server and UI, for one machine or a group."""

import json
import os
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from massact.addresses import plain_sqlite, scheme_of, sqlite_uri
from massact.cli.options import split_names, stacked, table_or_json_option, tracking_uri_option
from massact.errors import UsageError
from massact.service.users import GRANTS, MIN_PASSWORD, Role, Users, check_password, generate_password


@click.command()
@click.option(
    "--host",
    default="127.0.0.1",
    help="Address to listen on; another than this machine's own, such as 0.0.0.0, needs --auth.",
)
@click.option("--port", type=click.IntRange(0, 65535), default=5000, help="Port to listen on; 0: one that is free.")
@click.option(
    "--backend-store-uri",
    metavar="URI",
    help="Database of the run store, without a password: sqlite:///PATH or postgresql://USER@HOST/DATABASE; "
    "default: MLFLOW_BACKEND_STORE_URI or MLFLOW_BACKEND_STORE_URI_FILE, else mlflow.db in the working directory.",
)
@click.option(
    "--artifacts-destination",
    envvar=["MASSACT_SERVE_ARTIFACTS_DESTINATION", "MLFLOW_ARTIFACTS_DESTINATION"],
    metavar="URI",
    help="Where the server keeps artifacts for its clients: a folder, or s3://BUCKET/PREFIX; default: mlartifacts "
    "beside a SQLite database, else in the working directory.",
)
@click.option("--auth", is_flag=True, help="Ask for a user name and password; needs 'massact[server]'.")
@click.option(
    "--private", is_flag=True, help="With --auth: users see only the experiments that they were given rights to."
)
@click.option(
    "--allow-no-auth",
    is_flag=True,
    help="Listen on the network without --auth: whoever reaches the port may change and delete everything.",
)
@click.option(
    "--allowed-hosts",
    callback=split_names,
    envvar=["MASSACT_SERVE_ALLOWED_HOSTS", "MLFLOW_SERVER_ALLOWED_HOSTS"],
    metavar="NAMES",
    default="",
    show_default=False,
    help="Names under which clients may come, with commas between them, beside this machine itself; default: private "
    "IP addresses.",
)
@click.option(
    "--cors-allowed-origins",
    callback=split_names,
    envvar=["MASSACT_SERVE_CORS_ALLOWED_ORIGINS", "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"],
    metavar="ORIGINS",
    default="",
    show_default=False,
    help="Origins of other web pages that may use the service, such as https://lab.example; default: only this "
    "machine's.",
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    default=1,
    help="Processes that answer; one starts fastest and takes least memory, more help many readers at once.",
)
@click.option("--access-log", is_flag=True, help="Log every request.")
@click.option(
    "--tune",
    is_flag=True,
    help="Instead of serving: make the database quicker to read, also while a service runs on it, and end.",
)
@click.option(
    "--upgrade",
    is_flag=True,
    help="Instead of serving: migrate a run store of an older MLflow to the schema of the one that is installed, which "
    "older ones then refuse, and end; a copy of a SQLite file is kept beside it.",
)
@click.pass_context
def serve(
    ctx: click.Context, /, backend_store_uri: str | None, artifacts_destination: str | None, **options: Any
) -> None:
    """Start the tracking server and UI: database, artifacts and, with --auth, users.

    Ctrl-C or SIGTERM stops it with exit code 0; 1: the server died; 2: nothing was started. The run store
    is made where there is none. Secrets come from the environment or from files, each NAME also as
    NAME_FILE: MLFLOW_BACKEND_STORE_URI, PGPASSWORD, MLFLOW_AUTH_ADMIN_PASSWORD (the first administrator's,
    12 characters at least), MLFLOW_FLASK_SERVER_SECRET_KEY, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY.

    \b
    Examples:
      massact serve                                           this machine's, on mlflow.db
      massact serve --backend-store-uri postgresql://ada@db/runs --host 0.0.0.0 --auth
      massact serve --tune                                    an index and statistics for readers
      massact serve --upgrade                                 after an upgrade of MLflow
    """
    from massact.service import serving, settings
    from massact.store.databases import sqlite_path

    environment = settings.with_secrets(os.environ)
    default = sqlite_uri(Path(settings.DEFAULT_DATABASE))
    database = backend_store_uri or environment.get(settings.DATABASE_URI) or default
    if scheme_of(database) == "sqlite":
        database = plain_sqlite(database)
    if ctx.get_parameter_source("backend_store_uri") is click.core.ParameterSource.COMMANDLINE:
        settings.check_shown(database, "--backend-store-uri")
    if (tune := options.pop("tune")) | (upgrade := options.pop("upgrade")):
        settings.check_database(database)
        done = serving.prepare(settings.Task(database, tune=tune, upgrade=upgrade), environment)
        click.echo("\n".join(done.notes))
        return
    file = sqlite_path(database)
    is_shown = ctx.get_parameter_source("artifacts_destination") is click.core.ParameterSource.COMMANDLINE
    settings.check_artifacts(artifacts_destination or "", is_on_command_line=is_shown)
    artifacts = artifacts_destination or str((file.parent if file else Path.cwd()) / settings.DEFAULT_ARTIFACTS)
    options["port"] = options["port"] or settings.free_port(options["host"])
    artifacts = artifacts if "://" in artifacts else str(Path(artifacts).absolute())
    serving.serve(settings.Settings(database, artifacts, **options), environment, click.echo)


# `massact users`: who may use a tracking server, and what for.

ROLES = click.Choice([role.value for role in Role])


_password_options = stacked(
    click.option(
        "--password-file",
        type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
        metavar="FILE",
        help="Read the password from a file's first line, - for standard input; default: ask for it.",
    ),
    click.option("--generate", is_flag=True, help="Make a password and print it, this once."),
)
"""Where a new password comes from; never from the command line, which everybody on a machine can read."""


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
@table_or_json_option("How to print them.")
@tracking_uri_option
def list_users(output_format: str, tracking_uri: str) -> None:
    """List users with their roles.

    \b
    Example:
      massact users list --tracking-uri https://mlflow.example.org
    """
    with closing(Users(tracking_uri)) as known:
        listed = known.all()
    if output_format == "json":
        click.echo(json.dumps([asdict(user) for user in listed], indent=2))
        return
    width = max([len("name"), *(len(user.name) for user in listed)])
    click.echo(f"{'name'.ljust(width)}  role    grants on experiments")
    for user in listed:
        click.echo(f"{user.name.ljust(width)}  {user.role:<6}  {user.n_grants:>21}")


@users.command()
@click.argument("name")
@click.option("--role", type=ROLES, default=Role.READER.value, help="What they may do.")
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
    click.echo(_is_now(name, role))
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
    click.echo(_is_now(name, role) + lost)


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


def _is_now(name: str, role: str) -> str:
    return f"{name} is an administrator" if role == Role.ADMIN else f"{name} is a {role}"


def _password(*, generate: bool, file: Path | None) -> str:
    if generate and file is not None:
        raise UsageError("--generate and --password-file: give one of them")
    if generate:
        return generate_password()
    try:
        if file is None:
            asked = f"Password (at least {MIN_PASSWORD} characters)"
            text = click.prompt(asked, hide_input=True, confirmation_prompt=True)
        else:
            with click.open_file(str(file), encoding="utf-8") as lines:
                text = str(lines.readline()).rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"cannot read the password from {file}: {reason}") from None
    check_password(text)
    return str(text)


def _show(password: str, *, generate: bool) -> None:
    if generate:
        click.echo(f"password, shown this once: {password}")
