"""One sweep of the same cells at a time: who holds the lock, and what is no lock at all."""

import os
from pathlib import Path

import pytest

from skinml.base.cache import cache_dir
from skinml.base.errors import UserError
from skinml.sweep.alone import only_one


def refused(key: str = "k") -> str:
    """What keeps a sweep from its lock, in a line."""
    with pytest.raises(UserError) as caught, only_one(key):
        pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_of_two_sweeps_of_a_key_the_second_is_told_of_the_first() -> None:
    with only_one("k"), only_one("another"):
        assert f"is running on this machine already (process {os.getpid()})" in refused()
    with only_one("k"):
        """The lock is lifted."""


def test_a_cache_that_cannot_be_written_to_is_no_running_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ended a sweep by a traceback."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("SKINML_CACHE_DIR", str(tmp_path / "file"))
    told = refused()
    assert told.startswith(f"{tmp_path}/file/locks: the lock of a sweep cannot be made there (Not")
    assert told.endswith("expected a folder that can be written to: name one by SKINML_CACHE_DIR")


def test_a_folder_in_the_place_of_the_lock_is_no_running_sweep() -> None:
    (cache_dir() / "locks" / "sweep-k.db").mkdir(parents=True)
    told = refused()
    assert "(unable to open database file)" in told and "SKINML_CACHE_DIR" in told


def test_a_damaged_lock_is_named_and_can_be_removed() -> None:
    """As a full disk leaves it; everybody who comes after would be told of a running sweep."""
    path = cache_dir() / "locks" / "sweep-k.db"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no database" * 1000)
    told = refused()
    assert told.startswith(f"{path}: is damaged (file is not a database); expected ")
    assert "remove this file" in told and "SKINML_CACHE_DIR" in told
    path.unlink()
    with only_one("k"):
        """The remedy helps."""
