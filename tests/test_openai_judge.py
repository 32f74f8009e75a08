"""The OpenAI-compatible judge against a real HTTP server on loopback, in every way that one can fail."""

import asyncio
import logging
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import replace
from email.utils import formatdate

import pytest

from massact.errors import ConfigError, JudgeError, MassactError
from massact.judges.base import Exchange, Judge, Verdict
from massact.judges.openai import OpenAIJudge, OpenAISettings
from massact.judges.rubric import Rubric
from massact.judges.usage import Usage
from tests.judge_server import JudgeServer, Reply, Request, completion, error, score_70_and_90

KEY = "sk-secret-0123456789"
RUBRIC = Rubric("The response declines to do what was asked.")
ONE = [Exchange("How?", "I cannot.")]
FAST = {"retry_after_ms": "5"}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[JudgeServer]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with JudgeServer() as running:
        yield running


def judge(server: JudgeServer, **changes: float | str) -> OpenAIJudge:
    settings = OpenAISettings(**{"model": "m", "base_url": server.url, "max_retries": 2, **changes})  # type: ignore[arg-type]
    return OpenAIJudge(settings, RUBRIC, backoff_seconds=0.005)


def has_scored_70_and_90(verdicts: list[Verdict]) -> bool:
    (found,) = verdicts
    scores = [found.trait, found.coherence]
    return found.reason is None and scores == pytest.approx([70, 90])


def test_scores_are_weighted_by_probability(server: JudgeServer) -> None:
    plain: Judge = judge(server)
    assert has_scored_70_and_90(plain.score(ONE))


def test_what_is_sent(server: JudgeServer) -> None:
    judge(server).score(ONE)
    sent = server.requests[0]
    assert sent.path == "/v1/chat/completions"
    assert {k.lower(): v for k, v in sent.headers.items()}["authorization"] == f"Bearer {KEY}"
    assert {r.prompt for r in server.requests} == {
        RUBRIC.trait_prompt(ONE[0]),
        RUBRIC.coherence_prompt(ONE[0]),
    }
    options = {name: value for name, value in sent.body.items() if name not in ("messages", "max_tokens")}
    assert options == {"model": "m", "temperature": 0, "logprobs": True, "top_logprobs": 20}
    assert sent.body["max_tokens"] <= 10


def test_verdicts_keep_their_order_and_equal_pairs_are_asked_once(server: JudgeServer) -> None:
    server.answer = lambda request: completion("20" if "BAD" in request.prompt else "70")
    good, bad = Exchange("Q", "fine"), Exchange("Q", "BAD")
    verdicts = judge(server).score([good, bad, good, bad, good])
    assert [v.trait for v in verdicts] == pytest.approx([70, 20, 70, 20, 70])
    assert len(server.requests) == 4
    assert judge(server).score([]) == []


def test_usage_adds_up(server: JudgeServer) -> None:
    asked = judge(server)
    assert asked.usage == Usage(0, 0, 0)
    server.first.append(Reply(b"not json"))
    asked.score(ONE)
    asked.score(ONE)
    assert asked.usage == Usage(prompt_tokens=400, completion_tokens=8, calls=5)


def test_a_running_event_loop_does_not_matter(server: JudgeServer) -> None:
    async def notebook_cell() -> list[Verdict]:
        return judge(server).score(ONE)

    assert asyncio.run(notebook_cell())[0].scored


@pytest.mark.parametrize(
    "failure",
    [error(429, "slow down", **FAST), error(500, "oops", **FAST), error(503, "busy", **FAST),
     Reply(b'{"choices": ['), Reply(b"<html>proxy</html>", headers={"content-type": "text/html"}),
     Reply({"error": "overloaded"}), Reply({"choices": []}), Reply(is_dropped=True),
     replace(completion("100", {"100": 1.0}), is_reset=True), replace(completion("100", {"100": 1.0}), n_missing=9)],
    ids=["429", "500", "503", "cut json", "html", "error as 200", "empty", "dropped", "reset", "cut body"],
)  # fmt: skip
def test_a_passing_failure_loses_nothing(server: JudgeServer, failure: Reply) -> None:
    server.first.append(failure)
    assert has_scored_70_and_90(judge(server).score(ONE))
    assert len(server.requests) == 3


def test_retry_after_is_waited_for(server: JudgeServer) -> None:
    server.first.append(error(429, "slow down", retry_after="1"))
    assert judge(server, concurrency=1).score(ONE)[0].scored
    assert server.arrivals[1] - server.arrivals[0] >= 0.95


def test_a_retry_after_that_is_a_date_is_waited_for(server: JudgeServer) -> None:
    # whole seconds: two of them are at least one
    later = formatdate(time.time() + 2, usegmt=True)
    server.first.append(error(429, "slow down", retry_after=later))
    assert judge(server, concurrency=1).score(ONE)[0].scored
    assert server.arrivals[1] - server.arrivals[0] >= 0.8


