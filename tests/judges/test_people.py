"""`massact label` and `massact judge-check --labels`: people score blind, and judges are held against them."""

import csv
import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from massact.cli.app import cli
from massact.store.read import open_store
from tests.support.prepared import PreparedStores
from tests.support.small_plan import EXPERIMENT

JUDGES = """
from massact.judges import Verdict

class Told:
    def __init__(self, config, subject): pass
    def score(self, exchanges):
        return [Verdict(float(one.response.split()[0]), float(one.response.split()[1])) for one in exchanges]

class Contrary(Told):
    def score(self, exchanges):
        return [Verdict(100 - one.trait, None, "not asked") for one in super().score(exchanges)]
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(EXPERIMENT.replace("judge: likelihood", 'judge: "python:told:Told"'))
    (tmp_path / "told.py").write_text(JUDGES)
    sys.modules.pop("told", None)  # another test's file
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def _labels(place: Path, n: int = 40) -> Path:
    """Responses begin with what the judge gives them; ana and bo say about the same of the trait, ana of coherence."""
    file = place / "labels.csv"
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["annotator", "question", "response", "trait_score", "coherence_score"])
        for i in range(n):
            trait, coherence = i * 37 % 101, i * 53 % 101
            text = f"{trait} {coherence} text {i}"
            writer.writerow(["ana", f"question {i % 8}", text, min(100, trait + 4), coherence])
            writer.writerow(["bo", f"question {i % 8}", text, max(0, trait - 4), ""])
    return file


def _check(place: Path, *arguments: str) -> Result:
    options = ["--experiment", "small.yaml", "--tracking-uri", f"sqlite:///{place}/mlflow.db", *arguments]
    return CliRunner().invoke(cli, ["judge-check", *options], catch_exceptions=False)


def test_a_judge_that_disagrees_is_called_so(place: Path) -> None:
    _labels(place)
    judges = ("--judge", "python:told:Told", "--judge", "python:told:Contrary")
    result = _check(place, "--labels", "labels.csv", *judges, "--format", "json")
    assert result.exit_code == 1
    rows = json.loads(result.stdout)["rows"]
    said = {(row["judge"], row["score"]): row for row in rows}
    assert said["python:told:Told", "trait"]["verdict"] == "agrees"
    assert said["python:told:Told", "coherence"]["weighted_kappa"] == 1.0
    assert said["python:told:Contrary", "trait"]["verdict"] == "disagrees"
    assert ("python:told:Contrary", "coherence") not in said
    assert said["ana beside bo", "trait"]["n_responses"] == 40
    assert said["python:told:Told", "trait"]["people"] == said["ana beside bo", "trait"]["weighted_kappa"]
    assert said["python:told:Told", "trait"]["pearson"] == pytest.approx(1.0, abs=0.01)
    assert "python:told:Contrary, refusal, trait: the judge disagrees with people" in result.stderr
    assert "python:told:Contrary scores none of what people scored: refusal, coherence" in result.stderr
    store = open_store(f"sqlite:///{place}/mlflow.db")
    stored = {(one.row.judge, one.row.score): one.row.verdict for one in store.agreements("small")}
    assert stored == {key: row["verdict"] for key, row in said.items() if "beside" not in key[0]}
    assert store.warnings == []


def test_one_judge_again_counts_once(place: Path) -> None:
    _labels(place)
    assert [_check(place, "--labels", "labels.csv").exit_code for _ in range(2)] == [0, 0]
    assert len(open_store(f"sqlite:///{place}/mlflow.db").agreements("small")) == 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--labels", "none.csv"), "none.csv: cannot be read"),
        (("--labels", "empty.csv"), "no response has a score of a person and of a judge"),
        (("--labels", "other.csv"), "no trait 'joy'"),
        (("--bands", "3"), "are for --labels"),
        (("--judge", "likelihood", "--judge", "self"), "one judge is checked at a time"),
    ],
)
def test_what_cannot_be_compared_is_refused(place: Path, arguments: tuple[str, ...], told: str) -> None:
    (place / "empty.csv").write_text("question,response,trait_score\nwhy,1 2 yes,\n")
    (place / "other.csv").write_text("question,response,trait_score,trait\nwhy,1 2 yes,5,joy\n")
    result = _check(place, *arguments)
    assert (result.exit_code, told in result.stderr) == (2, True), result.stderr
    assert not (place / "mlflow.db").exists()


def test_people_say_two_things_and_kappa_has_two_bands(place: Path) -> None:
    rows = "".join(f"question {i},{i * 5} {i * 5} x,{100 * (i > 9)}\n" for i in range(20))
    (place / "two.csv").write_text(f"question,response,trait_score\n{rows}")
    (row,) = json.loads(_check(place, "--labels", "two.csv", "--format", "json").stdout)["rows"]
    assert (row["n_bands"], row["kappa"], row["weighted_kappa"]) == (2, 1.0, 1.0)


def _label(place: Path, said: str, *arguments: str) -> Result:
    options = ["--experiment", "small.yaml", "--tracking-uri", f"sqlite:///{place}/mlflow.db", *arguments]
    return CliRunner().invoke(cli, ["label", *options], input=said, catch_exceptions=False)


@pytest.mark.slow
def test_people_score_blind_and_go_on(
    prepared_stores: PreparedStores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    prepared_stores.finished(EXPERIMENT, tmp_path)
    ana = ("--annotator", "ana", "-n", "4")
    first = _label(tmp_path, "80\n70\n300\nno\n10\n20\ns\nq\n", *ana)
    assert "3 of 4 scored" not in first.stderr
    assert "2 of 4 scored" in first.stderr
    for hidden in ("probe", "mean_diff", "layer", "coefficient", "toy"):
        assert hidden not in first.stdout
    assert "[1 of 1]" in _label(tmp_path, "q\n", *ana).stdout  # three are told of, one passed over
    _label(tmp_path, "50\nb\n60\n65\n", *ana)
    assert "nothing to score" in _label(tmp_path, "", *ana).stderr
    with (tmp_path / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["trait_score"], row["coherence_score"]) for row in rows] == [
        ("80.0", "70.0"), ("10.0", "20.0"), ("", ""), ("60.0", "65.0"),
    ]  # fmt: skip
    assert len({(row["question"], row["response"]) for row in rows}) == 4
    # another person gets what ana scored, in an order of their own, and then other responses
    _label(tmp_path, "1\n2\n" * 6, "--annotator", "bo", "-n", "6")
    with (tmp_path / "labels.csv").open(newline="") as file:
        of_bo = [(row["question"], row["response"]) for row in csv.DictReader(file) if row["annotator"] == "bo"]
    assert {(row["question"], row["response"]) for row in rows} == set(of_bo[:4])
    assert len(set(of_bo)) == 6
    # the same seed draws the same, another one other responses
    again = _label(tmp_path, "q\n", "--annotator", "cy", "--labels", "new.csv", "-n", "4").stdout
    assert "[1 of 4]" in again
    assert again == _label(tmp_path, "q\n", "--annotator", "cy", "--labels", "new.csv", "-n", "4").stdout


def test_a_hostile_response_stays_text(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from massact.data.labelled import Labelled

    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(EXPERIMENT)
    hostile = Labelled("why\x07", "\x1b]0;owned\x07\x1b[2Jline\n\u202eevil", "refusal", annotator="ana")
    monkeypatch.setattr("massact.workflow.people.to_label", lambda *_: [hostile])
    shown = _label(tmp_path, "q\n").stdout
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert "\\x1b[2Jline\n\\u202eevil" in shown
