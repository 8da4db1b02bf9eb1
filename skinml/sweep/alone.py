"""One sweep of the same cells at a time on a machine."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from skinml.base.cache import CACHE_DIR_VARIABLE, cache_dir
from skinml.base.errors import UserError


@contextmanager
def only_one(key: str) -> Iterator[None]:
    """Let no other sweep of this key run on this machine for a time, else `UserError`.

    The lock is SQLite's on a file in the cache: the system lifts it when its holder dies. A cache
    that cannot be written to is a `UserError` too: two sweeps would not see each other.
    """
    path = cache_dir() / "locks" / f"sweep-{key}.db"
    with closing(_lock(path)):
        with suppress(OSError):  # It is for the words below alone.
            _holder(path).write_text(str(os.getpid()))
        yield


def _lock(path: Path) -> sqlite3.Connection:
    """A connection that holds the lock of a database, which is made where there is none."""
    connection = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=0, isolation_level=None)
        connection.execute("BEGIN EXCLUSIVE")
    except (OSError, sqlite3.Error) as error:
        if connection:
            connection.close()
        raise _refusal(path, error) from None
    return connection


def _refusal(path: Path, error: OSError | sqlite3.Error) -> UserError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # The rest says more of the same.
    if code == sqlite3.SQLITE_BUSY:
        pid = "unknown"
        with suppress(OSError, ValueError):
            pid = _holder(path).read_text()
        return UserError(
            f"a sweep of these cells is running on this machine already (process {pid}); "
            "expected one at a time: wait for its end, or stop it first"
        )
    if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return UserError(
            f"{path}: is damaged ({error}); expected the lock of a sweep: remove this file, which "
            f"holds nothing else, or name another folder by {CACHE_DIR_VARIABLE}"
        )
    why = error.strerror if isinstance(error, OSError) else error
    return UserError(
        f"{path.parent}: the lock of a sweep cannot be made there ({why}); expected a folder that "
        f"can be written to: name one by {CACHE_DIR_VARIABLE}"
    )


def _holder(path: Path) -> Path:
    """The file that says which process holds a lock."""
    return path.with_suffix(".pid")
