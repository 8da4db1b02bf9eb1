"""SLURM, through submitit: a job a cell, which trains it in a process of its own.

A cluster under SLURM has a storage that all of its machines see; a cell's folder lies there, with
the file in which its job notes how far it is. A job goes on without the driver, which finds it
again when it is started anew. Both sides stand in this one file, the driver's and the job's, as
they talk through files whose form it decides.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skinml.base.errors import UserError
from skinml.base.files import write_whole
from skinml.base.locks import lock_file
from skinml.sweep.cells import CellState
from skinml.sweep.engines.attempt import Attempt, AttemptOutcome, Order, Progress
from skinml.sweep.engines.engine import show
from skinml.sweep.engines.node import (
    Missing,
    SweepSource,
    Unclaimed,
    carry_out,
    cores_here,
    make_ready,
)
from skinml.sweep.engines.placement import minutes_of

if TYPE_CHECKING:
    from submitit.core.utils import DelayedSubmission

# Files in a cell's folder: how far its job is, and which job that is.
PROGRESS, JOB = "progress.json", "slurm-job.json"

# Seconds between two looks of a job at its process, of the driver at a job's notes, and between two
# questions to SLURM's accounting; and that a process has to end before its job is requeued.
POLL, LOOK, ASK, PATIENCE = 0.25, 1.0, 30, 45.0

# Seconds after which a job whose node failed, or that was preempted, will not be requeued any more.
AWAY = 90.0

# Seconds in which SLURM has to answer a question or a scancel, a further scancel after one that it
# did not answer, and an sbatch: a job that is submitted without a word has no name here.
ANSWER, ANSWER_AGAIN, ANSWER_SBATCH = 30.0, 1.0, 120.0

# How often a job that runs into its time limit is requeued: each time it goes on.
REQUEUES = 1000

# How often without one more epoch: then its time limit, or what it is interrupted by, is too short.
REQUEUES_IN_VAIN = 20

# States of a job that has ended (squeue(1), JOB STATE CODES; FORGOTTEN is ours), and those of them
# after which it may be back in the queue a moment later.
_ENDED = ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "FORGOTTEN", "NODE_FAIL",
          "OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT")  # fmt: skip
_MAY_COME_BACK = ("BOOT_FAIL", "NODE_FAIL", "PREEMPTED")

# A job's time limit, as sbatch spells it, unless told otherwise; and the shortest, in minutes: an
# epoch has to end before the signal, which may come 150 s before the limit (sbatch(1), --signal).
TIME, SHORTEST = "24:00:00", 5


class InVain(Exception):
    """A job is requeued again and again, and gets nowhere."""


@dataclass
class CellJob:
    """What runs as a job: it trains a cell. submitit asks it for a `checkpoint` before its end."""

    order: Order
    source: SweepSource
    number: str
    """A name of the order: what an earlier job noted is not taken for this one's."""
    epoch: int = 0
    """The last one that it had when it was requeued, and how often it had no further one then."""
    in_vain: int = 0
    _attempt: Attempt | None = None
    _terminated: bool = False

    def __call__(self) -> AttemptOutcome:
        try:
            order, shared = make_ready(self.order, self.source, _fetch_nothing)
            if not shared:
                raise UserError(
                    f"{self.order.folder.parent}: another folder on {os.uname().nodename} than on "
                    "the machine that submits; expected an output_dir on storage that all see"
                )
            with cores_here(order.config.threads) as cores:
                return self._train(order, cores)
        except Missing as missing:
            reason = f"{missing}: not found on {os.uname().nodename}; expected it on shared storage"
            return AttemptOutcome("failed", reason)
        except UserError as error:
            return AttemptOutcome("failed", str(error)[:300])
        except Unclaimed as error:
            return AttemptOutcome("lost", str(error))
        except InVain:
            reason = f"requeued {REQUEUES_IN_VAIN} times before one more epoch had ended; expected "
            return AttemptOutcome("failed", reason + "a longer time limit or fewer preemptions")
        except subprocess.SubprocessError as error:
            # submitit, which was to requeue this job, raises it; its training has ended.
            return AttemptOutcome("lost", f"could not be requeued: {error}"[:300])

    def _train(self, order: Order, cores: frozenset[int]) -> AttemptOutcome:
        if _job_id():
            self._note_termination()
        self._attempt = carry_out(order, self.source, cores, shared=True)
        told = 0.0
        while self._attempt.outcome is None:
            now = time.monotonic()
            if now - told > LOOK or self._attempt.has_ended:
                self._note(order.folder, self._attempt.look())
                told = now
            time.sleep(POLL)
        self._note(order.folder, self._attempt.look())
        if self._attempt.outcome.status == "lost" and self._terminated:
            self._make_room()
        return self._attempt.outcome

    def _make_room(self) -> None:
        """End this process, which got SIGTERM as its training did, and does not know why.

        To stay until SIGKILL would cost whom it makes room for the rest of the grace time. No
        result is left behind: the job may be requeued, and would be taken for one that has ended.
        """
        if _is_running():  # A preemption that is announced by SIGTERM alone.
            from submitit.slurm.slurm import SlurmJobEnvironment

            os.kill(os.getpid(), SlurmJobEnvironment._usr_sig())
        sys.exit(1)

    def _note_termination(self) -> None:
        """Note a SIGTERM; submitit, which passes it over, has set a handler already."""
        before = signal.getsignal(signal.SIGTERM)

        def note(signum: int, frame: Any) -> None:
            self._terminated = True
            if callable(before):
                before(signum, frame)

        signal.signal(signal.SIGTERM, note)

    def checkpoint(self, *given: Any, **named: Any) -> "DelayedSubmission":
        """Asked before a preemption or the time limit: end the training, and go on later.

        In a signal's handler: what `__call__` does stands still meanwhile.
        """
        from submitit.helpers import DelayedSubmission

        epoch = self.epoch
        if self._attempt:
            self._attempt.end(PATIENCE)
            row = self._attempt.look().row
            epoch = max(epoch, int(row["epoch"]) if row else 0)
        in_vain = 0 if epoch > self.epoch else self.in_vain + 1
        if in_vain >= REQUEUES_IN_VAIN:
            raise InVain
        source = replace(self.source, again=True)
        return DelayedSubmission(CellJob(self.order, source, self.number, epoch, in_vain))

    def _note(self, folder: Path, progress: Progress) -> None:
        noted = replace(progress, host=os.uname().nodename, text=b"")
        values = asdict(noted) | {"text": "", "number": self.number}
        part = folder / f".{PROGRESS}.part"
        with suppress(OSError):  # A full disk: the training says so itself.
            part.write_text(json.dumps(values))
            part.replace(folder / PROGRESS)


