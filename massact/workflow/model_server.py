"""A model and what a store steers it by behind the API of OpenAI: chats, texts, streams; all askers in one batch."""

import asyncio
import json
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from massact.addresses import LOCAL, http_address
from massact.domain import Conversation
from massact.errors import MassactError, UsageError
from massact.json_text import parse_json
from massact.models.batching import Ask, Batcher
from massact.models.prompting import Intervention, Row, encode_chat, encode_text, read_response
from massact.store.databases import address_told
from massact.workflow.steered import Stored

DEFAULT_PORT = 8080
_LOOPBACK = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:[0-9]+)?"
"""Pages that may ask from a browser, such as the explorer; they need the key as well."""
_MOST_BODY, _MOST_PROMPTS, _MOST_STOPS, _MOST_SEED = 4_000_000, 128, 16, 2**40
_DEFAULT_TOKENS = 512
_LOOK_SECONDS = 1.0  # how often it is looked whether who asked is still there
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_NOT_HAD: Mapping[str, Sequence[object]] = {
    "n": (1,), "best_of": (1,), "top_p": (1,), "top_k": (), "min_p": (0,), "presence_penalty": (0,), "echo": (False,),
    "frequency_penalty": (0,), "repetition_penalty": (1,), "logprobs": (False,), "top_logprobs": (0,), "tools": ([],),
    "functions": ([],), "logit_bias": ({},), "response_format": ({"type": "text"},), "suffix": ("",),
}  # fmt: skip
"""What would change a response and cannot be had, with the values that change nothing."""


