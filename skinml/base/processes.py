"""Processes: names that never come back, an end for those left behind, cores, a free port."""

import os
import platform
import socket
from contextlib import suppress
from functools import cache
from pathlib import Path

# Seconds by which two readings of a clock, which a person may set, differ for no reason.
CLOCK_MOVES = 10.0


def process_name(pid: int | None = None) -> str:
    """The name "host pid start" of a process, this one by default.

    Unlike the id alone it never comes back: an id is given to another process one day. On Linux
    `start` is "boot:namespace:ticks", the machine's boot, the namespace of process ids (a container
    has its own) and the clock ticks since that boot: setting the clock does not move it. Elsewhere
    it is in seconds since 1970.
    """
    import psutil

    pid = os.getpid() if pid is None else pid
    place, ticks = _place(), _ticks(pid)
    if place and ticks:
        return f"{platform.node()} {pid} {place}:{ticks}"
    return f"{platform.node()} {pid} {psutil.Process(pid).create_time():.2f}"


def process_lives(name: str) -> bool | None:
    """Whether the process of a name lives; None where that cannot be known from here.

    Another host's cannot, nor that of another boot or of another container with this one's host
    name. A name that depends on the clock, as names did before, tells of the living alone.
    """
    import psutil

    try:
        host, pid, start = name.rsplit(" ", 2)
        if host != platform.node():
            return None
        if ":" not in start:
            process = psutil.Process(int(pid))
            if process.status() == psutil.STATUS_ZOMBIE:
                return None
            return abs(process.create_time() - float(start)) <= CLOCK_MOVES or None
        if start.rpartition(":")[0] != _place():
            return None
        ticks = _ticks(int(pid))
        if ticks is None:
            # Some systems hide the processes of other users.
            with suppress(ProcessLookupError):
                os.kill(int(pid), 0)
                return None
            return False
        return ticks == start.rpartition(":")[2]
    except (ValueError, OSError, OverflowError, psutil.Error):
        return None


def is_dead(name: str) -> bool:
    """Whether the process of a name is gone, if it was one of this host.

    As far as the processes show that are seen here: `process_lives` is more careful.
    """
    import psutil

    lives = process_lives(name)
    if lives is not None:
        return not lives
    try:
        host, pid, start = name.rsplit(" ", 2)
        if host != platform.node():
            return False
        if ":" in start and start.rpartition(":")[0] != _place():
            return True  # The machine, or the container, has started anew.
        process = psutil.Process(int(pid))
        if process.status() == psutil.STATUS_ZOMBIE:
            return True
        return ":" not in start and abs(process.create_time() - float(start)) > CLOCK_MOVES
    except psutil.NoSuchProcess:
        return True
    except (ValueError, OverflowError, psutil.AccessDenied):
        return False


@cache
def _place() -> str:
    """Where the ids of processes mean what they mean here: "boot:namespace", empty if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")
        return f"{boot[:16]}:{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return ""


def _ticks(pid: int) -> str | None:
    """When a process started, in clock ticks since the machine did; None if it is not seen.

    Empty of one that is dead, and that nobody has waited for yet.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    # Its own name, in parentheses, may hold anything.
    words = text.rpartition(")")[2].split()
    return "" if words[0] in "ZX" else words[19]


def end_process(name: str, patience: float) -> None:
    """Ask the process of a name to end, and end it by force `patience` s later.

    Nothing happens where it is another host's or gone already.
    """
    import psutil

    if is_dead(name) or not name.startswith(f"{platform.node()} "):
        return
    try:
        process = psutil.Process(int(name.rsplit(" ", 2)[1]))
        process.terminate()
        try:
            process.wait(patience)
        except psutil.TimeoutExpired:
            process.kill()
            # Nothing keeps it but a busy machine: what follows counts on its locks being free.
            process.wait(patience + 10)
    except (ValueError, psutil.Error):
        return


def free_port() -> int:
    """A port on loopback that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def usable_cores() -> int:
    """The cores that this process may use: in a container or under taskset fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def own_cores() -> list[int]:
    """The cores that this process may use; none where the system does not let us choose."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def cores_of(slot: int, threads: int) -> frozenset[int]:
    """The cores for the cell in a slot where each has so many threads; empty: leave it all.

    `skinml.run --threads N` keeps the first N of the cores that it may use: cells side by side
    would all choose the same ones.
    """
    cores = own_cores()
    if not threads or threads > len(cores):
        return frozenset()
    return frozenset(cores[(slot * threads + index) % len(cores)] for index in range(threads))
