"""`massact baselines` and `massact rejudge --every-trait` on an embedded model and a real store."""

import json
import re
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import massact
from massact.cli.app import cli
from massact.config import load_experiment
from massact.domain import Conversation
from massact.errors import ConfigError
from massact.models.load import load_model
from massact.models.prompting import after, encode_chat
from massact.store.read import open_store
from massact.store.read.base import Stored
from massact.store.schema import EvaluationRow, Kind
from tests.support.prepared import PreparedStores
from tests.support.small_plan import EXPERIMENT

pytestmark = pytest.mark.slow

BASELINES = 'baselines: {prompt: "You never help.", few_shot: 2, random: 3}'
SMALL = EXPERIMENT.replace("subset: 2", f"subset: 4\n{BASELINES}").replace("[16, 24]", "[24]")


def run(folder: Path, *arguments: str, code: int = 0) -> Result:
    options = ["--experiment", str(folder / "small.yaml"), "--tracking-uri", f"sqlite:///{folder}/mlflow.db"]
    result = CliRunner().invoke(cli, [*arguments, *options])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code, result.output
    return result


def rows(folder: Path, kind: str) -> list[Stored[EvaluationRow]]:
    with closing(open_store(f"sqlite:///{folder}/mlflow.db")) as store:
        found: list[Stored[EvaluationRow]] = getattr(store, kind)("small")
        return found


@pytest.fixture
def swept(tmp_path: Path, prepared_stores: PreparedStores, monkeypatch: pytest.MonkeyPatch) -> Path:
    prepared_stores.copy(SMALL, tmp_path)
    monkeypatch.chdir(tmp_path)
    run(tmp_path, "phase1", "--max-rounds", "0")
    return tmp_path


def ask(folder: Path, name: str, **about: Any) -> tuple[Any, ...]:
    asked = massact.api.question(name)
    rows: tuple[Any, ...] = asked(
        str(folder / "small.yaml"), tracking_uri=f"sqlite:///{folder}/mlflow.db", **about
    ).rows
    return rows


def test_what_winners_are_held_against_is_evaluated_once(swept: Path) -> None:
    assert "| baselines | toy | refusal | 5 | 0 | 0 | 0 | 5 |" in run(swept, "baselines", "--dry-run").stdout
    assert "baselines: 5 cells: 0 finished already, 5 evaluated" in run(swept, "baselines").stderr
    assert "5 finished already, 0 evaluated" in run(swept, "baselines").stderr
    stored = rows(swept, "controls")
    prompted = {one.row.label: one.row for one in stored if one.row.prompting_digest}
    random = [one.row for one in stored if not one.row.prompting_digest]
    (winner,) = [row for row in ask(swept, "costs") if row.what == "winner"]

    # a prompt has neither a place nor a vector
    assert prompted.keys() == {"prompt", "few_shot"}
    for row in prompted.values():
        assert (row.position, row.layer, row.coefficient, row.vector_digest) == (None,) * 4
        assert row.kind is Kind.CONTROL
        assert row.delta is not None
        assert row.n_scored == 4
    # random directions are at the winner's place, each another one
    assert {(row.layer, row.coefficient, row.vector_seed) for row in random} == {
        (winner.layer, winner.coefficient, seed) for seed in (1, 2, 3)
    }
    assert len({row.vector_digest for row in random}) == 3
    assert {row.setting for row in (*prompted.values(), *random)} == {winner.setting}

    # none of them is a point of the grid, and all are answered beside it
    assert len(rows(swept, "evaluations")) == 2
    assert len(rows(swept, "baselines")) == 1
    best = {row.label: row for row in ask(swept, "best")}
    assert set(best) == {*best} >= {"probe", "mean_diff", "prompt", "few_shot", "random"}
    assert best["prompt"].layer is None
    assert best["prompt"].standing is None
    assert {row.label for row in ask(swept, "curve") if row.n_dims is None} == {"prompt", "few_shot", "random"}


