"""Names of processes, which never come back, and the end of those left behind."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from skinml.base.processes import end_process, is_dead, process_lives, process_name
from tests.waiting import PATIENCE, wait_for

ROOT = Path(__file__).parents[2]

linux = pytest.mark.skipif(sys.platform != "linux", reason="names there depend on the clock")

SLEEPER = [sys.executable, "-c", "import time; time.sleep(300)"]


def test_a_process_is_alive_until_it_ends() -> None:
    process = subprocess.Popen(SLEEPER)
    name = process_name(process.pid)
    assert not is_dead(name)
    process.kill()
    # Nobody has waited for it yet: it still has its id, as a zombie.
    wait_for(lambda: not process_is_running(process.pid))
    assert is_dead(name) and not process_lives(name)
    process.wait()
    assert is_dead(name) and not process_lives(name)


def process_is_running(pid: int) -> bool:
    return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@linux
def test_an_id_that_another_process_has_now_is_not_the_old_one() -> None:
    host, pid, start = process_name().rsplit(" ", 2)
    place, _, ticks = start.rpartition(":")
    assert process_lives(process_name()) is True
    assert process_lives(f"{host} {pid} {place}:{int(ticks) - 1}") is False
    assert is_dead(f"{host} {pid} {place}:{int(ticks) - 1}")


@linux
def test_what_cannot_be_seen_from_here_is_neither_alive_nor_dead() -> None:
    """Of another boot, of a container with the same host name, of another host, of no meaning."""
    host, _, start = process_name().rsplit(" ", 2)
    boot, space, ticks = start.split(":")
    for name in (
        f"{host} 4000000 {'0' * 16}:{space}:{ticks}",
        f"{host} 4000000 {boot}:{int(space) - 1}:{ticks}",
        f"elsewhere 4000000 {start}",
        f"{host} x {start}",
        "",
    ):
        assert process_lives(name) is None, name
    assert process_lives(f"{host} 4000000 {start}") is False


# Of a psutil for which the machine started an hour earlier or later: so a clock that was set
# shows itself on Linux.
SHIFTED = """
import sys, psutil._pslinux as linux, time
boot, now, shift = linux.boot_time, time.time, float(sys.argv[2])
linux.boot_time, time.time = lambda: boot() + shift, lambda: now() + shift
import psutil
assert abs(psutil.Process(int(sys.argv[1])).create_time() - float(sys.argv[3]) - shift) < 1
from skinml.base.processes import is_dead, process_lives, process_name
print(process_name(int(sys.argv[1])))
for name in sys.argv[4:]:
    print(process_lives(name), is_dead(name))
"""


@linux
@pytest.mark.parametrize("shift", [-3600, 3600])
def test_a_clock_that_is_set_neither_kills_nor_renames(shift: int) -> None:
    process = subprocess.Popen(SLEEPER)
    name, begun = process_name(process.pid), psutil.Process(process.pid).create_time()
    old = f"{name.rsplit(' ', 1)[0]} {begun:.2f}"
    command = [sys.executable, "-c", SHIFTED, str(process.pid), str(shift), str(begun), name, old]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    process.kill()
    process.wait()
    # What depends on the clock, a name of before, is no longer known to live: nor is it dead.
    now, this, before = said.splitlines()
    assert now == name
    assert this == "True False"
    assert before.split()[0] == "None"


def test_a_name_of_before_is_understood() -> None:
    """Seconds since 1970, as they are elsewhere than on Linux."""
    host, pid, _ = process_name().rsplit(" ", 2)
    start = psutil.Process().create_time()
    assert process_lives(f"{host} {pid} {start:.2f}") is True
    assert not is_dead(f"{host} {pid} {start:.2f}")
    assert process_lives(f"{host} {pid} {start - 3600:.2f}") is None
    assert is_dead(f"{host} {pid} {start - 3600:.2f}")


@pytest.mark.parametrize(
    "name", ["", "elsewhere 1 2", "elsewhere 4000000000 5.0", "no name", "a b c"]
)
def test_of_what_is_not_known_nothing_is_said_to_be_dead(name: str) -> None:
    assert not is_dead(name)


STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(); "


@pytest.mark.parametrize("stubborn", [False, True])
def test_a_process_is_ended_by_its_name(stubborn: bool) -> None:
    code = (STUBBORN if stubborn else "print(); import time; ") + "time.sleep(300)"
    process = subprocess.Popen([sys.executable, "-uc", code], stdout=subprocess.PIPE)
    assert process.stdout
    process.stdout.readline()
    name, begun = process_name(process.pid), time.monotonic()
    patience = 0.5 if stubborn else PATIENCE
    end_process(name, patience)
    assert is_dead(name)
    # One that does not react is given its time, another takes what it needs.
    assert (time.monotonic() - begun >= patience) == stubborn
    process.wait()
    process.stdout.close()


def test_another_hosts_process_of_the_same_id_is_left_alone() -> None:
    process = subprocess.Popen(SLEEPER)
    _, pid, start = process_name(process.pid).rsplit(" ", 2)
    end_process(f"elsewhere {pid} {start}", 0.1)
    end_process(f"{process_name().rsplit(' ', 2)[0]} {pid} 1:2:3", 0.1)
    assert process.poll() is None
    process.kill()
    process.wait()
