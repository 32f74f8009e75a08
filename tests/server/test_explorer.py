"""The explorer in a real browser: what it says is what `massact best` says, and a click leads to what was said.

Screenshots go to the folder that `MASSACT_SCREENSHOTS` names.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.browser import Page, chromium, needs_chromium
from tests.support.prepared import PreparedStores
from tests.support.processes import Process
from tests.support.small_plan import EXPERIMENT, Place, model_server
from tests.support.store_fixtures import tracking_server

pytestmark = [pytest.mark.slow, needs_chromium]

ASKED = EXPERIMENT.replace("subset: 2", "subset: 4")
"""Of fewer than three questions nobody can tell what is tied."""
HOSTILE = "<script>window.ran = 1</script><img src=http://127.0.0.1:9/x onerror='window.ran = 1'>\x1b[2J\u202eback"
SCREENS = {"light": (1400, 1000, False), "dark": (1400, 1000, True), "phone": (390, 844, False)}
SETTLED = "document.querySelector('#map .main-svg') && !document.getElementById('status').textContent"
TIED = "document.getElementById('verdict').textContent.includes('ied with it')"
ENTER, TAB, RIGHT = ("Enter", 13, "\r"), ("Tab", 9), ("ArrowRight", 39)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("chromium")) as page:
        page.show(1400, 1000)
        yield page


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, prepared_stores: PreparedStores) -> Place:
    folder = tmp_path_factory.mktemp("explored")
    prepared_stores.finished(ASKED, folder)
    return Place(folder)


@pytest.fixture(scope="module")
def explorer(place: Place) -> Iterator[str]:
    """Address of the page, with its experiment."""
    with exploring(place, "small.yaml") as address:
        yield address


class exploring:  # noqa: N801  # a context manager
    """`massact explore` on a place's store."""

    def __init__(self, place: Place, experiment: str) -> None:
        line = ("explore", "--experiment", experiment, "--port", "0")
        self._process = Process("massact", *line, cwd=place.folder, env=place.environment)

    def __enter__(self) -> str:
        assert self._process.stdout is not None
        return re.findall(r"explorer: (\S+)", self._process.stdout.readline())[0]

    def __exit__(self, *_: object) -> None:
        self._process.kill()


def show(page: Page, address: str, **more: str) -> None:
    page.open(address + "".join(f"&{name}={value}" for name, value in more.items()))
    page.wait_for(SETTLED)
    page.wait_for(TIED)


def cells(page: Page, rows: str) -> list[list[str]]:
    """The texts of a table."""
    listed = f"[...document.querySelectorAll({rows!r})].map((row) => [...row.cells].map((cell) => cell.textContent))"
    found: list[list[str]] = page.run(listed)
    return found


def text(page: Page, name: str) -> str:
    return str(page.run(f"document.getElementById({name!r}).textContent"))


def best(place: Place, floor: float | str) -> list[dict[str, Any]]:
    told = place.run("best", "--format", "json", "--floor", str(floor)).stdout
    return [row for row in json.loads(told)["rows"] if row["run_id"]]


def slide(page: Page, floor: int) -> None:
    page.run(f"(() => {{ const s = document.getElementById('floor'); s.value = {floor}; "
             "s.dispatchEvent(new Event('input')) })()")  # fmt: skip
    page.wait_for(f"location.hash.includes('floor={floor}')")


