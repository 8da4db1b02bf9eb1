"""A cell on a cluster as the driver ends it, with a stand-in for Ray; a real one: test_ray.py."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from skinml.config import Config
from skinml.sweep.cells import Cell, CellState
from skinml.sweep.engines.node import Missing
from skinml.sweep.engines.ray_cluster import RayJob


class Task:
    """A task, which ends at once: the first on a machine that lacks the data, as it says."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.has_completed = False
        self.items = [Missing("data")] if number == 1 else []

    def completed(self) -> str:
        return "completed" if self.has_completed else "not completed"

    def __next__(self) -> Missing:
        if not self.items:
            raise StopIteration
        return self.items.pop()


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bool]]:
    """A Ray that calls a task's stream ready at all times; returns what was cancelled, how."""
    cancelled: list[tuple[int, bool]] = []
    module: Any = ModuleType("ray")
    module.wait = lambda refs, timeout: (refs, []) if refs != ["not completed"] else ([], refs)
    module.get = lambda item, timeout: item
    module.cancel = lambda task, force=False: cancelled.append((task.number, force))
    module.exceptions = SimpleNamespace(GetTimeoutError=TimeoutError)
    monkeypatch.setitem(sys.modules, "ray", module)
    return cancelled


class Driver:
    """A job, the tasks that it began, and what was sent for it."""

    def __init__(self, folder: Path) -> None:
        self.tasks: list[Task] = []
        self.sent: list[str] = []
        head: Any = SimpleNamespace(look=lambda: None, is_lost=False)
        state = CellState(Cell(Config(output_dir=str(folder)), {}))
        self.job = RayJob(state, self.begin, self.send, head)

    def begin(self) -> Task:
        self.tasks.append(Task(len(self.tasks) + 1))
        return self.tasks[-1]

    def send(self, what: str) -> None:
        self.sent.append(what)


def test_a_cell_that_was_stopped_does_not_begin_again(
    ray: list[tuple[int, bool]], tmp_path: Path
) -> None:
    """The second task would train on, as nobody has asked it to end."""
    driver = Driver(tmp_path)
    driver.job.stop()
    driver.tasks[0].has_completed = True
    outcome = driver.job.poll()
    assert outcome and (outcome.status, outcome.reason) == ("lost", "stopped")
    assert (len(driver.tasks), driver.sent, ray) == (1, [], [(1, False)])


def test_one_that_is_killed_while_its_data_is_sent_does_not_begin_again(
    ray: list[tuple[int, bool]], tmp_path: Path
) -> None:
    """A second Ctrl-C comes at any instant, in a signal's handler."""
    driver = Driver(tmp_path)
    driver.job._send = lambda what: driver.job.kill()
    outcome = driver.job.poll()
    assert outcome and outcome.reason == "stopped"
    assert (len(driver.tasks), ray) == (1, [(1, True)])


def test_the_stream_of_a_task_that_is_killed_is_not_waited_for(
    ray: list[tuple[int, bool]], tmp_path: Path
) -> None:
    """It is called ready, and what comes next of it would be waited for without an end."""
    driver = Driver(tmp_path)
    driver.job.kill()
    assert driver.job.poll() is None and driver.tasks[0].items, "nothing was taken of it"
    assert ray == [(1, True)]