class ApiError(MassactError):
    """A refusal in the form of OpenAI's."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        kind = "server_error" if status >= 500 else "invalid_request_error"
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


@dataclass(frozen=True, slots=True)
class Wish:
    """What a request asks for besides its prompts."""

    model: str
    max_new_tokens: int
    temperature: float
    seed: int
    stops: tuple[str, ...]
    is_stream: bool
    has_usage: bool  # whether a stream ends with its number of tokens

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> "Wish":
        for name, harmless in _NOT_HAD.items():
            if body.get(name) is not None and body[name] not in harmless:
                raise ApiError(400, f"{name} is not supported: leave it out", param=name, code="unsupported_parameter")
        stops = body.get("stop") or []
        stops = [stops] if isinstance(stops, str) else stops
        if not isinstance(stops, list) or not all(isinstance(stop, str) and stop for stop in stops):
            raise ApiError(400, "stop has to be a text or a list of texts", param="stop")
        if len(stops) > _MOST_STOPS:
            raise ApiError(400, f"stop holds {len(stops)} texts: give {_MOST_STOPS} at most", param="stop")
        options = _typed(body, "stream_options", dict, {})
        most = "max_completion_tokens" if body.get("max_completion_tokens") is not None else "max_tokens"
        return cls(
            model=_typed(body, "model", str),
            max_new_tokens=int(_number(body, most, (1, 1_000_000), _DEFAULT_TOKENS, whole=True)),
            temperature=_number(body, "temperature", (0, 2), 1.0),
            seed=int(_number(body, "seed", (-_MOST_SEED, _MOST_SEED), secrets.randbelow(_MOST_SEED), whole=True)),
            stops=tuple(stops),
            is_stream=_typed(body, "stream", bool, False),
            has_usage=_typed(options, "include_usage", bool, False),
        )


def _typed(body: Mapping[str, Any], name: str, kind: type[Any], default: Any = None) -> Any:
    value = body.get(name)
    if value is None and default is not None:
        return default
    if not isinstance(value, kind):
        raise ApiError(400, f"{name} has to be of the type {kind.__name__}", param=name)
    return value


def _number(
    body: Mapping[str, Any], name: str, within: tuple[float, float], default: float, *, whole: bool = False
) -> float:
    value = body.get(name)
    if value is None:
        return default
    is_number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not is_number or not within[0] <= value <= within[1]:
        raise ApiError(400, f"{name} has to be a number of {within[0]:g} to {within[1]:g}", param=name)
    return float(value) if not whole else int(value)


def _messages(body: Mapping[str, Any]) -> Conversation:
    """What is said, the last of it by the user."""
    told = _typed(body, "messages", list)
    said = [
        (_ROLES.get(str(message.get("role")), ""), message.get("content"))
        for message in told
        if isinstance(message, dict)
    ]
    said = [(role, _text(content)) for role, content in said]
    roles = [role for role, _ in said]
    is_right = len(said) == len(told) and roles and all(roles) and roles[-1] == "user" and "system" not in roles[1:]
    if not is_right or None in [text for _, text in said]:
        raise ApiError(
            400, "messages has to be a list of objects with role (a system message may come first, then user and "
            "assistant, the user last) and content, a text", param="messages",
        )  # fmt: skip
    return Conversation((role, str(text)) for role, text in said)


def _text(content: object) -> str | None:
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, list) or not all(
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str) for part in parts
    ):
        return None
    return "".join(part["text"] for part in parts)


class Reply:
    """One response, as it comes."""

    def __init__(
        self, server: "ModelServer", prompt: tuple[int, ...], wish: Wish, intervention: Intervention | None
    ) -> None:
        self._server, self._wish = server, wish
        self.n_prompt, self._changed, loop = len(prompt), asyncio.Event(), asyncio.get_running_loop()

        def notify() -> None:
            loop.call_soon_threadsafe(self._changed.set)

        draw = wish.seed * 1_000_003  # as the engine has it of a seed
        self.ask = Ask(Row(prompt, intervention, draw), wish.max_new_tokens, wish.temperature, notify)

    def start(self) -> None:
        if not self._server.batcher.ask(self.ask):
            raise ApiError(429, "too many responses are being generated: ask again in a moment", code="busy")

    async def wait(self) -> bool:
        """Until it has grown, or a while; whether it is over."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), _LOOK_SECONDS)
        self._changed.clear()
        if isinstance(self.ask.error, MassactError):
            raise ApiError(400, str(self.ask.error))
        if self.ask.error is not None:
            raise ApiError(500, f"{type(self.ask.error).__name__}: {self.ask.error}")
        return self.ask.is_over or self._stop() is not None

    def read(self, *, is_chat: bool) -> tuple[str, str]:
        """Thought and answer so far, of which no more is told than will stay."""
        is_over, end = self.ask.is_over, self._stop()
        told = read_response(self._server.model, self.ask.said) if is_chat else (None, self._raw())
        thought, text = (part or "" for part in told)
        if end is not None and text.find(end) >= 0:
            return thought, text[: text.find(end)]
        if is_over:
            return thought, text
        text = text.rstrip("\ufffd")
        held = max(
            (n for stop in self._wish.stops for n in range(len(stop)) if n and text.endswith(stop[:n])), default=0
        )
        return thought.rstrip("\ufffd"), text[: len(text) - held]

    def _raw(self) -> str:
        return str(self._server.model.tokenizer.decode(list(self.ask.said), skip_special_tokens=True))

    def _stop(self) -> str | None:
        """The first of the texts that end it, once it is there; then nothing more is generated."""
        if not self._wish.stops:
            return None
        text = self._raw()
        found = min(((text.find(stop), stop) for stop in self._wish.stops if stop in text), default=None)
        if found is not None:
            self.ask.is_cancelled = True
        return None if found is None else found[1]

    @property
    def finish_reason(self) -> str:
        is_full = len(self.ask.said) >= self._wish.max_new_tokens and self._stop() is None
        return "length" if is_full else "stop"


