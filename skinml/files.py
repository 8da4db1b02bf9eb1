"""Files: what identifies one, what may name one, and how those of somebody else are read."""

import hashlib
import json
import os
import re
import stat
import unicodedata
from contextlib import suppress
from pathlib import Path
from typing import Any

# Windows takes these for devices, whatever their ending.
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
# A file system takes 255 bytes; a caller adds an ending.
_LONGEST_NAME = 150

# The largest JSON file that is read: a run's own have some kilobytes.
_LARGEST_JSON = 16 * 2**20


def file_name(text: str) -> str:
    """The name of one file, in one folder, on every system, from a text of whatever origin.

    A text of letters, digits and "-_+=.," that is a good name is its own. Of another what is not
    allowed becomes "_", and a digest of the text is added: two texts never share a name.
    """
    name = re.sub(r"[^\w.+=,-]", "_", unicodedata.normalize("NFC", text)).strip(".")
    while len(name.encode("utf-8", "replace")) > _LONGEST_NAME:
        name = name[:-1]
    name = name.rstrip(".")
    if name == text and name and not _DEVICES.fullmatch(name):
        return name
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"_{name}-{digest}"


def check_inside(folder: Path, name: str) -> Path:
    """Where a regular file lies below a folder, by its relative name and through no link.

    Anything else is an `OSError` that says what it is: an absolute name, one with "..", a link on
    the way to it, a pipe, a folder, or nothing at all.
    """
    parts = Path(name).parts
    if not parts or Path(name).is_absolute() or ".." in parts or "\0" in name:
        raise OSError(None, "not the name of a file in the folder", name)
    path = folder
    for part in parts:
        path = path / part
        if path.is_symlink():
            raise OSError(None, "a link, expected the file itself", str(path))
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(None, "not a regular file", str(path))
    return path


def read_json(path: Path) -> Any:
    """What a JSON file of whatever origin holds; a `ValueError` where it is none.

    No regular file (a pipe would be waited for), one of more than 16 MB, one that is no UTF-8 and
    one nested too deeply are among those. A file that is not there is an `OSError`.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("not a regular file")
    if status.st_size > _LARGEST_JSON:
        raise ValueError(f"{status.st_size} bytes, expected at most {_LARGEST_JSON}")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_whole(path: Path, text: str) -> None:
    """Write a text file in UTF-8 that is there whole, or as it was before."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Bring the names of new, renamed and removed files onto the disk, where the system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
