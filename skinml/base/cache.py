"""The user's cache folder, and arrays kept in it from one run to the next."""

import errno
import hashlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import numpy as np

from skinml.base.files import file_sha256
from skinml.base.locks import exclusive

CACHE_DIR_VARIABLE = "SKINML_CACHE_DIR"

# About forty times the features of one backbone over the training part.
MAX_ARRAYS_BYTES = 4 * 1024**3

# Days that an array is kept which nobody went on computing.
PARTIAL_DAYS = 7

_NOTICE = "skinml: waiting for another process, which computes the same"

# (an array, how many of its first rows are there) → writes the others in order, and yields how many
# are there after each block of them.
Fill = Callable[[np.ndarray, int], Generator[int]]


def cache_dir() -> Path:
    """The user's cache folder of skinml, or $SKINML_CACHE_DIR; not created here."""
    import platformdirs

    override = os.environ.get(CACHE_DIR_VARIABLE)
    return Path(override) if override else Path(platformdirs.user_cache_dir("skinml"))


def cached_array(key: str, shape: tuple[int, ...], dtype: Any, fill: Fill) -> np.ndarray:
    """An array from the cache, else one that `fill` writes and that is kept: memory-mapped.

    `key` says all that it depends on. Neither side holds the array in memory: `fill` writes into
    the file, and what is returned is read from it page by page. What is kept is used only if its
    SHA-256 is the one stored beside it: a damaged entry is computed again. A process that stops or
    is killed in between leaves the blocks that `fill` told of, and the next one goes on after
    them. Of two processes that want the same array the second waits for the first. The least
    recently used entries go when all together exceed MAX_ARRAYS_BYTES. Where the cache cannot be
    written to, the array is computed in memory, and a warning says so.
    """
    folder = cache_dir() / "arrays"
    path = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npy"
    array = _verified(path, shape, dtype)
    if array is None:
        lock, why_not = path.with_suffix(".lock"), ""
        with ExitStack() as stack:
            try:
                stack.enter_context(exclusive(lock, _NOTICE))
            except OSError as error:
                why_not = error.strerror or str(error)
            else:
                # Before the lock is lifted: else it may be another's.
                stack.callback(lock.unlink, missing_ok=True)
                if (array := _verified(path, shape, dtype)) is None:
                    array = _compute(path, shape, dtype, fill)
        if array is None:
            why = f"{folder}: cannot be written to ({why_not}); expected a folder that can, by "
            return _in_memory(shape, dtype, fill, why + CACHE_DIR_VARIABLE)
    with suppress(OSError):  # A cache that others keep may be read all the same.
        _clean_up(folder, path)
    return array


def _verified(path: Path, shape: tuple[int, ...], dtype: Any) -> np.ndarray | None:
    """The array of an entry, None where it is not there or not as it was written."""
    try:
        if file_sha256(path) != path.with_suffix(".sha256").read_text():
            return None
        with suppress(OSError):  # On a file system that is read-only.
            os.utime(path)  # The least recently used entry is dropped first.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):
        return None
    return array if array.shape == shape and array.dtype == dtype else None


