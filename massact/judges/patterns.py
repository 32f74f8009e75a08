"""The judge `regex`: a trait score by regular expressions; no model, no network."""

import re
from collections.abc import Sequence

from massact.config import JudgeConfig
from massact.domain import JudgeIdentity
from massact.errors import ConfigError
from massact.judges import Exchange, Subject, Usage, Verdict
from massact.keys import digest

VERSION = 1  # raised with every change of how patterns are matched


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
        return [Verdict(self._trait(one.response), None) for one in exchanges]

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
