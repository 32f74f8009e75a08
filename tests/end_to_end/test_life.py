"""The page on the life of an evaluation names functions that are there, in few enough stays."""

import importlib
import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "life-of-an-evaluation.md"
_STAY = re.compile(r"^\| (\d+) \| `(massact\.[\w.]+)` \| (.+) \|$", re.MULTILINE)
MOST = 25


def _named(path: str) -> object:
    """The function or method of a dotted name."""
    parts = path.split(".")
    for n in range(len(parts) - 1, 0, -1):
        try:
            named: object = importlib.import_module(".".join(parts[:n]))
        except ModuleNotFoundError:
            continue
        for part in parts[n:]:
            named = getattr(named, part)
        return named
    raise AssertionError(path)


def test_the_stays_of_an_evaluation_are_functions_that_exist() -> None:
    stays = _STAY.findall(PAGE.read_text(encoding="utf-8"))
    assert [int(number) for number, _, _ in stays] == list(range(1, len(stays) + 1))
    assert 15 <= len(stays) <= MOST
    for _, name, _ in stays:
        assert callable(_named(name)), name