class ModelServer:
    """What is served: a model, and what a store steers it by."""

    def __init__(self, stored: Stored, key: str, *, batch_rows: int | None = None) -> None:
        self.stored, self.model, self.key = stored, stored.model, key
        self.batcher = Batcher(stored.model, batch_rows=batch_rows)
        self._began = int(time.time())
        self._most_tokens = self.model.shape.max_positions

    def app(self) -> Starlette:
        @asynccontextmanager
        async def lifespan(_app: Starlette) -> AsyncIterator[None]:
            yield
            await asyncio.to_thread(self.batcher.close)

        routes = [
            Route("/health", lambda _request: Response("OK")),
            Route("/v1/models", self._guarded(self._models)),
            Route("/v1/models/{name:path}", self._guarded(self._model)),
            Route("/v1/chat/completions", self._guarded(self._chat), methods=["POST"]),
            Route("/v1/completions", self._guarded(self._complete), methods=["POST"]),
        ]
        cors = Middleware(
            CORSMiddleware, allow_origin_regex=_LOOPBACK, allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type"],
        )  # fmt: skip
        return Starlette(
            routes=routes, middleware=[cors], lifespan=lifespan, exception_handlers={HTTPException: _as_api_error}
        )

    def _guarded(self, answer: Callable[[Request], Any]) -> Callable[[Request], Any]:
        async def view(request: Request) -> Response:
            try:
                self._check_key(request)
                response: Response = await answer(request)
            except MassactError as error:
                refused = error if isinstance(error, ApiError) else ApiError(400, str(error))
                return JSONResponse(refused.body, refused.status)
            return response

        return view

    def _check_key(self, request: Request) -> None:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not secrets.compare_digest(key.strip().encode(), self.key.encode()):
            raise ApiError(401, "no such key: give the one that the server said", code="invalid_api_key")

    async def _models(self, _request: Request) -> Response:
        names = [self.stored.name, *await asyncio.to_thread(self.stored.bests)]
        return JSONResponse({"object": "list", "data": [self._told(name) for name in names]})

    async def _model(self, request: Request) -> Response:
        name = request.path_params["name"]
        await self._intervention(name)
        return JSONResponse(self._told(name))

    def _told(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._began, "owned_by": "massact"}

    async def _intervention(self, name: str) -> Intervention | None:
        try:
            found = await asyncio.to_thread(self.stored.find, name)
        except UsageError as error:
            raise ApiError(404, str(error), param="model", code="model_not_found") from error
        return found.intervention if found else None

    async def _body(self, request: Request) -> dict[str, Any]:
        data = bytearray()
        async for part in request.stream():
            data += part
            if len(data) > _MOST_BODY:
                raise ApiError(413, f"the body is larger than {_MOST_BODY} bytes")
        try:
            body = parse_json(bytes(data))
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise ApiError(400, "the body has to be a JSON object")
        return body

    async def _chat(self, request: Request) -> Response:
        body = await self._body(request)
        wish, conversation = Wish.of(body), _messages(body)
        return await self._respond(request, wish, [encode_chat(self.model, conversation)], is_chat=True)

    async def _complete(self, request: Request) -> Response:
        body = await self._body(request)
        wish, told = Wish.of(body), body.get("prompt")
        texts = [told] if isinstance(told, str) else told
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise ApiError(400, "prompt has to be a text or a list of texts", param="prompt")
        if len(texts) > (1 if wish.is_stream else _MOST_PROMPTS):
            raise ApiError(
                400, f"prompt holds {len(texts)} texts: {_MOST_PROMPTS} at most, of a stream 1", param="prompt"
            )
        return await self._respond(request, wish, [encode_text(self.model, text) for text in texts], is_chat=False)

    async def _respond(
        self, request: Request, wish: Wish, prompts: Sequence[tuple[int, ...]], *, is_chat: bool
    ) -> Response:
        longest = max(map(len, prompts)) + wish.max_new_tokens
        if not all(prompts):
            raise ApiError(400, "the prompt has no token: write something", param="prompt")
        if self._most_tokens and longest > self._most_tokens:
            raise ApiError(
                400, f"{longest} tokens, prompt and max_tokens together, and the model reads {self._most_tokens}",
                code="context_length_exceeded",
            )  # fmt: skip
        intervention = await self._intervention(wish.model)
        replies = [Reply(self, prompt, wish, intervention) for prompt in prompts]
        form = _Form(wish.model, is_chat)
        if wish.is_stream:
            replies[0].start()
            return StreamingResponse(_stream(replies[0], form, wish), media_type="text/event-stream")
        try:
            for reply in replies:
                reply.start()
            for reply in replies:
                while not await reply.wait():
                    if await request.is_disconnected():
                        return Response(status_code=499)
        finally:
            for reply in replies:
                reply.ask.is_cancelled = True
        return JSONResponse(form.whole(replies))


