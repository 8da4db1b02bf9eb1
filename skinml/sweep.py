"""The grid of models, batch sizes and seeds, a fresh process a cell: `python -m skinml.sweep`.

A cell whose finished run is in MLflow already is not trained again, and one that was interrupted
goes on from its last checkpoint, as the same run: so a sweep that was stopped, or killed, or that
failed in part goes on when the same command is given again.
"""

import argparse
import itertools
import os
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from skinml.cache import cache_dir
from skinml.config import Config, Parser, add_config_options, given_options
from skinml.data.isic2017 import NOTICE
from skinml.data.prepare import open_data
from skinml.doctor import DEAD, ORPHAN, examine, mend
from skinml.errors import UserError, run_command
from skinml.grid import (
    AXES,
    Cell,
    State,
    grid_configs,
    make_cells,
    settings_of,
    sweep_key,
    time_left,
    values_of,
)
from skinml.processes import end_process
from skinml.sweep_table import Show, display, failure, markdown, print_closing, summary
from skinml.tracking.folder import RunFolder
from skinml.tracking.forwarder import UNSENT
from skinml.tracking.lease import PROCESS, renewed
from skinml.tracking.record import PARENT_RUN_VARIABLE, read_noted
from skinml.tracking.store import store_is_needed
from skinml.tracking.sweeps import (
    NOTE_LENGTH,
    SweepRun,
    find_experiment,
    reason_of,
    run_link,
    runs_with,
)

if TYPE_CHECKING:
    from mlflow.entities import Run

# The paper's nine cells.
PAPER = {
    "models": "mobilenet,mobilenetv2,nasnetmobile",
    "batch_sizes": "16,32,64",
    "seeds": "0",
    "split_seeds": "0",
}

# Seconds between two looks at the processes, and that a process has to end when asked to.
POLL = 0.5
PATIENCE = 20.0
# A cell whose sweep was killed ends by itself, in the worst case after a minute.
LEFTOVER_PATIENCE = 75.0

Command = Callable[[Config], list[str]]


def cell_command(config: Config) -> list[str]:
    """The command that trains one cell; it ends when its stdin does."""
    options = [f"--{name}={value}" for name, value in config.as_dict().items()]
    return [sys.executable, "-m", "skinml.run", "--stop-with-stdin", *options]


def sync_command(folder: Path) -> list[str]:
    """The command that publishes a finished run folder."""
    return [sys.executable, "-m", "skinml.sync", str(folder)]


# What is done already


def known_states(cells: Sequence[Cell], experiment: str | None, rerun: bool = False) -> list[State]:
    """Each cell as MLflow knows it: done before, or waiting (with the reason if it failed).

    Done is what has a FINISHED run of the same configuration, data and code. With `rerun` nothing.
    """
    found: dict[str, list[Run]] = {}
    if experiment is not None:
        shared = {name: cells[0].identity[name] for name in ("data_digest", "code_digest")}
        for run in runs_with(experiment, shared):
            found.setdefault(run.data.tags.get("config_digest", ""), []).append(run)
    return [_known(cell, found.get(cell.identity["config_digest"], []), rerun) for cell in cells]


def _known(cell: Cell, runs: "Sequence[Run]", rerun: bool) -> State:
    finished = [run for run in runs if run.info.status == "FINISHED"]
    if rerun or not finished:
        return State(cell, reason=reason_of(runs))
    run = finished[0]
    return State(
        cell,
        "done before",
        run_id=run.info.run_id,
        seconds=((run.info.end_time or 0) - run.info.start_time) / 1000 if run.info.end_time else 0,
        accuracy=run.data.metrics.get("test_accuracy"),
        auc=run.data.metrics.get("test_auc_macro"),
    )


def dry_run(states: Sequence[State]) -> None:
    """Print what a sweep would do with each cell."""
    width = max(len(state.cell.name) for state in states)
    for state in states:
        if state.is_done:
            what = f"done: run {state.run_id}"
        else:
            what = f"failed before: {state.reason}" if state.reason else "missing"
        print(f"{state.cell.name:<{width}}  {what}")
    done = sum(state.is_done for state in states)
    print(f"{done} of {len(states)} done, {len(states) - done} to train")


# Processors


