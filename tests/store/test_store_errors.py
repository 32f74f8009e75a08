"""A run store that cannot be read says in one line what to do: what is no store, or one of another version."""

import json
import re
import sqlite3
import sys
from pathlib import Path

import pytest

from tests.support.store_errors import gaps, refusal


@pytest.mark.parametrize("uri", ["file:///tmp/mlruns", "mysql://u:secret@h/db", "databricks://profile"])
def test_other_kinds_of_store_are_refused_with_what_is_allowed(uri: str) -> None:
    assert "sqlite:///PATH, postgresql://USER@HOST/DATABASE, http://HOST:PORT or https://HOST" in refusal(uri)


@pytest.mark.parametrize("uri", ["/tmp/mlruns", "mlflow.db", "databricks"])
def test_what_is_no_address_is_refused(uri: str) -> None:
    assert "has no scheme: write sqlite:///FILE" in refusal(uri)


@pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///:memory:"])
def test_a_store_in_memory_is_refused(uri: str) -> None:
    assert "write sqlite:///PATH" in refusal(uri)


@pytest.mark.parametrize("uri", ["postgresql://u:secret@h:port/db", "postgresql://u:se/secret@h:1:2/db"])
def test_an_address_that_cannot_be_parsed(uri: str) -> None:
    assert "in a password %40 for @ and %2F for /" in refusal(uri)


def test_postgresql_without_its_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    message = refusal("postgres://user:secret@127.0.0.1:1/mlflow?sslpassword=secret")
    assert message == (
        "reading postgres://user:***@127.0.0.1:1/mlflow?sslpassword=*** needs psycopg: pip install 'massact[postgres]'"
    )


def test_an_empty_store_is_an_answer(uri: str) -> None:
    result = gaps(uri, "--format", "json")
    assert result.exit_code == 1
    assert "note: the run store holds no evaluation of experiment" in result.stderr
    assert {row["status"] for row in json.loads(result.stdout)["rows"]} == {"missing"}


def test_a_database_with_its_own_versions_is_not_mlflows(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
        connection.execute("INSERT INTO alembic_version VALUES ('0123456789ab')")
    assert re.match(rf"{path} is a database, but not MLflow's \(it has no table '\w+'\)", refusal(f"sqlite:///{path}"))
