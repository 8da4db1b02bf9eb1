"""What the tests of engines share: the real `skinml.run` with a made-up network, and its sweeps."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from skinml.data.prepared import PreparedSet

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

ROOT = Path(__file__).parent.parent.parent

# Three epochs of $EPOCH seconds with a checkpoint after each; `trace` has a line an epoch, written
# before its checkpoint, so that an epoch which is lost and done again is there twice.
STAND_IN = """
import os, sys, time
from pathlib import Path
import numpy as np
from skinml import backend, run, training_run
from skinml.checkpoint import Checkpoint
from skinml.errors import run_command

def train(config, setup, on_epoch, ready, checkpoint, save):
    ready()
    history = list(checkpoint.history) if checkpoint else []
    for epoch in range(len(history) + 1, 4):
        time.sleep(float(os.environ.get("SKINML_TEST_EPOCH", "0.2")))
        with (Path(os.environ["SKINML_TEST_TRACE"])).open("a") as trace:
            name = f"{config.model}-{config.batch_size}"
            trace.write(f"{name} {epoch} {os.getpid()} {os.getppid()}\\n")
        numbers = {f"{part}_{name}": 0.5 for part in ("train", "val")
                   for name in ("loss", "accuracy", "auc_macro")}
        row = {"epoch": epoch, "step": "finetune", **numbers, "learning_rate": 1e-3,
               "seconds": 0.1, "images_per_second": 9.0, "time": int(time.time() * 1000)}
        history.append(row)
        one = [np.zeros(2, np.float32)]
        save(Checkpoint(history, 0, 1, 0.5, one, one, one))
        on_epoch(row)
    return None, None, 0.1

def evaluate(folder, *others):
    folder.write_metrics({"test_accuracy": 0.75, "test_auc_macro": 0.875})
    folder.write_text("note.md", "a note")
    folder.finish()

backend.configure = lambda *given: backend.Device("none", "cpu", "none", 1)
backend.choose_execution = lambda *given: backend.PLAIN
training_run._train, training_run._evaluate = train, evaluate
sys.exit(run_command(run.main))
"""

DRIVER = """
import sys
if "--engine=slurm" in sys.argv:
    from submitit.core.core import Job
    # A job that was killed leaves no result, however long one waits for a slow disk.
    Job._results_timeout_s = 2
from skinml.errors import run_command
from skinml.sweep import main
from skinml.sweep_run import cell_command

def command(config):
    return [sys.executable, sys.argv[1], *cell_command(config)[3:]]

sys.exit(run_command(lambda: main(sys.argv[2:], command)))
"""


class Started:
    """A sweep in a process of its own."""

    def __init__(self, options: list[str], folder: Path, variables: dict[str, str]) -> None:
        (folder / "stand_in.py").write_text(STAND_IN)
        (folder / "driver.py").write_text(DRIVER)
        self.trace = folder / "trace"
        self.log = folder / f"sweep-{time.time_ns()}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "driver.py", str(folder / "stand_in.py"), *options],
                cwd=folder,
                env={**environment(folder), **variables},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait(self, seconds: float = 300) -> int:
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(self.log.read_text()) from None
        assert "Traceback" not in self.log.read_text(), self.log.read_text()
        return code

    def until(self, condition: Callable[[], Any], seconds: float = 180) -> Any:
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)
        return found

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
        "SKINML_LEASE_TERM": "8",
    }


Start = Callable[..., Started]


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
        one.process.kill()
        one.process.wait()


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
