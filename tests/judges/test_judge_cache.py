"""The judge cache: shared by threads and processes, and never in the way when its file is bad."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from massact.domain import JudgeIdentity
from massact.judges import Exchange, Usage, Verdict
from massact.judges.caching import CachingJudge, JudgeCache

ROOT = Path(__file__).resolve().parents[2]


class Judge:
    """Scores by length, leaves `?` unscored, and keeps what it was asked."""

    def __init__(self, prompt_digest: str = "p") -> None:
        self.identity = JudgeIdentity("scripted", "m", prompt_digest)
        self.asked: list[Exchange] = []

    @property
    def usage(self) -> Usage:
        return Usage(calls=len(self.asked))

    def prepare(self) -> None:
        """Nothing to load."""

    def score(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
        self.asked += exchanges
        return [
            Verdict(None, None, "no idea") if one.response == "?" else Verdict(len(one.response) / 7, 50.0)
            for one in exchanges
        ]


def _cache(path: Path, said: list[str] | None = None) -> JudgeCache:
    return JudgeCache(path, say=(said if said is not None else []).append)


def _digest(n: int) -> bytes:
    return n.to_bytes(32, "big")


def test_another_command_is_given_what_the_first_was_told(tmp_path: Path) -> None:
    exchanges = [Exchange("q", text) for text in ("a", "bb", "?", "a")]
    first, second = Judge(), Judge()
    told = CachingJudge(first, _cache(tmp_path / "c.sqlite")).score(exchanges)
    caching = CachingJudge(second, _cache(tmp_path / "c.sqlite"))
    assert caching.score(exchanges) == told
    assert [one.response for one in first.asked] == ["a", "bb", "?"]
    assert [one.response for one in second.asked] == ["?"]  # what is missing is asked for again
    assert caching.usage == Usage(calls=1, cached=3)
    assert told[0] == Verdict(1 / 7, 50.0)  # to the last bit


def test_judges_questions_and_responses_are_kept_apart(tmp_path: Path) -> None:
    cache = _cache(tmp_path / "c.sqlite")
    CachingJudge(Judge(), cache).score([Exchange("ab", "c")])
    for judge, exchange in ((Judge("other"), Exchange("ab", "c")), (Judge(), Exchange("a", "bc"))):
        CachingJudge(judge, cache).score([exchange])
        assert judge.asked == [exchange]


def test_the_file_is_made_at_the_first_question_and_holds_no_text(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "c.sqlite"
    judge = CachingJudge(Judge(), _cache(path))
    assert not path.parent.exists()
    judge.score([Exchange("a secret question", "a secret response")])
    assert path.exists()
    content = b"".join(one.read_bytes() for one in path.parent.iterdir())
    assert b"secret" not in content


def test_a_check_is_remembered_and_replaced(tmp_path: Path) -> None:
    assert _cache(tmp_path / "c.sqlite").check("d") is None
    _cache(tmp_path / "c.sqlite").keep_check("d", "")
    assert _cache(tmp_path / "c.sqlite").check("d") == ""
    _cache(tmp_path / "c.sqlite").keep_check("d", "empty: coherence 90")
    assert _cache(tmp_path / "c.sqlite").check("d") == "empty: coherence 90"


def test_many_digests_at_once(tmp_path: Path) -> None:
    cache = _cache(tmp_path / "c.sqlite")
    cache.keep({_digest(n): Verdict(float(n), 1.0) for n in range(2000)})
    found = cache.verdicts([_digest(n) for n in range(3000)])
    assert len(found) == 2000
    assert found[_digest(1999)] == Verdict(1999.0, 1.0)


@pytest.mark.parametrize("damage", ["text", "middle", "tables"])
def test_a_damaged_file_is_moved_aside_and_begun_anew(tmp_path: Path, damage: str) -> None:
    path, said = tmp_path / "c.sqlite", list[str]()
    first = _cache(path)
    first.keep({_digest(n): Verdict(1.0, 2.0) for n in range(3000)})
    first.close()
    if damage == "text":
        path.write_bytes(b"this is no database at all, whatever its name may say" * 40)
    elif damage == "middle":
        content = bytearray(path.read_bytes())
        content[4096:-4096] = b"\xa5" * (len(content) - 8192)
        path.write_bytes(content)
    else:
        with sqlite3.connect(path) as connection:
            connection.execute("DROP TABLE verdicts")
    cache = _cache(path, said)
    cache.verdicts([_digest(n) for n in range(3000)])
    cache.keep({_digest(1): Verdict(3.0, 4.0)})
    assert cache.verdicts([_digest(1)]) == {_digest(1): Verdict(3.0, 4.0)}
    (warning,) = said
    assert "was damaged" in warning
    (aside,) = tmp_path.glob("c.sqlite.damaged-*[0-9]")
    assert aside.stat().st_size > 0


def test_a_database_of_something_else_is_left_alone(tmp_path: Path) -> None:
    path, said = tmp_path / "mlflow.db", list[str]()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE runs (id INTEGER)")
    before = path.read_bytes()
    cache = _cache(path, said)
    cache.keep({_digest(1): Verdict(1.0, 1.0)})
    assert cache.verdicts([_digest(1)]) == {}
    assert path.read_bytes() == before
    assert [("something else" in one, one.startswith("warning:")) for one in said] == [(True, True)]


def test_without_a_place_to_write_there_is_no_cache_and_one_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    said: list[str] = []
    judge = Judge()
    caching = CachingJudge(judge, _cache(tmp_path / "file" / "c.sqlite", said))
    for text in ("a", "b", "a"):
        assert caching.score([Exchange("q", text)])[0].scored
    assert len(judge.asked) == 2  # the memory of this command is still there
    assert len(said) == 1
    assert "no judge cache" in said[0]


def test_a_full_disk_is_no_obstacle(tmp_path: Path) -> None:
    said: list[str] = []
    cache = _cache(tmp_path / "c.sqlite", said)
    cache.keep({_digest(0): Verdict(1.0, 1.0)})
    assert cache._connection is not None
    pages = cache._connection.execute("PRAGMA page_count").fetchone()[0]
    cache._connection.execute(f"PRAGMA max_page_count = {pages}")  # as SQLite tells of a disk that is full
    cache.keep({_digest(n): Verdict(1.0, 1.0) for n in range(5000)})
    assert cache.verdicts([_digest(0)]) == {}
    assert len(said) == 1
    assert "full" in said[0]


def test_a_file_that_is_locked_for_long_is_passed_by_and_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("massact.judges.caching._BUSY_SECONDS", 0.05)
    path, said = tmp_path / "c.sqlite", list[str]()
    cache = _cache(path, said)
    cache.keep({_digest(0): Verdict(1.0, 1.0)})
    other = sqlite3.connect(path)
    other.execute("BEGIN IMMEDIATE")
    cache.keep({_digest(1): Verdict(1.0, 1.0)})
    cache.keep({_digest(2): Verdict(1.0, 1.0)})
    other.rollback()
    cache.keep({_digest(3): Verdict(1.0, 1.0)})
    assert set(cache.verdicts([_digest(n) for n in range(4)])) == {_digest(0), _digest(3)}
    assert [("busy" in one) for one in said] == [True]


def test_threads_share_one(tmp_path: Path) -> None:
    said: list[str] = []
    cache, errors = _cache(tmp_path / "c.sqlite", said), list[BaseException]()

    def work(k: int) -> None:
        try:
            for n in range(50):
                cache.keep({_digest(1000 * k + n): Verdict(float(n), 1.0)})
                assert cache.verdicts([_digest(1000 * k + n)])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert not said
    assert len(cache.verdicts([_digest(1000 * k + n) for k in range(6) for n in range(50)])) == 300


_WRITER = """
import sys
from pathlib import Path
from massact.judges import Verdict
from massact.judges.caching import JudgeCache
path, k, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
cache = JudgeCache(path, say=lambda line: print("SAID", line, flush=True))
n = 0
while n < count or count < 0:
    digest = (10**6 * k + n).to_bytes(32, "big")
    cache.keep({digest: Verdict(float(n), 1.0), n.to_bytes(32, "big"): Verdict(2.0, 3.0)})
    assert cache.verdicts([digest]) == {digest: Verdict(float(n), 1.0)}, n
    n += 1
    if n == 5:
        print("BEGUN", flush=True)
