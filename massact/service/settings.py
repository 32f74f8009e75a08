"""What a service is started with, checked before anything is started."""

import ipaddress
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from massact.addresses import LOCAL, artifacts_shown, check_path, http_address, scheme_of, shown_uri
from massact.errors import UsageError
from massact.store.databases import sqlite_path

# Secrets of the service: from the environment or from a file that `<NAME>_FILE` names, never a command line.

DATABASE_URI = "MLFLOW_BACKEND_STORE_URI"
DATABASE_PASSWORD = "PGPASSWORD"  # noqa: S105  # a name
ADMIN_PASSWORD = "MLFLOW_AUTH_ADMIN_PASSWORD"  # noqa: S105  # a name
SECRET_KEY = "MLFLOW_FLASK_SERVER_SECRET_KEY"  # noqa: S105  # a name
SECRETS = (DATABASE_URI, DATABASE_PASSWORD, ADMIN_PASSWORD, SECRET_KEY, "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
"""What may be given as `<NAME>_FILE` too."""


def with_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment with each secret's file read, and without the names of those files."""
    resolved = dict(environment)
    for name in SECRETS:
        path, said = resolved.pop(f"{name}_FILE", ""), f"{name}_FILE names"
        if not path:
            continue
        if resolved.get(name):
            raise UsageError(f"both {name} and {name}_FILE are set: unset one of them")
        try:
            resolved[name] = Path(path).read_text(encoding="utf-8").strip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise UsageError(f"{said} {path}, which cannot be read: {reason}") from error
        if not resolved[name]:
            raise UsageError(f"{said} {path}, which is empty: write the secret into it")
    return resolved


DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 5000
DEFAULT_DATABASE, DEFAULT_ARTIFACTS = "mlflow.db", "mlartifacts"
USERS_DATABASE = "mlflow-users.db"  # the user database, beside the run store's where that is SQLite
LOOPBACK_HOSTS = ("127.0.0.1", "127.0.0.1:*", "localhost", "localhost:*", "[[]::1]:*")
"""Host headers that always pass, as MLflow's patterns: health checks and people on the machine itself."""


@dataclass(frozen=True, slots=True)
class Settings:
    """A service. The database's URI may hold a password: it is handed on by the environment alone."""

    database: str  # SQLAlchemy URI of the run store, `sqlite:///…` or `postgresql://…`
    artifacts: str
    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    workers: int = 1
    auth: bool = False
    private: bool = False  # whether users see only what they were given rights to; otherwise each may read everything
    allow_no_auth: bool = False
    allowed_hosts: tuple[str, ...] = ()  # host headers beside those of the machine itself; none: MLflow's default
    cors_allowed_origins: tuple[str, ...] = ()
    access_log: bool = False

    @property
    def users_database(self) -> str:
        """URI of the database that users are kept in."""
        path = sqlite_path(self.database)
        return self.database if path is None else f"sqlite:///{path.parent / USERS_DATABASE}"

    @property
    def local_address(self) -> str:
        """The service's address, as this machine itself comes to it."""
        return http_address(LOCAL.get(self.host, self.host), self.port)


@dataclass(frozen=True, slots=True)
class Task:
    """What a child of `massact serve` is to set up; see `massact.service.preparing`."""

    database: str
    users_file: str | None = None  # configuration of MLflow's auth app, where there are to be users
    artifacts: str | None = None
    tune: bool = False
    upgrade: bool = False  # whether a database of an older MLflow is migrated


def check(settings: Settings) -> None:
    """Make sure that a service can be started so; UsageError says what is wrong with database, address or port."""
    check_database(settings.database)
    if "://" not in settings.artifacts:
        check_path(Path(settings.artifacts), "the folder for artifacts")
    if settings.private and not settings.auth:
        raise UsageError("--private is about users, and without --auth there are none: add --auth")
    if not (is_loopback(settings.host) or settings.auth or settings.allow_no_auth):
        raise UsageError(
            f"{settings.host or 'every address'} can be reached from the network, and without --auth whoever reaches "
            "it may read, change and delete everything: add --auth, or leave out --host, or, where nothing but "
            "trusted machines can connect, add --allow-no-auth"
        )
    with _socket(settings.host) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server itself does
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            raise UsageError(
                f"cannot listen on {settings.host}, port {settings.port}: {error.strerror}. Pass another --port, such "
                f"as {settings.port + 1}, or stop what listens there (`ss -ltnp` shows it)"
            ) from error


def check_database(uri: str) -> None:
    """Make sure that a URI names a database of a kind that is served. Raises UsageError: it does not."""
    if scheme_of(uri) not in ("sqlite", "postgresql", "postgres"):
        raise UsageError(
            f"{shown_uri(uri)} is no database that can be served: write sqlite:///PATH or "
            "postgresql://USER@HOST:PORT/DATABASE"
        )
    path = sqlite_path(uri)
    if path is not None and not path.parent.is_dir():
        raise UsageError(f"there is no folder {path.parent} to keep the database in: make it first")


def check_shown(uri: str, option: str) -> None:
    """Make sure that nobody reads a password in a URI that was given on a command line; else a UsageError."""
    if shown_uri(uri) != uri:
        raise UsageError(
            f"{option} holds a password, and a command line can be read by everybody on the machine: put the URI "
            f"into {DATABASE_URI} or into a file that {DATABASE_URI}_FILE names, or leave the password out of it and "
            "put it into PGPASSWORD or PGPASSWORD_FILE"
        )


def check_artifacts(uri: str, *, is_on_command_line: bool) -> None:
    """Make sure that nobody reads a login or keys in the place of artifacts on a command line; else a UsageError."""
    if is_on_command_line and artifacts_shown(uri) != uri:
        raise UsageError(
            f"--artifacts-destination {artifacts_shown(uri)} holds a login or keys, and a command line can be read by "
            "everybody on the machine: leave them out of it and put them into AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY or their _FILE variables, or give the whole in MLFLOW_ARTIFACTS_DESTINATION"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine itself can reach an address. A name counts as all that it stands for."""
    if host in LOCAL:
        return False
    try:
        addresses = {entry[4][0] for entry in socket.getaddrinfo(host, None)}
    except OSError as error:
        raise UsageError(f"--host {host!r} is no address of this machine: {error}") from error
    return all(ipaddress.ip_address(str(address).partition("%")[0]).is_loopback for address in addresses)


def free_port(host: str) -> int:
    """A port of an address that nobody listens on."""
    with _socket(host) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _socket(host: str) -> socket.socket:
    return socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
