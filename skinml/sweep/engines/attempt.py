"""One attempt at a cell, on the machine that trains it: its lock, its process, its folder, its log.

The same for every engine. A cell's folder has a lock that the attempt and the training process
hold together: whatever becomes of a driver, a worker or a network, a second attempt in the same
folder begins when the process of the first is gone.
"""

import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

from skinml.base.errors import UserError
from skinml.base.locks import lock_file
from skinml.config import Config
from skinml.sweep.cells import time_left
from skinml.tracking.folder import RunFolder
from skinml.tracking.forwarder_process import UNSENT
from skinml.tracking.record import read_noted
from skinml.training.history import Row

# A lock in a cell's folder, held by whoever trains it.
LOCK = "lock"

# Options that say where something lies, not what it is: a digest in the identity does.
PLACES = ("data_dir", "weights", "output_dir")

# Bytes of a log that are passed on at a time.
LOG_PIECE = 64_000

# How often what a server did not take in time is offered again.
SENDINGS = 10


# Exit codes of a process that somebody has ended.
KILLED = (-9, -15, 128 + 15)


@dataclass(frozen=True)
class Order:
    """A cell to train, as a machine has to know it: plain values, which can be sent.

    `arguments` are those of Python, `identity` the tags that the cell's runs share, `variables`
    what the training's environment has beside that of its machine. `passed_over` are the names of
    run folders that an attempt neither takes for the result nor goes on with.
    """

    name: str
    config: Config
    folder: Path
    arguments: list[str]
    identity: dict[str, str]
    variables: dict[str, str]
    passed_over: frozenset[str] = frozenset()

    @property
    def options(self) -> dict[str, str]:
        """What a run's parameters have to say to be one of this cell."""
        values = self.config.as_dict().items()
        return {name: str(value) for name, value in values if name not in PLACES}


@dataclass(frozen=True)
class Progress:
    """How far an attempt is. `log` is its file here, or `text` what is new in one elsewhere."""

    seconds: float = 0.0
    begun: bool = False
    """Whether the run has its folder: data, device and configuration are in order."""
    row: Row | None = None
    """The last epoch."""
    left: float | None = None
    """Seconds until the last epoch ends, where that can be told."""
    waits: bool = False
    """For the lock: a process of an earlier attempt has not ended yet."""
    host: str = ""
    log: str = ""
    text: bytes = b""


Claim = Callable[[RunFolder | None], bool]
"""Whether an attempt may go on with a run, or begin one (None): asked right before it does."""


@dataclass(frozen=True)
class AttemptOutcome:
    """What came of an attempt; `lost` where a machine or process went, and another may succeed."""

    status: Literal["done", "failed", "lost"]
    reason: str = ""
    run_id: str = ""
    accuracy: float | None = None
    auc: float | None = None
    counts: bool = False
    """Whether a loss may be the cell's own fault, so that it is not tried for ever."""