def _job_id() -> str:
    """The number of the job that this process is of, empty outside of SLURM."""
    return os.environ.get("SLURM_JOB_ID", "")


def _is_running() -> bool:
    """Whether this job goes on for SLURM: it is neither cancelled nor requeued already."""
    return _in_queue(_job_id()) == "RUNNING"


def _fetch_nothing(what: str, name: str) -> Iterable[bytes]:
    raise Missing(what)


class Scancel:
    """Cancels jobs, of which there may be hundreds: SLURM is waited for with the first alone."""

    def __init__(self) -> None:
        self._limit = ANSWER

    def __call__(self, job: Any) -> None:
        """Raises an `OSError` or a `SubprocessError` where that fails, or takes too long."""
        try:
            # Not submitit's, which waits for ever.
            subprocess.run(["scancel", str(job.job_id)], check=True, timeout=self._limit)
        except subprocess.TimeoutExpired:
            self._limit = ANSWER_AGAIN
            raise
        self._limit = ANSWER


class SlurmJob:
    """A cell that SLURM has taken, or another executor, which has no `scancel`."""

    def __init__(
        self, state: CellState, job: Any, number: str, folder: Path, scancel: Scancel | None
    ) -> None:
        self.state = state
        self._scancel = scancel
        self._job = job
        self._number = number
        self._folder = folder
        self._outcome: AttemptOutcome | None = None
        self._stopped = False
        self._looked = 0.0
        state.queued = True

    def poll(self) -> AttemptOutcome | None:
        now = time.monotonic()
        if self._outcome or now - self._looked < POLL:
            return self._outcome
        self._looked = now
        if self._job.done():
            self._outcome = self._result()
        return self._outcome

    def look(self) -> None:
        with suppress(OSError, ValueError, TypeError):
            values = json.loads((self._folder / PROGRESS).read_text())
            if values.pop("number") == self._number:
                show(self.state, Progress(**(values | {"text": b""})))

    def stop(self) -> None:
        """Cancel it, once: SLURM kills by itself what does not end, and is not asked again."""
        if self._stopped:
            return
        self._stopped = True
        self._cancel("cannot be cancelled, and goes on")
        if self._scancel:
            # Its accounting says so later than anybody wants to wait.
            self._outcome = self._result()

    def _cancel(self, otherwise: str) -> None:
        try:
            if self._scancel:
                self._scancel(self._job)
            else:
                self._job.cancel()
        except (OSError, subprocess.SubprocessError) as error:
            name, number = self.state.cell.name, self._job.job_id
            print(f"skinml: warning: {name}: its job {number} {otherwise}: {error}; expected: "
                  f"scancel {number}", file=sys.stderr)  # fmt: skip

    def kill(self) -> None:
        self.stop()

    def _result(self) -> AttemptOutcome:
        """What a job that has ended came to; one that left no result is lost, whatever ended it."""
        if self._stopped:
            return AttemptOutcome("lost", "stopped")
        self.look()
        try:
            outcome: AttemptOutcome = self._job.result()
        except Exception as error:
            from submitit.core.utils import FailedJobError

            state = _word(str(self._job.state))
            if isinstance(error, FailedJobError):  # A defect: its traceback, between two lines.
                trace = str(error).split("-" * 22)
                return AttemptOutcome(
                    "failed", trace[min(1, len(trace) - 1)].strip()[-300:].splitlines()[-1]
                )
            lines = str(error).strip().splitlines() or [type(error).__name__]
            if self._scancel:
                # Should SLURM have it still, or again: another takes its place.
                self._cancel("may be there still")
            return AttemptOutcome(
                "lost",
                f"its job {self._job.job_id} ended as {state}: {lines[0]}"[:300],
                # What ends every job of a cell may be the cell's own fault.
                counts=state not in _MAY_COME_BACK,
            )
        return outcome


