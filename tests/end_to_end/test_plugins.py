"""What others add (packages by entry points, an experiment's own files by `module:function`) is used as ours is."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from massact.cli.app import cli
from massact.config import load_experiment
from massact.errors import ConfigError, PluginError, UnusableStoreError, UsageError
from massact.labels import parse_label
from massact.plugins import forget_own, load_plugin, own_digest
from massact.store.read import open_store

CODE = '''
from massact.domain import JudgeIdentity
from massact.sweep.executors.local import LocalExecutor
from massact.judges import Usage, Verdict
from massact.store.read.sql import SqlSource


def largest(positive, negative, seed):
    """The dim in which the sides differ most."""
    difference = positive.double().mean(0) - negative.double().mean(0)
    return difference * (difference.abs() == difference.abs().max())


def halve(p, q, c):
    """The stream is halved, and moved by c along the vector."""
    return 0.5 * (1 + 0 * p), c


class Judge:
    """Scores by length."""

    def __init__(self, config, subject):
        self.identity = JudgeIdentity(config.name, config.model, "p" * 16)
        self.usage = Usage()

    def prepare(self):
        pass

    def score(self, exchanges):
        return [Verdict(min(100.0, len(one.response)), 90.0) for one in exchanges]


def vowels(reading):
    """A share of the characters, of what the models read as well."""
    assert len(reading.kl) == len(reading.log_probabilities) == min(8, len(reading.tokens))
    return sum(c in "aeiou" for c in reading.response) / (len(reading.response) or 1)


def executor(opening):
    opening.say("the lab's executor runs the cells")
    return LocalExecutor(opening.load, opening.spool)


def store(uri):
    return SqlSource("sqlite:///" + uri.removeprefix("lab://"))


NOTHING = 5
'''
POINTS = """
[massact.methods]
largest = lab_code:largest

[massact.operators]
halve = lab_code:halve

[massact.judges]
lab = lab_code:Judge

[massact.metrics]
vowels = lab_code:vowels

[massact.executors]
lab = lab_code:executor

[massact.stores]
lab = lab_code:store
"""
EXPERIMENT = """\
name: lab
traits:
  refusal: {dataset: "toy:refusal"}
models:
  toy:
    base: {variant: base, model: "toy:gemma-3-base"}
    instruct: {variant: instruct, model: "toy:gemma-3-instruct"}
    dtype: float32
    layers: "2"
    coefficients: [8]
calibration: {prompts: "toy:calibration", max_new_tokens: 2}
extraction:
  {positions: ["response[:2]"], methods: [largest], uniform_dims: [1], layer_dims: [1], max_new_tokens: 2}
generation: {max_new_tokens: 4}
judge: {name: "lab:strict", concurrency: 2}
metrics: [kl, vowels]
subset: 2
phases:
  phase1: {labels: [largest, largest_top1], positions: ["response[:2]"]}
  phase2: {labels: [largest], positions: ["response[:2]"]}
  phase3: {labels: [largest], positions: ["response[:2]"]}
"""
Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs a package as pip leaves it: its module, and a folder that tells of its entry points."""

    def make(name: str = "lab", points: str = POINTS, code: str = CODE) -> None:
        folder = tmp_path / f"site-{name}"
        info = folder / f"{name}-1.2.dist-info"
        info.mkdir(parents=True)
        (folder / "lab_code.py").write_text(code)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(points)
        monkeypatch.syspath_prepend(folder)
        monkeypatch.delitem(sys.modules, "lab_code", raising=False)

    return make


