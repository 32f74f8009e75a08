"""The export: what comes out goes in again, in every direction, without loss and without doubles."""

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

import massact
from massact.config import load_experiment
from massact.errors import UsageError
from massact.interop.exporter import Exporter, ExportOptions, ExportReport
from massact.interop.names import Target
from massact.query import Answers
from massact.store.read import open_store, stored_runs
from massact.store.responses import response_bytes
from massact.store.schema import EvaluationRow, Kind, Scores, StageRow, Tag
from massact.store.schema.rows import decode_stage
from massact.store.write.client import row_tags, run_tags
from massact.store.write.run_writer import FinishedRun, evaluation_run, open_writer
from massact.store.write.tracker import Tracker
from tests.support.store_fixtures import evaluation_row
from tests.support.transfer_files import (
    CALIBRATION,
    EXPERIMENT,
    MODEL,
    PLACE,
    RESPONSES,
    SCORES,
    baseline,
    evaluation,
    header,
    import_to_store,
    responses,
    stored_lines,
    vector,
    write_json,
    write_lines,
)


def export(uri: str, output: Path, experiment: str = EXPERIMENT, **options: bool) -> ExportReport:
    return Exporter(uri, experiment, ExportOptions(**options)).run(output)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def empty(migrated_database: Path, tmp_path: Path) -> str:
    """A second store, with nothing in it."""
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / "store.db").write_bytes(migrated_database.read_bytes())
    return f"sqlite:///{tmp_path}/second/store.db"


def old_tree(folder: Path) -> Path:
    """An experiment of trait-interp: two judges, superseded and undated lines, several vectors, responses."""
    own = {"eval": {"trait_judge": "pv/refusal"}}
    lines: list[Any] = [
        header(),
        baseline(10),
        baseline(12, at="2026-01-09T00:00:00"),
        baseline(5, **own),
        evaluation(30, 80),
        evaluation(35, 81, at="2026-01-12T00:00:00"),
        evaluation(36, 82, at="2026-01-13T00:00:00", **own),
        evaluation(37, 70, at=None),
        evaluation(38, 71, at=None),
        evaluation(39, 72, vectors=[vector("probe", 13), vector("mean_diff", 15)]),
        evaluation(40, 73, at="2026-01-14T00:00:00", note="x" * 9000, vectors=[vector("odd method")]),
        "  " + json.dumps(evaluation(41, 74, at="2026-01-15T00:00:00", vectors=[vector("gradient")]), indent=None),
    ]
    path = write_lines(folder / PLACE / "results.jsonl", lines)
    write_json(
        path.parent / "responses/residual/probe/L15_c1000.0_2026-01-12_00-00-00.json",
        responses([(30, 80), (40, 82), (None, None)]),
    )
    write_json(path.parent / "responses/baseline.json", responses([(10, None)]))
    write_lines(
        folder / "steering/chirp/refusal/instruct/response__10/rm/nested/results.jsonl",
        [header(n_questions=9), baseline(10), evaluation(20, vectors=[vector(position=None)])],
    )
    write_json(folder / "inference/instruct/massive_activations/calibration.json", CALIBRATION)
    write_json(
        folder / "inference/base/massive_activations/calibration.json",
        {**CALIBRATION, "model": "google/gemma-3-4b-pt", "model_variant": "base"},
    )
    return folder


def calibrations(uri: str) -> list[StageRow]:
    found = stored_runs(uri, EXPERIMENT, Kind.CALIBRATION, tags=(Tag.ROW,))
    return sorted((decode_stage(run.tags[Tag.ROW]) for run in found), key=lambda row: row.key)


def answers(uri: str) -> Any:
    """Rows that count, and the scores of each, by key."""
    with closing(open_store(uri)) as store:
        found = [*store.evaluations(EXPERIMENT), *store.baselines(EXPERIMENT)]
        scores = store.scores([run.run_id for run in found])
        rows = {run.row.key: (run.row, scores.get(run.run_id)) for run in found}
    return rows, calibrations(uri)