def nvidia_gpus() -> int:
    """How many GPUs NVIDIA's driver names; 0 without a driver. No framework is loaded for it."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # No driver, no library, no package: each has an error of its own.
        return 0
    try:
        return int(pynvml.nvmlDeviceGetCount())
    finally:
        pynvml.nvmlShutdown()


def visible_gpus(variables: Mapping[str, str], count: Callable[[], int] = nvidia_gpus) -> list[str]:
    """The GPUs that a process with these environment variables sees, as CUDA names them."""
    there = [str(index) for index in range(count())]
    chosen = variables.get("CUDA_VISIBLE_DEVICES")
    if chosen is None or not there:
        return there
    # CUDA stops reading at the first name that is none.
    return list(
        itertools.takewhile(lambda name: name not in ("", "-1"), map(str.strip, chosen.split(",")))
    )


def _own_cores() -> list[int]:
    """The cores that this process may use; none where the system does not let us choose."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def cores_of(slot: int, threads: int) -> set[int]:
    """The cores for the cell in a slot where each has so many threads; empty: leave it all.

    `skinml.run --threads N` keeps the first N of the cores that it may use: cells side by side
    would all choose the same ones.
    """
    cores = _own_cores()
    if not threads or threads > len(cores):
        return set()
    return {cores[(slot * threads + index) % len(cores)] for index in range(threads)}


def _warn_of_sharing(cells: Sequence[Cell], jobs: int, gpus: Sequence[str]) -> None:
    at_once = min(jobs, len(cells))
    if at_once == 1 or (gpus and cells[0].config.device != "cpu"):
        if gpus and at_once > len(gpus):
            print(f"skinml: warning: {at_once} jobs share {len(gpus)} GPUs", file=sys.stderr)
        return
    cores = len(_own_cores()) or os.cpu_count() or 1
    threads = max(cell.config.threads for cell in cells) or cores
    if at_once * threads > cores:
        print(
            f"skinml: warning: {at_once} jobs of {threads} threads share {cores} cores; "
            f"--threads {max(1, cores // at_once)} gives each its own, as another configuration: "
            "results repeat to the last bit only at one number of threads",
            file=sys.stderr,
        )


# Processes


@dataclass
class Worker:
    """A cell that trains: its process, and where it writes."""

    state: State
    slot: int
    process: subprocess.Popen[bytes]
    started: float
    earlier: set[Path]
    """Folders of earlier runs of this cell."""
    resumed: RunFolder | None
    """That of the run which goes on."""

    @classmethod
    def start(
        cls,
        state: State,
        slot: int,
        command: list[str],
        environment: dict[str, str],
        resumed: RunFolder | None = None,
    ) -> "Worker":
        """Start a cell in a session of its own, its output in a log; a Ctrl-C does not reach it."""
        folder = state.cell.folder
        folder.mkdir(parents=True, exist_ok=True)
        state.log = folder / time.strftime("log-%Y%m%d-%H%M%S.txt")
        earlier = set(_folders_in(folder))
        started = time.time()
        with state.log.open("wb") as log, _on(cores_of(slot, state.cell.config.threads)):
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,  # We hold its other end for as long as we live.
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        state.status, state.reason, state.run_id = "running", "", ""
        return cls(state, slot, process, started, earlier, resumed)

    @property
    def run_folder(self) -> RunFolder | None:
        if self.resumed:
            return self.resumed
        new = sorted(set(_folders_in(self.state.cell.folder)) - self.earlier)
        return RunFolder(new[-1]) if new else None

    def look(self) -> None:
        """Bring the state up to date with the run's folder."""
        now = time.time()
        self.state.seconds = now - self.started
        folder = self.run_folder
        if folder is None:
            return
        self.state.begun = True
        try:
            history = folder.read_history()
        except (ValueError, TypeError):
            return  # Its last line is being written.
        if history:
            self.state.row = history[-1]
            self.state.left = time_left(history, self.started, now, self.state.cell.config)

    def finish(self) -> None:
        """Take over what the process that has ended left: its numbers, or why there are none."""
        self.look()
        if self.process.stdin:
            self.process.stdin.close()
        state, folder, code = self.state, self.run_folder, self.process.returncode
        if code == 0 and folder and folder.finished and folder.published:
            _take_over(state, folder)
        elif code == UNSENT:
            state.status, state.reason = "failed", "trained, but MLflow lacks some of it"
        else:
            state.status, state.reason = "failed", _why(code, state.log)

    def kill(self) -> None:
        """End it at once, with all that it started."""
        if self.process.poll() is not None:
            return
        if os.name == "posix":
            os.killpg(self.process.pid, signal.SIGKILL)
        else:
            self.process.kill()


def _take_over(state: State, folder: RunFolder) -> None:
    """Take over the numbers of a finished run that is in MLflow."""
    metrics = folder.read_metrics()
    state.status, state.run_id, state.reason = "done", folder.published, ""
    state.accuracy = metrics.get("test_accuracy")
    state.auc = metrics.get("test_auc_macro")


