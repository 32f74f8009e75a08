"""Judges that ask no model: `choices`, of questions with two answers, and `regex`, a trait by regular expressions."""

import math
import re
from collections.abc import Sequence

from massact.config import JudgeConfig
from massact.domain import JudgeIdentity
from massact.errors import ConfigError
from massact.judges import Exchange, Subject, Usage, Verdict
from massact.keys import digest

VERSION = 1  # raised with every change of how answers are scored, or patterns matched
_NUMBER = r"(-?\d+\.\d+)"
_ANSWER = re.compile(rf"log p, matching and other: {_NUMBER}, {_NUMBER}; swapped: {_NUMBER}, {_NUMBER}")


def choice_text(as_asked: Sequence[float], swapped: Sequence[float]) -> str:
    """What stands for the response: log-probabilities of the matching answer and the other, in both orders, nats."""
    (a, b), (c, d) = as_asked, swapped
    return f"log p, matching and other: {a:.6f}, {b:.6f}; swapped: {c:.6f}, {d:.6f}"


class ChoicesJudge:
    """How likely the model itself finds the answer that matches the trait, as `choice_text` wrote it;
    `massact.judges.Judge`.

    The log-odds of the matching answer against the other are taken with the choices as they stand and swapped, and
    their mean is what counts: what the model has for (A), or for the first choice, whatever it says, cancels. CAA
    (arXiv:2312.06681) asks in one order. The trait score is the probability of the matching answer, one of the two, in
    percent; coherence the share of all probability that both have together, a mean over the orders: what is left of it
    the model would say instead."""

    identity = JudgeIdentity("choices", "log-odds", digest({"version": VERSION}))

    def __init__(self, *_config_and_subject: object) -> None:
        self.usage = Usage()

    def prepare(self) -> None:
        return

    def score(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
        """The verdict of each exchange."""
        return [_verdict(exchange.response) for exchange in exchanges]


def _verdict(response: str) -> Verdict:
    found = _ANSWER.fullmatch(response.strip())
    if found is None:
        return Verdict(None, None, "no probabilities of two answers: the judge choices reads no text")
    matching, other, swapped_matching, swapped_other = map(float, found.groups())
    odds = (matching - other + swapped_matching - swapped_other) / 2
    mass = sum(map(math.exp, (matching, other, swapped_matching, swapped_other))) / 2
    return Verdict(100 / (1 + math.exp(max(-700.0, min(700.0, -odds)))), min(100.0, 100 * mass))


class RegexJudge:
    """100 where a pattern is found in a response, or the share of the patterns that are; `massact.judges.Judge`. Case
    does not count, `^` and `$` match at every line. There is no coherence score."""

    def __init__(self, name: str, patterns: Sequence[str], *, share: bool) -> None:
        self._patterns = [re.compile(pattern, re.IGNORECASE | re.MULTILINE) for pattern in patterns]
        self.identity = JudgeIdentity(
            name, "regex", digest({"version": VERSION, "patterns": list(patterns), "share": share})
        )
        self._is_share, self.usage = share, Usage()

    def prepare(self) -> None:
        return

    def score(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
        """The trait score of each exchange."""
        self.usage += Usage(calls=len(exchanges))
        return [Verdict(self._trait(exchange.response), None) for exchange in exchanges]

    def _trait(self, response: str) -> float:
        found = [pattern.search(response) is not None for pattern in self._patterns]
        return 100.0 * (sum(found) / len(found) if self._is_share else any(found))


def open_regex_judge(config: JudgeConfig, subject: Subject) -> RegexJudge:
    """`regex:PATTERN`, or the section's `patterns` of the trait; see `massact.judges.open_judge`."""
    patterns = (config.model,) if config.model else dict(config.patterns).get(subject.trait, ())
    if not patterns:
        raise ConfigError(
            f"the judge regex has no patterns for the trait {subject.trait}: write judge.patterns.{subject.trait}"
        )
    return RegexJudge(config.name, patterns, share=config.score == "share")