@pytest.mark.slow
def test_an_imported_tree_comes_back(uri: str, empty: str, tmp_path: Path) -> None:
    report = import_to_store(uri, old_tree(tmp_path / "old"))
    assert report.totals.refused == 0
    assert export(uri, tmp_path / "out").notes == []
    before = stored_lines(uri)
    again = import_to_store(uri, tmp_path / "out")
    assert (again.totals.imported, again.totals.refused) == (0, 0)
    assert stored_lines(uri) == before
    assert import_to_store(empty, tmp_path / "out").totals.refused == 0
    assert answers(empty) == answers(uri)
    export(empty, tmp_path / "out2")
    assert files_of(tmp_path / "out2") == files_of(tmp_path / "out")


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_whatever_is_imported_can_be_read(uri: str, tmp_path: Path) -> None:
    weights = [1e16, 2.0**62, 1e30, 1e308, -1.7e308, 5e-324]
    lines = [evaluation(30 + i, vectors=[vector(weight=weight)]) for i, weight in enumerate(weights)]
    results: list[dict[str, Any]] = [
        {"n": 2_000_000}, {"n": 2**31 - 1}, {"trait_std": 1e300}, {"n": 2**31}, {"n": 10**25},
    ]  # fmt: skip
    for i, result in enumerate(results):
        lines.append(evaluation(vectors=[vector(layer=i)], result={"trait_mean": 1, "coherence_mean": 90, **result}))
    write_lines(tmp_path / "old" / PLACE / "results.jsonl", [header(n_questions=2**31 - 1), baseline(n=9), *lines])
    report = import_to_store(uri, tmp_path / "old")
    assert (report.totals.imported, report.totals.refused) == (10, 2)
    assert len(stored_lines(uri)) == 10
    with closing(open_store(uri)) as store:
        assert len(answers(uri)[0]) == 10  # scores too, of which there are none, whatever number was asked
        told = Answers.from_store(store, EXPERIMENT, least_scored=0.0)
        massact.best.of(told.with_scores(store, 0.0), 68.0)
        massact.gaps.of(told, 68.0)
        assert store.warnings == []
    export(uri, tmp_path / "out")
    assert import_to_store(uri, tmp_path / "out").totals.imported == 0


@pytest.mark.slow
def test_superseded_results_come_back_too(uri: str, empty: str, tmp_path: Path) -> None:
    import_to_store(uri, old_tree(tmp_path / "old"))
    export(uri, tmp_path / "out", superseded=True)
    import_to_store(empty, tmp_path / "out")
    rows = [sorted(repr(row) for row, _ in stored_lines(store).values()) for store in (uri, empty)]
    assert rows[0] == rows[1]
    export(empty, tmp_path / "out2", superseded=True)
    assert files_of(tmp_path / "out2") == files_of(tmp_path / "out")


def test_imported_lines_come_out_as_they_went_in(uri: str, tmp_path: Path) -> None:
    source = old_tree(tmp_path / "old") / PLACE / "results.jsonl"
    import_to_store(uri, tmp_path / "old")
    export(uri, tmp_path / "out", superseded=True)
    went_in = {line.strip() for line in source.read_bytes().splitlines()[1:]}
    folders = (tmp_path / "out" / PLACE).parent.glob("steering*/results.jsonl")
    files = [path.read_bytes().splitlines() for path in folders]
    assert len(files) == 2  # a judge each
    assert {line for lines in files for line in lines[1:]} == went_in
    for lines in files:
        first = json.loads(lines[0])
        first.pop("massact")
        assert first == header()


@pytest.mark.parametrize("names", [{}, {"model": "gemma", "trait": "no"}], ids=["headers", "caller's names"])
def test_a_lone_file_with_several_positions_comes_back(
    names: dict[str, str], uri: str, empty: str, tmp_path: Path
) -> None:
    other = evaluation(31, vectors=[vector(position="response[:10]")])
    path = write_lines(tmp_path / "results.jsonl", [header(), baseline(10), baseline(11, at=None), evaluation(), other])
    import_to_store(uri, path, Target(EXPERIMENT, **names))
    report = export(uri, tmp_path / "out")
    assert {path.parent.parent.name: ", 2 baselines, " in held for path, held in report.files.items()} == {
        "response__10": True, "response__5": True,
    }  # fmt: skip
    assert import_to_store(uri, tmp_path / "out").totals.imported == 0
    import_to_store(empty, tmp_path / "out")
    assert answers(empty) == answers(uri)


