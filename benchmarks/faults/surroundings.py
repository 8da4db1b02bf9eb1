"""Part 4: a disk that is full, a folder that is read-only, a clock that jumps."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks.faults.campaign import Case, Outcome, Run
from benchmarks.faults.processes import (
    ROOT,
    RunWriter,
    acknowledged,
    make_folder,
    run_sync,
    wait_until,
)
from benchmarks.faults.servers import URI, as_client, compare_runs, sqlite_server
from skinml.base.errors import UserError
from skinml.sync import sync
from skinml.tracking.journal import read_journal

HOUR = 3600


@contextmanager
def small_disk(path: Path, size: str = "3m") -> Iterator[Path]:
    """A file system in memory that is soon full; a `UserError` where none can be mounted."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
        said = done.stderr.strip() if done.returncode else ""
    except OSError as error:
        said = str(error)
    if said:
        raise UserError(f"a small disk cannot be mounted ({said}); run it as root, on Linux")
    try:
        yield path
    finally:
        # Lazily: whatever holds it open, it goes.
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def fill_disk(path: Path) -> None:
    """Take all that is free of a disk for a file, at once.

    Bit by bit it would also take what the run gives back for its last words.
    """
    with path.open("wb") as file:
        while True:
            free = os.statvfs(path)
            with suppress(OSError):  # Some of it has just been taken.
                return os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize)


def full_disk(case: Case, uri: str) -> Outcome:
    """The disk gets full while a run goes on; later there is space again, and all is sent."""
    outcome = Outcome(details={"kind": "full disk"})
    with small_disk(case.folder / "disk") as disk:
        writer = RunWriter(
            make_folder(disk / "run", case.chance),
            "--pause",
            "0.01",
            uri=uri,
            log=case.folder / "log",
        )
        try:
            writer.begins()
            time.sleep(case.chance.uniform(0.1, 3))
            fill_disk(disk / "ballast")
            outcome.fault("full disk")
            _expect_error(outcome, writer.wait(), writer.text(), "free some space")
        finally:
            writer.kill()
        (disk / "ballast").unlink()
        last = list(read_journal(writer.folder.journal))[-1]
        if last.kind != "end" or last.fields["status"] != "FAILED":
            outcome.problems.append(f"the journal ends with {last.kind}, not as FAILED")
        sync(writer.folder.path)
        outcome.add(compare_runs(uri, [writer]))
    return outcome


def read_only(case: Case, uri: str) -> Outcome:
    """A run in a folder that is read-only, and one that is there and is to be sent."""
    outcome = Outcome(details={"kind": "read-only"})
    with small_disk(case.folder / "disk") as disk:
        writer = RunWriter(
            make_folder(disk / "run", case.chance), "--offline", uri=uri, log=case.folder / "log"
        )
        writer.begins()
        time.sleep(case.chance.uniform(0, 1))
        writer.end()
        other = make_folder(disk / "other", case.chance)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        outcome.fault("read-only folder")
        again = RunWriter(other, uri=uri, log=case.folder / "other.log")
        _expect_error(outcome, again.wait(), again.text(), "can be written to")
        done = run_sync(writer.folder, **{URI: uri})
        _expect_error(outcome, done.returncode, done.stderr, "can be written to")
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        sync(writer.folder.path)
        outcome.add(compare_runs(uri, [writer]))
    return outcome


def _expect_error(outcome: Outcome, code: int, text: str, remedy: str) -> None:
    """A user's error: exit code 2, a line with the remedy, no traceback."""
    said = [line for line in text.splitlines() if line.startswith("skinml: error: ")]
    if code != 2 or len(said) != 1 or remedy not in said[0] or "Traceback" in text:
        outcome.problems.append(f"exit code {code}, no clear error: {text[-500:]}")


# Python's clock alone: that of the machine is everybody's. psutil computes from the time of the
# start of the machine, which moves with its clock, when a process was started.
CLOCK = """
import os, time

def _shift():
    try:
        with open(os.environ["SKINML_FAULTS_CLOCK"]) as file:
            return int(file.read() or 0)
    except OSError:
        return 0

_time, _time_ns = time.time, time.time_ns
time.time = lambda: _time() + _shift()
time.time_ns = lambda: _time_ns() + _shift() * 10**9
import psutil._pslinux
_boot_time = psutil._pslinux.boot_time
psutil._pslinux.boot_time = lambda: _boot_time() + _shift()
"""


def jumping_clock(case: Case, uri: str) -> Outcome:
    """The clock of a run and of its forwarder is set back and forward by an hour, as they go on."""
    outcome = Outcome(details={"kind": "clock", "jumps": []})
    (case.folder / "sitecustomize.py").write_text(CLOCK)
    clock = case.folder / "clock"
    paths = f"{case.folder}:{ROOT}"
    writer = RunWriter(
        make_folder(case.folder / "run", case.chance),
        uri=uri,
        variables={"PYTHONPATH": paths, "SKINML_FAULTS_CLOCK": str(clock)},
    )
    try:
        writer.begins()
        for shift in case.chance.choice(((HOUR, 0), (-HOUR, 0), (HOUR, -HOUR), (-HOUR, HOUR))):
            time.sleep(case.chance.uniform(0, 2))
            clock.with_suffix(".new").write_text(str(shift))
            clock.with_suffix(".new").replace(clock)
            outcome.fault("jump of the clock")
            outcome.details["jumps"].append(shift)
            before = acknowledged(writer.folder)
            wait_until(lambda: acknowledged(writer.folder) > before, "more is sent")  # noqa: B023
        if (code := writer.end()) != 0:
            outcome.problems.append(f"exit code {code}: {writer.said()}")
    finally:
        writer.kill()
    outcome.add(compare_runs(uri, [writer]))
    hours = [
        record.fields["time"] // 1000 // HOUR
        for record in read_journal(writer.folder.journal)
        if record.kind == "metrics"
    ]
    if len(set(hours)) < 2:
        outcome.problems.append("the clock did not jump in what the run noted")
    return outcome


KINDS = (full_disk, jumping_clock, full_disk, jumping_clock, read_only)


@contextmanager
def bad_surroundings(scratch: Path) -> Iterator[Run]:
    """Cases of a full disk, of a jumping clock, of a read-only folder."""
    with sqlite_server(scratch / "server") as server, as_client(**{URI: server.address}):
        yield lambda case: KINDS[case.number % len(KINDS)](case, server.address)
