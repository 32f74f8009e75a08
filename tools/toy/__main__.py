"""Train the embedded models and fit their judge again, from the recipe alone (about 20 minutes on one core).

Run from the project's root: python -m tools.toy OUTPUT [--model NAME]...
"""

import argparse
import sys
from pathlib import Path

from massact.errors import MassactError
from massact.toy import MODEL_NAMES
from tools.toy.build import build


def main() -> int:
    """Make what the command line asks for; exit code 2 where it cannot be."""
    parser = argparse.ArgumentParser(prog="python -m tools.toy", description=__doc__.partition("\n")[0])
    parser.add_argument("output", type=Path, help="folder to write to; must not exist")
    parser.add_argument(
        "--model", action="append", choices=MODEL_NAMES, help="only this model (repeatable); default: all"
    )
    asked = parser.parse_args()
    if asked.output.exists():
        parser.error(f"{asked.output} exists already: name a folder that does not")
    try:
        build(asked.output, models=asked.model or MODEL_NAMES, progress=_tell)
    except MassactError as error:
        parser.error(str(error))
    sys.stdout.write(f"{asked.output}\n")
    return 0


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main())
