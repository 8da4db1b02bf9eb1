"""The user's cache folder, and arrays kept in it from one run to the next."""

import errno
import hashlib
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from skinml.files import file_sha256
from skinml.processes import exclusive

CACHE_DIR_VARIABLE = "SKINML_CACHE_DIR"

# About forty times the features of one backbone over the training part.
MAX_ARRAYS_BYTES = 4 * 1024**3


def cache_dir() -> Path:
    """The user's cache folder of skinml, or $SKINML_CACHE_DIR; not created here."""
    import platformdirs

    override = os.environ.get(CACHE_DIR_VARIABLE)
    return Path(override) if override else Path(platformdirs.user_cache_dir("skinml"))


def cached_array(
    key: str, shape: tuple[int, ...], dtype: Any, fill: Callable[[np.ndarray], None]
) -> np.ndarray:
    """An array from the cache, else one that `fill` writes and that is kept: memory-mapped.

    `key` says all that it depends on. Neither side holds the array in memory: `fill` writes into
    the file, and what is returned is read from it page by page. What is kept is used only if its
    SHA-256 is the one stored beside it: a damaged or half-written entry is computed again. Of two
    processes that want the same array the second waits for the first. The least recently used
    entries go when all together exceed MAX_ARRAYS_BYTES.
    """
    folder = cache_dir() / "arrays"
    path = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npy"
    if (array := _verified(path, shape, dtype)) is not None:
        return array
    lock = path.with_suffix(".lock")
    with exclusive(lock, "skinml: waiting for another process, which computes the same"):
        try:
            if (array := _verified(path, shape, dtype)) is None:
                array = _compute(path, shape, dtype, fill)
        finally:
            lock.unlink(missing_ok=True)
    _drop_oldest(folder, path)
    return array


def _verified(path: Path, shape: tuple[int, ...], dtype: Any) -> np.ndarray | None:
    """The array of an entry, None where it is not there or not as it was written."""
    try:
        if file_sha256(path) != path.with_suffix(".sha256").read_text():
            return None
        os.utime(path)  # The least recently used entry is dropped first.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):
        return None
    return array if array.shape == shape and array.dtype == dtype else None


def _compute(
    path: Path, shape: tuple[int, ...], dtype: Any, fill: Callable[[np.ndarray], None]
) -> np.ndarray:
    partial = path.with_suffix(".partial")
    try:
        array = np.lib.format.open_memmap(partial, mode="w+", dtype=dtype, shape=shape)
        if not _reserve(partial):
            print(
                f"skinml: warning: {array.nbytes / 1e6:,.0f} MB do not fit into {path.parent}: "
                "they are held in memory, and computed again by the next run",
                file=sys.stderr,
            )
            partial.unlink()
            in_memory = np.empty(shape, dtype)
            fill(in_memory)
            return in_memory
        fill(array)
        array.flush()
        del array
        digest = file_sha256(partial)
        checksum = path.with_suffix(".sha256")
        # First the checksum of before: a kill between the two leaves an entry that is not used.
        checksum.unlink(missing_ok=True)
        partial.replace(path)
        checksum.write_text(digest)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _reserve(path: Path) -> bool:
    """Whether the disk has room for a file: one that outgrows it while mapped kills the process."""
    size = path.stat().st_size
    if not hasattr(os, "posix_fallocate"):
        return shutil.disk_usage(path.parent).free >= size
    with path.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                return False
            raise
    return True


def _drop_oldest(folder: Path, keep: Path) -> None:
    for partial in folder.glob("*.partial"):
        # Of a process that was killed; one that is being written is locked.
        with exclusive(partial.with_suffix(".lock"), None) as busy:
            if not busy:
                partial.unlink(missing_ok=True)
                partial.with_suffix(".lock").unlink(missing_ok=True)
    total = 0
    for path in sorted(folder.glob("*.npy"), key=_last_use, reverse=True):
        total += path.stat().st_size if path.exists() else 0
        if total > MAX_ARRAYS_BYTES and path != keep:
            # A run that has it mapped goes on with it; Windows keeps such a file, till later.
            with suppress(OSError):
                path.with_suffix(".sha256").unlink(missing_ok=True)
                path.unlink(missing_ok=True)


def _last_use(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # Another process dropped it just now.
        return 0.0
