"""The official files from the challenge's public storage: announced, resumed, verified.

Why requests with urllib3's `Retry`: proxies, certificates, time-outs, back-off with jitter and
Retry-After are theirs. Of the libraries that download whole files, pooch begins one anew after each
interruption, huggingface_hub resumes those of its own hub, and S3's clients resume only within a
process. So the Range request is made here.
"""

import json
import os
import shutil
import sys
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import skinml
from skinml.address import without_user_info
from skinml.data.images import IMAGE_SIZE
from skinml.data.isic2017 import DOWNLOADS, HOMEPAGE, OFFICIAL_PARTS, OfficialPart
from skinml.data.journal import in_order
from skinml.data.official import (
    ARCHIVE_ERRORS,
    PictureArchive,
    compare_ids,
    names_by_id,
    read_ground_truth,
)
from skinml.errors import Problems, UserError
from skinml.processes import exclusive, usable_cores
from skinml.progress import Advance, progress_bar

if TYPE_CHECKING:
    from requests import Response, Session

URL_VARIABLE = "SKINML_DOWNLOAD_URL"

# Seconds: until a connection stands; without a byte, or with hardly any, until it counts as broken.
CONNECT_SECONDS = 30.0
STALL_SECONDS = 60.0
SLOWEST = 1000  # bytes a second

# Attempts in a row that bring the file no further. Between them 0, 2, 4 … 60 s, and up to one more
# by chance, so that not all clients of a server that was away come back in the same moment.
ATTEMPTS = 8
# At the first contact someone waits in front of the terminal.
FIRST_ATTEMPTS = 4
BACKOFF_SECONDS = 1.0
BACKOFF_MAX_SECONDS = 60.0
JITTER_SECONDS = 1.0
# A server that asks for more patience (Retry-After) gets this much.
RETRY_AFTER_MAX_SECONDS = 600

# What passes by itself; any other error is answered at once.
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})

_CHUNK = 1024**2


class Remote(NamedTuple):
    """A file of the server: its size in bytes, and what tells its versions apart."""

    name: str
    url: str
    size: int
    # An ETag, else a Last-Modified, else nothing.
    version: str

    @property
    def if_range(self) -> dict[str, str]:
        """The header that asks for the rest only of this version; a weak ETag may not stand there.

        RFC 9110, section 13.1.5.
        """
        return {"If-Range": self.version} if self.version and self.version[:2] != "W/" else {}


class _Broken(Exception):
    """An attempt that did not bring the file to its end; another may.

    `response` may ask for patience. What has arrived is `useless` if it is of another version.
    """

    def __init__(
        self, reason: str, response: "Response | None" = None, useless: bool = False
    ) -> None:
        super().__init__(reason)
        self.response = response
        self.useless = useless


def base_url() -> str:
    """Where the files are downloaded from: the challenge's storage, or $SKINML_DOWNLOAD_URL."""
    return (os.environ.get(URL_VARIABLE) or DOWNLOADS).rstrip("/") + "/"


def missing_files(folder: Path) -> list[str]:
    """The published files that a folder lacks, tables first; unpacked archives are not missing."""
    tables = [o.ground_truth for o in OFFICIAL_PARTS if not (folder / o.ground_truth).exists()]
    archives = [
        official.archive
        for official in OFFICIAL_PARTS
        if not (folder / official.archive).exists()
        and not (folder / official.image_folder).exists()
    ]
    return tables + archives


def offer_download(folder: Path, yes: bool = False) -> bool:
    """Download what a folder lacks: asks on a terminal, with `yes` does not; says whether it did.

    The total size is announced first. Without a terminal and without `yes` nothing happens.
    """
    if not missing_files(folder) or not (yes or _someone_is_there()):
        return False
    with _session() as session:
        try:
            remotes = [ask_server(session, name) for name in missing_files(folder)]
        except UserError as error:
            if yes:
                raise
            # Nobody asked for a download: what is missing, and where to put it, is told next.
            print(f"skinml: nothing can be downloaded now: {error}", file=sys.stderr)
            return False
        left = sum(remote.size - _there(folder, remote) for remote in remotes)
        begun = sum(remote.size for remote in remotes) - left
        print(
            f"skinml: {len(remotes)} files of ISIC 2017 are not in {folder}: {_human(left)} to "
            f"download from {without_user_info(base_url())}"
            + (f" ({_human(begun)} are here already)" * bool(begun)),
            file=sys.stderr,
        )
        if not yes and not _confirmed("Download them now? [y/N] "):
            return False
        _make_folder(folder, left)
        lock = folder / ".download.lock"
        with exclusive(lock, f"skinml: waiting for another process, which downloads to {folder}"):
            # Another process may have brought some meanwhile.
            lacking = missing_files(folder)
            try:
                download(session, [r for r in remotes if r.name in lacking], folder)
            finally:
                lock.unlink(missing_ok=True)
    return True


