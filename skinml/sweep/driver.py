"""A sweep: what trains where, what is tried again, and what MLflow is told.

A cell whose finished run is in MLflow already is not trained again, and one that was interrupted
goes on from its last checkpoint, as the same run: so a sweep that was stopped, or killed, or that
failed in part goes on when the same command is given again.
"""

import os
import shlex
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

from skinml.base.errors import UserError, first_line
from skinml.data.datasets import find_dataset
from skinml.store.access import store_errors, store_is_needed
from skinml.store.lease import renewed
from skinml.store.sweeps import (
    NOTE_LENGTH,
    SweepRun,
    find_experiment,
    run_link,
    runs_with,
    undo_superseded,
)
from skinml.sweep.alone import only_one
from skinml.sweep.cells import Cell, CellState, sweep_key
from skinml.sweep.done import finished, known_states, publish_finished, update_figures
from skinml.sweep.engines.attempt import AttemptOutcome
from skinml.sweep.engines.engine import Engine, Job, take_over
from skinml.sweep.engines.local import LocalEngine, visible_gpus, warn_of_sharing
from skinml.sweep.engines.placement import Placement
from skinml.sweep.orders import Command, Orders, cell_command
from skinml.sweep.stopping import Stop, close_dead, end_leftovers
from skinml.sweep.table import Show, closing_words, display, markdown, print_closing

# Seconds between two questions whether a cell has ended, two looks at how far it is, two accounts
# to MLflow.
POLL, LOOK, TELL = 0.05, 0.5, 2.0

# What may be the cell's own fault is tried so often without one more epoch.
TRIES = 5
# Seconds before what was lost is tried again, doubled with each time in vain.
PAUSE, LAST_PAUSE = 1.0, 60.0


def make_engine(placement: Placement, cells: Sequence[Cell], root: Path) -> Engine:
    """The engine that a person asked for; one that is not there is a `UserError`."""
    if placement.engine == "ray":
        from skinml.sweep.engines.ray_cluster import RayEngine

        cpus = placement.cpus
        if cpus is None:
            cpus = max(cell.config.threads for cell in cells) or 1
        return RayEngine(placement.address, cpus, placement.gpus)
    if placement.engine == "slurm":
        from skinml.sweep.engines.slurm import SlurmEngine

        return SlurmEngine(root, placement.slurm, placement.executor)
    return LocalEngine(visible_gpus(os.environ))


class Sweep:
    """The cells on their way: what waits, what trains, and what is told to MLflow.

    `done_before` are finished runs that do not count, `again` whether a cell may have been begun
    before, by whatever machine.
    """

    def __init__(
        self,
        states: list[CellState],
        run: SweepRun,
        orders: Orders,
        engine: Engine,
        done_before: frozenset[str] = frozenset(),
        again: bool = False,
    ) -> None:
        self.states = states
        self._run = run
        self._orders = orders
        self._engine = engine
        self._jobs: int | None = None
        self._done_before = done_before
        self._again = again
        self._told = 0.0
        self._untold = False

    def train(self, stop: Stop, show: Show, jobs: int | None = None) -> None:
        """Train every waiting cell, at most `jobs` at a time, until all are trained or `stop`."""
        self._jobs = jobs
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

    def _start_some(self, waiting: deque[CellState], stop: Stop) -> bool:
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

    def _start(self, state: CellState) -> Job:
        order = self._orders.make(state)
        source = None
        if self._engine.clustered:
            again = self._again or state.losses > 0
            source = self._orders.source(order, again, self._done_before)
        state.status, state.reason, state.run_id, state.log = "running", "", "", None
        return self._engine.start(state, order, source)

    def _end(self, state: CellState, outcome: AttemptOutcome, waiting: deque[CellState]) -> None:
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

    def _found_done(self, state: CellState) -> bool | None:
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

    def make_up_for_failures(self) -> None:
        """What was trained, but could not be sent, is sent now; what died is closed."""
        if any(state.status == "failed" for state in self.states):
            publish_finished(self.states, self._orders)
            self.tell_mlflow()
        if self._engine.clustered:
            with _mlflow_may_fail():
                close_dead(self._run, self.states[0].cell.folder.parent)

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


