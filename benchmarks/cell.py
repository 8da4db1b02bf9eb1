"""What a cell costs beside its training: before the first fine-tuning step, and after the last.

    python -m benchmarks.cell [--before COMMIT] [--repeats 5] [--json] [--out FOLDER]

Whole runs of `python -m skinml.run`, today's and those of an earlier build (a worktree of its
commit, the same Python and libraries) in turn, each in a process of its own that is logged to a
store on SQLite and registered, with one frozen epoch and one of fine-tuning. What a sweep finds
from its second cell on is there: the prepared data, the frozen features and the store, each build's
own, made by a run before that does not count.

Before: from the start of the process to the end of its first fine-tuning step, whose tracing is in
it. After: from the end of its last step to the end of the process, with validation and test,
figures, models and what MLflow is sent. Both in seconds, and in those of the processor that the run
and its forwarder use: these count where the machine has other work. Target: half of the earlier
build's, each.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import material
from benchmarks.harness import (
    BEFORE,
    ROOT,
    earlier_build,
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
from skinml.data.demo import generate
from skinml.data.prepare import data_folder

TARGET = 0.5
CONFIGURATION = ("model", "weights", "batch_size", "epochs_frozen")
BUILDS = ("earlier", "today")
# What notes the moments, in whatever build finds it on its path.
HOOK = ROOT / "benchmarks" / "cell_moments"


class Costs(NamedTuple):
    """Seconds of one run around its fine-tuning steps; `…_cpu` are those of the processor."""

    before: float
    before_cpu: float
    after: float
    after_cpu: float


def costs(began: float, ended: float, used: float, moments: str) -> Costs:
    """Those of a run, by its start, its end, all it used, and a line for each of its steps."""
    steps = [[float(value) for value in line.split()] for line in moments.splitlines()]
    if len(steps) < 2:
        raise RuntimeError(f"{len(steps)} fine-tuning steps were noted, expected two or more")
    (first, first_used), (last, last_used) = steps[0], steps[-1]
    return Costs(first - began, first_used, ended - last, used - last_used)


def one_run(build: Path, arguments: list[str], place: Path) -> Costs:
    """A run of a build, all of which it leaves is in its own `place`."""
    place.mkdir(exist_ok=True)
    moments, log = place / "moments", place / "log"
    moments.unlink(missing_ok=True)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")},
        # Python looks in the folder it is called in first, so that the package is this build's.
        "PYTHONPATH": str(HOOK),
        "SKINML_BENCHMARK_MOMENTS": str(moments),
        "SKINML_CACHE_DIR": str(place / "cache"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{place}/mlflow.db",
    }
    command = [sys.executable, "-m", "skinml.run", *arguments, f"--output_dir={place / 'runs'}"]
    with log.open("w") as said:
        began = time.monotonic()
        process = subprocess.Popen(command, cwd=build, stdout=said, stderr=said, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        ended = time.monotonic()
    # So that nothing waits for it once more.
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{build}: exit code {process.returncode}: {log.read_text()[-2000:]}")
    return costs(began, ended, usage.ru_utime + usage.ru_stime, moments.read_text())


def run_arguments(options: argparse.Namespace, pictures: Path) -> list[str]:
    """The command line of the runs, of what both builds know."""
    given = {name: getattr(options, name) for name in ("data", *CONFIGURATION)}
    given |= {"data_dir": str(pictures.resolve()), "epochs_finetune": 1}
    given["weights"] = material.weights_of(options)
    return [f"--{name}={value}" for name, value in given.items()]


def measure(options: argparse.Namespace) -> dict[str, list[Costs]]:
    """The costs of the runs of both builds, made in turn."""
    found: dict[str, list[Costs]] = {name: [] for name in BUILDS}
    with tempfile.TemporaryDirectory() as scratch, earlier_build(options.before) as earlier:
        pictures = Path(options.data_dir).expanduser()
        if options.data_dir == "auto":
            # Each build would generate a demo set of its own, and they differ.
            pictures = data_folder(options.data)
            if options.data == "demo":
                pictures = Path(scratch, "demo")
                generate(pictures)
        arguments = run_arguments(options, pictures)

        def side(name: str, build: Path) -> float:
            found[name].append(one_run(build, arguments, Path(scratch, name)))
            return found[name][-1].before

        builds = dict(zip(BUILDS, (earlier, ROOT), strict=True))
        for name, build in builds.items():
            one_run(build, arguments, Path(scratch, name))  # What it finds there from then on.
        sides = {name: partial(side, name, build) for name, build in builds.items()}
        in_turn("running a cell", sides, options.repeats)
    return found


def results(found: Mapping[str, list[Costs]]) -> dict[str, Any]:
    """Of each of the costs both builds' seconds, and today's as a share of the earlier one's."""
    told = {}
    for name in Costs._fields:
        seconds = {build: [getattr(own, name) for own in runs] for build, runs in found.items()}
        told[name] = {
            "seconds": {build: spread(values) for build, values in seconds.items()},
            "of_earlier": ratio(seconds["today"], seconds["earlier"]),
        }
    return told


def main() -> None:
    made = parser(__doc__, repeats=5)
    made.add_argument("--before", default=BEFORE, help="the earlier build (default: %(default)s)")
    material.add_source(made)
    made.add_argument("--model", default="mobilenetv2")
    made.add_argument("--batch_size", type=int, default=16)
    made.add_argument("--epochs_frozen", type=int, default=1)
    options = made.parse_args()
    around = surroundings()
    told = results(measure(options))
    names = {
        "before": "before the first step",
        "before_cpu": "the same, of the processor",
        "after": "after the last step",
        "after_cpu": "the same, of the processor",
    }
    rows = [
        [names[name], *(shown(own["seconds"][build]) for build in BUILDS), shown(own["of_earlier"]),
         f"<= {TARGET:g}", verdict(own["of_earlier"]["median"] <= TARGET)]
        for name, own in told.items()
    ]  # fmt: skip
    heading = ["seconds", options.before, "today", "of the earlier build's", "target", ""]
    configuration = {name: getattr(options, name) for name in ("data", *CONFIGURATION)}
    configuration["weights"] = Path(options.weights).name
    result = {**around, **configuration, "before": options.before, "costs": told}
    report(options, result, table(heading, rows))


if __name__ == "__main__":
    main()
