"""What the tests of engines share: the real `skinml.run` with a made-up network, and its sweeps."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from skinml.data.prepared import PreparedSet
from tests.sweeps import ROOT, StartedSweep

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


class Started(StartedSweep):
    """A sweep, and the trace that its trainings leave on whatever machine."""

    def __init__(self, options: list[str], folder: Path, variables: dict[str, str]) -> None:
        self.trace = folder / "trace"
        super().__init__(options, folder, {**environment(folder), **variables})

    def has_said(self, text: str, times: int = 1) -> bool:
        return self.log.read_text().count(text) >= times

    def epochs(self) -> list[tuple[str, int, int, int]]:
        """Cell, epoch, process and its parent of every epoch that was trained, in order."""
        if not self.trace.exists():
            return []
        rows = [line.split() for line in self.trace.read_text().splitlines()]
        return [(name, int(epoch), int(pid), int(parent)) for name, epoch, pid, parent in rows]


def environment(folder: Path) -> dict[str, str]:
    """That of drivers and of the machines of a cluster."""
    # Each of many processes would compile MLflow anew, which takes longer than all it does.
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return {
        **inherited,
        "PYTHONPATH": str(ROOT),
        "SKINML_TEST_TRACE": str(folder / "trace"),
        # A shorter one than a person's, so that what died is seen within the test.
        "SKINML_LEASE_TERM": "20",
    }


Start = Callable[..., Started]


@pytest.fixture
def go(tmp_path: Path) -> Path:
    """For $SKINML_TEST_GO: what happens to a training in its second epoch happens in time."""
    return tmp_path / "go"


@pytest.fixture
def start(store: "MlflowClient", toy_set: PreparedSet, tmp_path: Path) -> Iterator[Start]:
    """Starts sweeps of two cells."""
    given = {
        "models": "mobilenet,mobilenetv2",
        "batch_sizes": "16",
        "data": "demo",
        "data_dir": str(toy_set.folder),
        "protocol": "challenge",
        "weights": "none",
        "epochs_finetune": "3",
        "threads": "1",
        "device": "cpu",
    }
    options = [f"--{name}={value}" for name, value in given.items()]
    started: list[Started] = []

    def start(*more: str, **variables: str) -> Started:
        started.append(Started([*options, *more], tmp_path, variables))
        return started[-1]

    yield start
    for one in started:
        one.kill()


def _runs() -> "list[Run]":
    """All runs, oldest first."""
    from mlflow import MlflowClient

    client = MlflowClient()
    experiment = client.get_experiment_by_name("skinml-demo")
    assert experiment
    return list(client.search_runs([experiment.experiment_id], order_by=["start_time ASC"]))


def cell_runs() -> dict[str, "list[Run]"]:
    """The runs of cells by their model, oldest first."""
    found: dict[str, list[Run]] = {}
    for run in _runs():
        if model := run.data.tags.get("model"):
            found.setdefault(model, []).append(run)
    return found


def sweep_runs() -> "list[Run]":
    """The runs of sweeps themselves."""
    return [run for run in _runs() if "model" not in run.data.tags]


def assert_each_finished_once(*models: str) -> None:
    for model in models or ("mobilenet", "mobilenetv2"):
        statuses = [run.info.status for run in cell_runs()[model]]
        assert statuses.count("FINISHED") == 1, (model, statuses)
        assert "RUNNING" not in statuses, (model, statuses)
