"""Tracking URIs as a journal keeps them: without a password, and the same from every working directory."""

import re
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

_SECRETS = ("password", "sslpassword")
_OF_DATABASE = re.compile(r"([^:/@]*):[^@]*@")
"""User and password as SQLAlchemy takes them apart: the password may hold a slash or a question mark."""
_OF_SERVER = re.compile(r"([^:/?#]*):[^/?#]*@")


def stored_uri(tracking_uri: str) -> str:
    """A tracking URI without its password, that of a SQLite file with the file's whole path."""
    scheme, _, rest = tracking_uri.strip().partition("://")
    if scheme.lower().startswith("sqlite"):
        return _whole_path(scheme, rest)
    login = _OF_SERVER if scheme.lower().startswith("http") else _OF_DATABASE
    rest = login.sub(r"\1@", rest, count=1) if login.match(rest) else rest
    place, _, query = rest.partition("?")
    kept = [pair for pair in parse_qsl(query, keep_blank_values=True) if pair[0].lower() not in _SECRETS]
    return f"{scheme}://{place.rstrip('/')}" + (f"?{urlencode(kept)}" if kept else "")


def usable_uri(stored: str, given: str | None) -> str:
    """The URI to reach a stored one: the given one, with its password, where it names the same place."""
    return given if given is not None and stored_uri(given) == stored else stored


def _whole_path(scheme: str, rest: str) -> str:
    path, mark, query = rest.removeprefix("/").partition("?")
    # a URI of SQLite's own (file:...) and a database in memory are no paths
    is_relative = path and not path.startswith(("/", "file:", ":memory:"))
    return f"{scheme}:///{Path(path).absolute() if is_relative else path}{mark}{query}"
