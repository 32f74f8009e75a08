"""A judge's answer as a server tells it: the text, and what its first token might have been."""

import math
from collections.abc import Sequence
from typing import Any

from massact.judges.reading import BLANKS, Reading, read_completion


def read_answer(text: str, top: Sequence[tuple[str, float]] | None, *, is_cut: bool = False) -> Reading:
    """The score in an answer.

    Args:
        top: token and probability at the answer's first position; of them the most probable that the answer begins with
            was written.
        is_cut: the answer ended because it reached its length limit.
    """
    answer: dict[str, Any] = {"message": {"content": text}, "finish_reason": "length" if is_cut else "stop"}
    if top:
        begins = [pair for pair in top if _core(text).startswith(_core(pair[0]))]
        probable = [{"token": token, "logprob": math.log(weight) if weight else -math.inf} for token, weight in top]
        written = max(begins, key=lambda pair: pair[1])[0] if begins else text
        answer["logprobs"] = {"content": [{"token": written, "top_logprobs": probable}]}
    return read_completion({"choices": [answer]}).reading


def _core(token: str) -> str:
    return token.strip(BLANKS).lstrip("*_`\"'“”‘’«»" + BLANKS)