def test_at_every_floor_it_says_what_best_says(explorer: str, place: Place, page: Page) -> None:
    show(page, explorer)
    for floor in (68, 0, 90):
        slide(page, floor)
        rows = best(place, floor)
        verdict, table = text(page, "verdict"), cells(page, "#bests tbody tr")
        shown = {row[1].split(" ")[1]: row[2] for row in table if row[2] != "gap"}
        assert shown == {row["label"]: row["standing"] for row in rows}
        if not rows:
            assert verdict == f"Nothing is at or above the floor {floor}."
            continue
        winner = next(row for row in rows if row["standing"] == "winner")
        where = f"{winner['label']}, layer {winner['layer']}, coefficient {winner['coefficient']:g}: delta "
        assert verdict.startswith(f"Best at floor {floor}: {where}{winner['delta']:+.1f}".replace(" -", " −"))
        tied = {row["label"] for row in rows if row["standing"] == "tied"}
        assert set(re.findall(r"[a-z_0-9]+(?=[,.])", verdict.partition("Tied with it:")[2])) == tied
    assert page.console == []
    assert {url.partition("/massact/")[0] for url in page.requests if url.startswith("http")} == {
        explorer.partition("/massact/")[0]
    }


def test_the_floor_may_be_of_any_metric(explorer: str, place: Place, page: Page) -> None:
    show(page, explorer)
    change = "s.value = 'kl<='; s.dispatchEvent(new Event('change'))"
    page.run(f"(() => {{ const s = document.getElementById('rule'); {change} }})()")
    page.wait_for("location.hash.includes('rule=kl')")
    limit = float(page.run("new URLSearchParams(location.hash.slice(1)).get('rule')").removeprefix("kl<="))
    for step, share in ((68, 1), (84, 0.5), (2, 98 / 32)):
        slide(page, step)
        page.wait_for(TIED + " || document.getElementById('verdict').textContent.startsWith('Nothing is at')")
        rows = best(place, f"kl<={limit * share!r}")
        table = cells(page, "#bests tbody tr")
        assert {row[1].split(" ")[1]: row[2] for row in table if row[2] != "gap"} == {
            row["label"]: row["standing"] for row in rows
        }
        assert text(page, "floor-shown") == f"kl ≤ {float(f'{limit * share:.4g}'):g}"
    kept = page.run("location.href")
    change = "s.value = 'coherence>='; s.dispatchEvent(new Event('change'))"
    page.run(f"(() => {{ const s = document.getElementById('rule'); {change} }})()")
    page.wait_for("!location.hash.includes('rule=')")  # the experiment's own again
    page.open(kept)  # the address holds it
    page.wait_for("document.getElementById('floor-shown').textContent.startsWith('kl')")
    assert page.run("document.getElementById('rule').value") == "kl<="
    assert page.console == []


def point(page: Page, chart: str, run: str) -> tuple[float, float]:
    """Where a chart draws the best of a label, in pixels of the screen."""
    x, y = page.run(f"""(() => {{
      const circle = document.querySelector(`#{chart} .over [data-run="{run}"]`);
      circle.scrollIntoView({{ block: "center" }});
      const box = circle.getBoundingClientRect();
      return [box.x + box.width / 2, box.y + box.height / 2];
    }})()""")
    return x, y


SAID = "[...document.querySelectorAll('#responses .said')].map((one) => one.textContent)"
ANSWERED = "document.querySelectorAll('#responses .said').length > 0"


@pytest.mark.parametrize("chart", ["tradeoff", "map"])
def test_a_click_on_a_point_shows_what_was_said_beside_the_unsteered(
    explorer: str, place: Place, page: Page, chart: str
) -> None:
    show(page, explorer)
    winner = next(row for row in best(place, 68) if row["standing"] == "winner")
    place_there = point(page, chart, winner["run_id"])
    page.point(*place_there)
    for other in ("tradeoff", "curve"):  # ringed in every chart that shows its label
        page.wait_for(f"document.querySelector(`#{other} .over .pointed`) !== null")
    page.click(*place_there)
    page.wait_for(ANSWERED)
    run = page.run("new URLSearchParams(location.hash.slice(1)).get('run')")
    told = json.loads(place.run("show", run, "--format", "json").stdout)
    assert (told["delta"], told["coherence_mean"]) == (winner["delta"], winner["coherence_mean"])
    pairs = [(one["unsteered"]["response"], one["steered"]["response"]) for one in told["responses"]]
    assert page.run(SAID) == [response for pair in pairs for response in pair]
    scores = page.run("[...document.querySelectorAll('#responses .quiet')].map((one) => one.textContent)")
    first = told["responses"][0]["steered"]
    assert scores[1] == f"steered: trait {first['trait']:.1f}, coherence {first['coherence']:.1f}"
    assert told["label"] in text(page, "evaluation-title")
    assert f"coherence {told['coherence_mean']:.1f}" in text(page, "evaluation-scores")
    assert "cell.trait_digest" in text(page, "identity")
    for other in ("tradeoff", "map", "curve"):
        page.wait_for(f"document.querySelector(`#{other} .over .opened[data-run='{run}']`) !== null")
    assert page.console == []


