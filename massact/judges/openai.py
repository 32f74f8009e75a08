"""A judge behind any server that speaks OpenAI's chat completions: OpenAI itself, vLLM, llama.cpp, a proxy.

Needs the extra `massact[openai]`. The key is read from the environment and goes to the client alone: it
is in no identity, message, log record or repr."""

import asyncio
import importlib
import logging
import os
import re
import threading
from collections import Counter
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

from massact.config import JudgeConfig
from massact.domain import JudgeIdentity
from massact.errors import ConfigError, JudgeError
from massact.json_text import parse_json
from massact.judges import Exchange, Subject, Usage, Verdict
from massact.judges.reading import TOP_LOGPROBS, Reading, read_completion
from massact.judges.rubric import Rubric
from massact.keys import digest

if TYPE_CHECKING:
    import openai

DEFAULT_BASE_URL = "https://api.openai.com/v1"

MAX_TOKENS = 10  # room for an integer that is written a digit a token, or as `Score: 85/100`
_NO_MODEL = "no such model, or no such endpoint at this address: check the model's name and base_url"
_HINTS: dict[int | str, str] = {
    401: "it refuses the key: check that {env} holds a valid key for this server",
    402: "the account has no credit: check its billing",
    403: "the key may not use this model: check the rights of the key in {env}",
    404: _NO_MODEL,
    "model_not_found": _NO_MODEL,
    "insufficient_quota": "the account's quota is used up: check its billing",
    "unsupported_parameter": "name a model that takes temperature 0 and max_tokens or max_completion_tokens",
    "unsupported_value": "name a model that takes temperature 0 and max_tokens or max_completion_tokens",
}
"""By HTTP status or error code: failures that no other response would escape."""
_LASTING = (
    (
        re.compile(
            r"\b(?:unknown|invalid|no such|unsupported|(?:could|can)(?:no|n')t find)\b.{0,30}\bmodel|pinned to|"
            r"\bmodel\b(?!'s).{0,200}\b(?:not (?:be )?(?:found|available|loaded|served|a valid|known)|"
            r"(?:does not|doesn't) exist|unknown)",
            re.IGNORECASE | re.DOTALL,
        ),
        _NO_MODEL,
    ),
    (
        re.compile("distinct single tokens|not a decision model", re.IGNORECASE),
        "this model cannot be asked for levels: use the judge openai:MODEL",
    ),
)
"""By a server's words in an HTTP status 400, 422 or 501: likewise."""
_SECRET_LENGTH = 12  # a shorter key is a placeholder such as `local`
_COUNT = re.compile(r"(?<![\w.-])[0-9]+(?![\w-]|\.[0-9])")

_log = logging.getLogger(__name__)


