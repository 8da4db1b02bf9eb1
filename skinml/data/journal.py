"""Long work in small pieces: what is done is noted, so that a killed process loses next to nothing.

No image is decoded here: rows, a lock against a second process, and a window over a thread pool.
"""

import errno
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

T = TypeVar("T")
R = TypeVar("R")

# What a file system without locks answers, some network ones for instance.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)


class Row(NamedTuple):
    """One image that is done: its file's stamp, SHA-256 of file and pixels, perceptual hash."""

    image_id: str
    stamp: str
    source: str
    pixels: str
    perceptual: str


class Journal:
    """The rows that are done, one line each, appended by any thread in one write."""

    def __init__(self, path: Path, heading: str) -> None:
        """Open a journal; one that does not begin with `heading` is of other work: emptied."""
        self._path = path
        self._heading = heading
        self.rows: dict[str, Row] = {}
        content = path.read_bytes() if path.exists() else b""
        # What follows the last line's end was being written when the process was killed.
        whole = content.rfind(b"\n") + 1
        first, *lines = content[:whole].decode(errors="replace").split("\n")
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        if first != heading:
            self.clear()
            return
        os.ftruncate(self._descriptor, whole)
        for line in lines:
            fields = line.split(",")
            # An id with a comma is not understood: its image is done again.
            if len(fields) == len(Row._fields):
                self.rows[fields[0]] = Row(*fields)

    def append(self, row: Row) -> None:
        """Note a row: at the end of the file and whole, or not at all."""
        os.write(self._descriptor, (",".join(row) + "\n").encode())

    def clear(self) -> None:
        """Forget everything."""
        self.rows = {}
        os.ftruncate(self._descriptor, 0)
        os.write(self._descriptor, f"{self._heading}\n".encode())

    def close(self) -> None:
        os.close(self._descriptor)


def usable_cores() -> int:
    """The cores that this process may use: in a container or under taskset fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def in_order(
    pool: ThreadPoolExecutor, function: Callable[[T], R], items: Iterable[T], ahead: int
) -> Iterator[R]:
    """The results of `function` in the items' order, never more than `ahead` of them at once.

    `pool.map` submits all at once and keeps every result until its turn.
    """
    window: deque[Future[R]] = deque()
    try:
        for item in items:
            window.append(pool.submit(function, item))
            if len(window) >= ahead:
                yield window.popleft().result()
        while window:
            yield window.popleft().result()
    finally:
        for future in window:
            future.cancel()


@contextmanager
def exclusive(path: Path, notice: str | None) -> Iterator[bool]:
    """Hold the lock file `path` (its folder is made); the value says whether another held it.

    With a `notice` it is printed and waited for; without one nothing is locked then. The system
    releases the lock of a process that dies. The file may be removed by its holder. Where the
    system has no such locks (Windows, some network file systems), everyone is taken to be alone.
    """
    descriptor, waited = _lock(path, notice)
    try:
        yield waited
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _lock(path: Path, notice: str | None) -> tuple[int | None, bool]:
    try:
        import fcntl
    except ImportError:
        return None, False
    waited = False
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:
            continue  # The holder has just removed the folder.
        kept = False
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if notice is None:
                    return None, True
                if not waited:
                    print(notice, file=sys.stderr, flush=True)
                waited = True
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            # Whoever held it may have removed the file: then nobody else sees this lock.
            with suppress(FileNotFoundError):
                kept = os.path.samestat(os.fstat(descriptor), path.stat())
            if kept:
                return descriptor, waited
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            return None, waited
        finally:
            if not kept:
                os.close(descriptor)
