"""What tracking costs a training: the time from its first step to its last, with and without.

    python -m benchmarks.tracking [--model mobilenetv2] [--epochs 4] [--repeats 5] [--out FOLDER]

Whole runs of `python -m skinml.run`, in one process in turn: `--offline`, with a store on SQLite,
and with an `mlflow server` of its own process. Epochs are as short as the demo's, so that tracking
has its say often: on the real data an epoch has twenty times as many steps. Beside it the seconds
that a run is longer for it: before its first step and after its last. Target: at most 1.01.
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
from skinml.processes import free_port
from skinml.steps import Steps

TARGET = 1.01
WITHOUT = "without tracking"


class Clock:
    """When a run began, made its first and its last step, and ended."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self._epoch = Steps.epoch

    def watched(self, steps: Steps, groups: Any) -> Iterator[Any]:
        for done in self._epoch(steps, groups):
            self.times.append(time.perf_counter())
            yield done


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


def one_run(options: argparse.Namespace, uri: str, found: dict[str, list[float]]) -> float:
    """Seconds from the first step to the last; notes those before and after in `found`."""
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
            mock.patch.dict(os.environ, {"MLFLOW_TRACKING_URI": uri} if uri else {}),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            run(config, offline=not uri)
        ended = time.perf_counter()
    keras.backend.clear_session()
    found["before"].append(clock.times[0] - began)
    found["after"].append(ended - clock.times[-1])
    return clock.times[-1] - clock.times[0]


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
            name: {"before": [], "after": []} for name in stores
        }
        one_run(options, stores["SQLite"], {"before": [], "after": []})  # Imports, once.
        sides = {name: partial(one_run, options, uri, parts[name]) for name, uri in stores.items()}
        values = in_turn("tracking", sides, options.repeats)
    result: dict[str, Any] = {**around, "model": options.model, "epochs": options.epochs}
    result["stores"] = {
        name: {
            "seconds": spread(own),
            "ratio": ratio(own, values[WITHOUT]),
            "before_first_step": spread(parts[name]["before"]),
            "after_last_step": spread(parts[name]["after"]),
        }
        for name, own in values.items()
    }
    rows = []
    for name, own in result["stores"].items():
        tracked = name != WITHOUT
        rows.append(
            [name, shown(own["seconds"]), shown(own["ratio"], 3) if tracked else "",
             verdict(own["ratio"]["median"] <= TARGET) if tracked else "",
             shown(own["before_first_step"], 1), shown(own["after_last_step"], 1)]
        )  # fmt: skip
    heading = [
        "seconds", "first to last step", "over without", "≤ 1.01", "before", "after the last step",
    ]  # fmt: skip
    report(options, result, table(heading, rows))


if __name__ == "__main__":
    main()
