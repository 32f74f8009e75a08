"""Who one is to a tracking server: from the environment and MLflow's credentials file, as MLflow's client does it."""

import configparser
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from massact.errors import StoreError

if TYPE_CHECKING:
    from requests import Session

_USERNAME, _PASSWORD, _TOKEN = (f"MLFLOW_TRACKING_{name}" for name in ("USERNAME", "PASSWORD", "TOKEN"))


@dataclass(frozen=True, slots=True)
class Login:
    """A name with its password, or a token; none of them where the server asks for nobody's name."""

    username: str | None
    password: str | None = field(repr=False)
    token: str | None = field(repr=False)


def find_login() -> Login:
    """The login of this process, as MLflow's client finds it. Name and password each come from the environment, or else
    from the section `[mlflow]` of the credentials file, where `%` is written `%%`; the token from the environment only.
    Raises StoreError, which quotes nothing, where it cannot be read."""
    username, password = (os.environ.get(name) or None for name in (_USERNAME, _PASSWORD))
    if not (username and password):
        in_file = _from_file(Path("~/.mlflow/credentials").expanduser())
        username, password = username or in_file[0], password or in_file[1]
    return Login(username, password, os.environ.get(_TOKEN) or None)


def log_in(session: "Session") -> None:
    """Give a session the login, and the certificates, that MLflow's client would use."""
    from requests.auth import HTTPBasicAuth

    login = find_login()
    if login.username and login.password:
        # as MLflow's client encodes them; requests alone would write Latin-1
        session.auth = HTTPBasicAuth(login.username.encode(), login.password.encode())
    elif login.token:
        session.headers["Authorization"] = f"Bearer {login.token}"
    is_insecure = os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1")
    session.verify = os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or not is_insecure
    session.cert = os.environ.get("MLFLOW_TRACKING_CLIENT_CERT_PATH") or None


def _from_file(path: Path) -> tuple[str | None, str | None]:
    parser = configparser.ConfigParser()
    try:
        if not path.exists():
            return None, None
        parser.read_string(path.read_text())
        if not parser.has_section("mlflow"):
            return None, None
        section = parser["mlflow"]
        return section.get(_USERNAME.lower()), section.get(_PASSWORD.lower())
    except (OSError, ValueError, configparser.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else type(error).__name__
    # the parser's own message quotes the line, which may be the password's: it is no cause either
    raise StoreError(
        f"{path}: not MLflow's credentials file ({reason}): write a section [mlflow] with "
        f"{_USERNAME.lower()} = NAME and {_PASSWORD.lower()} = PASSWORD, each % doubled"
    )