def test_controls_that_lack_the_floors_metric_are_evaluated_anew(
    tmp_path: Path, prepared_stores: PreparedStores, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, swept = SMALL.replace("random: 3", "random: 1"), tmp_path
    prepared_stores.copy(SMALL, swept)
    monkeypatch.chdir(swept)
    (swept / "small.yaml").write_text(text + "metrics: []\n")
    run(swept, "phase1", "--max-rounds", "0")
    run(swept, "baselines")
    before = {one.row.key: one.row for one in rows(swept, "controls")}
    assert len(before) == 3
    assert not any(row.metrics for row in before.values())
    (swept / "small.yaml").write_text(text)  # other metrics alone change nothing of what is finished
    assert "3 finished already, 0 evaluated" in run(swept, "baselines").stderr

    (swept / "small.yaml").write_text(text + "floor: {metric: kl, at_most: 1000}\n")
    # no winner counts, so that no random direction is asked for; the unsteered responses lack it too
    assert re.search(
        r"\| baselines \| toy \| refusal \| 2 \| 0 .*\| 12 \|", run(swept, "baselines", "--dry-run").stdout
    )
    run(swept, "phase1", "--max-rounds", "0")
    assert re.search(
        r"\| baselines \| toy \| refusal \| 3 \| 0 .*\| 12 \|", run(swept, "baselines", "--dry-run").stdout
    )
    assert "baselines: 3 cells: 0 finished already, 3 evaluated" in run(swept, "baselines").stderr
    after = {one.row.key: one.row for one in rows(swept, "controls")}
    assert after.keys() == before.keys()
    for key, row in after.items():
        assert row.metrics is not None
        assert row.metrics["kl"] > 0
        assert (row.trait_mean, row.coherence_mean) == (before[key].trait_mean, before[key].coherence_mean)
    assert "| 3 | 3 | 0 | 0 | 0 | none | 0 |" in run(swept, "baselines", "--dry-run").stdout
    assert "3 finished already, 0 evaluated" in run(swept, "baselines").stderr


def test_more_examples_than_there_are_are_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(SMALL.replace("few_shot: 2", "few_shot: 1000"))
    for command in ("main", "phase1", "baselines"):
        for option in ((), ("--dry-run",)):
            said = run(tmp_path, command, *option, code=2).output
            assert "small.yaml: baselines.few_shot: 1000 examples, and refusal has 100: write fewer" in said
    assert [path.name for path in tmp_path.iterdir()] == ["small.yaml"]


def test_before_anything_ran_what_needs_no_winner_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(SMALL)
    shown = run(tmp_path, "main", "--dry-run").stdout
    assert "| baselines | toy | refusal | 2 | 0 | 0 | 0 | at least 2 | nothing measured yet | 8 |" in shown
    assert "random directions at the places of winners are not known" in shown


def test_a_prompt_stands_before_every_question_and_the_judge_does_not_see_it(swept: Path) -> None:
    run(swept, "baselines")
    (run_id,) = [one.run_id for one in rows(swept, "controls") if one.row.label == "prompt"]
    (folder,) = list((swept / "mlruns").rglob(run_id))
    assert json.loads((folder / "artifacts/prompting.json").read_text()) == [["system", "You never help."]]
    shown = json.loads((folder / "artifacts/responses.json").read_text())
    questions = massact.config.load_experiment(swept / "small.yaml")
    assert "never help" not in json.dumps(shown)
    assert len(shown["data"]) == questions.subset
    (examples,) = [one.run_id for one in rows(swept, "controls") if one.row.label == "few_shot"]
    (folder,) = list((swept / "mlruns").rglob(examples))
    roles = [role for role, _ in json.loads((folder / "artifacts/prompting.json").read_text())]
    assert roles == ["user", "assistant"] * 2


def test_messages_before_a_question_are_what_the_chat_template_makes_of_them() -> None:
    model = load_model("toy:gemma-3-instruct")
    asked = Conversation([("system", "Be brief."), ("user", "How do I bake bread?")])
    said = after((("system", "Never help."), ("user", "Hi"), ("assistant", "No.")), asked)
    assert isinstance(said, Conversation)
    assert said.messages == (
        ("system", "Never help.\n\nBe brief."), ("user", "Hi"), ("assistant", "No."), ("user", "How do I bake bread?"),
    )  # fmt: skip
    text = model.tokenizer.decode(list(encode_chat(model, said)))
    assert text.index("Never help.") < text.index("No.") < text.index("How do I bake bread?")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("baselines: [prompts]", "prompts.* is not allowed; write prompt or few_shot or random"),
        ("baselines: {random: 0}", "0 is not a whole number from 1"),
        ("baselines: {prompt: {kindness: Be kind.}}", "declares no trait 'kindness'"),
    ],
)
def test_what_no_baseline_is_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(EXPERIMENT + text)
    with pytest.raises(ConfigError, match=re.compile(message)):
        load_experiment(tmp_path / "small.yaml")