@dataclass
class RefusedJob:
    """A cell that SLURM does not take now, for instance because a limit of its user is reached."""

    state: CellState
    reason: str

    def poll(self) -> AttemptOutcome:
        return AttemptOutcome("lost", self.reason)

    def look(self) -> None:
        """It has nothing to tell."""

    def stop(self) -> None:
        """Nothing goes on."""

    def kill(self) -> None:
        """Nothing goes on."""


class SlurmEngine:
    """Cells as SLURM's jobs; submitit's local and debug executors stand in for a cluster."""

    clustered = True

    def __init__(
        self, root: Path, options: dict[str, str] | None = None, executor: str = "slurm"
    ) -> None:
        try:
            import submitit
        except ImportError:
            raise UserError(
                "engine=slurm: the package submitit is not installed; expected the extra: "
                "pip install 'skinml[slurm]'"
            ) from None
        if executor == "slurm" and not (shutil.which("sbatch") and shutil.which("srun")):
            raise UserError(
                "engine=slurm: no sbatch and srun here; expected a machine that submits to SLURM, "
                "or --executor local, which does as SLURM would on this machine alone"
            )
        self._kind = executor
        self._folder = root / "slurm"
        # What is submitted names the store and the run; it is nobody else's to change.
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._executor = submitit.AutoExecutor(
            folder=self._folder,
            cluster=executor,
            **({"slurm_max_num_timeout": REQUEUES} if executor == "slurm" else {}),
        )
        self._options = options or {}
        self._has_submitted = False
        self._full_until = 0.0
        self._scancel = Scancel() if executor == "slurm" else None
        if executor == "slurm":
            _check_locks(self._folder)
            submitit.SlurmJob.watcher = _watcher()
            inner: Any = self._executor._executor
            inner._make_submission_command = _sbatch
        self._set_parameters("skinml")

    def _set_parameters(self, name: str) -> None:
        if self._kind == "slurm":
            try:
                self._executor.update_parameters(**slurm_parameters(self._options, name))
                # submitit would put its own name there, and drops a None among the above.
                self._executor._executor.parameters["wckey"] = None
            except (ValueError, TypeError) as error:
                said = str(error).splitlines()[0]
                raise UserError(
                    f"slurm={self._options}: {said}; expected sbatch's options"
                ) from None
        elif self._kind == "local":
            # A local job may not outlast its time, nor have as many as SLURM gives.
            self._executor.update_parameters(timeout_min=60 * 24 * 7, name=name)

    def at_once(self, jobs: int | None) -> int:
        """All of them: SLURM has a queue of its own. On this machine alone one."""
        if time.monotonic() < self._full_until:
            return 0
        return jobs or (10**6 if self._kind == "slurm" else 1)

    def start(
        self, state: CellState, order: Order, source: SweepSource | None
    ) -> "SlurmJob | RefusedJob":
        assert source is not None
        order.folder.mkdir(parents=True, exist_ok=True)
        found = self._submitted_before(order, source)
        if found:
            self._has_submitted = True
            return SlurmJob(state, *found, order.folder, self._scancel)
        number = f"{time.time_ns()}"
        self._set_parameters(order.name)
        try:
            with _unstopped():
                job = self._executor.submit(CellJob(order, source, number))
                noted = {"job": job.job_id, "number": number, "of": _meant(order, source)}
                write_whole(order.folder / JOB, json.dumps(noted))
        except RuntimeError as error:  # submitit passes on what sbatch says.
            said, expected = _refusal(error)
            if not self._has_submitted:
                raise UserError(f"slurm={self._options}: {said}; expected {expected}") from None
            self._full_until = time.monotonic() + ASK
            return RefusedJob(state, said)
        self._has_submitted = True
        return SlurmJob(state, job, number, order.folder, self._scancel)

    def _submitted_before(self, order: Order, source: SweepSource) -> tuple[Any, str] | None:
        """The job of an earlier start of the sweep that has not ended, and its number.

        One whose state cannot be told goes on: a second one beside it would have no name here. One
        that was to do something else, with other code for instance, is cancelled.
        """
        if not self._scancel:
            return None
        import submitit

        try:
            noted = json.loads((order.folder / JOB).read_text())
            job: Any = submitit.SlurmJob(self._folder, noted["job"])
        except (OSError, ValueError, KeyError):
            return None
        state = _word(job.watcher.get_state(job.job_id, mode="force"))
        if state == "UNKNOWN":
            state = _in_queue(job.job_id)
        if job.paths.result_pickle.exists() or (state in _ENDED and state not in _MAY_COME_BACK):
            return None
        if noted.get("of") != _meant(order, source):
            with suppress(OSError, subprocess.SubprocessError):
                self._scancel(job)
            print(f"skinml: {order.name}: its job {job.job_id} was submitted for other code or "
                  "data, or before a --rerun: it is cancelled", file=sys.stderr)  # fmt: skip
            return None
        print(f"skinml: {order.name}: its job {job.job_id} goes on ({state})", file=sys.stderr)
        return job, str(noted["number"])

    def close(self) -> None:
        """Nothing is held."""