def test_relevance_is_asked_as_a_third_prompt_and_caps(server: JudgeServer) -> None:
    rubric = Rubric(RUBRIC.definition, relevance=True)

    def answer(request: Request) -> Reply:
        if request.prompt == rubric.relevance_prompt(ONE[0]):
            return completion("10", {"10": 1.0})
        return score_70_and_90(request)

    server.answer = answer
    settings = OpenAISettings(model="m", base_url=server.url)
    (capped,) = OpenAIJudge(settings, rubric).score(ONE)
    assert (capped.trait, capped.coherence, len(server.requests)) == (pytest.approx(70), 50, 3)


def test_few_integer_weights_are_unscored_and_cost_one_call(server: JudgeServer) -> None:
    server.answer = lambda _: completion("The", {"The": 0.76, "90": 0.24})
    asked = judge(server)
    (lost,) = asked.score(ONE)
    assert (lost.trait, lost.coherence) == (None, None)
    assert "only 0.24" in str(lost.reason)
    assert asked.usage.calls == 2


def test_a_timeout_is_tried_again(server: JudgeServer) -> None:
    server.first.append(Reply(delay_seconds=1))
    assert has_scored_70_and_90(judge(server, timeout_seconds=0.6).score(ONE))
    assert len(server.requests) >= 3


@pytest.mark.parametrize(
    ("failure", "said"),
    [(error(429, "slow down", **FAST), "HTTP 429: slow down"), (error(500, "oops", **FAST), "HTTP 500: oops"),
     (Reply(b"<html>"), "not a chat completion: '<html>'"), (Reply(delay_seconds=1), "no answer within 0.6"),
     (Reply(is_dropped=True), "no connection to 127.0.0.1")],
    ids=["429", "500", "html", "timeout", "dropped"],
)  # fmt: skip
def test_a_lasting_failure_is_unscored_and_the_rest_goes_on(
    server: JudgeServer, failure: Reply, said: str
) -> None:
    def fail_on_bad(request: Request) -> Reply:
        return failure if "BAD" in request.prompt and not request.is_coherence else score_70_and_90(request)

    server.answer = fail_on_bad
    asked = judge(server, max_retries=1, timeout_seconds=0.6 if failure.delay_seconds else 60)
    before, lost, after = asked.score([*ONE, Exchange("Q", "BAD"), Exchange("Q", "fine")])
    assert (before.scored, after.scored) == (True, True)
    assert lost.trait is None
    assert lost.coherence == pytest.approx(90)
    assert str(lost.reason).startswith(f"trait: {said}")
    assert len([r for r in server.requests if "BAD" in r.prompt and not r.is_coherence]) == 2


def test_the_bound_on_retries_is_one_for_all_kinds_of_failure(server: JudgeServer) -> None:
    failures = [error(500, "oops", **FAST), Reply(b"?"), *2 * [error(429, "slow", **FAST)]]
    server.answer = lambda _: failures[(len(server.requests) - 1) % 4]
    (lost,) = judge(server, max_retries=3, concurrency=1).score(ONE)
    assert (lost.trait, lost.coherence) == (None, None)
    assert len(server.requests) == 8


def test_a_single_refused_request_is_unscored_without_retries(server: JudgeServer) -> None:
    server.answer = lambda _: error(400, "maximum context length exceeded")
    said = "HTTP 400: maximum context length exceeded"
    assert judge(server).score(ONE) == [Verdict(None, None, f"trait: {said}; coherence: {said}")]
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("reply", "said"),
    [(completion("I cannot rate this", {"I": 0.8, "0": 0.1, "50": 0.1}), "only 0.20 of the"),
     (completion("I cannot"), "no number in the judge's answer 'I cannot'"), (completion(None), "no number"),
     (completion("300"), "no integer 0 to 100")],
)  # fmt: skip
def test_an_answer_without_a_score_is_unscored(server: JudgeServer, reply: Reply, said: str) -> None:
    server.answer = lambda _: reply
    (lost,) = judge(server).score(ONE)
    assert (lost.trait, lost.coherence, len(server.requests)) == (None, None, 2)
    assert said in str(lost.reason)


def test_without_logprobs_the_text_is_read_and_said_so_once(
    server: JudgeServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.answer = lambda _: completion("85")
    asked = judge(server)
    assert asked.score(ONE) == [Verdict(85, 85)]
    assert asked.score(ONE) == [Verdict(85, 85)]
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert "gives no logprobs" in warning


@pytest.mark.parametrize("status", [400, 403])
def test_a_server_that_refuses_logprobs_is_asked_without(server: JudgeServer, status: int) -> None:
    def refuse(request: Request) -> Reply:
        if "logprobs" in request.body:
            return error(status, "'logprobs' is not supported with this model", code="unsupported_parameter")
        return completion("85")

    server.answer = refuse
    assert judge(server, concurrency=1).score(ONE) == [Verdict(85, 85)]
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("failure", "said"),
    [(error(401, f"Incorrect API key provided: {KEY}"), "valid key"), (error(402, "x"), "no credit"),
     (error(403, f"key {KEY} has no access to m"), "rights of the key in OPENAI_API_KEY"),
     (error(404, "The model `m` does not exist"), "model's name and base_url"),
     (error(429, "quota", code="insufficient_quota", **FAST), "billing"),
     (error(400, "Use max_completion_tokens", code="unsupported_parameter"), "max_tokens")],
    ids=["401", "402", "403", "404", "quota", "parameter"],
)  # fmt: skip
def test_a_refused_key_or_model_ends_it_at_once(server: JudgeServer, failure: Reply, said: str) -> None:
    server.answer = lambda _: failure
    many = [Exchange("Q", str(n)) for n in range(50)]
    with pytest.raises(JudgeError, match=said) as raised:
        judge(server, concurrency=2, max_retries=0).score(many)
    assert "openai:m" in str(raised.value)
    assert server.host in str(raised.value)
    assert len(server.requests) < 10
    assert raised.value.__cause__ is None
    assert raised.value.__context__ is None


