"""What tracking costs a training: the time from its first step to its last, with and without.

    python -m benchmarks.tracking [--model mobilenet] [--pairs 15] [--repeats 2] [--out FOLDER]

Whole runs of `python -m skinml.run` in one process, with a store on SQLite and with an `mlflow
server` of its own process. Within each run turns with and without tracking follow each other: a
machine's speed may differ by several per cent from one run to the next, which is more than there
is to be found. A turn goes from the middle of an epoch to the middle of the next, so that it has
all that an epoch's end brings: validation, checkpoint, the record of the epoch, and the
forwarder's work on it. In a turn without tracking no epoch is recorded, no load is sampled, the
forwarder is halted, and the thread that looks after it waits.

The ratio is that of all turns' time, with its 95 % interval by bootstrap over pairs of neighbouring
turns. Target: at most 1.01. Epochs are as short as the demo's, so that tracking has its say often:
on the real data an epoch has twenty times as many steps.

Beside it what tracking takes away from the training as far as it can be counted: the seconds that
the training waits for the record of an epoch, on the disk, and the seconds of CPU of the forwarder
and of the server, which shares the machine's cores with the training here. `taken` is the share of
all of them in the time of all cores. And the seconds of a run before its first
step and after its last, beside those of a run without any tracking.
"""

import argparse
import contextlib
import io
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks import material
from benchmarks.harness import parser, report, shown, spread, surroundings, table, verdict
from skinml.base.processes import free_port, usable_cores
from skinml.base.progress import progress_bar
from skinml.run.tracked import Tracked
from skinml.tracking import load
from skinml.tracking.forwarder_process import ForwarderProcess
from skinml.training.history import Row
from skinml.training.steps import Steps

TARGET = 1.01
WITHOUT = "without tracking"
# Seconds after which a thread that waits for its turn goes on: longer than a turn, and no hang.
PATIENCE = 120.0


class Turns:
    """One run: its turns with tracking and without, and the seconds before and after its steps.

    Turns go as with, without, without, with, and so on: neither always comes after the other.
    Without any `pairs` of them the run is only opened and closed.
    """

    def __init__(self, pairs: int, advance: Callable[[], None], server: int = 0) -> None:
        self._pairs, self._advance, self._server = pairs, advance, server
        self._epoch = 0
        self._steps = 0
        self._since = 0.0
        self._used = {"forwarder": 0.0, "server": 0.0}
        self._tracked = threading.Event()
        self._tracked.set()
        self.seconds: dict[bool, list[float]] = {True: [], False: []}
        self.first = self.last = 0.0
        self.waited: list[float] = []
        self.cpu: dict[str, list[float]] = {name: [] for name in self._used}

    @property
    def epochs(self) -> int:
        """Those that the turns need: the first has compiled, half of two more belong to none."""
        return 2 * self._pairs + 2

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Patches the product so that its steps are timed, and its tracking halted in turn."""
        epoch, log, sample = Steps.epoch, Tracked.log_epoch, load.sample
        pass_on = ForwarderProcess._pass_on

        def log_epoch(tracked: Tracked, row: Row) -> Row:
            if not self._tracked.is_set():
                return row
            began = time.perf_counter()
            row = log(tracked, row)
            self.waited.append(time.perf_counter() - began)
            return row

        def in_turn(original: Callable[..., Any], *given: Any) -> Any:
            self._tracked.wait(PATIENCE)
            return original(*given)

        with (
            mock.patch.object(Steps, "epoch", lambda *given: self._steps_of(epoch, *given)),
            mock.patch.object(Tracked, "log_epoch", log_epoch),
            mock.patch.object(load, "sample", partial(in_turn, sample)),
            mock.patch.object(
                ForwarderProcess, "_pass_on", lambda process: in_turn(pass_on, process)
            ),
        ):
            try:
                yield
            finally:
                self._track(True)

    def _steps_of(self, epoch: Callable[..., Any], steps: Steps, groups: Any) -> Iterator[Any]:
        self._epoch += 1
        middle, number = self._steps // 2, 0
        for number, done in enumerate(epoch(steps, groups), 1):
            self.last = time.perf_counter()
            self.first = self.first or self.last
            if self._epoch > 1 and number == middle:
                self._turn(self._epoch - 2)
            yield done
        self._steps = number

    def _turn(self, number: int) -> None:
        """The end of a turn, but for the first time, and the beginning of the next."""
        now = time.perf_counter()
        if 0 < number <= 2 * self._pairs:
            tracked = self._tracked.is_set()
            self.seconds[tracked].append(now - self._since)
            if tracked:
                for name, used in self._cpu().items():
                    self.cpu[name].append(used - self._used[name])
            self._advance()
        self._track(number % 4 in (0, 3) or number >= 2 * self._pairs)
        self._used = self._cpu()
        self._since = time.perf_counter()

    def _cpu(self) -> dict[str, float]:
        """Seconds of CPU that each process of tracking's has used."""
        return {"forwarder": cpu_seconds(forwarders()), "server": cpu_seconds(tree(self._server))}

    def _track(self, tracked: bool) -> None:
        if tracked == self._tracked.is_set():
            return
        for process in forwarders():
            process.send_signal(signal.SIGCONT if tracked else signal.SIGSTOP)
        if tracked:
            self._tracked.set()
        else:
            self._tracked.clear()


