"""Try massact with the lowest and the newest versions of its dependencies that pyproject.toml allows.

    .venv/bin/python tools/versions.py lowest newest

Each environment (build/versions/lowest, build/versions/newest) lies on top of the one that runs this script, so that
only what differs from requirements.lock is installed; then `SUITE` and a small `massact main` run in it. Prints the
table of docs/versions.md for what was tried. Exits 1 where a test fails, 3 where an environment cannot be made.

torch stays at the version that is installed: registries have others as gigabytes of CUDA.
"""

import subprocess
import sys
import sysconfig
import tomllib
import venv
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
FIXED = "torch"
SUITE = (
    "tests/models/test_models.py",
    "tests/models/test_architectures.py",
    "tests/models/test_adapters.py",
    "tests/models/test_loading.py",
    "tests/models/test_gguf.py",
    "tests/models/test_generate.py::test_the_same_batches_give_the_same_tokens_in_bfloat16",
    "tests/judges/test_local_judge.py",
    "tests/judges/test_openai_judge.py",
    "tests/vectors/test_vectors.py",
    "tests/store/test_store.py",
    "tests/store/test_store_errors*.py",
    "tests/store/test_addresses.py",
    "tests/store/test_tracking*.py",
    "tests/store/test_bulk.py",
    "tests/store/test_patience.py",
    "tests/query/test_*.py",
    "tests/cli/test_cli*.py",
    "tests/report/test_plot.py",
)
"""Of these the fast tests: whatever a release of a model library, a judge's client, MLflow or a plot's can break."""
SLOW = (
    "tests/end_to_end/test_end_to_end.py::test_main_ends_with_a_report_and_links",
    "tests/models/test_models.py::test_a_padded_grid_gives_token_for_token_what_single_rows_give",
    "tests/models/test_adapters.py::test_it_computes_what_peft_computes",
    "tests/models/test_generate.py::test_a_grid_gives_what_transformers_gives_row_by_row",
    "tests/models/test_generate.py::test_rows_that_end_early_change_nothing_for_the_others",
    "tests/store/test_bulk.py::test_every_column_is_as_mlflows_own_store_writes_it[sqlite]",
)
"""And of the slow ones these; the first runs `massact main` on an embedded model."""
_NOT_OURS = "`is_gradient_checkpointing` is deprecated"
"""peft 0.21 asks transformers for it."""
_VERSIONS = """
import sys
from importlib.metadata import version
print("\\n".join(version(name) for name in sys.argv[1:]))
"""


def declared() -> dict[str, Requirement]:
    """What massact and its extras need, by name; those of `dev` are tools, of which only the lock is used."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [lines for name, lines in project["optional-dependencies"].items() if name != "dev"]
    found: dict[str, Requirement] = {}
    for one in map(Requirement, sum(extras, project["dependencies"])):
        name = canonicalize_name(one.name)
        one.extras |= found[name].extras if name in found else set()
        found[name] = one
    return found


def lowest(requirement: Requirement) -> str:
    """The lowest version that a requirement allows."""
    return next(one.version for one in requirement.specifier if one.operator == ">=")


def make(kind: str) -> Path:
    """Make an environment. Returns its interpreter.

    Raises:
        subprocess.CalledProcessError: pip cannot resolve it, or there is no registry.
    """
    folder = ROOT / "build/versions" / kind
    venv.create(folder, clear=True, with_pip=True)
    python = folder / "bin/python"
    below = sysconfig.get_path("purelib")
    own = sysconfig.get_path("purelib", vars={"base": str(folder)})
    Path(own, "_below.pth").write_text(f"import site; site.addsitedir({below!r})\n", encoding="utf-8")
    wanted = declared()
    fixed = f"{FIXED}=={installed(Path(sys.executable), [FIXED])[FIXED].partition('+')[0]}"
    others = [one for name, one in wanted.items() if name != FIXED]
    if kind == "lowest":
        pip(python, *(str(one).replace(str(one.specifier), f"=={lowest(one)}") for one in others), fixed)
    else:
        pip(python, "--upgrade", "--upgrade-strategy", "eager", *map(str, others), fixed)
        # MLflow is three distributions of one version. Where a registry has not all of the newest yet, pip takes an
        # older release; the newest of the main one runs with the parts of that, and is what users meet next.
        pip(python, "--upgrade", "--no-deps", f"mlflow{wanted['mlflow'].specifier}")
    return python


def pip(python: Path, *wanted: str) -> None:
    """Install; see `make`."""
    command = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check", *wanted]
    subprocess.run(command, check=True)


def installed(python: Path, names: list[str]) -> dict[str, str]:
    """The versions that an interpreter imports, by name."""
    command = [str(python), "-c", _VERSIONS, *names]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return dict(zip(names, found, strict=True))


def passes(python: Path, kind: str) -> bool:
    """Run the suite and a small `massact main`; with the newest a name that is about to go is a failure too."""
    strict = ["-W", "error::FutureWarning", "-W", f"default:{_NOT_OURS}:FutureWarning"]
    files = [str(path.relative_to(ROOT)) for name in SUITE if "*" in name for path in sorted(ROOT.glob(name))]
    chosen = ["-n", "2", "--dist", "loadfile", "-m", "not slow", *(name for name in SUITE if "*" not in name), *files]
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", *(strict if kind == "newest" else [])]
    done = [subprocess.run([*command, *tests], cwd=ROOT, check=False).returncode for tests in (chosen, SLOW)]
    return not any(done)


def table(tried: dict[str, dict[str, str]]) -> str:
    """The versions of every dependency, by environment, as the table of docs/versions.md."""
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    locked = {canonicalize_name(line.partition("==")[0]): line.partition("==")[2] for line in lines}
    columns: dict[str, Mapping[Any, str]] = {
        "lowest": tried.get("lowest", {}),
        "locked": locked,
        "newest": tried.get("newest", {}),
    }
    rows = [["dependency", *columns], ["---"] * 4]
    rows += [[name, *(column.get(name, "") for column in columns.values())] for name in sorted(declared())]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main(kinds: list[str]) -> int:
    """Try each kind; the exit code."""
    tried, failed = {}, []
    for kind in kinds or ["lowest", "newest"]:
        try:
            python = make(kind)
        except subprocess.CalledProcessError as error:
            print(f"{kind} versions: no environment; pip ended with {error.returncode}", flush=True)
            return 3
        tried[kind] = installed(python, sorted(declared()))
        if not passes(python, kind):
            failed.append(kind)
    print(f"{datetime.now(UTC):%Y-%m-%d}, Python {sys.version.split()[0]}\n\n{table(tried)}\n")
    for kind in tried:
        print(f"{kind} versions: {'FAILED' if kind in failed else 'passed'}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
