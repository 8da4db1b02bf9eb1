"""benchmarks/cell.py: its moments are those of a build's own steps, whatever the build knows."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import cell

# A build of before the package had rooms: two steps of the frozen part, three of fine-tuning.
STEPS = """
import numpy as np

class Calls:
    def one(self, *batch):
        return batch

class Steps:
    def __init__(self, model, execution, images=None):
        self._calls = Calls()
"""
RUN = """
import numpy as np
from skinml.steps import Steps

for shape, count in (((8, 16), 2), ((8, 4, 4, 3), 3)):
    steps = Steps(None, None)
    for number in range(count):
        assert steps._calls.one(np.zeros(shape), number)[1] == number
"""


def write_build(folder: Path, run: str) -> None:
    package = folder / "skinml"
    package.mkdir()
    for name, text in {"__init__": "", "steps": STEPS, "run": run}.items():
        (package / f"{name}.py").write_text(text)


def test_the_steps_of_fine_tuning_are_noted_alone(tmp_path: Path) -> None:
    write_build(tmp_path, RUN)
    found = cell.one_run(tmp_path, [], tmp_path / "place")
    lines = (tmp_path / "place" / "moments").read_text().splitlines()
    assert len(lines) == 3
    assert min(found) >= 0 and found.before_cpu > 0 and found.before > found.after


def test_a_build_that_fails_is_no_measurement(tmp_path: Path) -> None:
    write_build(tmp_path, "raise SystemExit('no images')")
    with pytest.raises(RuntimeError, match="no images"):
        cell.one_run(tmp_path, [], tmp_path / "place")


def test_a_run_without_steps_is_no_measurement(tmp_path: Path) -> None:
    write_build(tmp_path, RUN.replace("3)", "0)"))
    (tmp_path / "place").mkdir()
    (tmp_path / "place" / "moments").write_text("1 1\n2 2\n")  # Of another run.
    with pytest.raises((RuntimeError, FileNotFoundError)):
        cell.one_run(tmp_path, [], tmp_path / "place")


def test_costs_lie_around_the_steps() -> None:
    assert cell.costs(10.0, 40.0, 30.0, "14 5\n20 9\n33 21\n") == (4.0, 5.0, 7.0, 9.0)


def test_nothing_is_noted_unless_it_is_asked_for(tmp_path: Path) -> None:
    write_build(tmp_path, RUN)
    environment = {n: v for n, v in os.environ.items() if n != "SKINML_BENCHMARK_MOMENTS"}
    environment["PYTHONPATH"] = str(cell.HOOK)
    subprocess.run([sys.executable, "-m", "skinml.run"], cwd=tmp_path, check=True, env=environment)
    assert not list(tmp_path.glob("moments"))