class Attempt:
    """The process that trains a cell, and what it has written. `look` moves it on.

    `cores` are those that it runs on, all where there are none. `without` are options that a run
    which goes on is not given. With `patient` a process that is killed is lost, not failed, and
    what MLflow does not take in time is offered again. `fresh`: no earlier run is looked at.
    """

    def __init__(
        self,
        order: Order,
        cores: frozenset[int] = frozenset(),
        variables: Mapping[str, str] | None = None,
        without: Sequence[str] = (),
        patient: bool = False,
        fresh: bool = False,
        claim: Claim = lambda folder: True,
    ) -> None:
        self.order = order
        self.outcome: AttemptOutcome | None = None
        self.log = new_log(order.folder)
        self._cores = cores
        self._variables = {**order.variables, **(variables or {})}
        self._without = without
        self._patient = patient
        self._fresh = fresh
        self._claim = claim
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: int | None = None
        self._waits = False
        self._begun = time.time()
        self._earlier: set[Path] = set()
        self._folder: RunFolder | None = None
        self._read = self._sendings = 0
        self._look: Progress = Progress(log=str(self.log))
        order.folder.mkdir(parents=True, exist_ok=True)
        self._start()

    @property
    def run_folder(self) -> RunFolder | None:
        """The id of the run, as soon as it has one."""
        if self._folder is None:
            new = sorted(set(folders_in(self.order.folder)) - self._earlier)
            self._folder = RunFolder(new[-1]) if new and self._process else None
        return self._folder

    @property
    def has_ended(self) -> bool:
        """Whether its process has: cheap, to be asked often."""
        if self.outcome:
            return True
        return self._process is not None and self._process.poll() is not None

    def look(self) -> Progress:
        """How far it is by now; starts what can be started, and takes over what has ended."""
        if self._process is None and self.outcome is None:
            self._start()
        if self.outcome is None and self.has_ended:
            self._read_folder()
            self._end()
        elif self._process is not None:
            self._read_folder()
        else:
            self._look = replace(self._look, waits=self._waits, seconds=time.time() - self._begun)
        return self._look

    def new_text(self) -> bytes:
        """What of the log has not been asked for yet, a piece at a time."""
        with suppress(OSError), self.log.open("rb") as log:
            log.seek(self._read)
            text = log.read(LOG_PIECE)
            self._read += len(text)
            return text
        return b""

    def ask_to_end(self) -> None:
        """SIGTERM: it notes that it was stopped, and sends what it can."""
        if self._process is None:
            self._set(AttemptOutcome("lost", "stopped before it began"))
        elif self._process.poll() is None:
            self._process.terminate()

    def kill(self) -> None:
        """End it at once, with all that it started."""
        if self._process is None or self._process.poll() is not None:
            return
        if os.name == "posix":
            os.killpg(self._process.pid, signal.SIGKILL)
        else:
            self._process.kill()

    def end(self, patience: float) -> None:
        """Ask it to end, and kill it if it has not `patience` seconds later."""
        self.ask_to_end()
        deadline = time.monotonic() + patience
        while not self.has_ended:
            if time.monotonic() > deadline:
                self.kill()
            time.sleep(0.05)
        self.look()

    def _start(self) -> None:
        """Take the lock, and start what is to be done; nothing while another holds it."""
        self._lock, self._waits = lock_file(self.order.folder / LOCK, None)
        if self._waits:
            return
        try:
            self._start_locked()
        except BaseException:
            self._release()
            raise

    def _start_locked(self) -> None:
        self._begun = time.time()
        self._earlier = set(folders_in(self.order.folder))
        arguments = self.order.arguments
        if not self._fresh:
            finished, unfinished = self._earlier_runs()
            if finished and finished.published:
                self._set(result_of(finished))
                return
            if finished:
                self._folder, arguments = finished, sync_arguments(finished.path)
            elif unfinished and self._claim(unfinished):
                self._folder = unfinished
                arguments = [*_without(arguments, self._without), f"--resume={unfinished.path}"]
        if self._folder is None:
            self._claim(None)
        self._run(arguments)

    def _run(self, arguments: Sequence[str]) -> None:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_NAME"):
            environment.pop(name, None)
        with self.log.open("ab") as log, _on(self._cores):
            self._process = subprocess.Popen(
                [sys.executable, *arguments],
                stdin=subprocess.PIPE,  # We hold its other end for as long as we live.
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment | self._variables,
                # A Ctrl-C of the terminal does not reach it.
                start_new_session=True,
                pass_fds=() if self._lock is None else (self._lock,),
                # SLURM sends this one to all processes of a job that is about to be preempted.
                preexec_fn=_ignore_preemption if self._patient and os.name == "posix" else None,
            )

    def _earlier_runs(self) -> tuple[RunFolder | None, RunFolder | None]:
        """The newest run in the cell's folder that is finished, and the newest that is not."""
        finished = unfinished = None
        for path in sorted(self._earlier, reverse=True):
            folder = RunFolder(path)
            if path.name in self.order.passed_over or not is_run_of(self.order, folder):
                continue
            if not folder.journal.exists():
                continue
            if read_noted(folder.journal).ended == "FINISHED":
                finished = finished or (folder if folder.finished else None)
            elif is_run_of(self.order, folder, to_go_on=True):
                unfinished = unfinished or folder
        return finished, unfinished

    def _read_folder(self) -> None:
        now = time.time()
        look = replace(self._look, seconds=now - self._begun, waits=False)
        if folder := self.run_folder:
            look = replace(look, begun=True)
            # Its last line may be being written, or half written for good: on a full disk. A run
            # that goes on has its epochs from its checkpoint.
            with suppress(UserError, ValueError, TypeError):
                if history := folder.read_history():
                    left = time_left(history, self._begun, now, self.order.config)
                    look = replace(look, row=history[-1], left=left)
        self._look = look

    def _end(self) -> None:
        """Take over what the process that has ended left: its numbers, or why there are none."""
        assert self._process is not None
        if self._process.stdin:
            self._process.stdin.close()
        folder, code = self.run_folder, self._process.returncode
        if code == 0 and folder and folder.finished and folder.published:
            self._set(result_of(folder))
        elif folder and self._patient and self._is_unsent(code) and self._sendings < SENDINGS:
            self._sendings += 1
            self._run(sync_arguments(folder.path))
        elif code == UNSENT:
            self._set(AttemptOutcome("failed", "trained, but MLflow lacks some of it"))
        else:
            killed = self._patient and code in KILLED
            self._set(
                AttemptOutcome("lost" if killed else "failed", _why(code, self.log), counts=killed)
            )

    def _is_unsent(self, code: int) -> bool:
        # What has been sent in vain before is sent again whatever it said.
        return code == UNSENT or (self._sendings > 0 and code != 0)

    def _set(self, outcome: AttemptOutcome) -> None:
        self.outcome = outcome
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def new_log(folder: Path) -> Path:
    """A file for an attempt's log: named after the time, and of no other attempt's."""
    # Two attempts may begin in the same second, on two machines too.
    return folder / f"{time.strftime('log-%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}.txt"


