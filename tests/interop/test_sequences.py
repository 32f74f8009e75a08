"""Any sequence of imports, repeated imports and deletions holds what a brute-force reading of the files says."""

import json
import shutil
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Protocol

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from massact.store.read import open_store
from massact.store.schema import EvaluationRow
from tests.support.transfer_files import (
    EXPERIMENT,
    Heap,
    baseline,
    evaluation,
    header,
    import_to_heap,
    import_to_store,
    stored_lines,
    vector,
    write_lines,
)

Line = Mapping[str, Any]
Fact = tuple[Any, ...]


class World(Protocol):
    """Somewhere to import into."""

    def read(self, path: Path) -> None: ...

    def facts(self) -> list[Fact]: ...

    def delete(self, fact: Fact) -> None: ...


def fact_of(row: EvaluationRow, finished_at: int | None, dated: bool = True) -> Fact:
    """What people see of a stored result."""
    return (
        row.kind.value, row.model_variant, row.position, row.judge, row.label, row.layer, row.coefficient,
        row.trait_mean, row.coherence_mean, row.delta, row.baseline_trait_mean, finished_at if dated else None,
    )  # fmt: skip


class InMemory:
    def __init__(self) -> None:
        self.heap = Heap()

    def read(self, path: Path) -> None:
        import_to_heap(path, self.heap)

    def facts(self) -> list[Fact]:
        return [fact_of(row, run.finished_at) for row, run in zip(self.heap.rows(), self.heap.runs, strict=True)]

    def delete(self, fact: Fact) -> None:
        del self.heap.runs[self.facts().index(fact)]


class InStore:
    def __init__(self, uri: str) -> None:
        self.uri = uri

    def read(self, path: Path) -> None:
        import_to_store(self.uri, path)

    def facts(self) -> list[Fact]:
        return [fact_of(row, at) for row, at in stored_lines(self.uri).values()]

    def delete(self, fact: Fact) -> None:
        from mlflow import MlflowClient

        found = [run for run, (row, at) in stored_lines(self.uri).items() if fact_of(row, at) == fact]
        MlflowClient(tracking_uri=self.uri).delete_run(found[0])


@dataclass
class Oracle:
    """The same, by brute force: what each file says, and which of it is there."""

    files: Mapping[Path, tuple[str, str, list[Line]]]
    """Variant, position and lines of each file."""
    there: set[tuple[Path, str]] = field(default_factory=set)
    """File and line, as text."""

    def read(self, path: Path) -> None:
        self.there |= {(path, json.dumps(line, sort_keys=True)) for line in self.files[path][2]}

    def facts(self) -> list[Fact]:
        return [self.fact(path, json.loads(text)) for path, text in self.there]

    def delete(self, fact: Fact) -> None:
        self.there.remove(next(one for one in self.there if self.fact(one[0], json.loads(one[1])) == fact))

    def fact(self, path: Path, line: Line) -> Fact:
        variant, position, lines = self.files[path]
        judge, result = line["eval"]["trait_judge"], line["result"]
        at = finished(line)
        ended = path.stat().st_mtime_ns // 1_000_000 if at < 0 else at
        shown = "logprob:gpt-4.1-mini" + (f":{judge}" if judge else "")
        if "config" not in line:
            own = (None, None, None, result["trait_mean"], None, None, None)
            return ("baseline", variant, None, shown, *own, ended)
        steered = line["config"]["vectors"][0]
        bases = [one for one in lines if "config" not in one and one["eval"]["trait_judge"] == judge]
        newest = max(bases, key=lambda one: (finished(one), json.dumps(one, sort_keys=True)), default=None)
        before = newest["result"]["trait_mean"] if newest else None
        trait = result["trait_mean"]
        delta = None if before is None or trait is None else trait - before
        return (
            "evaluation", variant, position, shown, steered["method"], steered["layer"], steered["weight"], trait,
            result["coherence_mean"], delta, before, ended,
        )  # fmt: skip

    def counting(self) -> list[Fact]:
        """The evaluations that count: of one cell the newest, and every one without a time."""
        cells: dict[Any, tuple[Any, Fact]] = {}
        for path, text in self.there:
            line = json.loads(text)
            if "config" not in line:
                continue
            alone = text if finished(line) < 0 else None
            fact = self.fact(path, line)
            cell = (*fact[1:7], alone)
            if cell not in cells or finished(line) > cells[cell][0]:
                cells[cell] = (finished(line), fact)
        return [fact for _, fact in cells.values()]


