"""A run while it is made: everything goes into its journal, and by itself from there to MLflow."""

import argparse
import json
import os
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from skinml.base.address import URI_VARIABLE
from skinml.base.errors import UserError, first_line
from skinml.store.access import check_address
from skinml.store.lease import lease_term
from skinml.tracking.acknowledged import Acknowledged
from skinml.tracking.folder import STATE, Description, RunFolder
from skinml.tracking.forwarder_process import (
    DRAIN_LIMIT,
    DRAIN_VARIABLE,
    STOPPED_LIMIT,
    ForwarderProcess,
    seconds,
)
from skinml.tracking.journal import Journal
from skinml.tracking.load import LoadRecorder, sampling_interval
from skinml.tracking.record import (
    Noted,
    as_noted,
    curve_metrics,
    record_end,
    record_epoch,
    record_results,
    record_start,
)
from skinml.training.history import Row

# The metric of the images whose features the frozen step has computed.
FEATURES_DONE = "features/images_done"

# Seconds that a training waits for the server's first word, which it may refuse the run with, once
# the forwarder can ask it.
FIRST_WORD = 15.0


@dataclass
class Tracked:
    """A run that is being tracked: its folder, its journal, and its forwarder unless offline."""

    folder: RunFolder
    journal: Journal
    forwarder: ForwarderProcess | None
    noted: Noted
    """What the journal held before this process."""

    def raise_if_refused(self) -> None:
        """A server that answers and refuses the run is a `UserError`; one that is away is not."""
        if self.forwarder:
            self.forwarder.raise_if_refused(FIRST_WORD)

    def log_epoch(self, row: Row) -> Row:
        """Note the curves of an epoch, which are on the disk when this returns; once alone.

        Returns its row. Of an epoch whose curves an earlier process has noted it has the time and
        speed that stand there: another one would be a second point.
        """
        fields = self.noted.epochs.get(int(row["epoch"]))
        if fields is None:
            record_epoch(self.journal, row)
            return row
        row = as_noted(row, fields)
        if json.dumps(curve_metrics(row)) != json.dumps(fields["values"]):
            print(
                f"skinml: warning: epoch {row['epoch']} was trained again and is not what its "
                "curves show, which stay as they are",
                file=sys.stderr,
            )
        return row

    def log_features(self, done: int) -> None:
        """Note how many images the frozen step has the features of, before there is any epoch."""
        now = int(time.time() * 1000)
        self.journal.append("metrics", step=done, time=now, values={FEATURES_DONE: float(done)})

    def note_tags(self, tags: dict[str, str]) -> None:
        """Note some more tags of the run."""
        self.journal.append("tags", values=tags)

    def log_results(self, register: bool = True) -> None:
        """Note all of a finished folder: numbers, figures, tables, texts, the network."""
        record_results(self.journal, self.folder, register)


@contextmanager
def track(
    folder: RunFolder,
    description: Description,
    offline: bool = False,
    drain_limit: float | None = None,
    load: bool = True,
    known: Noted | None = None,
) -> Iterator[Tracked]:
    """Track a run in its folder and, unless `offline`, in MLflow, with the machine's load.

    With `known`, what its journal holds, the run of an earlier process goes on.
    The run is noted as FINISHED, as KILLED after an interruption, as FAILED after any error. At the
    end up to `drain_limit` seconds ($SKINML_DRAIN_LIMIT, 300) are spent on what MLflow lacks; what
    it then still lacks stays in the folder, and a line on stderr says so.
    """
    check_settings(offline)
    limit = _drain_limit() if drain_limit is None else drain_limit
    journal = Journal(folder.journal)
    try:
        known = known or Noted()
        if journal.sequence != known.sequence:
            raise UserError(
                f"{folder.path}: another process has gone on with this run meanwhile; expected "
                "one at a time: start again if it is not done"
            )
        folder.mark_unpublished()
        _send_anew_if_ahead(folder, journal)
        record_start(journal, description, known)
        forwarder = None if offline else ForwarderProcess(folder, known.sequence)
        recorder = LoadRecorder(journal, known.load_samples) if load else None
        tracked = Tracked(folder, journal, forwarder, known)
        try:
            yield tracked
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt | SystemExit):
                limit = min(limit, STOPPED_LIMIT)
            _end(tracked, recorder, *_outcome(error), limit)
            raise
        _end(tracked, recorder, "FINISHED", "", limit)
    finally:
        journal.close()


