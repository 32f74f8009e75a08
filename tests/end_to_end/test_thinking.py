"""A model that thinks, from the experiment file to the answers: what is said, what the judge sees, what is kept."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from transformers import AutoModelForCausalLM, AutoTokenizer

from massact.cli.app import cli
from massact.store.read import open_store
from massact.store.responses import read_responses
from massact.toy import resolve
from tests.support.judge_server import JudgeServer, judge_by_text
from tests.support.small_plan import EXPERIMENT

pytestmark = pytest.mark.slow

ENDING = "{% if enable_thinking | default(true) %}<think>\n{% else %}<think>\n\n</think>\n\n{% endif %}{% endif %}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model, with two tokens more, made to think by its template."""
    folder, toy = tmp_path_factory.mktemp("thinker"), resolve("toy:gemma-3-instruct")
    tokenizer = AutoTokenizer.from_pretrained(toy)
    tokenizer.add_tokens(["<think>", "</think>"])
    model = AutoModelForCausalLM.from_pretrained(toy)
    embeddings = model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():
        embeddings.weight[-2:] = 0  # random ones would have it say the marks by itself, now and then
    tokenizer.chat_template = tokenizer.chat_template.removesuffix("{% endif %}") + ENDING
    model.save_pretrained(folder / "thinker")
    tokenizer.save_pretrained(folder / "thinker")
    return folder


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    with pytest.MonkeyPatch.context() as patched, judge_by_text(patched) as server:
        yield server


def _file(folder: Path, server: JudgeServer, thinking: str = "", judge: str = "") -> Path:
    text = EXPERIMENT.replace('"toy:gemma-3-instruct"', "./thinker").replace("  toy:\n", f"  toy:\n    {thinking}\n")
    text = text.replace("judge: likelihood", f'judge: {{name: "openai:m", base_url: "{server.url}"{judge}}}')
    file = folder / "small.yaml"
    file.write_text(text)
    return file


def _run(folder: Path, *arguments: str, code: int = 0) -> str:
    options = ["--experiment", str(folder / "small.yaml"), "--tracking-uri", f"sqlite:///{folder}/mlflow.db"]
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        result = CliRunner().invoke(cli, [*arguments, *options])
    assert result.exit_code == code, result.output
    return result.output


def _evaluate(folder: Path, *, code: int = 0) -> str:
    cell = ("--model", "toy", "--trait", "refusal", "--method", "probe", "--position", "response[:5]", "--layers", "3")
    return _run(folder, "evaluate", *cell, "--coefficients", "16", code=code)


def test_an_experiment_on_a_model_that_thinks(folder: Path, server: JudgeServer) -> None:
    _file(folder, server)
    note = "note: toy: it is told not to think (enable_thinking=False)"
    for command in ("calibrate", "extract"):
        _run(folder, command)
    assert note in _evaluate(folder)
    assert not any(re.search("think", request.prompt) for request in server.requests)

    _file(folder, server, "thinking: on")
    _run(folder, "calibrate")
    said = _evaluate(folder, code=1)
    assert "the baseline of toy has no answer in 2 of its 2 responses" in said
    assert "models.toy.thinking" in said
    _file(folder, server, "thinking: 30")
    assert "models.toy.thinking: a thought of 30 tokens leaves none for the answer" in _evaluate(folder, code=2)

    n_asked = len(server.requests)
    _file(folder, server, "thinking: 6")
    _run(folder, "calibrate")
    _evaluate(folder)
    assert not any(re.search("think", request.prompt) for request in server.requests)
    assert len(server.requests) > n_asked
    _file(folder, server, "thinking: 6", ", thinking: include")
    _evaluate(folder)
    assert "<think>" in server.requests[-1].prompt.replace("\u2039", "<").replace("\u203a", ">")

    store = open_store(f"sqlite:///{folder}/mlflow.db")
    rows = {run.run_id: run.row for run in store.evaluations("small")}
    assert sorted(str(row.thinking) for row in rows.values()) == ["6", "6", "off"]
    assert len({row.judge_prompt for row in rows.values()}) == 2
    kept = [read_responses(path) for path in sorted(folder.glob("mlruns/**/responses.json"))]
    thoughts = [[one.thinking for one in responses] for responses in kept]
    assert sum(all(some) for some in thoughts) >= 4  # with a budget: two cells and their baselines
    assert not any("think" in one.response for responses in kept for one in responses)
    answer = _run(folder, "best", "--format", "json")
    assert re.search(r"thinking \((6, off|off, 6)\)", answer), re.findall(".*thinking.*", answer)
