"""The forwarder of a run, a process of its own: journal → MLflow.

`skinml.run` starts it beside the training, which never waits for a network. It reads the journal in
pieces, sends them in order, tries again for as long as it takes, and keeps in the run's folder what
the server has acknowledged. It ends with its run, or soon after a process that was killed.
"""

import argparse
import math
import os
import random
import sys
import time
from pathlib import Path

from skinml.base.environment import environment
from skinml.base.errors import NoAnswer, UserError, first_line, run_command
from skinml.base.locks import exclusive
from skinml.config import Parser
from skinml.store.access import LIMIT_VARIABLE, RETRIES_VARIABLE, ask, check_address
from skinml.store.forwarding import Forwarder, Superseded
from skinml.store.lease import grace
from skinml.tracking.folder import LOCK, RunFolder
from skinml.tracking.forwarder_process import NOT_TAKEN, READY, UNSENT

# Seconds between two looks at a journal that has grown no further.
POLL = 0.5
# Seconds between two attempts: doubled each time, up to the last.
FIRST_PAUSE, LAST_PAUSE = 0.5, 30.0
# The longest that one request is waited for: a day. Of more, such as inf, no socket makes a limit.
_LONGEST_REQUEST = 86_400.0
# How far behind its training a forwarder stands on a busy processor, of 19: see `give_way`.
_NICENESS = 5


class Attempts:
    """The pauses between attempts at a server that does not answer: doubled, with jitter."""

    def __init__(self, forwarder: Forwarder) -> None:
        self._forwarder = forwarder
        self._failed = 0

    def failed(self, error: Exception, last: float = LAST_PAUSE) -> float:
        """Note a failure; returns the seconds to wait."""
        self._failed += 1
        if self._failed == 1:
            self._forwarder.say(
                f"{NOT_TAKEN}: {first_line(error)[:200]}; they stay in its folder, and are sent "
                "when it does"
            )
        pause = min(last, FIRST_PAUSE * 2 ** min(self._failed - 1, 20))
        return pause * random.uniform(0.5, 1)

    def succeeded(self) -> None:
        if self._failed:
            self._forwarder.say("MLflow takes the records of this run again")
        self._failed = 0


def follow(folder: RunFolder) -> int:
    """Send a folder's journal as it grows, until its end, or until its writer is gone."""
    forwarder = Forwarder(folder, live=True)
    print(READY, file=sys.stderr, flush=True)
    attempts = Attempts(forwarder)
    patience = grace()
    # A writer may be gone before this process has begun: it has its grace all the same.
    gone = time.monotonic()
    while True:
        # Asked first: what a process wrote before it ended is read below.
        alive = forwarder.is_alive()
        now = time.monotonic()
        gone = now if alive else gone
        pause = 0.0
        try:
            busy = forwarder.step(alive)
            if forwarder.state.ended and not busy:
                return 0
            if alive and forwarder.is_due:
                forwarder.renew()
            if not busy and not alive:
                forwarder.close_gone()
                return 0
            pause = 0 if busy else POLL
            attempts.succeeded()
        except Superseded as error:
            forwarder.say(f"warning: {error}")
            return UNSENT
        except Exception as error:  # Whatever it is, nobody could do better than go on.
            pause = attempts.failed(error)
        if not alive and time.monotonic() - gone > patience:
            return UNSENT
        time.sleep(pause)


def _reach_store(limit: float) -> None:
    """Ask the store for little: a server that hangs, and a database, would keep us from a limit."""
    from mlflow import MlflowClient

    try:
        ask(lambda: MlflowClient().search_experiments(max_results=1), limit)
    except NoAnswer:
        raise TimeoutError(f"no answer within {limit:g} s") from None


def send_rest(folder: RunFolder, limit: float) -> str:
    """Send what a server lacks of a journal that nobody writes any more; returns the run's id.

    A run whose process is gone is closed as KILLED. Raises a `UserError` where the server did not
    answer, or failed, and has taken nothing for `limit` seconds.
    """
    from mlflow import get_tracking_uri

    check_address(get_tracking_uri())
    forwarder = Forwarder(folder)
    attempts = Attempts(forwarder)
    taken = time.monotonic()
    while True:
        # A request waits for whole seconds.
        left = max(1, math.ceil(min(limit + taken - time.monotonic(), _LONGEST_REQUEST)))
        try:
            # We try again by ourselves, and say so.
            with environment({RETRIES_VARIABLE: "0", LIMIT_VARIABLE: f"{left}"}):
                _reach_store(left)
                forwarder.verify()
                while forwarder.step():
                    taken = time.monotonic()
                if not forwarder.state.ended:
                    forwarder.close_gone()
            if not forwarder.state.run_id:
                raise UserError(f"{folder.path}: its journal holds no record; nothing to send")
            return forwarder.state.run_id
        except UserError:
            raise
        except Exception as error:
            if forwarder.state.refused:
                raise UserError(forwarder.state.refused) from None
            pause = attempts.failed(error, last=5.0)
            rest = limit + taken - time.monotonic()
            if rest <= 0:
                raise UserError(
                    f"{folder.path}: {forwarder.unsent} records are not sent "
                    f"({first_line(error)[:200]}); expected a tracking server that answers "
                    "(MLFLOW_TRACKING_URI); they stay, and the same command sends them"
                ) from None
            time.sleep(min(pause, rest))


def give_way() -> None:
    """Let a training go first, and no more than that.

    At 10 of niceness a forwarder got a twentieth of a core beside two processes of others on each:
    its imports took minutes, and a run ended before it was in MLflow. At 5 it gets a seventh. Where
    a training itself has been put behind others, as Ray puts its workers, there is nothing to add.
    """
    if hasattr(os, "setpriority"):
        own = os.getpriority(os.PRIO_PROCESS, 0)
        os.setpriority(os.PRIO_PROCESS, 0, max(own, _NICENESS))


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="python -m skinml.store.forwarder", description=argparse.SUPPRESS)
    parser.add_argument("folder", type=Path)
    folder = RunFolder(parser.parse_args(argv).folder)
    give_way()
    # We try again by ourselves, and say so.
    os.environ[RETRIES_VARIABLE] = "0"
    with exclusive(folder.path / LOCK, None) as taken:
        return 0 if taken else follow(folder)


if __name__ == "__main__":
    sys.exit(run_command(main))
