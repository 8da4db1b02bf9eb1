"""Processes that close what is open when they are told to end, and end with whoever began them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import PATIENCE, wait_for

ROOT = Path(__file__).parents[2]


STOPPED = """
import signal, sys, time
from skinml.base.signals import stop_no_more, stop_on_signals

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
from skinml.base.signals import stop_with_stdin

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