def finished(line: Line) -> int:
    """Milliseconds since 1970; -1 for a line without a time."""
    text = line.get("timestamp")
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000) if text else -1


JUDGES = st.sampled_from([{"trait_judge": None}, {"trait_judge": "pv/x"}])
SCORES = st.one_of(st.none(), st.integers(0, 100).map(float))


def times(seconds: st.SearchStrategy[int]) -> st.SearchStrategy[str | None]:
    """Times of a line, or none."""
    dated = seconds.map(lambda i: f"{datetime.fromtimestamp(10**9 + i, UTC):%Y-%m-%dT%H:%M:%S}")
    return st.one_of(st.none(), dated)


def unlike(lines: list[Line]) -> list[Line]:
    """No two lines of one time: of two results of one cell and one time none is the newer."""
    kept: dict[Any, Line] = {}
    for line in lines:
        kept.setdefault(line.get("timestamp") or json.dumps(line, sort_keys=True), line)
    return list(kept.values())


LINES = st.lists(
    st.one_of(
        st.builds(
            evaluation,
            trait=SCORES,
            coherence=SCORES,
            at=times(st.integers(0, 10**6)),
            vectors=st.tuples(st.sampled_from(["probe", "mean_diff"]), st.sampled_from([3, 4])).map(
                lambda one: [vector(one[0], one[1], 8.0, None)]
            ),
            eval=JUDGES,
        ),
        st.builds(baseline, trait=SCORES, at=times(st.integers(0, 10**6)), eval=JUDGES),
    ),
    max_size=7,
).map(unlike)
STEPS = st.lists(st.one_of(st.sampled_from(["read 0", "read 1", "read 2"]), st.integers(0, 10**6)), max_size=9)
PLACES = (("instruct", "response__5"), ("other", "response__10"), ("third", "response__5"))
"""A variant each: equal lines of two files must be told apart when one is deleted."""


def play(world: World, folder: Path, contents: list[list[Line]], steps: list[str | int]) -> Oracle:
    files = {}
    for (variant, slug), lines in zip(PLACES, contents, strict=True):
        path = folder / "steering" / "chirp" / "refusal" / variant / slug / "steering" / "results.jsonl"
        position = slug.replace("response__", "response[:") + "]"
        # a repeated line is the same line
        files[write_lines(path, [*lines, header(), *lines[:2]])] = (variant, position, lines)
    oracle = Oracle(files)
    for step in steps:
        if isinstance(step, str):
            path = list(files)[int(step[-1])]
            world.read(path)
            oracle.read(path)
        elif oracle.there:
            facts = sorted(oracle.facts(), key=repr)
            world.delete(facts[step % len(facts)])
            oracle.delete(facts[step % len(facts)])
        assert sorted(map(repr, world.facts())) == sorted(map(repr, oracle.facts()))
    return oracle


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(contents=st.lists(LINES, min_size=3, max_size=3), steps=STEPS)
def test_imports_and_deletions_hold_what_the_files_say(
    contents: list[list[Line]], steps: list[str | int], tmp_path: Path
) -> None:
    play(InMemory(), tmp_path, contents, steps)


@pytest.mark.slow
@settings(
    max_examples=12,
    deadline=None,
    phases=(Phase.generate,),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(contents=st.lists(LINES, min_size=3, max_size=3), steps=STEPS)
def test_a_store_holds_what_the_files_say(
    contents: list[list[Line]], steps: list[str | int], tmp_path: Path, migrated_database: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folder = Path(mkdtemp(dir=tmp_path))
    monkeypatch.chdir(folder)
    shutil.copy(migrated_database, folder / "store.db")
    uri = f"sqlite:///{folder}/store.db"
    oracle = play(InStore(uri), folder, contents, steps)
    with closing(open_store(uri)) as store:
        found = store.evaluations(EXPERIMENT)
    facts = [repr(fact_of(one.row, one.finished_at)) for one in found]
    assert sorted(facts) == sorted(map(repr, oracle.counting()))