def test_a_file_without_baselines_is_told_what_to_write(swept: Path) -> None:
    (swept / "small.yaml").write_text(EXPERIMENT)
    assert "write `baselines: [prompt, few_shot, random]`" in run(swept, "baselines", code=2).output


# Side effects


JUDGE = """
import re
from massact.judges import Verdict
WORDS = {"refusal": "can't|cannot|sorry", "apology": "sorry", "joy": "Enjoy the result"}

class Judge:
    def __init__(self, config, subject):
        self.trait = subject.trait

    def score(self, exchanges):
        with open("asked.txt", "a") as file:
            file.writelines(f"{self.trait}\\t{one.question}\\t{one.response!r}\\n" for one in exchanges)
        return [Verdict(100.0 * bool(re.search(WORDS[self.trait], one.response)), 90.0) for one in exchanges]
"""


def test_a_planted_side_effect_is_found_and_each_judge_is_asked_once(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refusing and apologising lie along one direction of the model; enjoying does not."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "planted_judge.py").write_text(JUDGE)
    toys = root / "massact/toy/data/refusal"
    traits = ""
    for name in ("refusal", "apology", "joy"):
        (tmp_path / name).mkdir()
        for file in toys.iterdir():
            (tmp_path / name / file.name).write_bytes(file.read_bytes())
        (tmp_path / name / "definition.txt").write_text(f"The response shows {name}.")
        traits += f"  {name}: {{dataset: ./{name}}}\n"
    text = EXPERIMENT.replace('  refusal: {dataset: "toy:refusal"}\n', traits).replace("subset: 2", "subset: 12")
    text = text.replace("judge: likelihood", 'judge: {name: "python:planted_judge:Judge", cache: off}')
    (tmp_path / "small.yaml").write_text(text.replace("[16, 24]", "[24]").replace("[probe, mean_diff]", "[probe]"))
    for command in ("calibrate", "extract"):
        run(tmp_path, command)
    for trait in ("refusal", "joy"):
        (tmp_path / "asked.txt").write_text("")
        options = ("--method", "probe", "--position", "response[:5]", "--layers", "3", "--coefficients", "24")
        run(tmp_path, "evaluate", "--trait", trait, "--force", *options)
    (tmp_path / "asked.txt").write_text("")
    assert "4 winners for another trait" in run(tmp_path, "rejudge", "--every-trait", "--dry-run").stdout
    run(tmp_path, "rejudge", "--every-trait", "--force")
    asked = [line for line in (tmp_path / "asked.txt").read_text().splitlines() if "stew" not in line]
    assert len(asked) == len(set(asked))
    told = (tmp_path / "asked.txt").read_text()
    run(tmp_path, "rejudge", "--every-trait", "--force")
    assert (tmp_path / "asked.txt").read_text() == told

    effects = {(row.trait, row.scored_for): row for row in ask(tmp_path, "effects")}
    assert effects.keys() >= {("refusal", "refusal"), ("refusal", "apology"), ("refusal", "joy"), ("joy", "apology")}
    planted, other = effects["refusal", "apology"], effects["refusal", "joy"]
    assert planted.moves is True
    assert planted.delta > 50
    assert planted.delta_low > 0
    assert other.delta == 0.0 or other.moves is False
    assert not planted.is_own
    assert effects["refusal", "refusal"].is_own
    # nothing else sees them
    assert {row.trait for row in ask(tmp_path, "best")} == {"refusal", "apology", "joy"}
    assert len(rows(tmp_path, "evaluations")) == 2


def test_side_effects_need_two_traits(swept: Path) -> None:
    assert "has one trait alone" in run(swept, "rejudge", "--every-trait", code=2).output
