"""The report in a real browser: whatever models, files and judges wrote is shown as text and never runs."""

import html
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from massact.query import Answers, Evaluations
from massact.report.evidence import Provenance
from massact.report.page import build_report
from massact.store.read.base import Stored
from tests.support.report_rows import behaves, calibration, experiment, report_input, row, sample

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")]
RAN = "it ran"
HOSTILE = (
    f"""</title></style></text></svg></blockquote><script>document.title="{RAN}"</script>"""
    f"""<img src="x" onerror="document.title='{RAN}'"><svg onload="document.title='{RAN}'"></svg>"""
    f"""<iframe srcdoc="<script>parent.document.title='{RAN}'</script>"></iframe>' " `code` $x^2$ &lt;b&gt; ]]>"""
)
POLICY = re.compile(r"<meta http-equiv=\"Content-Security-Policy\"[^>]*>")


class _Page(HTMLParser):
    """What a page consists of."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.attributes: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes.update(name for name, _ in attrs)

    def handle_data(self, data: str) -> None:
        self.text += data


def _title_and_page(content: str, folder: Path) -> tuple[str, str]:
    """The title after a page has run, and what has become of it."""
    file = folder / "page.html"
    file.write_text(content, encoding="utf-8")
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000"]
    options += [f"--user-data-dir={folder / 'profile'}", "--dump-dom", file.as_uri()]
    done = subprocess.run([str(CHROMIUM), *options], capture_output=True, text=True, timeout=120, check=False)
    found = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    return html.unescape(found[1]), done.stdout


def _report(text: str) -> str:
    """A report with a text wherever others' text may stand."""
    given = experiment()
    first, *others = given.models
    given = replace(given, name=text, description=text, models=(replace(first, name=text), *others))
    values = {
        "model": text,
        "model_id": text,
        "judge": text,
        "judge_model": text,
        "trait": "refusal",
        "experiment": text,
    }
    cells = [(label, layer, c) for label in ("probe", "mean_diff") for layer in (2, 3) for c in (4.0, 8.0, 12.0)]
    rows = [
        replace(stored, row=replace(stored.row, **values))
        for stored in (behaves(row(label=label, layer=layer, coefficient=c)) for label, layer, c in cells)
    ]
    failure = Stored("run", "FAILED", 5, rows[0].row, text)
    answers = Answers(
        evaluations=Evaluations.of(tuple(rows)), groups=given.groups(), coefficient_ranges={}, failures=(failure,)
    )
    return build_report(
        report_input(
            rows,
            experiment=given,
            answers=answers,
            calibrations={text: calibration()},
            samples=(sample(title=text, question=text, response=text),),
            provenance=Provenance(n_evaluations=12, git_commit=text, versions={text: text}),
            run_link=lambda run: f"http://ui/{run}?{text}",
        )
    ).html


def test_the_browser_would_run_what_is_not_escaped(tmp_path: Path) -> None:
    title, _ = _title_and_page(f"<!DOCTYPE html><title>a</title><p>{HOSTILE}</p>", tmp_path)
    assert title == RAN


@pytest.mark.parametrize("has_policy", [True, False], ids=["as it is", "without its policy"])
def test_what_others_wrote_is_text(tmp_path: Path, has_policy: bool) -> None:
    page = _report(HOSTILE)
    assert POLICY.search(page)
    title, shown = _title_and_page(page if has_policy else POLICY.sub("", page), tmp_path)
    assert title == f"{HOSTILE} · massact report"
    found = _Page()
    found.feed(shown)
    banned = {"img", "iframe", "object", "embed", "form", "input", "base", "link"}
    assert not banned.intersection(found.elements)
    assert found.elements.count("script") == 1, "ours, which sorts tables"
    assert not [name for name in found.attributes if name.startswith("on") or name == "srcdoc"]
    assert found.text.count("document.title") >= 10  # shown in full, in many places