def test_a_file_without_a_header_comes_back(uri: str, empty: str, tmp_path: Path) -> None:
    path = write_lines(tmp_path / PLACE / "results.jsonl", [baseline(), evaluation()])
    import_to_store(uri, path, Target(EXPERIMENT, model="gemma"))
    export(uri, tmp_path / "out")
    assert import_to_store(uri, tmp_path / "out").totals.imported == 0
    import_to_store(empty, tmp_path / "out")
    assert answers(empty) == answers(uri)


def measured_runs() -> list[FinishedRun]:
    """Results as massact measures them: two settings, a superseded one, one without a coherent response."""
    unsteered = (
        "position", "label", "method", "cleaning", "scope", "n_dims", "layer", "coefficient", "component",
        "direction", "steered_tokens", "vector_digest", "baseline_trait_mean", "delta",
    )  # fmt: skip
    nothing: dict[str, Any] = dict.fromkeys(unsteered)
    base = replace(evaluation_row(), kind=Kind.BASELINE, key="base", setting="no direction", trait_mean=10.0, **nothing)
    rows: list[tuple[EvaluationRow, int, Scores | None]] = [
        (base, 1000, SCORES),
        (replace(base, key="lonely", setting="another"), 1500, None),
        (evaluation_row("probe", 15, 1000.0, baseline_key="base"), 2000, SCORES),
        (evaluation_row("probe", 15, 1000.0, baseline_key="base", trait_mean=31.0), 3000, SCORES),
        (evaluation_row("probe", 15, 1000.04, baseline_key="base"), 3000, SCORES),
        (evaluation_row("mean_diff_top1", 15, 800.5, baseline_key="base", trait_mean=None, delta=None), 4001, None),
        (evaluation_row("probe", 3, 7.0, position="response[:10]", baseline_key="base"), 5000, None),
        (evaluation_row("probe", 4, 7.0, key="q2", setting="2" * 64, question_set="q2"), 9000, None),
    ]
    runs = []
    for row, at, scores in rows:
        files = {"responses.json": response_bytes(RESPONSES)} if scores else {}
        run = evaluation_run(row, scores, name="run", started_at=at - 7, finished_at=at, files=files)
        runs.append(run)
    return runs


def measured_calibration() -> FinishedRun:
    row = StageRow(
        kind=Kind.CALIBRATION, experiment=EXPERIMENT, key="c" * 64, model="gemma", model_variant="instruct",
        model_id=MODEL, n_layers=4, d_model=8, dtype="float32", model_revision="r1", massive_dims=(3, 7),
    )  # fmt: skip
    content = json.dumps(CALIBRATION, indent=2) + "\n"
    return FinishedRun(
        name="calibration", tags=run_tags(row.kind, EXPERIMENT, "calibration") | row_tags(row), started_at=1,
        finished_at=2, files={"calibration.json": content.encode()},
    )  # fmt: skip


def fill(uri: str, runs: list[FinishedRun]) -> None:
    writer = open_writer(uri, Tracker(uri, EXPERIMENT, floor=68.0).experiment_id)
    with closing(writer):
        writer.write(runs)


@pytest.mark.slow
def test_measured_results_come_back(uri: str, empty: str, tmp_path: Path) -> None:
    fill(uri, [*measured_runs(), measured_calibration()])
    export(uri, tmp_path / "out")
    again = import_to_store(uri, tmp_path / "out")
    assert (again.totals.imported, again.totals.refused) == (0, 0)
    # the baseline lies beside the evaluations of both positions
    assert import_to_store(empty, tmp_path / "out").totals.already_there == 1
    assert answers(empty) == answers(uri)
    rows, (calibration,) = answers(empty)
    assert len(rows) == 7
    assert rows["probe-15-1000"] == (measured_row("probe-15-1000"), SCORES)
    assert calibration.origin is None
    export(empty, tmp_path / "out2")
    assert files_of(tmp_path / "out2") == files_of(tmp_path / "out")


