"""The embedded models run on one thread, whatever the command: a second one costs them more than it does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TOY = Path(__file__).parents[2] / "experiments" / "toy.yaml"
FIRST_IMPORT = """
import os, sys
from importlib.abc import MetaPathFinder

class Watch(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name in ("numpy", "torch"):
            print(name, os.environ.get("OMP_NUM_THREADS"))
            os._exit(0)

sys.meta_path.insert(0, Watch())
sys.argv = ["massact", *sys.argv[1:]]
from massact.cli.app import main
main()
"""
COMMANDS = [
    ("main",),
    ("calibrate",),
    ("extract",),
    ("phase1",),
    ("phase2", "--dry-run"),
    ("phase4",),
    ("confirm",),
    ("report",),
    ("predict", "--dry-run"),
    ("search", "--method", "probe", "--position", "response[:5]"),
    ("rejudge", "--judge", "self"),
    ("judge-check",),
    ("evaluate", "--method", "probe", "--position", "response[:5]", "--coefficients", "1"),
]


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_the_number_of_threads_is_settled_before_anything_that_reads_it_loads(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    arguments = [sys.executable, "-c", FIRST_IMPORT, *command, "--experiment", str(TOY)]
    # a process of its own: those that the other tests fork have everything loaded
    told = subprocess.run(
        arguments, check=False, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert told.stdout.split() in (["numpy", "1"], ["torch", "1"]), told.stderr
