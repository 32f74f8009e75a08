"""Writing files: whole or not at all, and never over one that is there."""

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from massact.errors import UsageError


def check_free(paths: Iterable[Path]) -> None:
    """Check that none of the files is there.

    Raises:
        UsageError: one is.
    """
    for path in paths:
        if path.exists():
            raise UsageError(f"{path} is there already: pass --overwrite to replace it, or another --output")


def write_whole(path: Path, content: Iterable[bytes]) -> None:
    """Write a file under another name and move it into place; its folder is made.

    Raises:
        UsageError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.writelines(content)
            umask = os.umask(0)
            os.umask(umask)
            Path(name).chmod(0o666 & ~umask)  # mkstemp's files are for their owner only
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UsageError(
            f"cannot write {path}: {error.strerror}. Choose an --output that can be written"
        ) from error
