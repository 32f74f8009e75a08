"""What people see, in a real browser: the report in both themes and on a phone, and the MLflow UI.

`MASSACT_DEMO` names a folder where the demo has run; without it a small plan is run. Screenshots go to the
folder that `MASSACT_SCREENSHOTS` names.
"""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from massact.report.page import build_report
from massact.store.schema import Kind, Tag
from tests.support.browser import PATIENCE_SECONDS, Page, chromium, needs_chromium
from tests.support.prepared import PreparedStores
from tests.support.report_rows import calibration, report_input, sample, toy_rows
from tests.support.small_plan import EXPERIMENT
from tests.support.store_fixtures import tracking_server

pytestmark = [pytest.mark.slow, needs_chromium]

HOSTILE = "<script>window.ran = 1; document.title = 'ran'</script><img src=http://127.0.0.1:9/x onerror='window.ran=1'>"
UNFOLD = "document.querySelectorAll('details').forEach(one => { one.open = true })"
SCREENS = {"light": (1280, 900, False), "dark": (1280, 900, True), "phone": (390, 844, False)}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("chromium")) as page:
        yield page


@pytest.fixture(scope="module")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    named = os.environ.get("MASSACT_SCREENSHOTS")
    return Path(named) if named else tmp_path_factory.mktemp("screenshots")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, prepared_stores: PreparedStores) -> Path:
    """A folder where the whole plan has run: `mlflow.db`, and a report under `reports/`."""
    demo = os.environ.get("MASSACT_DEMO")
    if demo:
        return Path(demo)
    folder = tmp_path_factory.mktemp("plan")
    prepared_stores.finished(EXPERIMENT, folder)
    return folder


