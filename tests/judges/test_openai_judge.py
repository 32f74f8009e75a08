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

from massact.config import JudgeConfig
from massact.errors import ConfigError, JudgeError, MassactError
from massact.judges import Exchange, Judge, Usage, Verdict
from massact.judges.openai import OpenAIJudge
from massact.judges.rubric import Rubric
from massact.judges.systemone import SystemOneJudge
from tests.support.judge_server import JudgeServer, Reply, Request, completion, error, levels, score_70_and_90

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
    settings = JudgeConfig(**{"name": "openai:m", "base_url": server.url, "max_retries": 2, **changes})  # type: ignore[arg-type]
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
    assert {r.prompt for r in server.requests} == {RUBRIC.trait_prompt(ONE[0]), RUBRIC.coherence_prompt(ONE[0])}
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
    settings = JudgeConfig("openai:m", base_url=server.url)
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
def test_a_lasting_failure_is_unscored_and_the_rest_goes_on(server: JudgeServer, failure: Reply, said: str) -> None:
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
    "words",
    [Reply({"error": {"message": "Requested sample logprobs of 20, which is greater than max allowed: 5"}}, 400),
     Reply({"error": "Input validation error: `top_n_tokens` must be >= 0 and <= 5. Given: 20",
     "error_type": "validation"},
           422),
     Reply({"detail": [{"loc": ["body", "top_logprobs"], "msg": "Input should be less than or equal to 5",
     "input": 20}]},
           422)],
    ids=["vLLM", "TGI", "FastAPI"],
)  # fmt: skip
def test_a_server_that_allows_fewer_logprobs_is_asked_for_those(
    server: JudgeServer, words: Reply, caplog: pytest.LogCaptureFixture
) -> None:
    server.answer = lambda request: words if request.body.get("top_logprobs", 0) > 5 else score_70_and_90(request)
    asked = judge(server, concurrency=1)
    assert has_scored_70_and_90(asked.score(ONE))
    assert has_scored_70_and_90(asked.score(ONE))
    assert [r.body["top_logprobs"] for r in server.requests] == [20, 5, 5, 5, 5]
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert "gives 5 probabilities of the 20 asked for" in warning


@pytest.mark.parametrize("limit", ["0", "gpt-4.1 of 2025-04-14"])
def test_a_server_that_allows_none_is_asked_without(server: JudgeServer, limit: str) -> None:
    refusal = error(400, f"Requested sample logprobs of 20, which is greater than max allowed: {limit}")
    server.answer = lambda request: refusal if "top_logprobs" in request.body else completion("85")
    assert judge(server, concurrency=1).score(ONE) == [Verdict(85, 85)]
    assert len(server.requests) == 3


def test_digits_apart_are_coarser_and_said_so_once(server: JudgeServer, caplog: pytest.LogCaptureFixture) -> None:
    server.answer = lambda _: completion("85", {"8": 0.7, "9": 0.2, "10": 0.001})
    asked = judge(server)
    assert asked.score(ONE) == asked.score(ONE) == [Verdict(85, 85)]
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert "writes a score as several tokens" in warning


@pytest.mark.parametrize("limit", [None, 4096])
def test_a_model_that_refuses_max_tokens_is_asked_with_the_other_name(server: JudgeServer, limit: int | None) -> None:
    def refuse(request: Request) -> Reply:
        if "max_tokens" in request.body:
            said = "'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
            return error(400, f"Unsupported parameter: {said}", code="unsupported_parameter")
        return score_70_and_90(request)

    server.answer = refuse
    asked = judge(server, concurrency=1, **({"max_tokens": limit} if limit else {}))
    assert has_scored_70_and_90(asked.score(ONE))
    assert [r.body.get("max_completion_tokens") for r in server.requests] == [None, limit or 10, limit or 10]


def test_a_judge_that_thinks_says_what_to_set_and_is_read_after_its_thoughts(server: JudgeServer) -> None:
    def think(request: Request) -> Reply:
        room = request.body["max_tokens"] >= 100
        reply = completion("85" if room else None, finish="stop" if room else "length")
        reply.body["choices"][0]["message"]["reasoning"] = "The text is 10 of 10."
        return reply

    server.answer = think
    (lost,) = judge(server).score(ONE)
    assert (lost.trait, lost.coherence) == (None, None)
    assert "still thinking" in str(lost.reason)
    assert "max_tokens: 4096" in str(lost.reason)
    assert judge(server, max_tokens=4096).score(ONE) == [Verdict(85, 85)]