def test_the_address_holds_the_choice_and_two_evaluations_differ_as_a_table(
    explorer: str, place: Place, page: Page
) -> None:
    runs = json.loads(place.run("runs", "--format", "json", "--label", "probe").stdout)["rows"]
    choice = {"floor": "70", "metric": "trait", "x": "relative_strength", "without": "mean_diff", "label": "probe"}
    show(page, explorer, **choice, run=runs[0]["run_id"])
    page.wait_for("!document.getElementById('evaluation').hidden")
    assert page.run("document.getElementById('metric').value + document.getElementById('floor').value") == "trait70"
    assert page.run("document.querySelector(\"[aria-label='show mean_diff']\").checked") is False
    page.run("document.getElementById('pin').click()")
    page.run(f"document.getElementById({'stronger' if runs[0]['coefficient'] == 16 else 'weaker'!r}).click()")
    page.wait_for("!document.getElementById('differences').hidden")
    fields = cells(page, "#differences tr")
    by_name = {name: values for name, *values in fields}
    assert by_name["coefficient"] == [f"{runs[0]['coefficient']:g}", f"{runs[1]['coefficient']:g}"]
    assert by_name["run_id"] == [runs[0]["run_id"], runs[1]["run_id"]]
    assert not {"label", "layer", "model", "judge"} & by_name.keys()
    address = page.run("location.href")
    page.open(address)
    page.wait_for("!document.getElementById('differences').hidden")
    assert page.run("location.href") == address


def test_with_the_keyboard_alone(explorer: str, page: Page) -> None:
    show(page, explorer)
    for _ in range(30):
        page.press(*TAB)
        if page.run("document.activeElement.id") == "floor":
            break
    page.press(*RIGHT)
    page.wait_for("location.hash.includes('floor=69')")
    for _ in range(30):
        page.press(*TAB)
        if str(page.run("document.activeElement.getAttribute('aria-label')")).startswith("open the best of"):
            break
    page.press(*ENTER)
    page.wait_for(ANSWERED)
    assert page.run("document.activeElement.id") == "evaluation"


@pytest.mark.parametrize("screen", SCREENS)
def test_on_every_screen(explorer: str, page: Page, screen: str, tmp_path: Path) -> None:
    width, height, dark = SCREENS[screen]
    page.show(width, height, dark=dark, phone=screen == "phone")
    try:
        show(page, explorer)
        page.run("document.querySelector(\"[aria-label^='open the best of']\").click()")
        page.wait_for(ANSWERED)
        assert page.run("document.documentElement.scrollWidth <= innerWidth")
        ground = [int(part) for part in re.findall(r"\d+", page.run("getComputedStyle(document.body).backgroundColor"))]
        assert (sum(ground[:3]) < 200) == dark
        ink = page.run("document.querySelector('#tradeoff .xtick text').style.fill")
        assert (sum(int(part) for part in re.findall(r"\d+", ink)[:3]) > 600) == dark
        page.run("document.querySelector('header').style.position = 'static'")
        page.screenshot(Path(os.environ.get("MASSACT_SCREENSHOTS", tmp_path)) / f"explorer-{screen}.png")
        assert page.console == []
    finally:
        page.show(1400, 1000)


