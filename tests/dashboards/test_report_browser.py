"""The report in a real browser: all drawn, no request, no sideways scroll."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import sync_playwright

from dashboards.report import write_report
from dashboards.sections import SECTIONS

pytestmark = pytest.mark.browser

HOSTILE = "<script>broken=1</script>"
LINK = '<a href="http://evil">T</a>'
DRAWN = "document.querySelectorAll('[data-drawn=true]').length"


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def report_file(study_tables: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    text = json.dumps(study_tables).replace('"T3"', json.dumps(LINK))
    text = text.replace('"GRPO"', json.dumps(HOSTILE))
    out = tmp_path_factory.mktemp("browser") / "report.html"
    return write_report(json.loads(text), out, summary={"sentence": HOSTILE})


class Visit:
    """An open page, with what it asked for and what it complained of."""

    def __init__(self, browser: Any, file: Path, width: int, scheme: str = "light") -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda fault: self.complaints.append(str(fault)))
        self.page.goto(file.as_uri())
        self.page.wait_for_function(f"{DRAWN} === {len(SECTIONS)}")


@pytest.fixture(
    scope="module", params=[(1200, "light"), (390, "light"), (1200, "dark"), (390, "dark")]
)
def visit(request: pytest.FixtureRequest, browser: Any, report_file: Path) -> Iterator[Visit]:
    opened = Visit(browser, report_file, *request.param)
    yield opened
    opened.page.close()


def test_every_figure_is_drawn_without_a_request_or_a_complaint(
    visit: Visit, report_file: Path
) -> None:
    assert visit.requests == [report_file.as_uri()]
    assert visit.complaints == []
    for section in SECTIONS:
        traces = visit.page.locator(f"#{section.id} .trace, #{section.id} .hm")
        assert traces.count() > 0, section.id


def test_the_page_does_not_scroll_sideways_with_tables_open(visit: Visit) -> None:
    for summary in visit.page.locator("summary").all():
        summary.click()
    width = visit.page.evaluate("document.documentElement.scrollWidth")
    assert width == visit.page.viewport_size["width"]


def test_hostile_text_is_text_in_figures_and_tables(visit: Visit) -> None:
    assert visit.page.evaluate("window.broken") is None
    assert visit.page.locator("a[href*=evil]").count() == 0
    legend = visit.page.locator("#figure-passk-mean .legendtext").all_text_contents()
    assert HOSTILE in legend
    titles = visit.page.locator("#figure-passk-grid .annotation-text").all_text_contents()
    assert LINK in titles
    assert visit.page.locator("p.sentence").text_content() == HOSTILE


def test_the_mode_bar_offers_no_cloud(visit: Visit) -> None:
    names = visit.page.locator(".modebar-btn").evaluate_all(
        "buttons => buttons.map(b => b.dataset.title || b.getAttribute('aria-label') || '')"
    )
    assert names and not [name for name in names if "hare" in name or "loud" in name]


def test_figures_follow_the_width_of_the_window(browser: Any, report_file: Path) -> None:
    visit = Visit(browser, report_file, 1200)
    columns = (
        "new Set(document.getElementById('figure-passk-grid')._fullLayout._subplots"
        ".cartesian.map(s => document.getElementById('figure-passk-grid')._fullLayout"
        "[s.replace(/y.*/, '').replace('x', 'xaxis')].domain[0])).size"
    )
    assert visit.page.evaluate(columns) == 3
    visit.page.set_viewport_size({"width": 390, "height": 900})
    visit.page.wait_for_function(f"{columns} === 1")
    assert visit.complaints == []
    visit.page.close()


def test_the_skip_link_comes_first_and_leads_to_the_results(
    browser: Any, report_file: Path
) -> None:
    visit = Visit(browser, report_file, 390)
    visit.page.keyboard.press("Tab")
    focused = "document.activeElement"
    assert visit.page.evaluate(f"{focused}.className") == "skip"
    visit.page.keyboard.press("Enter")
    visit.page.wait_for_function(f"{focused}.id === 'main'")
    visit.page.close()
