"""Packages that only some ways of loading need."""

import importlib.util

from massact.errors import ModelError


def require(package: str, extra: str, what: str) -> None:
    """See that a package is installed.

    Raises:
        ModelError: it is not; the message has the command that installs it.
    """
    if importlib.util.find_spec(package) is None:
        raise ModelError(f"{what} needs the package {package}: pip install 'massact[{extra}]'")