def publish_finished(states: Sequence[State], run: SweepRun) -> None:
    """Publish what was trained, by this start or an earlier one, but could not be sent to MLflow.

    A server that was away at the end of a training costs no second one. A folder counts where it
    has the cell's own configuration, data and code; what cannot be published is trained again by
    the next start.
    """
    for state in states:
        if state.is_done:
            continue
        for path in sorted(_folders_in(state.cell.folder), reverse=True):
            folder = RunFolder(path)
            if not folder.finished or folder.published:
                continue
            try:
                tags = folder.read_description().tags
            except (OSError, ValueError, TypeError):
                continue
            if not state.cell.identity.items() <= tags.items():
                continue
            print(f"skinml: {state.cell.name}: publishing {path}", file=sys.stderr)
            done = subprocess.run(
                sync_command(path), env=_variables(run), capture_output=True, text=True, check=False
            )
            if done.returncode == 0 and RunFolder(path).published:
                _take_over(state, folder)
                break
            last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            print(f"skinml: warning: {path} is not published: {last[:300]}", file=sys.stderr)


def unfinished(cell: Cell) -> RunFolder | None:
    """The newest folder of a cell whose run was interrupted and can go on; None without one.

    A folder counts where it has the cell's own configuration, to the last option, data and code.
    """
    options = {name: str(value) for name, value in cell.config.as_dict().items()}
    for path in sorted(_folders_in(cell.folder), reverse=True):
        folder = RunFolder(path)
        try:
            description = folder.read_description()
        except (OSError, ValueError, TypeError):
            continue
        same = cell.identity.items() <= description.tags.items()
        if not (same and options.items() <= description.params.items()):
            continue
        if folder.journal.exists() and read_noted(folder.journal).ended != "FINISHED":
            return folder
    return None


def _variables(run: SweepRun) -> dict[str, str]:
    """The environment of a process whose run belongs below the sweep's."""
    variables = {**os.environ, PARENT_RUN_VARIABLE: run.id, "PYTHONUNBUFFERED": "1"}
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_NAME"):
        variables.pop(name, None)
    variables["MLFLOW_EXPERIMENT_ID"] = run.experiment
    return variables


