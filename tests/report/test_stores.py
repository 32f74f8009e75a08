"""The report on stores that hold little: nothing at all, imported means, nothing but gaps."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from massact.cli.app import cli
from tests.support.transfer_files import MODEL, PLACE, baseline, evaluation, header, vector, write_lines

EXPERIMENT = f"""\
name: study
traits:
  chirp/refusal: {{dataset: "toy:refusal"}}
models:
  gemma:
    base: {{variant: base, model: google/gemma-3-4b-pt}}
    instruct: {{variant: instruct, model: {MODEL}}}
    dtype: bfloat16
    layers: "10-20"
    coefficients: [800, 1000, 1200]
calibration: {{prompts: "toy:calibration", max_new_tokens: 8}}
generation: {{max_new_tokens: 64}}
extraction: {{positions: ["response[:5]"], methods: [probe, mean_diff]}}
judge: likelihood
phases:
  phase1: {{labels: [probe, mean_diff, probe_top1], positions: ["response[:5]"]}}
  phase2: {{labels: [probe, mean_diff], positions: ["response[:5]"]}}
  phase3: {{labels: [probe, probe_top1], positions: ["response[:5]"]}}
"""


@pytest.fixture
def study(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an experiment file and an empty store."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    (tmp_path / "study.yaml").write_text(EXPERIMENT)
    return tmp_path


def _massact(*arguments: str) -> str:
    done = CliRunner().invoke(cli, list(arguments))
    assert done.exit_code == 0, done.output
    return done.output


def _report(folder: Path) -> str:
    said = _massact("report", "--experiment", "study.yaml")
    html = (folder / "reports/study/report.html").read_text()
    assert "<svg" not in html or 'role="img" aria-label=' in html
    for wrong in ("None", "nan ", "inf "):
        assert wrong not in said
    return (folder / "reports/study/report.md").read_text()


def test_of_an_empty_store_it_says_that_nothing_was_evaluated_and_what_does(study: Path) -> None:
    text = _report(study)
    assert "0 evaluations in the store" in text
    assert "At 1 of 1 place it cannot be said what moves the trait most." in text
    assert "## At a glance\n\n- Nothing was evaluated yet" in text
    assert "3 of 3 declared groups remain without a result" in text
    assert "run `massact phase1 --experiment study.yaml`" in text
    assert "No calibration" in text or "not calibrated" in text
    assert "![" not in text, "a figure of nothing"
    assert "[x]" not in text


@pytest.mark.slow
def test_of_imported_means_it_gives_no_interval_and_says_why(study: Path) -> None:
    rows = [evaluation(60.0, 80.0, vectors=[vector("probe", weight=1000.0)]),
            evaluation(40.0, 75.0, vectors=[vector("mean_diff", weight=1200.0)])]  # fmt: skip
    write_lines(study / "old" / PLACE / "results.jsonl", [header(), baseline(10.0), *rows])
    _massact("import", "old", "--experiment", "study.yaml")
    text = _report(study)
    assert "no interval, tie or test can be known" in text
    assert "`probe`, +50.0 @ 80 (layer 15, 1000; no interval; 4 questions)" in text
    assert "the store lacks their scores by question" in text
    assert "probe ahead by 20.0 (not tested: no scores by question)" in text
    assert "| probe_top1" in text
    assert "1 of 3 declared groups remain without a result" in text
    assert "95 %: +" not in text


@pytest.mark.slow
def test_of_nothing_but_gaps_it_names_the_nearest_miss_and_what_to_try(study: Path) -> None:
    rows = [evaluation(90.0, coherence, vectors=[vector(method, weight=weight)])
            for method in ("probe", "mean_diff", "probe_top1")
            for weight, coherence in ((1000.0, 61.0), (1200.0, 12.0))]  # fmt: skip
    write_lines(study / "old" / PLACE / "results.jsonl", [header(), baseline(10.0), *rows])
    _massact("import", "old", "--experiment", "study.yaml")
    text = _report(study)
    assert "cannot say, nothing reaches coherence 68." in text
    assert "3 of 3 declared groups remain without a result" in text
    assert text.count("below floor (61.0)") >= 3
    assert "Gaps that remain, and what to try next" in text
    assert "+80.0" not in text.split("## Success criteria")[0], "no best is made of what does not count"


def test_a_report_that_cannot_be_written_is_one_error(study: Path) -> None:
    (study / "file").touch()
    done = CliRunner().invoke(cli, ["report", "--experiment", "study.yaml", "--output", "file/reports"])
    assert done.exit_code == 2
    assert "cannot write file/reports/study: Not a directory. Name another --output" in done.output
