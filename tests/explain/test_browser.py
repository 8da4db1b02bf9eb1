"""The page of pictures in a real browser: what it shows is the table, whoever named its classes."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skinml.evaluation.predictions import Predictions
from skinml.explain.browser import make_page
from tests.explain.conftest import HOSTILE, Judged
from tests.service.conftest import browsing, needs_chromium
from tests.waiting import PATIENCE


@pytest.fixture(scope="module")
def page_file(judged: Judged, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "pictures.html"
    html = make_page(f"a run {HOSTILE}", judged.table, judged.images, judged.rows, judged.maps)
    path.write_text(html, encoding="utf-8")
    return path


def test_it_is_one_file_that_is_no_larger_than_allowed(judged: Judged) -> None:
    """What does not fit are right answers and the mistakes that the network was least sure of."""
    table, images, _, maps = judged
    sizes = {}
    for largest in (400_000, 25_000_000):
        html = make_page("a run", table, images, judged.rows, maps, largest)
        assert len(html.encode()) <= largest
        sizes[largest] = html.count('"jpeg"')
    kept = sizes[400_000]
    assert 0 < kept < sizes[25_000_000] == len(images)
    small = make_page("a run", table, images, judged.rows, maps, 400_000)
    assert f"{len(images) - kept} pictures, answered rightly" in small
    wrong = np.flatnonzero(table.predicted != table.labels)
    surest = wrong[np.argsort(-table.scores[wrong].max(axis=1))]
    # Whatever stands in it, the data is one script element.
    (data,) = re.findall('<script type="application/json" id="data">(.*?)</script>', small)
    found = [picture["id"] for picture in json.loads(data)["pictures"]]
    assert found == [str(table.image_ids[n]) for n in surest[:kept]]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browsing.chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: Any, page_file: Path) -> Iterator[Any]:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(1000 * PATIENCE)
    asked: list[str] = []
    told: list[str] = []

    def refuse(dialog: Any) -> None:
        told.append(dialog.message)
        dialog.dismiss()

    page.on("request", lambda request: asked.append(request.url))
    page.on("dialog", refuse)
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on("console", lambda message: told.append(message.text))
    page.goto(page_file.as_uri())
    yield page
    page.close()
    assert {url for url in asked if not url.startswith("data:")} == {page_file.as_uri()}
    assert told == []


def field(page: Any, name: str) -> Any:
    return page.locator(f"[name='{name}']")


def names(page: Any) -> list[str]:
    """The pictures that are shown, in their order."""
    return [text.partition(" · ")[2] for text in page.locator("main .score").all_text_contents()]


def expected(table: Predictions, chosen: np.ndarray, scores: np.ndarray) -> list[str]:
    rows = np.flatnonzero(chosen)
    return [str(table.image_ids[row]) for row in rows[np.argsort(-scores[rows], kind="stable")]]


@pytest.mark.slow
@needs_chromium
class TestInABrowser:
    def test_it_begins_with_all_pictures_the_surest_first(self, page: Any, judged: Judged) -> None:
        table = judged.table
        everything = np.ones(len(table.labels), dtype=bool)
        assert names(page) == expected(table, everything, table.scores.max(axis=1))
        wrong = int((table.predicted != table.labels).sum())
        assert page.get_by_role("status").inner_text() == (
            f"45 of 45 pictures, {wrong} of them answered wrongly"
        )

    def test_every_filter_leaves_what_the_table_says(self, page: Any, judged: Judged) -> None:
        table = judged.table
        right, top = table.predicted == table.labels, table.scores.max(axis=1)
        wrong_nevi = ~right & (table.labels == 1)
        field(page, "true").select_option("nevus")
        field(page, "right").select_option("wrong")
        assert names(page) == expected(table, wrong_nevi, top)
        field(page, "answer").select_option("melanoma")
        assert names(page) == expected(table, wrong_nevi & (table.predicted == 0), top)
        page.get_by_role("button", name="show all").click()
        page.locator("main button").nth(44).wait_for()
        field(page, "of").select_option("melanoma")
        field(page, "low").fill("0.3")
        field(page, "high").fill("0.6")
        own = np.round(table.scores[:, 0], 4)
        within = (own >= 0.3) & (own <= 0.6)
        assert names(page) == expected(table, within, own)
        field(page, "order").select_option("lowest score first")
        assert names(page) == expected(table, within, own)[::-1]
        field(page, "subgroup:sex").select_option("not known")
        both = within & (table.subgroups["sex"] == "")
        assert names(page) == expected(table, both, own)[::-1]
        # The filters are in the address: who reloads, or is sent it, sees the same.
        address = page.url
        page.goto("about:blank")
        page.goto(address)
        assert names(page) == expected(table, both, own)[::-1]

    def test_foreign_text_is_text(self, page: Any) -> None:
        """`page` fails the test if any of it ran, or was loaded."""
        field(page, "subgroup:site").select_option(HOSTILE)
        field(page, "order").select_option("by name")
        assert page.locator("main img:not([src^='data:image/jpeg'])").count() == 0
        assert page.locator("header .soft").inner_text() == f"a run {HOSTILE}"
        page.get_by_role("button", name="show all").click()
        page.locator("main button", has_text=f"last {HOSTILE}").click()
        assert page.locator("#name").inner_text().startswith(f"last {HOSTILE}")
        assert page.get_by_role("radio", name=f"other {HOSTILE}").count() == 1

    def test_keys_suffice_to_look_at_pictures(self, page: Any, judged: Judged) -> None:
        order = names(page)
        page.locator("main button").first.focus()
        for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "Enter"):
            page.keyboard.press(key)
        title = page.locator("#name")
        assert title.inner_text().startswith(order[1])
        page.keyboard.press("ArrowRight")
        assert title.inner_text().startswith(order[2])
        # A class's map is chosen by its radio button, and drawn.
        drawn = "document.getElementById('map').toDataURL()"
        seen = set()
        for radio in page.get_by_role("radio").all():
            radio.check()
            seen.add(page.evaluate(drawn))
        assert len(seen) == 3
        page.keyboard.press("Escape")
        assert page.locator("dialog").is_hidden()
        focused = page.evaluate("document.activeElement.textContent")
        assert order[2] in focused

    def test_the_keys_go_on_beyond_the_first_and_the_last_picture(self, page: Any) -> None:
        """A button that becomes disabled would take the focus, and the keys, with it."""
        order = names(page)
        title, before, after = page.locator("#name"), page.locator("#before"), page.locator("#next")
        page.locator("main button").nth(1).click()
        before.click()
        assert title.inner_text().startswith(order[0])
        assert before.get_attribute("aria-disabled") == "true"
        page.keyboard.press("ArrowLeft")
        assert title.inner_text().startswith(order[0])
        page.keyboard.press("ArrowRight")
        assert title.inner_text().startswith(order[1])
        page.keyboard.press("Escape")
        page.locator("main button").nth(len(order) - 2).click()
        after.click()
        assert after.get_attribute("aria-disabled") == "true"
        page.keyboard.press("ArrowLeft")
        assert title.inner_text().startswith(order[-2])

    def test_a_link_holds_all_filters_and_is_followed_in_the_open_page(self, page: Any) -> None:
        every = names(page)
        field(page, "maps").uncheck()
        field(page, "true").select_option("nevus")
        nevi, address = names(page), page.url
        assert 0 < len(nevi) < len(every)
        page.get_by_role("button", name="show all").click()
        page.locator("main button").nth(len(every) - 1).wait_for()
        # In the page that is open: only what stands behind # changes.
        page.evaluate("(address) => { location.href = address; }", address)
        page.locator("body:not(.maps)").wait_for()
        assert names(page) == nevi and not field(page, "maps").is_checked()
        page.go_back()
        page.locator("body.maps").wait_for()
        assert names(page) == every
        page.goto("about:blank")
        page.goto(address)
        assert names(page) == nevi and not field(page, "maps").is_checked()

    def test_the_map_is_the_network_s(self, page: Any, judged: Judged) -> None:
        """What the canvas shows in the middle of each cell is the cell's value."""
        table = judged.table
        surest = int(table.scores.max(axis=1).argmax())
        own = judged.maps[surest, table.predicted[surest]]
        page.locator("main button").first.click()
        found = page.evaluate("""() => {
          const canvas = document.getElementById("map");
          const pixels = canvas.getContext("2d").getImageData(0, 0, 224, 224).data;
          return Array.from({length: 196}, (_, cell) =>
            pixels[4 * (224 * (16 * Math.floor(cell / 14) + 8) + 16 * (cell % 14) + 8) + 3]);
        }""")
        shown = np.array(found).reshape(14, 14) / 0.62
        # The cells run into each other a little.
        assert np.corrcoef(shown.ravel(), own.ravel())[0, 1] > 0.95

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_a_phone_does_not_scroll_sideways(
        self, browser: Any, page_file: Path, scheme: str
    ) -> None:
        options = {"viewport": {"width": 390, "height": 844}, "color_scheme": scheme}
        page = browser.new_page(**options)
        page.goto(page_file.as_uri())
        width = "document.documentElement.scrollWidth"
        assert page.evaluate(width) <= 390
        page.locator("main button", has_text="last").click()
        assert page.evaluate(width) <= 390
        assert page.evaluate("document.querySelector('dialog').scrollWidth") <= 390
        back, text = page.evaluate(
            "(({backgroundColor, color}) => [backgroundColor, color].map("
            "(found) => found.match(/\\d+/g).map(Number).reduce((a, b) => a + b)))"
            "(getComputedStyle(document.body))"
        )
        assert (back > text) == (scheme == "light") and abs(back - text) > 400
        page.close()
