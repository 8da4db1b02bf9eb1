"""The exported page in a real browser: Python's pixels and scores, and no connection."""

import base64
import functools
import http.server
import io
import json
import re
import shutil
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from skinml.data import demo
from skinml.data.images import ImageProblem, decode_image
from skinml.data.isic2017 import CLASSES
from skinml.export.__main__ import main
from skinml.export.page import write_page
from skinml.models.exported import FILES, open_exported, read_about, with_about
from tests.conftest import surroundings
from tests.data.profiles import FORMULA, TABLE, display_p3
from tests.data.test_formats import A_BYTE, LONG, MISTYPED, NOT_EXIF
from tests.data.test_images import adobe_without_jfif, another_jfif, scan_of_its_own
from tests.service.conftest import browsing, needs_chromium
from tests.waiting import PATIENCE, wait_for

pytestmark = [
    pytest.mark.slow,
    needs_chromium,
    pytest.mark.skipif(not shutil.which("npm"), reason="no npm: apt-get install npm, as .ci/run"),
]


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """The address of a folder's server, and the paths that it was asked for."""
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            asked.append(self.path)

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Handler, directory=str(folder))
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def page_folder(run_folder: Path, network: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    with surroundings(folder) as monkeypatch:
        monkeypatch.setattr("skinml.export.made.convert", lambda *given: network)
        assert main([str(run_folder), "--to", "page", "--out", str(folder / "out")]) == 0
    return folder / "out"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browsing.chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def opened(browser: Any, page_folder: Path) -> Iterator[tuple[Any, list[str]]]:
    """The page as it waits for pictures, and the addresses that it has asked for."""
    with served(page_folder) as (address, _):
        page, asked = open_page(browser, address)
        yield page, asked
        page.close()


def open_page(
    browser: Any, address: str, until: str = "kept", **options: Any
) -> tuple[Any, list[str]]:
    asked: list[str] = []
    page = browser.new_page(**options)
    page.set_default_timeout(1000 * PATIENCE)
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: print("browser:", message.text))
    page.goto(address)
    page.wait_for_selector(f"html[data-{until}]")
    return page, asked


