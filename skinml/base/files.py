"""Files: what identifies one, what may name one, and how those of somebody else are read."""

import csv
import hashlib
import io
import json
import os
import re
import stat
import tempfile
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from skinml.base.errors import UserError

# Windows takes these for devices, whatever their ending.
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
# A file system takes 255 bytes; a caller adds an ending.
_LONGEST_NAME = 150

# The largest files that are read whole, in bytes. Of JSON, which may take 24 times as much in
# memory, a run's own have some kilobytes; a table of predictions has some 60 bytes a line.
LARGEST_JSON = 8 * 2**20
_LARGEST_TABLE = 32 * 2**20
# A line counts as one more: a table of 100,000 pictures with lesions and ten facts of each.
_MOST_CELLS = 2_000_000


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


def at_home(path: str | Path, given: str) -> Path:
    """A path as a person writes it, with a home folder in the place of its ~.

    That of a user who is none is a `UserError`; `given` begins it: what the path was given as, such
    as "weights=".
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(
            f"{given}{path}: {Path(path).parts[0]} is nobody's home folder on this machine; "
            "expected a path from /, or from ~/ for your own"
        ) from None


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


def check_regular(path: Path, largest: int | None = None) -> None:
    """An `OSError` where a path leads to a pipe or device, or to more than `largest` bytes.

    A pipe is waited for, and a device may never end. What is not there, or a folder, is an
    `OSError` by itself where it is opened.
    """
    status = path.stat()
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise OSError(None, "not a regular file but a pipe or device", str(path))
    if largest is not None and status.st_size > largest:
        raise OSError(None, f"{status.st_size} bytes, expected at most {largest}", str(path))


def read_file(path: Path, largest: int) -> bytes:
    """The content of a file that a person names, or that came from somebody else.

    All that `check_regular` refuses, and what cannot be read, is an `OSError`.
    """
    check_regular(path, largest)
    return path.read_bytes()


def read_table(
    path: Path, largest: int = _LARGEST_TABLE, most_cells: int = _MOST_CELLS
) -> list[tuple[int, list[str]]]:
    """The rows of a CSV file of whatever origin, each with the number of its (last) line.

    An `OSError` as of `read_file` where it has more than `largest` bytes (32 MiB), or cannot be
    read; a `UnicodeDecodeError` where it is no UTF-8; a `csv.Error` where a cell has more than
    128 kB, or there are more than `most_cells` (two million).
    """
    content = read_file(path, largest)
    content.decode("utf-8-sig")  # Here a wrong byte has its place in the file.
    reader = csv.reader(io.TextIOWrapper(io.BytesIO(content), "utf-8-sig", newline=""))
    rows: list[tuple[int, list[str]]] = []
    cells = 0
    for row in reader:
        cells += len(row) + 1
        if cells > most_cells:
            raise csv.Error(f"more than {most_cells:,} cells")
        rows.append((reader.line_num, row))
    return rows


def read_json(path: Path, largest: int = LARGEST_JSON) -> Any:
    """What a JSON file of whatever origin holds; a `ValueError` where it is none.

    What is no regular file, one of more than `largest` bytes, one that is no UTF-8 and one nested
    too deeply are among those. A file that is not there, or cannot be read, is an `OSError`.
    """
    try:
        return json.loads(read_file(path, largest).decode("utf-8"))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except OSError as error:
        if error.errno is not None:
            raise
        raise ValueError(error.strerror) from None


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_whole(path: Path, text: str) -> None:
    """Write a text file in UTF-8 that is there whole, or as it was before.

    What UTF-8 has no place for, a name of a file from elsewhere, becomes a question mark.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(text, encoding="utf-8", errors="replace")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_out(out: Path, text: str) -> None:
    """Write a text file where a person says `--out`, as `write_whole`; a `UserError` if it cannot.

    A link means what it leads to, and a pipe or device gets the text itself: to rename a file onto
    one would replace it, `/dev/null` for the whole machine. A pipe without a reader is waited for.
    """
    try:
        if is_stream(out):
            with out.open("w", encoding="utf-8", errors="replace") as stream:
                stream.write(text)
        else:
            write_whole(Path(os.path.realpath(out)), text)
    except BrokenPipeError:
        raise  # Its reader has seen enough: `run_command` ends quietly.
    except OSError as error:
        raise UserError(
            f"--out {out}: cannot be written ({error.strerror}); what was there is as it was: free "
            "some space, or give another file, in a folder that exists and may be written"
        ) from None


def require_place(out: Path) -> None:
    """A `UserError` where no folder can be made for a person's `--out`, or something lies there.

    Asked before anything is done: an empty folder is welcome, as it may be mounted.
    """
    if reason := why_no_place(out):
        raise UserError(f"--out {out}: {reason}; expected a new folder where one may be made")
    place = _place(out)
    if os.path.lexists(place) and (not place.is_dir() or any(place.iterdir())):
        raise UserError(f"--out {out}: is there already; expected a new folder, or an empty one")
    near = next(path for path in (place, *place.parents) if path.exists())
    if not near.is_dir() or not os.access(near, os.W_OK):
        raise UserError(f"--out {out}: cannot be made in {near}; expected a folder to write to")


@contextmanager
def whole_folder(out: Path, last: str = "") -> Iterator[Path]:
    """A folder to write into, of which nothing is in `out` before all of it is.

    A folder that is there stays, as it may be mounted, or the current one: the files are written
    within it, on its own disk, and moved to their names, that of the name `last` at the end. The
    errors are those of `require_place`; where the body fails, nothing is left.
    """
    require_place(out)  # Again: it may have been filled in the meantime.
    place = _place(out)
    there = place.is_dir()
    near = place if there else place.parent
    near.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=near) as name:
        ready = Path(name, "ready")
        ready.mkdir()
        yield ready
        if there:
            _move_into(ready, place, last)
        else:
            ready.replace(place)


def _move_into(ready: Path, place: Path, last: str) -> None:
    """Move what is ready into an empty folder: all of it, or nothing where that fails."""
    moved: list[Path] = []
    try:
        for path in sorted(ready.iterdir(), key=lambda path: path.name == last):
            moved.append(path.rename(place / path.name))
    except BaseException:
        for path in moved:
            path.rename(ready / path.name)
        raise


def _place(out: Path) -> Path:
    """Where a folder goes: a link means what it leads to, a dot the folder itself."""
    return Path(os.path.realpath(out))


def why_no_place(path: Path) -> str:
    """Why nobody may look at a place: a name that is too long, a folder that is closed; else empty.

    A place where nothing is is one.
    """
    try:
        path.stat()
    except FileNotFoundError:
        return ""
    except OSError as error:
        return error.strerror or str(error)
    return ""


def is_stream(path: Path) -> bool:
    """Whether a path leads to a pipe or a device: what is written there is no file's content."""
    try:
        return path.exists() and not path.is_file() and not path.is_dir()
    except OSError:
        return False  # Nobody may look there: whoever writes is told so.


def sync_folder(folder: Path) -> None:
    """Bring the names of new, renamed and removed files onto the disk, where the system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