def _watcher() -> Any:
    """What tells the states of jobs: SLURM's accounting, or its queue where none is kept."""
    from submitit.slurm.slurm import SlurmInfoWatcher

    class Accounts(SlurmInfoWatcher):
        """What sacct tells, by SLURM's words.

        submitit takes some jobs that go on for done (SUSPENDED, CONFIGURING), and waits for ever
        for one that was preempted where the site cancels instead of requeueing.
        """

        def __init__(self) -> None:
            super().__init__(delay_s=ASK)
            self._away: dict[str, float] = {}
            self._is_silent = False

        def update(self) -> None:
            """Ask SLURM, which may hang: then what is known stays, and a person is told, once.

            submitit would wait for ever, and a signal to the driver with it.
            """
            if (command := self._make_command()) is None:
                return
            told = _ask(*command)
            if told is not None:
                self._info_dict.update(self.read_info(told))
            elif not self._is_silent:
                print(f"skinml: warning: {command[0]} does not answer; the jobs are taken to be as "
                      "they were, and it is asked again", file=sys.stderr)  # fmt: skip
            self._is_silent = told is None
            self._last_status_check = time.time()
            open_jobs = self._registered - self._finished
            self._finished |= {job for job in open_jobs if self.is_done(job, mode="cache")}

        def is_done(self, job_id: str, mode: str = "standard") -> bool:
            state = _word(self.get_state(job_id, mode=mode))
            if state not in _MAY_COME_BACK:
                self._away.pop(job_id, None)
                return state in _ENDED
            now = time.monotonic()
            return now - self._away.setdefault(job_id, now) > AWAY

    class Queue(Accounts):
        """All jobs of this user that SLURM has not forgotten, which it does after minutes."""

        def _make_command(self) -> list[str] | None:
            if not super()._make_command():
                return None
            return ["squeue", "--states=all", f"--user={os.getuid()}", "--format=%i|%T|%N"]

        def read_info(self, string: bytes | str) -> dict[str, dict[str, str]]:
            text = string if isinstance(string, str) else string.decode()
            # The names of the columns are sacct's.
            listed = "\n".join(["JobID|State|NodeList", *text.splitlines()[1:]])
            forgotten: dict[str, dict[str, str]] = {
                job: {"JobID": job, "State": "FORGOTTEN"} for job in self._registered
            }
            return forgotten | super().read_info(listed)

    return Accounts() if _ask("sacct", "--noheader", "--starttime=now") is not None else Queue()


