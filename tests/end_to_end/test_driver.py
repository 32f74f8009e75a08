"""What the driver of sweeps counts and what is left of a plan; what it does is tested through the commands."""

from dataclasses import asdict, fields

from massact.domain import Cell, Generation, JudgeIdentity, ModelIdentity, Setting
from massact.evaluation import PlannedCell
from massact.sweep.driver import Plan, Tally
from massact.sweep.reuse import Same

IDENTITY = JudgeIdentity("scripted", "m", "p")
SETTING = Setting(ModelIdentity("tiny", "0", "float32"), "trait", "t", "q", 0, "c", Generation(4), IDENTITY)
CELL = PlannedCell(Cell(SETTING, None), None)


def test_a_tally_adds_every_count() -> None:
    ones = Tally(**{each.name: 1 for each in fields(Tally)})
    total = Tally(**{each.name: 2 for each in fields(Tally)})
    total.add(ones)
    assert set(asdict(total).values()) == {3}


def test_what_is_left_of_a_plan_is_told_as_before() -> None:
    plan = Plan(5, dict.fromkeys("abc", CELL), {"b": Same("probe", "a", 0.999)}, {"a": "run", "c": "other"})
    assert len(plan.todo) == 2
    left = plan.only(["b", "c"])
    assert (left.n_wanted, list(left.cells), list(left.same), left.stored) == (5, ["b", "c"], ["b"], {"c": "other"})
    assert left.todo == [CELL]
