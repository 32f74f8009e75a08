"""Position windows: which tokens' activations are averaged, such as `response[:5]`.

A window is a frame (`prompt`, `response` or `all`) and a Python index or slice over its tokens.
"""

import re
from dataclasses import dataclass, replace
from typing import Literal

from massact.errors import UsageError

Frame = Literal["prompt", "response", "all"]
_POSITION = re.compile(r"(prompt|response|all)\[\s*(-?\d{1,9})?\s*(:)?\s*(-?\d{1,9})?\s*\]", re.ASCII)


@dataclass(frozen=True, slots=True)
class Position:
    """A position window. Build it with `parse_position`."""

    frame: Frame
    start: int | None
    stop: int | None
    is_index: bool = False
    """`response[-1]` names one token (kept in `start`) and no slice."""

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
        low, high = {"prompt": (0, n_prompt), "response": (n_prompt, n_total), "all": (0, n_total)}[
            self.frame
        ]
        frame = range(low, high)
        if not self.is_index:
            return frame[self.start : self.stop]
        assert self.start is not None  # parse_position sets it for every index
        index = self.start if self.start >= 0 else self.start + len(frame)
        return frame[index : index + 1] if index >= 0 else frame[:0]


def parse_position(text: str) -> Position:
    """The window that a text such as `response[:5]`, `prompt[-1]` or `all[:]` names.

    Raises:
        UsageError: not a window.
    """
    match = _POSITION.fullmatch(text.strip())
    is_index = match is not None and match[3] is None
    if match is None or (is_index and (match[2] is None or match[4] is not None)):
        raise UsageError(
            f"unknown position {text!r}. Write a frame (prompt, response, all) and a Python index or slice, "
            "such as response[:5], response[:], response[-1], prompt[-1] or all[:]"
        )
    start, stop = (int(match[i]) if match[i] is not None else None for i in (2, 4))
    frame: Frame = match[1]  # type: ignore[assignment]  # the pattern admits the three frames only
    return Position(frame, start, stop, is_index)


def parse_position_slug(slug: str) -> Position:
    """The window whose `slug` this is.

    Raises:
        UsageError: not a slug of a window.
    """
    frame, _, rest = slug.partition("_")
    window = ":" if rest == "all" else rest.replace("_", ":")
    try:
        return parse_position(f"{frame}[{window}]")
    except UsageError as error:
        raise UsageError(f"{slug!r} is not the slug of a position, such as response__5: {error}") from error
