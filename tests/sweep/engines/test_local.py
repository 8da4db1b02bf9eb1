"""This machine as an engine: how many at a time, and that a slot is given once."""

from pathlib import Path

import pytest

from skinml.config import Config
from skinml.sweep.cells import Cell, CellState
from skinml.sweep.engines.attempt import Order
from skinml.sweep.engines.local import LocalEngine, LocalJob
from tests.waiting import wait_for

HOLD = "import sys; sys.stdin.read()"
SHOW = "import os; print(os.environ.get('CUDA_VISIBLE_DEVICES'))"


def start(engine: LocalEngine, folder: Path, code: str = HOLD, device: str = "auto") -> LocalJob:
    config = Config(weights="none", device=device)
    order = Order("a", config, folder, ["-c", code], {}, {})
    return engine.start(CellState(Cell(config, {})), order)


def ended(job: LocalJob) -> str:
    """What the log of a job says once its process has ended."""
    wait_for(job.poll)
    assert job.state.log
    return job.state.log.read_text().strip()


def test_one_cell_at_a_time_unless_told_otherwise() -> None:
    assert LocalEngine(["0", "1"]).at_once(None) == 1
    assert LocalEngine().at_once(3) == 3


def test_a_gpu_that_is_free_again_is_given_again(tmp_path: Path) -> None:
    engine = LocalEngine(["4", "7"])
    first, second = start(engine, tmp_path / "1"), start(engine, tmp_path / "2", SHOW)
    assert ended(second) == "7"
    assert ended(start(engine, tmp_path / "3", SHOW)) == "7", "4 is taken"
    first.kill()
    ended(first)
    assert ended(start(engine, tmp_path / "4", SHOW)) == "4"


@pytest.mark.parametrize("gpus", [[], ["3"]])
def test_one_gpu_or_none_is_left_to_cuda(
    tmp_path: Path, gpus: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert ended(start(LocalEngine(gpus), tmp_path, SHOW)) == "None"


def test_a_cell_that_fails_says_why(tmp_path: Path) -> None:
    job = start(LocalEngine(), tmp_path, "raise ValueError('no luck')")
    ended(job)
    outcome = job.poll()
    assert outcome and (outcome.status, outcome.reason) == ("failed", "ValueError: no luck")
