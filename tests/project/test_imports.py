"""The house's plan: who may import whom, and what the quick commands must not load."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "massact"

_HEAVY = {"torch", "transformers", "mlflow", "click", "sqlalchemy"}
_TOP = {"massact.workflow", "massact.cli"}

FORBIDDEN: dict[str, set[str]] = {
    "domain": {*_HEAVY, "massact.config", "massact.store"},
    "keys": {*_HEAVY, "massact.config", "massact.store"},
    "labels": {*_HEAVY, "massact.config", "massact.store"},
    "config": {*_HEAVY, *_TOP, "massact.store.read", "massact.store.write", "massact.query", "massact.sweep"},
    "data": {*_HEAVY, *_TOP, "massact.store", "massact.models", "massact.query", "massact.sweep"},
    "vectors": {"mlflow", "click", "sqlalchemy", *_TOP, "massact.store", "massact.query", "massact.sweep"},
    "models": {"mlflow", "click", "sqlalchemy", *_TOP, "massact.store", "massact.judges", "massact.sweep"},
    "judges": {"mlflow", "click", "sqlalchemy", *_TOP, "massact.store", "massact.query", "massact.sweep"},
    "evaluation": {"mlflow", "click", "sqlalchemy", *_TOP, "massact.config", "massact.store", "massact.query"},
    "prediction": {*_HEAVY, *_TOP, "massact.config", "massact.models", "massact.store.read", "massact.store.write",
                   "massact.sweep"},
    "store/schema": {*_HEAVY, *_TOP, "massact.config", "massact.store.read", "massact.store.write", "massact.query"},
    "store/credentials": {*_HEAVY, *_TOP, "massact.config", "massact.store.read", "massact.store.write"},
    "store/retry": {"torch", "transformers", "mlflow", "click", *_TOP, "massact.store.read", "massact.store.write"},
    "store/write": {"click", *_TOP, "massact.store.read", "massact.query", "massact.sweep"},
    "store/spool": {"click", *_TOP, "massact.store.read", "massact.query", "massact.sweep"},
    "store/read": {"torch", "transformers", "mlflow", "click", *_TOP, "massact.store.write", "massact.query",
                   "massact.server", "massact.sweep"},
    "query": {"torch", "transformers", "mlflow", "click", *_TOP, "massact.store.write", "massact.sweep",
              "massact.server"},
    "report": {"torch", "transformers", "mlflow", "click", *_TOP, "massact.store.write", "massact.sweep"},
    "plot": {"torch", "transformers", "mlflow", "click", *_TOP, "massact.sweep"},
    "interop": {"click", "torch", "transformers", *_TOP, "massact.query", "massact.models", "massact.judges",
                "massact.sweep"},
    "sweep": {"click", "mlflow", "sqlalchemy", *_TOP},
    "sweep/executors": {"click", "mlflow", "sqlalchemy", "transformers", *_TOP, "massact.store.read", "massact.query",
                        "massact.report"},
    "server": {"torch", "transformers", "click", *_TOP, "massact.store.write", "massact.sweep", "massact.models",
               "massact.judges", "massact.interop"},
    "server/answering": {"mlflow", "flask"},
    "service": {"click", "torch", "transformers", *_TOP, "massact.config", "massact.query", "massact.models",
                "massact.judges", "massact.sweep", "massact.interop"},
    "workflow": {"click", "mlflow", "sqlalchemy", "massact.cli"},
    "doctor": {"click", "sqlalchemy", "transformers", *_TOP, "massact.config", "massact.query", "massact.models",
               "massact.judges", "massact.interop", "massact.sweep"},
}  # fmt: skip
"""Part of the package -> what none of its modules may import, at the top or inside a function."""


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: a relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _modules(part: str) -> list[Path]:
    folder = PACKAGE / part
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [PACKAGE / f"{part}.py"]


@pytest.mark.parametrize("part", sorted(FORBIDDEN))
def test_imports_point_one_way(part: str) -> None:
    modules = _modules(part)
    assert modules
    broken = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path in modules
        for name in _imports(path)
        for banned in FORBIDDEN[part]
        if name == banned or name.startswith(banned + ".")
    ]
    assert not broken


def test_no_two_modules_import_each_other() -> None:
    names = {_module_name(path): path for path in PACKAGE.rglob("*.py")}
    del names["massact"]  # it is there before its modules, and names them lazily
    graph = {
        name: {target for target in _imports(path) if target in names and target != name}
        for name, path in names.items()
    }
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"import circle: {' -> '.join((*path, name))}"
        if name not in done:
            for target in sorted(graph[name]):
                visit(target, (*path, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())


def _module_name(path: Path) -> str:
    parts = ["massact", *path.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["serve", "--help"],
        ["gaps", "--help"],
        ["gaps"],
        ["best"],
        ["status"],
        ["doctor", "--help"],
        ["doctor"],
    ],
    ids=" ".join,
)
def test_quick_commands_load_nothing_heavy(arguments: list[str], tmp_path: Path, root: Path) -> None:
    heavy = ("torch", "transformers", "mlflow", "sklearn", "pandas", "matplotlib", "ray")
    code = (
        "import sys\n"
        "from massact.cli.app import cli\n"
        f"try: cli({arguments + _where(arguments, root, tmp_path)!r})\n"
        "except SystemExit: pass\n"
        f"print('LOADED', [name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False, timeout=60
    )
    assert "LOADED []" in done.stdout, done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_what_answers_the_questions_of_a_server_loads_nothing_heavy() -> None:
    heavy = ("torch", "transformers", "mlflow", "flask", "pandas", "click")
    code = f"import sys, massact.server.answering\nprint([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"


def _where(arguments: list[str], root: Path, folder: Path) -> list[str]:
    if "--help" in arguments:
        return []
    return ["--experiment", str(root / "experiments/toy.yaml"), "--tracking-uri", f"sqlite:///{folder}/none.db"]
