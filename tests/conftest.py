"""What every test needs: small matrices run fastest on one thread, and no test reaches a real store or hub."""

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests.support.templates import TEMPLATE, share_tables

if TYPE_CHECKING:
    from tests.support.access_server import World
    from tests.support.postgres_server import PostgresServer
    from tests.support.prepared import PreparedStores

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # a shell that puts the tests into the background ignores Ctrl-C for them and for all that they start
    signal.signal(signal.SIGINT, signal.default_int_handler)


# how long an example takes says how busy the machine is, and nothing about the code
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")

LONGEST = ("test_two_sweeps", "test_end_to_end", "test_faults", "test_ray", "test_service_faults", "test_interrupt")
"""Files that take minutes."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files come first, then those with slow tests.

    Where files run side by side, the last to begin decides when all are done.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    # the order within a file stays
    items.sort(key=lambda item: (item.path.stem not in LONGEST, item.path not in slow))


def pytest_collection_finish() -> None:
    """What no test imports at its top is not imported here either."""
    if "mlflow" in sys.modules:
        share_tables()


@pytest.fixture(autouse=True, scope="session")
def _shared_tables(shared_folder: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(TEMPLATE, str(shared_folder / "tables.db"))
        yield


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of the session share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(autouse=True)
def _no_store_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests see no tracking server, no run and no key of whoever runs them."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("USERNAME", "PASSWORD", "TOKEN", "INSECURE_TLS", "SERVER_CERT_PATH"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT", raising=False)


@pytest.fixture(scope="session")
def migrated_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database: its migrations take seconds, so they run once and tests copy the file."""
    from massact.store.write.tracker import Tracker

    folder = tmp_path_factory.mktemp("migrated")
    Tracker(f"sqlite:///{folder}/store.db", "warm-up", floor=68.0)
    return folder / "store.db"


@pytest.fixture
def uri(migrated_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A tracking store of this test's own, in the working directory."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(migrated_database, tmp_path / "store.db")
    return f"sqlite:///{tmp_path}/store.db"


@pytest.fixture(scope="session")
def prepared_stores(shared_folder: Path) -> "PreparedStores":
    """Stores with a calibration and an extraction, shared by all processes of the session."""
    from tests.support.prepared import PreparedStores

    return PreparedStores(shared_folder / "prepared")


@pytest.fixture(scope="session")
def postgres() -> Iterator["PostgresServer"]:
    """A PostgreSQL of this process's own; `postgres.fresh()` is the tracking URI of a new database in it."""
    from tests.support.postgres_server import postgres_server

    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator["World"]:
    """A tracking server with logins, a user of each role, and an experiment of the owner's."""
    from tests.support.access_server import World, access_server

    with access_server(tmp_path_factory.mktemp("access")) as server:
        yield World(server)


@pytest.fixture
def root() -> Path:
    """The project's folder."""
    return Path(__file__).resolve().parent.parent