def _someone_is_there() -> bool:
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()


def _confirmed(question: str) -> bool:
    print(question, end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _make_folder(folder: Path, size: int) -> None:
    """Make the folder; `UserError` where that, or `size` bytes and the prepared set, cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise UserError(
            f"data_dir={folder}: cannot be created ({error.strerror}), expected a path in a "
            "writable folder; give another"
        ) from None
    images = sum(sum(official.counts) for official in OFFICIAL_PARTS)
    needed = size + images * IMAGE_SIZE * IMAGE_SIZE * 3
    if free < needed:
        raise UserError(
            f"data_dir={folder}: {_human(free)} are free there, expected {_human(needed)} for the "
            "download and the prepared set; free some space or give another folder"
        )


@contextmanager
def _session() -> "Iterator[Session]":
    import requests

    with requests.Session() as session:
        # Compressed on the way, bytes could not be counted, nor asked for from the middle.
        session.headers.update(
            {"User-Agent": f"skinml/{skinml.__version__}", "Accept-Encoding": "identity"}
        )
        yield session


class _Patience:
    """How long to wait after a failed attempt, and when to give up."""

    def __init__(self, url: str, attempts: int) -> None:
        from urllib3.util import Retry

        self._url = url
        self._attempts = attempts
        self._fresh = self._retry = Retry(
            total=attempts,
            backoff_factor=BACKOFF_SECONDS,
            backoff_max=BACKOFF_MAX_SECONDS,
            backoff_jitter=JITTER_SECONDS,
            retry_after_max=RETRY_AFTER_MAX_SECONDS,
        )

    def renew(self) -> None:
        """Forget the failures: there was progress."""
        self._retry = self._fresh

    def wait(self, broken: _Broken) -> None:
        """Sleep until the next attempt; `UserError` where there is none left."""
        from urllib3.exceptions import InvalidHeader

        self._retry = self._retry.increment(method="GET", url=self._url, error=broken)
        if not self._retry.total:
            raise UserError(
                f"{self._url}: {broken}, {self._attempts} times in a row without progress; look at "
                "the network and run the same command again: it goes on at the byte where it "
                f"stopped; or bring the file from {HOMEPAGE} by hand"
            )
        try:
            self._retry.sleep(broken.response.raw if broken.response is not None else None)
        except InvalidHeader:  # A Retry-After that says nothing.
            self._retry.sleep()


def _request(session: "Session", method: str, url: str, **options: Any) -> "Response":
    """One attempt; a passing failure is `_Broken`, any other a `UserError`."""
    import requests

    timeout = (CONNECT_SECONDS, STALL_SECONDS)
    try:
        response = session.request(method, url, stream=True, timeout=timeout, **options)
    except (requests.exceptions.SSLError, ValueError) as error:
        # A certificate or a URL (requests' errors of these are ValueErrors) stays as it is.
        raise UserError(
            f"{url}: {_reason(error)}; expected an https address whose certificate this machine "
            f"knows, from the default or ${URL_VARIABLE}"
        ) from None
    except requests.RequestException as error:
        raise _Broken(_reason(error)) from None
    if response.status_code in _PASSING:
        response.close()
        raise _Broken(f"the server answers {response.status_code} {response.reason}", response)
    if response.status_code >= 400 and response.status_code != 416:
        response.close()
        raise UserError(
            f"{url}: the server answers {response.status_code} {response.reason}; the file is not "
            f"there: look at {HOMEPAGE}, or name a mirror with ${URL_VARIABLE}"
        )
    return response


def ask_server(session: "Session", name: str) -> Remote:
    """Size and version of a file, without its content."""
    url = base_url() + name
    patience = _Patience(url, FIRST_ATTEMPTS)
    while True:
        try:
            with _request(session, "HEAD", url, allow_redirects=True) as response:
                return _described(name, url, response)
        except _Broken as broken:
            patience.wait(broken)


def _described(name: str, url: str, response: "Response") -> Remote:
    length = response.headers.get("Content-Length", "")
    if not length.isdecimal():
        raise UserError(
            f"{url}: the server does not tell the size of the file; expected a Content-Length: "
            f"name another mirror with ${URL_VARIABLE}"
        )
    return Remote(name, url, int(length), _version(response))


def _version(response: "Response") -> str:
    return response.headers.get("ETag") or response.headers.get("Last-Modified") or ""


def download(session: "Session", remotes: list[Remote], folder: Path) -> None:
    """Bring files to a folder, each verified before it gets its name; `UserError` if one cannot be.

    What is half there lies in `NAME.part`, beside `NAME.part.json`, which tells of which version it
    is a part. The next call goes on with it.
    """
    total = sum(remote.size for remote in remotes)
    with progress_bar("downloading", total, in_bytes=True) as advance:
        for remote in remotes:
            _bring(session, remote, folder, advance)
            print(f"skinml: {remote.name}: {_human(remote.size)}, verified", file=sys.stderr)


class _Meter:
    """Tells a progress bar how far one file is, which may also go back."""

    def __init__(self, advance: Advance) -> None:
        self._advance = advance
        self._position = 0

    def at(self, position: int) -> None:
        self._advance(position - self._position)
        self._position = position


def _bring(session: "Session", remote: Remote, folder: Path, advance: Advance) -> None:
    """Transfer one file, verify it and give it its name."""
    part, meter = _part(folder, remote), _Meter(advance)
    for last in (False, True):
        advance(0, remote.name.removeprefix("ISIC-2017_"))
        remote = _transfer(session, remote, folder, meter)
        advance(0, "verifying")
        damage = _damage_of(part, remote.name)
        if damage is None:
            break
        _discard(folder, remote)
        meter.at(0)
        if last:
            raise UserError(
                f"{remote.url}: what arrived is damaged, twice ({damage}); the file there is, or "
                f"the way to it: try later, or name a mirror with ${URL_VARIABLE}"
            )
        print(f"skinml: {remote.name} is damaged ({damage}): once more", file=sys.stderr)
    for official in OFFICIAL_PARTS:
        if official.archive == remote.name:
            _require_ids(official, remote, folder)
    part.replace(folder / remote.name)
    _note(folder, remote).unlink(missing_ok=True)


def _transfer(session: "Session", remote: Remote, folder: Path, meter: _Meter) -> Remote:
    """Bring the `.part` of a file to its full length; returns the version that it then is."""
    part = _part(folder, remote)
    offset = furthest = _there(folder, remote)
    if not offset:
        _discard(folder, remote)
    patience = _Patience(remote.url, ATTEMPTS)
    while offset < remote.size or not part.exists():
        meter.at(offset)
        rest = {"Range": f"bytes={offset}-"} | remote.if_range if offset else {}
        try:
            with _request(session, "GET", remote.url, headers=rest) as response:
                offset, remote = _what_comes(remote, offset, response)
                _note(folder, remote).write_text(json.dumps([remote.size, remote.version]))
                _receive(response, part, offset, remote.size, meter)
            offset = remote.size
        except _Broken as broken:
            if broken.useless:
                part.unlink(missing_ok=True)
            offset = _size(part)
            if offset > furthest:
                furthest = offset
                patience.renew()
            patience.wait(broken)
    meter.at(offset)
    return remote


def _what_comes(remote: Remote, offset: int, response: "Response") -> tuple[int, Remote]:
    """Where the content of an answer begins in the file, and of which version it is.

    A server that does not know Range, or has another version now, sends all from the start (200).
    """
    if response.status_code == 200:
        return 0, _described(remote.name, remote.url, response)
    unit, _, place = response.headers.get("Content-Range", "").partition(" ")
    span, _, total = place.partition("/")
    asked = unit == "bytes" and span == f"{offset}-{remote.size - 1}" and total == str(remote.size)
    if response.status_code == 206 and asked and _version(response) in ("", remote.version):
        return offset, remote
    # Not the rest of what is here: the next attempt asks for all of it.
    raise _Broken(
        f"the server answers {response.status_code} with bytes {place or 'of another place'}",
        useless=True,
    )


def _receive(response: "Response", part: Path, offset: int, size: int, meter: _Meter) -> None:
    """Append the content of an answer to a file from `offset` on, up to `size` bytes."""
    from urllib3.exceptions import HTTPError

    try:
        with part.open("ab", buffering=_CHUNK) as file:
            file.truncate(offset)
            watched, begin = time.monotonic(), offset
            while True:
                try:
                    # Whatever is there, at once: of a connection that breaks no byte is lost.
                    chunk = response.raw.read1(_CHUNK, decode_content=False)
                except HTTPError as error:
                    raise _Broken(_reason(error)) from None
                if not chunk:
                    break
                file.write(chunk)
                offset += len(chunk)
                meter.at(offset)
                if (seconds := time.monotonic() - watched) > STALL_SECONDS:
                    if offset - begin < SLOWEST * seconds:
                        raise _Broken(f"under {SLOWEST} bytes a second for {seconds:.0f} s")
                    watched, begin = time.monotonic(), offset
            if offset != size:
                raise _Broken(f"{offset:,} bytes came, expected {size:,}", useless=offset > size)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UserError(
            f"{part}: cannot be written ({error.strerror}); make room there and run the same "
            "command again: it goes on at the byte where it stopped"
        ) from None


def _damage_of(part: Path, name: str) -> str | None:
    """What is wrong with a file that has arrived whole; None where nothing is."""
    if not name.endswith(".zip"):
        problems = Problems()
        read_ground_truth(part, problems)
        return problems.in_one_line() if problems else None

    def damage_of(entry: zipfile.ZipInfo) -> str | None:
        """Read an entry in pieces: at its end zipfile compares the CRC."""
        try:
            with archive.open(entry) as stream:
                while stream.read(_CHUNK):
                    pass
        except ARCHIVE_ERRORS as error:
            return f"{entry.filename}: {error}"
        return None

    try:
        with zipfile.ZipFile(part) as archive, ThreadPoolExecutor(usable_cores()) as pool:
            found = in_order(pool, damage_of, archive.infolist(), ahead=4 * usable_cores())
            return next((damage for damage in found if damage), None)
    except ARCHIVE_ERRORS as error:
        return str(error)


def _require_ids(official: OfficialPart, remote: Remote, folder: Path) -> None:
    """Raise `UserError` unless an archive holds exactly the images of its ground truth."""
    problems = Problems()
    labels = read_ground_truth(folder / official.ground_truth, problems)
    problems.raise_if_any(str(folder), "remedy: delete this table and run the same command again")
    part = _part(folder, remote)
    with zipfile.ZipFile(part) as archive:
        pictures = PictureArchive(archive, part)
        compare_ids(pictures, names_by_id(pictures, problems), labels, problems)
    if problems:
        _discard(folder, remote)
    problems.raise_if_any(
        remote.url,
        f"remedy: this is not the published archive: look at {HOMEPAGE}, or name a mirror with "
        f"${URL_VARIABLE}; it was not kept",
    )


def _part(folder: Path, remote: Remote) -> Path:
    return folder / f"{remote.name}.part"


def _note(folder: Path, remote: Remote) -> Path:
    return folder / f"{remote.name}.part.json"


def _discard(folder: Path, remote: Remote) -> None:
    _part(folder, remote).unlink(missing_ok=True)
    _note(folder, remote).unlink(missing_ok=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _there(folder: Path, remote: Remote) -> int:
    """How many bytes of this version of a file are in the folder."""
    try:
        same = json.loads(_note(folder, remote).read_text()) == [remote.size, remote.version]
    except (OSError, ValueError):
        return 0
    size = _size(_part(folder, remote))
    return size if same and size <= remote.size else 0


def _reason(error: BaseException) -> str:
    """The innermost cause of a network error in one line: its outer layers repeat the URL."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _human(size: int) -> str:
    for unit, digits in (("GB", 9), ("MB", 6), ("kB", 3)):
        if size >= 10**digits:
            return f"{size / 10**digits:.1f} {unit}"
    return f"{size} bytes"
