"""The download arrives whole or not at all, whatever a server does."""

import hashlib
import os
import pty
import select
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from skinml.base.errors import UserError, run_command
from skinml.base.locks import exclusive
from skinml.data import download, fetch, prepare
from skinml.data import server as server_module
from skinml.data.isic2017 import DOWNLOADS, OFFICIAL_PARTS
from skinml.data.prepare import main, open_data
from tests.data.conftest import TEST, TRAIN, VALIDATION, picture, write_table
from tests.data.test_archives import pack, rewrite
from tests.waiting import PATIENCE, wait_for

# One fault is spent on each GET of the file; None serves it properly.
Fault = Callable[["Handler", bytes, int], None]


class Server(ThreadingHTTPServer):
    """A server of files that knows Range and If-Range, and misbehaves as it is told."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = files
        self.faults: dict[str, Sequence[Fault | None]] = {}
        self.head_faults: list[int] = []
        # Method, name, first byte asked for.
        self.asked: list[tuple[str, str, int]] = []
        self.tagged = True
        self.released = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/2017/"

    def gets(self, name: str) -> list[int]:
        return [start for method, what, start in self.asked if (method, what) == ("GET", name)]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *arguments: Any) -> None:
        pass

    def name(self) -> str:
        return self.path.rpartition("/")[2]

    def do_HEAD(self) -> None:
        self.server.asked.append(("HEAD", self.name(), 0))
        if self.server.head_faults:
            return self.fail(self.server.head_faults.pop(0))
        content = self.server.files.get(self.name())
        if content is None:
            return self.fail(404)
        self.head(200, content, len(content))

    def do_GET(self) -> None:
        asked = self.headers.get("Range", "bytes=0-")
        start = int(asked.removeprefix("bytes=").removesuffix("-"))
        self.server.asked.append(("GET", self.name(), start))
        content = self.server.files[self.name()]
        fault, *rest = self.server.faults.get(self.name()) or [None]
        self.server.faults[self.name()] = rest
        (fault or serve)(self, content, start)

    def fail(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": "0"} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def head(self, status: int, content: bytes, length: int, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        if self.server.tagged:
            self.send_header("ETag", tag(content))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def span(self, content: bytes, start: int) -> dict[str, str]:
        return {"Content_Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}


def tag(content: bytes) -> str:
    return f'"{hashlib.md5(content).hexdigest()}"'


def serve(handler: Handler, content: bytes, start: int) -> None:
    """As S3 does: the rest, unless the file is another one by now."""
    wanted = handler.headers.get("If-Range")
    if start and wanted in (None, tag(content)) and start < len(content):
        handler.head(206, content, len(content) - start, **handler.span(content, start))
        handler.wfile.write(content[start:])
    elif start and wanted in (None, tag(content)):
        handler.fail(416)
    else:
        whole(handler, content, start)


def whole(handler: Handler, content: bytes, start: int) -> None:
    """Range is ignored."""
    handler.head(200, content, len(content))
    handler.wfile.write(content)


def breaks_off(after: int) -> Fault:
    def fault(handler: Handler, content: bytes, start: int) -> None:
        status = 206 if start else 200
        handler.head(status, content, len(content) - start, **handler.span(content, start))
        handler.wfile.write(content[start : start + after])
        handler.wfile.flush()
        handler.close_connection = True

    return fault


def ignores_range_and_breaks_off(after: int) -> Fault:
    def fault(handler: Handler, content: bytes, start: int) -> None:
        breaks_off(after)(handler, content, 0)

    return fault


def truncates(handler: Handler, content: bytes, start: int) -> None:
    """An answer that is complete in itself, but shorter than the file."""
    handler.head(200, content, len(content) // 2)
    handler.wfile.write(content[: len(content) // 2])


def corrupts(handler: Handler, content: bytes, start: int) -> None:
    damaged = bytearray(content)
    damaged[len(content) // 3] ^= 0xFF
    handler.head(200, content, len(content))
    handler.wfile.write(damaged)


def stalls(after: int) -> Fault:
    def fault(handler: Handler, content: bytes, start: int) -> None:
        status = 206 if start else 200
        handler.head(status, content, len(content) - start, **handler.span(content, start))
        handler.wfile.write(content[start : start + after])
        handler.wfile.flush()
        handler.server.released.wait(PATIENCE)

    return fault


def drips(handler: Handler, content: bytes, start: int) -> None:
    """A byte now and then: no time-out of a socket ever strikes."""
    handler.head(200, content, len(content))
    for place in range(len(content)):
        try:
            handler.wfile.write(content[place : place + 1])
            handler.wfile.flush()
        except OSError:
            return
        if handler.server.released.wait(0.03):
            return


def answers(status: int, **headers: str) -> Fault:
    return lambda handler, content, start: handler.fail(status, **headers)


def other_span(handler: Handler, content: bytes, start: int) -> None:
    """206, but with bytes from somewhere else."""
    handler.head(206, content, len(content) - 5, **handler.span(content, 5))
    handler.wfile.write(content[5:])


@pytest.fixture
def official_archives(official: Path) -> Path:
    return pack(official, zipfile.ZIP_STORED)


@pytest.fixture
def server(official_archives: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server of the nine small images, and a client that hardly waits."""
    server = Server({path.name: path.read_bytes() for path in official_archives.iterdir()})
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("SKINML_DOWNLOAD_URL", server.url)
    for name in ("BACKOFF_SECONDS", "JITTER_SECONDS"):
        monkeypatch.setattr(server_module, name, 0.001)
    monkeypatch.setattr(server_module, "STALL_SECONDS", 0.3)
    yield server
    server.released.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


