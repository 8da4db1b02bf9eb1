"""Processes: names that never come back, an end for those left behind, locks, cores, a port."""

import errno
import os
import platform
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from types import FrameType

# Between a process's start as told now and as told then, in a name that depends on the clock.
_CLOCK_MOVES = 10.0

# What a file system without locks answers, some network ones for instance.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)


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
    name. A name that depends on the clock, as those of before, tells of the living alone.
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
            return abs(process.create_time() - float(start)) <= _CLOCK_MOVES or None
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
        return ":" not in start and abs(process.create_time() - float(start)) > _CLOCK_MOVES
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


class _Stop:
    """SIGTERM and Ctrl-C as exceptions of the main thread: `SystemExit`, `KeyboardInterrupt`.

    The first is raised, and every second anew until it gets through: raised in a callback of the
    garbage collector (JAX has one, and Keras imports JAX where it finds it) or in a destructor an
    exception is printed and lost. A further Ctrl-C ends the process at once. A further SIGTERM
    does not: `mlflow run` sends one after the terminal's Ctrl-C.
    """

    def __init__(self) -> None:
        self._received = 0
        self._ours = False

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        if self._ours:
            self._ours = False
        elif self._received:
            if signum == signal.SIGINT:
                signal.signal(signum, signal.SIG_DFL)
                os.kill(os.getpid(), signum)
            return
        self._received = self._received or signum
        again = threading.Timer(1.0, self._again)
        again.daemon = True
        again.start()
        if self._received == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + self._received)

    def _again(self) -> None:
        self._ours = signal.getsignal(self._received) is self
        if self._ours:
            os.kill(os.getpid(), self._received)

    def gets_through(self) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def stop_on_signals() -> None:
    """From now on SIGTERM and Ctrl-C raise, so that what is open is closed on the way out."""
    stop = _Stop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        # A shell's background job has chosen to ignore the terminal.
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, stop)


def stop_no_more() -> None:
    """The exception of `stop_on_signals` is on its way: another would break off the closing.

    Only a further Ctrl-C ends the process, at once.
    """
    stop = signal.getsignal(signal.SIGTERM)
    if isinstance(stop, _Stop):
        stop.gets_through()


def stop_with_stdin(grace: float = 60.0) -> None:
    """From now on end this process by SIGTERM when its stdin ends, by force `grace` s later.

    Whoever started it holds the other end of a pipe, which the system closes with the holder's
    last breath: so nothing trains on after its sweep, even one that had no time to say so.
    """

    def wait() -> None:
        # Not through sys.stdin, whose lock a thread may not hold while Python ends.
        try:
            while os.read(0, 4096):
                pass
        except OSError:
            pass  # As good as its end.
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(grace)
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=wait, daemon=True, name="stop_with_stdin").start()


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
            process.wait(patience)
    except (ValueError, psutil.Error):
        return


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """With these variables of the environment for a time."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


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


@contextmanager
def exclusive(path: Path, notice: str | None) -> Iterator[bool]:
    """Hold the lock file `path` (its folder is made); the value says whether another held it.

    With a `notice` it is printed and waited for; without one nothing is locked then. The system
    releases the lock of a process that dies. The file may be removed by its holder. Where the
    system has no such locks (Windows, some network file systems), everyone is taken to be alone.
    """
    descriptor, waited = lock_file(path, notice)
    try:
        yield waited
    finally:
        if descriptor is not None:
            os.close(descriptor)


def is_locked(path: Path) -> bool | None:
    """Whether a living process of this machine holds the lock of a file, which is there.

    None where the system cannot tell: Windows, some network file systems.
    """
    try:
        import fcntl
    except ImportError:
        return None
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            return None
    return False


def lock_file(path: Path, notice: str | None) -> tuple[int | None, bool]:
    """The descriptor that holds a lock as `exclusive` does, and whether another held it.

    None where nothing is locked. Closed by every process that has it, it lifts the lock: a child
    that inherits it holds the lock too.
    """
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