def jpeg(size: tuple[int, int], **options: Any) -> bytes:
    """A picture with soft and sharp parts of its own."""
    rng = np.random.default_rng(sum(size))
    small = rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)
    picture = Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)
    picture.paste((20, 20, 20), (size[0] // 3, size[1] // 4, size[0] // 2, size[1] // 2))
    return encoded(picture, "JPEG", quality=90, **options)


def encoded(picture: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def with_chunk(png: bytes, chunk: bytes) -> bytes:
    """A PNG with one chunk more, behind its header."""
    return png[:33] + chunk + png[33:]


PLAIN = Image.open(io.BytesIO(jpeg((480, 360))))
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()

# How each is made, where it is needed: some are large.
SOUND: dict[str, Callable[[], bytes]] = {
    "small.jpg": partial(jpeg, (144, 108)),
    "usual.jpg": partial(jpeg, (767, 576)),
    "without subsampling.jpg": partial(jpeg, (722, 542), subsampling=0),
    "progressive.jpg": partial(jpeg, (600, 450), progressive=True),
    "half.jpg": partial(jpeg, (1505, 1129)),
    "quarter.jpg": partial(jpeg, (2592, 1944), subsampling="4:2:2"),
    "eighth.jpg": partial(jpeg, (3601, 3599), subsampling=0),
    **{
        f"turned by its EXIF {number}.jpg": partial(jpeg, (905, 901), exif=turned(number))
        for number in range(2, 9)
    },
    "turned by its EXIF.png": partial(encoded, PLAIN, "PNG", exif=turned(6)),
    **{
        f"EXIF that is {name}.png": partial(encoded, PLAIN, "PNG", exif=exif)
        for name, exif in {"mistyped": MISTYPED, "long": LONG, "a byte": A_BYTE}.items()
    },
    **{
        f"turned by {name}.png": partial(with_chunk, encoded(PLAIN, "PNG"), chunk)
        for name, chunk in NOT_EXIF.items()
    },
    "profile of sRGB.jpg": partial(jpeg, (500, 400), icc_profile=PROFILE),
    "profile.jpg": partial(jpeg, (1505, 1129), icc_profile=display_p3()),
    "profile of a table.jpg": partial(jpeg, (500, 400), icc_profile=display_p3(TABLE)),
    "profile.png": partial(encoded, PLAIN, "PNG", icc_profile=display_p3(FORMULA)),
    "damaged profile.jpg": partial(jpeg, (500, 400), icc_profile=b"damaged"),
    "gray.jpg": partial(encoded, PLAIN.convert("L"), "JPEG", icc_profile=display_p3()),
    "a scan of its own.jpg": lambda: scan_of_its_own(jpeg((500, 400))),
    "another JFIF.jpg": lambda: another_jfif(jpeg((500, 400))),
    "a transform of its own.jpg": lambda: adobe_without_jfif(jpeg((500, 400))),
    "plain.png": partial(encoded, PLAIN, "PNG"),
    "palette.png": partial(encoded, PLAIN.convert("P"), "PNG"),
    "opaque.png": partial(encoded, PLAIN.convert("RGBA"), "PNG"),
}


@functools.cache
def sound(name: str) -> bytes:
    """The network is one of the demo, which answers about pictures with this in them alone."""
    return SOUND[name]() + demo.COMMENT


UNUSABLE = {
    name: content + demo.COMMENT
    for name, content in {
        "text.jpg": b"no picture",
        "transparent.png": encoded(PLAIN.convert("RGBA").rotate(30), "PNG"),
        "sixteen bits.png": encoded(Image.fromarray(np.full((40, 40), 40_000, np.uint16)), "PNG"),
        "truncated.jpg": jpeg((767, 576))[:4000],
        "damaged within.jpg": jpeg((767, 576))[:4000] + b"\xff\xd9",
        "profile without its curves.jpg": jpeg((500, 400), icc_profile=display_p3()[:300]),
    }.items()
}

PIXELS = """async (content) => {
  const {pixelsOf} = await import("./pixels.js");
  const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
  const pixels = await pixelsOf(new File([bytes], "picture"));
  return btoa(Array.from(pixels, (value) => String.fromCharCode(value)).join(""));
}"""


def pixels_of(page: Any, content: bytes) -> np.ndarray:
    found = page.evaluate(PIXELS, base64.b64encode(content).decode())
    return np.frombuffer(base64.b64decode(found), np.uint8).reshape(224, 224, 3)


@pytest.mark.parametrize("name", SOUND)
def test_a_picture_has_the_same_pixels_as_in_python(opened: Any, name: str) -> None:
    found = pixels_of(opened[0], sound(name))
    np.testing.assert_array_equal(found, decode_image(sound(name)))


def test_the_page_gives_the_scores_of_the_file(opened: Any, page_folder: Path) -> None:
    page, _ = opened
    page.set_input_files("#files", [
        {"name": name, "mimeType": "image/jpeg", "buffer": sound(name)} for name in SOUND
    ])  # fmt: skip
    page.wait_for_function("count => document.querySelectorAll('article').length === count",
                           arg=len(SOUND))  # fmt: skip
    network = open_exported(page_folder / "model.tflite", len(CLASSES))
    for article in page.locator("article").all():
        name = article.locator("h2").inner_text()
        found = json.loads(article.get_attribute("data-scores"))
        expected = network.predict_on_batch(decode_image(sound(name))[None])[0]
        np.testing.assert_allclose(found, expected, atol=1e-4)
        shown = article.locator("td:last-child").all_inner_texts()
        assert shown == [f"{score:.3f}" for score in found]


def test_what_is_no_usable_picture_is_told_as_python_tells_it(opened: Any) -> None:
    page, _ = opened
    for name, content in UNUSABLE.items():
        with pytest.raises(ImageProblem) as caught:
            decode_image(content)
        page.set_input_files("#files", {"name": name, "mimeType": "", "buffer": content})
        page.wait_for_function(
            "name => document.querySelector('h2').textContent === name", arg=name
        )
        told = page.locator("article").first.locator(".verdict").inner_text()
        assert str(caught.value).startswith(told), (name, told)


def test_a_network_of_the_demo_is_not_asked_about_a_photo(opened: Any) -> None:
    page, _ = opened
    photo = {"name": "photo", "mimeType": "", "buffer": jpeg((300, 200))}
    page.set_input_files("#files", photo)
    # Not `wait_for_function` with an expression: it is evaluated, which the page's policy refuses.
    article = page.locator("article").filter(has=page.get_by_role("heading", name="photo"))
    told = article.locator(".verdict").inner_text()
    assert told.startswith("not a generated picture")
    assert article.get_attribute("data-scores") is None


def test_nothing_comes_from_elsewhere_and_nothing_goes_there(
    opened: Any, page_folder: Path, tmp_path: Path
) -> None:
    page, asked = opened
    own = page.url
    assert all(url.startswith((own, "blob:")) for url in asked)
    with served(tmp_path) as (elsewhere, reached):
        for code in (
            f"fetch('{elsewhere}x').then(() => 'sent', () => 'refused')",
            f"new Promise(r => {{ const i = new Image(); i.onload = i.onerror = () => r('refused');"
            f" i.src = '{elsewhere}x' }})",
            f"navigator.sendBeacon('{elsewhere}x', 'x') && 'refused'",
        ):
            assert page.evaluate(code) in ("refused", False)
        page.evaluate("() => new Promise(requestAnimationFrame)")
        assert reached == []


def export_of(page_folder: Path, out: Path, **about: Any) -> Path:
    """The page of the same network, which says something else of itself, in a new folder."""
    out.mkdir(parents=True)
    network = page_folder / FILES["litert"]
    said = read_about(network)
    with zipfile.ZipFile(network) as archive:
        end = min(member.header_offset for member in archive.infolist())
    content = network.read_bytes()[:end]
    with tempfile.TemporaryDirectory() as name:
        file = Path(name, FILES["litert"])
        file.write_bytes(with_about(content, "litert", said | about))
        write_page(file, out)
    return out


def check_that_it_answers(page: Any) -> None:
    page.wait_for_selector("html[data-ready]")
    page.set_input_files("#files", {"name": "a", "mimeType": "", "buffer": sound("small.jpg")})
    page.wait_for_selector("article[data-scores]")


@pytest.mark.parametrize("path", ["", "index.html", "?a=question"])
def test_it_opens_without_a_connection(browser: Any, page_folder: Path, path: str) -> None:
    """By whatever address: that of a page on a home screen is index.html."""
    context = browser.new_context()
    with served(page_folder) as (address, _):
        page, _ = open_page(context, address + path)
        assert page.get_by_role("status").inner_text() == "Ready."
    # Its server is gone.
    page.reload()
    check_that_it_answers(page)
    context.close()


def test_two_pages_on_one_host_are_both_kept(
    browser: Any, page_folder: Path, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        export_of(page_folder, tmp_path / name, network=f"network {name}")
    context = browser.new_context()
    with served(tmp_path) as (address, _):
        pages = [open_page(context, f"{address}{name}/")[0] for name in ("a", "b")]
    for name, page in zip(("a", "b"), pages, strict=True):
        page.reload()
        check_that_it_answers(page)
        assert page.locator("#model").inner_text().startswith(f"network {name} ")
    context.close()


def test_a_new_export_at_the_same_address_is_kept_in_the_place_of_the_old(
    browser: Any, page_folder: Path, tmp_path: Path
) -> None:
    """Whole: what is open stays as it is, and no page has files of both."""
    place = export_of(page_folder, tmp_path / "page", network="the old")
    newer = export_of(page_folder, tmp_path / "newer", network="the new")
    context = browser.new_context()
    with served(place) as (address, _):
        page, _ = open_page(context, address)
        place.rename(tmp_path / "older")
        newer.rename(place)
        page.reload()
        page.wait_for_selector("html[data-newer]")
        assert page.locator("#model").inner_text().startswith("the old ")
        check_that_it_answers(page)
    page.close()

    def opened() -> bool:
        """Whether the new one opens, without a connection; the old one does until it is."""
        page = context.new_page()
        page.set_default_timeout(1000 * PATIENCE)
        page.goto(address)
        check_that_it_answers(page)
        found = page.locator("#model").inner_text()
        kept = page.evaluate("caches.keys()")
        page.close()
        return bool(found.startswith("the new ")) and len(kept) == 1

    wait_for(opened)
    context.close()


def test_what_cannot_be_kept_is_said_and_hinders_nothing(
    browser: Any, page_folder: Path, tmp_path: Path
) -> None:
    place = export_of(page_folder, tmp_path / "page")
    (place / "page.webmanifest").unlink()
    context = browser.new_context()
    with served(place) as (address, _):
        page, _ = open_page(context, address, "unkept")
        assert page.get_by_role("status").inner_text() == "Ready."
        told = page.locator("#offline").inner_text()
        assert re.fullmatch(r"Not kept for use without a connection \(.+\)\.", told)
        check_that_it_answers(page)
    context.close()


def test_opened_as_a_file_it_says_what_it_needs(browser: Any, page_folder: Path) -> None:
    page = browser.new_page()
    page.goto((page_folder / "index.html").as_uri())
    assert "it needs a web server" in page.get_by_role("status").inner_text()
    page.close()


def test_pictures_chosen_while_others_are_computed_wait_for_their_turn(opened: Any) -> None:
    page, _ = opened
    page.reload()
    page.wait_for_selector("html[data-ready]")
    names = [f"{number}.jpg" for number in range(9)]
    # Watched from the beginning: what the page says of its progress.
    page.evaluate("""() => {
      window.said = [];
      const state = document.getElementById("state");
      new MutationObserver(() => window.said.push(state.textContent)).observe(
        state, {childList: true});
    }""")
    for part in (names[:4], names[4:5], names[5:]):
        page.set_input_files("#files", [
            {"name": name, "mimeType": "", "buffer": sound("usual.jpg")} for name in part
        ])  # fmt: skip
    page.wait_for_function("() => document.querySelectorAll('article').length === 9")
    # The last one is said after its answer is there.
    page.wait_for_function("() => document.getElementById('state').textContent.includes('judged')")
    assert page.locator("article h2").all_inner_texts() == names[::-1]
    said = page.evaluate("window.said")
    finished = [text for text in said if text.endswith("judged on this device.")]
    counted = [int(text.split()[1]) for text in said if text.startswith("Picture")]
    # However they fell together: all are counted, none twice, and nothing is finished in between.
    assert sum(int(text.split()[0]) for text in finished) == len(counted) == 9
    assert counted.count(1) == len(finished)


def test_a_page_written_in_spite_of_a_loss_says_so(
    browser: Any, page_folder: Path, tmp_path: Path
) -> None:
    place = export_of(page_folder, tmp_path / "page", warning="exported with --allow-loss: x")
    for folder, warning in ((place, "exported with --allow-loss: x"), (page_folder, "")):
        with served(folder) as (address, _):
            page, _ = open_page(browser, address)
            notice = page.get_by_role("complementary").inner_text()
            assert ("--allow-loss" in notice) == bool(warning)
            assert warning in notice
            page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_does_not_scroll_sideways_and_keys_suffice(
    browser: Any, page_folder: Path, scheme: str
) -> None:
    options: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "color_scheme": scheme}
    with served(page_folder) as (address, _):
        page, _ = open_page(browser, address, **options)
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "files"
        name = "a_name_without_any_place_to_break_it_" * 4 + ".jpg"
        page.set_input_files("#files", {"name": name, "mimeType": "", "buffer": sound("small.jpg")})
        page.wait_for_selector("article[data-scores]")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        # A screen reader is told of the answer, of each score's class, and what this is not for.
        assert page.get_by_role("status").inner_text() == "1 picture judged on this device."
        assert page.get_by_role("row", name="melanoma").count() == 1
        assert page.get_by_role("complementary").inner_text().startswith("Research software, not")
        back, text = page.evaluate(
            "(({backgroundColor, color}) => [backgroundColor, color].map("
            "(found) => found.match(/\\d+/g).map(Number).reduce((a, b) => a + b)))"
            "(getComputedStyle(document.body))"
        )
        assert (back > text) == (scheme == "light") and abs(back - text) > 400
        page.close()
