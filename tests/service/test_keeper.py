"""The keeper stops the groups that were started, and no other that has an id of theirs by then."""

import io
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from skinml.base.processes import process_name
from skinml.service.keeper import Group, groups_in, line_of, line_of_gone
from skinml.service.native import Native

ROOT = Path(__file__).parents[2]
SLEEPER = [sys.executable, "-c", "import time; time.sleep(300)"]


@pytest.fixture
def start() -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Starts processes in groups of their own, which end with the test."""
    started: list[subprocess.Popen[bytes]] = []

    def sleeper() -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen(SLEEPER, start_new_session=True))
        return started[-1]

    yield sleeper
    for process in started:
        process.kill()
        process.wait()


def line(process: subprocess.Popen[bytes], name: str | None = None) -> str:
    name = name or process_name(process.pid)
    return line_of(Group(process.pid, int(signal.SIGTERM), 10.0, name))


def keep(*lines: str) -> None:
    """The keeper from its start to its end."""
    command = [sys.executable, "-m", "skinml.service.keeper"]
    subprocess.run(command, input="".join(lines), text=True, check=True, timeout=300, cwd=ROOT)


@pytest.mark.skipif(sys.platform != "linux", reason="names there depend on the clock")
def test_a_group_is_stopped_and_one_in_the_place_of_another_is_not(
    start: Callable[[], subprocess.Popen[bytes]],
) -> None:
    """A step's id is given away one day; the service is stopped weeks later.

    Of one that the keeper was told is gone, and of one that another process has now.
    """
    service, unrelated, successor = start(), start(), start()
    before, _, ticks = process_name(successor.pid).rpartition(":")
    keep(
        line(service),
        line(unrelated),
        line_of_gone(unrelated.pid),
        line(successor, f"{before}:{int(ticks) - 1}"),
    )
    assert service.wait(60) == -signal.SIGTERM
    assert unrelated.poll() is None and successor.poll() is None


def test_members_that_outlive_their_first_process_are_stopped() -> None:
    """As the workers of a server that was killed: their group's id is nobody else's."""
    script = (
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)'])\n"
        "print(child.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    leader = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert leader.stdin and leader.stdout
    told = line(leader)
    leader.stdout.readline()
    leader.stdin.close()
    leader.wait(60)
    keep(told)
    # The child has the other end: it is over when nobody has it any more.
    assert leader.stdout.read() == b""
    leader.stdout.close()


def test_the_order_is_that_of_the_starts_and_an_id_counts_once() -> None:
    groups = [Group(number, 15, 1.5, f"a host {number} boot:1:2") for number in (7, 5, 7)]
    assert groups_in(map(line_of, groups)) == groups[1:]
    assert groups_in([*map(line_of, groups), line_of_gone(7)]) == groups[1:2]


@pytest.mark.parametrize("program", ["true", "false"])
def test_a_step_that_has_ended_is_told_gone(tmp_path: Path, program: str) -> None:
    """Well or badly: its process is waited for, and its id free."""
    native = Native(tmp_path)
    told = io.StringIO()
    keeper: Any = SimpleNamespace(stdin=told)
    native._keeper = keeper
    process: Any = subprocess.Popen([program], start_new_session=True)
    native.running["migrate"] = process
    native.log("migrate").parent.mkdir(parents=True)
    native.log("migrate").touch()
    try:
        native._wait("migrate", {})
    except Exception:
        assert program == "false"
    assert told.getvalue() == line_of_gone(process.pid)
