"""What others add (docs/extending.md): packages, by entry points, methods, operators, judges, metrics, executors, run
stores and questions; an experiment's own files methods, operators and metrics, as `module:function`.

They are looked for when a name is asked for that massact itself does not have, and loaded when they are used."""

import hashlib
import json
import os
import re
import sys
import traceback
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from importlib import import_module, reload
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from massact.errors import ConfigError, MassactError, PluginError, UsageError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

T = TypeVar("T")
OWN_CODE = "MASSACT_OWN_CODE"
"""Environment variable with the functions of the experiment that was read last, so that processes which are started for
it have them too: kind and name -> reference, folder and digest."""
_OWN_NAME = re.compile(r"[a-z][a-z0-9_]*", re.ASCII)


def plugin_names(kind: str) -> tuple[str, ...]:
    """The names that the experiment's own files and installed packages add. `kind`: `methods`, `operators`, `judges`,
    `metrics`, `executors`, `stores` or `questions`."""
    own = (name for (of_kind, name) in _own() if of_kind == kind)
    return (*own, *_by_name(f"massact.{kind}", tuple(sys.path)))


def forget_own() -> None:
    """Start anew: another experiment file has other functions."""
    os.environ.pop(OWN_CODE, None)


def declare_own(kind: str, reference: str, folder: Path) -> str:
    """Have `module:function`, of a file in the experiment's folder, known under the function's name, which is returned.
    Nothing of the file runs until it is used. Raises UsageError: there is no such file or function, or the name is
    taken."""
    module, _, name = reference.partition(":")
    file = _file(module, folder)
    if not _OWN_NAME.fullmatch(name):
        raise UsageError(
            f"{reference!r}: write module:function, the function's name of lower-case letters, digits and _"
        )
    if not file.is_file():
        raise UsageError(f"{reference!r}: there is no file {file}")
    source = file.read_bytes()
    if not re.search(rf"\b{name}\b".encode(), source):
        raise UsageError(f"{reference!r}: {file} has no {name}")
    if name in plugin_names(kind):
        raise UsageError(f"{reference!r}: there is another of the {kind} called {name!r}; rename the function")
    own = {f"{kind} {name}": (reference, str(folder.resolve()), hashlib.sha256(source).hexdigest())}
    os.environ[OWN_CODE] = json.dumps({**json.loads(os.environ.get(OWN_CODE, "{}")), **own})
    return name


def own_digest(kind: str, name: str) -> str | None:
    """The SHA-256, in hex, of the file that defines a function of the experiment's own; `None`: it is none."""
    own = _own().get((kind, name))
    return own and own[2]


def _own() -> Mapping[tuple[str, str], tuple[str, str, str]]:
    return _read_own(os.environ.get(OWN_CODE, "{}"))


@lru_cache(maxsize=4)
def _read_own(text: str) -> Mapping[tuple[str, str], tuple[str, str, str]]:
    return {(place.split()[0], place.split()[1]): tuple(own) for place, own in json.loads(text).items()}


def _file(module: str, folder: Path) -> Path:
    return folder.resolve().joinpath(*module.split(".")).with_suffix(".py")


_READ: dict[str, str] = {}  # digest of each file of a user that was imported


def load_code(reference: str, folder: str, what: str) -> Any:
    """What `module:name` names, in a file of a folder or in an installed module. `folder`: empty: only what is
    installed. `what`: what it is, for the message. Raises ConfigError: there is no such module or name, or it cannot be
    loaded."""
    module, _, name = reference.partition(":")
    if folder and folder not in sys.path:
        sys.path.append(folder)
    try:
        loaded = import_module(module)
        file = _file(module, Path(folder))
        if folder and file.is_file():
            if Path(loaded.__file__ or "").resolve() != file:
                raise ImportError(f"another module {module} is loaded, {loaded.__file__}: rename {file.name}")  # noqa: TRY301
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            if _READ.setdefault(str(file), digest) != digest:  # it was changed since, as in a notebook
                loaded, _READ[str(file)] = reload(loaded), digest
        return getattr(loaded, name)
    except (Exception, SystemExit) as error:  # whatever the module does at its import
        raise ConfigError(
            f"{what} cannot be loaded: {type(error).__name__}: {error}; write MODULE:NAME, with a module that is "
            "installed or lies beside the experiment file"
        ) from error


def load_plugin(kind: str, name: str) -> Any:
    """What the experiment's own file or a package adds under a name. Raises PluginError: no package does, two do, or it
    cannot be loaded; the message names the packages; ConfigError: the experiment's own file cannot be loaded."""
    if own := _own().get((kind, name)):
        reference, folder, _ = own
        found = load_code(reference, folder, f"{reference!r} of the {kind}")
        if not callable(found):
            raise ConfigError(f"{reference!r} of the {kind} is no function")
        return found
    group = f"massact.{kind}"
    points = _by_name(group, tuple(sys.path)).get(name, ())
    if len(points) != 1:
        packages = " and ".join(map(_package, points))
        problem = f"is added by {packages}: uninstall one of them" if points else "is added by no installed package"
        raise PluginError(f"{name!r} of {group} {problem}")
    (point,) = points
    try:
        loaded = point.load()
    except (Exception, SystemExit) as error:  # whatever the package does at its import
        raise PluginError(
            f"{name!r} of {group} cannot be loaded from {point.value} of {_package(point)}: "
            f"{type(error).__name__}: {error}; mend or uninstall that package"
        ) from error
    if not callable(loaded):
        raise PluginError(f"{name!r} of {group}, {point.value} of {_package(point)}, is no function or class")
    return loaded


@lru_cache(maxsize=16)
def _by_name(group: str, _path: tuple[str, ...]) -> Mapping[str, "Sequence[EntryPoint]"]:
    from importlib.metadata import entry_points  # takes a tenth of what `--help` does

    by_name: dict[str, list[EntryPoint]] = defaultdict(list)
    for point in sorted(entry_points(group=group), key=lambda point: (point.name, _package(point))):
        by_name[point.name].append(point)
    return dict(by_name)


def _package(point: "EntryPoint") -> str:
    return f"the package {point.dist.name} {point.dist.version}" if point.dist else "a package without a name"


def call_outside(what: str, call: Callable[[], T], failure: type[MassactError]) -> T:
    """What a function of somebody else gives; whatever it raises is a `failure` with the line. `what`: what it is."""
    try:
        return call()
    except MassactError:
        raise
    except (Exception, SystemExit) as error:  # whatever code of somebody else does
        where = traceback.extract_tb(error.__traceback__)[-1]
        raise failure(
            f"{what} failed: {type(error).__name__}: {error} ({where.filename}, line {where.lineno})"
        ) from error
