"""`massact serve`: the tracking server and UI, for one machine or a group."""

import os
from pathlib import Path

import click

from massact.addresses import plain_sqlite, scheme_of, sqlite_uri


class _Names(click.ParamType):  # type: ignore[type-arg]  # generic only in newer releases of click
    """Names with commas between them, as a tuple."""

    name = "names"

    def convert(
        self,
        value: str | tuple[str, ...],
        param: click.Parameter | None,  # noqa: ARG002  # click's signature
        ctx: click.Context | None,  # noqa: ARG002
    ) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        return tuple(name for part in value.split(",") if (name := part.strip()))


@click.command()
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; another than this machine's own, such as 0.0.0.0, needs --auth.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=5000,
    show_default=True,
    help="Port to listen on; 0: one that is free.",
)
@click.option(
    "--backend-store-uri",
    "backend_store_uri",
    metavar="URI",
    help="Database of the run store, without a password: sqlite:///PATH or postgresql://USER@HOST/DATABASE; "
    "default: MLFLOW_BACKEND_STORE_URI or MLFLOW_BACKEND_STORE_URI_FILE, else mlflow.db in the working directory.",
)
@click.option(
    "--artifacts-destination",
    "artifacts_destination",
    envvar=["MASSACT_SERVE_ARTIFACTS_DESTINATION", "MLFLOW_ARTIFACTS_DESTINATION"],
    metavar="URI",
    help="Where the server keeps artifacts for its clients: a folder, or s3://BUCKET/PREFIX; default: mlartifacts "
    "beside a SQLite database, else in the working directory.",
)
@click.option("--auth", is_flag=True, help="Ask for a user name and password; needs 'massact[server]'.")
@click.option(
    "--private",
    is_flag=True,
    help="With --auth: users see only the experiments that they were given rights to.",
)
@click.option(
    "--allow-no-auth",
    "allow_no_auth",
    is_flag=True,
    help="Listen on the network without --auth: whoever reaches the port may change and delete everything.",
)
@click.option(
    "--allowed-hosts",
    "allowed_hosts",
    type=_Names(),
    envvar=["MASSACT_SERVE_ALLOWED_HOSTS", "MLFLOW_SERVER_ALLOWED_HOSTS"],
    metavar="NAMES",
    default="",
    help="Names under which clients may come, with commas between them, beside this machine itself; default: private "
    "IP addresses.",
)
@click.option(
    "--cors-allowed-origins",
    "cors_allowed_origins",
    type=_Names(),
    envvar=["MASSACT_SERVE_CORS_ALLOWED_ORIGINS", "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"],
    metavar="ORIGINS",
    default="",
    help="Origins of other web pages that may use the service, such as https://lab.example; default: only this "
    "machine's.",
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Processes that answer; one starts fastest and takes least memory, more help many readers at once.",
)
@click.option("--access-log", "access_log", is_flag=True, help="Log every request.")
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
    ctx: click.Context,
    *,
    host: str,
    port: int,
    backend_store_uri: str | None,
    artifacts_destination: str | None,
    auth: bool,
    private: bool,
    allow_no_auth: bool,
    allowed_hosts: tuple[str, ...],
    cors_allowed_origins: tuple[str, ...],
    workers: int,
    access_log: bool,
    tune: bool,
    upgrade: bool,
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
    from massact.service.secrets import DATABASE_URI, with_secrets
    from massact.service.serving import maintain
    from massact.service.serving import serve as start
    from massact.service.settings import (
        DEFAULT_ARTIFACTS,
        DEFAULT_DATABASE,
        Settings,
        check_artifacts,
        check_shown,
        free_port,
        sqlite_path,
    )

    environment = with_secrets(os.environ)
    database = backend_store_uri or environment.get(DATABASE_URI) or sqlite_uri(Path(DEFAULT_DATABASE))
    if scheme_of(database) == "sqlite":
        database = plain_sqlite(database)
    if ctx.get_parameter_source("backend_store_uri") is click.core.ParameterSource.COMMANDLINE:
        check_shown(database, "--backend-store-uri")
    if tune or upgrade:
        maintain(database, environment, _say, tune=tune, upgrade=upgrade)
        return
    file = sqlite_path(database)
    beside = Path.cwd() if file is None else file.parent
    is_command_line = (
        ctx.get_parameter_source("artifacts_destination") is click.core.ParameterSource.COMMANDLINE
    )
    check_artifacts(artifacts_destination or "", is_on_command_line=is_command_line)
    artifacts = artifacts_destination or str(beside / DEFAULT_ARTIFACTS)
    settings = Settings(
        database,
        artifacts if "://" in artifacts else str(Path(artifacts).absolute()),
        host=host,
        port=port or free_port(host),
        workers=workers,
        auth=auth,
        private=private,
        allow_no_auth=allow_no_auth,
        allowed_hosts=allowed_hosts,
        cors_allowed_origins=cors_allowed_origins,
        access_log=access_log,
    )
    start(settings, environment, _say)


def _say(line: str) -> None:
    click.echo(line)
