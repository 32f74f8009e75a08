"""`massact search` and `massact fill-gaps` on the embedded Gemma-3, from an empty store to no gap."""

import json
import re
import statistics
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from massact.cli.app import cli
from massact.config import JudgeConfig, load_experiment
from massact.domain import Coefficients, Generation
from massact.judges import Exchange
from massact.labels import parse_label
from massact.models.generate import Row, generate
from massact.models.prompting import Intervention, decode, encode_chat
from massact.store.read import open_store
from massact.store.read.base import Stored
from massact.store.schema import EvaluationRow
from massact.sweep.context import Session
from massact.sweep.driver import Evaluator
from massact.sweep.planner import GridRequest
from massact.sweep.search.ladders import LadderKey
from massact.sweep.search.probing import HALVINGS, QUESTIONS, TOKENS, probe_cliffs
from massact.sweep.vectors import facts_of
from tests.support.prepared import PreparedStores

EXPERIMENT = """\
name: searching
traits:
  refusal: {{dataset: "toy:refusal"}}
models:
  toy:
    base: {{variant: base, model: "toy:gemma-3-base"}}
    instruct: {{variant: instruct, model: "toy:gemma-3-instruct"}}
    dtype: float32
    layers: "3"
    coefficients: [{grid}]
    coefficient_range: [{least}, 120]
calibration: {{prompts: "toy:calibration", max_new_tokens: 8}}
extraction: {{positions: ["response[:5]"], methods: [mean_diff, probe], uniform_dims: [1], layer_dims: [1]}}
generation: {{max_new_tokens: 32}}
judge: likelihood
subset: 3
phases:
  phase1: {{labels: [probe, mean_diff], positions: ["response[:5]"]}}
  phase2: {{labels: [probe], positions: ["response[:5]"]}}
  phase3: {{labels: [mean_diff_top1], positions: ["response[:5]"]}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, prepared_stores: PreparedStores) -> Path:
    """A store with an extraction, a gap below the floor (probe, mean_diff) and one where nothing was run."""
    folder = tmp_path_factory.mktemp("searching")
    prepared_stores.copy(EXPERIMENT.format(grid="90", least="4"), folder, file="searching.yaml")
    assert run(folder, "phase1", "--max-rounds", "0").exit_code == 0
    return folder


def write(folder: Path, *, grid: str = "90", least: str = "4") -> None:
    (folder / "searching.yaml").write_text(EXPERIMENT.format(grid=grid, least=least))


def run(folder: Path, *arguments: str) -> Result:
    options = ["--experiment", str(folder / "searching.yaml"), "--tracking-uri", f"sqlite:///{folder}/mlflow.db"]
    if arguments[0] in ("phase1", "search", "fill-gaps", "evaluate"):
        options += ["--spool", str(folder / "spool")]
    result = CliRunner().invoke(cli, [*arguments, *options])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def statuses(folder: Path) -> dict[str, str]:
    document = json.loads(run(folder, "gaps", "--format", "json").stdout)
    return {row["label"]: row["status"] for row in document["rows"]}


def n_runs(folder: Path) -> int:
    return len(json.loads(run(folder, "runs", "--format", "json").stdout)["rows"])


@pytest.mark.slow
def test_a_grid_of_relative_strengths_has_coefficients_of_its_own_at_every_layer_and_label(
    tmp_path: Path, prepared_stores: PreparedStores
) -> None:
    text = EXPERIMENT.format(grid="90", least="4").replace("[90]", "{relative: [0.4, 0.8]}")
    prepared_stores.copy(text.replace('layers: "3"', 'layers: "3-4"'), tmp_path, file="searching.yaml")
    line = ("evaluate", "--method", "probe,mean_diff", "--position", "response[:5]")
    assert "| 8 | 0 | 0 | 0 | 8 |" in run(tmp_path, *line, "--dry-run").output
    assert run(tmp_path, *line).exit_code == 0
    rows = json.loads(run(tmp_path, "runs", "--format", "json").stdout)["rows"]
    assert len(rows) == len({row["coefficient"] for row in rows}) == 8
    for row in rows:
        assert float(f"{row['coefficient']:.2e}") == row["coefficient"]
        assert min(abs(row["relative_strength"] / strength - 1) for strength in (0.4, 0.8)) < 0.005
    # what was evaluated is known again, by its coefficient as well
    done = run(tmp_path, *line)
    assert "8 cells: 8 finished already" in done.stderr
    again = run(tmp_path, *line, "--coefficients", f"{rows[0]['coefficient']:g}", "--dry-run").output
    assert re.search(r"\| 4 \| 1 \| 0 \| 0 \| 3 \|", again)
    statuses_now = statuses(tmp_path)
    assert statuses_now["mean_diff_top1"] == "missing"
    assert statuses_now["probe"] != "missing"


@pytest.mark.slow
def test_what_a_search_would_take_is_shown_and_nothing_is_written(folder: Path) -> None:
    before = n_runs(folder)
    line = run(folder, "search", "--dry-run", "--layers", "2-4", "--budget", "5")
    assert line.exit_code == 0, line.output
    # three labels at three layers; three questions, one call each; and the baseline
    assert "| toy | refusal | 3 | 2, 3, 4 | 45 | 138 |" in line.stdout
    gaps = run(folder, "fill-gaps", "--dry-run", "--method", "probe")
    assert "| toy | refusal | 1 | 3 | 8 | 27 |" in gaps.stdout
    assert "no phase declares" in run(folder, "search", "--dry-run", "--method", "gradient").output
    assert n_runs(folder) == before


@pytest.mark.slow
def test_an_evaluation_ends_with_its_table_once_and_its_responses_can_be_shown(
    tmp_path: Path, prepared_stores: PreparedStores
) -> None:
    folder = tmp_path
    prepared_stores.copy(EXPERIMENT.format(grid="90", least="4"), folder, file="searching.yaml")
    line = ("evaluate", "--method", "probe", "--position", "response[:5]", "--coefficients", "16,90")
    result = run(folder, *line, "--save-responses", "all")
    assert result.exit_code == 0, result.output
    tables = [row for row in result.stdout.splitlines() if row.startswith("| response[:5] | probe | 3 | ")]
    assert [row.split(" | ")[3] for row in tables] == ["16", "90"]
    assert all(row.endswith("| 3 of 3 |") for row in tables)

    rows = json.loads(run(folder, "runs", "--format", "json", "--label", "probe").stdout)["rows"]
    one = next(row for row in rows if row["coefficient"] == 16)
    shown = show(folder, one["run_id"], "--limit", "2")
    assert f"toy, refusal: probe, response[:5], layer 3, 16\ndelta {one['delta']:+.1f}" in shown.stdout
    assert len(re.findall(r"unsteered: trait [0-9.]+, coherence [0-9.]+ +\| steered: trait", shown.stdout)) == 2
    assert "1 more: leave --limit out" in shown.stdout
    best = ("--best", "--experiment", "searching")
    told = json.loads(show(folder, *best, "--label", "probe", "--format", "json").stdout)
    assert told["run_id"] == one["run_id"]
    assert len(told["responses"]) == 3
    assert all(pair["steered"]["question"] == pair["unsteered"]["question"] for pair in told["responses"])
    assert told["responses"][0]["steered"]["response"] != told["responses"][0]["unsteered"]["response"]
    for arguments, said in (
        (("none",), "run 'none' is no finished evaluation"),
        ((), "name a run"),
        ((one["run_id"], "--best"), "one of the two"),
        ((one["run_id"], "--layer", "3"), "a run is one evaluation"),
        ((*best, "--label", "mean_diff"), "no evaluation is at or above"),
    ):
        refused = show(folder, *arguments)
        assert (refused.exit_code, said in refused.output) == (2, True), refused.output


def show(folder: Path, *arguments: str) -> Result:
    uri = f"sqlite:///{folder}/mlflow.db"
    result = CliRunner().invoke(cli, ["show", *arguments, "--tracking-uri", uri], env={"COLUMNS": "100"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.mark.slow
def test_gaps_are_closed_and_the_one_that_cannot_be_is_explained(folder: Path) -> None:
    assert statuses(folder) == {"probe": "below_floor", "mean_diff": "below_floor", "mean_diff_top1": "missing"}
    # every coefficient that is allowed breaks the text: no search can close the gap, and it says so
    write(folder, least="80")
    result = run(folder, "fill-gaps", "--method", "probe", "-v")
    assert result.exit_code == 0, result.output
    assert "toy, refusal, response[:5], probe: no coherent result" in result.output
    assert "Layer 3: at 80, the least coefficient allowed, coherence is " in result.output
    assert "3 gaps remain in the experiment" in result.output

    write(folder)
    result = run(folder, "fill-gaps")
    assert result.exit_code == 0, result.output
    assert "no gap remains" in result.output
    for label in ("probe", "mean_diff", "mean_diff_top1"):
        assert re.search(
            rf"- toy, refusal, response\[:5\], {label}: \+[0-9.]+ at layer 3, [0-9.]+, coherence", result.stdout
        )
    assert "|" not in result.stdout  # the table is for -v
    assert set(statuses(folder).values()) == {"ok"}

    before = n_runs(folder)
    again = run(folder, "fill-gaps")
    assert again.exit_code == 0
    assert "Nothing to search: no gap among what is asked for." in again.output
    assert n_runs(folder) == before


@pytest.mark.slow
def test_a_search_uses_what_is_there_and_a_scan_begins_with_the_grid(folder: Path) -> None:
    line = ("search", "--method", "probe", "--position", "response[:5]", "--layers", "3")
    first = run(folder, *line, "--budget", "3")
    assert first.exit_code == 0, first.output
    assert "Mode search (a search, no grid)" in first.output
    before = n_runs(folder)
    # nothing that the first search would still have tried is left within an enormous tolerance
    again = run(folder, *line, "--tolerance", "90")
    assert "0 cells" in again.output
    assert n_runs(folder) == before

    write(folder, grid="6, 90")
    scanned = run(folder, *line, "--mode", "scan", "--tolerance", "90")
    assert "Mode scan (the declared grid first, then a search)" in scanned.output
    assert n_runs(folder) == before + 1


@pytest.mark.slow
def test_short_texts_tell_where_a_vector_breaks_and_are_asked_once(folder: Path) -> None:
    before = n_runs(folder)
    line = (
        "search",
        "--method",
        "probe,random_baseline",
        "--position",
        "response[:5]",
        "--layers",
        "2",
        "--start",
        "probe",
    )
    result = run(folder, *line, "--budget", "1")
    assert result.exit_code == 0, result.output
    assert f"first coefficients from where texts of {TOKENS} tokens break" in result.output
    assert n_runs(folder) == before + 2
    experiment = load_experiment(str(folder / "searching.yaml"))
    session = Session(experiment, f"sqlite:///{folder}/mlflow.db")

    def probed() -> list[Stored[EvaluationRow]]:
        with session.stores.read() as store:
            found = store.screenings(experiment.name)
        return [one for one in found if one.row.max_new_tokens == TOKENS]

    first = probed()
    assert len(first) == 2 * HALVINGS
    dry = run(folder, *line, "--dry-run")
    assert f"{2 * HALVINGS} cells of short texts" in dry.output
    assert run(folder, *line, "--budget", "1").exit_code == 0
    assert [one.run_id for one in probed()] == [one.run_id for one in first]
    (model,), (trait,) = experiment.models, experiment.traits
    with session.stores.tracker.phase("search", params={}) as parent:
        evaluator = Evaluator(session, parent, model, trait)
        request = GridRequest("response[:5]", parse_label("probe"), (2,), Coefficients(()))
        (facts,) = facts_of(evaluator.planner.vectors, request.position, request.recipe, (2,)).values()
        key = LadderKey(request.position, "probe", 2, 1)
        cliff = probe_cliffs(session, evaluator, [request], {key: facts})[key].cliff
        # an independent reading of the same short texts, a little on either side
        steered = session.models.get(model, model.instruct)
        judge = session.judges.of(trait, model, config=JudgeConfig("perplexity"))
        questions = evaluator.planner.questions.questions[:QUESTIONS]
        vector = evaluator.planner.vectors.of(request.position, request.recipe)[2]
        means = []
        for coefficient in (cliff / 1.13, cliff * 1.13):
            rows = [Row(encode_chat(steered, one), Intervention(2, vector, coefficient)) for one in questions]
            texts = [decode(steered, said) for said in generate(steered, rows, Generation(TOKENS))]
            exchanges = [Exchange(*pair) for pair in zip(questions, texts, strict=True)]
            means.append(statistics.fmean(one.coherence or 0.0 for one in judge.score(exchanges)))
    session.stores.close()
    assert means[0] >= experiment.coherence_floor > means[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "nonsense"], "nonsense"),
        (["--model", "other"], "other"),
        (["--method", "probe_top3"], "name both --method and --position"),
        (["--budget", "0"], "--budget"),
        (["--layers", "99"], "99"),
        (["--position", "somewhere"], "somewhere"),
    ],
)
def test_bad_options_are_refused(folder: Path, options: list[str], message: str) -> None:
    before = n_runs(folder)
    result = run(folder, "search", *options)
    assert result.exit_code == 2, result.output
    assert message in result.output
    assert n_runs(folder) == before


def test_a_position_that_was_not_extracted_is_named(folder: Path) -> None:
    result = run(folder, "search", "--position", "response[:9]", "--method", "probe")
    assert result.exit_code == 1
    assert "activations not found at response[:9]: add it to extraction.positions" in result.output


@pytest.mark.slow
def test_a_hopeless_cell_is_given_up_and_no_question_about_results_sees_it(folder: Path) -> None:
    write(folder, grid="6, 90", least="100")
    line = ("search", "--method", "mean_diff", "--position", "response[:5]", "--layers", "4,5")
    before = n_runs(folder)
    result = run(folder, *line, "--screen", "2", "--budget", "3")
    assert result.exit_code == 0, result.output
    assert "given up early" in result.output
    again = run(folder, *line, "--screen", "2", "--budget", "3", "-v")
    assert "given up early" not in again.output  # it is known, and not tried again
    assert "Layer 4: at 100, the least coefficient allowed, coherence is " in again.output

    store = open_store(f"sqlite:///{folder}/mlflow.db")
    stopped = [one for one in store.screenings("searching") if one.row.max_new_tokens != TOKENS]
    store.close()
    assert stopped
    assert {one.row.n_questions for one in stopped} == {2}
    assert all((one.row.coherence_mean or 0.0) < 68 for one in stopped)
    finished = {row["key"] for row in json.loads(run(folder, "runs", "--format", "json").stdout)["rows"]}
    assert finished.isdisjoint(one.row.key for one in stopped)
    assert n_runs(folder) - before == 1  # the first coefficient of all is asked everything
    assert run(folder, "doctor").exit_code == 0


@pytest.mark.slow
def test_a_gap_whose_cells_failed_before_is_tried_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object, **_kwargs: object) -> object:
        raise RuntimeError("no memory left")

    (folder / "searching.yaml").write_text(
        EXPERIMENT.format(grid="20, 24, 90", least="4").replace("mean_diff_top1]", "mean_diff_preclean]")
    )
    with monkeypatch.context() as patched:
        patched.setattr("massact.sweep.executors.local.CellGenerator._generate", fail)
        broken = run(folder, "fill-gaps", "-v")
        assert broken.exit_code == 1
        assert "2 coefficients failed or not scored" in broken.output
    mended = run(folder, "fill-gaps")
    assert mended.exit_code == 0, mended.output
    assert "no gap remains" in mended.output
