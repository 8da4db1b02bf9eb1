"""How cells end before their time: by a signal, or as what an earlier start has left behind."""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType

from skinml.base.processes import end_process
from skinml.doctor import DEAD, ORPHAN, examine, mend
from skinml.store.lease import PROCESS
from skinml.store.sweeps import SweepRun
from skinml.sweep.engines.engine import Job, take_over

# Seconds that cells have to end when asked to.
PATIENCE = 20.0

# A cell whose sweep was killed ends by itself, in the worst case after a minute.
LEFTOVER_PATIENCE = 75.0


@dataclass
class Stop:
    """Ctrl-C, SIGTERM or a closed terminal: the first ends the cells, a further Ctrl-C kills."""

    jobs: list[Job] = field(default_factory=list)
    received: int = 0
    """The first signal; 0 before it."""

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        if not self.received:
            self.received = signum
        # Not SIGTERM: `mlflow run` sends one after the terminal's Ctrl-C.
        elif signum == signal.SIGINT:
            for job in self.jobs:
                job.kill()
            signal.signal(signal.SIGINT, signal.default_int_handler)

    @contextmanager
    def listening(self) -> Iterator["Stop"]:
        """Take these signals over for a time."""
        names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
        before = {
            getattr(signal, name): signal.getsignal(getattr(signal, name))
            for name in names
            # nohup has chosen to ignore it.
            if name != "SIGHUP" or signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
        }
        for signum in before:
            signal.signal(signum, self)
        try:
            yield self
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)

    def end_jobs(self) -> None:
        """Ask all that still train to end, wait up to PATIENCE seconds, kill what is left."""
        asked = [job for job in self.jobs if job.poll() is None]
        for job in asked:
            job.stop()
        deadline = time.monotonic() + PATIENCE
        # A cluster that does not answer any more is not waited for.
        while any(job.poll() is None for job in asked) and time.monotonic() < deadline + PATIENCE:
            if time.monotonic() > deadline:
                for job in asked:
                    job.kill()
            time.sleep(0.05)
        for job in self.jobs:
            outcome = job.poll()
            job.look()
            state = job.state
            state.queued = state.waits = False
            if outcome and (outcome.status == "done" or job not in asked):
                take_over(state, outcome)
            if state.status in ("running", "waiting") or (job in asked and not state.is_done):
                row, epochs = state.row, state.cell.epochs
                where = f"after epoch {row['epoch']}/{epochs}" if row else "before its first epoch"
                state.status, state.reason = "stopped", where
        self.jobs.clear()


def end_leftovers(run: SweepRun, root: Path) -> None:
    """End what an earlier start of this sweep left behind, and close the runs of what died.

    This start holds the lock: whatever still trains below the sweep's run on this machine has
    lost its own. What another machine trains is looked at for a term.
    """
    for child in run.children("RUNNING"):
        end_process(child.data.tags.get(PROCESS, ""), LEFTOVER_PATIENCE)
    close_dead(run, root)


def close_dead(run: SweepRun, root: Path) -> None:
    """Close the runs below a sweep of what died; what may live is looked at for a term."""
    for finding in examine(root, partial(run.children, "RUNNING")):
        # What is finished is sent below, as a part of this sweep.
        if finding.kind in (DEAD, ORPHAN):
            mend(finding)
            print(f"skinml: {finding.name}: {finding.why}: {finding.outcome}", file=sys.stderr)