def _compute(path: Path, shape: tuple[int, ...], dtype: Any, fill: Fill) -> np.ndarray:
    partial = path.with_suffix(".partial")
    array, done = _left(partial, shape, dtype)
    if array is None:
        _blocks(partial).unlink(missing_ok=True)
        array = np.lib.format.open_memmap(partial, mode="w+", dtype=dtype, shape=shape)
    if not _reserve(partial):
        _drop(partial)
        why = f"{array.nbytes / 1e6:,.0f} MB do not fit into {path.parent}"
        return _in_memory(shape, dtype, fill, why)
    with _blocks(partial).open("ab", buffering=0) as journal, closing(fill(array, done)) as filled:
        for rows in filled:
            # On a full disk a line is missing: those after it are not used then.
            with suppress(OSError):
                journal.write(f"{done} {rows} {_sha256(array[done:rows])}\n".encode())
            done = rows
    array.flush()
    del array
    # Before the array has its name: a kill between the two costs nothing, as all blocks are there.
    path.with_suffix(".sha256").write_text(file_sha256(partial))
    partial.replace(path)
    _blocks(partial).unlink(missing_ok=True)
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _in_memory(shape: tuple[int, ...], dtype: Any, fill: Fill, why: str) -> np.ndarray:
    """An array that is not kept, and a warning that says why not."""
    array = np.empty(shape, dtype)
    print(
        f"skinml: warning: {why}: {array.nbytes / 1e6:,.0f} MB are held in memory, and computed "
        "again by the next run",
        file=sys.stderr,
    )
    for _ in fill(array, 0):
        pass
    return array


def _left(partial: Path, shape: tuple[int, ...], dtype: Any) -> tuple["np.memmap | None", int]:
    """The array that an earlier process has begun, with how many rows of it are as it wrote them.

    None where there is none to go on with.
    """
    try:
        array = np.lib.format.open_memmap(partial, mode="r+")
        journal = _blocks(partial).read_bytes()
    except (OSError, ValueError):
        return None, 0
    if array.shape != shape or array.dtype != dtype:
        return None, 0
    done = whole = 0
    for line in journal.splitlines(keepends=True):
        try:
            first, last, digest = line.decode().removesuffix("\n").split(" ")
            end = int(last)
        except ValueError:
            break
        good = line.endswith(b"\n") and first == str(done) and done < end <= len(array)
        if not good or _sha256(array[done:end]) != digest:
            break
        done, whole = end, whole + len(line)
    if not done:
        return None, 0
    os.truncate(_blocks(partial), whole)
    return array, done


def _blocks(partial: Path) -> Path:
    """The journal of a partial array: a line a block, its first row, where it ends, its SHA-256."""
    return partial.with_suffix(".blocks")


def _sha256(rows: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(rows).data).hexdigest()


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


def _clean_up(folder: Path, keep: Path) -> None:
    """Drop what nobody goes on with, and the oldest entries of too many."""
    left = (path for kind in ("partial", "blocks", "lock") for path in folder.glob(f"*.{kind}"))
    for partial in {path.with_suffix(".partial") for path in left}:
        # One that is being written is locked.
        with exclusive(partial.with_suffix(".lock"), None) as busy:
            if busy:
                continue
            age = time.time() - _last_use(partial)
            whole = partial.exists() and _blocks(partial).exists()
            if not whole or age > PARTIAL_DAYS * 24 * 3600:
                _drop(partial)
            partial.with_suffix(".lock").unlink(missing_ok=True)
    total = 0
    entries = [*folder.glob("*.npy"), *folder.glob("*.partial")]
    for path in sorted(entries, key=_last_use, reverse=True):
        total += path.stat().st_size if path.exists() else 0
        if total > MAX_ARRAYS_BYTES and path != keep:
            with exclusive(path.with_suffix(".lock"), None) as busy:
                if not busy:
                    _drop(path)
                    path.with_suffix(".lock").unlink(missing_ok=True)


def _drop(path: Path) -> None:
    """Remove an entry, whole or partial."""
    # A run that has it mapped goes on with it; Windows keeps such a file, till later.
    with suppress(OSError):
        path.unlink(missing_ok=True)
        if path.suffix == ".partial":
            _blocks(path).unlink(missing_ok=True)
        if not path.with_suffix(".npy").exists():
            path.with_suffix(".sha256").unlink(missing_ok=True)


def _last_use(path: Path) -> float:
    """When an entry was used last, or a partial one was written to; 0 of one that is gone."""
    try:
        return (_blocks(path) if path.suffix == ".partial" else path).stat().st_mtime
    except FileNotFoundError:  # Another process dropped it just now.
        return 0.0
