"""Folders whose names look like parts of an address, and stores that were moved from one folder to another."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from urllib.parse import quote

import pytest
from click.testing import CliRunner
from hypothesis import example, given
from hypothesis import strategies as st

from massact.addresses import (
    LOCAL,
    artifacts_shown,
    check_path,
    hide_passwords,
    http_address,
    local_folder,
    moved_folder,
    plain_sqlite,
    resolve_tracking_uri,
    shown_uri,
    sqlite_uri,
)
from massact.cli.app import cli
from massact.errors import StoreError, UnusableStoreError
from massact.store.schema import Artifact, Kind, Tag, names
from massact.store.write.artifacts import fetch_from
from massact.store.write.run_writer import evaluation_run, open_writer
from massact.store.write.tracker import Tracker
from tests.support.processes import run_massact
from tests.support.small_plan import EXPERIMENT
from tests.support.store_errors import TOY
from tests.support.store_fixtures import evaluation_row

EXACT = ["a b", "ä ö", "a#b", "100%", "50% off", "a+b", "a&b=c", "日本"]
MISREAD = {"a%20b": "a b", "a%2Fb": "a/b", "100%25": "100%", "a?b": "a", "what?": "what", "%41": "A"}


def copied(database: Path, folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(database, folder / "mlflow.db")
    return f"sqlite:///{folder}/mlflow.db"


def write_one(uri: str) -> str:
    """A run with an artifact of each way of writing; returns the id of the one that was written whole."""
    tracker = Tracker(uri, "study", floor=68.0)
    with tracker.phase("phase1", params={}) as run, tracker.artifacts(run) as folder:
        (folder / "note.txt").write_text("hello")
    assert tracker.fetch(run.run_id, "note.txt").read_text() == "hello"
    writer = open_writer(uri, tracker.experiment_id)
    files = {str(Artifact.VECTOR): b"a vector"}
    row = evaluation_row(experiment="study")
    (run_id,) = writer.write([evaluation_run(row, None, name="k", started_at=1, finished_at=2, files=files)])
    writer.close()
    return run_id


def write_bare(uri: str) -> str:
    """A run without artifacts."""
    writer = open_writer(uri, Tracker(uri, "study", floor=68.0).experiment_id)
    row = evaluation_row(experiment="study")
    (run_id,) = writer.write([evaluation_run(row, None, name="bare", started_at=1, finished_at=2)])
    writer.close()
    return run_id


@pytest.mark.slow
@pytest.mark.parametrize("name", EXACT)
def test_everything_of_a_folder_stays_in_it(
    tmp_path: Path, migrated_database: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = tmp_path / name
    uri = copied(migrated_database, folder)
    monkeypatch.chdir(folder)
    assert resolve_tracking_uri(None) == uri
    assert resolve_tracking_uri(uri) == uri
    run_id = write_one(uri)
    stored = Tracker(uri, "study", floor=68.0).fetch(run_id, Artifact.VECTOR)
    assert stored.read_bytes() == b"a vector"
    assert [one.name for one in tmp_path.iterdir()] == [name]
    assert len(list((folder / "mlruns").rglob("note.txt"))) == 1
    assert len(list((folder / "mlruns").rglob(str(Artifact.VECTOR)))) == 1
    assert questions(uri) == [run_id]


def questions(uri: str) -> list[str]:
    from massact.store.read import open_store

    return [one.run_id for one in open_store(uri).evaluations("study")]


@pytest.mark.parametrize("name", MISREAD)
def test_a_folder_that_would_be_taken_for_another_is_refused_at_once(
    tmp_path: Path, migrated_database: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = tmp_path / name
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    for arguments in (
        ["gaps"],
        ["main"],
        ["calibrate"],
        ["doctor"],
        ["status"],
        ["import", str(tmp_path), "--experiment", "x"],
    ):
        options = [] if "--experiment" in arguments else ["--experiment", str(TOY)]
        result = CliRunner().invoke(cli, [*arguments, *options])
        assert result.exit_code == 2, result.output
        assert f"which MLflow would take for {tmp_path / MISREAD[name]}" in result.stderr
        assert "rename the folder" in result.stderr
    served = CliRunner().invoke(cli, ["serve", "--port", "0"])
    assert served.exit_code == 2
    assert f"would take for {tmp_path / MISREAD[name]}" in served.stderr
    # a store elsewhere does not help: its artifacts would go to the working directory
    elsewhere = copied(migrated_database, tmp_path / "elsewhere")
    with pytest.raises(UnusableStoreError, match="where artifacts would go"):
        Tracker(elsewhere, "study", floor=68.0)
    assert list(folder.iterdir()) == []
    assert {one.name for one in tmp_path.iterdir()} == {name.partition("/")[0], "elsewhere"}


@pytest.mark.parametrize(
    ("uri", "plain"),
    [
        ("sqlite:////x/a%20b/m.db", "sqlite:////x/a b/m.db"),
        ("sqlite:////x/a b/m.db", "sqlite:////x/a b/m.db"),
        ("sqlite+pysqlite:////x/%C3%A4.db?timeout=3", "sqlite+pysqlite:////x/ä.db?timeout=3"),
        ("sqlite:///m.db", "sqlite:///m.db"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("sqlite://", "sqlite://"),
        ("sqlite:///file:x?mode=ro&uri=true", "sqlite:///file:x?mode=ro&uri=true"),
    ],
)
def test_a_quoted_address_names_what_it_says(uri: str, plain: str) -> None:
    assert plain_sqlite(uri) == plain


@pytest.mark.parametrize("uri", ["sqlite:////x/a%2520b/m.db", "sqlite:////x/a%3Fb/m.db", "sqlite:////x/a?b/m.db"])
def test_an_address_of_a_misread_folder_is_refused(uri: str) -> None:
    with pytest.raises(UnusableStoreError, match="would take for"):
        plain_sqlite(uri)


def test_a_folder_that_is_there_as_it_is_written_is_not_taken_for_another(tmp_path: Path) -> None:
    (tmp_path / "a%20b").mkdir()
    (tmp_path / "a b").mkdir()
    with pytest.raises(UnusableStoreError, match="would take for"):
        plain_sqlite(f"sqlite:///{tmp_path}/a%20b/m.db")
    with pytest.raises(UnusableStoreError):
        sqlite_uri(tmp_path / "a%20b" / "m.db")


@pytest.mark.parametrize("name", [*EXACT, *MISREAD])
def test_an_artifact_folder_is_the_one_that_mlflow_means(tmp_path: Path, name: str) -> None:
    from mlflow.utils.file_utils import local_file_uri_to_path

    for uri in (str(tmp_path / name), (tmp_path / name).as_uri()):
        if "?" not in name or uri.startswith("file:"):
            assert local_folder(uri) == Path(local_file_uri_to_path(uri))
    assert local_folder((tmp_path / name).as_uri()) == tmp_path / name
    assert local_folder("s3://bucket/1") is None
    if name in EXACT:
        assert check_path(tmp_path / name, "it") == local_folder(str(tmp_path / name))


def store_in(folder: Path, database: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty store in a folder of its own, which is the working directory from then on."""
    uri = copied(database, folder)
    monkeypatch.chdir(folder)
    return uri


