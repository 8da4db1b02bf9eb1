"""What tracking costs a training: the time from its first step to its last, with and without.

    python -m benchmarks.tracking [--model mobilenetv2] [--epochs 4] [--repeats 5] [--out FOLDER]

Whole runs of `python -m skinml.run`, in one process in turn: without any tracking (no record of an
epoch or of the machine's load, no forwarder), with a store on SQLite, and with an `mlflow server`
of its own process. Epochs are as short as the demo's, so that tracking has its say often: on the
real data an epoch has twenty times as many steps. Beside it the seconds that a run is longer for
it: before its first step and after its last. Target: at most 1.01.

A machine whose speed varies by more than that cannot show it. So what tracking takes away from the
training is measured as well: the seconds that the training waits for it (a record of an epoch, on
the disk), and the forwarder's seconds of CPU. `taken` is the share of both in the time of all
cores; had each second of the forwarder's held up every core, it would be so many times as much.
"""

import argparse
import contextlib
import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks import material
from benchmarks.harness import (
    in_turn,
    parser,
    ratio,
    report,
    shown,
    spread,
    surroundings,
    table,
    verdict,
)
from skinml.history import Row
from skinml.processes import free_port, usable_cores
from skinml.steps import Steps
from skinml.tracking.track import Tracked

TARGET = 1.01
WITHOUT = "without tracking"

# What is noted of each run beside the seconds from its first step to its last.
NOTED = ("before", "after", "waited", "forwarder", "share")


class Clock:
    """When a run began, made its first and its last step, and ended; what tracking took of it."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.waited = 0.0
        self.forwarder = 0.0
        self._before = 0.0
        self._epoch = Steps.epoch
        self._log = Tracked.log_epoch

    def watched(self, steps: Steps, groups: Any) -> Iterator[Any]:
        for done in self._epoch(steps, groups):
            if not self.times:
                self._before = forwarder_seconds()
            self.times.append(time.perf_counter())
            yield done

    def logged(self, tracked: Tracked, row: Row) -> Row:
        began = time.perf_counter()
        row = self._log(tracked, row)
        self.waited += time.perf_counter() - began
        self.forwarder = forwarder_seconds() - self._before
        return row


def forwarder_seconds() -> float:
    """Seconds of CPU that the forwarders of this process have used."""
    import psutil

    used = 0.0
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if "skinml.forward" in child.cmdline():
                used += sum(child.cpu_times()[:2])
    return used


@contextlib.contextmanager
def server(folder: Path) -> Iterator[str]:
    """An `mlflow server` on SQLite, as its documentation starts it; its address."""
    import requests

    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/server.db"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            start_new_session=True,
        )
        try:
            address = f"http://127.0.0.1:{port}"
            for _ in range(240):
                with contextlib.suppress(requests.ConnectionError):
                    if requests.get(f"{address}/health", timeout=2).ok:
                        break
                time.sleep(0.5)
            yield address
        finally:
            os.killpg(process.pid, 15)
            process.wait()


@contextlib.contextmanager
def untracked() -> Iterator[None]:
    """No record of an epoch or of the machine's load while a run trains."""
    with (
        mock.patch("skinml.tracking.track.record_epoch"),
        mock.patch("skinml.tracking.track.LoadRecorder"),
    ):
        yield


def one_run(options: argparse.Namespace, uri: str, found: dict[str, list[float]]) -> float:
    """Seconds from the first step to the last; notes in `found` what else `NOTED` names."""
    import keras

    from skinml.training_run import run

    clock = Clock()
    with tempfile.TemporaryDirectory() as scratch:
        config = material.config(
            options,
            model=options.model,
            batch_size=options.batch_size,
            epochs_frozen=0,
            epochs_finetune=options.epochs,
            output_dir=scratch,
        )
        began = time.perf_counter()
        with (
            mock.patch.object(Steps, "epoch", lambda *given: clock.watched(*given)),
            mock.patch.object(Tracked, "log_epoch", lambda *given: clock.logged(*given)),
            mock.patch.dict(os.environ, {"MLFLOW_TRACKING_URI": uri} if uri else {}),
            contextlib.nullcontext() if uri else untracked(),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            run(config, offline=not uri)
        ended = time.perf_counter()
    keras.backend.clear_session()
    found["before"].append(clock.times[0] - began)
    found["after"].append(ended - clock.times[-1])
    found["waited"].append(clock.waited)
    found["forwarder"].append(clock.forwarder)
    seconds = clock.times[-1] - clock.times[0]
    found["share"].append((clock.waited + clock.forwarder / usable_cores()) / seconds)
    return seconds


def main() -> None:
    options_parser = parser(__doc__, repeats=5)
    options_parser.add_argument("--model", default="mobilenetv2")
    options_parser.add_argument("--batch_size", type=int, default=16)
    options_parser.add_argument("--epochs", type=int, default=4)
    options_parser.add_argument("--data", default="demo", help=argparse.SUPPRESS)
    options_parser.add_argument("--data_dir", default="auto", help="as of `python -m skinml.run`")
    options_parser.add_argument("--weights", default="none", help="as of `python -m skinml.run`")
    options = options_parser.parse_args()
    around = surroundings()
    with tempfile.TemporaryDirectory() as scratch, server(Path(scratch)) as address:
        stores = {
            WITHOUT: "",
            "SQLite": f"sqlite:///{scratch}/mlflow.db",
            "mlflow server": address,
        }
        parts: dict[str, dict[str, list[float]]] = {
            name: {key: [] for key in NOTED} for name in stores
        }
        one_run(options, stores["SQLite"], {key: [] for key in NOTED})  # Imports, once.
        sides = {name: partial(one_run, options, uri, parts[name]) for name, uri in stores.items()}
        values = in_turn("tracking", sides, options.repeats)
    result: dict[str, Any] = {**around, "model": options.model, "epochs": options.epochs}
    result["stores"] = {
        name: {
            "seconds": spread(own),
            "ratio": ratio(own, values[WITHOUT]),
            "before_first_step": spread(parts[name]["before"]),
            "after_last_step": spread(parts[name]["after"]),
            "waited_for_tracking": spread(parts[name]["waited"]),
            "cpu_of_the_forwarder": spread(parts[name]["forwarder"]),
            "taken": spread(parts[name]["share"]),
        }
        for name, own in values.items()
    }
    rows = []
    for name, own in result["stores"].items():
        tracked = name != WITHOUT
        rows.append(
            [name, shown(own["seconds"]), shown(own["ratio"], 3) if tracked else "",
             verdict(own["ratio"]["median"] <= TARGET) if tracked else "",
             shown(own["waited_for_tracking"], 3), shown(own["cpu_of_the_forwarder"]),
             f"{own['taken']['median']:.2%}",
             shown(own["before_first_step"], 1), shown(own["after_last_step"], 1)]
        )  # fmt: skip
    heading = [
        "seconds", "first to last step", "over without", "≤ 1.01", "waited for tracking",
        "forwarder's CPU", "taken", "before", "after the last step",
    ]  # fmt: skip
    report(options, result, table(heading, rows))


if __name__ == "__main__":
    main()