async def _stream(reply: Reply, form: "_Form", wish: Wish) -> AsyncIterator[str]:
    """Events; ended early it lets nobody wait for the rest."""
    told = ("", "")
    try:
        yield form.event(("", ""), is_first=True)
        is_over = False
        while not is_over:
            is_over = await reply.wait()
            now = reply.read(is_chat=form.is_chat)
            grown = (now[0][len(told[0]) :], now[1][len(told[1]) :])
            told = now
            if any(grown):
                yield form.event(grown)
        yield form.event(("", ""), finish=reply.finish_reason)
        if wish.has_usage:
            yield form.event(usage=form.usage([reply]))
        yield "data: [DONE]\n\n"
    except ApiError as error:
        yield f"data: {json.dumps(error.body)}\n\n"
    finally:
        reply.ask.is_cancelled = True


class _Form:
    """How responses are told."""

    def __init__(self, model: str, is_chat: bool) -> None:
        self.is_chat = is_chat
        self._head = {
            "id": f"{'chatcmpl' if is_chat else 'cmpl'}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, replies: Sequence[Reply]) -> dict[str, Any]:
        choices = []
        for index, reply in enumerate(replies):
            thought, text = reply.read(is_chat=self.is_chat)
            said: dict[str, Any] = {"text": text}
            if self.is_chat:
                said = {"message": {"role": "assistant", "content": text, **_thought(thought)}}
            choices.append({"index": index, **said, "logprobs": None, "finish_reason": reply.finish_reason})
        kind = "chat.completion" if self.is_chat else "text_completion"
        return {**self._head, "object": kind, "choices": choices, "usage": self.usage(replies)}

    def event(
        self,
        grown: tuple[str, str] | None = None,
        *,
        is_first: bool = False,
        finish: str | None = None,
        usage: Mapping[str, int] | None = None,
    ) -> str:
        choices = []
        if grown is not None:
            thought, text = grown
            said: dict[str, Any] = {"text": text}
            if self.is_chat:
                delta = {"content": text} if text or is_first else {}
                said = {"delta": {**({"role": "assistant"} if is_first else {}), **delta, **_thought(thought)}}
            choices = [{"index": 0, **said, "logprobs": None, "finish_reason": finish}]
        kind = "chat.completion.chunk" if self.is_chat else "text_completion"
        told = {**self._head, "object": kind, "choices": choices, **({"usage": usage} if usage else {})}
        return f"data: {json.dumps(told)}\n\n"

    def usage(self, replies: Sequence[Reply]) -> dict[str, int]:
        prompt, said = sum(reply.n_prompt for reply in replies), sum(len(reply.ask.said) for reply in replies)
        return {"prompt_tokens": prompt, "completion_tokens": said, "total_tokens": prompt + said}


def _thought(thought: str) -> dict[str, str]:
    """In the field that other servers of thinking models have for it."""
    return {"reasoning_content": thought} if thought else {}


def _as_api_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse(ApiError(error.status_code, f"{error.detail}: see docs/service.md").body, error.status_code)


def serve(server: ModelServer, host: str, port: int, say: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM; UsageError: the address cannot be listened on."""
    import uvicorn

    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        server.batcher.close()
        raise UsageError(f"cannot listen on {host}:{port}: {error.strerror}; give another --port or --host") from error
    port = listening.getsockname()[1]
    address = http_address(host, port)
    names = [server.stored.name, *server.stored.bests()]
    for line in (f"API:     {address}/v1", f"key:     {server.key}", f"models:  {names[0]} (unsteered)"):
        say(line)
    for name in names[1:]:
        say(f"         {name}")
    say("         each also as NAME@coefficient=24, @layer=3, or both; and the id of any evaluation's run")
    config = uvicorn.Config(server.app(), log_level="warning", timeout_graceful_shutdown=5)
    with address_told(server.stored.tracking_uri, http_address(LOCAL.get(host, host), port), "models"):
        uvicorn.Server(config).run(sockets=[listening])
