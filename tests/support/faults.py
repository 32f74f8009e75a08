"""What the tests of faults share: an experiment, and commands that are killed."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from tests.support.processes import Process
from tests.support.small_plan import EXPERIMENT as SMALL_EXPERIMENT

EXPERIMENT = (
    SMALL_EXPERIMENT.replace('layers: "3"', 'layers: "2-4"')
    .replace("coefficients: [16, 24]", "coefficients: [12, 16, 24]")
    .replace("subset: 2", "subset: 3")
)


class Worker:
    """Runs commands in a folder, one after the other; what they print goes into `output.txt` there."""

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self._folder = folder
        self._environment = {**os.environ, "MLFLOW_TRACKING_URI": uri(folder), **(environment or {})}
        self._process: Process | None = None

    def run(
        self, *arguments: str, kill_after: float | None = None, environment: Mapping[str, str] = MappingProxyType({})
    ) -> int:
        """The exit code of a command; -9 where it was killed after that many seconds."""
        with (self._folder / "output.txt").open("ab") as log:
            changed = {**self._environment, **environment}
            self._process = Process(
                "massact", *arguments, cwd=self._folder, env=changed, stdout=log, stderr=subprocess.STDOUT
            )
        try:
            return self._process.wait(kill_after)
        except subprocess.TimeoutExpired:
            self.close()
            return self._process.wait()

    def close(self) -> None:
        """End what still runs."""
        if self._process is not None:
            self._process.kill()


def uri(folder: Path) -> str:
    return f"sqlite:///{folder}/mlflow.db"
