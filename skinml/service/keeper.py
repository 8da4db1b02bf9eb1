"""The end of a group of services, whatever becomes of the one who started them.

The starter writes a line "group signal grace" for each process group to this program's stdin. When
that ends, by the starter's will or with its last breath, the groups are stopped, last one first.
"""

import os
import signal
import sys
import time


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


def main() -> None:
    # Ctrl-C and a closed terminal are meant for the starter, which then ends our stdin.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups = [line.split() for line in sys.stdin]
    for group, number, grace in reversed(groups):
        stop_group(int(group), int(number), float(grace))


if __name__ == "__main__":
    main()
