"""Position windows: which tokens' activations are averaged, such as `response[:5]`.

A window is a frame (`prompt`, `response` or `all`) and a Python index or slice over its tokens."""

import re
from dataclasses import dataclass, replace
from typing import Literal

from massact.errors import UsageError

Frame = Literal["prompt", "response", "all"]
_POSITION = re.compile(r"(prompt|response|all|)\[\s*(-?\d{1,9})?\s*(:)?\s*(-?\d{1,9})?\s*\]", re.ASCII)


@dataclass(frozen=True, slots=True)
class Position:
    """A position window. Build it with `parse_position`."""

    frame: Frame
    start: int | None
    stop: int | None
    is_index: bool = False  # `response[-1]` names one token (kept in `start`) and no slice

    def __str__(self) -> str:
        start = "" if self.start is None else str(self.start)
        stop = "" if self.stop is None else str(self.stop)
        return f"{self.frame}[{start}]" if self.is_index else f"{self.frame}[{start}:{stop}]"

    @property
    def slug(self) -> str:
        """The window as a file name: `response[:5]` is `response__5`, `response[:]` is `response_all`."""
        return str(self).replace("[:]", "_all").replace("[", "_").replace("]", "").replace(":", "_")

    @property
    def n_response_tokens(self) -> int | None:
        """How many response tokens the window needs at most; `None` where it has no such bound."""
        if self.frame != "response":
            return 0 if self.frame == "prompt" else None
        if self.is_index:
            return self.start + 1 if self.start is not None and self.start >= 0 else None
        return self.stop if self.stop is not None and self.stop >= 0 else None

    @property
    def is_empty(self) -> bool:
        """Whether no text has a token in it, such as `response[5:2]`."""
        if self.is_index or self.stop is None:
            return False
        start = self.start or 0
        return self.stop == 0 or ((start < 0) == (self.stop < 0) and start >= self.stop)

    @property
    def holds_first(self) -> bool:
        """Whether the first token of a text is in it, whatever the text; see `without_first`."""
        return self.frame != "response" and self.start in (None, 0) and not self.is_empty

    @property
    def without_first(self) -> "Position | None":
        """The window but the first token; `None` where nothing is left."""
        rest = replace(self, start=1)
        return None if self.is_index or rest.is_empty else rest

    def tokens(self, n_prompt: int, n_total: int) -> range:
        """Indices, within a sequence of `n_total` tokens, that the window covers; it may be empty."""
        low, high = {"prompt": (0, n_prompt), "response": (n_prompt, n_total), "all": (0, n_total)}[self.frame]
        frame = range(low, high)
        if not self.is_index:
            return frame[self.start : self.stop]
        assert self.start is not None  # parse_position sets it for every index
        index = self.start if self.start >= 0 else self.start + len(frame)
        return frame[index : index + 1] if index >= 0 else frame[:0]


def parse_position(text: str, *, may_be_empty: bool = False) -> Position:
    """The window that a text such as `response[:5]`, `prompt[-1]` or `all[:]` names; `[:5]` is of the response, as
    tables print it. Raises UsageError: not a window."""
    match = _POSITION.fullmatch(text.strip())
    is_index = match is not None and match[3] is None
    if match is None or (is_index and (match[2] is None or match[4] is not None)):
        raise UsageError(
            f"unknown position {text!r}. Write a frame (prompt, response, all) and a Python index or slice, "
            "such as response[:5], response[:], response[-1], prompt[-1] or all[:]"
        )
    start, stop = (int(match[i]) if match[i] is not None else None for i in (2, 4))
    frame: Frame = match[1] or "response"  # type: ignore[assignment]  # the pattern admits the three frames only
    position = Position(frame, start, stop, is_index)
    if position.is_empty and not may_be_empty:
        raise UsageError(f"no text has a token in {position}: write the lower end first, such as response[2:5]")
    return position


def parse_position_slug(slug: str) -> Position:
    """The window whose `slug` this is. Raises UsageError: not a slug of a window."""
    frame, _, rest = slug.partition("_")
    window = ":" if rest == "all" else rest.replace("_", ":")
    try:
        return parse_position(f"{frame or '?'}[{window}]")
    except UsageError as error:
        raise UsageError(f"{slug!r} is not the slug of a position, such as response__5: {error}") from error


# Which tokens are steered: windows of the same grammar.


def parse_tokens(text: str) -> str:
    """The one spelling of the tokens that are steered: `all`, or a window of the prompt, of the response, or both.
    A window is `prompt`, `response`, or one such as `prompt[-1]`, `response[:5]` or `response[5:]`; two are joined by
    `+`. Of a response the end is not known while it is written, so that nothing is counted from there.
    Raises UsageError: not such tokens."""
    windows = sorted((_one_window(part.strip(), text) for part in text.split("+")), key=lambda window: window.frame)
    frames = [window.frame for window in windows]
    if len(set(frames)) < len(frames) or (len(frames) > 1 and "all" in frames):
        raise UsageError(f"tokens {text!r}: write all, or one window of the prompt and one of the response at most")
    spelled = "+".join(str(window).removesuffix("[:]") for window in windows)
    return "all" if spelled == "prompt+response" else spelled


def steered_tokens(tokens: str, n_prompt: int, n_total: int) -> list[bool]:
    """Of each of `n_total` tokens whether it is among those that `parse_tokens` spelled so."""
    among = {number for part in tokens.split("+") for number in _window(part).tokens(n_prompt, n_total)}
    return [number in among for number in range(n_total)]


def _window(part: str) -> Position:
    return parse_position(part if "[" in part else f"{part}[:]", may_be_empty=True)


def _one_window(part: str, text: str) -> Position:
    """A window in its one spelling: `response[0:3]` as `response[:3]`, `prompt[-1:]` as `prompt[-1]`."""
    try:
        window = _window(part)
    except UsageError as error:
        raise UsageError(
            f"unknown tokens {text!r}: write all, prompt, response, or windows such as prompt[-1], response[:5] or "
            "response[5:]; one of the prompt and one of the response are joined by +"
        ) from error
    start, stop = window.start, window.stop
    ends = [end for end in (start, stop) if end is not None]
    if window.frame == "all" and ends:
        raise UsageError(f"tokens {text!r}: a window is one of prompt or response, or all")
    if window.is_empty or (window.frame == "response" and any(end < 0 for end in ends)):
        raise UsageError(f"tokens {text!r}: {part} names no token that is known while a response is written")
    if window.is_index:
        return window
    first = start or 0
    if (stop == first + 1 and stop != 0) or (first == -1 and stop is None):
        return Position(window.frame, first, None, is_index=True)
    return Position(window.frame, start or None, stop)
