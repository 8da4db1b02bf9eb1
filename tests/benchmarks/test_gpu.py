"""A session on a lent GPU: who is measured has it alone, and what went on goes on."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import gpu

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="halts processes by signals")

# Counts for as long as it runs; halted in the middle of a write it would leave an empty file.
TRAINING = """
import os, sys, time
count = 0
while True:
    count += 1
    with open(f"{sys.argv[1]}.part", "w") as file:
        file.write(f"{count}")
    os.replace(f"{sys.argv[1]}.part", sys.argv[1])
    time.sleep(0.02)
"""

# Compiles, waits for its turn, and then sees the count twice.
BENCHMARK = """
import sys, time
from pathlib import Path
folder, counted = Path(sys.argv[1]), Path(sys.argv[2])
(folder / "compiled").touch()
while not (folder / "go").exists():
    time.sleep(0.01)
first = counted.read_text()
time.sleep(0.5)
(folder / "seen").write_text(f"{first} {counted.read_text()}")
"""


def test_trainings_stand_still_while_a_benchmark_measures_and_go_on_after_it(
    tmp_path: Path,
) -> None:
    session, counted, own = gpu.Session(tmp_path, 60), tmp_path / "count", tmp_path / "own"
    own.mkdir()
    try:
        training = session.start("training", ["-c", TRAINING, str(counted)])
        while not counted.exists():
            assert training.code is None
        benchmark = session.start("benchmark", ["-c", BENCHMARK, str(own), str(counted)])
        gpu.measure_alone(session, [training], {"benchmark": own})
        first, second = (own / "seen").read_text().split()
        assert first == second
        while counted.read_text() == second:
            assert training.code is None
    finally:
        session.end()
    facts = json.loads((tmp_path / "session.json").read_text())
    assert facts["over"]
    parts = facts["parts"]
    assert benchmark.code == parts["benchmark"]["exit_code"] == 0
    [(began, ended)] = parts["training"]["halted_at"]
    assert ended > began
    assert training.code is not None, "nothing is left running"


def test_a_benchmark_that_never_compiles_is_not_waited_for_longer_than_the_session(
    tmp_path: Path,
) -> None:
    session, own = gpu.Session(tmp_path, 1), tmp_path / "own"
    own.mkdir()
    try:
        process = session.start("benchmark", ["-c", "import time; time.sleep(60)"])
        gpu.measure_alone(session, [], {"benchmark": own})
    finally:
        session.end()
    assert process.code not in (None, 0)
    assert not (own / "go").exists()
