"""What of a sweep is done already: the cells that have a finished run, in MLflow or a folder."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skinml.base.errors import UserError, excerpt
from skinml.data.datasets import find_dataset
from skinml.store.evaluations import evaluate_anew, is_outdated
from skinml.store.sweeps import find_experiment, reason_of, runs_with
from skinml.sweep.cells import Cell, CellState
from skinml.sweep.engines.attempt import folders_in, is_run_of, result_of, sync_arguments
from skinml.sweep.engines.engine import take_over
from skinml.sweep.orders import Orders
from skinml.tracking.folder import RunFolder
from skinml.training.code_digest import trained_by, why_same

if TYPE_CHECKING:
    from skinml.store.sweeps import Run

# Tags of a run by which it is known what it was trained and evaluated with, and their most letters.
_DIGESTS = ("config_digest", "training_digest", "code_digest", "evaluation_digest")
_LONGEST = 200

# Seconds in which a folder is published: sync itself gives up where nothing moves for minutes.
PUBLISH_LIMIT = 3600.0

# How the last line of a command begins that could not do what it was to.
_ERROR = "skinml: error: "


def known_states(
    cells: Sequence[Cell], experiment: str | None, passed_over: Collection[str] = ()
) -> list[CellState]:
    """Each cell as MLflow knows it: done before, or waiting (with the reason if it failed).

    Done is what has a FINISHED run of the same configuration, data and training code, or of code
    that counts as the same, and that is not one of those to be `passed_over`.
    """
    found: dict[str, list[Run]] = {}
    if experiment is not None:
        names = ("data_digest", "config_digest") if len(cells) == 1 else ("data_digest",)
        for run in runs_with(experiment, {name: cells[0].identity[name] for name in names}):
            if run.info.run_id in passed_over:
                continue
            if why := _odd(run):
                print(f"skinml: left out run {run.info.run_id}: {why}", file=sys.stderr)
                continue
            found.setdefault(run.data.tags.get("config_digest", ""), []).append(run)
    return [_known(cell, found.get(cell.identity["config_digest"], [])) for cell in cells]


def _odd(run: "Run") -> str:
    """Why a run, which may be somebody else's, cannot be judged; empty where it can."""
    for name in _DIGESTS:
        digest: Any = run.data.tags.get(name, "")
        if not isinstance(digest, str) or len(digest) > _LONGEST or not digest.isprintable():
            return f"{name}={excerpt(digest)}: expected a digest"
    numbers: dict[str, Any]
    numbers = {name: run.data.metrics.get(name, 0) for name in ("test_accuracy", "test_auc_macro")}
    numbers |= {"start_time": run.info.start_time, "end_time": run.info.end_time or 0}
    for name, value in numbers.items():
        if not isinstance(value, int | float):
            return f"{name}={excerpt(value)}: expected a number"
    return ""


def _known(cell: Cell, runs: "Sequence[Run]") -> CellState:
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
        return CellState(cell, reason=reason_of(ours), note=note)
    run = counted[0]
    reason = same[run.info.run_id]
    earlier = trained_by(run.data.tags)
    return CellState(
        cell,
        "done before",
        note=f"its training code {earlier} counts as today's: {reason}" if reason else "",
        outdated=is_outdated(run),
        run_id=run.info.run_id,
        seconds=((run.info.end_time or 0) - run.info.start_time) / 1000 if run.info.end_time else 0,
        accuracy=run.data.metrics.get("test_accuracy"),
        auc=run.data.metrics.get("test_auc_macro"),
    )


def finished(states: Sequence[CellState]) -> frozenset[str]:
    return frozenset(state.run_id for state in states if state.is_done)


def dry_run(cells: Sequence[Cell], data: str, rerun: bool) -> None:
    """Print what a sweep would do with each cell."""
    states = known_states(cells, find_experiment(find_dataset(data).name))
    if rerun:
        states = [CellState(cell) for cell in cells]
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


def publish_finished(states: Sequence[CellState], orders: Orders) -> None:
    """Publish what was trained, by this start or an earlier one, but could not be sent to MLflow.

    A server that was away at the end of a training costs no second one. A folder counts where it
    has the cell's own configuration, data and code; what cannot be published is trained again by
    the next start.
    """
    for state in states:
        if state.is_done:
            continue
        order = orders.make(state)
        for path in sorted(folders_in(order.folder), reverse=True):
            folder = RunFolder(path)
            if not folder.finished or folder.published or not is_run_of(order, folder):
                continue
            print(f"skinml: {state.cell.name}: publishing {path}", file=sys.stderr)
            why_not = _publish(path, order.variables)
            if not why_not and RunFolder(path).published:
                take_over(state, result_of(folder))
                break
            why_not = why_not or "no reason given"
            print(f"skinml: warning: {path} is not published: {why_not}", file=sys.stderr)


def _publish(path: Path, variables: Mapping[str, str]) -> str:
    """Publish a folder, in a process of its own; why that failed, in a line, empty if it did not.

    What it says of what it waits for is passed on at once.
    """
    last, limit = "no reason given", PUBLISH_LIMIT
    with subprocess.Popen(
        [sys.executable, *sync_arguments(path)],
        env={**os.environ, **variables},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as process:
        begun, end = time.monotonic(), threading.Timer(limit, process.kill)
        end.start()
        try:
            for line in process.stderr or ():
                last = line.strip() or last
                if last.startswith("skinml: ") and not last.startswith(_ERROR):
                    print(last, file=sys.stderr, flush=True)
        finally:
            end.cancel()
    if process.returncode and time.monotonic() - begun >= limit:
        return f"python -m skinml.sync has not ended within {limit:g} s, and is killed"
    return last.removeprefix(_ERROR)[:500] if process.returncode else ""


def update_figures(states: Sequence[CellState]) -> None:
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
