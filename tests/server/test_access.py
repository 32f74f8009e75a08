"""What each role and each grant allows on a server with logins: the tables of docs/access.md, cell by cell."""

import re
from pathlib import Path

import pytest

from massact.errors import StoreError
from tests.support.access_actions import ACTIONS
from tests.support.access_server import ADMIN, FILE, NAMES, Who, World

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


def _tables() -> list[list[dict[str, str]]]:
    """The tables of the page that have an action in each row: cells by the column's name."""
    text = (ROOT / "docs/access.md").read_text(encoding="utf-8")
    found = []
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        head, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in block.splitlines()]
        if head[0] == "action":
            found.append([dict(zip(head, row, strict=True)) for row in rows])
    return found


ROLES, GRANTED = _tables()


def test_every_action_of_the_table_is_tried() -> None:
    assert [row["action"] for row in ROLES] == list(ACTIONS)


@pytest.mark.parametrize("row", ROLES, ids=[row["action"] for row in ROLES])
def test_roles(world: World, row: dict[str, str]) -> None:
    found = {"action": row["action"]}
    for name, who in world.people.items():
        answer = ACTIONS[row["action"]](world, who)
        found[name] = {401: "401", 403: "no"}.get(answer.status_code, "yes" if answer.ok else answer.text)
    assert found == row


@pytest.mark.parametrize("may", ["nothing", "read", "write", "manage"])
def test_grants(world: World, may: str) -> None:
    who = world.people["writer"]
    name = next(NAMES)
    experiment = world.make_experiment(name)
    run = world.make_run(experiment)
    evaluation = world.make_evaluation(experiment, experiment=name)
    with world.server.users(ADMIN) as known:
        known.grant("walt", name, "manage")  # replaced by the next
        known.grant("walt", name, may)
    ask, post = world.server.ask, world.post
    found = {
        "get answers of the query API from it": evaluation in world.ask_query_api(who, name).text,
        "find it in a search": name in post(who, "experiments/search", max_results=1000).text,
        "read its runs and artifacts": all(
            (
                run in post(who, "runs/search", experiment_ids=[experiment]).text,
                ask(who, "GET", world.file(run, experiment)).content == FILE,
            )
        ),
        "log to its runs, upload artifacts": all(
            (
                post(who, "runs/set-tag", run_id=run, key="k", value="v").ok,
                ask(who, "PUT", world.file(run, experiment), data=FILE).ok,
            )
        ),
        "grant others rights on it": _may_grant(world, who, name),
        "delete its runs, or itself": all(
            (post(who, "runs/delete", run_id=run).ok, post(who, "experiments/delete", experiment_id=experiment).ok)
        ),
    }
    assert found == {row["action"]: row[may] == "yes" for row in GRANTED}


def _may_grant(world: World, who: Who, experiment: str) -> bool:
    assert who is not None
    with world.server.users(who) as known:
        try:
            known.grant("rita", experiment, "read")
        except StoreError:
            return False
    return True
