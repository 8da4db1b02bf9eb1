"""One session on a machine with a GPU and without MLflow: nine trainings, and the GPU's benchmarks.

    KERAS_BACKEND=jax python -m benchmarks.gpu --data_dir isic2017 --out FOLDER \
        --set mobilenetv2.weights=FILE

A machine that is lent for minutes is used whole. The cells of the paper's grid train side by side,
a process each (`python -m skinml.run --offline`), since networks this small leave most of a large
GPU idle; the networks of `benchmarks.finetune` compile beside them. Once these are compiled, the
trainings are halted (SIGSTOP) while the benchmarks have the GPU to themselves, one after the other,
and then go on: the seconds that the epochs of that moment took are not to be used, which
`session.json` says by its times. What is not done after --seconds is ended, and left as it is.

`session.json` is brought up to date all the time. The folders of the runs lie below FOLDER/runs:
`python -m skinml.compare --from` reads them, and `python -m skinml.sync` sends them to MLflow.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from skinml.base.provenance import git_state, library_versions
from skinml.config import Config
from skinml.data.prepare import open_data
from skinml.sweep.__main__ import PAPER
from skinml.sweep.cells import grid_configs, settings_of

# Seconds that a benchmark may take to compile before it is given up.
COMPILING = 400.0


class Process:
    """One part of the session, its output in a file."""

    def __init__(self, name: str, arguments: Sequence[str], out: Path) -> None:
        self.name = name
        self.began = time.time()
        self.ended = 0.0
        self.halted: list[tuple[float, float]] = []
        with (out / f"{name}.log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, *arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )

    @property
    def code(self) -> int | None:
        """Its exit code, None while it runs."""
        code = self._process.poll()
        if code is not None and not self.ended:
            self.ended = time.time()
        return code

    def send(self, signum: int) -> None:
        if self.code is None:
            self._process.send_signal(signum)

    def facts(self) -> dict[str, Any]:
        code = self.code
        ended = {"seconds": round(self.ended - self.began, 1)} if code is not None else {}
        return {"exit_code": code, "halted_at": self.halted, **ended}


class Session:
    """What is going on, and what `session.json` says of it."""

    def __init__(self, out: Path, seconds: float) -> None:
        self._out = out
        self._deadline = time.time() + seconds
        self._began = time.time()
        self.processes: list[Process] = []
        self._facts: dict[str, Any] = {
            "commit": git_state()[0],
            "versions": library_versions(),
            "began": self._began,
        }

    @property
    def over(self) -> bool:
        return time.time() > self._deadline

    def start(self, name: str, arguments: Sequence[str]) -> Process:
        process = Process(name, arguments, self._out)
        self.processes.append(process)
        return process

    def note(self, **facts: Any) -> None:
        self._facts |= facts
        parts = {process.name: process.facts() for process in self.processes}
        values = {**self._facts, "seconds": round(time.time() - self._began, 1), "parts": parts}
        part = self._out / ".session.json.part"
        part.write_text(json.dumps(values, indent=2) + "\n")
        part.replace(self._out / "session.json")

    def wait(self, processes: Sequence[Process], seconds: float = float("inf")) -> None:
        """Until all of them have ended, or the time is over."""
        until = time.time() + seconds
        while any(p.code is None for p in processes) and not self.over and time.time() < until:
            self.note()
            time.sleep(0.5)

    def end(self) -> None:
        for process in self.processes:
            process.send(signal.SIGCONT)
            process.send(signal.SIGTERM)
        until = time.time() + 15
        while any(process.code is None for process in self.processes) and time.time() < until:
            time.sleep(0.2)
        for process in self.processes:
            process.send(signal.SIGKILL)
        self.note(over=True)


def measure_alone(session: Session, trainings: Sequence[Process], own: dict[str, Path]) -> None:
    """Halt the trainings once each waiting benchmark is compiled, and let these go in turn.

    `own` names the folder of each benchmark's process, which holds `compiled` when it waits.
    """
    benchmarks = {p.name: p for p in session.processes if p.name in own}
    until = time.time() + COMPILING

    def compiling() -> bool:
        return any(
            p.code is None and not (own[n] / "compiled").exists() for n, p in benchmarks.items()
        )

    while compiling() and not session.over and time.time() < until:
        session.note()
        time.sleep(0.5)
    halted = [training for training in trainings if training.code is None]
    for training in halted:
        training.send(signal.SIGSTOP)
    began = time.time()
    time.sleep(2)  # What lies in the GPU's queue is done.
    for name, process in benchmarks.items():
        if process.code is None and (own[name] / "compiled").exists():
            (own[name] / "go").touch()
            session.wait([process], 90)
    for training in halted:
        training.halted.append((began, time.time()))
        training.send(signal.SIGCONT)


def cell_options(config: Config) -> list[str]:
    options = [f"--{name}={value}" for name, value in config.as_dict().items()]
    return ["-m", "skinml.run", "--offline", *options]


def main() -> None:
    options_parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options_parser.add_argument("--data_dir", default="auto")
    options_parser.add_argument("--data", default="isic2017", choices=("isic2017", "demo"))
    options_parser.add_argument("--out", type=Path, required=True)
    options_parser.add_argument("--models", default=PAPER["models"])
    options_parser.add_argument("--batch_sizes", default=PAPER["batch_sizes"])
    options_parser.add_argument("--set", default="", help="as of `python -m skinml.sweep`")
    options_parser.add_argument("--epochs_frozen", default="0")
    options_parser.add_argument("--epochs_finetune", default="60")
    options_parser.add_argument("--device", default="gpu", choices=("gpu", "cpu"))
    options_parser.add_argument("--finetune", default=PAPER["models"], help="networks, or none")
    options_parser.add_argument("--repeats", type=int, default=5)
    options_parser.add_argument("--train", type=int, default=1760, help="images of `finetune`")
    options_parser.add_argument("--seconds", type=float, default=520, help="for all of it")
    options_parser.add_argument("--last", default="", help="benchmarks.execution, of this model")
    options = options_parser.parse_args()
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    session = Session(out, options.seconds)
    # Once, before any process: side by side they would all prepare the images.
    data = open_data(options.data, options.data_dir)
    session.note(data_digest=data.digest, prepared_after=round(time.time() - session._began, 1))
    models = options.models.split(",")
    given = {
        "data": options.data,
        "data_dir": str(data.folder),
        "weights": "none",
        "test_fraction": "0.2",
        "device": options.device,
        "epochs_frozen": options.epochs_frozen,
        "epochs_finetune": options.epochs_finetune,
        "output_dir": str(out / "runs"),
    }
    axes = {"model": models, "batch_size": options.batch_sizes.split(","), "seed": ["0"]}
    configs = grid_configs(axes, given, settings_of([options.set] if options.set else [], models))
    own: dict[str, Path] = {}
    try:
        for name in filter(None, options.finetune.split(",")):
            own[f"finetune-{name}"] = folder = out / f"finetune-{name}"
            folder.mkdir(exist_ok=True)
            arguments = ["-m", "benchmarks.finetune", "--models", name, "--data", options.data]
            arguments += ["--data_dir", str(data.folder), "--device", options.device]
            arguments += ["--train", str(options.train), "--repeats", str(options.repeats)]
            arguments += ["--validation", "16", "--out", str(folder), "--wait_in", str(folder)]
            session.start(folder.name, arguments)
        trainings = [
            session.start(f"{config.model}-{config.batch_size}", cell_options(config))
            for config in configs
        ]
        session.note()
        if own:
            measure_alone(session, trainings, own)
        session.wait(trainings)
        if options.last and not session.over:
            arguments = ["-m", "benchmarks.execution", "--model", options.last, "--repeats", "2"]
            arguments += ["--steps", "200", "--device", options.device]
            arguments += ["--out", str(out / "execution")]
            session.wait([session.start("execution", arguments)])
    finally:
        session.end()


if __name__ == "__main__":
    main()