def _ask(*command: str) -> str | None:
    """What one of SLURM's commands prints; None where it fails, is not there or does not answer."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if done.returncode else done.stdout.strip()


def _sbatch(script: Path) -> list[str]:
    """The command that submits a script, for submitit, which would wait for ever.

    coreutils' `timeout` ends it, in the worst case by SIGKILL, and its own exit code is 124 then,
    or 137.
    """
    return ["timeout", "--kill-after=5", f"{ANSWER_SBATCH}", "sbatch", str(script)]


def _refusal(error: RuntimeError) -> tuple[str, str]:
    """Why SLURM did not take a job, in a line, and what was expected."""
    if getattr(error.__cause__, "returncode", 0) in (124, 137):
        said = f"sbatch has not answered within {ANSWER_SBATCH:g} s"
        return said, "a SLURM that answers (`sinfo`): then give the same command again"
    said = (str(error).strip().splitlines() or [type(error).__name__])[-1][:200]
    return said, "options that sbatch takes here"


def _in_queue(job_id: str) -> str:
    """The state of one of this user's jobs in the queue, which knows it before the accounting."""
    listed = _ask("squeue", "--noheader", "--format=%i %T", f"--user={os.getuid()}")
    if listed is None:
        return "UNKNOWN"
    return dict(line.split() for line in listed.splitlines()).get(job_id, "FORGOTTEN")


def _meant(order: Order, source: SweepSource) -> dict[str, Any]:
    """What a job is for, as it is noted: a cell of another code or data has the same folder."""
    return {"identity": order.identity, "done_before": sorted(source.done_before)}


@contextmanager
def _unstopped() -> Iterator[None]:
    """Keep Ctrl-C from sbatch, which would leave behind a job that nobody knows."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _check_locks(folder: Path) -> None:
    """Locks keep two attempts at a cell apart, where a node was cut off and lives."""
    held, taken = lock_file(folder / "lock", None)
    if held is None and not taken:
        raise UserError(
            f"{folder}: no file locks on this storage; expected one that has them (Lustre: mounted "
            "with `flock`), so that no two jobs write to a cell's folder"
        )
    if held is not None:
        os.close(held)


def _word(state: str) -> str:
    """A state without what sacct adds: `CANCELLED by 1000`, `NODE_FAIL+`."""
    return state.split()[0].rstrip("+")


def slurm_parameters(options: dict[str, str], name: str) -> dict[str, Any]:
    """What submitit is told of sbatch's options, which go through it as they are.

    The job's name is the cell's. USR2 comes 90 s before the end of a job, time enough for PATIENCE.
    """
    more: dict[str, Any] = {key.replace("_", "-"): value for key, value in options.items()}
    minutes = minutes_of(more.pop("time", TIME))
    if minutes < SHORTEST:
        raise UserError(
            f"slurm='time={options['time']}': expected {SHORTEST} minutes or more: a job is ended "
            "up to 150 s before its limit, and goes on from its last epoch"
        )
    # Whatever the site's default is: a job that is preempted or loses its node comes back.
    more.setdefault("requeue", True)
    return {
        "timeout_min": minutes,
        "slurm_job_name": name,
        "slurm_signal_delay_s": 90,
        "slurm_additional_parameters": more,
    }