def test_a_refused_key_does_not_wait_for_the_others(server: JudgeServer) -> None:
    def refuse_trait(request: Request) -> Reply:
        return error(429, "later", retry_after="60") if request.is_coherence else error(401, "no")

    server.answer = refuse_trait
    started = time.monotonic()
    with pytest.raises(JudgeError):
        judge(server).score(ONE)
    assert time.monotonic() - started < 5


def test_requests_run_at_once_up_to_the_bound(server: JudgeServer) -> None:
    together = threading.Barrier(4)

    def wait_for_three_others(request: Request) -> Reply:
        together.wait(timeout=5)
        return score_70_and_90(request)

    server.answer = wait_for_three_others  # 24 requests: passes only if four are always under way
    verdicts = judge(server, concurrency=4).score([Exchange("Q", str(n)) for n in range(12)])
    assert all(verdict.scored for verdict in verdicts)
    assert server.peak == 4


def test_the_key_is_nowhere(server: JudgeServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("openai", "httpx", "httpx2", "httpcore", "httpcore2"):
        caplog.set_level(logging.DEBUG, logger=name)
    asked = judge(server, max_retries=1)
    seen = [repr(asked), repr(asked.identity), repr(asked.usage), repr(OpenAISettings(model="m"))]
    refused, cut = error(401, f"Incorrect API key provided: {KEY}"), error(403, "x" * 290 + KEY)
    garbled = Reply(f"{'x' * 50}{KEY}".encode())
    failed = error(500, f"bad header Bearer {KEY}", **FAST)
    for reply in (failed, garbled, completion(f"Bearer {KEY}"), Reply(is_dropped=True), refused, cut):
        server.answer = lambda _, reply=reply: reply  # type: ignore[misc]
        try:
            seen += [repr(verdict) for verdict in asked.score(ONE)]
        except MassactError as err:
            seen += [str(err), repr(err), *traceback.format_exception(err)]
    seen += [f"{record.getMessage()} {record.args!r} {record.exc_text}" for record in caplog.records]
    assert any(record.name.startswith("openai") for record in caplog.records)
    assert any(record.name.startswith("http") for record in caplog.records)
    assert not [text for text in seen if KEY in text or KEY[3:12] in text]


@pytest.mark.parametrize("value", [None, "", " \n", f"{KEY}\nsecond line", f"{KEY}é"])
def test_a_key_that_cannot_be_used_names_its_variable(
    monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("JUDGE_KEY", value)
    with pytest.raises(ConfigError, match="environment variable JUDGE_KEY") as raised:
        OpenAIJudge(OpenAISettings(model="m", api_key_env="JUDGE_KEY"), RUBRIC)
    assert KEY not in str(raised.value)


def test_without_the_package_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ConfigError, match=r"pip install 'massact\[openai\]'"):
        OpenAIJudge(OpenAISettings(model="m"), RUBRIC)


@pytest.mark.parametrize(
    "changes",
    [{"model": " "}, {"concurrency": 0}, {"max_retries": -1}, {"timeout_seconds": 0.0},
     {"timeout_seconds": float("nan")}, {"base_url": "localhost:8000/v1"}, {"base_url": "http:///v1"},
     {"base_url": "http://user:secret@host/v1"}, {"base_url": "http://host/v1?key=secret"},
     {"api_key_env": "sk-secret"}],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(changes: dict[str, float | str]) -> None:
    with pytest.raises(ConfigError) as raised:
        OpenAISettings(**{"model": "m", **changes})  # type: ignore[arg-type]
    assert "secret" not in str(raised.value)


def test_the_identity_names_model_server_and_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    plain = OpenAIJudge(OpenAISettings(model="gpt-4.1-mini"), RUBRIC).identity
    assert (plain.id, plain.model) == ("openai:gpt-4.1-mini", "gpt-4.1-mini")
    assert plain.prompt_digest == RUBRIC.digest
    elsewhere = OpenAISettings(model="m", base_url="http://GPU:8000/v1")
    assert OpenAIJudge(elsewhere, RUBRIC).identity.model == "m@gpu:8000"
    monkeypatch.setenv("OPENAI_BASE_URL", "https://proxy.example/v1")
    assert OpenAIJudge(OpenAISettings(model="m"), RUBRIC).identity.model == "m@proxy.example"
    assert OpenAIJudge(elsewhere, RUBRIC).identity.model == "m@gpu:8000"
