"""Picture a run's page of the MLflow UI: `python docs/screenshot.py RUN_ID OUT.png`.

Starts a server on loopback over $MLFLOW_TRACKING_URI and drives Debian's Chromium.
"""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

from mlflow import MlflowClient
from playwright.sync_api import sync_playwright


def main(run_id: str, out: str, tab: str = "") -> None:
    """Write a PNG of 1600×1000 pixels; `tab` is a tab of the run's page, such as model-metrics."""
    run = MlflowClient().get_run(run_id)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", os.environ["MLFLOW_TRACKING_URI"]]
    server = subprocess.Popen(
        command,
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{address}/health", timeout=1).close()
                break
            except OSError:
                time.sleep(0.5)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path="/usr/bin/chromium",
                args=["--no-sandbox", "--disable-background-networking", "--disable-gpu"],
            )
            page = browser.new_page(viewport={"width": 1600, "height": 1000})
            page.goto(f"{address}/#/experiments/{run.info.experiment_id}/runs/{run_id}/{tab}")
            page.get_by_text(run.info.run_name).first.wait_for(timeout=90_000)
            close = page.get_by_role("button", name="Close")
            if close.count():
                close.first.click()
            page.wait_for_timeout(8_000)
            page.screenshot(path=out)
            browser.close()
    finally:
        os.killpg(server.pid, signal.SIGTERM)


if __name__ == "__main__":
    main(*sys.argv[1:])
