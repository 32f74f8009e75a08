"""The service as docker/compose.yaml describes it, run without Docker: the same entrypoint, environment and secrets.

Nothing of the compose file is written down again here. What a container would see elsewhere (the database's host,
mounted folders, the port) is put in its place, and what the image does not hold cannot be imported.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib.metadata import distributions
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import yaml

from massact.service.settings import free_port

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
_VARIABLE = re.compile(r"\$\{(\w+)(?::?-([^}]*))?\}")
DATABASE = "postgresql://massact@database:5432/massact"
ARTIFACTS, SCRATCH, SECRETS = "/artifacts", "/scratch", "/run/secrets/"


def compose() -> dict[str, Any]:
    """The file, anchors resolved and variables not."""
    loaded: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))
    return loaded


def example() -> dict[str, str]:
    """What .env.example sets."""
    lines = (DOCKER / ".env.example").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def resolved(value: str, variables: Mapping[str, str]) -> str:
    """A value of the file as compose makes it."""
    return _VARIABLE.sub(lambda found: variables.get(found[1]) or found[2] or "", str(value))


def environment_of(service: str, variables: Mapping[str, str]) -> dict[str, str]:
    """What compose sets for a service's container."""
    given = compose()["services"][service]["environment"]
    return {name: resolved(value, variables) for name, value in given.items()}


class Composed:
    """A service in a folder: its secrets, its settings, its process."""

    def __init__(self, folder: Path, database: str, variables: Mapping[str, str] | None = None) -> None:
        self.folder, self.database = folder, database
        self.variables = {**example(), **(variables or {})}
        self.artifacts = folder / "artifacts"
        self.scratch = folder / "scratch"
        for one in (self.artifacts, self.scratch):
            one.mkdir(exist_ok=True)
        shutil.copy(DOCKER / "make-secrets.sh", folder)
        subprocess.run(["bash", folder / "make-secrets.sh"], check=True, capture_output=True)
        self.port = free_port("127.0.0.1")
        self.process: subprocess.Popen[bytes] | None = None
        self.log = folder / "server.log"
        _only_what_the_image_holds(folder / "image")

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def login(self) -> dict[str, str]:
        """What a client's environment holds."""
        return {
            "MLFLOW_TRACKING_URI": self.address,
            "MLFLOW_TRACKING_USERNAME": self.variables["MASSACT_ADMIN"],
            "MLFLOW_TRACKING_PASSWORD": self.secret("admin_password"),
        }

    def secret(self, name: str) -> str:
        return (self.folder / "secrets" / name).read_text(encoding="utf-8")

    def environment(self, service: str) -> dict[str, str]:
        """A container's, with the places of this machine instead of the container's."""
        own = {
            name: value.replace(SECRETS, f"{self.folder}/secrets/").replace(DATABASE, self.database)
            for name, value in environment_of(service, self.variables).items()
        }
        for name, value in own.items():
            if value == ARTIFACTS:
                own[name] = str(self.artifacts)
            elif value == SCRATCH:
                own[name] = str(self.scratch)
        if service == "server":
            own |= {"MASSACT_SERVE_PORT": str(self.port), "MASSACT_SERVE_HOST": "127.0.0.1"}
        bare = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(self.folder)}
        return {**bare, "PYTHONPATH": f"{self.folder}/image:{ROOT}", **own}

    def run(self, service: str, *words: str, **more: str) -> "subprocess.CompletedProcess[str]":
        """What `docker compose run SERVICE WORDS` runs, or the service's own command."""
        given = words or tuple(compose()["services"][service].get("command", ()))
        return subprocess.run(
            ["sh", DOCKER / "entrypoint.sh", *given],
            env={**self.environment(service), **more},
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )

    def start(self) -> None:
        """Start the server, with the image's own command, and wait until it answers."""
        (command,) = re.findall(r'^CMD \["(\w+)"\]$', (DOCKER / "Dockerfile").read_text(), re.MULTILINE)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                ["sh", DOCKER / "entrypoint.sh", command],
                env=self.environment("server"),
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 120
        while not self.answers():
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise RuntimeError(f"the service did not start:\n{self.log.read_text()[-4000:]}")
            time.sleep(0.1)

    def answers(self) -> bool:
        try:
            urlopen(f"{self.address}/health", timeout=5).close()
        except OSError:
            return False
        return True

    def processes(self) -> list[int]:
        """Of the service and all that descend from it."""
        return [] if self.process is None else descendants(self.process.pid)

    def kill(self) -> None:
        """All of its processes at once, as when a container is killed."""
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)
        if self.process is not None:
            self.process.wait(30)
        self.process = None

    def stop(self) -> int:
        """As `docker stop` does. Returns the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(30)
        self.process = None
        return code


def descendants(pid: int) -> list[int]:
    """A process and all that descend from it, parents first."""
    found, parents = [pid], dict(_parents())
    for _ in range(8):
        found += [one for one, parent in parents.items() if parent in found and one not in found]
    return found


def _parents() -> list[tuple[int, int]]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        found.append((int(path.parent.name), int(fields[1])))
    return found


def _only_what_the_image_holds(folder: Path) -> None:
    """A folder for PYTHONPATH in which Python finds a start-up module that refuses all other distributions."""
    lines = (DOCKER / "requirements-server.txt").read_text(encoding="utf-8").splitlines()
    held = {_plain(line.partition("==")[0]) for line in lines if line and line[0] != "#"} | {"massact", "massact-eps"}
    kept: set[str] = set()
    others: set[str] = set()
    for one in distributions():
        names = {str(path).partition("/")[0].removesuffix(".py") for path in one.files or () if _is_code(str(path))}
        (kept if _plain(one.name) in held else others).update(names)
    folder.mkdir(exist_ok=True)
    text = f"""import sys
class Refuse:
    names = {sorted(others - kept - {"sitecustomize", "tests"})!r}
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"{{name}} is not in the image", name=name)
sys.meta_path.insert(0, Refuse())
"""
    (folder / "sitecustomize.py").write_text(text, encoding="utf-8")


def _is_code(path: str) -> bool:
    return path.endswith((".py", ".so")) and not path.startswith("..")


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
