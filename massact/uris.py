"""Where the run store is: its URI as it is given, as messages show it, and where else one may lie."""

import os
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from massact.errors import ConfigError

DEFAULT_STORE = "mlflow.db"


def resolve_tracking_uri(value: str | None) -> str:
    """A tracking URI as given, else MLFLOW_TRACKING_URI, else SQLite in the working directory.

    Raises:
        ConfigError: it is no URI, or a tracking server's with a login in it.
    """
    value = value or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path.cwd() / DEFAULT_STORE}"
    if "://" not in value:
        raise ConfigError(
            f"tracking URI {value!r} has no scheme: write sqlite:///FILE, postgresql://… or http(s)://…"
        )
    scheme, _, rest = value.partition("://")
    _, is_login, address = rest.partition("/")[0].rpartition("@")
    if scheme.lower() in ("http", "https") and is_login:
        # MLflow would write it into messages and links
        raise ConfigError(
            f"the tracking URI of {scheme}://{address} holds a login: write it without, and set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or ~/.mlflow/credentials (docs/access.md)"
        )
    return value


def shown_uri(tracking_uri: str) -> str:
    """The URI without the passwords that it may hold."""
    return hide_passwords(tracking_uri, tracking_uri)


def hide_passwords(text: str, tracking_uri: str) -> str:
    """A text without the passwords that a URI holds."""
    parts = urlsplit(tracking_uri)
    secrets = [value for name, value in parse_qsl(parts.query) if "password" in name.lower()]
    for secret in filter(None, (parts.password, *secrets)):
        for form in sorted({secret, unquote(secret), quote(secret, safe="")}, key=len, reverse=True):
            text = text.replace(form, "***")
    return text


def store_elsewhere(tracking_uri: str, near: Iterable[Path] = ()) -> str:
    """A hint at stores in other folders, where the URI is the working directory's own; empty where there is none.

    Args:
        near: folders to look into, beside those that are above or below the working directory.
    """
    here = Path.cwd()
    if tracking_uri != f"sqlite:///{here / DEFAULT_STORE}":
        return ""
    folders = dict.fromkeys(folder.resolve() for folder in (*near, here.parent, here.parent.parent))
    found = [
        folder / DEFAULT_STORE for folder in folders if folder != here and (folder / DEFAULT_STORE).is_file()
    ]
    below = sorted(here.glob(f"*/{DEFAULT_STORE}"))
    lies = [os.path.relpath(path, here) for path in (*found, *below)]
    return f"; a store lies in {' and '.join(lies[:3])}: --tracking-uri sqlite:///{lies[0]}" if lies else ""
