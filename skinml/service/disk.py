"""Room on the disk: what would take the last of it is refused while reading goes on.

A full disk ended the service, and PostgreSQL panicked on the way. So some of it is kept free, and a
request that would write below that is answered 507; when there is room again, so it goes on.
"""

import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

from skinml.service.routes import Refused

# The variable that says how many bytes are kept free.
RESERVE = "SKINML_DISK_RESERVE"

# Seconds for which a look at the disk counts: an upload asks for every piece of its file.
_COUNTS = 0.2


class Room:
    """The disks that a server writes to, and how much of each is kept free."""

    def __init__(self, folders: Iterable[Path], reserve: int) -> None:
        self._folders = [folder for folder in folders if folder.is_dir()]
        self._reserve = reserve
        self._seen = -_COUNTS
        self._full = False

    def check(self) -> None:
        """`Refused`, 507, where a disk has less than the reserve."""
        now = time.monotonic()
        if now - self._seen > _COUNTS:
            self._seen = now
            free = min((shutil.disk_usage(each).free for each in self._folders), default=2**63)
            self._full = free < self._reserve
        if self._full:
            raise Refused(507, "disk full: the service takes nothing new until there is room")


def of_server() -> Room:
    """That of the MLflow server of this process: its artifacts, and where uploads lie first."""
    folders = {
        os.environ.get("_MLFLOW_SERVER_ARTIFACT_DESTINATION", ""),
        os.environ.get("TMPDIR", ""),
    }
    paths = [Path(name.removeprefix("file://")) for name in folders if name]
    return Room(paths, int(os.environ.get(RESERVE) or 0))