@pytest.mark.parametrize(
    ("body", "said"),
    [({"detail": "Server is pinned to '/m'; requested 'm'."}, "pinned"),
     ({"error": "model 'm' not found"}, "not found"),
     ({"detail": "Model not found"}, "not found"),
     ({"error": {"message": "Invalid model name passed in model=m"}}, "Invalid"),
     ({"error": {"message": "m", "code": "model_not_found"}}, "check the model's name"),
     ({"detail": [{"loc": ["body", "model"], "msg": "The model m does not exist"}]}, "body.model: The model")],
)  # fmt: skip
@pytest.mark.parametrize("status", [400, 404, 422])
def test_an_unknown_model_ends_it_at_once(server: JudgeServer, body: dict[str, object], said: str, status: int) -> None:
    server.answer = lambda _: Reply(body, status)
    with pytest.raises(JudgeError, match="no such model") as raised:
        judge(server, concurrency=2).score([Exchange("Q", str(n)) for n in range(50)])
    assert said in str(raised.value)
    assert len(server.requests) < 10


@pytest.mark.parametrize(
    ("body", "said"),
    [({"detail": "Prompt too long"}, "Prompt too long"), ({"error": "Prompt too long"}, "Prompt too long"),
     ({"detail": [{"loc": ["body", "n"], "msg": "bad"}, {"loc": ["body", "m"], "msg": "worse"}]},
     "body.n: bad; body.m: worse"),
     ({"object": "error", "message": "This model's maximum context length is 4096 tokens"},
     "This model's maximum context")],
)  # fmt: skip
def test_what_a_server_says_is_shown_however_it_says_it(
    server: JudgeServer, body: dict[str, object], said: str
) -> None:
    server.answer = lambda _: Reply(body, 422)
    (lost,) = judge(server).score(ONE)
    assert f"trait: HTTP 422: {said}" in str(lost.reason)


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
    seen = [repr(asked), repr(asked.identity), repr(asked.usage), repr(JudgeConfig("openai:m"))]
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
def test_a_key_that_cannot_be_used_names_its_variable(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("JUDGE_KEY", value)
    with pytest.raises(ConfigError, match="environment variable JUDGE_KEY") as raised:
        OpenAIJudge(JudgeConfig("openai:m", api_key_env="JUDGE_KEY"), RUBRIC)
    assert KEY not in str(raised.value)


def test_without_the_package_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ConfigError, match=r"pip install 'massact\[openai\]'"):
        OpenAIJudge(JudgeConfig("openai:m"), RUBRIC)