def _folders_in(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*") if path.is_dir()]


@contextmanager
def _on(cores: set[int]) -> Iterator[None]:
    """What is started within runs on these cores alone; on all where there are none."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _why(code: int, log: Path | None) -> str:
    """Why a process ended with an exit code other than 0, in a line."""
    if code < 0:
        name = signal.Signals(-code).name
        return f"killed by {name}" + (" (perhaps for want of memory)" if code == -9 else "")
    if code == 128 + signal.SIGTERM:
        return "stopped by SIGTERM"
    if code == 0:
        return "ended without a finished run in MLflow"
    text = log.read_text(errors="replace") if log and log.exists() else ""
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()]
    last = next((line for line in reversed(lines) if line), f"exit code {code}")
    return last.removeprefix("skinml: error: ")[:300]


@dataclass
class Stop:
    """Ctrl-C, SIGTERM or a closed terminal: the first ends the cells, a further Ctrl-C kills."""

    workers: list[Worker] = field(default_factory=list)
    received: int = 0
    """The first signal; 0 before it."""

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        if not self.received:
            self.received = signum
        # Not SIGTERM: `mlflow run` sends one after the terminal's Ctrl-C.
        elif signum == signal.SIGINT:
            for worker in self.workers:
                worker.kill()
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

    def end_workers(self) -> None:
        """Ask all that still train to end, wait up to PATIENCE seconds, kill what is left."""
        asked = [worker for worker in self.workers if worker.process.poll() is None]
        for worker in asked:
            worker.process.terminate()
        deadline = time.monotonic() + PATIENCE
        while any(worker.process.poll() is None for worker in asked):
            if time.monotonic() > deadline:
                for worker in asked:
                    worker.kill()
            time.sleep(0.05)
        for worker in self.workers:
            worker.finish()
            if worker in asked and worker.state.status == "failed":
                row, epochs = worker.state.row, worker.state.cell.epochs
                where = f"after epoch {row['epoch']}/{epochs}" if row else "before its first epoch"
                worker.state.status, worker.state.reason = "stopped", where
        self.workers.clear()


class Sweep:
    """The cells on their way: what waits, what trains, and what is told to MLflow."""

    def __init__(
        self,
        states: list[State],
        jobs: int,
        run: SweepRun,
        command: Command = cell_command,
        rerun: bool = False,
        gpus: Sequence[str] = (),
    ) -> None:
        self.states = states
        self._jobs = jobs
        self._run = run
        self._command = command
        self._rerun = rerun
        self._gpus = gpus

    def train(self, stop: Stop, show: Show) -> None:
        """Train every waiting cell, at most `jobs` at a time, until all are or `stop` says so."""
        waiting = deque(state for state in self.states if state.status == "waiting")
        free = list(range(self._jobs))
        try:
            while (waiting or stop.workers) and not stop.received:
                while waiting and free and not stop.received:
                    state = waiting.popleft()
                    if not self._found_done(state):
                        stop.workers.append(self._start(state, free.pop(0)))
                ended = [w for w in stop.workers if w.process.poll() is not None]
                for worker in stop.workers:
                    worker.look()
                for worker in ended:
                    worker.finish()
                    stop.workers.remove(worker)
                    free.append(worker.slot)
                if ended:
                    self.tell_mlflow()
                _shown(show, self.states)
                if stop.workers:
                    time.sleep(POLL)
        finally:
            stop.end_workers()
            _shown(show, self.states)
            self.tell_mlflow()

    def _start(self, state: State, slot: int) -> Worker:
        variables = _variables(self._run)
        if len(self._gpus) > 1 and state.cell.config.device != "cpu":
            variables["CUDA_VISIBLE_DEVICES"] = self._gpus[slot % len(self._gpus)]
        command = self._command(state.cell.config)
        resumed = None if self._rerun else unfinished(state.cell)
        if resumed:
            command = [*command, f"--resume={resumed.path}"]
        return Worker.start(state, slot, command, variables, resumed)

    def _found_done(self, state: State) -> bool:
        """Whether someone else has finished the cell since the sweep began."""
        if self._rerun:
            return False
        with _mlflow_may_fail():
            [now] = known_states([state.cell], self._run.experiment)
            if now.is_done:
                vars(state).update(vars(now))
        return state.is_done

    def tell_mlflow(self) -> None:
        """Close what died without closing its run, and bring the sweep's page up to date."""
        with _mlflow_may_fail():
            self._run.close_dead()
            for state in self.states:
                if state.status in ("failed", "stopped") and not state.run_id:
                    below = {**state.cell.identity, "mlflow.parentRunId": self._run.id}
                    if runs := runs_with(self._run.experiment, below):
                        state.run_id = runs[0].info.run_id
            link = partial(run_link, self._run.experiment)
            self._run.write_note(markdown(self.states, self._jobs, link, NOTE_LENGTH))


def _shown(show: Show, states: Sequence[State]) -> None:
    """Show the cells; a reader that is gone (`… | tee log` and Ctrl-C) does not end them."""
    # rich turns a broken pipe into SystemExit.
    with suppress(OSError, SystemExit):
        show(states)


@contextmanager
def _mlflow_may_fail() -> Iterator[None]:
    """A server that fails for a while does not end the cells that train."""
    from mlflow import MlflowException

    try:
        yield
    except MlflowException as error:
        print(f"skinml: warning: MLflow: {str(error).splitlines()[0][:200]}", file=sys.stderr)


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
    jobs: int = 1,
    rerun: bool = False,
    command: Command = cell_command,
    go_on: str = "the same command",
) -> int:
    """Train every cell that has no finished run; returns 0, 1 if any failed, 128 + a signal.

    `command` gives the command line that trains a configuration, `go_on` the one that goes on
    with this sweep, for the closing words.
    """
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
                with store_is_needed():
                    _end_leftovers(run, root)
                    states = known_states(cells, experiment, rerun)
                    if not rerun:
                        publish_finished(states, run)
                        states = known_states(cells, experiment)
                    run.keep_done_before([s.run_id for s in states if s.is_done])
                print(
                    f"skinml: sweep {key}: {len(cells)} cells, {jobs} at a time, in {root}; "
                    f"MLflow run {run.id}",
                    file=sys.stderr,
                )
                gpus = visible_gpus(os.environ)
                _warn_of_sharing(cells, jobs, gpus)
                with display(jobs) as show:
                    trained = Sweep(states, jobs, run, command, rerun, gpus)
                    trained.train(stop, show)
                if not stop.received and any(state.status == "failed" for state in states):
                    publish_finished(states, run)
                    trained.tell_mlflow()
        except BaseException as error:
            killed = isinstance(error, KeyboardInterrupt)
            with _mlflow_may_fail():
                run.close(
                    "KILLED" if killed else "FAILED", f"{type(error).__name__}: {error}"[:500]
                )
            raise
        status, reason, code = _outcome(states, stop.received)
        with _mlflow_may_fail():
            run.close(status, reason)
    print_closing(states)
    kept = "--rerun trains all again" if rerun else "what is done stays done"
    for line in _closing_words(states, jobs, stop.received, run, f"({kept}) with: {go_on}"):
        print(f"skinml: {line}", file=sys.stderr)
    return code


