"""Locks on files: one holder at a time, none after the holder's death."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from skinml.base.locks import StillLocked, exclusive, is_locked, lock_file, take_lock

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such locks")

ROOT = Path(__file__).parents[2]

HOLDER = """
import sys, time
from skinml.base.locks import lock_file
from pathlib import Path
descriptor, waited = lock_file(Path(sys.argv[1]), None)
print(descriptor is not None, waited, flush=True)
time.sleep(300)
"""


def test_a_lock_has_one_holder_and_falls_with_it(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "lock"
    command = [sys.executable, "-c", HOLDER, str(path)]
    holder = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert holder.stdout
    try:
        assert holder.stdout.readline() == "True False\n"
        assert is_locked(path) is True
        with exclusive(path, None) as taken:
            assert taken
        with path.open("rb") as file:
            assert take_lock(file.fileno()) is False
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    assert is_locked(path) is False
    with exclusive(path, None) as taken:
        assert not taken and is_locked(path) is True


def test_a_lock_is_waited_for_with_a_limit_and_taken_within_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A holder that is stopped, or hangs, would be waited for without an end."""
    path = tmp_path / "lock"
    with exclusive(path, None), pytest.raises(StillLocked), exclusive(path, "waiting", 0.3):
        pass
    assert capsys.readouterr().err == "waiting\n"
    held, _ = lock_file(path, None)
    assert held is not None
    threading.Timer(0.3, os.close, [held]).start()
    with exclusive(path, "waiting", 300) as waited:
        assert waited and is_locked(path) is True


def test_a_file_system_without_locks_leaves_everyone_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import errno
    import fcntl

    def refuse(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    path = tmp_path / "lock"
    with exclusive(path, "waiting") as taken:
        assert not taken
    assert is_locked(path) is None
    assert capsys.readouterr().err == ""
