"""SLURM, through submitit: a job a cell, which trains it in a process of its own.

A cluster under SLURM has a storage that all of its machines see; a cell's folder lies there, with
the file in which its job notes how far it is. A job goes on without the driver, which finds it
again when it is started anew.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skinml.engines.attempt import Attempt, Order, Outcome, Progress
from skinml.engines.engine import show
from skinml.engines.node import Missing, Source, Unclaimed, carry_out, cores_here, make_ready
from skinml.engines.placement import minutes_of
from skinml.errors import UserError
from skinml.grid import State

if TYPE_CHECKING:
    from submitit.core.utils import DelayedSubmission

# Of a cell's folder: how far its job is, and which job that is.
PROGRESS, JOB = "progress.json", "slurm-job.json"

# Seconds between two looks of a job at its process, of the driver at a job's notes, and between two
# questions to SLURM's accounting; and that a process has to end before its job is requeued.
POLL, LOOK, ASK, PATIENCE = 0.25, 1.0, 30, 45.0

# Seconds in which SLURM has to answer a job about itself.
ANSWER = 30.0

# How often a job that runs into its time limit is requeued: each time it goes on.
REQUEUES = 1000

# States of a job that has not ended (sacct's words).
_GOES_ON = ("PENDING", "RUNNING", "REQUEUED", "SUSPENDED", "CONFIGURING", "COMPLETING", "RESIZING")

# A job's time limit, as sbatch spells it, unless told otherwise; and the shortest, in minutes: an
# epoch has to end before the signal, which may come 150 s before the limit (sbatch(1), --signal).
TIME, SHORTEST = "24:00:00", 5


@dataclass
class CellJob:
    """What runs as a job: it trains a cell. submitit asks it for a `checkpoint` before its end."""

    order: Order
    source: Source
    number: str
    """Of the order: what an earlier job noted is not taken for this one's."""
    _attempt: Attempt | None = None
    _terminated: bool = False

    def __call__(self) -> Outcome:
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
            return Outcome("failed", reason)
        except UserError as error:
            return Outcome("failed", str(error)[:300])
        except Unclaimed as error:
            return Outcome("lost", str(error))

    def _train(self, order: Order, cores: frozenset[int]) -> Outcome:
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

        if self._attempt:
            self._attempt.end(PATIENCE)
        return DelayedSubmission(CellJob(self.order, replace(self.source, again=True), self.number))

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
    command = ["squeue", "--noheader", "--format=%T", f"--jobs={_job_id()}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.stdout.strip() == "RUNNING"


def _fetch_nothing(what: str, name: str) -> Iterable[bytes]:
    raise Missing(what)


class SlurmJob:
    """A cell that SLURM has taken."""

    def __init__(
        self, state: State, job: Any, number: str, folder: Path, in_slurm: bool = True
    ) -> None:
        self.state = state
        self._cancels_by_itself = in_slurm
        self._job = job
        self._number = number
        self._folder = folder
        self._outcome: Outcome | None = None
        self._stopped = False
        self._looked = 0.0
        state.queued = True

    def poll(self) -> Outcome | None:
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
        with suppress(Exception):
            self._job.cancel()
        if self._cancels_by_itself:
            # Its accounting says so later than anybody wants to wait.
            self._outcome = self._result()

    def kill(self) -> None:
        self.stop()

    def _result(self) -> Outcome:
        """What a job that has ended came to; one that left no result is lost, whatever ended it."""
        if self._stopped:
            return Outcome("lost", "stopped")
        self.look()
        try:
            outcome: Outcome = self._job.result()
        except Exception as error:
            from submitit.core.utils import FailedJobError

            state = _word(str(self._job.state))
            lines = str(error).strip().splitlines() or [type(error).__name__]
            if isinstance(error, FailedJobError):  # A defect: its traceback.
                return Outcome("failed", lines[-1][:300])
            return Outcome(
                "lost",
                f"its job {self._job.job_id} ended as {state}: {lines[0]}"[:300],
                # What ends every job of a cell may be the cell's own fault.
                counts=state not in ("NODE_FAIL", "PREEMPTED", "BOOT_FAIL"),
            )
        return outcome


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
        if executor == "slurm":
            submitit.SlurmJob.watcher = _watcher()
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
        return jobs or (10**6 if self._kind == "slurm" else 1)

    def start(self, state: State, order: Order, source: Source | None) -> SlurmJob:
        assert source is not None
        order.folder.mkdir(parents=True, exist_ok=True)
        found = self._submitted_before(order)
        if found:
            return SlurmJob(state, *found, order.folder)
        number = f"{time.time_ns()}"
        self._set_parameters(order.name)
        job = self._executor.submit(CellJob(order, source, number))
        noted = {"job": job.job_id, "number": number}
        (order.folder / JOB).write_text(json.dumps(noted))
        return SlurmJob(state, job, number, order.folder, self._kind == "slurm")

    def _submitted_before(self, order: Order) -> tuple[Any, str] | None:
        """The job of an earlier start of the sweep that has not ended, and its number."""
        if self._kind != "slurm":
            return None
        import submitit

        try:
            noted = json.loads((order.folder / JOB).read_text())
            job: Any = submitit.SlurmJob(self._folder, noted["job"])
            state = _word(job.watcher.get_state(noted["job"], mode="force"))
        except (OSError, ValueError, KeyError):
            return None
        if state not in _GOES_ON or job.paths.result_pickle.exists():
            return None
        print(f"skinml: {order.name}: its job {noted['job']} goes on ({state})", file=sys.stderr)
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
            self._preempted: dict[str, float] = {}

        def is_done(self, job_id: str, mode: str = "standard") -> bool:
            state = _word(self.get_state(job_id, mode=mode))
            if state == "PREEMPTED":
                return time.monotonic() - self._preempted.setdefault(job_id, time.monotonic()) > ASK
            return state not in (*_GOES_ON, "READY", "UNKNOWN")

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

    kept = subprocess.run(
        ["sacct", "--noheader", "--starttime=now"], capture_output=True, check=False
    ).returncode
    return Queue() if kept else Accounts()


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
