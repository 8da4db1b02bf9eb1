"""How far an exported page's scores lie from Python's, picture by picture, in real browsers.

    python -m benchmarks.page PAGE PICTURES… [--browsers chromium firefox] [--json] [--out FOLDER]

PAGE is a folder that `skinml.export --to page` wrote, PICTURES are files or folders of them, each a
row. Both sides ask the same file of the network, so a difference is one of decoding and scaling.
Target: at most 0.01 in any score, and the same answer. The page is served as it is, policy and all,
with one script more: it chooses the pictures, as a person would, and says what the page answered.
So any browser will do, without a driver of its own.
"""

import functools
import http.server
import json
import os
import queue
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np

from benchmarks.harness import parser, report, surroundings, table, verdict
from skinml.base.progress import progress_bar
from skinml.data.images import decode_image
from skinml.models.exported import FILES, Network, open_exported, read_about
from skinml.predict import find_pictures

TARGET = 0.01
# Seconds for one answer, the first of which waits for the browser's start.
PATIENCE = 300.0

_SCRIPT = """
const answers = document.getElementById("answers"), files = document.getElementById("files");

function change(target, options, happened) {
  return new Promise((done) => {
    const look = () => happened() && (observer.disconnect(), done());
    const observer = new MutationObserver(look);
    observer.observe(target, options);
    look();
  });
}

// The page first keeps what it has loaded, and asks for that once more. Each thing has a path of
// its own: the page's service worker passes over what stands after a "?".
const root = document.documentElement;
await change(root, {attributes: true}, () => root.dataset.kept);
const names = await (await fetch("./pictures.json")).json();
for (const [number, name] of names.entries()) {
  answers.replaceChildren();
  const given = new DataTransfer();
  given.items.add(new File([await (await fetch(`./pictures/${number}`)).blob()], name));
  files.files = given.files;
  files.dispatchEvent(new Event("change"));
  await change(answers, {childList: true}, () => answers.firstElementChild);
  const {dataset, textContent} = answers.firstElementChild;
  const told = {number, scores: dataset.scores, text: textContent, browser: navigator.userAgent};
  await fetch(`./told/${number}?answer=${encodeURIComponent(JSON.stringify(told))}`);
}
"""


class Handler(http.server.SimpleHTTPRequestHandler):
    """A page's files, and what the script above asks for."""

    def __init__(
        self, *given: Any, pictures: list[Path], told: queue.Queue[dict[str, Any]], **named: Any
    ) -> None:
        self.pictures, self.told = pictures, told
        super().__init__(*given, **named)

    def do_GET(self) -> None:
        path, asked = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
        if path == "/":
            page = Path(self.directory, "index.html").read_text(encoding="utf-8")
            script = '<script type="module" src="measure.js"></script></body>'
            self._send("text/html", page.replace("</body>", script).encode())
        elif path == "/measure.js":
            self._send("text/javascript", _SCRIPT.encode())
        elif path == "/pictures.json":
            names = [picture.name for picture in self.pictures]
            self._send("application/json", json.dumps(names).encode())
        elif path.startswith("/pictures/"):
            picture = self.pictures[int(path.removeprefix("/pictures/"))]
            self._send("application/octet-stream", picture.read_bytes())
        elif path.startswith("/told/"):
            self.told.put(json.loads(asked["answer"][0]))
            self._send("text/plain", b"")
        else:
            super().do_GET()

    def _send(self, kind: str, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing of each request."""


def main() -> None:
    made = parser(__doc__, repeats=1)
    made.add_argument("page", type=Path, help="folder of an exported page")
    made.add_argument("pictures", type=Path, nargs="+", help="pictures or folders of them")
    made.add_argument(
        "--browsers", nargs="+", default=["chromium"], help="programs (default: chromium)"
    )
    options = made.parse_args()
    around = surroundings()
    path = options.page / FILES["litert"]
    network = open_exported(path, len(read_about(path)["classes"]))
    rows, groups = [], []
    for group in options.pictures:
        pictures = find_pictures([group])
        expected = python_scores(network, pictures)
        for browser in options.browsers:
            found, version = browser_scores(browser, options.page, pictures)
            off = np.abs(found - expected)
            same = int((found.argmax(axis=1) == expected.argmax(axis=1)).sum())
            group_found = {
                "pictures": group.name,
                "count": len(pictures),
                "browser": version,
                "largest": float(off.max()),
                "largest_of": pictures[off.max(axis=1).argmax()].name,
                "mean": float(off.mean()),
                "same_answers": same,
            }
            groups.append(group_found)
            met = off.max() <= TARGET and same == len(pictures)
            share = f"{same} of {len(pictures)}"
            row = [group.name, version, f"{off.max():.2g}", f"{off.mean():.2g}", share]
            rows.append([*row, verdict(met)])
    heading = ["pictures", "browser", "largest difference", "mean", "same answer"]
    text = table([*heading, f"at most {TARGET:g}"], rows)
    report(options, {**around, "groups": groups}, text)


def python_scores(network: Network, pictures: list[Path]) -> np.ndarray:
    """The scores (n, K) that `skinml.predict` gives."""
    scores = []
    with progress_bar("Python", len(pictures)) as advance:
        for picture in pictures:
            scores.append(network.predict_on_batch(decode_image(picture.read_bytes())[None])[0])
            advance()
    return np.array(scores)


def browser_scores(browser: str, page: Path, pictures: list[Path]) -> tuple[np.ndarray, str]:
    """The scores (n, K) that the page gives in a browser, and which one that is."""
    told: queue.Queue[dict[str, Any]] = queue.Queue()
    handler = functools.partial(Handler, directory=str(page), pictures=pictures, told=told)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    answers: list[dict[str, Any]] = []
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        progress_bar(Path(browser).name, len(pictures)) as advance,
    ):
        address = f"http://127.0.0.1:{server.server_port}/"
        command = [browser, "--headless", *_profile(browser, profile), address]
        program = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env=os.environ | {"HOME": profile}, start_new_session=True,
        )  # fmt: skip
        try:
            for number, picture in enumerate(pictures):
                answers.append(told.get(timeout=PATIENCE))
                if "scores" not in answers[-1] or answers[-1]["number"] != number:
                    raise RuntimeError(f"{picture}: {answers[-1]['text']}")
                advance()
        finally:
            os.killpg(program.pid, 9)
            program.wait()
            server.shutdown()
            server.server_close()
    return np.array([json.loads(answer["scores"]) for answer in answers]), _version(answers[-1])


def _profile(browser: str, folder: str) -> list[str]:
    """The options of a browser that begins anew, in that folder."""
    if "firefox" in Path(browser).name:
        return ["--no-remote", "--profile", folder]
    return ["--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}"]


def _version(answer: dict[str, Any]) -> str:
    """As a browser calls itself, such as "Firefox/140.0"."""
    words = answer["browser"].split()
    return next(word for word in words if "Chrome/" in word or "Firefox/" in word)


if __name__ == "__main__":
    main()
