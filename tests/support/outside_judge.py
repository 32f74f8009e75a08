"""A judge that is no part of massact and can only score."""

from collections.abc import Sequence

from massact.config import JudgeConfig
from massact.judges import Exchange, Subject, Verdict


class LengthJudge:
    """Scores by length: 1 a character."""

    def __init__(self, config: JudgeConfig, subject: Subject) -> None:
        self.told = (config, subject)

    def score(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
        scores = [min(100.0, float(len(one.response))) for one in exchanges]
        return [Verdict(score, score) for score in scores]