def test_what_the_format_has_no_place_for_stays_in_the_store_and_is_counted(uri: str, tmp_path: Path) -> None:
    again = evaluation_row(kind=Kind.CONFIRMATION, key="n1", confirms="probe-15-1000", setting="other questions")
    confirmation = evaluation_run(again, SCORES, name="run", started_at=1, finished_at=9999)
    stopped = [
        evaluation_run(
            evaluation_row(kind=Kind.SCREENING, key=key, n_questions=1),
            SCORES,
            name="run",
            started_at=1,
            finished_at=9999,
        )
        for key in ("n2", "n3")
    ]
    fill(uri, [*measured_runs(), confirmation, *stopped])
    assert export(uri, tmp_path / "out").notes == [
        "1 confirmation stays in the run store: the format has no place for them",
        "2 cells that were given up early stay in the run store: the format has no place for them",
    ]
    lines = b"".join(files_of(tmp_path / "out").values())
    assert all(key not in lines for key in (b"n1", b"n2", b"n3"))
    assert b"other questions" not in lines


def measured_row(key: str) -> EvaluationRow:
    return evaluation_row("probe", 15, 1000.0, key=key, baseline_key="base", trait_mean=31.0)


def test_settings_never_share_a_file(uri: str, tmp_path: Path) -> None:
    fill(uri, measured_runs())
    export(uri, tmp_path / "out")
    folder = tmp_path / "out/steering/refusal/instruct/response__5"
    # the newest setting keeps the plain name
    assert sorted(path.name for path in folder.iterdir()) == ["steering", "steering-setting-"]
    lines = [json.loads(line) for line in (folder / "steering/results.jsonl").read_text().splitlines()]
    assert [line["massact"]["row"]["key"] for line in lines[1:]] == ["q2"]
    lines = [json.loads(line) for line in (folder / "steering-setting-/results.jsonl").read_text().splitlines()]
    assert [line.get("type") for line in lines] == ["header", "baseline", None, None, None]
    assert lines[0]["direction"] == "positive"
    assert [line["config"]["vectors"][0]["method"] for line in lines[2:]] == ["probe", "probe", "mean_diff_top1"]
    assert lines[2]["timestamp"] == "1970-01-01T00:00:03.000"
    assert len(list((folder / "steering-setting-/responses/residual/probe").iterdir())) == 2


def test_an_edited_line_of_an_export_is_refused(uri: str, tmp_path: Path) -> None:
    fill(uri, measured_runs())
    export(uri, tmp_path / "out")
    path = tmp_path / "out/steering/refusal/instruct/response__10/steering/results.jsonl"
    path.write_text(path.read_text().replace('"trait_mean": 30.0', '"trait_mean": 33.0', 1))
    report = import_to_store(uri, tmp_path / "out")
    assert report.totals.refused == 1
    [refusal] = [one for file in report.files for one in file.refusals]
    assert "trait_mean is 33" in refusal.reason


def test_a_baseline_that_came_later_is_pointed_out(uri: str, tmp_path: Path) -> None:
    path = tmp_path / "old" / PLACE / "results.jsonl"
    import_to_store(uri, write_lines(path, [header(), baseline(10), evaluation()]))
    assert not export(uri, tmp_path / "out").notes
    import_to_store(uri, write_lines(path, [header(), baseline(12, at="2026-01-20"), evaluation()]))
    [note] = export(uri, tmp_path / "out", overwrite=True).notes
    assert "1 evaluation compared with another baseline" in note


def test_an_export_without_responses(uri: str, tmp_path: Path) -> None:
    import_to_store(uri, old_tree(tmp_path / "old"))
    export(uri, tmp_path / "out", responses=False)
    assert not list((tmp_path / "out").rglob("responses"))