@pytest.fixture
def moved(tmp_path: Path, migrated_database: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path, str]:
    """A store that was written in one folder and lies in another, both, and a run of it."""
    old, new = tmp_path / "old place", tmp_path / "new" / "place"
    run_id = write_one(store_in(old, migrated_database, monkeypatch))
    monkeypatch.chdir(tmp_path)
    new.parent.mkdir()
    old.rename(new)
    monkeypatch.chdir(new)
    return old, new, run_id


def test_a_copy_of_a_store_is_read_by_itself_and_never_writes_into_the_original(
    tmp_path: Path, migrated_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = tmp_path / "original", tmp_path / "copy"
    original = store_in(old, migrated_database, monkeypatch)
    bare = write_bare(original)
    run_id = write_one(original)
    bare_too = write_bare(original)
    shutil.copytree(old, new)
    monkeypatch.chdir(new)
    files = {path: path.read_bytes() for path in (old / "mlruns").rglob("*") if path.is_file()}
    uri = f"sqlite:///{new}/mlflow.db"
    assert fetch_from(artifact_uri(new, run_id), Artifact.VECTOR, tracking_uri=uri).is_relative_to(new)
    with pytest.raises(UnusableStoreError, match="moved or copied"):
        Tracker(uri, "study", floor=68.0)
    command = ["doctor", "--experiment", "study", "--tracking-uri", uri, "--spool", str(tmp_path), "--fix"]
    assert "mended" in CliRunner().invoke(cli, command).output
    assert all(artifact_uri(new, id_).startswith(str(new)) for id_ in (bare, run_id, bare_too, write_one(uri)))
    assert {path: path.read_bytes() for path in (old / "mlruns").rglob("*") if path.is_file()} == files
    assert fetch_from(artifact_uri(old, run_id), Artifact.VECTOR, tracking_uri=original).is_relative_to(old)
    Tracker(original, "study", floor=68.0)


def test_a_store_that_is_reached_through_a_link_is_where_it_was(
    tmp_path: Path, migrated_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, link = tmp_path / "place", tmp_path / "link"
    uri = store_in(place, migrated_database, monkeypatch)
    run_id = write_one(uri)
    link.symlink_to(place)
    assert artifact_uri(link, write_one(f"sqlite:///{link}/mlflow.db")).startswith(str(place))
    stale = artifact_uri(link, run_id)
    assert moved_folder(stale, f"sqlite:///{link}/mlflow.db") is None
    copy = tmp_path / "copy"
    shutil.copytree(place, copy)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "samefile", Mock(side_effect=PermissionError))  # another's, which may not be looked at
        assert moved_folder(stale, f"sqlite:///{copy}/mlflow.db") == copy / Path(stale).relative_to(place)


def artifact_uri(new: Path, run_id: str) -> str:
    with closing(sqlite3.connect(new / "mlflow.db")) as database:
        ((found,),) = database.execute("SELECT artifact_uri FROM runs WHERE run_uuid = ?", (run_id,))
    return str(found)


def test_a_store_that_was_moved_is_read_beside_its_database(moved: tuple[Path, Path, str]) -> None:
    old, new, run_id = moved
    uri = f"sqlite:///{new}/mlflow.db"
    stale = artifact_uri(new, run_id)
    assert stale.startswith(str(old))
    found = fetch_from(stale, Artifact.VECTOR, tracking_uri=uri)
    assert found.read_bytes() == b"a vector"
    assert found.is_relative_to(new)
    assert questions(uri) == [run_id]
    assert not old.exists()


def test_a_store_that_was_moved_says_so_and_doctor_writes_its_new_place(
    moved: tuple[Path, Path, str], tmp_path: Path
) -> None:
    old, new, run_id = moved
    uri = f"sqlite:///{new}/mlflow.db"
    with pytest.raises(UnusableStoreError) as refused:
        Tracker(uri, "study", floor=68.0)
    text = str(refused.value)
    assert f"{old}/mlruns/" in text
    assert f"{new}/mlruns/" in text
    assert "massact doctor --experiment study --fix" in text
    assert not old.exists()

    command = ["doctor", "--experiment", "study", "--tracking-uri", uri, "--spool", str(tmp_path)]
    looked = CliRunner().invoke(cli, command)
    assert "the store was moved or copied" in looked.output
    assert artifact_uri(new, run_id).startswith(str(old))
    fixed = CliRunner().invoke(cli, [*command, "--fix"])
    assert "mended" in fixed.output
    assert artifact_uri(new, run_id) == f"{new}/mlruns/{artifact_uri(new, run_id).split('/mlruns/')[1]}"
    assert "the store was moved or copied" not in CliRunner().invoke(cli, command).output
    second = write_one(uri)
    assert artifact_uri(new, second).startswith(str(new))
    assert not old.exists()


def test_an_artifact_that_is_nowhere_is_named_plainly(moved: tuple[Path, Path, str]) -> None:
    old, new, run_id = moved
    shutil.rmtree(new / "mlruns")
    stale = artifact_uri(new, run_id)
    with pytest.raises(StoreError) as refused:
        fetch_from(stale, Artifact.CALIBRATION, tracking_uri=f"sqlite:///{new}/mlflow.db")
    text = str(refused.value)
    assert text.startswith(f"there is no artifact 'calibration.json' at {old}")
    assert "was moved" in text
    assert "<" not in text


@pytest.mark.parametrize("name", [Kind.EVALUATION, Tag.ROW, Artifact.CALIBRATION])
def test_a_name_shows_as_itself_in_a_message(name: Any) -> None:
    assert f"{name!r}" == f"'{name}'" == repr(str(name))


def test_every_enum_of_names_does() -> None:
    kinds = [one for one in vars(names).values() if isinstance(one, type) and issubclass(one, names.Name)]
    assert len(kinds) > 5
    assert all(repr(member) == repr(str(member)) for kind in kinds for member in kind)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a%20b", "a?b", "a b#ä"])
def test_a_first_command_in_such_a_folder_works_exactly_or_is_refused(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    folder, file = tmp_path / name, tmp_path_factory.mktemp("elsewhere") / "small.yaml"
    folder.mkdir()
    file.write_text(EXPERIMENT)
    done = run_massact("calibrate", "--experiment", file, cwd=folder)
    assert [one.name for one in tmp_path.iterdir()] == [name]
    assert done.returncode == (2 if name in MISREAD else 0), done.stderr
    assert {one.name for one in folder.iterdir()} == (set() if name in MISREAD else {"mlflow.db", "mlruns"})


@pytest.mark.parametrize(
    "arguments",
    [
        ["extract"],
        ["phase1"],
        ["phase4"],
        ["search"],
        ["fill-gaps"],
        ["evaluate", "--method", "probe", "--position", "response[:5]"],
        ["rejudge"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_command_that_cannot_begin_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, [*arguments, "--experiment", str(TOY)])
    assert result.exit_code in (1, 2)
    assert "error: " in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://ada:secret@db/runs?password=other", "postgresql://ada:***@db/runs?password=***"),
        ("postgresql://u:pa#ss@db:1/d", "postgresql://u:***@db:1/d"),
        ("postgresql://u:pa/s?s@db:1/d", "postgresql://u:***@db:1/d"),
        ("postgresql+psycopg://u:p]w@[::1]:1/d", "postgresql+psycopg://u:***@[::1]:1/d"),
        ("postgresql://u:p@s:s@db/d", "postgresql://u:***@db/d"),
        ("postgresql://u:a@db/database", "postgresql://u:***@db/database"),
        ("postgresql://u@db/d?PassWord=a@b&sslmode=require", "postgresql://u@db/d?PassWord=***&sslmode=require"),
        ("postgresql://u@db:5432/d?passfile=/x&sslpassword=y", "postgresql://u@db:5432/d?passfile=/x&sslpassword=***"),
        ("postgresql://db/d?pass%77ord=y&host=/tmp", "postgresql://db/d?pass%77ord=***&host=/tmp"),
        ("http://h/x?access_token=y&X-Amz-Signature=z", "http://h/x?access_token=***&X-Amz-Signature=***"),
        ("u:secret@h/d", "u:***@h/d"),
        ("postgresql:u:secret@h/d", "postgresql:***@h/d"),
        ("sqlite:////x/a:b@c/m.db?timeout=3", "sqlite:////x/a:b@c/m.db?timeout=3"),
        ("http://h:5000", "http://h:5000"),
        ("", ""),
    ],
)
def test_a_uri_is_shown_without_what_is_secret_in_it(uri: str, shown: str) -> None:
    assert shown_uri(uri) == shown
    assert shown_uri(shown) == shown


MARK = "Zq7"
"""In every password, so that no part of the rest of a URI is taken for it."""
PASSWORDS = st.builds("{}Zq7{}".format, st.text(max_size=12), st.text(max_size=12))


@example("Zq7'\"", "postgresql")
@given(PASSWORDS, st.sampled_from(["postgresql", "mysql+x", "http", "s3", "wasbs", "unknown"]))
def test_no_password_is_shown(password: str, scheme: str) -> None:
    for text in (password, quote(password, safe="", errors="replace")):
        login = f"{scheme}://ada:{text}@db:5432/runs?timeout=3"
        assert shown_uri(login) == f"{scheme}://ada:***@db:5432/runs?timeout=3"
        for uri in (login, f"ada:{text}@db/runs", f"{scheme}://ada@db:5432/runs?PASSWORD={text}"):
            assert MARK not in shown_uri(uri)
            error = f"{uri}: {text!r} of {password} ({quote(password, errors='replace')}) is wrong"
            assert MARK not in hide_passwords(error, uri)
        assert MARK not in artifacts_shown(login)
        value = quote(password, safe="#?@/:", errors="replace")
        assert MARK not in artifacts_shown(f"{scheme}://box/place?sig={value}")


@given(st.text())
def test_any_text_can_be_shown(uri: str) -> None:
    assert isinstance(shown_uri(uri), str)
    assert isinstance(artifacts_shown(uri), str)
    assert isinstance(hide_passwords("text", uri), str)


def test_a_short_password_leaves_an_error_readable() -> None:
    uri = "postgresql://u:a@db/database"
    assert hide_passwords(f"no database at {uri}", uri) == "no database at postgresql://u:***@db/database"


@pytest.mark.parametrize("password", ["pa#sword", "pa/sword", "pa?sword", "pa]sword", "pa@sword", "sword@9"])
def test_no_command_prints_a_password_however_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, password: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for scheme in ("postgresql", "mysql", "http"):
        uri = f"{scheme}://u:{password}@127.0.0.1:1/db"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        for command in ("best", "status"):
            result = CliRunner().invoke(cli, [command, "--experiment", "x"])
            assert result.exit_code == 2, result.output
            assert "sword" not in result.output
            assert "error: " in result.output


@pytest.mark.parametrize(
    ("host", "address"),
    [("0.0.0.0", "http://127.0.0.1:80"), ("::", "http://[::1]:80"), ("10.0.0.7", "http://10.0.0.7:80")],
)
def test_a_server_that_listens_everywhere_is_come_to_on_this_machine(host: str, address: str) -> None:
    assert http_address(LOCAL.get(host, host), 80) == address