ARCHIVE = TRAIN.archive


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def require_complete(folder: Path, server: Server) -> None:
    """Exactly the files of the server, to the byte, and nothing beside them."""
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == server.files


def test_addresses_are_those_of_the_challenge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SKINML_DOWNLOAD_URL")
    assert server_module.base_url() == DOWNLOADS
    assert DOWNLOADS == "https://isic-challenge-data.s3.amazonaws.com/2017/"
    monkeypatch.setenv("SKINML_DOWNLOAD_URL", "https://mirror.example/isic")
    assert server_module.base_url() == "https://mirror.example/isic/"


def test_missing_data_is_announced_downloaded_and_prepared(
    server: Server, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--data_dir", str(folder), "--yes"]) == 0
    captured = capsys.readouterr()
    size = download.human_size(sum(map(len, server.files.values())))
    assert f"6 files of ISIC 2017 are not in {folder}: {size} to download" in captured.err
    assert "9 images" in captured.out
    require_complete(folder, server)
    # All sizes are asked for before the first byte is.
    methods = [method for method, _, _ in server.asked]
    assert methods == ["HEAD"] * 6 + ["GET"] * 6
    # The second time nothing is asked for.
    assert main(["--data_dir", str(folder), "--yes", "True"]) == 0
    assert len(server.asked) == 12


def test_only_what_is_missing_is_downloaded(
    server: Server, folder: Path, official_archives: Path
) -> None:
    """An unpacked archive is not missing, nor is a table that is there."""
    folder.mkdir()
    with zipfile.ZipFile(official_archives / ARCHIVE) as archive:
        archive.extractall(folder)
    shutil.rmtree(folder / "__MACOSX")
    shutil.copy(official_archives / TEST.ground_truth, folder)
    assert len(open_data("isic2017", str(folder), yes=True)) == 9
    asked = {name for _, name, _ in server.asked}
    assert asked == server.files.keys() - {ARCHIVE, TEST.ground_truth}


@pytest.mark.parametrize(
    ("faults", "starts"),
    [
        ([breaks_off(700)], [0, 700]),
        ([breaks_off(700), breaks_off(1)], [0, 700, 701]),
        # Progress renews the patience: more interruptions than attempts.
        ([breaks_off(100)] * 12, [100 * n for n in range(13)]),
        ([stalls(700)], [0, 700]),
        ([answers(503), answers(500), answers(429)], [0, 0, 0, 0]),
        ([breaks_off(700), answers(503), None], [0, 700, 700]),
        # A server that ignores Range sends all, and all of it is taken.
        ([breaks_off(700), whole], [0, 700]),
        ([breaks_off(700), ignores_range_and_breaks_off(900), None], [0, 700, 900]),
        ([breaks_off(700), other_span, None], [0, 700, 0]),
        ([breaks_off(700), answers(416), None], [0, 700, 0]),
        ([drips], None),
        ([corrupts], [0, 0]),
    ],
    ids=[
        "breaks off", "breaks off twice", "breaks off often", "stalls", "503, 500, 429",
        "503 in the middle", "ignores Range", "ignores Range and breaks off", "other bytes", "416",
        "drips", "corrupts",
    ],
)  # fmt: skip
@pytest.mark.parametrize("tagged", [True, False], ids=["with ETag", "without"])
def test_file_arrives_whole_whatever_happens_on_the_way(
    faults: list[Fault | None],
    starts: list[int] | None,
    tagged: bool,
    server: Server,
    folder: Path,
) -> None:
    server.faults[ARCHIVE], server.tagged = list(faults), tagged
    assert fetch.offer_download(folder, yes=True)
    require_complete(folder, server)
    if starts is not None:
        assert server.gets(ARCHIVE) == starts


def truncated_for_good(server: Server) -> None:
    server.faults[ARCHIVE] = [truncates] * 100


def breaks_at_the_same_place(server: Server) -> None:
    """Range is ignored, and the end is never reached: bytes come, but no progress."""
    server.faults[ARCHIVE] = [ignores_range_and_breaks_off(500)] * 100


def corrupt_for_good(server: Server) -> None:
    server.faults[ARCHIVE] = [corrupts] * 100


def not_found(server: Server) -> None:
    del server.files[ARCHIVE]


def not_found_later(server: Server) -> None:
    server.faults[ARCHIVE] = [answers(404)] * 100


def forbidden(server: Server) -> None:
    server.faults[ARCHIVE] = [answers(403)] * 100


def away_for_good(server: Server) -> None:
    server.faults[ARCHIVE] = [answers(503)] * 100


def other_images(server: Server) -> None:
    server.files[ARCHIVE] = server.files[VALIDATION.archive]


def web_page(server: Server) -> None:
    """A hotel's portal answers everything with its own page, and 200."""
    server.files[TRAIN.ground_truth] = b"<html>Welcome! Please sign in.</html>"


@pytest.mark.parametrize(
    ("trouble", "told", "most_gets", "kept"),
    [
        (truncated_for_good, "is damaged, twice", 2, False),
        (breaks_at_the_same_place, "8 times in a row without progress", 10, True),
        (corrupt_for_good, "is damaged, twice", 2, False),
        (not_found, "404", 0, False),
        (not_found_later, "404", 1, False),
        (forbidden, "403", 1, False),
        (away_for_good, "503", 8, False),
        (other_images, "missing images (3)", 1, False),
        (web_page, "wrong CSV columns", 0, False),
    ],
)
def test_trouble_that_stays_is_one_error_and_no_half_file(
    trouble: Callable[[Server], None],
    told: str,
    most_gets: int,
    kept: bool,
    server: Server,
    folder: Path,
) -> None:
    trouble(server)
    with pytest.raises(UserError) as caught:
        open_data("isic2017", str(folder), yes=True)
    assert told in str(caught.value)
    assert server.url in str(caught.value)
    assert len(server.gets(ARCHIVE)) <= most_gets
    assert ARCHIVE not in names(folder)
    assert (f"{ARCHIVE}.part" in names(folder)) == kept
    assert ".download.lock" not in names(folder)


def test_next_call_goes_on_at_the_byte(server: Server, folder: Path) -> None:
    server.faults[ARCHIVE] = [breaks_off(700)] + [answers(503)] * 7
    with pytest.raises(UserError, match="the same command again"):
        fetch.offer_download(folder, yes=True)
    assert (folder / f"{ARCHIVE}.part").stat().st_size == 700
    server.asked.clear()
    fetch.offer_download(folder, yes=True)
    assert server.gets(ARCHIVE) == [700]
    require_complete(folder, server)


@pytest.mark.parametrize("tagged", [True, False], ids=["with ETag", "without"])
@pytest.mark.parametrize("between", [True, False], ids=["between calls", "between attempts"])
@pytest.mark.parametrize("longer", [True, False], ids=["longer", "as long"])
def test_file_that_changed_meanwhile_is_begun_anew(
    longer: bool, tagged: bool, between: bool, server: Server, folder: Path, official_archives: Path
) -> None:
    """Of two versions nothing is ever glued together: without an ETag the CRC finds it."""
    server.tagged = tagged
    path = official_archives / ARCHIVE

    def change(name: str, content: bytes) -> tuple[str, bytes]:
        return name, bytes(b ^ 1 for b in content) + b"x" * (longer and name.endswith(".jpg"))

    def swap(handler: Handler, content: bytes, start: int) -> None:
        breaks_off(1500)(handler, content, start)
        server.files[ARCHIVE] = path.read_bytes()

    rewrite(path, lambda name, content: (name, content))
    server.files[ARCHIVE] = path.read_bytes()
    rewrite(path, change)
    assert (path.stat().st_size == len(server.files[ARCHIVE])) != longer
    server.faults[ARCHIVE] = [swap] + [answers(503)] * (8 * between)
    if between:
        with pytest.raises(UserError):
            fetch.offer_download(folder, yes=True)
    fetch.offer_download(folder, yes=True)
    require_complete(folder, server)


def test_damaged_part_of_an_earlier_call_is_begun_anew(server: Server, folder: Path) -> None:
    server.faults[ARCHIVE] = [breaks_off(700)] + [answers(503)] * 8
    with pytest.raises(UserError):
        fetch.offer_download(folder, yes=True)
    with (folder / f"{ARCHIVE}.part").open("r+b") as file:
        file.write(b"rubbish")
    fetch.offer_download(folder, yes=True)
    require_complete(folder, server)


def test_retry_after_is_honoured(server: Server, folder: Path) -> None:
    server.faults[ARCHIVE] = [answers(503, Retry_After="1")]
    started = time.monotonic()
    fetch.offer_download(folder, yes=True)
    assert time.monotonic() - started >= 1


@pytest.mark.parametrize("value", ["soon", "-3", ""])
def test_retry_after_that_says_nothing_is_ignored(value: str, server: Server, folder: Path) -> None:
    server.faults[ARCHIVE] = [answers(503, Retry_After=value)]
    fetch.offer_download(folder, yes=True)
    require_complete(folder, server)


def test_back_off_grows_and_is_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    patience = server_module.Patience("http://nowhere/", 10)
    for _ in range(9):
        patience.wait(server_module.Broken("gone"))
    with pytest.raises(UserError, match="10 times in a row"):
        patience.wait(server_module.Broken("gone"))
    # At once, then doubling up to a minute, each with up to a second by chance.
    for wait, least in zip(waits, (2, 4, 8, 16, 32, 59, 59, 59), strict=True):
        assert least <= wait <= least + 1
    assert len({wait % 1 for wait in waits[:5]}) == 5


def test_first_contact_is_retried_too(server: Server, folder: Path) -> None:
    server.head_faults = [503, 502]
    fetch.offer_download(folder, yes=True)
    require_complete(folder, server)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://127.0.0.1:9/", "Connection refused"),
        ("nowhere", "expected an https address"),
        ("ftp://127.0.0.1/", "expected an https address"),
    ],
)
def test_server_that_is_not_there_is_one_line(
    url: str, told: str, server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKINML_DOWNLOAD_URL", url)
    with pytest.raises(UserError, match=told) as caught:
        fetch.offer_download(folder, yes=True)
    assert "\n" not in str(caught.value)
    assert not folder.exists()


def test_full_disk_is_told_before_the_first_byte(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(folder.parent)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=r"1.0 MB are free there, expected 414\.\d MB"):
        fetch.offer_download(folder, yes=True)
    assert not any(method == "GET" for method, _, _ in server.asked)


def test_disk_that_fills_meanwhile_keeps_what_came(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match=r"No space left.*same command again"):
        fetch.offer_download(folder, yes=True)
    assert names(folder) == [f"{TRAIN.ground_truth}.part", f"{TRAIN.ground_truth}.part.json"]


def test_own_table_that_is_wrong_does_not_cost_the_archive(server: Server, folder: Path) -> None:
    folder.mkdir()
    write_table(folder / TRAIN.ground_truth, [], header=("a", "b"))
    with pytest.raises(UserError, match="delete this table"):
        fetch.offer_download(folder, yes=True)
    assert (folder / f"{ARCHIVE}.part").stat().st_size == len(server.files[ARCHIVE])
    (folder / TRAIN.ground_truth).unlink()
    server.asked.clear()
    fetch.offer_download(folder, yes=True)
    assert server.gets(ARCHIVE) == []
    require_complete(folder, server)


def test_killed_download_goes_on_at_the_byte(server: Server, folder: Path) -> None:
    """SIGKILL while the server stalls: what had arrived before is on the disk."""
    server.files[ARCHIVE] += bytes(3_000_000)  # A comment: more than is buffered.
    server.faults[ARCHIVE] = [stalls(2_500_000)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "skinml.data.prepare", "--yes", "--data_dir", str(folder)]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    part = folder / f"{ARCHIVE}.part"
    wait_for(lambda: part.exists() and part.stat().st_size > 1_000_000, process=process)
    process.kill()
    process.wait()
    size = part.stat().st_size
    server.asked.clear()
    # The appended bytes are no zip: the archive is told to be damaged, in the end, but first
    # the rest of it is asked for.
    with pytest.raises(UserError, match="damaged"):
        fetch.offer_download(folder, yes=True)
    assert server.gets(ARCHIVE)[0] == size


def test_two_downloads_at_once_do_it_once(
    server: Server, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder.mkdir()
    thread = threading.Thread(target=lambda: fetch.offer_download(folder, yes=True))
    with exclusive(folder / ".download.lock", "unused"):
        thread.start()
        while "waiting for another process" not in capfd.readouterr().err:
            time.sleep(0.01)
        for name, content in server.files.items():
            (folder / name).write_bytes(content)
        (folder / ".download.lock").unlink()
    thread.join()
    assert not any(method == "GET" for method, _, _ in server.asked)
    require_complete(folder, server)


def test_without_a_terminal_nothing_is_asked_and_the_remedy_is_told(
    server: Server, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (["--data_dir", str(folder)], ["--data_dir", str(folder), "--out", "new"]):
        assert run_command(lambda given=arguments: main(given)) == 2  # type: ignore[misc]
        error = capsys.readouterr().err
        assert "`python -m skinml.data.prepare --yes` downloads them (about 12 GB)" in error
        assert error.count("\n") == 1
    assert not server.asked
    assert not folder.exists()


def on_a_terminal(command: list[str], answer: bytes) -> str:
    """Run a command on a pseudo-terminal, answer its question; returns all that it showed."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TERM": "xterm"}
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, close_fds=True
    )
    os.close(theirs)
    shown = b""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if select.select([ours], [], [], 0.1)[0]:
            try:
                shown += os.read(ours, 65536)
            except OSError:  # Linux says so when the other side is closed.
                break
        if b"[y/N]" in shown and answer:
            os.write(ours, answer)
            answer = b""
    process.wait(PATIENCE)
    os.close(ours)
    return shown.decode(errors="replace")


@pytest.mark.parametrize("answer", ["y", "yes", "n", ""])
def test_a_terminal_is_asked_and_its_answer_counts(
    answer: str, server: Server, folder: Path
) -> None:
    command = [sys.executable, "-m", "skinml.data.prepare", "--data_dir", str(folder)]
    shown = on_a_terminal(command, f"{answer}\n".encode())
    assert "6 files of ISIC 2017 are not in" in shown
    assert "Download them now? [y/N]" in shown
    if answer.startswith("y"):
        assert "9 images" in shown
        assert "downloading" in shown
        require_complete(folder, server)
    else:
        assert "skinml: error" in shown
        assert not folder.exists()
        assert not any(method == "GET" for method, _, _ in server.asked)


def test_a_terminal_without_a_network_is_told_what_is_missing(server: Server, folder: Path) -> None:
    """It did not ask for a download: the error is the one about the data."""
    del server.files[ARCHIVE]
    command = [sys.executable, "-m", "skinml.data.prepare", "--data_dir", str(folder)]
    shown = on_a_terminal(command, b"")
    assert "nothing can be downloaded now" in shown
    assert f"its files are in {folder}" in shown.replace("\r\n", "")


def test_run_and_sweep_pass_their_yes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from skinml.data import prepare
    from skinml.run import __main__ as run
    from skinml.run import description
    from skinml.sweep import __main__ as sweep

    given: list[bool] = []

    def stop(*arguments: object, yes: bool = False) -> None:
        given.append(yes)
        raise UserError("far enough")

    for module, opener in ((run, description), (sweep, prepare)):
        monkeypatch.setattr(opener, "open_data", stop)
        for flags in ([], ["--yes"]):
            with pytest.raises(UserError, match="far enough"):
                module.main(["--weights", "none", *flags])
    assert given == [False, True] * 2


def test_demo_data_is_never_downloaded(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        prepare.demo, "generate", lambda folder: (_ for _ in ()).throw(UserError("generated"))
    )
    with pytest.raises(UserError, match="generated"):
        open_data("demo", yes=True)
    assert not server.asked


def test_every_published_file_is_known() -> None:
    """Six names, as the challenge's page lists them."""
    assert fetch.missing_files(Path("nowhere")) == [
        "ISIC-2017_Training_Part3_GroundTruth.csv",
        "ISIC-2017_Validation_Part3_GroundTruth.csv",
        "ISIC-2017_Test_v2_Part3_GroundTruth.csv",
        "ISIC-2017_Training_Data.zip",
        "ISIC-2017_Validation_Data.zip",
        "ISIC-2017_Test_v2_Data.zip",
    ]
    assert len(OFFICIAL_PARTS) == 3
    assert picture(0)[:2] == b"\xff\xd8"
