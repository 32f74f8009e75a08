"""What other packages add by entry points: vector methods, operators, judges, executors, run stores and questions
(docs/extending.md).

They are looked for when a name is asked for that massact itself does not have, and loaded when they are used.
"""

import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from massact.errors import PluginError


def plugin_names(kind: str) -> tuple[str, ...]:
    """The names that installed packages add.

    Args:
        kind: `methods`, `operators`, `judges`, `executors`, `stores` or `questions`.
    """
    return tuple(_by_name(f"massact.{kind}", tuple(sys.path)))


def load_plugin(kind: str, name: str) -> Any:
    """What a package adds under a name.

    Raises:
        PluginError: no package does, two do, or it cannot be loaded; the message names the packages.
    """
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
def _by_name(group: str, _path: tuple[str, ...]) -> Mapping[str, Sequence[EntryPoint]]:
    by_name: dict[str, list[EntryPoint]] = defaultdict(list)
    for point in sorted(entry_points(group=group), key=lambda point: (point.name, _package(point))):
        by_name[point.name].append(point)
    return dict(by_name)


def _package(point: EntryPoint) -> str:
    return f"the package {point.dist.name} {point.dist.version}" if point.dist else "a package without a name"
