"""Files that a server has: begun, resumed after an interruption, verified.

Of the libraries that download whole files, pooch begins one anew after each interruption,
huggingface_hub resumes those of its own hub, and S3's clients resume only within a process. So the
Range request is made here.
"""

import json
import os
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from skinml.base.errors import Problems, UserError
from skinml.base.processes import usable_cores
from skinml.base.progress import Advance, progress_bar
from skinml.data import server
from skinml.data.isic2017 import HOMEPAGE, OFFICIAL_PARTS, OfficialPart
from skinml.data.official import (
    ARCHIVE_ERRORS,
    PictureArchive,
    compare_ids,
    names_by_id,
    read_ground_truth,
)
from skinml.data.server import (
    ATTEMPTS,
    URL_VARIABLE,
    Broken,
    Patience,
    Remote,
    describe_remote,
    reason_of,
    send_request,
    version_of,
)
from skinml.data.worklog import in_order

if TYPE_CHECKING:
    from requests import Response, Session


_CHUNK = 1024**2


def download(session: "Session", remotes: list[Remote], folder: Path) -> None:
    """Bring files to a folder, each verified before it gets its name; `UserError` if one cannot be.

    What is half there lies in `NAME.part`, beside `NAME.part.json`, which tells of which version it
    is a part. The next call goes on with it.
    """
    total = sum(remote.size for remote in remotes)
    with progress_bar("downloading", total, in_bytes=True) as advance:
        for remote in remotes:
            _bring(session, remote, folder, advance)
            print(f"skinml: {remote.name}: {human_size(remote.size)}, verified", file=sys.stderr)


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
    part, meter = part_of(folder, remote), _Meter(advance)
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
    note_of(folder, remote).unlink(missing_ok=True)


def _transfer(session: "Session", remote: Remote, folder: Path, meter: _Meter) -> Remote:
    """Bring the `.part` of a file to its full length; returns the version that it then is."""
    part = part_of(folder, remote)
    offset = furthest = bytes_there(folder, remote)
    if not offset:
        _discard(folder, remote)
    patience = Patience(remote.url, ATTEMPTS)
    while offset < remote.size or not part.exists():
        meter.at(offset)
        rest = {"Range": f"bytes={offset}-"} | remote.if_range if offset else {}
        try:
            with send_request(session, "GET", remote.url, headers=rest) as response:
                offset, remote = _what_comes(remote, offset, response)
                note_of(folder, remote).write_text(json.dumps([remote.size, remote.version]))
                _receive(response, part, offset, remote.size, meter)
            offset = remote.size
        except Broken as broken:
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
        return 0, describe_remote(remote.name, remote.url, response)
    unit, _, place = response.headers.get("Content-Range", "").partition(" ")
    span, _, total = place.partition("/")
    asked = unit == "bytes" and span == f"{offset}-{remote.size - 1}" and total == str(remote.size)
    if response.status_code == 206 and asked and version_of(response) in ("", remote.version):
        return offset, remote
    # Not the rest of what is here: the next attempt asks for all of it.
    raise Broken(
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
                    raise Broken(reason_of(error)) from None
                if not chunk:
                    break
                file.write(chunk)
                offset += len(chunk)
                meter.at(offset)
                if (seconds := time.monotonic() - watched) > server.STALL_SECONDS:
                    if offset - begin < server.SLOWEST * seconds:
                        raise Broken(f"under {server.SLOWEST} bytes a second for {seconds:.0f} s")
                    watched, begin = time.monotonic(), offset
            if offset != size:
                raise Broken(f"{offset:,} bytes came, expected {size:,}", useless=offset > size)
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
    part = part_of(folder, remote)
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


def part_of(folder: Path, remote: Remote) -> Path:
    return folder / f"{remote.name}.part"


def note_of(folder: Path, remote: Remote) -> Path:
    return folder / f"{remote.name}.part.json"


def _discard(folder: Path, remote: Remote) -> None:
    part_of(folder, remote).unlink(missing_ok=True)
    note_of(folder, remote).unlink(missing_ok=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def bytes_there(folder: Path, remote: Remote) -> int:
    """How many bytes of this version of a file are in the folder."""
    try:
        same = json.loads(note_of(folder, remote).read_text()) == [remote.size, remote.version]
    except (OSError, ValueError):
        return 0
    size = _size(part_of(folder, remote))
    return size if same and size <= remote.size else 0


def human_size(size: int) -> str:
    for unit, digits in (("GB", 9), ("MB", 6), ("kB", 3)):
        if size >= 10**digits:
            return f"{size / 10**digits:.1f} {unit}"
    return f"{size} bytes"
