"""The tests themselves: what they share lies in helpers, and those of pure rules load no heavy library."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PURE = ("config", "gaps_best", "keys", "labels", "ladder", "layers", "sensitivity", "statistics", "uncertainty")


def test_no_test_module_imports_another(root: Path) -> None:
    found = []
    for path in (root / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{one.name}" for one in node.names] + [str(node.module)]
            elif isinstance(node, ast.Import):
                names = [one.name for one in node.names]
            else:
                continue
            is_test = any(name.startswith("tests.") and ".test_" in name for name in names)
            found += [f"{path.name} line {node.lineno}"] * is_test
    assert found == []


@pytest.mark.slow
def test_tests_of_pure_rules_are_collected_without_heavy_libraries(root: Path) -> None:
    paths = [str(path) for name in PURE for path in (root / "tests").rglob(f"test_*{name}.py")]
    assert len(paths) >= len(PURE)
    code = (
        "import sys, pytest\n"
        "code = pytest.main(['-q', '--collect-only', '-p', 'no:cacheprovider', *sys.argv[1:]])\n"
        "print('LOADED', int(code), [n for n in ('torch', 'transformers', 'mlflow', 'ray') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *paths], capture_output=True, text=True, cwd=root, check=False, timeout=120
    )
    assert done.stdout.endswith("LOADED 0 []\n"), done.stdout[-3000:] + done.stderr[-3000:]
