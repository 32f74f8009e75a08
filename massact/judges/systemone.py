"""A judge behind `POST /v1/systemone`, as `transformers serve` has it: a score of five levels from one prefill.

Nothing is generated: the server gives the probability p(l) of each level l = 0 ... 4, and

    score = 25 * sum over l of l p(l)     0 to 100

so that a server without log-probabilities still gives a mean. The levels are those of the scale in the wording
that the other judges are asked with. Request and answer as of transformers 5.23 (2026-11-29)."""

import json
import math
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from massact.config import JudgeConfig
from massact.domain import JudgeIdentity
from massact.errors import ConfigError
from massact.judges import Exchange
from massact.judges.openai import OpenAIJudge, address_in_identity
from massact.judges.reading import Completion, Reading
from massact.judges.rubric import COHERENCE, LEAST_RELEVANCE, RELEVANCE, RELEVANCE_CAP, TRAIT, Rubric, quote
from massact.keys import digest

if TYPE_CHECKING:
    import openai

SYSTEMONE_VERSION = 1  # raised with every change of what is asked or how the answer is read
_SCALE = "The scale:\n"
_NAME = "score"
_LEAST_SUM = 0.99  # what the levels' probabilities must come to at least


def read_levels(payload: Any) -> Completion:
    """The score in the decoded JSON of an answer; ValueError where it is none to one question of several levels."""
    try:
        levels: Mapping[str, float] = payload["answers"][_NAME]["probabilities"]
        weights = [float(levels[str(level)]) for level in range(len(levels))]
        used = payload.get("usage") or {}
        n_tokens = int(used.get("input_tokens") or 0)
    except (AttributeError, KeyError, TypeError, ValueError) as err:
        raise ValueError(f"not an answer of levels: {err!r}") from err
    total = sum(weights)
    if len(weights) < 2 or not math.isfinite(total) or min(weights) < 0 or not _LEAST_SUM <= total <= 2 - _LEAST_SUM:
        return Completion(Reading(None, f"the levels' probabilities are none: {weights}"), n_tokens, 0)
    mean = sum(level * weight for level, weight in enumerate(weights)) / total
    return Completion(Reading(100 * mean / (len(weights) - 1)), n_tokens, 0)


class SystemOneJudge(OpenAIJudge):
    """Scores trait and coherence with one question each; satisfies `massact.judges.Judge`."""

    _expects = "an answer of levels"
    _completion = staticmethod(read_levels)

    def __init__(self, config: JudgeConfig, rubric: Rubric, *, backoff_seconds: float = 0.5) -> None:
        if not (config.base_url or os.environ.get("OPENAI_BASE_URL")):
            raise ConfigError(
                "the judge systemone:MODEL needs its server: write base_url, such as http://localhost:8000/v1"
            )
        super().__init__(config, rubric, backoff_seconds=backoff_seconds)

    @property
    def identity(self) -> JudgeIdentity:
        example, model = Exchange("{question}", "{answer}"), self._config.model
        asked: dict[str, Any] = {"version": SYSTEMONE_VERSION, "asked": self._prompts(example)}
        if self._rubric.relevance:
            asked["cap"] = [LEAST_RELEVANCE, RELEVANCE_CAP]
        at = address_in_identity(self._base_url)
        return JudgeIdentity(f"systemone:{model}", model + at, digest(asked))

    def _prompts(self, exchange: Exchange) -> tuple[str, ...]:
        """State and question of each request, as JSON."""
        question, answer, rules = quote(exchange)
        both = f"{question}\n\n{answer}"
        _, alone, its_rules = quote(Exchange("", exchange.response))
        template = self._rubric.eval_prompt
        if template is None:
            trait = _request(TRAIT, both, rules, definition=self._rubric.definition.strip())
        else:
            asked = template.format(question=question, answer=answer)
            _, levels = _instructions(TRAIT, definition="")
            trait = _as_json(f"{asked}\n\n{_data_alone(rules)}", "Which rating is right?", levels)
        asked_both = (trait, _request(COHERENCE, alone, its_rules))
        return self._rubric.wanted(
            (*asked_both, _request(RELEVANCE, both, rules)) if self._rubric.relevance else asked_both
        )

    def _options(self) -> dict[str, Any]:
        return {}

    async def _send(self, client: "openai.AsyncOpenAI", prompt: str, options: dict[str, Any]) -> Any:
        body = {"model": self._config.model, **json.loads(prompt), **options}
        raw = {"X-Stainless-Raw-Response": "true"}
        return await client.post("/systemone", cast_to=object, body=body, options={"headers": raw})


def _request(template: str, quoted: str, rules: str, **filled: str) -> str:
    instructions, levels = _instructions(template, **filled)
    return _as_json(quoted, f"{instructions}\n\n{_data_alone(rules)}", levels)


def _instructions(template: str, **filled: str) -> tuple[str, list[str]]:
    """What a wording asks, without its scale and the quoted texts, and the levels of the scale, the least first."""
    head, _, rest = template.partition(_SCALE)
    scale, _, tail = rest.partition("\n\n")
    tail = tail.replace("{quoted}\n\n", "")
    return (head.format(**filled) + tail).strip(), [line.partition(" - ")[2] for line in scale.splitlines()]


def _data_alone(rules: str) -> str:
    """The rules without the demand for an integer."""
    return rules.partition("Answer with one integer")[0].strip()


def _as_json(state: str, instructions: str, levels: list[str]) -> str:
    question = {"type": "score", "instructions": instructions, "criteria": levels}
    return json.dumps({"state": state, "questions": {_NAME: question}})
