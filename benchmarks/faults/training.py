"""Parts 1 and 5: a real training killed again and again, resumed, and compared to the last bit."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.faults.campaign import Case, Outcome, Run
from benchmarks.faults.kept import compare_kept
from benchmarks.faults.processes import environment, forwarders
from benchmarks.faults.servers import URI, as_client, sqlite_server
from skinml.sync import sync
from skinml.tracking.folder import RunFolder
from skinml.tracking.forwarder_process import UNSENT

# Kills of a run on its way, in the order in which they can happen: half of all in the training.
# After the last one nobody kills it any more.
TARGETS = ("start", "data", "features", "steps", "checkpoint", "steps", "checkpoint",
           "evaluation", "figures", "results", "models")  # fmt: skip
KILLS = 6

# Of the starts so many are of a process of their own, imports included; others are forked.
WHOLE = 0.2

EPOCHS = (4, 6)

# What a clock measured, and how many images found their features in the cache: another run gives
# other values.
MEASURED = {"seconds", "images_per_second", "time"}
MEASURED_METRICS = {"latency_ms", "latency_ms_q25", "latency_ms_q75", "training_seconds",
                    "model_size_mb", "frozen_backbone_images",
                    "export_litert_float32_ms"}  # fmt: skip


@dataclass
class Started:
    """A run that was started: forked, or a process of its own."""

    pid: int
    phases: Path
    process: "subprocess.Popen[bytes] | None"

    @property
    def seen(self) -> list[str]:
        """The phases that it has been in, the present one last."""
        text = self.phases.read_text() if self.phases.exists() else ""
        return text.splitlines() or ["start"]


class Driver:
    """The process of `benchmarks.faults.training_driver`, and runs of it."""

    def __init__(self, log: Path, cache: Path, uri: str) -> None:
        self._environment = environment(
            MLFLOW_TRACKING_URI=uri, SKINML_CACHE_DIR=str(cache), TF_CPP_MIN_LOG_LEVEL="2"
        )
        with log.open("w") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.faults.training_driver"],
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
            )
        self._answer()

    def start(self, arguments: list[str], folder: Path, whole: bool = False) -> Started:
        """Start a run; with `whole` in a process of its own, which has everything to import."""
        phases = folder / "phases"
        phases.unlink(missing_ok=True)
        asked = json.dumps(
            {"arguments": arguments, "log": str(folder / "run.log"), "phases": str(phases)}
        )
        if whole:
            process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.faults.training_driver", asked],
                env=self._environment, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            return Started(process.pid, phases, process)
        assert self._process.stdin
        self._process.stdin.write(asked + "\n")
        self._process.stdin.flush()
        return Started(int(self._answer()), phases, None)

    def wait(self, started: Started) -> int:
        """The exit code of a run, once it has ended."""
        return started.process.wait() if started.process else int(self._answer())

    def _answer(self) -> str:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the driver of the trainings ended")
        return line.strip()

    def close(self) -> None:
        with self._process:  # Closes its pipes, whose end ends it, and waits.
            pass


@contextmanager
def kill_trainings(scratch: Path) -> Iterator[Run]:
    """Cases of a run on the demo set, killed six times and compared with one that was not."""
    from skinml.data import demo

    files = scratch / "official"
    demo.generate(files, seed=1, counts={"train": 24, "validation": 9, "test": 12}, size=(144, 108))
    with _killed(scratch, ["--data=demo", f"--data_dir={files}", "--protocol=challenge"]) as run:
        yield run


@contextmanager
def kill_own_trainings(scratch: Path) -> Iterator[Run]:
    """The same on a table of one's own pictures: four classes, two pictures of each lesion."""
    from tests.run.test_own import CLASSES, write_pictures

    table = write_pictures(scratch / "clinic", CLASSES, 16)
    parts = ["--test_fraction=0.25", "--validation_fraction=0.3"]
    with _killed(scratch, [f"--data={table}", *parts]) as run:
        yield run


@contextmanager
def _killed(scratch: Path, data: list[str]) -> Iterator[Run]:
    from mlflow import MlflowClient

    arguments = [
        "--model=tiny", *data, "--weights=none", "--dense_units=16,8,8", "--batch_size=8",
        "--device=cpu", f"--epochs_frozen={EPOCHS[0]}", f"--epochs_finetune={EPOCHS[1]}",
        "--learning_rate_finetune=0.01",
    ]  # fmt: skip
    with (
        sqlite_server(scratch / "server") as server,
        as_client(**{URI: server.address}),
    ):
        driver = Driver(scratch / "driver.log", scratch / "cache", server.address)
        client = MlflowClient(server.address)

        def new_run(folder: Path) -> list[str]:
            return [*arguments, f"--output_dir={folder / 'runs'}"]

        whole = scratch / "whole"
        whole.mkdir()
        _end_of(driver, driver.start(new_run(whole), whole), whole)
        reference = _only_folder(whole)

        def run(case: Case) -> Outcome:
            outcome = Outcome(details={"phases": [], "forwarders": 0, "whole": 0})
            killed = 0
            targets = sorted(case.chance.sample(range(len(TARGETS)), KILLS))
            for target in [TARGETS[index] for index in targets]:
                is_whole = case.chance.random() < WHOLE
                started = driver.start(_arguments(case.folder, new_run), case.folder, is_whole)
                phase = _kill(started, target, is_whole, case.chance)
                if driver.wait(started) != -signal.SIGKILL:
                    break  # It was faster: nothing is left to kill.
                killed += 1
                outcome.details["phases"].append(phase)
                outcome.details["whole"] += is_whole
                if case.chance.random() < 0.3 and (found := _found_folder(case.folder)):
                    for forwarder in forwarders(found):
                        forwarder.kill()
                        outcome.details["forwarders"] += 1
            last = driver.start(_arguments(case.folder, new_run), case.folder)
            _end_of(driver, last, case.folder)
            outcome.fault("SIGKILL of a training", killed)
            folder = _only_folder(case.folder)
            outcome.add(compare_trainings(folder, reference))
            outcome.add(compare_kept(client, folder))
            outcome.add(compare_curves(client, folder, reference))
            return outcome

        try:
            yield run
        finally:
            driver.close()


