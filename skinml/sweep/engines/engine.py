"""What a sweep knows of its engine, whichever it is: an order becomes a job."""

from pathlib import Path
from typing import Protocol

from skinml.sweep.cells import CellState
from skinml.sweep.engines.attempt import AttemptOutcome, Order, Progress
from skinml.sweep.engines.node import SweepSource


class Job(Protocol):
    """A cell on its way."""

    state: CellState

    def poll(self) -> AttemptOutcome | None:
        """What came of it, once it has ended: cheap, asked many times a second."""

    def look(self) -> None:
        """Bring the state up to date with how far it is."""

    def stop(self) -> None:
        """Ask it to end; what it has noted stays."""

    def kill(self) -> None:
        """End it at once."""


class Engine(Protocol):
    """Where cells train."""

    clustered: bool
    """Whether cells train on other machines: what one of these loses is tried on another."""

    def at_once(self, jobs: int | None) -> int:
        """How many cells it takes at a time by now, at most `jobs` where that is given."""

    def start(self, state: CellState, order: Order, source: SweepSource | None) -> Job:
        """Take a cell; `source` says where the machines of a cluster find what it needs."""

    def close(self) -> None:
        """Let go of the cluster."""


def show(state: CellState, progress: Progress) -> None:
    """Bring the state of a running cell up to date with what its attempt tells."""
    state.queued = False
    state.seconds, state.begun, state.left = progress.seconds, progress.begun, progress.left
    state.row = progress.row or state.row
    state.waits, state.host = progress.waits, progress.host
    if progress.log:
        state.log = Path(progress.log)


def take_over(state: CellState, outcome: AttemptOutcome) -> None:
    """Take over what came of a cell."""
    state.reason = outcome.reason
    if outcome.status == "done":
        state.status, state.run_id = "done", outcome.run_id
        state.accuracy, state.auc = outcome.accuracy, outcome.auc
    else:
        state.status = "failed" if outcome.status == "failed" else "waiting"
