"""Judges against real servers of a real model: llama.cpp's own, and `transformers serve`.

SmolLM2-135M cannot judge. What must hold whoever judges: requests are taken, a score is a numeral that the model wrote
where a score stands, and everything else is unscored with its reason.
"""

import json
import logging
import re
import statistics
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import correlation
from typing import Any

import pytest

from massact.config import JudgeConfig, LoadConfig
from massact.config.judges import judge_like
from massact.data.traits import load_trait
from massact.errors import JudgeError
from massact.judges import Exchange, ModelSource, Subject, Verdict, open_judge
from massact.judges.openai import MAX_TOKENS, OpenAIJudge
from massact.judges.rubric import Rubric
from massact.judges.systemone import SystemOneJudge
from massact.models.load import describe, load_model
from massact.sweep.models import contrasts
from tests.support.real_servers import llama_server, smollm2_folder, transformers_server
from tools.smollm2 import UnavailableError

pytestmark = [pytest.mark.slow, pytest.mark.real]

ROOT = Path(__file__).resolve().parents[2]
POLITE = Rubric("The response is polite.")
COPIED = Rubric("unused", "What is 80 + 5? {answer}")
"""Answered by SmolLM2 with the number in the response."""
RESPONSES = ["Shut up, you idiot.", "Of course! Mix flour, water, salt and yeast, then bake it for forty minutes."]
EXCHANGES = [Exchange("How do I bake bread?", text) for text in RESPONSES]
NUMBERS = [Exchange("?", text) for text in ("85", "42 of 100", "100")]
NUMERAL = re.compile(r"\s*(100|[1-9]?[0-9])\b")


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


@pytest.fixture(scope="module")
def llama() -> Iterator[str]:
    try:
        with llama_server() as url:
            yield url
    except UnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def folder() -> Path:
    try:
        return smollm2_folder()
    except UnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[str]:
    try:
        with transformers_server(folder) as url:
            yield url
    except UnavailableError as error:
        pytest.skip(str(error))


def settings(model: str, url: str) -> JudgeConfig:
    """For a busy machine: no request is sent twice, and none is given up."""
    return JudgeConfig(f"openai:{model}", url, max_retries=0, concurrency=2, timeout_seconds=600)


def post(url: str, body: dict[str, Any]) -> Any:
    data, headers = json.dumps(body).encode(), {"content-type": "application/json"}
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(urllib.request.Request(url, data, headers), timeout=600) as answer:
        return json.load(answer)


def written(url: str, model: str, prompt: str) -> str:
    """What a server's model writes to a prompt."""
    body = {"model": model, "messages": [{"role": "user", "content": prompt}], "temperature": 0}
    answer = post(f"{url}/chat/completions", {**body, "max_tokens": MAX_TOKENS})
    return str(answer["choices"][0]["message"]["content"])


def check(verdicts: Sequence[Verdict], exchanges: Sequence[Exchange], url: str, model: str) -> None:
    """Every trait score is the numeral that the model wrote at its answer's beginning; the rest has a reason."""
    for verdict, exchange in zip(verdicts, exchanges, strict=True):
        assert verdict.scored == (verdict.reason is None)
        numeral = NUMERAL.match(written(url, model, COPIED.trait_prompt(exchange)))
        if verdict.trait is not None:
            assert numeral is not None
            assert verdict.trait == float(numeral[1])


def test_llama_cpp_takes_what_is_asked_and_scores_numerals_alone(llama: str, caplog: pytest.LogCaptureFixture) -> None:
    asked = OpenAIJudge(settings("m", llama), POLITE)
    verdicts = asked.score(EXCHANGES)
    assert asked.usage.calls == 2 * len(EXCHANGES)
    assert asked.usage.prompt_tokens > 100 * asked.usage.calls
    for verdict in verdicts:  # prose, whatever numbers it holds
        assert (verdict.trait, verdict.coherence) == (None, None)
        assert "it answered 'The response" in str(verdict.reason)

    copied = OpenAIJudge(settings("m", llama), COPIED)
    found = copied.score(NUMBERS)
    check(found, NUMBERS, llama, "m")
    assert [verdict.trait for verdict in found] == [85, 42, 100]
    # this tokenizer writes a digit a token
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert "writes a score as several tokens" in warning


def test_transformers_serve_ignores_logprobs_and_is_read_by_its_text(
    served: str, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = settings(str(folder), served)
    for verdict in OpenAIJudge(own, POLITE).score(EXCHANGES):
        assert (verdict.trait, verdict.coherence) == (None, None)
        assert "the judge's answer 'The response" in str(verdict.reason)
    found = OpenAIJudge(own, COPIED).score(NUMBERS)
    check(found, NUMBERS, served, str(folder))
    assert any(verdict.trait is not None for verdict in found)
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert "gives no logprobs" in warning


def test_a_model_that_a_server_does_not_have_ends_it(served: str, llama: str) -> None:
    other = settings("other", served)
    for judge in (OpenAIJudge(other, POLITE), SystemOneJudge(other, POLITE)):
        with pytest.raises(JudgeError, match=r"no such model.*pinned to"):
            judge.score(EXCHANGES)
    with pytest.raises(JudgeError, match="use the judge openai:MODEL; it says: This model is not a decision model"):
        SystemOneJudge(settings("other", llama), POLITE).score(EXCHANGES)


def test_levels_of_transformers_serve_are_scores(served: str, folder: Path) -> None:
    judge = SystemOneJudge(settings(str(folder), served), POLITE)
    verdicts = judge.score(EXCHANGES)
    assert judge.usage.calls == 2 * len(EXCHANGES)
    assert judge.usage.prompt_tokens > 100 * judge.usage.calls
    traits = [verdict.trait for verdict in verdicts]
    assert all(verdict.scored for verdict in verdicts)
    assert all(trait is not None and 0 < trait < 100 for trait in traits)
    assert len(set(traits)) == len(traits)
    prompt, _ = judge._prompts(EXCHANGES[0])
    answer = post(f"{served}/systemone", {"model": str(folder), **json.loads(prompt)})["answers"]["score"]
    assert traits[0] == pytest.approx(25 * answer["score"], abs=1e-3)
    assert list(answer["legend"].values())[4] == "the trait throughout, beyond doubt"


def test_judges_without_an_api_agree_with_a_reading(folder: Path) -> None:
    """On texts of the model on other questions than theirs, read and labelled (`benchmarks/judges.py`)."""
    texts = [json.loads(line) for line in (ROOT / "benchmarks" / "judge_texts.jsonl").read_text().splitlines()]
    model = load_model(str(folder), options=LoadConfig(dtype="float32"))
    for trait in ("refusal", "enthusiasm"):
        dataset = load_trait(str(ROOT / "experiments" / "traits" / trait))
        subject = Subject(
            dataset.definition,
            questions=dataset.questions,
            sides=contrasts(dataset),
            steered=ModelSource(lambda: describe(model), lambda: model),
        )
        judge = open_judge(judge_like(JudgeConfig(""), "trait=classifier,coherence=perplexity"), subject)
        mine = [one for one in texts if one["trait"] == trait]
        verdicts = judge.score([Exchange(one["question"], one["response"]) for one in mine])
        for said, scores in (("shows", [v.trait for v in verdicts]), ("coherent", [v.coherence for v in verdicts])):
            known = [
                (one[said], score or 0.0) for one, score in zip(mine, scores, strict=True) if one[said] is not None
            ]
            assert correlation(*zip(*known, strict=True)) > 0.9, (trait, said)
            assert min(score for one, score in known if one) > statistics.fmean(
                score for one, score in known if not one
            )
