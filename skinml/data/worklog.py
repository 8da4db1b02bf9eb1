"""Long work in small pieces: what is done is noted, so that a killed process loses next to nothing.

No image is decoded here: rows, and a window over a thread pool.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

from skinml.base.files import check_regular

T = TypeVar("T")
R = TypeVar("R")


class DoneImage(NamedTuple):
    """One image that is done: its file's stamp, SHA-256 of file and pixels, perceptual hash."""

    image_id: str
    stamp: str
    source: str
    pixels: str
    perceptual: str


class Worklog:
    """The rows that are done, one line each, appended by any thread in one write."""

    def __init__(self, path: Path, heading: str) -> None:
        """Open a worklog; one that does not begin with `heading` is of other work: emptied."""
        self._path = path
        self._heading = heading
        self.rows: dict[str, DoneImage] = {}
        content = b""
        if path.exists():
            check_regular(path)
            content = path.read_bytes()
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
            if len(fields) == len(DoneImage._fields):
                self.rows[fields[0]] = DoneImage(*fields)

    def append(self, row: DoneImage) -> None:
        """Note a row: at the end of the file and whole, or not at all."""
        os.write(self._descriptor, (",".join(row) + "\n").encode())

    def clear(self) -> None:
        """Forget everything."""
        self.rows = {}
        os.ftruncate(self._descriptor, 0)
        os.write(self._descriptor, f"{self._heading}\n".encode())

    def close(self) -> None:
        os.close(self._descriptor)


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