@pytest.mark.slow
def test_a_method_an_operator_a_judge_an_executor_and_a_store_are_used_by_name(
    install: Install, migrated_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install()
    monkeypatch.chdir(tmp_path)
    Path("lab.yaml").write_text(EXPERIMENT)
    Path("lab.db").write_bytes(migrated_database.read_bytes())

    def run(*arguments: str, uri: str = f"sqlite:///{tmp_path}/lab.db") -> str:
        done = CliRunner().invoke(cli, [*arguments, "--experiment", "lab.yaml", "--tracking-uri", uri])
        assert done.exit_code == 0, (done.output, done.exception)
        return done.output

    run("calibrate")
    run("extract")
    said = run(
        "evaluate", "--model", "toy", "--trait", "refusal", "--method", "largest,largest_top1,largest+halve",
        "--position", "response[:2]", "--layers", "2", "--coefficients", "8", "--executor", "lab",
    )  # fmt: skip
    assert "the lab's executor runs the cells" in said
    found = run("runs", "--format", "json", uri=f"lab://{tmp_path}/lab.db")
    assert '"label": "largest"' in found
    assert '"label": "largest+halve"' in found
    assert "lab:strict" in found

    def rows_of(said: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = json.loads(said[said.index("{") : said.rindex("}") + 1])["rows"]
        return rows

    rows = rows_of(found)
    assert all(0 < row["vowels"] < 1 and row["kl"] > 0 and row["perplexity"] is None for row in rows)
    (best, *_) = rows_of(run("best", "--floor", "vowels<=0.999", "--format", "json"))
    assert best["status"] == "ok"


def test_a_name_that_nobody_adds_is_refused_as_before(tmp_path: Path) -> None:
    file = tmp_path / "lab.yaml"
    file.write_text(EXPERIMENT)
    with pytest.raises(ConfigError, match="'largest' is not allowed; write mean_diff or probe"):
        load_experiment(file)
    with pytest.raises(UsageError, match="unknown method label 'largest_top1'"):
        parse_label("largest_top1")
    with pytest.raises(UnusableStoreError, match="names no run store that can be read"):
        open_store("lab://here")
    assert CliRunner().invoke(cli, ["evaluate", "--executor", "lab"]).exit_code == 2


def test_an_operator_from_outside_does_what_it_says_to_its_rows_alone(install: Install) -> None:
    import torch

    from massact.models.operators import Edit, find_operator

    install()
    assert parse_label("mean_diff+halve").operator == "halve"
    h, vectors = torch.randn(2, 3, 4), torch.tensor([[[1.0, 0.0, 0.0, 0.0]], [[0.0] * 4]])
    which, coefficients = torch.tensor([1, 0]).view(2, 1, 1), torch.tensor([6.0, 0.0]).view(2, 1, 1)
    moved = Edit(torch.zeros(2, 1, 4), (find_operator("halve"),), which, vectors, coefficients)(h)
    assert moved[0].allclose(h[0] / 2 + 6 * vectors[0])
    assert moved[1].equal(h[1])


def test_a_broken_package_is_named(install: Install) -> None:
    install(
        "broken",
        """
[massact.methods]
absent = no_such_module:method
missing = lab_code:no_such_name
number = lab_code:NOTHING
""",
    )
    for name, problem in (
        ("absent", "cannot be loaded from no_such_module:method of the package broken 1.2: ModuleNotFoundError"),
        ("missing", "AttributeError.*mend or uninstall that package"),
        ("number", "lab_code:NOTHING of the package broken 1.2, is no function"),
        ("other", "is added by no installed package"),
    ):
        with pytest.raises(PluginError, match=problem):
            load_plugin("methods", name)


def test_a_name_that_two_packages_add_is_refused(install: Install) -> None:
    for name in ("one", "two"):
        install(name, "[massact.judges]\nlab = lab_code:Judge\n")
    with pytest.raises(PluginError, match=r"added by the package one 1\.2 and the package two 1\.2"):
        load_plugin("judges", "lab")


def test_a_method_that_gives_no_direction_is_named(install: Install) -> None:
    import torch

    from massact.domain import Recipe
    from massact.vectors.methods import extract_vector

    install("flat", "[massact.methods]\nflat = lab_code:flat\n", "def flat(p, n, seed): return p\n")
    sides = torch.ones(3, 4), torch.zeros(3, 4)
    with pytest.raises(PluginError, match=r"the method flat gave \(3, 4\), not a direction \[4\]"):
        extract_vector(Recipe("flat"), *sides, dims=(), seed=0)


def test_a_method_that_fails_is_named_with_its_line(install: Install) -> None:
    import torch

    from massact.domain import Recipe
    from massact.vectors.methods import extract_vector

    install("bad", "[massact.methods]\nbad = lab_code:bad\n", "def bad(p, n, seed):\n    return p / n.missing\n")
    with pytest.raises(PluginError, match=r"the method bad failed: AttributeError: .*lab_code\.py, line 2\)"):
        extract_vector(Recipe("bad"), torch.ones(3, 4), torch.zeros(3, 4), dims=(), seed=0)


# the experiment's own files

OWN = (
    EXPERIMENT.replace("methods: [largest]", 'methods: ["own_code:largest"]')
    .replace(
        'judge: {name: "lab:strict", concurrency: 2}', 'judge: "python:own_code:Judge"\noperators: ["own_code:halve"]'
    )
    .replace("metrics: [kl, vowels]", 'metrics: [kl, "own_code:vowels"]')
)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Path]:
    """An experiment file with its code beside it."""
    (tmp_path / "own_code.py").write_text(CODE)
    file = tmp_path / "lab.yaml"
    file.write_text(OWN)
    yield file
    forget_own()
    sys.path[:] = [one for one in sys.path if one != str(tmp_path)]
    for name in ("own_code", "broken_code"):
        sys.modules.pop(name, None)


def test_a_function_beside_the_file_is_a_method_or_an_operator(own: Path) -> None:
    import torch

    from massact.domain import Recipe
    from massact.models.operators import find_operator
    from massact.vectors.methods import extract_vector

    experiment = load_experiment(own)
    assert (experiment.extraction.methods, experiment.operators) == (("largest",), ("halve",))
    assert "own_code" not in sys.modules  # read, but not run
    assert parse_label("largest_top1+halve") == Recipe("largest", parse_label("probe_top1").cleaning, "halve")
    assert own_digest("methods", "largest") == hashlib.sha256(CODE.encode()).hexdigest()
    sides = torch.tensor([[1.0, -3.0, 2.0]] * 2), torch.zeros(2, 3)
    assert extract_vector(Recipe("largest"), *sides, dims=(), seed=0).tolist() == [0.0, -1.0, 0.0]
    assert find_operator("halve")(*torch.ones(3, 1))[1] == 1
    changed = CODE.replace("0.5 *", "0.25 *")
    (own.parent / "own_code.py").write_text(changed)
    load_experiment(own)
    assert find_operator("halve")(*torch.ones(3, 1))[0] == 0.25
    assert own_digest("operators", "halve") == hashlib.sha256(changed.encode()).hexdigest()
    own.write_text(
        OWN.replace('"own_code:largest"', "mean_diff").replace("[largest", "[mean_diff").replace("largest_", "probe_")
    )
    load_experiment(own)
    with pytest.raises(UsageError, match="unknown method label 'largest'"):
        parse_label("largest")


def test_processes_that_are_started_for_an_experiment_have_its_functions(own: Path) -> None:
    (own.parent / "own_code.py").write_text(
        "def largest(p, n, s): return 'the largest'\nhalve = Judge = vowels = largest\n"
    )
    load_experiment(own)
    code = "from massact.plugins import load_plugin; print(load_plugin('methods', 'largest')(0, 0, 0))"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout == "the largest\n"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("own_code:largest", "nothing:largest", r"extraction\.methods\[0\].*there is no file .*nothing\.py"),
        ("own_code:largest", "own_code:smallest", r"own_code\.py has no smallest"),
        ("own_code:largest", "own_code:Judge", "lower-case letters"),
        ("own_code:halve", "own_code:add", "a label cannot have 'add': it is taken"),
        ("own_code:largest", "own_code:mean_diff", "a label cannot have 'mean_diff': it is taken"),
        ("own_code:largest", "own_code:x_top1", "a label cannot have 'x_top1'.*ends as a cleaning does"),
        ("own_code:largest", "own_code:imported_x", "a label cannot have 'imported_x'.*begins with imported_"),
        ('["own_code:halve"]', '["own_code:halve", "more:halve"]', "there is another of the operators called 'halve'"),
        ('["own_code:halve"]', "[halve]", "write module:function"),
    ],
)
def test_a_wrong_reference_is_named_with_its_place(own: Path, old: str, new: str, said: str) -> None:
    (own.parent / "own_code.py").write_text(f"{CODE}add = mean_diff = x_top1 = imported_x = halve\n")
    (own.parent / "more.py").write_text("def halve(p, q, c): return p, c\n")
    own.write_text(OWN.replace(old, new))
    with pytest.raises(ConfigError, match=said):
        load_experiment(own)


