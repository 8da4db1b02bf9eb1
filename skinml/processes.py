"""Processes: a name that no other ever has, an end for those whose starter is gone, a port."""

import os
import platform
import signal
import socket
import threading
import time

# Between a process's start as told now and as told then: setting the clock moves it.
_CLOCK_MOVES = 10.0


def process_name(pid: int | None = None) -> str:
    """The name "host pid start" of a process, this one by default; start in seconds since 1970.

    Unlike the id alone it never comes back: an id is given to another process one day.
    """
    import psutil

    process = psutil.Process(pid)
    return f"{platform.node()} {process.pid} {process.create_time():.2f}"


def is_dead(name: str) -> bool:
    """Whether the process of a name is certainly gone; what another host runs is not known here."""
    import psutil

    try:
        host, pid, start = name.rsplit(" ", 2)
        process = psutil.Process(int(pid)) if host == platform.node() else None
        if process is None:
            return False
        if process.status() == psutil.STATUS_ZOMBIE:
            return True
        return abs(process.create_time() - float(start)) > _CLOCK_MOVES
    except psutil.NoSuchProcess:
        return True
    except (ValueError, psutil.AccessDenied):
        return False


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


def free_port() -> int:
    """A port on loopback that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
