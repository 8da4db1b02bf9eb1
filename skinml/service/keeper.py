"""The end of a group of services, whatever becomes of the one who started them.

The starter writes a line "group signal grace name" for each process group to this program's stdin,
where `name` is the `process_name` of its first process, and "group gone" when that has ended by
itself. When stdin ends, by the starter's will or with its last breath, the groups are stopped, last
one first. What may be weeks later: an id that another process has by then is left alone.
"""

import os
import signal
import sys
import time
from collections.abc import Iterable
from typing import NamedTuple

from skinml.base.processes import process_lives

GONE = "gone"


class Group(NamedTuple):
    """A process group, the signal that stops it, seconds until it is forced, its first process."""

    id: int
    number: int
    grace: float
    name: str

    @property
    def is_anothers(self) -> bool:
        """Whether its id went to another process since.

        Where no process has it, members that outlive the first one keep it from being given away.
        """
        return process_lives(self.name) is False and _runs(self.id)


def line_of(group: Group) -> str:
    """What the starter writes of a group."""
    return f"{group.id} {group.number} {group.grace} {group.name}\n"


def line_of_gone(group: int) -> str:
    """What the starter writes once a group's first process has ended, as a step does."""
    return f"{group} {GONE}\n"


def groups_in(lines: Iterable[str]) -> list[Group]:
    """The groups that are to be stopped, in the order of their starts."""
    groups: dict[int, Group] = {}
    for line in lines:
        group, said, *rest = line.rstrip("\n").split(" ", 3)
        groups.pop(int(group), None)
        if said != GONE:
            groups[int(group)] = Group(int(group), int(said), float(rest[0]), rest[1])
    return list(groups.values())


def stop_group(group: int, number: int, grace: float) -> None:
    """Ask a process group to end, and end it by force `grace` s later."""
    for attempt, patience in ((number, grace), (signal.SIGKILL, 5.0)):
        try:
            os.killpg(group, attempt)
        except ProcessLookupError:
            return
        until = time.monotonic() + patience
        while time.monotonic() < until:
            if not _alive(group):
                return
            time.sleep(0.05)


def _alive(group: int) -> bool:
    """Whether the group has a member that runs: one that waits to be buried does not."""
    import psutil

    for process in psutil.process_iter(["status"]):
        try:
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                return True
        except (ProcessLookupError, PermissionError, psutil.Error):
            continue
    return False


def _runs(pid: int) -> bool:
    """Whether a process has an id and runs: one that waits to be buried does not."""
    import psutil

    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def main() -> None:
    # Ctrl-C and a closed terminal are meant for the starter, which then ends our stdin.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    for group in reversed(groups_in(sys.stdin)):
        if not group.is_anothers:
            stop_group(group.id, group.number, group.grace)


if __name__ == "__main__":
    main()
