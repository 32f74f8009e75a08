"""Who ran what: the tags that MLflow's client leaves to its caller."""

import getpass
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

from massact.schema import SCHEMA_VERSION, MlflowTag, Tag


@lru_cache(maxsize=1)
def provenance_tags() -> dict[str, str]:
    """User, source, git commit and whether the tree was dirty, read once per process."""
    tags = {
        MlflowTag.USER.value: _user(),
        MlflowTag.SOURCE.value: Path(sys.argv[0]).name or "massact",
        MlflowTag.SOURCE_TYPE.value: "LOCAL",
        Tag.SCHEMA.value: str(SCHEMA_VERSION),
    }
    commit = _git("rev-parse", "HEAD")
    if commit:
        tags[MlflowTag.GIT_COMMIT.value] = commit
        tags[Tag.GIT_DIRTY.value] = (
            "true" if _git("status", "--porcelain", "--untracked-files=no") else "false"
        )
    return tags


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user id without a name
        return "unknown"


def _git(*arguments: str) -> str:
    folder = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