def test_hostile_responses_are_text_and_a_running_sweep_fills_in(
    tmp_path: Path, place: Place, page: Page, prepared_stores: PreparedStores
) -> None:
    prepared_stores.finished(ASKED, tmp_path)
    mine = Place(tmp_path)
    winner = next(row for row in best(mine, 68) if row["standing"] == "winner")
    (file,) = tmp_path.glob(f"mlruns/*/{winner['run_id']}/artifacts/responses.json")
    table = json.loads(file.read_text())
    table["data"][0][:2] = [HOSTILE, HOSTILE]
    file.write_text(json.dumps(table))
    with exploring(mine, "small.yaml") as address:
        show(page, address, run=winner["run_id"])
        page.wait_for(ANSWERED)
        assert page.run("document.querySelector('#responses .asked').textContent") == HOSTILE.replace(
            "\x1b", "\\u001b").replace("\u202e", "\\u202e")  # fmt: skip
        assert page.run("[window.ran === undefined, document.querySelector('#responses img') === null]") == [True, True]
        count = "document.getElementById('curve').data[0].x.length"
        before = page.run(count)
        line = ("--method", "probe", "--position", "response[:5]", "--layers", "3", "--coefficients", "20")
        mine.run("evaluate", "--experiment", "small.yaml", *line)
        page.run("document.getElementById('label').value = 'probe'")
        page.wait_for("document.getElementById('curve').data.some((one) => one.name === 'probe' && one.x.length === 3)")
        assert before == 2
        assert not any("9/x" in url for url in page.requests)


def test_trying_it_beside_a_model_server(explorer: str, place: Place, page: Page) -> None:
    winner = next(row for row in best(place, 68) if row["standing"] == "winner")
    with model_server(place, "key") as (_, api):
        show(page, explorer, run=winner["run_id"])
        page.wait_for(ANSWERED)
        fields = "['address', 'key', 'start'].map((id) => document.getElementById(id))"
        filled = f"{fields}.map((one) => one.value ?? one.textContent)"
        page.run("document.getElementById('try').open = true")
        page.wait_for("document.getElementById('start').textContent")
        start = "massact serve-model --experiment FILE.yaml --model toy"
        assert page.run(filled) == [api.removesuffix("/v1"), "", start]  # what the server told beside the database
        page.run("document.getElementById('key').value = 'key'; document.getElementById('ask').requestSubmit()")
        page.wait_for("document.querySelectorAll('#answers .said').length === 2")
        said = page.run("[...document.querySelectorAll('#answers .said')].map((one) => one.textContent)")
        shown = page.run("[...document.querySelectorAll('#responses .said')].slice(0, 2).map((one) => one.textContent)")
        assert said == shown  # greedy, as the sweep heard it
        show(page, explorer, run=winner["run_id"])
        page.wait_for(ANSWERED)
        page.run("document.getElementById('try').open = true")
        page.wait_for("document.getElementById('key').value === 'key'")  # kept for this tab
        page.run("document.getElementById('key').value = 'another'; document.getElementById('ask').requestSubmit()")
        page.wait_for("document.getElementById('answers').textContent.includes('no such key')")


def test_on_a_tracking_server_it_links_to_mlflow(place: Place, page: Page, tmp_path: Path) -> None:
    shutil.copy(place.folder / "mlflow.db", tmp_path / "mlflow.db")
    winner = next(row for row in best(place, 68) if row["standing"] == "winner")
    with tracking_server(f"sqlite:///{tmp_path}/mlflow.db", tmp_path, app="massact", prefix="/lab") as address:
        show(page, f"{address}/massact/#experiment=small", run=winner["run_id"])
        page.wait_for(ANSWERED)
        page.open(page.run("document.getElementById('run-link').href"))
        page.wait_for(f"location.href.includes('/experiments/') && location.href.includes({winner['run_id']!r})")
