"""A chat completions server on loopback that answers, or fails, as a test tells it to."""

import hashlib
import json
import math
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

import pytest


@dataclass(frozen=True)
class Request:
    """What the server was asked."""

    path: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]

    @property
    def prompt(self) -> str:
        if self.path.endswith("/systemone"):
            return str(self.body["questions"]["score"]["instructions"])
        return str(self.body["messages"][0]["content"])

    @property
    def is_coherence(self) -> bool:
        return "How coherent is the response?" in self.prompt


@dataclass(frozen=True)
class Reply:
    """What the server sends back."""

    body: Any = None
    """Sent as JSON; bytes as they are."""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_seconds: float = 0.0
    is_dropped: bool = False
    """The connection is closed without an answer."""
    is_reset: bool = False
    """The connection is reset within the answer."""
    n_missing: int = 0
    """Bytes of the body that are announced and never sent."""


def completion(
    text: str | None, top: Mapping[str, float] | None = None, *, lead: Sequence[str] = (), finish: str = "stop"
) -> Reply:
    """A chat completion; `top` maps tokens to probabilities, after the tokens of `lead`."""
    choice: dict[str, Any] = {"index": 0, "finish_reason": finish, "message": {"role": "assistant"}}
    choice["message"]["content"] = text
    if top is not None:
        tokens = [{"token": t, "logprob": math.log(p) if p else -9999.0} for t, p in top.items()]
        blank = [{"token": t, "logprob": 0.0, "top_logprobs": []} for t in lead]
        choice["logprobs"] = {"content": [*blank, {**tokens[0], "top_logprobs": tokens}]}
    usage = {"prompt_tokens": 100, "completion_tokens": 2, "total_tokens": 102}
    return Reply({"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage})


def error(status: int, message: str, *, code: str | None = None, **headers: str) -> Reply:
    """An error as OpenAI sends it; `retry_after` becomes the header `retry-after`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply({"error": {"message": message, "type": "error", "code": code}}, status, named)


def levels(*probabilities: float) -> Reply:
    """An answer of `transformers serve` to a question of levels."""
    named = {str(n): p for n, p in enumerate(probabilities)}
    score = sum(n * p for n, p in enumerate(probabilities))
    answer = {"type": "score", "score": score, "legend": {}, "confidence": 0.5, "probabilities": named}
    usage = {"input_tokens": 100, "output_tokens": 0}
    return Reply({"model": "m", "answers": {"score": answer}, "usage": usage})


def score_70_and_90(request: Request) -> Reply:
    """A judge of fixed opinions: 70 for the trait, by probability, and 90 for coherence."""
    if request.path.endswith("/systemone"):
        return levels(0, 0, 0, 0.4, 0.6) if request.is_coherence else levels(0, 0.1, 0.3, 0.3, 0.3)
    if request.is_coherence:
        return completion("90", {"90": 1.0})
    return completion("80", {"80": 0.5, " 80": 0.25, "40": 0.25})


class JudgeServer:
    """`first` replies are sent in order, then `answer` decides. Counts what is under way at once."""

    def __init__(self) -> None:
        self.answer: Callable[[Request], Reply] = score_70_and_90
        self.first: deque[Reply] = deque()
        self.requests: list[Request] = []
        self.arrivals: list[float] = []
        self.peak = 0
        self._under_way = 0
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://{self.host}/v1"

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def reply(self, request: Request) -> Reply:
        with self._lock:
            self.requests.append(request)
            self.arrivals.append(time.monotonic())
            self._under_way += 1
            self.peak = max(self.peak, self._under_way)
            scripted = self.first.popleft() if self.first else None
        try:
            reply = scripted or self.answer(request)
            time.sleep(reply.delay_seconds)
            return reply
        finally:
            with self._lock:
                self._under_way -= 1

    def _handler(outer) -> type[BaseHTTPRequestHandler]:  # noqa: N805 - `self` is the handler's, below
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                reply = outer.reply(Request(self.path, dict(self.headers), body))
                if reply.is_dropped:
                    self.close_connection = True
                    return
                data = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
                headers = {"content-type": "application/json", **reply.headers}
                try:
                    self.send_response(reply.status)
                    for name, value in {**headers, "content-length": str(len(data))}.items():
                        self.send_header(name, value)
                    self.end_headers()
                    if reply.is_reset:
                        self.wfile.write(data[: len(data) // 2])
                        self.wfile.flush()
                        # closed with something unsent to say: the other side is told of a reset
                        option = struct.pack("ii", 1, 0)
                        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, option)
                        self.connection.close()
                        self.close_connection = True
                        return
                    self.wfile.write(data[: len(data) - reply.n_missing])
                    if reply.n_missing:
                        self.close_connection = True
                except ConnectionError:  # the client had waited long enough
                    self.close_connection = True

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its base has it
                """Silent."""

        return Handler


JUDGE = "openai:second"


def score_by_text(request: Request) -> Reply:
    """A judge whose scores follow from the text alone, all of them coherent."""
    number = int(hashlib.sha256(request.prompt.encode()).hexdigest(), 16)
    score = str(90 if request.is_coherence else 10 + number % 90)
    return completion(score, {score: 1.0})


@contextmanager
def judge_by_text(patched: pytest.MonkeyPatch) -> Iterator[JudgeServer]:
    """The server behind the judge `JUDGE`, which scores by the text alone."""
    with JudgeServer() as server:
        server.answer = score_by_text
        patched.setenv("OPENAI_BASE_URL", server.url)
        patched.setenv("OPENAI_API_KEY", "none")
        yield server