@pytest.mark.parametrize(
    "changes",
    [{"base_url": "localhost:8000/v1"}, {"base_url": "http:///v1"},
     {"base_url": "http://user:secret@host/v1"}, {"base_url": "http://host/v1?key=secret"},
     {"base_url": "http://host/v1#secret"}, {"base_url": "http://[secret/v1"}, {"base_url": "http://host:secret/v1"},
     {"base_url": "http://host/v1?"}],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(changes: dict[str, float | str]) -> None:
    with pytest.raises(ConfigError) as raised:
        OpenAIJudge(JudgeConfig(**{"name": "openai:m", **changes}), RUBRIC)  # type: ignore[arg-type]
    assert "secret" not in str(raised.value)


def test_the_identity_names_model_server_and_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    plain = OpenAIJudge(JudgeConfig("openai:gpt-4.1-mini"), RUBRIC).identity
    assert (plain.id, plain.model) == ("openai:gpt-4.1-mini", "gpt-4.1-mini")
    assert plain.prompt_digest == RUBRIC.digest
    elsewhere = JudgeConfig("openai:m", base_url="http://GPU:8000/v1")
    assert OpenAIJudge(elsewhere, RUBRIC).identity.model == "m@gpu:8000"
    monkeypatch.setenv("OPENAI_BASE_URL", "https://proxy.example/v1")
    assert OpenAIJudge(JudgeConfig("openai:m"), RUBRIC).identity.model == "m@proxy.example"
    assert OpenAIJudge(elsewhere, RUBRIC).identity.model == "m@gpu:8000"


@pytest.mark.parametrize(
    ("url", "at"),
    [("https://api.openai.com/v1", ""), ("https://api.openai.com/v1/", ""), ("https://api.openai.com:443/v1", ""),
     ("http://GPU:8000/v1", "@gpu:8000"), ("https://proxy.example/v1/", "@proxy.example"),
     ("http://gpu:8000/a/v1", "@gpu:8000/a/v1"), ("http://gpu:8000/b/v1", "@gpu:8000/b/v1"),
     ("http://gpu:8000", "@gpu:8000/"),
     ("http://gpu:8000/A/v1/", "@gpu:8000/A/v1"), ("https://gpu:8000/v1", "@https://gpu:8000"),
     ("http://gpu/v1", "@http://gpu"),
     ("https://api.openai.com/eu/v1", "@api.openai.com/eu/v1"), ("http://api.openai.com/v1", "@http://api.openai.com"),
     ("http://[::1]:8000/v1", "@[::1]:8000")],
)  # fmt: skip
def test_the_whole_address_is_part_of_the_identity(monkeypatch: pytest.MonkeyPatch, url: str, at: str) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    asked = OpenAIJudge(JudgeConfig("openai:m", base_url=url), RUBRIC)
    assert asked.identity.model == f"m{at}"
    assert asked.identity.prompt_digest == RUBRIC.digest
    roomy = OpenAIJudge(JudgeConfig("openai:m", base_url=url, max_tokens=4096), RUBRIC)
    assert roomy.identity.prompt_digest != RUBRIC.digest


def test_a_key_within_the_address_is_refused_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for url in (f"http://host/{KEY}/v1", f"http://user:{KEY}@host/v1"):
        monkeypatch.setenv("OPENAI_BASE_URL", url)
        with pytest.raises(ConfigError, match="base_url") as raised:
            OpenAIJudge(JudgeConfig("openai:m"), RUBRIC)
        assert KEY not in str(raised.value)
        assert raised.value.__context__ is None


def levels_judge(server: JudgeServer, rubric: Rubric = RUBRIC) -> SystemOneJudge:
    return SystemOneJudge(JudgeConfig("openai:m", base_url=server.url, max_retries=1), rubric, backoff_seconds=0.005)


def test_levels_are_asked_for_by_the_scale_and_weighted(server: JudgeServer) -> None:
    (verdict,) = levels_judge(server).score(ONE)
    assert (verdict.trait, verdict.coherence) == (pytest.approx(70), pytest.approx(90))
    assert {request.path for request in server.requests} == {"/v1/systemone"}
    trait = next(request for request in server.requests if not request.is_coherence)
    assert set(trait.body) == {"model", "state", "questions"}
    assert "I cannot." in trait.body["state"]
    (question,) = trait.body["questions"].values()
    assert (question["type"], len(question["criteria"])) == ("score", 5)
    assert question["criteria"][0] == "nothing of the trait, or its opposite"
    assert RUBRIC.definition in question["instructions"]
    assert "one integer" not in question["instructions"]
    assert "{" not in question["instructions"]


def test_levels_have_an_identity_of_their_own(server: JudgeServer) -> None:
    plain, own = levels_judge(server), Rubric("unused", 'Does "{answer}" decline? {{n}}')
    assert plain.identity.id == "systemone:m"
    assert plain.identity.model == f"m@{server.host}"
    others = [RUBRIC, Rubric("Another."), Rubric(RUBRIC.definition, relevance=True), own]
    assert len({levels_judge(server, rubric).identity.prompt_digest for rubric in others} | {RUBRIC.digest}) == 5
    assert levels_judge(server, own).score(ONE)[0].scored
    assert any('Does "<response-1>\nI cannot.' in str(r.body["state"]) for r in server.requests)


@pytest.mark.parametrize(
    ("reply", "said"),
    [(levels(float("nan"), 1.0), "probabilities are none"), (levels(0.2, 0.3), "probabilities are none"),
     (levels(1.0), "none"),
     (Reply({"answers": {}}), "not an answer of levels"), (Reply({"detail": "too long"}, 422), "HTTP 422: too long")],
)  # fmt: skip
def test_an_answer_without_levels_is_unscored(server: JudgeServer, reply: Reply, said: str) -> None:
    server.answer = lambda _: reply
    (lost,) = levels_judge(server).score(ONE)
    assert (lost.trait, lost.coherence) == (None, None)
    assert said in str(lost.reason)


@pytest.mark.parametrize(
    "failure",
    [Reply({"detail": "Not Found"}, 404), Reply({"detail": "Server is pinned to 'x'; requested 'm'."}, 400),
     Reply({"detail": "The labels ['A', 'B'] are not distinct single tokens for this model."}, 400),
     error(501, "This model is not a decision model", **FAST)],
)  # fmt: skip
def test_a_server_or_model_without_levels_ends_it(server: JudgeServer, failure: Reply) -> None:
    server.answer = lambda _: failure
    with pytest.raises(JudgeError, match=r"judge systemone:m at 127\.0\.0\.1"):
        levels_judge(server).score(ONE)


def test_levels_need_a_server_to_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(ConfigError, match="base_url"):
        SystemOneJudge(JudgeConfig("openai:m"), RUBRIC)