def sync_arguments(folder: Path) -> list[str]:
    """Python's arguments that publish a finished run folder."""
    return ["-m", "skinml.sync", str(folder)]


def result_of(folder: RunFolder) -> AttemptOutcome:
    """The numbers of a finished run that is in MLflow."""
    metrics = folder.read_metrics()
    numbers = metrics.get("test_accuracy"), metrics.get("test_auc_macro")
    return AttemptOutcome("done", "", folder.published, *numbers)


def is_run_of(order: Order, folder: RunFolder, to_go_on: bool = False) -> bool:
    """Whether a folder's run has the cell's own configuration, data and code.

    One `to_go_on` with has it to the last option, those too that decide no result; an option that
    was none yet when the run began had its default.
    """
    try:
        description = folder.read_description()
    except (OSError, UserError):
        return False
    same = order.identity.items() <= description.tags.items()
    defaults = {option.name: str(option.default) for option in fields(Config)}
    return same and (
        not to_go_on or order.options.items() <= (defaults | description.params).items()
    )


def _without(arguments: Sequence[str], names: Sequence[str]) -> list[str]:
    """Arguments but for some options: a run that goes on knows its own."""
    left_out = tuple(f"--{name}=" for name in names)
    return [a for a in arguments if not a.startswith(left_out)] if left_out else list(arguments)


def folders_in(folder: Path) -> list[Path]:
    """The folders in a folder, such as those of a cell's runs."""
    return [path for path in folder.glob("*") if path.is_dir()]


def _ignore_preemption() -> None:
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


@contextmanager
def _on(cores: frozenset[int]) -> Iterator[None]:
    """What is started within runs on these cores alone; on all where there are none."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _why(code: int, log: Path) -> str:
    """Why a process ended with an exit code other than 0, in a line."""
    if code < 0:
        name = signal.Signals(-code).name
        return f"killed by {name}" + (" (perhaps for want of memory)" if code == -9 else "")
    if code == 128 + signal.SIGTERM:
        return "stopped by SIGTERM"
    if code == 0:
        return "ended without a finished run in MLflow"
    text = log.read_text(errors="replace") if log.exists() else ""
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()]
    last = next((line for line in reversed(lines) if line), f"exit code {code}")
    return last.removeprefix("skinml: error: ")[:300]
