"""SIGTERM, Ctrl-C and a closed stdin: each ends a process by an exception, so that it can close."""

import os
import signal
import threading
import time
from types import FrameType


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