def _shown(show: Show, states: Sequence[CellState]) -> None:
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
    root = cells[0].folder.parent
    _make_folder(root)
    with ExitStack() as stack:
        stack.enter_context(only_one(sweep_key(cells)))
        engine = make_engine(placement, cells, root.absolute())
        stack.callback(engine.close)
        experiment = find_experiment(find_dataset(cells[0].config.data).name, create=True)
        assert experiment is not None
        stop = stack.enter_context(Stop().listening())
        run = _open_run(cells, experiment)
        with _closed_after_an_error(run), renewed(run.renew):
            orders = Orders(run, command, engine.clustered, data_folder, rerun)
            begun = _begin(cells, run, orders, engine, rerun)
            at_once = engine.at_once(jobs)
            _announce(cells, run, placement, at_once)
            with display(at_once) as show:
                begun.train(stop, show, jobs)
            if not stop.received:
                begun.make_up_for_failures()
        states = begun.states
        status, reason, code = _outcome(states, stop.received)
        with _mlflow_may_fail():
            run.close(status, reason)
    print_closing(states)
    kept = "--rerun trains all again" if rerun else "what is done stays done"
    go_on = f"({kept}) with: {go_on}"
    for line in closing_words(states, at_once, stop.received, run.id, go_on, _compare(run)):
        print(f"skinml: {line}", file=sys.stderr)
    return code


def _make_folder(root: Path) -> None:
    """Make the folder of a sweep, else `UserError`."""
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"output_dir={root.parent}: cannot make the sweep's folder there ({error.strerror}); "
            "expected a folder that can be written to"
        ) from None


def _open_run(cells: Sequence[Cell], experiment: str) -> SweepRun:
    key, data = sweep_key(cells), find_dataset(cells[0].config.data).name
    tags = {
        "data": data,
        "data_digest": cells[0].identity["data_digest"],
        "demo": str(data == "demo").lower(),
        "cells": str(len(cells)),  # what a dashboard shows the progress against
    }
    with store_is_needed():
        return SweepRun.open(key, f"sweep-{key[:8]}", tags, experiment)


@contextmanager
def _closed_after_an_error(run: SweepRun) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
        with _mlflow_may_fail():
            run.close(status, f"{type(error).__name__}: {first_line(error)}"[:500])
        raise


def _begin(
    cells: Sequence[Cell], run: SweepRun, orders: Orders, engine: Engine, rerun: bool
) -> Sweep:
    """End what an earlier start has left behind, and find what is done: what remains is to train.

    On a cluster other machines may train for an earlier start still: their cells' attempts settle
    it among themselves.
    """
    orders.note_what_is_there(cells)
    with store_is_needed():
        again = bool(run.children())
        if not engine.clustered:
            end_leftovers(run, cells[0].folder.parent)
        states = known_states(cells, run.experiment)
        if rerun:
            waiting = [CellState(cell) for cell in cells]
            return Sweep(waiting, run, orders, engine, finished(states), again)
        if not engine.clustered:
            publish_finished(states, orders)
            states = known_states(cells, run.experiment)
        run.keep_done_before(sorted(finished(states)))
        update_figures(states)
    return Sweep(states, run, orders, engine, again=again)


def _announce(cells: Sequence[Cell], run: SweepRun, placement: Placement, at_once: int) -> None:
    local = placement.engine == "local"
    where = f"{at_once} at a time" if local else placement.engine
    print(
        f"skinml: sweep {sweep_key(cells)}: {len(cells)} cells, {where}, in "
        f"{cells[0].folder.parent}; MLflow run {run.id}",
        file=sys.stderr,
    )
    if local:
        warn_of_sharing(cells, at_once, visible_gpus(os.environ))


def _outcome(states: Sequence[CellState], signum: int) -> tuple[str, str, int]:
    """How a sweep ended: its run's status, the reason, the exit code."""
    if all(state.is_done for state in states):
        return "FINISHED", "", 0
    if signum:
        return "KILLED", f"stopped by {signal.Signals(signum).name}", 128 + signum
    failed = sum(state.status == "failed" for state in states)
    return "FAILED", f"{failed} of {len(states)} cells failed", 1


def _compare(run: SweepRun) -> str:
    command = "python -m skinml.compare"
    with _mlflow_may_fail():
        name = run.experiment_name()
        if name != "skinml":
            command += f" --experiment {shlex.quote(name)}"
    return command