def test_nothing_is_overwritten_unasked(uri: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no result"):
        export(uri, tmp_path / "out")
    import_to_store(uri, old_tree(tmp_path / "old"))
    export(uri, tmp_path / "out")
    before = files_of(tmp_path / "out")
    with pytest.raises(UsageError, match="--overwrite"):
        export(uri, tmp_path / "out")
    written = {path: path.stat().st_ino for path in (tmp_path / "out").rglob("*")}
    export(uri, tmp_path / "out", overwrite=True)
    assert files_of(tmp_path / "out") == before
    assert {path: path.stat().st_ino for path in (tmp_path / "out").rglob("*")} == written, "nothing differs"


@pytest.mark.parametrize("trait", ["../up", "/root", "a//b", ".", "x" * 300])
def test_no_name_leads_out_of_the_exported_folder(trait: str, uri: str, tmp_path: Path) -> None:
    fill(uri, [evaluation_run(evaluation_row(trait=trait), None, name="run", started_at=1, finished_at=2)])
    with pytest.raises(UsageError, match="cannot be the name of a folder"):
        export(uri, tmp_path / "out")


@pytest.mark.slow
def test_results_over_several_numbers_of_questions_come_back_as_one_file(uri: str, empty: str, tmp_path: Path) -> None:
    lines = [
        header(n_questions=None),
        baseline(16.0, result={"trait_mean": 16.0, "n": 100}),
        evaluation(35.0, result={"trait_mean": 35.0, "coherence_mean": 80.0, "n": 100}),
        evaluation(60.0, result={"trait_mean": 60.0, "coherence_mean": 80.0, "n": 5}, at="2026-01-12T00:00:00"),
        '{"result": {"trait_mean": NaN, "coherence_mean": 0, "n": 0}, "config": {"vectors": ['
        + json.dumps(vector(weight=9.0))
        + "]}}",
    ]
    source = write_lines(tmp_path / "old" / PLACE / "results.jsonl", lines)
    import_to_store(uri, tmp_path / "old")
    report = export(uri, tmp_path / "out")
    assert report.notes == []
    came_out = (tmp_path / "out" / PLACE / "results.jsonl").read_bytes().splitlines()
    assert sorted(came_out[1:]) == sorted(source.read_bytes().splitlines()[1:])
    assert import_to_store(uri, tmp_path / "out").totals.imported == 0
    import_to_store(empty, tmp_path / "out")
    assert sorted(map(repr, rows_alone(empty))) == sorted(map(repr, rows_alone(uri)))


def rows_alone(uri: str) -> list[EvaluationRow]:
    return [row for row, _ in stored_lines(uri).values()]


def test_a_trait_keeps_the_folder_that_it_came_from(uri: str, tmp_path: Path, root: Path) -> None:
    config = load_experiment(root / "experiments" / "massive-activations.yaml")
    target = Target(config.name, config)
    write_lines(tmp_path / "old" / PLACE / "results.jsonl", [header(), baseline(), evaluation()])
    import_to_store(uri, tmp_path / "old", target)
    assert {row.trait for row, _ in stored_lines(uri, config.name).values()} == {"refusal"}
    measured = evaluation_row(
        experiment=config.name, trait="refusal", position="response[:5]", model_variant="instruct", model="gemma-3-4b"
    )
    write_runs(uri, [evaluation_run(measured, None, started_at=1, finished_at=2)], config.name)
    export(uri, tmp_path / "out", config.name)
    names = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("results.jsonl"))
    assert len(names) == 2
    names.remove(f"{PLACE}/results.jsonl")
    assert all(name.startswith("steering/chirp/refusal/instruct/response__5/steering") for name in names)
    assert import_to_store(uri, tmp_path / "out", target).totals.imported == 0
    own = json.loads((tmp_path / "out" / names[0]).read_text().splitlines()[0])
    assert own["trait"] == own["vector_source"]["trait"] == "chirp/refusal"
    assert own["prompts_file"] == "datasets/traits/chirp/refusal/steering.json"


@pytest.mark.parametrize(
    ("dataset", "folder", "prompts"),
    [
        ("/data/datasets/traits/chirp/refusal", "chirp/refusal", "/data/datasets/traits/chirp/refusal/steering.json"),
        ("./chirp/refusal", "chirp/refusal", "chirp/refusal/steering.json"),
        ("/data/refusal", "refusal", "/data/refusal/steering.json"),
        ("toy:refusal", "refusal", "datasets/traits/refusal/steering.json"),
    ],
)
def test_a_measured_trait_has_the_name_of_its_dataset(
    dataset: str, folder: str, prompts: str, uri: str, tmp_path: Path
) -> None:
    write_runs(uri, [evaluation_run(evaluation_row(), None, started_at=1, finished_at=2)])
    Exporter(uri, EXPERIMENT, ExportOptions(), {"refusal": dataset}).run(tmp_path / "out")
    [path] = (tmp_path / "out").rglob("results.jsonl")
    assert str(path.relative_to(tmp_path / "out")).startswith(f"steering/{folder}/instruct/")
    head = json.loads(path.read_text().splitlines()[0])
    assert (head["prompts_file"], head["questions_digest"]) == (prompts, "q1")


