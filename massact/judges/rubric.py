"""What a prompted judge is asked about an exchange, and what its answers come to. Pure.

The wording (the files of the folder `wording`) and how an answer is read (`massact.judges.reading`) are part of every
cell's key through `Rubric.digest`: a changed word is another judge. The texts being judged are data. They
stand between tags that they cannot contain, and the chat markup of common models inside them is disarmed,
so that no response can end its own quotation."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import Any

from massact.config import JudgeConfig
from massact.errors import DataError
from massact.judges import Exchange, Part, Subject, Verdict
from massact.judges.reading import CHAT_MARKUP, MIN_INTEGER_WEIGHT, TOP_LOGPROBS, Reading
from massact.keys import digest

# What a prompted judge is asked, word for word: part of every cell's key, so a changed word is another judge.

RUBRIC_VERSION = 1  # raised with every change of how an answer to `TRAIT` and `COHERENCE` is read

RELEVANCE_VERSION = 1  # raised with every change of how an answer to `RELEVANCE` is used

_WORDING = Path(__file__).parent / "wording"
TRAIT, COHERENCE, RELEVANCE, RULES = (
    (_WORDING / f"{name}.txt").read_text(encoding="utf-8").rstrip("\n")
    for name in ("trait", "coherence", "relevance", "rules")
)

RELEVANCE_CAP = 50.0  # the most that coherence may be where a response does not take up its question
LEAST_RELEVANCE = 50.0  # relevance below which coherence is capped

_CHAT_MARKUP = re.compile(CHAT_MARKUP, re.IGNORECASE)
# Such a marker would be one control token to a local server; in other brackets it is plain text.
_DISARMED = str.maketrans("<>[]", "\u2039\u203a\u27e6\u27e7")


@dataclass(frozen=True, slots=True)
class Rubric:
    """The prompts for one trait; each asks for one integer, 0 to 100. DataError: no definition, or no template."""

    definition: str  # text of the trait's `definition.txt`; not asked where there is an `eval_prompt`
    eval_prompt: str | None = None
    """The trait's own prompt in place of ours: a template with `{question}` and `{answer}`; a literal
    brace is written twice, as for `str.format`."""
    relevance: bool = False  # whether a third prompt asks if the response takes up its question, and so caps coherence
    part: Part = "both"  # which score is asked for

    @classmethod
    def of(cls, config: JudgeConfig, subject: Subject) -> "Rubric":
        """What a judge of the experiment file asks about a trait."""
        return cls(subject.definition, subject.eval_prompt, config.relevance, subject.part)

    def __post_init__(self) -> None:
        if self.eval_prompt is not None:
            _check_template(self.eval_prompt)
        elif not self.definition.strip():
            raise DataError("the trait has no definition: write what it is in its definition.txt")

    def prompts(self, exchange: Exchange) -> tuple[str, ...]:
        """Everything that is asked about an exchange: trait, coherence and, where it is on, relevance."""
        both = (self.trait_prompt(exchange), self.coherence_prompt(exchange))
        return self.wanted((*both, self.relevance_prompt(exchange)) if self.relevance else both)

    def wanted(self, prompts: tuple[str, ...]) -> tuple[str, ...]:
        """Of the prompts for trait, coherence and relevance those that the wanted scores need."""
        return {"both": prompts, "trait": prompts[:1], "coherence": prompts[1:]}[self.part]

    def verdict(self, readings: Sequence[Reading]) -> Verdict:
        """The verdict that the answers to `prompts` come to. With relevance on, coherence = min(coherence,
        `RELEVANCE_CAP`) where relevance < `LEAST_RELEVANCE`. A missing relevance leaves coherence unscored, unless the
        cap could not change it."""
        unasked = Reading(None)
        trait, coherence, *more = {
            "both": readings, "trait": (*readings, unasked), "coherence": (unasked, *readings)
        }[self.part]  # fmt: skip
        score, named = coherence.score, {"trait": trait.reason, "coherence": coherence.reason}
        for relevance in more:
            if score is None or score <= RELEVANCE_CAP:
                continue
            if relevance.score is None:
                score, named["relevance"] = None, relevance.reason
            elif relevance.score < LEAST_RELEVANCE:
                score = RELEVANCE_CAP
        reasons = [f"{name}: {reason}" for name, reason in named.items() if reason]
        return Verdict(trait.score, score, "; ".join(reasons) or None)

    def trait_prompt(self, exchange: Exchange) -> str:
        """The user message that asks for the trait score, 0 to 100."""
        question, answer, rules = quote(exchange)
        if self.eval_prompt is not None:
            return f"{self.eval_prompt.format(question=question, answer=answer)}\n\n{rules}"
        asked = TRAIT.format(definition=self.definition.strip(), quoted=f"{question}\n\n{answer}")
        return f"{asked}\n\n{rules}"

    def coherence_prompt(self, exchange: Exchange) -> str:
        """The user message that asks for coherence, 0 to 100. The question is not shown."""
        _, answer, rules = quote(Exchange("", exchange.response))
        return f"{COHERENCE.format(quoted=answer)}\n\n{rules}"

    def relevance_prompt(self, exchange: Exchange) -> str:
        """The user message that asks for relevance, 0 to 100."""
        question, answer, rules = quote(exchange)
        asked = RELEVANCE.format(quoted=f"{question}\n\n{answer}")
        return f"{asked}\n\n{rules}"

    @property
    def digest(self) -> str:
        """SHA-256, in hex, of everything that is asked and of how the answer is read."""
        example = Exchange("{question}", "{answer}")
        asked: dict[str, Any] = {
            "version": RUBRIC_VERSION,
            "trait": self.trait_prompt(example),
            "coherence": self.coherence_prompt(example),
            "top_logprobs": TOP_LOGPROBS,
            "min_integer_weight": MIN_INTEGER_WEIGHT,
        }
        if self.relevance:  # only then: without it nothing of it is asked
            prompt, bounds = self.relevance_prompt(example), [LEAST_RELEVANCE, RELEVANCE_CAP]
            asked["relevance"] = {"version": RELEVANCE_VERSION, "prompt": prompt, "cap": bounds}
        if self.part != "both":  # likewise
            asked["part"] = self.part
        return digest(asked)


def _check_template(template: str) -> None:
    """Refuse a template that `str.format` could not fill with `question` and `answer` alone."""
    where = "the trait's eval_prompt"
    try:
        parts = [part for part in Formatter().parse(template) if part[1] is not None]
    except ValueError as err:
        raise DataError(f"{where} is no template ({err}): write a literal brace twice") from err
    for _, name, spec, conversion in parts:
        if name not in ("question", "answer") or spec or conversion:
            raise DataError(
                f"{where} has the placeholder {{{name}}}: only {{question}} and {{answer}} are filled; "
                "write a literal brace twice"
            )
    if "answer" not in {name for _, name, _, _ in parts}:
        raise DataError(f"{where} lacks {{answer}}: the judge would never see the response")


def quote(exchange: Exchange) -> tuple[str, str, str]:
    """Question and response between tags whose number is the least that occurs in neither; the rules."""
    question, response = _plain(exchange.question), _plain(exchange.response)
    texts = f"{question}\n{response}".casefold()
    number = 1
    while f"question-{number}" in texts or f"response-{number}" in texts:
        number += 1
    rules = RULES.format(number=number)
    return _tagged("question", number, question), _tagged("response", number, response), rules


def _tagged(name: str, number: int, text: str) -> str:
    return f"<{name}-{number}>\n{text}\n</{name}-{number}>"


def _plain(text: str) -> str:
    """Text that can be sent as JSON, and that a server's tokenizer takes for text, not for chat markup."""
    return _CHAT_MARKUP.sub(lambda match: match.group().translate(_DISARMED), whole(text))


def whole(text: str) -> str:
    """Without halves of characters, which a text may hold and no tokenizer takes."""
    return text.encode("utf-8", "replace").decode("utf-8")
