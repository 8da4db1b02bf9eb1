"""The lease of a run in MLflow: how it shows that it lives, and how others see that it does not.

Two tags: `skinml.lease`, a counter that moves every third of a term, and `process`, the host, id
and start of the process that it moves for. Whoever watches goes by their own monotonic clock; no
two clocks are compared.
"""

import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from skinml.base.environment import seconds_in
from skinml.base.errors import UserError, first_line
from skinml.base.processes import CLOCK_MOVES, process_lives
from skinml.base.progress import progress_bar
from skinml.store.access import is_gone
from skinml.store.runs import REASON, close_run, set_tags

if TYPE_CHECKING:
    from mlflow.entities import Run

LEASE = "skinml.lease"
PROCESS = "process"

# The states of a run that has not ended.
OPEN = ("RUNNING", "SCHEDULED")

# Seconds without a renewal after which a run is not alive: the same for those that renew and those
# that watch. Tests have no time for it.
TERM = 90.0
TERM_VARIABLE = "SKINML_LEASE_TERM"


def lease_term() -> float:
    """The term of a lease, in seconds: $SKINML_LEASE_TERM, else 90."""
    return seconds_in(TERM_VARIABLE, TERM)


def renewal() -> float:
    """Seconds between two renewals."""
    return lease_term() / 3


def grace() -> float:
    """Seconds that a forwarder goes on after its run's process was killed: less than a term."""
    return lease_term() * 2 / 3


def moved(run: "Run", process: str) -> dict[str, str]:
    """The tags by which the lease of a run moves on: the process of this name lives."""
    count = run.data.tags.get(LEASE, "0")
    return {LEASE: str(int(count) + 1 if count.isdecimal() else 1), PROCESS: process}


def renew(run: "Run", process: str) -> None:
    """Move the lease of a run on."""
    set_tags(run.info.run_id, moved(run, process))


def reopen(run: "Run") -> None:
    """Open a run that somebody took for dead, and which is not."""
    from mlflow import MlflowClient

    if REASON in run.data.tags:
        MlflowClient().delete_tag(run.info.run_id, REASON)
    MlflowClient().update_run(run.info.run_id, "RUNNING")


@contextmanager
def renewed(move: Callable[[], None]) -> Iterator[None]:
    """Call `move` for each renewal meanwhile, in a thread; what it raises is told once.

    The first call is after the first third of a term. None comes after the end.
    """
    ended = threading.Event()

    def go_on() -> None:
        told = False
        while not ended.wait(renewal()):
            try:
                move()
            except Exception as error:  # Whatever it is, the next one may get through.
                if not told:
                    said = first_line(error)[:200]
                    print(f"skinml: warning: the lease is not renewed: {said}", file=sys.stderr)
                told = True

    thread = threading.Thread(target=go_on, daemon=True, name="renewed")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(10)  # It may wait for a server that is away.


def sign(run: "Run") -> Any:
    """What moves while a run lives: its lease; where it has none, all that is logged of it."""
    tags = run.data.tags
    if LEASE in tags:
        return tags[LEASE], tags.get(PROCESS)
    data = run.data.to_proto()
    return sorted(map(str, (*data.metrics, *data.params, *data.tags)))


def open_runs(experiments: Sequence[str]) -> "list[Run]":
    """The runs of some experiments that have not ended."""
    from mlflow import MlflowClient

    client, found = MlflowClient(), list[Any]()
    for status in OPEN:
        token = None
        # Without an experiment MLflow would look into another one.
        while experiments:
            page: Any = client.search_runs(
                list(experiments), f"attributes.status = '{status}'", page_token=token
            )
            found += page
            token = page.token
            if not token:
                break
    return found


def is_open(run_id: str) -> bool:
    """Whether the run of an id has not ended; one that is not there has."""
    from mlflow import MlflowClient, MlflowException

    try:
        return MlflowClient().get_run(run_id).info.status in OPEN
    except MlflowException as error:
        if not is_gone(error):
            raise
        return False


def watch(undecided: Callable[[], bool], text: str) -> None:
    """Wait for a term, or until nothing is undecided any more; `text` says for what.

    A look that takes long, at a server that is away for a while, begins the term anew: nothing
    could have been renewed meanwhile. A clock that is set has no effect.
    """
    term = lease_term()
    since = time.monotonic()
    if not sys.stderr.isatty():
        print(f"skinml: {text}: {term:.0f} s at most", file=sys.stderr, flush=True)
    told = 0
    with progress_bar(text, math.ceil(term)) as advance:
        while (left := since + term - time.monotonic()) > 0:
            time.sleep(min(term / 9, left))
            begun = time.monotonic()
            if not undecided():
                return
            if time.monotonic() - begun > term / 3:
                since = time.monotonic()
            done = max(0, int(time.monotonic() - since))
            advance(done - told)
            told = done


@contextmanager
def clock_stands() -> Iterator[None]:
    """A clock that is set meanwhile is a `UserError`: for what asks how old something is."""
    wall, monotonic = time.time(), time.monotonic()
    yield
    moved = time.time() - wall - (time.monotonic() - monotonic)
    if abs(moved) > CLOCK_MOVES:
        raise UserError(
            f"the clock of this machine was set by {moved:+.0f} s meanwhile; expected one by which "
            "the age of a run can be told: try again. Nothing was closed"
        )


def shows_life(seen: "Run") -> bool:
    """Whether a run that was seen dead has moved or ended since: asked right before its end."""
    from mlflow import MlflowClient

    run = MlflowClient().get_run(seen.info.run_id)
    return (
        run.info.status not in OPEN
        or run.info.lifecycle_stage == "deleted"
        or sign(run) != sign(seen)
        or process_lives(run.data.tags.get(PROCESS, "")) is True
    )


def close_dead(seen: "Run", reason: str) -> bool:
    """Close a run that was seen dead as KILLED, unless it shows life by now; whether it was."""
    if shows_life(seen):
        return False
    close_run(seen, "KILLED", reason)
    return True