def _kill(started: Started, target: str, whole: bool, chance: random.Random) -> str:
    """Kill a run some time after it has come to a phase; the phase in which that was."""
    # A run that is gone on with skips what is done: then it is killed in what it does instead.
    deadline = time.monotonic() + 60
    again = chance.choice((1, 1, 2)) if target in ("steps", "checkpoint") else 1
    while started.seen.count(target) < again and started.seen[-1] != "models":
        if not _lives(started) or time.monotonic() > deadline:
            break
        time.sleep(0.002)
    if target == "start":
        time.sleep(chance.uniform(0, 6 if whole else 0.3))
    else:
        time.sleep(chance.uniform(0, 0.5 if target in ("models", "figures") else 0.1))
    phase = started.seen[-1]
    if _lives(started):
        os.kill(started.pid, signal.SIGKILL)
    return phase


def _lives(started: Started) -> bool:
    if started.process:
        return started.process.poll() is None
    return Path(f"/proc/{started.pid}").exists()


def _arguments(folder: Path, new_run: Any) -> list[str]:
    """Go on with the run of a case's folder, or begin it where none is there."""
    found = _found_folder(folder)
    return [f"--resume={found.path}"] if found else new_run(folder)


def _found_folder(folder: Path) -> RunFolder | None:
    # Killed between the folder and what begins the run in it, there is nothing to go on with.
    begun = [path.parent for path in (folder / "runs").glob("*/journal.log")]
    begun = [path for path in begun if (path / "run.json").exists()]
    return RunFolder(begun[-1].resolve()) if begun else None


def _only_folder(folder: Path) -> RunFolder:
    [found] = [path.parent for path in (folder / "runs").glob("*/FINISHED")]
    return RunFolder(found.resolve())


def _end_of(driver: Driver, started: Started, folder: Path) -> None:
    code = driver.wait(started)
    if code == UNSENT:  # Killed when only MLflow lacked something.
        sync(_only_folder(folder).path)
    elif code != 0:
        raise RuntimeError(f"exit code {code}: {(folder / 'run.log').read_text()[-800:]}")


def compare_trainings(folder: RunFolder, reference: RunFolder) -> Outcome:
    """Weights, curves, predictions and figures of two runs, to the last bit."""
    outcome = Outcome(checked=4)
    pairs: dict[str, tuple[Any, Any]] = {
        "weights": (_weights(folder.model), _weights(reference.model)),
        "curves": (_curves(folder), _curves(reference)),
        "predictions": (_predictions(folder), _predictions(reference)),
        "metrics": (_metrics(folder), _metrics(reference)),
    }
    for name, (one, other) in pairs.items():
        if one != other:
            outcome.differing += 1
            which = [key for key in other if one.get(key) != other[key]]
            outcome.problems.append(f"{name} differ from the undisturbed run's: {which[:5]}")
    return outcome


def _predictions(folder: RunFolder) -> dict[str, bytes]:
    return {part: folder.predictions(part).read_bytes() for part in ("validation", "test")}


def _weights(path: Path) -> dict[str, bytes]:
    """The bytes of every array of a network's file, by name."""
    import io
    import zipfile

    import h5py

    found: dict[str, bytes] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = f"{item.dtype} {item.shape} ".encode() + item[()].tobytes()

    with zipfile.ZipFile(path) as archive:
        content = io.BytesIO(archive.read("model.weights.h5"))
    with h5py.File(content) as file:
        file.visititems(visit)
    return found


def _curves(folder: RunFolder) -> dict[str, str]:
    """The rows of the history by epoch, without what a clock measured."""
    return {
        f"epoch {row['epoch']}": repr([item for item in row.items() if item[0] not in MEASURED])
        for row in folder.read_history()
    }


def _metrics(folder: RunFolder) -> dict[str, str]:
    """Numbers as text: one that is undefined is not equal to itself."""
    numbers = folder.read_metrics()
    return {key: repr(value) for key, value in numbers.items() if key not in MEASURED_METRICS}


def compare_curves(client: Any, folder: RunFolder, reference: RunFolder) -> Outcome:
    """The curves in MLflow beside the undisturbed run's: each epoch once, with its value."""
    outcome = Outcome()
    run_id = (folder.path / "mlflow_run_id").read_text().strip()
    rows = reference.read_history()
    for key in rows[0]:
        if key in MEASURED or key in ("epoch", "step"):
            continue
        points = client.get_metric_history(run_id, f"epoch/{key}")
        wanted = {int(row["epoch"]): float(row[key]) for row in rows}
        steps = [point.step for point in points]
        outcome.checked += len(wanted)
        outcome.lost += len(set(wanted) - set(steps))
        outcome.doubled += len(steps) - len(set(steps))
        outcome.differing += sum(
            not np.array_equal(point.value, wanted[point.step], equal_nan=True)
            for point in points
            if point.step in wanted
        )
    return outcome