def _end_leftovers(run: SweepRun, root: Path) -> None:
    """End what an earlier start of this sweep left behind, and close the runs of what died.

    This start holds the lock: whatever still trains below the sweep's run on this machine has
    lost its own. What another machine trains is looked at for a term.
    """
    children = partial(run.children, "RUNNING")
    for child in children():
        end_process(child.data.tags.get(PROCESS, ""), LEFTOVER_PATIENCE)
    for finding in examine(root, children):
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


# The command


def parser() -> Parser:
    result = Parser(
        prog="python -m skinml.sweep",
        description="Train a grid of configurations, each in a process of its own, and track them "
        "below one run in MLflow. Cells that have a finished run are not trained again.",
        epilog=NOTICE,
    )
    for axis in AXES.values():
        names = dict.fromkeys((f"--{axis}", f"--{axis.replace('_', '-')}"))
        result.add_argument(
            *names,
            dest=axis,
            default=PAPER[axis],
            metavar="A,B",
            help=f"{axis}, with commas (default: %(default)s)",
        )
    result.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="MODEL.OPTION=VALUE",
        help="an option for one model alone, such as mobilenetv2.weights=FILE or "
        "mobilenetv2.epochs_frozen=30; again for more, or several with spaces between them",
    )
    result.add_argument(
        "--jobs", default="1", help="cells at a time; with several GPUs one each (default: 1)"
    )
    result.add_argument(
        "--rerun",
        nargs="?",
        const="True",
        default="False",
        help="train the cells that are done already once more",
    )
    result.add_argument(
        "--dry-run",
        "--dry_run",
        action="store_true",
        help="list the cells and what would happen to each, train nothing",
    )
    result.add_argument(
        "--yes", action="store_true", help="download data that is missing (12 GB) without asking"
    )
    add_config_options(result, exclude=tuple(AXES))
    return result


def main(argv: list[str] | None = None, command: Command = cell_command) -> int:
    options = parser().parse_args(argv)
    if not (options.jobs.isdecimal() and int(options.jobs)):
        raise UserError(f"jobs={options.jobs!r}: expected a whole number of at least 1")
    if options.rerun.lower() not in ("true", "false"):
        raise UserError(f"rerun={options.rerun!r}: expected true or false")
    rerun = options.rerun.lower() == "true"
    axes = {name: values_of(axis, getattr(options, axis)) for name, axis in AXES.items()}
    settings = settings_of(options.set, axes["model"])
    configs = grid_configs(axes, given_options(options), settings)
    # Here, before any cell: side by side they would all prepare the images.
    data = open_data(configs[0].data, configs[0].data_dir, yes=options.yes)
    cells = make_cells(configs, data)
    if options.dry_run:
        dry_run(known_states(cells, find_experiment(configs[0].data), rerun))
        return 0
    return sweep(cells, int(options.jobs), rerun, command, same_again(options, argv))


def same_again(options: argparse.Namespace, argv: list[str] | None) -> str:
    """The command that goes on with a sweep, as it was started: by Python or by `mlflow run`."""
    run_id = os.environ.get("MLFLOW_RUN_ID")
    if not run_id:
        words = ["python", "-m", "skinml.sweep", *(sys.argv[1:] if argv is None else argv)]
        return shlex.join(words)
    from mlflow import MlflowClient

    defaults: dict[str, Any] = {**PAPER, "set": "", "jobs": "1", "rerun": "False"}
    defaults |= {option.name: str(option.default) for option in fields(Config)}
    given = {**vars(options), "set": " ".join(options.set)}
    manager = MlflowClient().get_run(run_id).data.tags.get("mlflow.project.env", "local")
    words = ["mlflow", "run", ".", "-e", "sweep", "--env-manager", manager]
    words += ["--experiment-id", os.environ.get("MLFLOW_EXPERIMENT_ID", "0")]
    for name, default in defaults.items():
        if given.get(name) not in (None, default):
            words += ["-P", f"{name}={given[name]}"]
    return shlex.join(words)


if __name__ == "__main__":
    sys.exit(run_command(main))
