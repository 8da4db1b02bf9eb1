"""Cells as orders: what an engine is told of a cell, by what the cell's folder holds."""

import secrets
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from skinml.base.address import without_user_info
from skinml.base.files import at_home, file_sha256
from skinml.config import Config
from skinml.store.access import tracking_uri
from skinml.store.sweeps import SweepRun
from skinml.sweep.cells import Cell, CellState
from skinml.sweep.engines.attempt import Order, folders_in
from skinml.sweep.engines.node import DATA, TOKEN, WEIGHTS, SweepSource, absolute_uri, files_to_send
from skinml.tracking.folder import RunFolder
from skinml.tracking.record import PARENT_RUN_VARIABLE

Command = Callable[[Config], list[str]]


def cell_command(config: Config) -> list[str]:
    """The command that trains one cell; it ends when its stdin does."""
    options = [f"--{name}={value}" for name, value in config.as_dict().items()]
    return [sys.executable, "-m", "skinml.run", "--stop-with-stdin", *options]


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
        self._sources: dict[str, SweepSource] = {}

    def note_what_is_there(self, cells: Sequence[Cell]) -> None:
        """Remember the runs that are there: a sweep that trains all again passes them over."""
        if self._rerun:
            self._there = {
                cell.name: frozenset(p.name for p in folders_in(cell.folder)) for cell in cells
            }

    def make(self, state: CellState) -> Order:
        """The order of a cell, by what its folder holds now."""
        cell, config = state.cell, state.cell.config
        if self._clustered:
            config = replace(config, output_dir=str(cell.folder.absolute()))
            if _is_file(config.weights):
                weights = at_home(config.weights, "weights=").absolute()
                config = replace(config, weights=str(weights))
        folder = at_home(config.output_dir, "output_dir=")
        passed_over = set(self._there.get(cell.name, ()))
        for path in folders_in(folder):
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

    def source(self, order: Order, again: bool, done_before: frozenset[str]) -> SweepSource:
        """Where the machines of a cluster find what a cell needs."""
        weights = order.config.weights
        if weights not in self._sources:
            files = {DATA: files_to_send(self._data_folder)}
            if _is_file(weights):
                files[f"{WEIGHTS} {weights}"] = {Path(weights).name: file_sha256(Path(weights))}
            self._sources[weights] = SweepSource(
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
        return without_user_info(absolute_uri(tracking_uri()))


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
