"""Ladders of record: dense ladders over the coefficient on a real model, to try ways of searching on without a model.

The file `ladders.csv` beside this one holds them, a row a cell: SmolLM2-135M-Instruct (Q4_1, dequantised to float32),
two traits, eight layers, six labels, the first six questions of each trait, sixteen coefficients, responses of 32 and
of 64 tokens. Judged as `experiments/smollm2.yaml` is (a classifier and perplexity: no person and no API had a say).
Made again, in six hours of two cores:

    python benchmarks/ladders.py FOLDER experiments/SmolLM2-135M-Instruct.Q4_1.gguf

`part` says which rows a search may be tuned on: the layers whose name has an even digest are `tune`, the others
`held_out`, and those no search of ours was ever tuned on.
"""

import argparse
import csv
import hashlib
import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from massact.config import load_experiment
from massact.domain import Coefficients
from massact.labels import parse_label
from massact.prediction.prior import VectorFacts
from massact.store.read import open_store
from massact.sweep.context import Session
from massact.sweep.driver import Evaluator
from massact.sweep.planner import GridRequest
from massact.sweep.search import Observation
from massact.sweep.search.ladders import LadderKey as SearchKey
from massact.sweep.search.probing import probe_cliffs
from massact.sweep.vectors import facts_of

FILE = Path(__file__).with_suffix(".csv")
RELATIVE = (0.1, 0.2, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.8, 0.9, 1.0, 1.2, 1.4)
LAYERS = (8, 10, 12, 14, 16, 18, 21, 25)
LABELS = ("mean_diff", "mean_diff_top1", "mean_diff_cleaned", "probe", "probe_cleaned", "random_baseline")
POSITION = "response[:5]"
COLUMNS = (
    "part", "tokens", "trait", "layer", "label", "coefficient", "relative_strength", "norm", "probed",
    "trait_scores", "coherence_scores",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class LadderKey:
    """One vector, and the length of the responses."""

    tokens: int
    trait: str
    layer: int
    label: str


@dataclass(frozen=True, slots=True)
class RecordedLadder:
    """A ladder of the file, by rising coefficient."""

    part: str
    facts: VectorFacts
    baseline: float
    """Mean trait score without steering."""
    baseline_coherence: float
    observations: tuple[Observation, ...]
    probed: float
    """Relative strength at which its short texts break (`massact search --start probe`)."""


def part_of(layer: int) -> str:
    """What rows of a layer are for."""
    return ("tune", "held_out")[hashlib.sha256(f"layer {layer}".encode()).digest()[0] % 2]


def read_ladders(path: Path = FILE) -> dict[LadderKey, RecordedLadder]:
    """The ladders of record."""
    if not path.is_file():
        raise SystemExit(f"{path} is not there: make it with python benchmarks/ladders.py FOLDER MODEL.gguf")
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    means = [(row, _mean(row["trait_scores"]), _mean(row["coherence_scores"])) for row in rows]
    baselines = {(row["tokens"], row["trait"]): pair for row, *pair in means if not row["label"]}
    cells: dict[LadderKey, list[tuple[dict[str, str], float, float]]] = {}
    for row, trait, coherence in means:
        if row["label"] and not math.isnan(trait + coherence):
            key = LadderKey(int(row["tokens"]), row["trait"], int(row["layer"]), row["label"])
            cells.setdefault(key, []).append((row, trait, coherence))
    found = {}
    for key, some in cells.items():
        trait, coherence = baselines[str(key.tokens), key.trait]
        seen = sorted((Observation(float(r["coefficient"]), c, t - trait) for r, t, c in some), key=_size)
        first = some[0][0]
        unit = float(first["relative_strength"]) / float(first["coefficient"])
        facts = VectorFacts(unit_strength=unit, norm=float(first["norm"]))
        found[key] = RecordedLadder(first["part"], facts, trait, coherence, tuple(seen), float(first["probed"]))
    return found


def _size(one: Observation) -> float:
    return one.coefficient


def _mean(scores: str) -> float:
    """Over the scored; NaN where none is."""
    values = [float(score) for score in scores.split() if score != "nan"]
    return sum(values) / len(values) if values else math.nan


def make(folder: Path, model: Path) -> None:
    """Evaluate every cell in the folder, or what is left of it, and write the file."""
    experiments = Path(__file__).parents[1] / "experiments"
    rows: dict[tuple[str, int], list[Sequence[object]]] = {}
    probed: dict[str, dict[tuple[int, str], float]] = {}
    for trait, tokens in product(("refusal", "enthusiasm"), (32, 64)):
        place = folder / str(tokens)
        place.mkdir(parents=True, exist_ok=True)
        path = place / "ladders.yaml"
        path.write_text(_experiment(experiments, model.resolve(), tokens), encoding="utf-8")
        which = ["--trait", trait, "--layers", ",".join(map(str, LAYERS)), "--method", ",".join(LABELS)]
        which += ["--coefficients", f"relative:{','.join(map(str, RELATIVE))}"]
        for command in (
            ["calibrate"],
            ["extract"],
            ["evaluate", *which, "--position", POSITION, "--save-responses", "none"],
        ):
            arguments = [sys.executable, "-m", "massact", *command, "--experiment", path.name]
            subprocess.run(arguments, cwd=place, check=True)
        if trait not in probed:  # short texts are short, however long responses are
            probed[trait] = _probed(path, f"sqlite:///{place.resolve() / 'mlflow.db'}", trait)
        rows[trait, tokens] = list(rows_of(path, trait, tokens, probed[trait]))
    write([row for some in rows.values() for row in some])


def write(rows: Sequence[Sequence[object]]) -> None:
    """The file."""
    with FILE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows)


