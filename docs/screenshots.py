"""Picture an experiment in the MLflow UI: `python docs/screenshots.py EXPERIMENT DIR [RUN_ID]`.

Its note, its saved views and a run's page. Starts a server on loopback over $MLFLOW_TRACKING_URI
and drives Debian's Chromium, as tests/store/test_views.py does.
"""

import io
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import mlflow
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, Request, sync_playwright

from skinml.store.views import install_views

CHROMIUM = Path("/usr/bin/chromium")

# Pixels of a small laptop.
WIDTH = 1280


@contextmanager
def mlflow_server(store: str) -> Iterator[str]:
    """The address of an MLflow server over a store, for as long as it is wanted."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--app-name", "skinml"]
    with tempfile.TemporaryFile() as log:
        # In a process group of its own: its workers outlive a parent that is killed alone.
        server = subprocess.Popen(
            [
                *command,
                "--host",
                "127.0.0.1",
                "--port",
                str(port),
                "--workers",
                "1",
                "--backend-store-uri",
                store,
            ],
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            patience = time.monotonic() + 600
            while not _answers(f"{address}/health"):
                if server.poll() is not None or time.monotonic() > patience:
                    log.seek(0)
                    raise RuntimeError(f"no server at {address}: {log.read().decode()[-2000:]}")
                time.sleep(0.5)
            yield address
        finally:
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGTERM)
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)
                server.wait()


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=60).close()
    except OSError:
        return False
    return True


@contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-background-networking", "--disable-gpu"],
        )
        try:
            yield browser
        finally:
            browser.close()


def open_page(
    browser: Browser | BrowserContext,
    url: str,
    ready: str = "[data-testid=saved-views-trigger]",
    height: int = 800,
) -> Page:
    """A page of the UI without what covers it on a first visit, once it asks for nothing more.

    `ready` selects an element that stands on the page when it is complete.
    """
    page = browser.new_page()
    page.set_viewport_size({"width": WIDTH, "height": height})
    page.set_default_timeout(120_000)  # A machine that trains has little time for a browser.
    asked: set[Request] = set()
    page.on("request", lambda request: asked.add(request))
    page.on("requestfinished", lambda request: asked.discard(request))
    page.on("requestfailed", lambda request: asked.discard(request))
    page.goto(url)
    page.locator(ready).first.wait_for()
    patience, quiet = time.monotonic() + 120, 0
    while quiet < 3 and time.monotonic() < patience:
        page.wait_for_timeout(300)
        # Of the arrival of a worker's script Playwright is not told.
        quiet = 0 if any("worker" not in request.url for request in asked) else quiet + 1
    # Not a real click, which would wait for a panel that slides in to stand still.
    # One after the other: what one covers is found only when that is gone.
    close = page.get_by_role("button", name="Close")
    for _ in range(5):
        if close.count():
            close.first.dispatch_event("click")
            page.wait_for_timeout(500)
    return page


def save_picture(page: Page, path: Path) -> None:
    """Write a page as a PNG of 256 colours, once nothing moves on it any more.

    Charts and images come one by one, on a busy machine for minutes, behind a turning wheel.
    """
    before, alike = b"", 0
    patience = time.monotonic() + 240
    while alike < 3:
        if time.monotonic() > patience:
            raise RuntimeError(f"{page.url} does not come to rest")
        page.wait_for_timeout(1_000)
        now = page.screenshot()
        alike = alike + 1 if now == before else 0
        before = now
    with Image.open(io.BytesIO(before)) as picture:
        # So a thin line keeps the colour that its legend has, and grey stays grey.
        coloured = picture.convert("RGB").quantize(
            256, Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE
        )
    coloured.save(path, optimize=True)


def main(experiment: str, folder: str, run_id: str = "") -> None:
    """Write PNGs of 1280×800 pixels: the experiment as it opens, each view, a run's page."""
    found = mlflow.get_experiment_by_name(experiment)
    if found is None:
        raise SystemExit(f"no experiment {experiment!r} at {mlflow.get_tracking_uri()}")
    runs = f"#/experiments/{found.experiment_id}/runs"
    pages = {"experiment": runs} | install_views(found.experiment_id)
    Path(folder).mkdir(parents=True, exist_ok=True)
    with mlflow_server(mlflow.get_tracking_uri()) as address, chromium() as browser:
        for name, url in pages.items():
            page = open_page(browser, f"{address}/{url}")
            save_picture(page, Path(folder) / f"mlflow-{name}.png")
            page.close()
        if run_id:
            url = f"{address}/{runs}/{run_id}?workflowType=machine_learning"
            page = open_page(browser, url, ready="text=About this run")
            save_picture(page, Path(folder) / "mlflow-run.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
