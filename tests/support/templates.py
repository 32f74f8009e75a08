"""MLflow's tables made once for all tests: a new SQLite database is a copy of the first.

MLflow makes a database by running some seventy migrations, one after the other. What tests that itself unsets
`TEMPLATE` in the environment of its processes.
"""

import functools
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from filelock import FileLock

TEMPLATE = "MASSACT_TESTS_TABLES"
"""Variable of the environment: the file that holds nothing but the tables."""


def share_tables() -> None:
    """From now on this process copies the tables of a new database, and makes the template where there is none."""
    from mlflow.store.db import utils

    if hasattr(utils._initialize_tables, "__wrapped__"):
        return
    utils._get_latest_schema_revision = functools.cache(utils._get_latest_schema_revision)
    utils._initialize_tables = _copying(utils._initialize_tables)


def _copying(make: Callable[[Any], None]) -> Callable[[Any], None]:
    import sqlalchemy as sa

    @functools.wraps(make)
    def initialize(engine: Any) -> None:
        named, file = os.environ.get(TEMPLATE), engine.url.database
        if not named or engine.dialect.name != "sqlite" or not file or sa.inspect(engine).get_table_names():
            make(engine)
            return
        template = Path(named)
        with FileLock(f"{template}.lock"):
            if not template.exists():
                _make(template, make)
        with closing(sqlite3.connect(template)) as source, closing(sqlite3.connect(file)) as target:
            source.backup(target)

    return initialize


def _make(template: Path, make: Callable[[Any], None]) -> None:
    import sqlalchemy as sa

    new = template.with_suffix(".new")
    new.unlink(missing_ok=True)
    engine = sa.create_engine(f"sqlite:///{new}")
    make(engine)
    engine.dispose()
    new.rename(template)
