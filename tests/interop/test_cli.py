"""`massact import` and `massact export` as a person runs them, over SQLite and over a tracking server."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from massact.cli.app import cli
from massact.store.databases import is_absent
from massact.store.read import stored_contents, stored_runs
from massact.store.schema import Kind, MlflowTag, Tag
from tests.support.store_fixtures import tracking_server
from tests.support.transfer_files import (
    EXPERIMENT,
    PLACE,
    baseline,
    evaluation,
    header,
    import_to_store,
    vector,
    write_lines,
)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, [str(one) for one in arguments])


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    lines = [header(), baseline(), evaluation(), evaluation(40, at="2026-01-12T00:00:00")]
    write_lines(tmp_path / "old" / PLACE / "results.jsonl", lines)
    return tmp_path / "old"


def test_import_says_what_it_did_and_can_be_run_again(uri: str, tree: Path) -> None:
    arguments = ("import", str(tree), "--experiment", EXPERIMENT, "--tracking-uri", uri)
    done = run(*arguments)
    assert (done.exit_code, done.stderr) == (0, "")
    assert f"3 results imported into the experiment '{EXPERIMENT}'" in done.stdout
    counts = json.loads(run(*arguments, "--format", "json").stdout)
    assert counts["totals"] == {
        "read": 4, "imported": 0, "already_there": 3, "refused": 0, "headers": 1, "blank": 0,
    }  # fmt: skip
    assert (counts["schema_version"], counts["refusals"], counts["dry_run"]) == (1, [], False)


def test_runs_lie_under_one_parent_that_only_exists_where_something_is_new(uri: str, tree: Path) -> None:
    for _ in range(2):
        import_to_store(uri, tree)
    [parent] = stored_runs(uri, EXPERIMENT, Kind.PHASE, tags=(Tag.PHASE, MlflowTag.NOTE))
    assert parent.tags[Tag.PHASE] == "import"
    assert "3 of 4 lines" in parent.tags[MlflowTag.NOTE]
    children = list(stored_runs(uri, EXPERIMENT, Kind.EVALUATION, tags=(MlflowTag.PARENT, Tag.PARENT)))
    assert {one.tags[tag] for one in children for tag in (MlflowTag.PARENT, Tag.PARENT)} == {parent.run_id}


def test_a_dry_run_writes_nothing(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = run("import", str(tree), "--experiment", EXPERIMENT, "--dry-run")
    assert "3 results would be imported" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


@pytest.mark.slow
def test_a_dry_run_loads_nothing_heavy(tree: Path, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from massact.cli.app import cli\n"
        f"cli(['import', {str(tree)!r}, '--experiment', 'x', '--dry-run'], standalone_mode=False)\n"
        "print('LOADED', [one for one in ('torch', 'transformers', 'mlflow', 'pandas') if one in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert "LOADED []" in done.stdout


def test_refusals_end_with_1_and_are_listed(uri: str, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "results.jsonl", [header(), evaluation(), *["{"] * 25])
    arguments = ("import", str(path), "--experiment", EXPERIMENT, "--tracking-uri", uri)
    done = run(*arguments, "--refusals", str(tmp_path / "refused"))
    assert done.exit_code == 1
    shown = [line for line in done.stderr.splitlines() if line.startswith(f"refused: {path}:")]
    assert shown[0].startswith(f"refused: {path}:3: not JSON")
    assert shown[20] == f"refused: {path}: 5 more lines (all of them: --refusals FILE or --format json)"
    assert done.stderr.splitlines()[-1] == "25 lines refused"
    assert [json.loads(line)["line"] for line in (tmp_path / "refused").read_text().splitlines()] == [*range(3, 28)]
    done = run(*arguments, "--format", "json")
    assert done.exit_code == 1
    assert len(json.loads(done.stdout)["refusals"]) == 25


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["import", "none", "--experiment", "x"], "none: no such file or folder"),
        (["import", ".", "--experiment", "x"], "nothing to import. Looked below it for steering/"),
        (["import", "."], "Missing option '--experiment'"),
        (["import", ".", "--experiment", "none.yaml"], "none.yaml"),
        (["import", ".", "--experiment", " "], "--experiment is empty"),
        (["export", "--experiment", "x", "--output", "out"], "there is no run store yet"),
        (["export", "--experiment", "x"], "Missing option '--output'"),
    ],
)
def test_mistakes_end_with_2_and_say_what_to_do(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(*arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert not list(tmp_path.iterdir())


def test_names_that_the_experiment_file_does_not_declare_are_mistakes(tree: Path, root: Path) -> None:
    file = str(root / "experiments" / "toy.yaml")
    done = run("import", str(tree), "--experiment", file, "--model", "gemma", "--dry-run")
    assert (done.exit_code, "declares no model 'gemma'" in done.stderr) == (2, True)
    done = run("import", str(tree), "--experiment", file, "--dry-run")
    assert (done.exit_code, "'massact-toy'" in done.stdout or "massive-activations-toy" in done.stdout) == (0, True)


def test_a_store_that_is_none_is_one_clear_line(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("this is no database, but long enough to be looked at\n" * 20)
    done = run("import", str(tree), "--experiment", "x", "--tracking-uri", f"sqlite:///{tmp_path}/text.db")
    assert done.exit_code == 2
    assert "not a database" in done.stderr


@pytest.mark.slow
def test_an_interruption_keeps_what_was_written(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from massact.interop import importer, rows

    monkeypatch.setattr(importer, "CHUNK_RUNS", 2)
    lines: list[Any] = [evaluation(vectors=[vector(weight=float(i))]) for i in range(5)]
    path = write_lines(tmp_path / "old" / PLACE / "results.jsonl", [header(), *lines])
    make_row, seen = rows.imported_row, list[Any]()

    def interrupted(*arguments: Any, **options: Any) -> Any:
        seen.append(arguments)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return make_row(*arguments, **options)

    monkeypatch.setattr(importer, "imported_row", interrupted)
    arguments = ("import", str(path), "--experiment", EXPERIMENT, "--tracking-uri", uri)
    done = run(*arguments)
    assert done.exit_code == 130
    assert len(list(stored_contents(uri, EXPERIMENT))) == 2
    done = run(*arguments)
    assert "3 results imported" in done.stdout
    assert len(list(stored_contents(uri, EXPERIMENT))) == 5


@pytest.mark.slow
def test_export_lists_its_files(uri: str, tree: Path, tmp_path: Path) -> None:
    import_to_store(uri, tree)
    arguments = ("export", "--experiment", EXPERIMENT, "--tracking-uri", uri, "--output", str(tmp_path / "out"))
    done = run(*arguments)
    assert done.exit_code == 0
    assert done.stdout == (
        f"{tmp_path / 'out' / PLACE / 'results.jsonl'}: 1 evaluation, 1 baseline, 0 with responses\n"
    )
    done = run(*arguments)
    assert (done.exit_code, "pass --overwrite" in done.stderr) == (2, True)
    assert run(*arguments, "--overwrite", "--superseded").stdout.count("2 evaluations") == 1
    done = run("export", "--experiment", "other", *arguments[3:])
    assert (done.exit_code, "holds no result of the experiment 'other'" in done.stderr) == (2, True)


def test_a_deleted_result_is_imported_again(uri: str, tree: Path) -> None:
    from mlflow import MlflowClient

    import_to_store(uri, tree)
    [gone, *_] = stored_runs(uri, EXPERIMENT, Kind.BASELINE, tags=())
    MlflowClient(tracking_uri=uri).delete_run(gone.run_id)
    counts = import_to_store(uri, tree).totals
    assert (counts.imported, counts.already_there) == (1, 2)


def test_a_store_that_is_not_there_holds_nothing(uri: str, tmp_path: Path) -> None:
    assert not is_absent(uri)
    for name in ("none", "empty"):
        (tmp_path / "empty.db").touch()
        assert is_absent(f"sqlite:///{tmp_path}/{name}.db")
        assert not list(stored_contents(f"sqlite:///{tmp_path}/{name}.db", EXPERIMENT))


@pytest.mark.slow
def test_over_a_tracking_server(uri: str, tree: Path, tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    with tracking_server(uri, tmp_path / "server") as address:
        counts = import_to_store(address, tree).totals
        assert (counts.imported, counts.refused) == (3, 0)
        assert import_to_store(address, tree).totals.already_there == 3
        assert sorted(map(repr, stored_contents(address, EXPERIMENT))) == sorted(
            map(repr, stored_contents(uri, EXPERIMENT))
        )
        arguments = ("export", "--experiment", EXPERIMENT, "--superseded", "--output")
        for name, store in (("by-rest", address), ("by-sql", uri)):
            assert run(*arguments, str(tmp_path / name), "--tracking-uri", store).exit_code == 0
        contents = [(tmp_path / name / PLACE / "results.jsonl").read_bytes() for name in ("by-rest", "by-sql")]
        assert contents[0] == contents[1]