def forwarders() -> list[Any]:
    """The forwarders of this process."""
    import psutil

    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if "skinml.store.forwarder" in child.cmdline():
                found.append(child)
    return found


def tree(pid: int) -> list[Any]:
    """A process and all below it; none of number 0."""
    import psutil

    if not pid:
        return []
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def cpu_seconds(processes: Sequence[Any]) -> float:
    """Seconds of CPU that processes have used."""
    return sum(sum(process.cpu_times()[:2]) for process in processes)


@contextlib.contextmanager
def server(folder: Path) -> Iterator[tuple[str, int]]:
    """An `mlflow server` on SQLite, as its documentation starts it; its address and process id."""
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
            yield address, process.pid
        finally:
            os.killpg(process.pid, 15)
            process.wait()


@contextlib.contextmanager
def untracked() -> Iterator[None]:
    """No record of an epoch or of the machine's load while a run trains."""
    with (
        mock.patch("skinml.run.tracked.record_epoch"),
        mock.patch("skinml.run.tracked.LoadRecorder"),
    ):
        yield


def one_run(options: argparse.Namespace, uri: str, turns: Turns) -> tuple[float, float]:
    """A whole run, in the store at `uri` if any; seconds before the first step, after the last."""
    import keras

    from skinml.run.end_to_end import run

    with tempfile.TemporaryDirectory() as scratch:
        config = material.config(
            options,
            model=options.model,
            batch_size=options.batch_size,
            epochs_frozen=0,
            epochs_finetune=turns.epochs if uri else 1,
            output_dir=scratch,
        )
        began = time.perf_counter()
        with (
            turns.watching(),
            mock.patch.dict(os.environ, {"MLFLOW_TRACKING_URI": uri} if uri else {}),
            contextlib.nullcontext() if uri else untracked(),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            run(config, offline=not uri)
        ended = time.perf_counter()
    keras.backend.clear_session()
    return turns.first - began, ended - turns.last


def interval(tracked: Sequence[float], without: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the ratio of two sums, by bootstrap over pairs (percentiles)."""
    from scipy.stats import bootstrap

    found = bootstrap(
        (tracked, without),
        lambda upper, lower, axis: np.sum(upper, axis=axis) / np.sum(lower, axis=axis),
        paired=True,
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


class Store:
    """All runs with one store, or with none."""

    def __init__(self) -> None:
        self.seconds: dict[bool, list[float]] = {True: [], False: []}
        self.before: list[float] = []
        self.after: list[float] = []
        self.waited: list[float] = []
        self.cpu: dict[str, list[float]] = {"forwarder": [], "server": []}

    def add(self, turns: Turns, before: float, after: float) -> None:
        for tracked, own in turns.seconds.items():
            self.seconds[tracked] += own
        self.waited += turns.waited
        for name, used in turns.cpu.items():
            self.cpu[name] += used
        self.before.append(before)
        self.after.append(after)

    def result(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "before_first_step": spread(self.before),
            "after_last_step": spread(self.after),
        }
        tracked, without = self.seconds[True], self.seconds[False]
        if not tracked:
            return found
        low, high = interval(tracked, without)
        ratio = {"of_all": sum(tracked) / sum(without), "low": low, "high": high}
        cpu = sum(float(np.mean(own)) for own in self.cpu.values())
        taken = float(np.mean(self.waited)) + cpu / usable_cores()
        return found | {
            "pairs": len(tracked),
            "seconds_of_a_turn": {"tracked": spread(tracked), "without": spread(without)},
            "turns": {"tracked": tracked, "without": without},
            "ratio": ratio,
            "waited_for_a_record": spread(self.waited),
            "cpu_seconds_in_a_turn": {
                name: {"mean": float(np.mean(own)), **spread(own)} for name, own in self.cpu.items()
            },
            "taken": taken / float(np.mean(tracked)),
        }


def main() -> None:
    options_parser = parser(__doc__, repeats=2)
    options_parser.add_argument("--model", default="mobilenet")
    options_parser.add_argument("--batch_size", type=int, default=16)
    options_parser.add_argument("--pairs", type=int, default=15, help="of turns in a run")
    options_parser.add_argument("--data", default="demo", help=argparse.SUPPRESS)
    options_parser.add_argument("--data_dir", default="auto", help="as of `python -m skinml.run`")
    options_parser.add_argument("--weights", default="none", help="as of `python -m skinml.run`")
    options = options_parser.parse_args()
    around = surroundings()
    with tempfile.TemporaryDirectory() as scratch, server(Path(scratch)) as (address, pid):
        uris = {
            WITHOUT: "",
            "SQLite": f"sqlite:///{scratch}/mlflow.db",
            "mlflow server": address,
        }
        stores = {name: Store() for name in uris}
        # Imports and the prepared images, once.
        one_run(options, "", Turns(0, lambda: None))
        with progress_bar("tracking", 4 * options.pairs * options.repeats) as advance:
            for _ in range(options.repeats):
                for name, uri in uris.items():
                    pairs = options.pairs if uri else 0
                    turns = Turns(pairs, partial(advance, 1, name), pid if uri == address else 0)
                    stores[name].add(turns, *one_run(options, uri, turns))
    found = {name: store.result() for name, store in stores.items()}
    rows = []
    for name, own in found.items():
        cells = [""] * 7
        if "ratio" in own:
            ratio, turn = own["ratio"], own["seconds_of_a_turn"]
            cpu = [own["cpu_seconds_in_a_turn"][part]["mean"] for part in ("forwarder", "server")]
            cells = [
                shown(turn["tracked"]), shown(turn["without"]),
                f"{ratio['of_all']:.3f} ({ratio['low']:.3f} to {ratio['high']:.3f})",
                verdict(ratio["of_all"] <= TARGET),
                shown(own["waited_for_a_record"], 4),
                " and ".join(f"{used:.3f}" for used in cpu), f"{own['taken']:.2%}",
            ]  # fmt: skip
        rows.append(
            [name, *cells, shown(own["before_first_step"], 1), shown(own["after_last_step"], 1)]
        )
    heading = [
        "seconds", "a turn with tracking", "without", "ratio of all (95 %)", f"≤ {TARGET}",
        "waited for a record", "CPU of forwarder and server", "taken", "before",
        "after the last step",
    ]  # fmt: skip
    result = {**around, "model": options.model, "batch_size": options.batch_size, "stores": found}
    report(options, result, table(heading, rows), lambda path: draw(path, found))


def draw(path: Path, found: dict[str, dict[str, Any]]) -> None:
    """The ratio of each pair of turns, and that of all with its interval, beside the target."""
    from matplotlib.figure import Figure

    from skinml.evaluation.drawing import COLUMN, GREY, drawing, save

    measured = {name: own for name, own in found.items() if "ratio" in own}
    with drawing():
        figure = Figure(figsize=(COLUMN, 1.0 + 0.6 * len(measured)), layout="constrained")
        axes = figure.subplots()
        for place, own in enumerate(measured.values()):
            pairs = np.divide(own["turns"]["tracked"], own["turns"]["without"])
            axes.plot(pairs, np.full(len(pairs), place + 0.18), "|", color=GREY, markersize=7)
            ratio = own["ratio"]
            axes.plot([ratio["low"], ratio["high"]], [place - 0.12] * 2, color="black")
            axes.plot(ratio["of_all"], place - 0.12, "o", color="black")
        axes.axvline(TARGET, color=GREY, linestyle="--", zorder=0)
        label = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        axes.text(
            TARGET, -0.7, f"target {TARGET}", color=GREY, ha="center", va="center", bbox=label
        )
        axes.set_yticks(range(len(measured)), list(measured))
        axes.set(
            ylim=(len(measured) - 0.4, -1),
            xlabel="a turn with tracking over one without\n(each pair; all with 95 % interval)",
        )
        save(figure, path)


if __name__ == "__main__":
    main()
