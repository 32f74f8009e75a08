"""A steered model as a model of lm-evaluation-harness: its tokens, batches and figures, our interventions.

Of a request the context is the prompt and the continuation is the response, so that tokens of a label, decay and gates
mean what they mean in a sweep. The first token of a response is chosen by the last of the prompt: with a continuation
of one token `response` steers nothing. A text that is scored whole is a response to the harness's prefix token.
Messages of a prompt in a vector's place stand before every context.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from itertools import takewhile
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM

from massact.domain import Message
from massact.errors import ModelError
from massact.models.blocks import steer
from massact.models.decode import edits_of, steered_of
from massact.models.gates import GateReader
from massact.models.load import SteerableModel
from massact.models.prompting import Intervention, Row

_Request = tuple[Any, list[int], list[int]]  # what the harness calls it, tokens of the context and of the continuation
Progress = Callable[[int], AbstractContextManager[Callable[[int], None]]]


class SteeredLM(HFLM):  # type: ignore[misc]  # the harness has no types
    """The harness's model of transformers, with the residual stream changed at each of its calls."""

    def __init__(
        self,
        model: SteerableModel,
        intervention: Intervention | None,
        *,
        before: Sequence[Message] = (),
        batch_size: int,
        progress: Progress = lambda _: nullcontext(lambda _n: None),
    ) -> None:
        """`intervention`: `None` leaves the model as it is. `before`: messages before every context: within the chat
        template, else their texts with blank lines between. `batch_size`: requests side by side. `progress`: of so many
        requests shows how many are answered."""
        super().__init__(
            pretrained=model.model,
            tokenizer=copy.deepcopy(model.tokenizer),  # which the harness gives a padding token
            batch_size=batch_size,
            chat_template_args=dict(model.chat.arguments),
        )
        self._steerable, self._one, self._gates = model, intervention, GateReader(model)
        self._progress: Progress = progress
        self._advance: Callable[[int], None] = lambda _n: None
        self._before, self._asked = before, dict[str, str]()  # by a chat's text the one with the messages before it
        self._prompts: dict[tuple[int, ...], int] = {}
        """Of each input of the requests at hand how many tokens are the prompt's."""
        self.has_steered = False  # whether the stream of any token was changed so far

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The text of a chat as the documents are told by; what the model reads has the messages before it."""

        def written(messages: list[dict[str, str]]) -> str:
            text: str = super(SteeredLM, self).apply_chat_template(messages, add_generation_prompt)
            return text

        text = written(chat_history)
        if self._before:
            every = [*({"role": role, "content": content} for role, content in self._before), *chat_history]
            system = "\n\n".join(message["content"] for message in every if message["role"] == "system")
            first, *turns = [message for message in every if message["role"] != "system"]
            whole = written([{"role": "system", "content": system}, first, *turns] if system else [first, *turns])
            if system not in whole:  # the template has no system role
                whole = written([{**first, "content": f"{system}\n\n{first['content']}"}, *turns])
            self._asked[text] = whole
        return text

    def loglikelihood(self, requests: Sequence[Any], *args: Any, **options: Any) -> list[tuple[float, bool]]:
        with self._telling(len(requests)):
            given: list[tuple[float, bool]] = super().loglikelihood(self._prompted(requests), *args, **options)
        return given

    def generate_until(self, requests: Sequence[Any], *args: Any, **options: Any) -> list[str]:
        with self._telling(len(requests)):
            said: list[str] = super().generate_until(self._prompted(requests), *args, **options)
        return said

    @contextmanager
    def _telling(self, n: int) -> Iterator[None]:
        """Tells how many of n requests are answered; those that were answered together with another one, at the end."""
        with self._progress(n) as tell:
            answered = [0]

            def advance(rows: int) -> None:
                answered.append(rows)
                tell(rows)

            self._advance = advance
            yield
            tell(n - sum(answered))

    def _prompted(self, requests: Sequence[Any]) -> list[Any]:
        """Requests with the messages before their contexts."""
        texts = [text for _, text in self._before]
        if not texts:
            return list(requests)
        contexts = (self._asked.get(request.args[0]) or "\n\n".join([*texts, request.args[0]]) for request in requests)
        changed = [copy.copy(request) for request in requests]
        for request, context in zip(changed, contexts, strict=True):
            request.arguments = (context, *request.args[1:])
        return changed

    def _loglikelihood_tokens(self, requests: Sequence[_Request], **options: Any) -> list[tuple[float, bool]]:
        """Of requests that are one text, cut in two places, the second comes later: the harness reads a text once, and
        (0.4.13) takes the marks of the shorter continuation at the wrong tokens."""
        answers: dict[int, tuple[float, bool]] = {}
        left = dict(enumerate(requests))
        while left:
            self._prompts, now = {}, list[int]()
            for number, (texts, context, continuation) in left.items():
                whole = (context + continuation)[-(self.max_length + 1) :]
                n_prompt = max(0, len(whole) - len(continuation) + self._n_moved(texts, context, continuation))
                if self._prompts.setdefault(tuple(whole[:-1]), n_prompt) == n_prompt:
                    now.append(number)
            given = super()._loglikelihood_tokens([left.pop(number) for number in now], **options)
            answers |= dict(zip(now, given, strict=True))
        return [answers[number] for number in range(len(requests))]

    def _n_moved(self, texts: tuple[str, str] | None, context: list[int], continuation: list[int]) -> int:
        """Tokens of white space at a context's end, such as a chat template's, that the harness counts to the
        continuation. `texts`: the request's; `None` of a text that is scored whole."""
        if not texts or texts[0] == texts[0].rstrip():
            return 0
        pairs = zip(self.tok_encode(texts[0])[len(context) :], continuation, strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))

    @property
    def _is_alike(self) -> bool:
        """Whether nothing hangs on where the prompt ends."""
        return self._one is None or (self._one.is_everywhere and self._one.gate is None)

    def _model_call(self, inps: torch.Tensor, attn_mask: Any = None, labels: Any = None) -> torch.Tensor:
        width, shares = inps.shape[1], None
        ends, prompts = zip(*map(self._cut, inps.tolist()), strict=True)
        rows = self._gates.opened([Row(prompt, self._one) for prompt in prompts])
        if not self._is_alike:
            steered = [[*row.steered(end), *[False] * (width - end)] for row, end in zip(rows, ends, strict=True)]
            shares = torch.tensor(steered, device=inps.device)
        with self._steered(rows, lambda _layer, _stream: shares):
            logits: torch.Tensor = super()._model_call(inps, attn_mask, labels)
        self._advance(len(rows))
        return logits

    def _cut(self, tokens: list[int]) -> tuple[int, tuple[int, ...]]:
        """Of an input, which is filled up with zeros on its right, its length and the prompt that it begins with."""
        end = len(tokens)
        while not self._is_alike and tuple(tokens[:end]) not in self._prompts:
            if not end or tokens[end - 1]:
                raise ModelError("the harness asks for tokens that are in none of its requests: use lm-eval 0.4.13")
            end -= 1
        return end, tuple(tokens[: self._prompts.get(tuple(tokens[:end]), 0)])

    def _model_generate(self, context: torch.Tensor, max_length: int, stop: list[str], **options: Any) -> torch.Tensor:
        if self._one is not None and (options.get("num_beams") or 1, options.get("num_return_sequences") or 1) != (
            1,
            1,
        ):
            raise ModelError("the task generates with beams, whose rows change places: they cannot be steered each")
        masks = options["attention_mask"].bool()
        prompts = (tuple(tokens[mask].tolist()) for tokens, mask in zip(context, masks, strict=True))
        rows = self._gates.opened([Row(prompt, self._one) for prompt in prompts])
        shares, read = steered_of(rows, context.shape[1], max_length, context.device), dict[int, int]()

        def at(layer: int, stream: torch.Tensor) -> torch.Tensor | None:
            """Of the tokens that are read now; each is read once, since keys are cached."""
            read[layer] = read.get(layer, 0) + stream.shape[1]
            return None if shares is None else shares[:, read[layer] - stream.shape[1] : read[layer]]

        with self._steered(rows, at):
            said: torch.Tensor = super()._model_generate(context, max_length, stop, **options)
        self._advance(len(rows))
        return said

    @contextmanager
    def _steered(self, rows: Sequence[Row], shares: Any) -> Iterator[None]:
        """Change the stream of a batch. `shares(layer, stream)`: as `Edit` takes them."""
        edits = edits_of(rows, self.device)

        def edit(layer: int, stream: torch.Tensor) -> torch.Tensor:
            share = shares(layer, stream)
            self.has_steered = self.has_steered or share is None or bool((share != 0).any())
            return edits[layer](stream, share)

        with steer(self._steerable.blocks, {layer: partial(edit, layer) for layer in edits}):
            yield
