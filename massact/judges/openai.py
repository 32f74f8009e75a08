"""A judge behind any server that speaks OpenAI's chat completions: OpenAI itself, vLLM, llama.cpp, a proxy.

Needs the extra `massact[openai]`. The key is read from the environment and goes to the client alone: it
is in no identity, message, log record or repr.
"""

import asyncio
import importlib
import logging
import math
import os
import re
import threading
from collections import Counter
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from massact.domain import JudgeIdentity
from massact.errors import ConfigError, JudgeError
from massact.json_text import parse_json
from massact.judges.base import Exchange, Verdict
from massact.judges.reading import TOP_LOGPROBS, Reading, read_completion
from massact.judges.rubric import Rubric
from massact.judges.usage import Usage

if TYPE_CHECKING:
    import openai

DEFAULT_BASE_URL = "https://api.openai.com/v1"

_MAX_TOKENS = 8
"""Room for an integer that is written a digit a token, or as `Score: 85`."""
_LOGPROBS: dict[str, Any] = {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
_HINTS: dict[int | str, str] = {
    401: "it refuses the key: check that {env} holds a valid key for this server",
    402: "the account has no credit: check its billing",
    403: "the key may not use this model: check the rights of the key in {env}",
    404: "no such model, or no chat completions at this address: check the model's name and base_url",
    "insufficient_quota": "the account's quota is used up: check its billing",
    "unsupported_parameter": "name a model that takes temperature 0 and max_tokens",
    "unsupported_value": "name a model that takes temperature 0 and max_tokens",
}
"""By HTTP status or error code: failures that no other response would escape."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OpenAISettings:
    """How the judging model is reached.

    Raises:
        ConfigError: a setting that cannot work.
    """

    model: str
    """The model as the server names it, such as `gpt-4.1-mini`."""
    base_url: str | None = None
    """Up to and with `/v1`; `None` is `OPENAI_BASE_URL` of the environment, or else OpenAI's own."""
    api_key_env: str = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key."""
    concurrency: int = 16
    """Most requests that one call of `score` has under way at once."""
    timeout_seconds: float = 60
    """How long the server may stay silent before a request is tried again."""
    max_retries: int = 6
    """Most further attempts at one request, whatever made the earlier ones fail."""

    def __post_init__(self) -> None:
        if not self.model.strip():
            raise ConfigError("the judge openai: names no model; write one, such as openai:gpt-4.1-mini")
        if self.base_url is not None:
            _host(self.base_url)
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.api_key_env):
            # The value is not shown: it may be the key itself, put here by mistake.
            raise ConfigError("api_key_env must be the name of an environment variable, not the key itself")
        if self.concurrency < 1 or self.max_retries < 0 or not 0 < self.timeout_seconds < math.inf:
            raise ConfigError(
                f"{self}: concurrency is 1 or more, max_retries 0 or more, the timeout above 0 s"
            )


class OpenAIJudge:
    """Scores trait and coherence with one prompt each; `massact.judges.reading` says how an answer is read.

    Raises:
        ConfigError: the `openai` package or the key is missing, or the base URL is none.
    """

    def __init__(self, settings: OpenAISettings, rubric: Rubric, *, backoff_seconds: float = 0.5) -> None:
        """Reads the key from the environment; nothing is sent yet.

        Args:
            settings: How the model is reached.
            rubric: What it is asked.
            backoff_seconds: Wait before a malformed answer is asked for again, doubled each time, 8 at
                most. All else is retried by the client at its own pace, or at the server's Retry-After.
        """
        try:
            self._openai = importlib.import_module("openai")
        except ImportError as err:
            raise ConfigError("judge openai:MODEL lacks a package: pip install 'massact[openai]'") from err
        self._settings = settings
        self._rubric = rubric
        self._backoff = backoff_seconds
        self._base_url = settings.base_url or os.environ.get("OPENAI_BASE_URL") or DEFAULT_BASE_URL
        self._host = _host(self._base_url)
        self._key = _read_key(settings.api_key_env, self._host)
        self._asks_logprobs = True
        self._has_warned = False
        self._spent: Counter[str] = Counter()
        self._spent_lock = threading.Lock()

    def __repr__(self) -> str:
        return f"OpenAIJudge({self.identity.model!r})"

    @property
    def identity(self) -> JudgeIdentity:
        """Who judges; the server's host is part of it where it is not OpenAI's own."""
        model = self._settings.model
        at_host = "" if self._host == _host(DEFAULT_BASE_URL) else f"@{self._host}"
        return JudgeIdentity(id=f"openai:{model}", model=model + at_host, prompt_digest=self._rubric.digest)

    @property
    def usage(self) -> Usage:
        """Tokens and calls since the judge was built."""
        return Usage(**self._spent)

    def prepare(self) -> None:
        """Nothing is loaded here."""

    def score(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
        """One verdict per exchange, in order; equal prompts of one call are asked once.

        Raises:
            JudgeError: the server refuses the key or the model, so that no response can be scored.
        """
        asked = [self._rubric.prompts(exchange) for exchange in exchanges]
        prompts = list(dict.fromkeys(prompt for one in asked for prompt in one))
        readings = _run(self._ask_all(prompts)) if prompts else {}
        verdicts = (self._rubric.verdict([readings[prompt] for prompt in one]) for one in asked)
        return [
            one if one.reason is None else replace(one, reason=self._redact(one.reason)) for one in verdicts
        ]

    async def _ask_all(self, prompts: Sequence[str]) -> dict[str, Reading]:
        slots = asyncio.Semaphore(self._settings.concurrency)
        async with self._openai.AsyncOpenAI(
            api_key=self._key, base_url=self._base_url, timeout=self._settings.timeout_seconds
        ) as client:

            async def ask(prompt: str) -> Reading:
                async with slots:
                    return await self._ask(client, prompt)

            tasks = [asyncio.ensure_future(ask(prompt)) for prompt in prompts]
            try:
                return dict(zip(prompts, await asyncio.gather(*tasks), strict=True))
            finally:  # after a JudgeError or an interrupt the rest is not worth waiting for
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, client: "openai.AsyncOpenAI", prompt: str) -> Reading:
        """One prompt's score. `max_retries` bounds the client's attempts and those made here together."""
        n_retries, bound = 0, self._settings.max_retries
        while True:
            failure: Exception | None = None
            logprobs = _LOGPROBS if self._asks_logprobs else {}
            completions = client.with_options(max_retries=bound - n_retries).chat.completions
            try:
                response = await completions.with_raw_response.create(
                    model=self._settings.model,
                    messages=[{"role": "user", "content": prompt}],
                    temperature=0,
                    max_tokens=_MAX_TOKENS,
                    **logprobs,
                )
            except self._openai.OpenAIError as err:
                failure = err
            if (
                failure is not None
            ):  # outside `except`: no error of ours chains this one, it may quote the key
                if not (logprobs and _refuses_logprobs(failure)):
                    return self._give_up(failure)
                self._asks_logprobs = False
                continue
            try:
                return self._read(response.content)
            except ValueError as err:
                n_retries += response.retries_taken + 1
                if n_retries > bound:
                    return Reading(None, f"{err} (after {bound} retries)")
            await asyncio.sleep(min(self._backoff * 2 ** (n_retries - 1), 8))

    def _read(self, body: bytes) -> Reading:
        """Count an answer and read its score.

        Raises:
            ValueError: it is not a chat completion.
        """
        self._spend(calls=1)
        try:
            answer = read_completion(parse_json(body))
        except ValueError:
            excerpt = self._redact(body.decode(errors="replace"))[:60]
            raise ValueError(f"not a chat completion: {excerpt!r}") from None
        self._spend(prompt_tokens=answer.prompt_tokens, completion_tokens=answer.completion_tokens)
        if not answer.has_logprobs and not self._has_warned:
            self._has_warned = True
            _log.warning("%s gives no logprobs: a score is the integer it writes, so coarser", self._host)
        return answer.reading

    def _spend(self, **counts: int) -> None:
        with self._spent_lock:  # cells may be judged in several threads
            self._spent.update(counts)

    def _give_up(self, err: Exception) -> Reading:
        """The reason why one prompt has no score.

        Raises:
            JudgeError: no prompt will ever have one.
        """
        status: int | None = getattr(err, "status_code", None)
        message = self._redact(" ".join(_message(err).split()))[:300]
        hint = _HINTS.get(status or 0) or _HINTS.get(getattr(err, "code", None) or "")
        if hint:
            hint = hint.format(env=self._settings.api_key_env)
            said = "" if status == 401 else f"; it says: {message}"  # a 401 may quote part of the key
            raise JudgeError(f"judge openai:{self._settings.model} at {self._host}: {hint}{said}")
        retried = f" (after up to {self._settings.max_retries} retries)"
        if isinstance(err, self._openai.APITimeoutError):
            return Reading(None, f"no answer within {self._settings.timeout_seconds:g} s{retried}")
        if status is None:
            return Reading(None, f"no connection to {self._host}{retried}")
        return Reading(None, f"HTTP {status}: {message}{retried if status >= 500 or status == 429 else ''}")

    def _redact(self, text: str) -> str:
        """The text without the key; three characters or fewer are a placeholder, no secret."""
        return text.replace(self._key, "***") if len(self._key) > 3 else text


def _run(work: Coroutine[Any, Any, dict[str, Reading]]) -> dict[str, Reading]:
    """Run to the end, in a thread of its own where the caller has a running loop, as a notebook has."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        has_loop = False
    else:
        has_loop = True
    if not has_loop:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


def _message(err: Exception) -> str:
    """The server's own words where it gave some."""
    body = getattr(err, "body", None)
    return str(body.get("message") or err) if isinstance(body, dict) else str(err)


def _refuses_logprobs(err: Exception) -> bool:
    return getattr(err, "status_code", None) in (400, 403, 422) and "logprobs" in _message(err).lower()


def _host(base_url: str) -> str:
    """Host and port of a base URL.

    Raises:
        ConfigError: it is none, or it holds more than an address (it is part of messages and logs).
    """
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.query:
        example = "http://localhost:8000/v1, without user, password or query"
        raise ConfigError(f"the judge's base_url must be an address such as {example}")
    return parts.netloc.lower()


def _read_key(variable: str, host: str) -> str:
    """The key from the environment; a message names the variable, never the value."""
    key = os.environ.get(variable, "").strip()
    if not key:
        wanted = f"the key for {host} (any text where the server asks for none)"
        raise ConfigError(f"the environment variable {variable} is not set: it must hold {wanted}")
    if not re.fullmatch(r"[!-~]+", key):
        raise ConfigError(f"the environment variable {variable} holds a character that no key has")
    return key