@pytest.fixture(scope="module")
def ui(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of an MLflow server over a copy of that store."""
    folder = tmp_path_factory.mktemp("ui")
    shutil.copy(finished / "mlflow.db", folder / "mlflow.db")
    with tracking_server(f"sqlite:///{folder}/mlflow.db", folder) as address:
        yield address


def _report_of(finished: Path) -> Path:
    (report,) = (finished / "reports").glob("*/report.html")
    return report


@pytest.mark.parametrize("screen", SCREENS)
def test_the_report_shows_every_figure_and_asks_the_network_for_nothing(
    page: Page, finished: Path, screenshots: Path, screen: str
) -> None:
    width, height, is_dark = SCREENS[screen]
    page.show(width, height, dark=is_dark, phone=screen == "phone")
    page.open(_report_of(finished).as_uri())
    page.screenshot(screenshots / f"report-{screen}.png", whole=False)
    page.run(UNFOLD)
    figures = page.run("""[...document.querySelectorAll('figure svg')].map(svg => ({
        alt: svg.getAttribute('aria-label') || '', drawn: svg.querySelectorAll('path, use').length,
        width: svg.getBoundingClientRect().width, height: svg.getBoundingClientRect().height}))""")
    assert len(figures) >= 4
    assert all(one["alt"] and one["drawn"] > 20 and one["width"] > 300 and one["height"] > 100 for one in figures)
    assert page.requests == [_report_of(finished).as_uri()]
    assert page.console == []
    # nothing but what scrolls in its own box is wider than the screen
    assert page.run("document.documentElement.scrollWidth") <= width


def test_the_first_screen_answers_and_the_rest_is_folded(page: Page, finished: Path) -> None:
    page.show(1500, 1000)
    address = _report_of(finished).as_uri()
    page.open(address)
    below = "(css => document.querySelector(css).getBoundingClientRect().bottom)"
    assert page.run(f"{below}('#glance .matrix')") <= 1000
    assert page.run(f"{below}('#glance figure svg')") <= 1000
    assert page.run("document.querySelectorAll('#glance > ul > li').length") <= 5
    # the winner of each place is starred, and nothing is starred twice
    columns = "document.querySelector('.matrix').tHead.rows[0].cells.length - 1"
    assert page.run("document.querySelectorAll('.matrix td.winner .star').length") <= page.run(columns)
    inside = """[...document.querySelectorAll('.matrix .bar i')].every(bar => {
        const [a, b] = [bar, bar.parentElement].map(e => e.getBoundingClientRect());
        return a.left >= b.left - 2 && a.right <= b.right + 2; })"""
    assert page.run(inside)
    folded = page.run("document.documentElement.scrollHeight")
    page.run(UNFOLD)
    assert folded <= page.run("document.documentElement.scrollHeight") / 3
    page.open(f"{address}#best")
    assert page.run("[...document.querySelectorAll('details[open]')].map(one => one.id)") == ["best"]
    page.run("dispatchEvent(new Event('beforeprint'))")
    assert page.run("document.querySelectorAll('details:not([open])').length") == 0
    page.run("dispatchEvent(new Event('afterprint'))")
    assert page.run("[...document.querySelectorAll('details[open]')].map(one => one.id)") == ["best"]


def test_text_can_be_told_from_its_ground_in_both_themes(page: Page, finished: Path) -> None:
    contrast = """(() => {
        const part = v => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
        const light = c => { const [r, g, b] = c.match(/[\\d.]+/g).map(Number);
                             return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b); };
        const ground = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
                              if (c !== 'rgba(0, 0, 0, 0)') return c; } return 'rgb(255, 255, 255)'; };
        const found = [];
        for (const e of document.querySelectorAll('p, li, td, th, h1, h2, h3, a, code, caption, figcaption, small')) {
            if (!e.textContent.trim()) continue;
            const [a, b] = [light(getComputedStyle(e).color), light(ground(e))].sort((x, y) => y - x);
            if ((a + 0.05) / (b + 0.05) < 4.5) found.push(e.outerHTML.slice(0, 80));
        }
        return found; })()"""
    for is_dark in (False, True):
        page.show(1280, 900, dark=is_dark)
        page.open(_report_of(finished).as_uri())
        page.run(UNFOLD)
        assert page.run(contrast) == [], f"less than 4.5 : 1, dark {is_dark}"


def test_a_table_sorts_by_its_numbers_and_back(page: Page, finished: Path) -> None:
    page.show(1280, 900)
    page.open(_report_of(finished).as_uri())
    table = "[...document.querySelectorAll('#best table')][0]"
    column = "[...t.tHead.rows[0].cells].findIndex(c => c.textContent.startsWith('coefficient'))"
    read = f"(t => {{ const i = {column}; return [...t.tBodies[0].rows].map(r => r.cells[i].textContent) }})({table})"
    click = f"(t => t.tHead.rows[0].cells[{column}].querySelector('button').click())({table})"
    written = page.run(read)
    seen = []
    for _ in range(3):
        page.run(click)
        seen.append(page.run(read))
    numbers = [[float(text.split()[0]) for text in some if text != "\N{EM DASH}"] for some in seen]
    assert numbers[0] == sorted(numbers[0], reverse=True)
    assert numbers[1] == sorted(numbers[1])
    assert seen[2] == written
    for some in seen[:2]:  # what is missing comes last, whichever way
        lacking = [text == "\N{EM DASH}" for text in some]
        assert lacking == sorted(lacking)


def test_what_a_model_wrote_stays_text(page: Page, tmp_path: Path) -> None:
    rows = [one for one in toy_rows() if one.row.model == "toy-gemma-3"]
    samples = (sample(title=HOSTILE, question=HOSTILE, response=HOSTILE),)
    given = report_input(rows, samples=samples, calibrations={"toy-gemma-3": calibration()})
    file = tmp_path / "report.html"
    file.write_text(build_report(given).html, encoding="utf-8")
    page.show(1280, 900)
    page.open(file.as_uri())
    page.run(UNFOLD)
    assert page.run("window.ran") is None
    assert page.run("document.title").endswith("massact report")
    assert "<script>window.ran = 1;" in page.run("document.querySelector('#samples').innerText")
    assert page.requests == [file.as_uri()]


def test_it_prints_on_paper(page: Page, finished: Path, screenshots: Path) -> None:
    page.show(1280, 900, dark=True)
    page.open(_report_of(finished).as_uri())
    screenshots.mkdir(parents=True, exist_ok=True)
    page.pdf(screenshots / "report.pdf")
    assert (screenshots / "report.pdf").read_bytes().startswith(b"%PDF")
    page.media("print")
    assert page.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    figures = "[...document.querySelectorAll('figure svg')].map(svg => svg.getBoundingClientRect().height)"
    assert min(page.run(figures)) > 100, "what is folded is printed too"
    page.media("")


def _ids(finished: Path, query: str) -> list[str]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{finished}/mlflow.db")
    experiments = [one.experiment_id for one in client.search_experiments() if one.experiment_id != "0"]
    return [run.info.run_id for run in client.search_runs(experiments, query, order_by=["metrics.delta DESC"])]


def _experiment(finished: Path) -> str:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{finished}/mlflow.db")
    return next(one.experiment_id for one in client.search_experiments() if one.experiment_id != "0")


def test_the_ui_lists_evaluations_by_delta_above_the_floor(
    page: Page, ui: str, finished: Path, screenshots: Path
) -> None:
    page.show(1600, 1000)
    page.open(
        f"{ui}/#/experiments/{_experiment(finished)}/runs?workflowType=machine_learning&viewStateShareKey=evaluations"
    )
    rows = "[...document.querySelectorAll('.ag-row a[href*=\"/runs/\"]')].map(a => a.href.split('/runs/')[1])"
    page.wait_for(f"({rows}).length > 0")
    best = _ids(finished, f"tags.`{Tag.KIND}` = '{Kind.EVALUATION}' and metrics.coherence_mean >= 68")
    shown = page.run(rows)
    page.screenshot(screenshots / "ui-evaluations.png", whole=False)
    assert best[0] in shown[:2]  # the grid's rows are not in the order of the page
    headers = page.run("document.querySelector('.ag-header').innerText")
    for name in ("coefficient", "coherence_mean", "delta"):
        assert name in headers
    # and the description leads there
    links = "[...document.querySelectorAll('a[target=_blank][href*=viewStateShareKey]')].map(a => a.textContent)"
    assert page.run(links) == ["evaluations by delta above the floor", "phases"]


def test_the_ui_shows_phases_with_their_tables_and_curves(
    page: Page, ui: str, finished: Path, screenshots: Path
) -> None:
    page.show(1600, 1000)
    experiment = _experiment(finished)
    page.open(f"{ui}/#/experiments/{experiment}/runs?workflowType=machine_learning&viewStateShareKey=phases")
    page.wait_for("document.body.innerText.includes('main')")
    page.screenshot(screenshots / "ui-phases.png", whole=False)
    (phase,) = _ids(finished, f"tags.`{Tag.PHASE}` = 'phase2'")[:1]
    page.open(f"{ui}/#/experiments/{experiment}/runs/{phase}")
    page.wait_for("document.body.innerText.includes('Phase 2: clean-before against clean-after')")
    page.screenshot(screenshots / "ui-phase2.png", whole=False)
    page.open(f"{ui}/#/experiments/{experiment}/runs/{phase}/model-metrics")
    page.wait_for("document.querySelectorAll('.js-plotly-plot .scatterlayer path.js-line').length >= 2")
    page.screenshot(screenshots / "ui-curves.png", whole=False)


def _is_drawn(page: Page, file: Path) -> bool:
    """Whether there is more than one color in the frame, of which the page around it may read nothing."""
    page.screenshot(file, whole=False)
    frame = "document.querySelector('iframe').getBoundingClientRect()"
    box = page.run(f"(({{x, y, right, bottom}}) => [x, y, right, bottom])({frame})")
    with Image.open(file) as picture:
        return len(picture.crop(box).convert("RGB").getcolors(1 << 24) or ()) > 1


def test_the_ui_shows_the_report_and_the_responses(page: Page, ui: str, finished: Path, screenshots: Path) -> None:
    page.show(1600, 1000)
    experiment = _experiment(finished)
    report = _ids(finished, f"tags.`{Tag.KIND}` = '{Kind.REPORT}'")[0]
    page.open(f"{ui}/#/experiments/{experiment}/runs/{report}/artifacts/report.html")
    page.wait_for("document.querySelector('iframe') !== null")
    page.wait_for("document.querySelector('iframe').getBoundingClientRect().height > 300")
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not _is_drawn(page, screenshots / "ui-report.png"):
        assert time.monotonic() < deadline, "the report's frame stays empty"
    best = _ids(finished, f"tags.`{Tag.KIND}` = '{Kind.EVALUATION}' and metrics.coherence_mean >= 68")[0]
    page.open(f"{ui}/#/experiments/{experiment}/runs/{best}/artifacts/responses.json")
    page.wait_for("document.body.innerText.includes('trait_score')")
    page.screenshot(screenshots / "ui-responses.png", whole=False)
    text = page.run("document.body.innerText")
    for column in ("question", "response", "trait_score", "coherence_score"):
        assert column in text
