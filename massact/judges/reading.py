"""How a judge's answer is read as a score. Pure; shared by every judge that is asked for an integer, 0 to 100."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

TOP_LOGPROBS = 20
"""How many of the most probable tokens of the answer's first position are read."""

MIN_INTEGER_WEIGHT = 0.25
"""Least probability that must lie on integers 0 to 100; below it a response is unscored."""

BLANKS = " \t\r\n▁ĠĊ"
"""What tokenizers write blanks with: an answer begins after them."""
_INTEGER_TOKEN = re.compile(r"0|[1-9][0-9]?|100")
_NUMBER = re.compile(r"(?<![\w.])[-\u2212]?[0-9]+(?:\.[0-9]+)?(?!\w|\.[0-9])")
_OUT_OF_100 = re.compile(r"\s*(?:/|out of)\s*100\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Reading:
    """A judge's answer to one prompt, read."""

    score: float | None
    """0 to 100; `None` where the answer holds no score."""
    reason: str | None = None
    """Why there is none."""


@dataclass(frozen=True, slots=True)
class Completion:
    """A chat completion of an OpenAI-compatible server, read as an answer."""

    reading: Reading
    has_logprobs: bool
    prompt_tokens: int
    """As the server counts; 0 where it does not."""
    completion_tokens: int


def read_completion(payload: Any) -> Completion:
    """The answer in the decoded JSON of a chat completion.

    Logprobs are read at the first position that is not blank: some models begin with a space of its own.

    Raises:
        ValueError: it is not a chat completion.
    """
    try:
        choice = payload["choices"][0]
        text = choice["message"].get("content") or choice["message"].get("refusal") or ""
        positions = (choice.get("logprobs") or {}).get("content") or []
        first: dict[str, Any] = next((p for p in positions if p["token"].strip(BLANKS)), {})
        top = [(t["token"], math.exp(min(t["logprob"], 0.0))) for t in first.get("top_logprobs") or []]
        is_cut = choice.get("finish_reason") == "length"
        used = payload.get("usage") or {}
        n_prompt, n_completion = used.get("prompt_tokens") or 0, used.get("completion_tokens") or 0
        reading = read_answer(text, top or None, is_cut=is_cut)
        return Completion(reading, bool(positions), int(n_prompt), int(n_completion))
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError) as err:
        raise ValueError(f"not a chat completion: {err!r}") from err


def read_answer(text: str, top: Sequence[tuple[str, float]] | None, *, is_cut: bool = False) -> Reading:
    """The score in a judge's answer.

    With probabilities, the mean of the integers 0 to 100 among the first position's most probable
    tokens, weighted by probability (G-Eval, arXiv:2303.16634, section 2; with integers 0 to 100 and a
    least weight as in Persona Vectors, arXiv:2507.21509). Spellings of one integer, ` 85` and `85`, add up.

    The text is read instead where there are no probabilities, and where no integer among them has two
    digits: many tokenizers (Gemma, Qwen) write `85` as two tokens, and the mean over `8` and `9` would
    take 85 for 8. Nothing is lost on other tokenizers, whose likely scores then all lie within 0 to 9.

    Args:
        text: The whole answer.
        top: Token and probability, 0 to 1, at the answer's first position; `None` where not given.
        is_cut: The answer ended because it reached its length limit.
    """
    if top is None:
        return _read_text(text, is_cut=is_cut)
    weights = _integer_weights(top)
    total = sum(weights.values())
    if total < MIN_INTEGER_WEIGHT:
        return Reading(
            None,
            f"only {total:.2f} of the judge's probability is on integers 0 to 100 "
            f"({MIN_INTEGER_WEIGHT} needed); it answered {_excerpt(text)}",
        )
    if max(weights) < 10:
        return _read_text(text, is_cut=is_cut)
    return Reading(sum(value * weight for value, weight in weights.items()) / total)


def _integer_weights(top: Iterable[tuple[str, float]]) -> dict[int, float]:
    """Probability by integer 0 to 100; whatever is not one is left out."""
    weights: dict[int, float] = {}
    for token, probability in top:
        digits = token.strip(BLANKS)
        if _INTEGER_TOKEN.fullmatch(digits) and probability > 0:
            weights[int(digits)] = weights.get(int(digits), 0.0) + probability
    return weights


def _read_text(text: str, *, is_cut: bool) -> Reading:
    """The one integer 0 to 100 in a text; anything else is no score."""
    text = text.strip()
    numbers = list(_NUMBER.finditer(_OUT_OF_100.sub("", text)))
    if len(numbers) != 1:
        found = "no number" if not numbers else "several numbers"
        return Reading(None, f"{found} in the judge's answer {_excerpt(text)}")
    if is_cut and text.endswith(numbers[0].group()):
        return Reading(None, f"the judge's answer {_excerpt(text)} was cut within its number")
    if not _INTEGER_TOKEN.fullmatch(numbers[0].group()):
        return Reading(None, f"no integer 0 to 100 in the judge's answer {_excerpt(text)}")
    return Reading(float(numbers[0].group()))


def _excerpt(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:60]}…")
