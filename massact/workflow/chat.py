"""Talking with a steered model in a terminal, what it says unsteered beside it."""

import json
import shutil
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

from massact.domain import Conversation, Generation
from massact.errors import UsageError
from massact.models.generate import Generator
from massact.models.load import model_lock
from massact.models.prompting import Row, encode_chat, read_response
from massact.models.thinking import generate_thinking
from massact.names import shown, visible
from massact.store.read import open_source
from massact.store.write.artifacts import Mender
from massact.workflow.show import columns
from massact.workflow.steered import Steered, Stored

HELP = (
    "/coefficient 24, /layer 3, /label probe: steer so from now on · /save: keep this with the evaluation's run · "
    "/new: begin anew · /quit"
)
_FACTS = ("model", "trait", "position", "label", "layer")
_Turns = list[tuple[str, str]]


class Chat:
    """Two conversations with the same questions: one with the model as it is, one with it steered."""

    def __init__(self, stored: Stored, steered: Steered, settings: Generation, tracking_uri: str) -> None:
        self.steered, self._stored = steered, stored
        self._settings, self._uri = settings, tracking_uri
        self._generator = Generator(stored.model)
        self._said: tuple[_Turns, _Turns] = ([], [])
        self._kept: list[dict[str, Any]] = []

    def answer(self, line: str) -> str:
        """What is to be shown for a line: two columns, or what a command did. Raises UsageError: it cannot be done."""
        if not line.startswith("/"):
            return self._ask(line)
        name, _, value = line[1:].partition(" ")
        commands: dict[str, Callable[[str], str]] = {
            "coefficient": lambda text: self._steer(self.steered.at(_number(text))),
            "layer": lambda text: self._steer(self._stored.like(self.steered, layer=int(_number(text)))),
            "label": lambda text: self._steer(self._stored.like(self.steered, label=text)),
            "save": lambda _text: self.save(),
            "new": lambda _text: self._begin(),
            "help": lambda _text: HELP,
        }
        if name not in commands:
            raise UsageError(f"no command /{visible(name)}. {HELP}")
        return commands[name](value.strip())

    def _steer(self, steered: Steered) -> str:
        self.steered = steered
        return str(steered)

    def _begin(self) -> str:
        self._said = ([], [])
        return "begun anew"

    def _ask(self, question: str) -> str:
        model = self._stored.model
        asked: list[_Turns] = [[*turns, ("user", question)] for turns in self._said]
        interventions = (None, self.steered.intervention)
        rows = [
            Row(encode_chat(model, Conversation(turns)), one) for turns, one in zip(asked, interventions, strict=True)
        ]
        with model_lock(model.model):
            said = generate_thinking(model, self._generator, rows, self._settings)
        texts = [read_response(model, tokens)[1] or "" for tokens in said]
        self._said = tuple([*turns, ("assistant", text)] for turns, text in zip(asked, texts, strict=True))  # type: ignore[assignment]
        facts: dict[str, Any] = {name: getattr(self.steered.row, name) for name in _FACTS}
        facts |= {"coefficient": self.steered.intervention.coefficient, "settings": str(self._settings)}
        told = {"question": question, "unsteered": texts[0], "steered": texts[1], "run_id": self.steered.run_id}
        self._kept.append(told | facts)
        names = ("unsteered", str(self.steered))
        width = shutil.get_terminal_size((120, 24)).columns
        # without what a terminal would obey
        shown_texts = ["\n".join(map(visible, text.splitlines())) or "(nothing)" for text in texts]
        return "\n".join(columns([f"{n}\n{text}" for n, text in zip(names, shown_texts, strict=True)], width))

    def save(self) -> str:
        """Keep what was said as an artifact of the run of the evaluation that steers now."""
        if not self._kept:
            raise UsageError("nothing was said yet")
        with closing(open_source(self._uri)) as source:
            (run,) = source.finished_runs([self.steered.run_id], tags=())
        name = f"chats/{datetime.now(UTC):%Y-%m-%dT%H-%M-%SZ}.json"
        content = json.dumps(self._kept, ensure_ascii=False, indent=2).encode()
        Mender(self._uri).put(run.artifact_uri, name, content)
        return f"kept as {name} of run {run.run_id}"


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"{shown(text)} is no number") from None
