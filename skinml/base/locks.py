"""Locks on files, which the system releases when their holder dies."""

import errno
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# What a file system without locks answers, some network ones for instance.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)

# Seconds between two looks at a lock that is waited for with a limit.
_LOOK = 0.1


class StillLocked(Exception):
    """Another process holds a lock for longer than it is to be waited for."""


def take_lock(descriptor: int, wait: bool = False, shared: bool = False) -> bool | None:
    """Lock an open file; whether that was possible, None where the system has no such locks.

    Windows has none, nor have some network file systems. With `wait` another holder is waited for.
    """
    try:
        import fcntl
    except ImportError:
        return None
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(descriptor, kind | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return None
    return True


@contextmanager
def exclusive(path: Path, notice: str | None, limit: float | None = None) -> Iterator[bool]:
    """Hold the lock file `path` (its folder is made); the value says whether another held it.

    With a `notice` it is printed and waited for, for at most `limit` seconds if there are any:
    then `StillLocked` is raised. Without a notice nothing is locked then. The file may be removed
    by its holder. Where the system has no such locks, everyone is taken to be alone.
    """
    descriptor, waited = lock_file(path, notice, limit)
    try:
        yield waited
    finally:
        if descriptor is not None:
            os.close(descriptor)


def is_locked(path: Path) -> bool | None:
    """Whether a living process of this machine holds the lock of a file, which is there.

    None where the system cannot tell.
    """
    with path.open("rb") as file:
        taken = take_lock(file.fileno(), shared=True)
    return None if taken is None else not taken


def lock_file(
    path: Path, notice: str | None, limit: float | None = None
) -> tuple[int | None, bool]:
    """The descriptor that holds a lock as `exclusive` does, and whether another held it.

    None where nothing is locked. Closed by every process that has it, it lifts the lock: a child
    that inherits it holds the lock too.
    """
    waited = False
    deadline = None if limit is None else time.monotonic() + limit
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:
            continue  # The holder has just removed the folder.
        kept = False
        try:
            taken = take_lock(descriptor)
            if taken is False:
                if notice is None:
                    return None, True
                if not waited:
                    print(notice, file=sys.stderr, flush=True)
                waited = True
                taken = _wait_for(descriptor, deadline)
            if taken is None:
                return None, waited
            # Whoever held it may have removed the file: then nobody else sees this lock.
            with suppress(FileNotFoundError):
                kept = os.path.samestat(os.fstat(descriptor), path.stat())
            if kept:
                return descriptor, waited
        finally:
            if not kept:
                os.close(descriptor)


def _wait_for(descriptor: int, deadline: float | None) -> bool | None:
    """Lock an open file that another holds, at the latest at a time of the monotonic clock."""
    if deadline is None:
        return take_lock(descriptor, wait=True)
    # The system's own wait has no limit, and a holder that is stopped or hangs would be one.
    while (taken := take_lock(descriptor)) is False:
        if time.monotonic() >= deadline:
            raise StillLocked
        time.sleep(_LOOK)
    return taken
