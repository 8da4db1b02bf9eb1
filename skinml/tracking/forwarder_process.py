"""The forwarder as the process of a run sees it: start it, start it again, wait for it at the end.

Nothing here knows MLflow; the forwarder itself is skinml/store/forwarder.py.
"""

import argparse
import math
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import IO

from skinml.base.address import URI_VARIABLE
from skinml.base.errors import UserError
from skinml.base.locks import is_locked
from skinml.base.progress import WAIT_IS_TOLD, progress_bar
from skinml.base.provenance import PACKAGE
from skinml.tracking.acknowledged import Acknowledged
from skinml.tracking.folder import LOCK, LOG, STATE, RunFolder

# Exit code of a run that is trained, of which MLflow lacks records: EX_TEMPFAIL of sysexits.h.
UNSENT = 75

# What a forwarder says when its imports are done, and how many seconds they may take.
READY = "the forwarder is ready"
IMPORTS = 120.0

# What a forwarder says of a server that does not answer.
NOT_TAKEN = "warning: MLflow does not take the records of this run"

# Seconds a run waits at its end for what is not sent yet, unless told otherwise.
DRAIN_LIMIT = 300.0
DRAIN_VARIABLE = "SKINML_DRAIN_LIMIT"

# Seconds a run that is stopped waits: whoever stops it wants the machine.
STOPPED_LIMIT = 8.0

# Between two starts of a forwarder that dies, at first and at last, and between two looks at it.
_PAUSE, _LAST_PAUSE, _LOOK = 1.0, 30.0, 0.25


class ForwarderProcess:
    """The forwarder of a run's folder: kept alive, and its words passed on, by a thread."""

    def __init__(self, folder: RunFolder, noted: int = 0) -> None:
        """Start it; `noted` is the number of records that earlier processes of the run wrote."""
        self._folder = folder
        self._noted = noted
        self._before = self.state()
        # That of an earlier process may live on and send for this one too, which then waits.
        lock = folder.path / LOCK
        self._another_sends = lock.exists() and bool(is_locked(lock))
        self._log = folder.path / LOG
        self._begin = self._read = self._log.stat().st_size if self._log.exists() else 0
        self._passing_on = threading.Lock()
        self._stopped = threading.Event()
        self._process = self._start()
        self._thread = threading.Thread(target=self._keep, daemon=True, name="ForwarderProcess")
        self._thread.start()

    def state(self) -> Acknowledged:
        """What the forwarder has written down last."""
        return Acknowledged.load(self._folder.path / STATE)

    def raise_if_refused(self, patience: float) -> None:
        """Wait until the run is made; a server that refuses it is a `UserError`.

        One that does not answer within `patience` seconds, or not at all, is no reason to wait;
        they begin when the forwarder could ask it, on a busy machine many after its start. What
        an earlier process was told is no answer: a password may have been mended since.
        """
        deadline, asks, told = time.monotonic() + IMPORTS, False, False
        while (now := time.monotonic()) < deadline:
            ready = self._has_said(READY)
            if not asks and (ready or self._another_sends):
                deadline, asks = now + patience, True
            if asks and not told and deadline - now < patience - WAIT_IS_TOLD:
                told = True
                said = f"waiting for MLflow to take the run: {patience:.0f} s at most, then it is "
                said += "sent later"
                if os.environ.get(URI_VARIABLE, "sqlite:").startswith("sqlite:"):
                    said = "MLflow opens its database; a new one takes some seconds"
                print(f"skinml: {said}", file=sys.stderr)
            # Looked for first: a refusal is noted before it is said that nothing is taken.
            away, state = self._has_said(NOT_TAKEN), self.state()
            if ready and state.refused:  # An earlier one is cleared before that word.
                raise UserError(state.refused)
            if away or self._is_taken(state):
                self._pass_on()
                return
            time.sleep(_LOOK)

    def _is_taken(self, state: Acknowledged) -> bool:
        """Whether the server has taken something since this process began."""
        before = self._before
        moved = (state.run_id, state.sequence) != (before.run_id, before.sequence)
        # One that sends already may have had the first of this process before it was looked at.
        return bool(state.run_id) and (moved or state.sequence > self._noted)

    def drain(self, last: int, limit: float) -> int:
        """Wait until record `last` is acknowledged, at most `limit` seconds; how many are not."""
        state = self.state()
        deadline, next_word = time.monotonic() + limit, time.monotonic() + WAIT_IS_TOLD
        left = first = last - state.sequence
        with progress_bar("sending to MLflow", first) as advance:
            while left > 0 and time.monotonic() < deadline:
                time.sleep(_LOOK)
                now = max(0, last - self.state().sequence)
                if now < left:
                    advance(left - now)
                left = now
                now_is = time.monotonic()
                if not sys.stderr.isatty() and now_is > next_word and left:
                    next_word = now_is + 5 * WAIT_IS_TOLD
                    print(
                        f"skinml: sending to MLflow: {left} of {first} records left; "
                        f"{deadline - now_is:.0f} s until the rest is kept for later",
                        file=sys.stderr,
                    )
        return left

    def stop(self) -> None:
        """End the forwarder; what it has acknowledged is written down."""
        self._stopped.set()
        self._thread.join()
        if self._process.poll() is None:
            # It ends by itself once its run is over.
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(0.5)
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(3)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._pass_on()

    def _start(self) -> "subprocess.Popen[bytes]":
        paths = [str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")]
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "skinml.store.forwarder", str(self._folder.path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(path for path in paths if path),
                    "CUDA_VISIBLE_DEVICES": "",
                },
                start_new_session=True,  # A Ctrl-C is the run's: it tells us what came of it.
            )

    def _keep(self) -> None:
        """Start it again where it dies, and pass on what it says, until `stop`."""
        pause = _PAUSE
        while not self._stopped.wait(_LOOK):
            self._pass_on()
            if self._process.poll() is None or self._has_ended():
                continue
            if self._stopped.wait(pause):
                return
            pause = min(2 * pause, _LAST_PAUSE)
            with suppress(OSError):  # A machine without memory or disk may have some later.
                self._process = self._start()

    def _has_ended(self) -> bool:
        """Whether the run's end is sent; that of an earlier process is not the journal's last."""
        state = self.state()
        return state.ended and state.offset >= self._folder.journal.stat().st_size

    def _pass_on(self) -> None:
        """Print what the forwarder has said to a person since the last time."""
        with self._passing_on, suppress(OSError), self._log.open("rb") as log:
            for line in self._new_lines(log):
                if line.startswith("skinml: "):
                    print(line, file=sys.stderr, flush=True)

    def _new_lines(self, log: IO[bytes]) -> list[str]:
        log.seek(self._read)
        text = log.read(2**16)
        text = text[: text.rfind(b"\n") + 1]
        self._read += len(text)
        return text.decode(errors="replace").splitlines()

    def _has_said(self, words: str) -> bool:
        with suppress(OSError), self._log.open("rb") as log:
            log.seek(self._begin)
            return words.encode() in log.read(2**16)
        return False


def seconds(text: str) -> float:
    """A duration of a command line."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"{text!r}: expected seconds, 0 or more")
    return value