def write_runs(uri: str, runs: list[FinishedRun], experiment: str = EXPERIMENT) -> None:
    with closing(open_writer(uri, Tracker(uri, experiment, floor=68.0).experiment_id)) as writer:
        writer.write(runs)


def write_extraction(uri: str, vectors: torch.Tensor, at: int = 2_000, **changes: Any) -> None:
    values: dict[str, Any] = {
        "kind": Kind.EXTRACTION, "experiment": EXPERIMENT, "key": "e1", "model": "gemma", "model_variant": "base",
        "model_id": "google/gemma-3-4b-pt", "n_layers": len(vectors), "trait": "refusal",
        "position": "response[:5]", "labels": ("mean_diff", "probe"),
    }  # fmt: skip
    row = StageRow(**{**values, **changes})
    files = {
        f"vectors/{label}.safetensors": save({"vectors": vectors * scale})
        for label, scale in zip(row.labels, (1.0, 2.0), strict=False)
    }
    tags = run_tags(row.kind, EXPERIMENT, "e") | row_tags(row)
    write_runs(uri, [FinishedRun(name="e", tags=tags, started_at=at, finished_at=at, files=files)])


def test_vectors_come_out_where_trait_interp_looks_for_them(uri: str, tmp_path: Path) -> None:
    vectors = torch.tensor([[3.0, 4.0], [0.0, 1.0], [6.0, 8.0]])
    write_extraction(uri, vectors)
    write_runs(uri, [evaluation_run(evaluation_row(), None, started_at=1, finished_at=2)])
    report = export(uri, tmp_path / "out")
    assert report.notes == []
    folder = tmp_path / "out/extraction/refusal/base/vectors/response__5/residual"
    for layer in range(3):
        found = torch.load(folder / "probe" / f"layer{layer}.pt", weights_only=True)
        assert torch.equal(found, 2 * vectors[layer])
    metadata = json.loads((folder / "mean_diff/metadata.json").read_text())
    assert (metadata["model"], metadata["method"]) == ("google/gemma-3-4b-pt", "mean_diff")
    assert metadata["layers"] == {"0": {"norm": 5.0}, "1": {"norm": 1.0}, "2": {"norm": 10.0}}
    [path] = (tmp_path / "out").rglob("results.jsonl")
    assert json.loads(path.read_text().splitlines()[0])["vector_source"]["model"] == "google/gemma-3-4b-pt"
    assert import_to_store(uri, tmp_path / "out").totals.imported == 0
    export(uri, tmp_path / "without", vectors=False)
    assert not list((tmp_path / "without").rglob("*.pt"))


def test_models_whose_variants_have_one_name_have_a_folder_each(uri: str, tmp_path: Path) -> None:
    write_extraction(uri, torch.ones(1, 2))
    write_extraction(uri, torch.zeros(1, 2), at=3_000, key="e2", model="gemma-2")
    write_extraction(uri, torch.ones(1, 2), at=4_000, key="e3", model="gemma-2", labels=("probe",))
    assert export(uri, tmp_path / "out").notes == []
    found = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.pt"))
    assert [name.partition("/vectors/")[2] for name in found] == [
        "response__5/residual/mean_diff/layer0.pt", "response__5/residual/probe/layer0.pt",
        "response__5/residual/probe/layer0.pt",
    ]  # fmt: skip
    assert found[2].startswith("extraction/refusal/base/"), "the newest keeps the plain name"


def test_vectors_that_cannot_be_had_are_left_out_and_said(uri: str, tmp_path: Path) -> None:
    write_extraction(uri, torch.ones(1, 2), labels=("mean_diff", "probe", "gradient"))
    [note] = export(uri, tmp_path / "out").notes
    assert "vectors left out: run" in note
    assert "gradient" in note
    assert len(list((tmp_path / "out").rglob("*.pt"))) == 2
