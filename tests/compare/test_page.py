"""The report as a page in a browser: short, readable without sideways scrolling, one file."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from skinml.compare.__main__ import main
from tests.service.conftest import browsing, needs_chromium

RESULTS = Path(__file__).parents[2] / "results"

pytestmark = [pytest.mark.slow, needs_chromium]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    assert main(["--from", str(RESULTS / "nine-runs"), "--out", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browsing.chromium() as browser:
        yield browser


def opened(browser: Any, report: Path, width: int) -> tuple[Any, list[str]]:
    """The page at a width, and the addresses that it asked for."""
    asked: list[str] = []
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.on("request", lambda request: asked.append(request.url))
    page.goto(report.as_uri())
    return page, [url for url in asked if not url.startswith("data:")]


def box(page: Any, selector: str) -> dict[str, float]:
    """Where the first such element lies, in pixels of the page."""
    found: dict[str, float] = page.locator(selector).first.bounding_box()
    return found


def test_nine_cells_are_read_in_a_few_screens(browser: Any, report: Path) -> None:
    page, asked = opened(browser, report, 1280)
    assert asked == [report.as_uri()], "nothing from elsewhere"
    height = page.evaluate("document.documentElement.scrollHeight")
    assert height < 7 * 900
    # The pairs are folded, and there.
    page.locator("details").evaluate_all("all => all.forEach(one => one.open = true)")
    assert page.evaluate("document.documentElement.scrollHeight") > height + 3 * 600
    page.close()


def test_figures_stand_beside_their_tables(browser: Any, report: Path) -> None:
    page, _ = opened(browser, report, 1280)
    for figure in page.locator("figure").all():
        own = figure.bounding_box()
        beside = figure.locator("xpath=preceding-sibling::*[1]").bounding_box()
        assert own["x"] >= beside["x"] + beside["width"]
        assert abs(own["y"] - beside["y"]) < 2
    assert page.locator("figure").count() == 5
    page.close()


def test_a_figure_is_as_wide_as_the_page_once_it_is_clicked(browser: Any, report: Path) -> None:
    page, _ = opened(browser, report, 1280)
    roc = page.get_by_alt_text("ROC curves of all cells")
    small = roc.bounding_box()["width"]
    roc.click()
    assert roc.bounding_box()["width"] > 2 * small and roc.bounding_box()["width"] > 1000
    page.close()


def test_the_contents_lead_to_their_sections(browser: Any, report: Path) -> None:
    page, _ = opened(browser, report, 1280)
    links = page.locator("nav a")
    assert links.count() == page.locator("section").count() > 5
    for link in links.all():
        target = page.locator(link.get_attribute("href"))
        assert target.locator("h2").inner_text() == link.inner_text()
    page.close()


def test_a_phone_scrolls_a_table_and_not_the_page(browser: Any, report: Path) -> None:
    page, _ = opened(browser, report, 390)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    name = page.locator("td", has_text="mobilenetv2").first
    before = name.bounding_box()["x"]
    page.locator(".scroll").first.evaluate("element => element.scrollLeft = 300")
    assert name.bounding_box()["x"] == before, "the row keeps its name"
    page.close()
