"""Print docker/requirements-server.txt: what of requirements.lock the tracking server's image needs.

Run from the project's root: python tools/server_requirements.py > docker/requirements-server.txt
A test fails when the file is not what this prints, and another starts the server with nothing else importable.
"""

import re
import sys
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
WANTED = ("mlflow[auth]", "plotly", "psycopg[binary]", "boto3", "uvloop", "setuptools")
"""Beside what massact itself depends on; setuptools builds it."""
LEFT_OUT = {"torch", "transformers", "scikit-learn", "matplotlib", "safetensors", "skops", "tqdm"}
"""What massact or MLflow depend on, and the server never loads: most of what they weigh."""


def needed() -> set[str]:
    """Names of distributions, followed through what each requires."""
    own = [line for line in distribution("massact").requires or () if "extra ==" not in line]
    waiting = [Requirement(line) for line in (*WANTED, *own)]
    seen: set[tuple[str, str]] = set()
    while waiting:
        one = waiting.pop()
        name = plain(one.name)
        for extra in ("", *sorted(one.extras)):
            if name in LEFT_OUT or (name, extra) in seen:
                continue
            seen.add((name, extra))
            for line in distribution(name).requires or ():
                inner = Requirement(line)
                if inner.marker is None or inner.marker.evaluate({"extra": extra}):
                    waiting.append(inner)
    return {name for name, _ in seen}


def plain(name: str) -> str:
    """A distribution's name as all spellings of it are compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned() -> dict[str, str]:
    """Lines of requirements.lock by name."""
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    return {plain(line.partition("==")[0]): line for line in lines if line and line[0] != "#"}


def listing() -> str:
    """The whole file."""
    lines = pinned()
    head = "# What of requirements.lock the tracking server needs; `make lock` writes this file anew."
    return "\n".join([head, *sorted((lines[name] for name in needed()), key=str.lower)]) + "\n"


if __name__ == "__main__":
    sys.stdout.write(listing())
