"""Cells for the tests of sweeps."""

from massact.domain import Cell, Generation, JudgeIdentity, ModelIdentity, Recipe, Setting, Steering
from massact.evaluation import PlannedCell
from tests.support.tiny import unit

IDENTITY = JudgeIdentity("scripted", "m", "p")

SETTING = Setting(ModelIdentity("tiny", "0", "float32"), "trait", "t", "q", 0, "c", Generation(4), IDENTITY)


def cells(n: int) -> list[PlannedCell]:
    def one(i: int) -> PlannedCell:
        steering = Steering(str(i), "response[:5]", Recipe("probe"), 1, float(i), "positive")
        return PlannedCell(Cell(SETTING, steering), unit(i))

    return [one(i) for i in range(n)]
