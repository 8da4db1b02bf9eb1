"""A journal on its way to MLflow: its run is opened, records are sent, arrivals are noted."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from skinml.base.errors import UserError, first_line
from skinml.base.processes import is_dead
from skinml.store.access import is_final, is_gone, lacks_models, refusal
from skinml.store.lease import LEASE, moved, renew, renewal, renewed, reopen
from skinml.store.models import log_models
from skinml.store.publish import BATCHED, prepare_experiment, send
from skinml.store.runs import (
    GONE,
    LEFT_OUT,
    SUPERSEDED,
    acknowledged,
    close_run,
    drop_doubles,
    drop_tag,
    find_or_make_run,
    set_tags,
)
from skinml.store.views import where_to_look
from skinml.tracking.acknowledged import Acknowledged
from skinml.tracking.folder import STATE, RunFolder
from skinml.tracking.journal import Record, is_written, read_journal
from skinml.tracking.record import destination, header, is_load, server_digest

if TYPE_CHECKING:
    from mlflow.entities import Run


# What no waiting changes: no such interface, and no right to add to a registered model.
_FOR_EVER = ("ENDPOINT_NOT_FOUND", "NOT_IMPLEMENTED", "PERMISSION_DENIED")

# Values sent at a time, and what a record that is none counts as.
PIECE, OTHER = 800, 25


class Superseded(UserError):
    """Nothing is sent to this run any more."""


class Forwarder:
    """Sends the journal of one folder to one server; `live` while its run's process may write."""

    def __init__(self, folder: RunFolder, live: bool = False) -> None:
        import mlflow

        self.folder = folder
        self._live = live
        self._uri = mlflow.get_tracking_uri()
        # As the run's process has it, so that ids which it was given are known to be this server's.
        self._server = server_digest(os.environ.get("MLFLOW_TRACKING_URI", ""))
        self._path = folder.path / STATE
        self.state = Acknowledged.load(self._path, server_digest(self._uri))
        self._header: Record | None = None
        # The number of the last record that begins, or goes on with, the run, and its process.
        self._writer = 0, ""
        self._last = ""
        self._told: set[str] = set()
        # Whether the server has taken anything from this process.
        self._taken = False
        if Acknowledged.load(self._path).refused:  # An earlier process was told so, of any server.
            self.state.refused = ""
            self._save()
        self._asked = False
        # Why the models were not taken last.
        self._not_taken = ""
        # When the lease moved last, by the clock that nobody sets.
        self._moved = -float("inf")

    @property
    def is_due(self) -> bool:
        """Whether the lease is to be moved on."""
        return time.monotonic() - self._moved > renewal()

    def step(self, alive: bool = False) -> bool:
        """Send the next records, as many as go well together; whether there were any.

        A request costs a server some 16 ms of its processor, which may be the training's own
        (benchmarks/README.md, tracking). So while the run's process is `alive`, samples of the load
        with nothing behind them wait for what comes next, at the latest for a renewal of the
        lease, which goes with them.
        """
        with self._refusal_noted():
            return self._step(alive)

    def _step(self, alive: bool) -> bool:
        now, due = time.monotonic(), self.is_due
        records, more = self._pending()
        if not records or (alive and not due and not more and all(map(is_load, records))):
            return False
        before = self.state
        run = self._open_run(begins=any(record.kind == "run" for record in records))
        if self.state is not before:
            return True  # The server has less than it had: all over again.
        renews = alive and due and all(record.kind in BATCHED for record in records)
        tags = moved(run, self._process()) if renews else {}
        records = [self._by_now(record) for record in records]
        # A network takes its time, on a slow line longer than a term.
        with renewed(lambda: self._move(run.info.run_id)):
            uris = send(self.folder, records, run, self._log_models, tags)
        if renews:
            self._moved = now
        last = records[-1]
        self.state.sequence, self.state.offset = last.sequence, last.end
        self.state.ended = last.kind == "end"
        self.state.uris |= uris
        self.state.refused = ""
        self._taken = True
        if self.state.ended:
            drop_doubles(run, self._journal_id())
        # The end of an interrupted attempt may be sent when the run has gone on already.
        if self.state.ended and not self.unsent:
            self.folder.mark_published(self.state.run_id)
        else:
            self.folder.mark_unpublished()
        self._save()
        return True

    def renew(self) -> None:
        """Move the lease on: the run's process lives, wherever it is with its work."""
        now = time.monotonic()
        if self.state.run_id and not self.state.ended:
            renew(self._open_run(), self._process())
        self._moved = now

    def _move(self, run_id: str) -> None:
        """Renew while something is being sent: the lease alone, and only of a run that goes on."""
        from mlflow import MlflowClient

        if self._live and self.is_alive():
            renew(MlflowClient().get_run(run_id), self._process())

    def verify(self) -> None:
        """Make sure that the server has all that it acknowledged or takes by now, or begin anew."""
        if self.state.run_id:
            with self._refusal_noted():
                run = self._open_run()
            if self.state.left_out and not lacks_models(run.info.experiment_id):
                self._begin_anew(f"the models of run {run.info.run_id} are not there")

    def close_gone(self) -> None:
        """Close a run whose process is gone and said nothing: it may be gone on with later."""
        if self.state.run_id:
            run = self._open_run()
            if run.info.status == "RUNNING":
                close_run(run, "KILLED", GONE)

    @property
    def unsent(self) -> int:
        """How many records the server has not acknowledged."""
        offset, sequence = self.state.offset, self.state.sequence
        return sum(1 for _ in read_journal(self.folder.journal, offset, sequence))

    def _pending(self) -> tuple[list[Record], bool]:
        """The next records to send, and whether there are more behind them.

        A network and the end of a run go by themselves.
        """
        records: list[Record] = []
        size = 0
        offset, sequence = self.state.offset, self.state.sequence
        for record in read_journal(self.folder.journal, offset, sequence, self._tell):
            self._note_writer(record)
            alone = record.kind in ("model", "end")
            size += len(record.fields["values"]) if "values" in record.fields else OTHER
            if records and (alone or size > PIECE):
                return records, True
            records.append(record)
            if alone:
                break
        return records, False

    def _open_run(self, begins: bool = False) -> "Run":
        """The run, as it is now: made where there is none, opened where somebody closed it.

        Not where a process `begins` with it: that one's first record opens it.

        Asked before everything that is sent. A server that was restored from an older backup would
        otherwise be told that it holds what it has lost.
        """
        from mlflow import MlflowClient, MlflowException

        run = None
        if self.state.run_id:
            try:
                run = MlflowClient().get_run(self.state.run_id)
            except MlflowException as error:
                if not is_gone(error):
                    raise
                self._begin_anew(f"run {self.state.run_id} is gone (an older backup?)")
        if run is None:
            run = self._find_or_make()
        elif max(acknowledged(run), 0) < self.state.sequence:
            self._begin_anew(f"run {self.state.run_id} has less than it had (an older backup?)")
        if run.info.lifecycle_stage == "deleted":
            raise UserError(
                f"run {run.info.run_id} is deleted; restore it (`mlflow runs restore --run-id "
                f"{run.info.run_id}`), or remove {self._path} for another"
            )
        if SUPERSEDED in run.data.tags:
            self.state.refused = (
                f"run {run.info.run_id} is closed: another attempt at its cell of a sweep has "
                "taken its place; expected nothing more of it"
            )
            self._save()
            raise Superseded(self.state.refused)
        self._ask_for_models(run)
        goes_on = self._live and not self.state.ended and not begins
        if goes_on and run.info.status != "RUNNING":
            self._reopen(run)
        return run

    def _find_or_make(self) -> "Run":
        from mlflow import MlflowException

        first = self._first_record()
        description = self.folder.read_description()
        now = destination(description)
        run = find_or_make_run(self._by_now(first), self._server, now)
        # Before the run is known to be made, which its process waits for before it trains.
        self._ask_for_models(run)
        self.state.run_id = run.info.run_id
        self.state.refused = ""
        self.state.uris["results"] = where_to_look(self._uri, run.info.experiment_id)
        self._save()
        with suppress(MlflowException):
            prepare_experiment(self._uri, run.info.experiment_id, description.params)
        return run

    def _ask_for_models(self, run: "Run") -> None:
        """Say at once, and once, if the server will not take the models that a run ends with."""
        if self._asked or not self._live:
            return
        if missing := lacks_models(run.info.experiment_id):
            self.say(
                f"warning: {missing}: this run will be there without its models, which stay in "
                "its folder for one that has"
            )
        self._asked = True

    def _log_models(self, folder: RunFolder, run: "Run", register: bool) -> dict[str, str]:
        """Log a run's models; where the server will never take them, note that and why."""
        from mlflow import MlflowException

        try:
            uris = log_models(folder, run, register)
        except KeyError as error:
            raise UserError(
                f"{folder.path}: its run.json lacks {error}, which a model is logged with; "
                "expected the folder of a training by skinml"
            ) from None
        except MlflowException as error:
            why, said = lacks_models(run.info.experiment_id), first_line(error)[:200]
            # Once may be a bad moment of a proxy.
            if error.error_code in _FOR_EVER and said == self._not_taken:
                why = why or f"the server does not take them ({said})"
            self._not_taken = said
            if not why:
                raise
            why = f"its models: {why}"
            set_tags(run.info.run_id, {LEFT_OUT: why})
            self.state.left_out = why
            return {}
        self.state.left_out = ""
        drop_tag(run, LEFT_OUT)
        return uris

    def _reopen(self, run: "Run") -> None:
        """Somebody took the run for dead, and it is not."""
        if not self.is_alive():
            return
        reopen(run)
        if LEASE in run.data.tags:
            self.say(f"run {run.info.run_id} was closed while it goes on: it is open again")

    def _begin_anew(self, why: str) -> None:
        """Forget what was acknowledged: the whole journal is sent again, and counts once.

        From the start, not from where the server is said to be: its files may come from another
        moment than its database.
        """
        self.say(f"{why}: all of it is sent again")
        self.state = Acknowledged(self.state.server)
        self.folder.mark_unpublished()
        self._save()

    def is_alive(self) -> bool:
        """Whether the process that writes the journal lives."""
        written = is_written(self.folder.journal)
        if written is not None:
            return written
        # No locks here.
        return bool(self._process()) and not is_dead(self._process())

    def _process(self) -> str:
        """The process that writes the journal, or was the last to do so."""
        if not self._writer[0]:
            for record in read_journal(self.folder.journal):
                self._note_writer(record)
        return self._writer[1]

    def _note_writer(self, record: Record) -> None:
        if record.kind == "run" and record.sequence > self._writer[0]:
            self._writer = record.sequence, str(record.fields["process"])

    def _by_now(self, record: Record) -> Record:
        """A record that begins the run, with the process that goes on with it now.

        Sent again, the one of then would be taken for its process, and the run for dead.
        """
        if record.kind != "run":
            return record
        return record._replace(fields={**record.fields, "process": self._process()})

    def _first_record(self) -> Record:
        if self._header is None:
            self._header = header(self.folder)
        if self._header is None:
            raise UserError(f"{self.folder.journal}: no record of a run's start; nothing is sent")
        return self._header

    def _journal_id(self) -> str:
        return str(self._first_record().fields["journal"])

    @contextmanager
    def _refusal_noted(self) -> Iterator[None]:
        """Note what to tell a person whose run the server refuses; nothing where waiting may help.

        Once the server has taken something it is its own fault, which may be mended.
        """
        try:
            yield
        except Exception as error:
            if not self._taken:
                self.state.refused = _refused(error)
                self._save()
            raise

    def _save(self) -> None:
        # A full disk costs that some is sent twice.
        with suppress(OSError):
            self.state.save(self._path)

    def _tell(self, text: str) -> None:
        """Say once what of the journal is damaged; a damaged place is met again."""
        if text not in self._told and len(self._told) < 100:
            self._told.add(text)
            self.say(f"warning: {text}")

    def say(self, text: str) -> None:
        """A line for the person at the run, who is told it by the run's own process."""
        if text != self._last:
            print(f"skinml: {text}", file=sys.stderr, flush=True)
        self._last = text


def _refused(error: Exception) -> str:
    """What to tell a person whose run a server does not take; empty where it may do so later."""
    if isinstance(error, UserError):
        return str(error)
    if is_final(error):
        return str(refusal("start a run at", error, "--offline trains without one"))
    return ""