class OpenAIJudge:
    """Scores trait and coherence with one prompt each; `massact.judges.reading` says how an answer is read. Raises
    ConfigError: the `openai` package or the key is missing, or the base URL is none."""

    _expects = "a chat completion"
    _completion = staticmethod(read_completion)

    def __init__(self, config: JudgeConfig, rubric: Rubric, *, backoff_seconds: float = 0.5) -> None:
        """Reads the key from the environment; nothing is sent yet. Without `base_url` in its config it is
        `OPENAI_BASE_URL` of the environment, or else OpenAI's own. A malformed answer is asked for again after
        `backoff_seconds`, doubled each time, 8 at most; all else the client retries at its own pace."""
        try:
            self._openai = importlib.import_module("openai")
        except ImportError as err:
            raise ConfigError("judge openai:MODEL lacks a package: pip install 'massact[openai]'") from err
        self._config, self._rubric, self._backoff = config, rubric, backoff_seconds
        self._max_tokens = config.max_tokens or MAX_TOKENS
        self._base_url = config.base_url or os.environ.get("OPENAI_BASE_URL") or DEFAULT_BASE_URL
        self._host = _split(self._base_url).netloc.lower()
        self._key = _read_key(config.api_key_env, self._host)
        if len(self._key) >= _SECRET_LENGTH and self._key in self._base_url:
            raise ConfigError(f"the judge's base_url holds the key of {config.api_key_env}: leave it out there")
        self._n_top = TOP_LOGPROBS
        self._limit = "max_tokens"
        self._has_said: set[str] = set()
        self._spent: Counter[str] = Counter()
        self._spent_lock = threading.Lock()

    @classmethod
    def of(cls, config: JudgeConfig, subject: Subject) -> "OpenAIJudge":
        """See `massact.judges.open_judge`."""
        return cls(config, Rubric.of(config, subject))

    def __repr__(self) -> str:
        return f"OpenAIJudge({self.identity.model!r})"

    @property
    def identity(self) -> JudgeIdentity:
        """Who judges; the server's address is part of it where it is not OpenAI's own."""
        asked = self._rubric.digest
        if self._max_tokens != MAX_TOKENS:
            asked = digest({"rubric": asked, "max_tokens": self._max_tokens})
        model = self._config.model
        return JudgeIdentity(f"openai:{model}", model + address_in_identity(self._base_url), asked)

    @property
    def usage(self) -> Usage:
        return Usage(**self._spent)

    def prepare(self) -> None:
        """Nothing is loaded here."""

    def score(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
        """One verdict per exchange, in order; equal prompts are asked once. JudgeError: no response can be scored."""
        asked = [self._prompts(exchange) for exchange in exchanges]
        prompts = list(dict.fromkeys(prompt for several in asked for prompt in several))
        readings = _run(self._ask_all(prompts)) if prompts else {}
        verdicts = (self._rubric.verdict([readings[prompt] for prompt in several]) for several in asked)
        return [
            verdict if verdict.reason is None else replace(verdict, reason=self._redact(verdict.reason))
            for verdict in verdicts
        ]

    async def _ask_all(self, prompts: Sequence[str]) -> dict[str, Reading]:
        slots = asyncio.Semaphore(self._config.concurrency)
        async with self._openai.AsyncOpenAI(
            api_key=self._key, base_url=self._base_url, timeout=self._config.timeout_seconds
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
        n_retries, bound = 0, self._config.max_retries
        while True:
            failure: Exception | None = None
            options = self._options()
            try:
                response = await self._send(client.with_options(max_retries=bound - n_retries), prompt, options)
            except self._openai.OpenAIError as err:
                failure = err
            if failure is not None:
                # outside `except`: no error of ours chains this one, it may quote the key
                self._adapt(failure, options)
                if self._options() == options:
                    return self._give_up(failure)
                continue
            try:
                return self._read(response.content)
            except ValueError as err:
                n_retries += response.retries_taken + 1
                if n_retries > bound:
                    return Reading(None, f"{err} (after {bound} retries)")
            await asyncio.sleep(min(self._backoff * 2 ** (n_retries - 1), 8))

    def _prompts(self, exchange: Exchange) -> tuple[str, ...]:
        """What is asked about an exchange, a request each."""
        return self._rubric.prompts(exchange)

    def _options(self) -> dict[str, Any]:
        """What a request asks for beside its prompt, as far as the server is known to take it."""
        logprobs = {"logprobs": True, "top_logprobs": self._n_top} if self._n_top else {}
        return {self._limit: self._max_tokens, **logprobs}

    async def _send(self, client: "openai.AsyncOpenAI", prompt: str, options: dict[str, Any]) -> Any:
        """The raw response to a prompt."""
        return await client.chat.completions.with_raw_response.create(
            model=self._config.model, messages=[{"role": "user", "content": prompt}], temperature=0, **options
        )

    def _adapt(self, err: Exception, options: dict[str, Any]) -> None:
        """Ask from now on for what the server says that it takes."""
        message = _message(err).lower()
        if getattr(err, "status_code", None) not in (400, 403, 422):
            return
        asked = options.get("top_logprobs", 0)
        if asked and ("logprobs" in message or "top_n_tokens" in message):
            allowed = [n for n in map(int, _COUNT.findall(message)) if 1 <= n < asked]
            self._n_top = min(self._n_top, max(allowed, default=0))
            if self._n_top:
                self._say(f"gives {self._n_top} probabilities of the {TOP_LOGPROBS} asked for: scores are coarser")
        elif "max_completion_tokens" in message and "too large" not in message:
            self._limit = "max_completion_tokens"

    def _say(self, what: str) -> None:
        """Warn of something about the server, once."""
        if what not in self._has_said:
            self._has_said.add(what)
            _log.warning("%s %s", self._host, what)

    def _read(self, body: bytes) -> Reading:
        self._spend(calls=1)
        try:
            answer = self._completion(parse_json(body, allow_nan=True))
        except ValueError:
            excerpt = self._redact(body.decode(errors="replace"))[:60]
            raise ValueError(f"not {self._expects}: {excerpt!r}") from None
        self._spend(prompt_tokens=answer.prompt_tokens, completion_tokens=answer.completion_tokens)
        if answer.coarse:
            self._say(f"{answer.coarse}: a score is the integer it writes, so coarser")
        return answer.reading

    def _spend(self, **counts: int) -> None:
        with self._spent_lock:  # cells may be judged in several threads
            self._spent.update(counts)

    def _give_up(self, err: Exception) -> Reading:
        """The reason why one prompt has no score."""
        status: int | None = getattr(err, "status_code", None)
        message = self._redact(" ".join(_message(err).split()))[:300]
        hint = _HINTS.get(status or 0) or _HINTS.get(getattr(err, "code", None) or "")
        if status in (400, 422, 501):
            hint = hint or next((what for words, what in _LASTING if words.search(message)), None)
        if hint:
            hint = hint.format(env=self._config.api_key_env)
            said = "" if status == 401 else f"; it says: {message}"  # a 401 may quote part of the key
            raise JudgeError(f"judge {self.identity.id} at {self._host}: {hint}{said}")
        retried = f" (after up to {self._config.max_retries} retries)"
        if isinstance(err, self._openai.APITimeoutError):
            return Reading(None, f"no answer within {self._config.timeout_seconds:g} s{retried}")
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
    return _words(getattr(err, "body", None)) or str(err)


def _words(body: Any) -> str:
    """The words of an error as servers write it: OpenAI's object, a string, or FastAPI's `detail`."""
    if isinstance(body, list):
        return "; ".join(filter(None, map(_words, body)))
    if not isinstance(body, dict):
        return str(body or "")
    said = next((words for name in ("message", "msg", "detail", "error") if (words := _words(body.get(name)))), "")
    return f"{'.'.join(map(str, body['loc']))}: {said}" if said and isinstance(body.get("loc"), list) else said


def _split(base_url: str) -> SplitResult:
    """The parts of a base URL."""
    try:
        parts = urlsplit(base_url)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_address = False
    if not is_address or "@" in parts.netloc or "?" in base_url or "#" in base_url or re.search(r"\s", base_url):
        example = "http://localhost:8000/v1, without user, password or query"
        raise ConfigError(f"the judge's base_url must be an address such as {example}") from None
    return parts


def address_in_identity(base_url: str) -> str:
    """The whole address as a part of an identity; empty for OpenAI's own. What most addresses share is left out: the
    path `/v1`, and the scheme where it is https without a port or http with one."""
    parts = _split(base_url)
    standard = 443 if parts.scheme == "https" else 80
    port = parts.port if parts.port != standard else None
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else str(parts.hostname)
    place = host if port is None else f"{host}:{port}"
    path = parts.path.rstrip("/")
    address = place + ("" if path == "/v1" else path or "/")
    if (parts.scheme == "https") != (port is None):
        address = f"{parts.scheme}://{address}"
    return "" if address == "api.openai.com" else f"@{address}"


def _read_key(variable: str, host: str) -> str:
    """The key from the environment; a message names the variable, never the value."""
    key = os.environ.get(variable, "").strip()
    if not key:
        wanted = f"the key for {host} (any text where the server asks for none)"
        raise ConfigError(f"the environment variable {variable} is not set: it must hold {wanted}")
    if not re.fullmatch(r"[!-~]+", key):
        raise ConfigError(f"the environment variable {variable} holds a character that no key has")
    return key