def _send_anew_if_ahead(folder: RunFolder, journal: Journal) -> None:
    """Forget what was acknowledged of a journal that has less than that: all of it is sent again.

    After a power cut it lacks what was not on the disk yet, and what was acknowledged is: what is
    written next would have numbers that are taken for sent. What is there already counts once.
    """
    path = folder.path / STATE
    state = Acknowledged.load(path)
    if state.sequence <= journal.sequence:
        return
    more = state.sequence - journal.sequence
    print(
        f"skinml: {folder.path}: its journal lacks {more} records that MLflow has (a power cut?): "
        "all of it is sent again",
        file=sys.stderr,
    )
    state.sequence, state.offset, state.ended = 0, 0, False
    state.save(path)


def check_settings(offline: bool = False) -> None:
    """Refuse what the environment says wrongly of tracking: before data is prepared, at best."""
    if not offline:
        check_address(os.environ.get(URI_VARIABLE, ""))
    _drain_limit()
    lease_term()
    sampling_interval()


def _drain_limit() -> float:
    try:
        return seconds(os.environ.get(DRAIN_VARIABLE) or str(DRAIN_LIMIT))
    except argparse.ArgumentTypeError as error:
        raise UserError(f"{DRAIN_VARIABLE}={error}") from None


def _outcome(error: BaseException) -> tuple[str, str]:
    """How a run ends that an exception ends: its status, and the reason."""
    if isinstance(error, KeyboardInterrupt):
        return "KILLED", "stopped by Ctrl-C"
    if isinstance(error, SystemExit):
        return "KILLED", "stopped by SIGTERM" if error.code == 143 else f"exit code {error.code}"
    return "FAILED", first_line(error)


def _end(
    tracked: Tracked, recorder: LoadRecorder | None, status: str, reason: str, limit: float
) -> None:
    """Note the end of a run, and see to it that MLflow has all of it, for as long as may be."""
    forwarder = tracked.forwarder
    try:
        if recorder:
            recorder.stop()
        # On a full disk this is for the end, and for what the forwarder writes down: that MLflow
        # has all of it.
        tracked.journal.release()
        record_end(tracked.journal, status, reason)
        if forwarder is None or forwarder.state().refused:
            return
        forwarder.drain(tracked.journal.sequence, limit)
    finally:
        if forwarder is not None:
            forwarder.stop()
            _say_what_is_left(tracked, forwarder.state(), reason)


def _say_what_is_left(tracked: Tracked, state: Acknowledged, reason: str) -> None:
    """Say what MLflow lacks; `reason` is that of the run's end, which is told by itself."""
    left = tracked.journal.sequence - state.sequence
    path = shlex.quote(str(tracked.folder.path))
    refused = first_line(UserError(state.refused)) if state.refused else ""
    # A run that was refused before it trained has nothing that is worth being sent.
    if left and not (refused and refused == reason):
        print(
            f"skinml: {left} of {tracked.journal.sequence} records are not in MLflow yet"
            f"{f' ({refused})' if refused else ''}; send "
            f"them with: python -m skinml.sync {path}",
            file=sys.stderr,
        )
    if state.left_out:
        print(
            f"skinml: not in MLflow: {state.left_out}; they stay in the run's folder, and a server "
            f"that takes them gets them with: python -m skinml.sync {path}",
            file=sys.stderr,
        )