def test_what_cannot_be_loaded_says_why(own: Path) -> None:
    experiment = OWN.replace("own_code", "broken_code")
    for code, said in (
        ("import no_such_module  # largest halve vowels", "ModuleNotFoundError"),
        ("largest = halve = vowels = 5", "no function"),
    ):
        (own.parent / "broken_code.py").write_text(code)
        own.write_text(experiment)
        load_experiment(own)
        with pytest.raises(ConfigError, match=f"'broken_code:largest' of the methods .*{said}"):
            load_plugin("methods", "largest")
    (own.parent / "json.py").write_text("def largest(p, n, s): return p[0]\n")
    own.write_text(OWN.replace("own_code:largest", "json:largest"))
    load_experiment(own)
    with pytest.raises(ConfigError, match=r"another module json is loaded, .*rename json\.py"):
        load_plugin("methods", "largest")


@pytest.mark.slow
def test_an_experiment_runs_on_its_own_code_and_its_source_is_in_the_keys(
    own: Path, migrated_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(own.parent)
    Path("lab.db").write_bytes(migrated_database.read_bytes())

    def run(*arguments: str, code: int = 0) -> str:
        uri = f"sqlite:///{own.parent}/lab.db"
        done = CliRunner().invoke(cli, [*arguments, "--experiment", "lab.yaml", "--tracking-uri", uri])
        assert done.exit_code == code, (done.output, done.exception)
        return done.output

    def evaluate(code: int = 0) -> str:
        return run(
            "evaluate", "--model", "toy", "--trait", "refusal", "--method", "largest,largest+halve", "--position",
            "response[:2]", "--layers", "2", "--coefficients", "8", code=code,
        )  # fmt: skip

    def runs() -> list[dict[str, str]]:
        text = run("runs", "--format", "json")
        rows: list[dict[str, str]] = json.loads(text[text.index("{") :])["rows"]
        return rows

    run("calibrate")
    run("extract")
    evaluate()
    assert "extracted already" in run("extract")
    assert len(runs()) == 2
    (own.parent / "own_code.py").write_text(CODE.replace("0.5 *", "0.25 *"))
    assert "before the file of the method largest was changed" in evaluate(code=1)
    run("extract")
    evaluate()
    keys = [row["key"] for row in runs() if row["label"] == "largest+halve"]
    assert len(set(keys)) == 2, "the operator of another source is another operator"
