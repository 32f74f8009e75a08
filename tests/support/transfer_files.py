"""Results files for the tests of import and export, and stores to import them into."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from massact.domain import Response
from massact.interop.importer import Importer, import_into
from massact.interop.names import Target, find_sources
from massact.interop.writing import ImportReport, Refusal
from massact.store.read import stored_runs
from massact.store.read.base import RawRun
from massact.store.schema import EvaluationRow, Kind, Scores, Tag, decode_evaluation
from massact.store.write.run_writer import FinishedRun

EXPERIMENT = "chirp refusal"
TARGET = Target(EXPERIMENT)
MODEL = "google/gemma-3-4b-it"
PLACE = "steering/chirp/refusal/instruct/response__5/steering"


def header(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "type": "header",
        "trait": "chirp/refusal",
        "direction": "positive",
        "steering_model": MODEL,
        "steering_experiment": "old",
        "vector_source": {"model": "unknown", "experiment": "old", "trait": "chirp/refusal"},
        "eval": {"model": "gpt-4.1-mini", "method": "logprob", "trait_judge": None},
        "prompts_file": "datasets/refusal.json",
        "n_questions": 4,
    }
    return {**values, **changes}


def baseline(trait: float | None = 10.0, at: str | None = "2026-01-10T08:00:00", **changes: Any) -> dict[str, Any]:
    line: dict[str, Any] = {
        "type": "baseline",
        "result": {"trait_mean": trait, "trait_std": 2.0, "n": 4},
        "eval": {"trait_judge": None},
    }
    return {**line, **({} if at is None else {"timestamp": at}), **changes}


def vector(
    method: str = "probe", layer: int = 15, weight: float = 1000.0, position: str | None = "response[:5]"
) -> dict[str, Any]:
    place = {} if position is None else {"position": position}
    return {"layer": layer, "component": "residual", **place, "method": method, "weight": weight}


def evaluation(
    trait: float | None = 30.0,
    coherence: float | None = 80.0,
    at: str | None = "2026-01-11T09:08:38.250000",
    vectors: Sequence[Mapping[str, Any]] | None = None,
    **changes: Any,
) -> dict[str, Any]:
    line: dict[str, Any] = {
        "result": {"trait_mean": trait, "coherence_mean": coherence, "trait_std": 5.5, "n": 4},
        "config": {"vectors": [vector()] if vectors is None else list(vectors)},
        "eval": {"trait_judge": None},
    }
    return {**line, **({} if at is None else {"timestamp": at}), **changes}


def responses(scores: Iterable[tuple[float | None, float | None]]) -> list[dict[str, Any]]:
    return [
        {
            "prompt": f"question {i}",
            "response": f"answer {i}",
            "system_prompt": None,
            "trait_score": trait,
            "coherence_score": coherence,
        }
        for i, (trait, coherence) in enumerate(scores)
    ]


CALIBRATION = {
    "experiment": "old",
    "model": MODEL,
    "model_variant": "instruct",
    "is_calibration": True,
    "aggregate": {
        "n_prompts": 50,
        "top_dims_by_layer": {"0": [7, 3, 1], "1": [3, 7, 2], "2": [3, 7, 4], "10": [9, 3, 5]},
        "layer_norms": {"0": 10.5, "1": 20.25, "2": 30.0, "10": 99.0},
    },
}


def write_lines(path: Path, lines: Iterable[Mapping[str, Any] | str | bytes]) -> Path:
    """A results file; a line that is no mapping is written as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for line in lines:
            text = json.dumps(line) if isinstance(line, Mapping) else line
            file.write((text.encode() if isinstance(text, str) else text) + b"\n")
    return path


def write_json(path: Path, document: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2))
    return path


class Heap:
    """Keeps the runs in memory, where a store would be."""

    def __init__(self) -> None:
        self.runs: list[FinishedRun] = []
        self.chunks: list[int] = []

    def write(self, runs: Sequence[FinishedRun]) -> None:
        self.chunks.append(len(runs))
        self.runs += runs

    def contents(self) -> list[RawRun]:
        return [RawRun("", "FINISHED", None, run.finished_at, dict(run.tags)) for run in self.runs]

    def rows(self) -> list[EvaluationRow]:
        return [
            decode_evaluation(run.tags[Tag.ROW])
            for run in self.runs
            if run.tags[Tag.KIND] in (Kind.EVALUATION, Kind.BASELINE)
        ]

    def evaluations(self) -> list[EvaluationRow]:
        return [row for row in self.rows() if row.kind is Kind.EVALUATION]


def import_to_heap(path: Path, heap: Heap, target: Target = TARGET) -> tuple[ImportReport, list[Refusal]]:
    """Import into memory. Returns the report and every refusal."""
    report = Importer(target, heap.contents(), heap.write).run(find_sources(path))
    return report, [refusal for file in report.files for refusal in file.refusals]


def imported(path: Path, target: Target = TARGET) -> Heap:
    """What an import into nothing writes."""
    heap = Heap()
    import_to_heap(path, heap, target)
    return heap


def import_to_store(uri: str, path: Path, target: Target = TARGET) -> ImportReport:
    """Import into a real store."""
    return import_into(uri, target, find_sources(path), path=path)


def stored_lines(uri: str, experiment: str = EXPERIMENT) -> dict[str, tuple[EvaluationRow, int | None]]:
    """Every finished evaluation and baseline of a store, superseded ones too: row and end by run id."""
    return {
        run.run_id: (decode_evaluation(run.tags[Tag.ROW]), run.finished_at)
        for kind in (Kind.EVALUATION, Kind.BASELINE)
        for run in stored_runs(uri, experiment, kind, tags=(Tag.ROW,))
    }


def sorted_rows(rows: Iterable[EvaluationRow]) -> list[str]:
    return sorted(map(repr, rows))


RESPONSES = (Response("q0", "a0", 20.0, 90.0), Response("q1", "a1", 40.0, None, "judge refused"))
SCORES = Scores((20.0, 40.0), (90.0, None))
