"""Processes that are told apart for ever, and that do not outlive whoever started them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from skinml.processes import end_process, is_dead, process_lives, process_name
from tests.waiting import PATIENCE, wait_for

ROOT = Path(__file__).parent.parent

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
from skinml.processes import is_dead, process_lives, process_name
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


STOPPED = """
import signal, sys, time
from skinml.processes import stop_no_more, stop_on_signals

stop_on_signals()
try:
    print("ready", flush=True)
    time.sleep(300)
except BaseException as error:
    stop_no_more()
    print(type(error).__name__, flush=True)
    time.sleep(1.5)  # Longer than until a signal that was lost is raised again.
    if sys.argv[1:]:
        time.sleep(300)
    raise
"""


def stopped(*arguments: str) -> "subprocess.Popen[str]":
    """A process that says when it is ready, by what it is ended, and then takes its time."""
    process = subprocess.Popen(
        [sys.executable, "-c", STOPPED, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        # As after `nohup … &` in a shell, whose SIGINT would stay ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout and process.stdout.readline() == "ready\n"
    return process


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize(
    ("first", "then", "error", "code"),
    [
        (signal.SIGTERM, [signal.SIGTERM], "SystemExit", 143),
        # What `mlflow run` makes of a Ctrl-C.
        (signal.SIGINT, [signal.SIGTERM, signal.SIGTERM], "KeyboardInterrupt", -signal.SIGINT),
    ],
)
def test_what_is_being_closed_is_not_broken_off_by_a_second_sigterm(
    first: int, then: list[int], error: str, code: int
) -> None:
    process = stopped()
    process.send_signal(first)
    for signum in then:
        process.send_signal(signum)
    assert process.stdout and process.stdout.readline() == f"{error}\n"
    assert process.wait(PATIENCE) == code
    assert process.stdout.read() == ""
    process.stdout.close()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_a_second_ctrl_c_ends_a_process_at_once(first: int) -> None:
    process = stopped("takes for ever")
    process.send_signal(first)
    assert process.stdout and process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == -signal.SIGINT
    process.stdout.close()


WATCHED = """
import signal, sys, time
from skinml.processes import stop_with_stdin

stubborn = sys.argv[1] == "stubborn"
signal.signal(signal.SIGTERM, signal.SIG_IGN if stubborn else lambda *_: sys.exit(7))
stop_with_stdin(grace=0.5)
print("ready", flush=True)
time.sleep(300)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM to catch")
@pytest.mark.parametrize(("kind", "code"), [("ready", 7), ("stubborn", 143)])
def test_a_process_ends_when_its_starter_is_killed(kind: str, code: int, tmp_path: Path) -> None:
    """By its own handler, or by force where that does nothing. The starter gets SIGKILL."""
    (tmp_path / "watched.py").write_text(WATCHED)
    starter = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, *sys.argv[1:]], stdin=subprocess.PIPE,"
        " stdout=open('out', 'w'))\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(300)\n"
    )
    process = subprocess.Popen(
        # A process between the two keeps the exit code of the one whose starter is gone.
        [sys.executable, "-c", starter, "-c", RECORDER, str(tmp_path / "watched.py"), kind],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
    )
    assert process.stdout
    process.stdout.readline()
    wait_for(lambda: "ready" in (tmp_path / "out").read_text())
    process.kill()
    process.wait()
    process.stdout.close()
    wait_for((tmp_path / "code").exists)
    assert (tmp_path / "code").read_text() == str(code)


# Passes its stdin on, and writes down how its child ended.
RECORDER = """
import os, subprocess, sys
child = subprocess.run([sys.executable, *sys.argv[1:]])
with open("part", "w") as file:
    file.write(str(child.returncode))
os.rename("part", "code")
"""
