"""How a judge's answer is read as a score. Pure; shared by every judge that is asked for an integer, 0 to 100.

An answer is a score where it begins with an integer that counts nothing else (`85`, `**85**`, `85/100`, `85, because`),
where it is a JSON object with a field such as `score`, or where it is `Score: 85`. A number in prose, in a list or in
a judge's thoughts is none, and neither is one that the length limit may have cut."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from massact.names import shown

READING_VERSION = 2
"""Raised with every change of what is read as a score: what the judge cache holds is then asked for again."""

TOP_LOGPROBS = 20  # how many of the most probable tokens at the score's position are read

MIN_INTEGER_WEIGHT = 0.25  # least probability that must lie on integers 0 to 100; below it a response is unscored

WHOLE_INTEGER_WEIGHT = 0.1
"""Share of the integers' probability on those of two digits and more, from which on a tokenizer is taken to write
each integer as one token although the answer, of one digit, does not show it."""

BLANKS = " \t\r\n▁ĠĊ"  # what tokenizers write blanks with: an answer begins after them

CHAT_MARKUP = r"<[|\uff5c][^<>\n]{0,60}>|</?(?:s|bos|eos|pad|unk|start_of_turn|end_of_turn)>|<</?SYS>>|\[/?INST\]"
"""What common models write control tokens as."""

_DECORATION = "*_`\"'“”‘’«»"
_INTEGER_TOKEN = re.compile(r"0|[1-9][0-9]?|100")
_NUMBER = re.compile(r"(?<![\w.])[-\u2212]?[0-9]+(?:\.[0-9]+)?(?!\w|\.[0-9])")
_OUT_OF_100 = re.compile(r"\s*\(?\s*(?:/|out of|of)\s*100\b(?![.,][0-9])\)?", re.IGNORECASE)
_NAME = r"(?:score|rating|grade|answer|coherence|relevance)"
_QUALIFIER = r"(?:(?:the|my|your|final|overall|trait|coherence|relevance|numerical|numeric)[ _-]?)"
_BEFORE = rf"(?:{CHAT_MARKUP}|\\boxed\{{|[\s▁(\[#>${_DECORATION}])*+"
_BEGINNING = re.compile(
    rf"{_BEFORE}(?P<label><?{_QUALIFIER}{{0,2}}{_NAME}[{_DECORATION}\s]*[:=>]{_BEFORE})?(?P<number>[0-9]+)",
    re.IGNORECASE,
)
_JSON = re.compile(r"\s*(?:```\w*\s*)?\{")
_FIELD = re.compile(
    rf"""["']{_QUALIFIER}?(?:{_NAME}|result|value)["']\s*:\s*(?P<quote>["']?)(?P<number>[^\s,"'}}/]+)"""
    r"(?:\s*/\s*100\b)?(?P=quote)\s*(?P<end>[,}]|$)",
    re.IGNORECASE,
)
_END = re.compile(rf"(?:{CHAT_MARKUP}|</\w+>|[\s.!)\]}}${_DECORATION}])*+", re.IGNORECASE)
_NEW_LINE = re.compile(rf"[.!)\]}}$%{_DECORATION}]*[ \t]*[\r\n]\s*(?![-+\u2212]?[0-9])")
_REMARK = re.compile(
    rf"[{_DECORATION}]*(?:[.,;:!]\s+|\s+[-–—]+\s+|\s+\()[{_DECORATION}\s]*(?=[^\W\d_])|"
    r"\s+(?P<cause>because|since|as|due|given|based)\b",
    re.IGNORECASE,
)
_PERCENT = re.compile(r"\s?%|\s+percent\b(?=[\s.]*$)", re.IGNORECASE)

_ONLY_THOUGHT = "the judge was thinking and then answered nothing"
_STILL_THINKING = (
    "the judge was still thinking when its tokens were used up: switch thinking off at the server, "
    "or set max_tokens of the judge, such as max_tokens: 4096"
)
_THOUGHTS_END = re.compile(
    r"</(?:think|thinking|thought|thoughts|reasoning|seed:think)>|\[/THINK\]|◁/think▷|<channel\|>|"
    r"<\|channel\|>final<\|message\|>",
    re.IGNORECASE,
)
_THOUGHTS_BEGIN = re.compile(
    r"\s*(?:<(?:think|thinking|thought|thoughts|reasoning|seed:think)>|\[THINK\]|◁think▷|<\|channel>thought|"
    r"<\|channel\|>(?:analysis|commentary))",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Reading:
    """A judge's answer to one prompt, read."""

    score: float | None  # 0 to 100; `None` where the answer holds no score
    reason: str | None = None  # why there is none


@dataclass(frozen=True, slots=True)
class Completion:
    """A server's answer to one prompt, read."""

    reading: Reading
    prompt_tokens: int  # as the server counts; 0 where it does not
    completion_tokens: int
    coarse: str | None = None  # why the score is the integer in the text and no mean over probabilities


class _Number(NamedTuple):
    """A score that a text gives, and where its digits begin there."""

    value: int
    start: int


class _Message(NamedTuple):
    """What a chat completion says, without thoughts."""

    text: str
    refusal: str
    has_thoughts: bool


def read_completion(payload: Any) -> Completion:
    """The answer in the decoded JSON of a chat completion; ValueError where it is none. Probabilities are read at the
    token that the score begins with, wherever in the answer that is."""
    try:
        choice = payload["choices"][0]
        used = payload.get("usage") or {}
        n_prompt, n_completion = used.get("prompt_tokens") or 0, used.get("completion_tokens") or 0
        thought = (used.get("completion_tokens_details") or {}).get("reasoning_tokens")
        message = _read_message(choice["message"], has_thoughts=bool(thought))
        positions = (choice.get("logprobs") or {}).get("content") or []
        tops = [_top(position) for position in positions]
        tokens = [str(position["token"]) for position in positions]
        is_cut = choice.get("finish_reason") == "length"
        reading, coarse = _read(message, tokens, tops, is_cut=is_cut)
        return Completion(reading, int(n_prompt), int(n_completion), coarse)
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as err:
        raise ValueError(f"not a chat completion: {err!r}") from err


def read_weights(text: str, top: Iterable[tuple[str, float]]) -> Reading:
    """The mean of the integers among an answer's probable beginnings, each of which is a whole integer.
    Weighted by probability (G-Eval, arXiv:2303.16634, section 2; with integers 0 to 100 and a least weight as in
    Persona Vectors, arXiv:2507.21509). Spellings of one integer, ` 85` and `85`, add up. `text`, which the answer most
    probably begins with, is for the reason; `top` has texts with their probabilities, 0 to 1."""
    weights = _integer_weights(top)
    total = sum(weights.values())
    if total < MIN_INTEGER_WEIGHT:
        return Reading(
            None,
            f"only {total:.2f} of the judge's probability is on integers 0 to 100 "
            f"({MIN_INTEGER_WEIGHT} needed); it answered {shown(text)}",
        )
    return Reading(sum(value * weight for value, weight in weights.items()) / total)


def _read_message(message: Mapping[str, Any], *, has_thoughts: bool) -> _Message:
    """The parts of a message; content may be a text, a list of parts, or missing."""
    content, refusal = message.get("content"), str(message.get("refusal") or "")
    text = content or ""
    if isinstance(text, list):
        refusal += "".join(str(part["refusal"]) for part in text if part.get("type") == "refusal")
        has_thoughts |= any(part.get("type") in ("thinking", "reasoning") for part in text)
        text = "".join(part["text"] for part in text if part.get("type") in ("text", "output_text"))
    if not isinstance(text, str):
        raise TypeError(f"content is {type(text).__name__}")
    ends = list(_THOUGHTS_END.finditer(text))
    if ends:
        text, has_thoughts = text[ends[-1].end() :], True
    elif _THOUGHTS_BEGIN.match(text):
        text, has_thoughts = "", True
    has_thoughts |= any(message.get(name) for name in ("reasoning", "reasoning_content", "thinking"))
    return _Message(text, refusal, has_thoughts)


def _read(
    message: _Message, tokens: Sequence[str], tops: Sequence[Sequence[tuple[str, float]]], *, is_cut: bool
) -> tuple[Reading, str | None]:
    """The score of an answer, and why it is coarse where it is."""
    text = message.text
    if message.refusal:
        return Reading(None, f"the judge refused: {shown(message.refusal)}"), None
    if not text.strip(BLANKS) and message.has_thoughts:
        return Reading(None, _STILL_THINKING if is_cut else _ONLY_THOUGHT), None
    number = _find_number(text, is_cut=is_cut and not (tokens and _is_whole(text, tokens[-1])))
    if isinstance(number, Reading):
        answer = text.strip(BLANKS)
        first = _position(text, len(text) - len(text.lstrip(BLANKS)), tokens) if answer else 0
        if first is None or first >= len(tops):
            return number, None
        # where no more than a first word is known of an answer, its probabilities are all that there is
        top = tops[first]
        is_all = answer == tokens[first].strip(BLANKS) and answer in {token.strip(BLANKS) for token, _ in top}
        is_first_word = is_all and not re.search("[0-9]", text)
        little = read_weights(text, top) if top else number
        # little probability on integers says more than the text does
        return little if is_first_word or little.score is None else number, None
    at = _position(text, number.start, tokens)
    if at is None or not tops[at]:
        return Reading(float(number.value)), "gives no logprobs"
    return _of_number(text, number.value, tokens[at], tops[at])


def _of_number(text: str, value: int, token: str, top: Sequence[tuple[str, float]]) -> tuple[Reading, str | None]:
    """The score where the token that the text's number begins with, and what else it might have been, is known.
    The integer in the text is the score where the answer shows that its tokenizer takes several tokens for it (Gemma
    and Qwen write `85` as two): the mean over `8` and `9` would take 85 for 8.
    An answer of one digit does not show whether its tokenizer would write 85 as one token. Its score goes over from the
    digit to the mean as the probability of longer integers, which only such a tokenizer has, goes from nothing to
    `WHOLE_INTEGER_WEIGHT`."""
    weights = _integer_weights(top)
    total = sum(weights.values())
    mean = read_weights(text, top)
    digits = re.split("[^0-9]", _core(token))[0]
    if mean.score is not None and digits != str(value) and str(value).startswith(digits):
        return Reading(float(value)), "writes a score as several tokens"
    if mean.score is None or digits != str(value) or value >= 10:
        return mean, None
    longer = sum(weight for number, weight in weights.items() if number >= 10) / total
    share = min(1.0, longer / WHOLE_INTEGER_WEIGHT)
    return Reading(value + share * (mean.score - value)), None


def _position(text: str, start: int, tokens: Sequence[str]) -> int | None:
    """Which token holds the character of an answer at `start`; `None` where the tokens are not the answer's. The answer
    is the end of what was written, after thoughts and control tokens. Some servers tell its first tokens alone."""
    pieces, answer = [_plain(token) for token in tokens], _plain(text).strip(" \r\n")
    written = "".join(pieces)
    beginning = written.strip(" \r\n")
    at = written.rfind(answer) if answer else -1
    if at < 0 and beginning and answer.startswith(beginning):
        at = written.index(beginning)
    if at < 0:
        return None
    wanted, seen = at + start - (len(text) - len(text.lstrip(BLANKS))), 0
    for n, piece in enumerate(pieces):
        seen += len(piece)
        if wanted < seen:
            return n
    return None


def _plain(text: str) -> str:
    return re.sub("[▁Ġ\t]", " ", text).replace("Ċ", "\n")


def _top(position: Mapping[str, Any]) -> list[tuple[str, float]]:
    return [(token["token"], math.exp(min(token["logprob"], 0.0))) for token in position.get("top_logprobs") or []]


def _core(token: str) -> str:
    """A token without blanks, quotes and asterisks before it."""
    return token.strip(BLANKS).lstrip(_DECORATION + BLANKS)


def _is_whole(text: str, token: str) -> bool:
    """Whether an answer is one token of several digits: no limit has cut it."""
    return len(_core(token)) > 1 and _core(token) == text.strip(BLANKS) and _core(token).isdecimal()


def _integer_weights(top: Iterable[tuple[str, float]]) -> dict[int, float]:
    """Probability by integer 0 to 100; whatever is not one is left out."""
    weights: dict[int, float] = {}
    for token, probability in top:
        digits = _core(token)
        if _INTEGER_TOKEN.fullmatch(digits) and probability > 0:
            weights[int(digits)] = weights.get(int(digits), 0.0) + probability
    return weights


def _find_number(text: str, *, is_cut: bool) -> "_Number | Reading":
    """The score that a text gives, or why it gives none."""
    if _JSON.match(text):
        return _find_field(text, is_cut=is_cut)
    fence = re.match(r"\s*```\w*\s", text)
    began = _BEGINNING.match(text, fence.end() if fence else 0)
    if began is None or not _INTEGER_TOKEN.fullmatch(began["number"]):
        return Reading(None, _no_number(text, is_cut=is_cut))
    value, end = int(began["number"]), began.end()
    scale = _OUT_OF_100.match(text, end)
    if is_cut and scale is None and (began["label"] or not re.search(r"[^.,/)]", text[end:])):
        return Reading(None, f"the judge's answer {shown(text)} was cut within its number or soon after")
    if scale is not None:
        others = [int(n) for n in re.findall(r"([0-9]+)\s*(?:/|out of)\s*100\b", text[scale.end() :])]
        is_score = all(other == value for other in others)
    else:
        is_score = _ends_a_score(text, end, value, is_labelled=began["label"] is not None)
    if not is_score:
        return Reading(None, _no_number(text, is_cut=is_cut))
    return _Number(value, began.start("number"))


def _ends_a_score(text: str, end: int, value: int, *, is_labelled: bool) -> bool:
    """Whether what follows a number leaves it a score: nothing, a new line, or a remark on it. `1.` to `9)` before a
    remark count the items of a list or the things in a sentence."""
    percent = _PERCENT.match(text, end)
    after = percent.end() if percent else end
    if _END.fullmatch(text, after) or _NEW_LINE.match(text, after):
        return True
    remark = _REMARK.match(text, after)
    if remark is None:
        return False
    return bool(is_labelled or percent or remark["cause"] or not 1 <= value <= 9)


def _find_field(text: str, *, is_cut: bool) -> "_Number | Reading":
    """The score in a field of a JSON object."""
    fields = [field for field in _FIELD.finditer(text) if field["end"] or not is_cut]
    values = {re.sub(r"\.0+$", "", field["number"]) for field in fields}
    if not values:
        said = "was cut before its score" if is_cut else "has no field such as score"
        return Reading(None, f"the JSON in the judge's answer {shown(text)} {said}")
    if len(values) > 1:
        return Reading(None, f"several numbers in the judge's answer {shown(text)}")
    (value,) = values
    if not _INTEGER_TOKEN.fullmatch(value):
        return Reading(None, f"no integer 0 to 100 in the judge's answer {shown(text)}")
    return _Number(int(value), fields[0].start("number"))


def _no_number(text: str, *, is_cut: bool) -> str:
    """Why a text without a score has none."""
    numbers = _NUMBER.findall(_OUT_OF_100.sub("", text))
    answer = f"the judge's answer {shown(text.strip())}"
    if not numbers:
        return f"no number in {answer}"
    if is_cut:
        return f"{answer} was cut, and what it begins with is no score"
    if len(numbers) > 1:
        return f"several numbers in {answer}"
    if not _INTEGER_TOKEN.fullmatch(numbers[0]):
        return f"no integer 0 to 100 in {answer}"
    return f"the number in {answer} is no score: one stands at the beginning, alone or as in 'Score: 85'"
