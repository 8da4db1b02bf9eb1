"""A sweep: what of its grid is done, what trains where, and what MLflow is told.

A cell whose finished run is in MLflow already is not trained again, and one that was interrupted
goes on from its last checkpoint, as the same run: so a sweep that was stopped, or killed, or that
failed in part goes on when the same command is given again.
"""

import os
import secrets
import shlex
import signal
import sqlite3
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from skinml.address import without_user_info
from skinml.cache import cache_dir
from skinml.code_digest import trained_by, why_same
from skinml.config import Config
from skinml.doctor import DEAD, ORPHAN, examine, mend
from skinml.engines.attempt import Order, Outcome, is_run_of, result_of, sync_arguments
from skinml.engines.engine import Engine, Job, take_over
from skinml.engines.local import LocalEngine, visible_gpus, warn_of_sharing
from skinml.engines.node import DATA, TOKEN, WEIGHTS, Source, absolute_uri, files_to_send
from skinml.engines.placement import Placement
from skinml.errors import UserError, first_line
from skinml.files import file_sha256
from skinml.grid import Cell, State, sweep_key
from skinml.processes import end_process
from skinml.sweep_table import Show, display, failure, markdown, print_closing, summary
from skinml.tracking.evaluations import evaluate_anew, is_outdated
from skinml.tracking.folder import RunFolder
from skinml.tracking.lease import PROCESS, renewed
from skinml.tracking.record import PARENT_RUN_VARIABLE
from skinml.tracking.store import store_errors, store_is_needed
from skinml.tracking.sweeps import (
    NOTE_LENGTH,
    SweepRun,
    find_experiment,
    reason_of,
    run_link,
    runs_with,
    undo_superseded,
)

if TYPE_CHECKING:
    from mlflow.entities import Run

# Seconds between two questions whether a cell has ended, two looks at how far it is, two accounts
# to MLflow; and that cells have to end when asked to.
POLL, LOOK, TELL = 0.05, 0.5, 2.0
PATIENCE = 20.0
# A cell whose sweep was killed ends by itself, in the worst case after a minute.
LEFTOVER_PATIENCE = 75.0

# What may be the cell's own fault is tried so often without one more epoch.
TRIES = 5
# Seconds before what was lost is tried again, doubled with each time in vain.
PAUSE, LAST_PAUSE = 1.0, 60.0

Command = Callable[[Config], list[str]]


def cell_command(config: Config) -> list[str]:
    """The command that trains one cell; it ends when its stdin does."""
    options = [f"--{name}={value}" for name, value in config.as_dict().items()]
    return [sys.executable, "-m", "skinml.run", "--stop-with-stdin", *options]


# What is done already


def known_states(
    cells: Sequence[Cell], experiment: str | None, passed_over: Collection[str] = ()
) -> list[State]:
    """Each cell as MLflow knows it: done before, or waiting (with the reason if it failed).

    Done is what has a FINISHED run of the same configuration, data and training code, or of code
    that counts as the same, and that is not one of those to be `passed_over`.
    """
    found: dict[str, list[Run]] = {}
    if experiment is not None:
        names = ("data_digest", "config_digest") if len(cells) == 1 else ("data_digest",)
        for run in runs_with(experiment, {name: cells[0].identity[name] for name in names}):
            if run.info.run_id not in passed_over:
                found.setdefault(run.data.tags.get("config_digest", ""), []).append(run)
    return [_known(cell, found.get(cell.identity["config_digest"], [])) for cell in cells]


def _known(cell: Cell, runs: "Sequence[Run]") -> State:
    model = cell.config.model
    same = {run.info.run_id: why_same(trained_by(run.data.tags), model) for run in runs}
    finished = [run for run in runs if run.info.status == "FINISHED"]
    # Today's own code first, then the newest.
    counted = sorted(
        (run for run in finished if same[run.info.run_id] is not None),
        key=lambda run: same[run.info.run_id] != "",
    )
    if not counted:
        note = ""
        if finished:
            other = trained_by(finished[0].data.tags) or "unknown"
            note = f"run {finished[0].info.run_id} is of other training code: {other}"
        ours = [run for run in runs if same[run.info.run_id] is not None]
        return State(cell, reason=reason_of(ours), note=note)
    run = counted[0]
    reason = same[run.info.run_id]
    earlier = trained_by(run.data.tags)
    return State(
        cell,
        "done before",
        note=f"its training code {earlier} counts as today's: {reason}" if reason else "",
        outdated=is_outdated(run),
        run_id=run.info.run_id,
        seconds=((run.info.end_time or 0) - run.info.start_time) / 1000 if run.info.end_time else 0,
        accuracy=run.data.metrics.get("test_accuracy"),
        auc=run.data.metrics.get("test_auc_macro"),
    )


