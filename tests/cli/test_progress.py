"""Progress where stderr is no terminal."""

import pytest

from massact.cli import session


def test_lines_of_progress_say_what_is_done_and_how_long_the_rest_takes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter((0.0, 20.0, 40.0, 45.0, 60.0, 80.0))
    monkeypatch.setattr("massact.cli.session.time.monotonic", lambda: next(clock))
    with session.show_bar("reading", 40) as advance:
        for n in (0, 2, 2, 16, 20):
            advance(n)
    assert capsys.readouterr().err.splitlines() == [
        "reading: 0 of 40",
        "reading: 2 of 40",
        "reading: 20 of 40, about 60 s left",
    ]
