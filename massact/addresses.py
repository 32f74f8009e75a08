"""Addresses of run stores and of artifact folders, the paths of this machine that they hold, and files written whole.

An address quotes: `%20` in it is a space, and a `?` ends the path. MLflow writes the paths of this machine into
addresses as they are, and reads them quoted: a folder whose name looks quoted would be taken for another one."""

import os
import re
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from urllib.parse import parse_qsl, quote, quote_plus, unquote, unquote_plus, urlencode, urlsplit

from massact.errors import ConfigError, UnusableStoreError, UsageError

DEFAULT_STORE = "mlflow.db"
LOCAL = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}  # noqa: S104  # not bound to
"""Of a server that listens at every address, by what it listens on, the one that this machine comes to it by."""
_DATABASES = ("sqlite", "postgresql", "postgres")
_SCHEME = re.compile(r"\s*[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_BUCKET = re.compile(r"[^:/?#@]*[/?#]")  # a host without a login or a port, and what ends it
_SECRET_NAME = re.compile(r"pass(?!file)|pwd|token|key|secret|sig|credential|authori", re.IGNORECASE)
_LEAST_SECRET = 3
"""Characters of a secret that is looked for in the text of an error; a shorter one is in every other word."""
_WAY_OUT = (
    "rename the folder (a name without % and ?), work in another one, or write to a tracking server "
    "(--tracking-uri http://HOST:PORT)"
)


def http_address(host: str, port: int) -> str:
    """The address of a server of this machine; an IPv6 host stands in brackets."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def scheme_of(tracking_uri: str) -> str:
    """The scheme without a driver, in lower case: `postgresql` of `postgresql+psycopg://HOST`."""
    match = re.match(r"([a-z][a-z0-9]*)(?:\+[a-z0-9]+)?:", tracking_uri.strip(), re.IGNORECASE)
    return match[1].lower() if match else ""


def is_database(tracking_uri: str) -> bool:
    """Whether the URI names a database that is read by SQL."""
    return scheme_of(tracking_uri) in _DATABASES


def check_path(path: Path, what: str) -> Path:
    """A path of this machine that MLflow takes for the same when it is written into an address. `what`: of the error,
    such as `the working directory`. Raises UnusableStoreError: MLflow would read or write elsewhere."""
    text = str(path)
    read = unquote(text.partition("?")[0])
    if read != text:
        raise UnusableStoreError(f"{what} is {text}, which MLflow would take for {read}: {_WAY_OUT}")
    return path


def sqlite_uri(path: Path) -> str:
    """The address of a SQLite file. Raises UnusableStoreError: it would be read as another file's."""
    return f"sqlite:///{check_path(path.absolute(), 'the place of the run store')}"


def plain_sqlite(uri: str) -> str:
    """A SQLite URI whose path has nothing quoted in it: MLflow makes folders by what stands there. Raises
    UnusableStoreError: no such URI names the file."""
    scheme, _, rest = uri.strip().partition(":///")
    path, mark, query = rest.partition("?")
    if path in ("", ":memory:") or path.startswith("file:"):  # the last: a URI of SQLite's own
        return uri
    if mark and "=" not in query:
        check_path(Path(rest), "the file of the tracking URI")
    if Path(path).absolute().parent.is_dir():
        check_path(Path(path), "the file of the tracking URI")
    check_path(Path(unquote(path)), "the file of the tracking URI")
    return f"{scheme}:///{unquote(path)}{mark}{query}"


def local_folder(artifact_uri: str) -> Path | None:
    """The folder of this machine that MLflow means by an artifact URI; `None` where it is another kind of place."""
    parts = urlsplit(artifact_uri)
    if parts.scheme == "file" and not parts.netloc:
        return Path(unquote(parts.path))
    return None if parts.scheme else Path(unquote(artifact_uri))


def moved_folder(artifact_uri: str, tracking_uri: str) -> Path | None:
    """Where a folder of artifacts lies now that its SQLite file and what lies beside it were moved, or copied. MLflow
    keeps whole paths. `None` where the folder is in its place, or nothing of its name lies beside the file."""
    folder = local_folder(artifact_uri)
    if folder is None or scheme_of(tracking_uri) != "sqlite":
        return None
    beside = Path(tracking_uri.strip().partition(":///")[2].partition("?")[0]).absolute().parent
    if folder.is_relative_to(beside) and folder.is_dir():
        return None
    parts = folder.parts
    places = (beside.joinpath(*parts[start:]) for start in range(1, len(parts) - 1))
    found = next((place for place in places if place.is_dir()), None)
    with suppress(OSError):  # what is not there, or may not be looked at, is another one
        if found is not None and found.samefile(folder):
            return None  # one folder by two names, as through a link
    return found


def resolve_tracking_uri(value: str | None) -> str:
    """A tracking URI as given, else MLFLOW_TRACKING_URI, else SQLite in the working directory. Raises ConfigError: it
    is no URI, or a tracking server's with a login in it; UnusableStoreError: it names a file that MLflow would take for
    another one."""
    declared_ui()  # what is wrong with it is said before anything is done
    value = value or os.environ.get("MLFLOW_TRACKING_URI") or sqlite_uri(Path(DEFAULT_STORE))
    if "://" not in value:
        raise ConfigError(
            f"tracking URI {shown_uri(value)!r} has no scheme: write sqlite:///FILE, postgresql://… or http(s)://…"
        )
    if scheme_of(value) == "sqlite":
        return plain_sqlite(value)
    scheme, _, rest = value.partition("://")
    _, is_login, address = rest.partition("/")[0].rpartition("@")
    if scheme.lower() in ("http", "https") and is_login:
        # MLflow would write it into messages and links
        raise ConfigError(
            f"the tracking URI of {scheme}://{address} holds a login: write it without, and set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or ~/.mlflow/credentials (docs/access.md)"
        )
    return value


_UI = "MASSACT_UI"


def declared_ui() -> str | None:
    """The address of the UI that MASSACT_UI names, for links; ConfigError: it is none, or holds a login."""
    told, is_address = os.environ.get(_UI, "").strip().rstrip("/"), False
    with suppress(ValueError):  # brackets or a port that are none
        parts = urlsplit(told)
        is_host = bool(parts.hostname) and parts.port != 0 and "@" not in parts.netloc
        is_address = parts.scheme in ("http", "https") and is_host
    if told and not is_address:
        raise ConfigError(
            f"{_UI} is {shown_uri(told)!r}: write the UI's address without a login, such as http://HOST:PORT"
        )
    return told or None


def shown_uri(uri: str) -> str:
    """A URI as messages show it: `***` for the password of its login, and for the values in its query that are secret.
    Whatever stands between the first `:` and the last `@` counts as the password, as people write theirs unquoted."""
    shown = uri
    for start, end in reversed(_secret_spans(uri)):
        shown = f"{shown[:start]}***{shown[end:]}"
    return shown


def artifacts_shown(uri: str) -> str:
    """Where artifacts lie, as messages show it: without a login, and of a query the names alone. The user's name may be
    the identifier of a key, and the path of a folder is no URI."""
    scheme = _SCHEME.match(uri)
    if scheme is None:
        return uri
    rest = uri[scheme.end() :]
    if "@" in rest and not _BUCKET.match(rest):
        rest = f"***@{rest.rpartition('@')[2]}"
    place, mark, query = rest.partition("#")[0].partition("?")
    names = [part.partition("=") for part in query.split("&") if part]
    return scheme[0] + place + mark + "&".join(f"{name}=***" if is_pair else "***" for name, is_pair, _ in names)


def hide_passwords(text: str, uri: str) -> str:
    """The text of an error without the secrets that a URI holds, whole, in part or quoted."""
    if uri:
        text = text.replace(uri, shown_uri(uri))
    parts: set[str] = set()
    for start, end in _secret_spans(uri):
        # a URI that is not quoted is cut at these by whoever reads it, and a part of the password is in the error
        parts.update((uri[start:end], *re.split(r"[/?#@:&=]", uri[start:end])))
    parts |= {plain for part in parts for plain in (unquote(part), unquote_plus(part))}
    for part in sorted(parts, key=len, reverse=True):
        if len(part) >= _LEAST_SECRET:
            text = re.sub("".join(map(_spellings, part)), "***", text)
    return text


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or the name of its type where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def _spellings(character: str) -> str:
    """A pattern of what a character is written as: itself, quoted for a URI, or as a literal of Python's."""
    quoted = quote(character, safe="", errors="replace")
    forms = {character, quoted, quoted.lower(), quote_plus(character, errors="replace"), repr(character)[1:-1]}
    if character in "'\"":
        forms.add(f"\\{character}")  # in a literal that holds both of them
    return f"(?:{'|'.join(map(re.escape, sorted(forms, key=len, reverse=True)))})"


def _secret_spans(uri: str) -> list[tuple[int, int]]:
    """Where in a URI its secrets begin and end, in order and apart."""
    scheme = _SCHEME.match(uri)
    begin = scheme.end() if scheme else 0
    is_file = scheme_of(uri) in ("sqlite", "file") and uri[begin : begin + 1] == "/"
    login, end = uri.find(":", begin) + 1, uri.rfind("@")
    spans = [(login, end)] if 0 < login < end and not is_file else []
    for part in re.finditer(r"[?&#]([^?&#=]*)=", uri):
        if _SECRET_NAME.search(unquote(part[1])):
            following = re.compile(r"&[\w.%-]+=").search(uri, part.end())
            spans.append((part.end(), following.start() if following else len(uri)))
    apart: list[tuple[int, int]] = []
    for span in sorted(spans):
        if apart and span[0] <= apart[-1][1]:
            apart[-1] = (apart[-1][0], max(apart[-1][1], span[1]))
        else:
            apart.append(span)
    return apart


def store_elsewhere(tracking_uri: str, near: Iterable[Path] = ()) -> str:
    """A hint at stores in other folders, where the URI is the working directory's own; empty where there is none.
    `near`: folders to look into, beside those that are above or below the working directory."""
    here = Path.cwd()
    if tracking_uri != f"sqlite:///{here / DEFAULT_STORE}":
        return ""
    folders = dict.fromkeys(folder.resolve() for folder in (*near, here.parent, here.parent.parent))
    found = [folder / DEFAULT_STORE for folder in folders if folder != here and (folder / DEFAULT_STORE).is_file()]
    below = sorted(here.glob(f"*/{DEFAULT_STORE}"))
    lies = [os.path.relpath(path, here) for path in (*found, *below)]
    return f"; a store lies in {' and '.join(lies[:3])}: --tracking-uri sqlite:///{lies[0]}" if lies else ""


_SECRETS = ("password", "sslpassword")
_OF_DATABASE = re.compile(r"([^:/@]*):[^@]*@")
"""User and password as SQLAlchemy takes them apart: the password may hold a slash or a question mark."""
_OF_SERVER = re.compile(r"([^:/?#]*):[^/?#]*@")


def stored_uri(tracking_uri: str) -> str:
    """A tracking URI without its password, that of a SQLite file with the file's whole path."""
    scheme, _, rest = tracking_uri.strip().partition("://")
    if scheme.lower().startswith("sqlite"):
        path, mark, query = rest.removeprefix("/").partition("?")
        # a URI of SQLite's own (file:...) and a database in memory are no paths
        is_relative = path and not path.startswith(("/", "file:", ":memory:"))
        return f"{scheme}:///{Path(path).absolute() if is_relative else path}{mark}{query}"
    login = _OF_SERVER if scheme.lower().startswith("http") else _OF_DATABASE
    rest = login.sub(r"\1@", rest, count=1) if login.match(rest) else rest
    place, _, query = rest.partition("?")
    kept = [pair for pair in parse_qsl(query, keep_blank_values=True) if pair[0].lower() not in _SECRETS]
    return f"{scheme}://{place.rstrip('/')}" + (f"?{urlencode(kept)}" if kept else "")


def usable_uri(stored: str, given: str | None) -> str:
    """The URI to reach a stored one: the given one, with its password, where it names the same place."""
    return given if given is not None and stored_uri(given) == stored else stored


def write_whole(path: Path, content: Iterable[bytes], remedy: str) -> None:
    """Write a file aside and move it into place, with the mode of what was there. Raises UsageError, with `remedy`."""
    try:
        mode = path.stat().st_mode & 0o7777 if path.exists() else None
        part = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
        try:
            with open(part, "xb", opener=partial(os.open, mode=0o600 if mode else 0o666)) as file:
                file.writelines(content)
            if mode is not None:
                part.chmod(mode)
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}. {remedy}") from error


def write_folder(folder: Path, files: Mapping[str, bytes], remedy: str) -> None:
    """Write files, by their paths within a folder: at once where there is no such folder yet, else each that differs,
    whole. Raises UsageError: one cannot be written; `remedy` says what to do."""
    part = folder.with_name(f".{folder.name}.{os.urandom(4).hex()}")
    is_new = not folder.exists()
    place = part if is_new else folder
    try:
        for below in {os.path.dirname(name) for name in files}:
            (place / below).mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            path = place / name
            if is_new:
                path.write_bytes(content)
            elif not path.is_file() or path.read_bytes() != content:
                write_whole(path, [content], remedy)
        if is_new and files:
            part.replace(folder)
    except BaseException as error:
        if part.exists():
            shutil.rmtree(part, ignore_errors=True)
        if isinstance(error, OSError):
            raise UsageError(f"cannot write {folder}: {error.strerror}. {remedy}") from error
        raise