print("DONE", flush=True)
"""


def _start(path: Path, k: int, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(path), str(k), str(count)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_processes_share_a_file_from_its_making_on_and_one_is_killed_while_it_writes(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"
    victim = _start(path, 9, -1)
    writers = [_start(path, k, 60) for k in range(1, 5)]
    assert victim.stdout is not None
    assert victim.stdout.readline().strip() == "BEGUN"
    time.sleep(0.1)
    victim.send_signal(signal.SIGKILL)
    said = [process.communicate(timeout=60)[0].split() for process in writers]
    victim.communicate()
    assert said == [["BEGUN", "DONE"]] * 4
    warnings: list[str] = []
    cache = _cache(path, warnings)
    wanted = [_digest(10**6 * k + n) for k in range(1, 5) for n in range(60)]
    assert len(cache.verdicts(wanted)) == len(wanted)
    assert not warnings
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_processes_that_find_damage_at_once_move_it_aside_once(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"
    path.write_bytes(b"damaged" * 1000)
    writers = [_start(path, k, 40) for k in range(1, 5)]
    said = [process.communicate(timeout=60)[0] for process in writers]
    assert all("DONE" in one for one in said)
    assert sum("was damaged" in one for one in said) == 1
    assert len(list(tmp_path.glob("c.sqlite.damaged-*[0-9]"))) == 1
    wanted = [_digest(10**6 * k + n) for k in range(1, 5) for n in range(40)]
    assert len(_cache(path).verdicts(wanted)) == len(wanted)