def _finished(states: Sequence[State]) -> frozenset[str]:
    return frozenset(state.run_id for state in states if state.is_done)


def dry_run(cells: Sequence[Cell], data: str, rerun: bool) -> None:
    """Print what a sweep would do with each cell."""
    states = known_states(cells, find_experiment(data))
    if rerun:
        states = [State(cell) for cell in cells]
    width = max(len(state.cell.name) for state in states)
    for state in states:
        if state.is_done:
            what = f"done: run {state.run_id}"
            if state.outdated:
                what += ", its figures to be computed anew from its predictions tables"
        else:
            what = f"failed before: {state.reason}" if state.reason else "missing"
        print(f"{state.cell.name:<{width}}  {what}{f' ({state.note})' if state.note else ''}")
    done = sum(state.is_done for state in states)
    print(f"{done} of {len(states)} done, {len(states) - done} to train")


def publish_finished(states: Sequence[State], run: SweepRun, orders: "Orders") -> None:
    """Publish what was trained, by this start or an earlier one, but could not be sent to MLflow.

    A server that was away at the end of a training costs no second one. A folder counts where it
    has the cell's own configuration, data and code; what cannot be published is trained again by
    the next start.
    """
    for state in states:
        if state.is_done:
            continue
        order = orders.make(state)
        for path in sorted(_folders_in(order.folder), reverse=True):
            folder = RunFolder(path)
            if not folder.finished or folder.published or not is_run_of(order, folder):
                continue
            print(f"skinml: {state.cell.name}: publishing {path}", file=sys.stderr)
            done = subprocess.run(
                [sys.executable, *sync_arguments(path)],
                env={**os.environ, **order.variables},
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode == 0 and RunFolder(path).published:
                take_over(state, result_of(folder))
                break
            last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            print(f"skinml: warning: {path} is not published: {last[:300]}", file=sys.stderr)


def _folders_in(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*") if path.is_dir()]


# What an engine is given


class Orders:
    """Cells as orders: on a cluster with paths that mean the same on all of its machines."""

    def __init__(
        self, run: SweepRun, command: Command, clustered: bool, data_folder: Path, rerun: bool
    ) -> None:
        self._run = run
        self._command = command
        self._clustered = clustered
        self._data_folder = data_folder
        self._rerun = rerun
        self._there: dict[str, frozenset[str]] = {}
        self._sources: dict[str, Source] = {}

    def note_what_is_there(self, cells: Sequence[Cell]) -> None:
        """All runs of before this are passed over by a sweep that trains all again."""
        if self._rerun:
            self._there = {
                cell.name: frozenset(p.name for p in _folders_in(cell.folder)) for cell in cells
            }

    def make(self, state: State) -> Order:
        """The order of a cell, by what its folder holds now."""
        cell, config = state.cell, state.cell.config
        if self._clustered:
            config = replace(config, output_dir=str(cell.folder.absolute()))
            if _is_file(config.weights):
                weights = Path(config.weights).expanduser().absolute()
                config = replace(config, weights=str(weights))
        folder = Path(config.output_dir).expanduser()
        passed_over = set(self._there.get(cell.name, ()))
        for path in _folders_in(folder):
            run = RunFolder(path)
            # Where it was sent to may be another server, or the run deleted: MLflow is asked.
            if run.finished and (run.published or not self._clustered):
                passed_over.add(path.name)
        return Order(
            cell.name,
            config,
            folder,
            self._command(config)[1:],
            cell.identity,
            {PARENT_RUN_VARIABLE: self._run.id, "MLFLOW_EXPERIMENT_ID": self._run.experiment},
            frozenset(passed_over),
        )

    def source(self, order: Order, again: bool, done_before: frozenset[str]) -> Source:
        """Where the machines of a cluster find what a cell needs."""
        weights = order.config.weights
        if weights not in self._sources:
            files = {DATA: files_to_send(self._data_folder)}
            if _is_file(weights):
                files[f"{WEIGHTS} {weights}"] = {Path(weights).name: file_sha256(Path(weights))}
            self._sources[weights] = Source(
                _token(order.folder.parent),
                self._tracking_uri,
                self._data_folder,
                files,
                self._run.id,
                self._run.experiment,
            )
        return replace(self._sources[weights], again=again, done_before=done_before)

    @cached_property
    def _tracking_uri(self) -> str:
        from mlflow import get_tracking_uri

        return without_user_info(absolute_uri(get_tracking_uri()))


def _is_file(weights: str) -> bool:
    return weights not in ("imagenet", "none")


def _token(root: Path) -> str:
    """What another machine knows a sweep's folder by; it stays through all starts."""
    path = root / TOKEN
    if not path.exists():
        part = root / f".{TOKEN}.part"
        part.write_text(secrets.token_hex(16))
        part.replace(path)
    return path.read_text()


def make_engine(placement: Placement, cells: Sequence[Cell], root: Path) -> Engine:
    """The engine that a person asked for; one that is not there is a `UserError`."""
    if placement.engine == "ray":
        from skinml.engines.ray_cluster import RayEngine

        cpus = placement.cpus
        if cpus is None:
            cpus = max(cell.config.threads for cell in cells) or 1
        return RayEngine(placement.address, cpus, placement.gpus)
    if placement.engine == "slurm":
        from skinml.engines.slurm import SlurmEngine

        return SlurmEngine(root, placement.slurm, placement.executor)
    return LocalEngine(visible_gpus(os.environ))


# Training


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


class Sweep:
    """The cells on their way: what waits, what trains, and what is told to MLflow.

    `done_before` are finished runs that do not count, `again` whether a cell may have been begun
    before, by whatever machine.
    """

    def __init__(
        self,
        states: list[State],
        run: SweepRun,
        orders: Orders,
        engine: Engine,
        jobs: int | None = None,
        done_before: frozenset[str] = frozenset(),
        again: bool = False,
    ) -> None:
        self.states = states
        self._run = run
        self._orders = orders
        self._engine = engine
        self._jobs = jobs
        self._done_before = done_before
        self._again = again
        self._told = 0.0
        self._untold = False

    def train(self, stop: Stop, show: Show) -> None:
        """Train every waiting cell, as many at a time as there is room, until all are or `stop`."""
        waiting = deque(state for state in self.states if state.status == "waiting")
        looked = 0.0
        try:
            while (waiting or stop.jobs) and not stop.received:
                changed = self._start_some(waiting, stop)
                for job in list(stop.jobs):
                    if outcome := job.poll():
                        job.look()
                        stop.jobs.remove(job)
                        self._end(job.state, outcome, waiting)
                        changed = True
                now = time.monotonic()
                if changed or now - looked > LOOK:
                    for job in stop.jobs:
                        job.look()
                    _shown(show, self.states)
                    looked = now
                self._tell_sometimes(changed)
                if not changed:
                    time.sleep(POLL)
        finally:
            stop.end_jobs()
            _shown(show, self.states)
            self.tell_mlflow()

    def _start_some(self, waiting: deque[State], stop: Stop) -> bool:
        """Start cells while there is room; whether any was, or was found done."""
        changed = False
        room = self._engine.at_once(self._jobs) - len(stop.jobs) if waiting else 0
        for _ in range(len(waiting)):
            if room <= 0 or stop.received:
                break
            state = waiting.popleft()
            if state.retry_at > time.monotonic():
                waiting.append(state)
                continue
            found = self._found_done(state)
            if found is None and state.losses:
                # What was lost may have been finished all the same: nobody knows now.
                state.retry_at = time.monotonic() + LAST_PAUSE / 4
                waiting.append(state)
                continue
            changed = True
            if not found:
                stop.jobs.append(self._start(state))
                room -= 1
        return changed

    def _start(self, state: State) -> Job:
        order = self._orders.make(state)
        source = None
        if self._engine.clustered:
            again = self._again or state.losses > 0
            source = self._orders.source(order, again, self._done_before)
        state.status, state.reason, state.run_id, state.log = "running", "", "", None
        return self._engine.start(state, order, source)

    def _end(self, state: State, outcome: Outcome, waiting: deque[State]) -> None:
        """Take over what came of a cell; what is lost waits to be tried again."""
        state.queued = state.waits = False
        take_over(state, outcome)
        if outcome.status != "lost":
            return
        state.losses += 1
        reached = int(state.row["epoch"]) if state.row else 0
        if reached > state.reached:
            state.reached, state.in_vain = reached, 0
        state.in_vain += outcome.counts
        if state.in_vain >= TRIES:
            state.status = "failed"
            state.reason = f"{outcome.reason}; {TRIES} times without one more epoch"
            return
        state.retry_at = time.monotonic() + min(LAST_PAUSE, PAUSE * 2**state.in_vain)
        state.begun, state.host, state.left, state.log = False, "", None, None
        print(
            f"skinml: {state.cell.name}: {outcome.reason}: it is tried again",
            file=sys.stderr,
            flush=True,
        )
        waiting.appendleft(state)

    def _found_done(self, state: State) -> bool | None:
        """Whether someone else has finished the cell since the sweep began; None: not known."""
        known = None
        with _mlflow_may_fail():
            [now] = known_states([state.cell], self._run.experiment, self._done_before)
            known = now.is_done
            if known:
                vars(state).update(vars(now))
        return known

    def _tell_sometimes(self, changed: bool) -> None:
        self._untold = self._untold or changed
        if self._untold and time.monotonic() - self._told > TELL:
            self.tell_mlflow()

    def tell_mlflow(self) -> None:
        """Close what died without closing its run, and bring the sweep's page up to date."""
        self._told, self._untold = time.monotonic(), False
        with _mlflow_may_fail():
            self._run.close_dead()
            if self._engine.clustered:
                undo_superseded(self._run.experiment, self._run.id)
            for state in self.states:
                if state.status in ("failed", "stopped") and not state.run_id:
                    below = {**state.cell.identity, "mlflow.parentRunId": self._run.id}
                    if runs := runs_with(self._run.experiment, below):
                        state.run_id = runs[0].info.run_id
            link = partial(run_link, self._run.experiment)
            jobs = self._engine.at_once(self._jobs)
            self._run.write_note(markdown(self.states, jobs, link, NOTE_LENGTH))


def _shown(show: Show, states: Sequence[State]) -> None:
    """Show the cells; a reader that is gone (`… | tee log` and Ctrl-C) does not end them."""
    # rich turns a broken pipe into SystemExit.
    with suppress(OSError, SystemExit):
        show(states)


@contextmanager
def _mlflow_may_fail() -> Iterator[None]:
    """A server that fails for a while does not end the cells that train."""
    try:
        yield
    except store_errors() as error:
        print(f"skinml: warning: MLflow: {first_line(error)[:200]}", file=sys.stderr)


@contextmanager
def only_one(key: str) -> Iterator[None]:
    """Let no other sweep of this key run on this machine for a time, else `UserError`.

    The lock is SQLite's on a file in the cache: the system lifts it when its holder dies.
    """
    path = cache_dir() / "locks" / f"sweep-{key}.db"
    path.parent.mkdir(parents=True, exist_ok=True)
    holder = path.with_suffix(".pid")
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError:
            pid = holder.read_text() if holder.exists() else "unknown"
            raise UserError(
                f"a sweep of these cells is running on this machine already (process {pid}); "
                "expected one at a time: wait for its end, or stop it first"
            ) from None
        holder.write_text(str(os.getpid()))
        yield


def sweep(
    cells: Sequence[Cell],
    jobs: int | None = None,
    rerun: bool = False,
    command: Command = cell_command,
    go_on: str = "the same command",
    placement: Placement | None = None,
    data_folder: Path = Path(),
) -> int:
    """Train every cell that has no finished run; returns 0, 1 if any failed, 128 + a signal.

    `command` gives the command line that trains a configuration, `go_on` the one that goes on
    with this sweep, for the closing words. `data_folder` is that of the prepared set, which the
    machines of a cluster may lack.
    """
    placement = placement or Placement()
    key, first = sweep_key(cells), cells[0].config
    root = cells[0].folder.parent
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"output_dir={root.parent}: cannot make the sweep's folder there ({error.strerror}); "
            "expected a folder that can be written to"
        ) from None
    with ExitStack() as stack:
        stack.enter_context(only_one(key))
        engine = make_engine(placement, cells, root.absolute())
        stack.callback(engine.close)
        experiment = find_experiment(first.data, create=True)
        assert experiment is not None
        tags = {
            "data": first.data,
            "data_digest": cells[0].identity["data_digest"],
            "demo": str(first.data == "demo").lower(),
            "cells": str(len(cells)),  # what a dashboard shows the progress against
        }
        stop = stack.enter_context(Stop().listening())
        with store_is_needed():
            run = SweepRun.open(key, f"sweep-{key[:8]}", tags, experiment)
        try:
            with renewed(run.renew):
                orders = Orders(run, command, engine.clustered, data_folder, rerun)
                orders.note_what_is_there(cells)
                with store_is_needed():
                    again = bool(run.children())
                    if not engine.clustered:
                        _end_leftovers(run, root)
                    states = known_states(cells, experiment)
                    done_before = _finished(states) if rerun else frozenset()
                    if rerun:
                        states = [State(cell) for cell in cells]
                    else:
                        if not engine.clustered:
                            publish_finished(states, run, orders)
                            states = known_states(cells, experiment)
                        run.keep_done_before(sorted(_finished(states)))
                        _bring_up_to_date(states)
                at_once = engine.at_once(jobs)
                where = f"{at_once} at a time" if placement.engine == "local" else placement.engine
                print(
                    f"skinml: sweep {key}: {len(cells)} cells, {where}, in {root}; "
                    f"MLflow run {run.id}",
                    file=sys.stderr,
                )
                if not engine.clustered:
                    warn_of_sharing(cells, at_once, visible_gpus(os.environ))
                with display(at_once) as show:
                    trained = Sweep(states, run, orders, engine, jobs, done_before, again)
                    trained.train(stop, show)
                if not stop.received and any(state.status == "failed" for state in states):
                    publish_finished(states, run, orders)
                    trained.tell_mlflow()
                if engine.clustered and not stop.received:
                    with _mlflow_may_fail():
                        _close_dead(run, root)
        except BaseException as error:
            killed = isinstance(error, KeyboardInterrupt)
            with _mlflow_may_fail():
                run.close(
                    "KILLED" if killed else "FAILED",
                    f"{type(error).__name__}: {first_line(error)}"[:500],
                )
            raise
        status, reason, code = _outcome(states, stop.received)
        with _mlflow_may_fail():
            run.close(status, reason)
    print_closing(states)
    kept = "--rerun trains all again" if rerun else "what is done stays done"
    for line in _closing_words(states, at_once, stop.received, run, f"({kept}) with: {go_on}"):
        print(f"skinml: {line}", file=sys.stderr)
    return code


def _bring_up_to_date(states: Sequence[State]) -> None:
    """Say what finished runs by earlier code are taken for, and compute outdated figures anew."""
    for state in states:
        if state.note:
            print(f"skinml: {state.cell.name}: {state.note}", file=sys.stderr)
        if not state.outdated:
            continue
        try:
            metrics = evaluate_anew(state.run_id)
        except UserError as error:
            print(f"skinml: warning: {state.cell.name}: {error}; its figures stay", file=sys.stderr)
            continue
        state.accuracy, state.auc = metrics["test_accuracy"], metrics["test_auc_macro"]
        state.outdated = False
        print(
            f"skinml: {state.cell.name}: the figures of run {state.run_id} are computed anew from "
            "its predictions tables",
            file=sys.stderr,
        )


def _end_leftovers(run: SweepRun, root: Path) -> None:
    """End what an earlier start of this sweep left behind, and close the runs of what died.

    This start holds the lock: whatever still trains below the sweep's run on this machine has
    lost its own. What another machine trains is looked at for a term.
    """
    for child in run.children("RUNNING"):
        end_process(child.data.tags.get(PROCESS, ""), LEFTOVER_PATIENCE)
    _close_dead(run, root)


def _close_dead(run: SweepRun, root: Path) -> None:
    """Close the runs below a sweep of what died; what may live is looked at for a term."""
    for finding in examine(root, partial(run.children, "RUNNING")):
        # What is finished is sent below, as a part of this sweep.
        if finding.kind in (DEAD, ORPHAN):
            mend(finding)
            print(f"skinml: {finding.name}: {finding.why}: {finding.outcome}", file=sys.stderr)


def _outcome(states: Sequence[State], signum: int) -> tuple[str, str, int]:
    """How a sweep ended: its run's status, the reason, the exit code."""
    if all(state.is_done for state in states):
        return "FINISHED", "", 0
    if signum:
        return "KILLED", f"stopped by {signal.Signals(signum).name}", 128 + signum
    failed = sum(state.status == "failed" for state in states)
    return "FAILED", f"{failed} of {len(states)} cells failed", 1


def _closing_words(
    states: Sequence[State], jobs: int, signum: int, run: SweepRun, go_on: str
) -> list[str]:
    """What came of a sweep, what failed, and how to go on."""
    lines = [summary(states, jobs)]
    if signum:
        lines.append(f"stopped by {signal.Signals(signum).name}; the run {run.id} is closed")
    for state in states:
        if state.status == "failed":
            lines.append(failure(state))
    if not all(state.is_done for state in states):
        mend = "" if signum else "mend the cause, then "
        lines.append(f"{mend}go on {go_on}")
    if any(state.is_done for state in states):
        lines.append(f"compare the finished runs with: {_compare(run)}")
    return lines


def _compare(run: SweepRun) -> str:
    from mlflow import MlflowClient

    command = "python -m skinml.compare"
    with _mlflow_may_fail():
        name = MlflowClient().get_experiment(run.experiment).name
        if name != "skinml":
            command += f" --experiment {shlex.quote(name)}"
    return command