def _experiment(experiments: Path, model: Path, tokens: int) -> str:
    text = (experiments / "smollm2.yaml").read_text(encoding="utf-8").partition("\nphases:")[0]
    for pattern, new in (
        (r"(?m)^name: .*$", f"name: ladders-{tokens}"),
        (r'"\./SmolLM2[^"]*"', f'"{model}"'),
        (r'"\./traits/', f'"{experiments.resolve()}/traits/'),
        (r'layers: "[^"]*"', f'layers: "{",".join(map(str, LAYERS))}"'),
        (r"relative: \[[^]]*\]", f"relative: {list(RELATIVE)}"),
        (r"coefficient_range: \[[^]]*\]", "coefficient_range: [1, 400]"),
        (r"max_new_tokens: 32", f"max_new_tokens: {tokens}"),
    ):
        text, n = re.subn(pattern, new, text)
        assert n, pattern
    return text


def rows_of(path: Path, trait: str, tokens: int, probed: Mapping[tuple[int, str], float]) -> Iterator[Sequence[object]]:
    """The file's rows of one trait from the store beside an experiment file."""
    database, experiment = path.with_name("mlflow.db").resolve(), f"ladders-{tokens}"
    with closing(open_store(f"sqlite:///{database}")) as store:
        baselines = [run for run in store.baselines(experiment) if run.row.trait == trait]
        points = [one for one in store.points(experiment) if one.trait == trait]
        scores = store.scores([run.run_id for run in baselines] + [one.run_id for one in points])
    calibration = json.loads(next(database.parent.rglob("calibration.json")).read_bytes())
    norms = calibration["aggregate"]["layer_norms"]
    for run in baselines:
        yield "", tokens, trait, *[""] * 6, *_texts(scores[run.run_id])
    for one in points:
        norm, place = f"{norms[str(one.layer)]:.4g}", (one.layer, one.label)
        known = (one.coefficient, f"{one.relative_strength or 0:.4g}", norm, f"{probed[place]:.3f}")
        yield part_of(one.layer), tokens, trait, *place, *known, *_texts(scores[one.run_id])


def _probed(path: Path, uri: str, name: str) -> dict[tuple[int, str], float]:
    """Relative strengths at which short texts break, by layer and label."""
    session = Session(load_experiment(path), uri)
    (model,), trait = session.experiment.models, session.experiment.trait(name)
    requests = [GridRequest(POSITION, parse_label(label), LAYERS, Coefficients(())) for label in LABELS]
    with session.stores.tracker.phase("probe", params={}) as run:
        evaluator = Evaluator(session, run, model, trait)
        facts = {
            SearchKey(POSITION, label, layer, 1): each
            for label, one in zip(LABELS, requests, strict=True)
            for layer, each in facts_of(evaluator.planner.vectors, POSITION, one.recipe, LAYERS).items()
        }
        cliffs = probe_cliffs(session, evaluator, requests, facts)
    session.stores.close()
    return {(k.layer, k.label): expected.cliff * facts[k].unit_strength for k, expected in cliffs.items()}


def _texts(scores: object) -> tuple[str, str]:
    trait, coherence = (
        " ".join("nan" if one is None else f"{one:.4g}" for one in getattr(scores, name))
        for name in ("trait", "coherence")
    )
    return trait, coherence


def main() -> None:
    """Make the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("model", type=Path)
    args = parser.parse_args()
    make(args.folder, args.model)


if __name__ == "__main__":
    main()
