"""What the cache of arrays promises: no work done twice, no damaged entry used, a bounded size."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from skinml import cache
from skinml.cache import cache_dir, cached_array
from tests.waiting import PATIENCE


class Work:
    """A computation that counts how often it is done."""

    def __init__(self, value: int = 7, size: int = 1000) -> None:
        self.array = np.full(size, value, dtype=np.uint8)
        self.done = 0

    def __call__(self, array: np.ndarray) -> None:
        self.done += 1
        array[:] = self.array


def kept(key: str, work: Work) -> np.ndarray:
    """The cached array of a computation."""
    return cached_array(key, work.array.shape, work.array.dtype, work)


def entries() -> list[Path]:
    return sorted((cache_dir() / "arrays").glob("*.npy"))


def test_folder_is_the_environments() -> None:
    # conftest points it into the test's own folder.
    assert str(cache_dir()) == os.environ["SKINML_CACHE_DIR"]


def test_folder_is_the_users_own_without_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SKINML_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    monkeypatch.setenv("LOCALAPPDATA", "/somewhere")
    assert cache_dir().is_absolute()
    assert "skinml" in cache_dir().parts


def test_second_call_does_not_compute() -> None:
    work = Work()
    first, second = kept("key", work), kept("key", work)
    assert work.done == 1
    np.testing.assert_array_equal(first, work.array)
    np.testing.assert_array_equal(second, work.array)
    assert second.dtype == work.array.dtype


def test_another_key_is_another_array() -> None:
    kept("features of mobilenet", Work(1))
    np.testing.assert_array_equal(kept("features of mobilenetv2", Work(2)), Work(2).array)
    np.testing.assert_array_equal(kept("features of mobilenet", Work(3)), Work(1).array)


def flip_last_byte(entry: Path) -> None:
    content = bytearray(entry.read_bytes())
    content[-1] ^= 1
    entry.write_bytes(content)


def truncate(entry: Path) -> None:
    entry.write_bytes(entry.read_bytes()[:-1])


def empty(entry: Path) -> None:
    entry.write_bytes(b"")


def lose_checksum(entry: Path) -> None:
    entry.with_suffix(".sha256").unlink()


def half_write_checksum(entry: Path) -> None:
    checksum = entry.with_suffix(".sha256")
    checksum.write_text(checksum.read_text()[:10])


def lose_array(entry: Path) -> None:
    entry.unlink()


@pytest.mark.parametrize(
    "damage", [flip_last_byte, truncate, empty, lose_checksum, half_write_checksum, lose_array]
)
def test_damaged_entry_is_computed_again_and_mended(damage: Callable[[Path], None]) -> None:
    work = Work()
    kept("key", work)
    damage(entries()[0])
    np.testing.assert_array_equal(kept("key", work), work.array)
    assert work.done == 2
    np.testing.assert_array_equal(kept("key", work), work.array)
    assert work.done == 2


def test_oldest_entries_go_when_the_size_is_exceeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three entries fit; the least recently used goes first, the newest never."""
    monkeypatch.setattr(cache, "MAX_ARRAYS_BYTES", 3 * 1200)
    works = {key: Work() for key in ("a", "b", "c")}
    path_of = {}
    for age, (key, work) in enumerate(works.items()):
        before = set(entries())
        kept(key, work)
        (path_of[key],) = set(entries()) - before
        # Made long ago, "a" first.
        os.utime(path_of[key], (1_000_000 + age, 1_000_000 + age))
    kept("a", works["a"])  # Used now: "b" is the oldest.

    kept("d", Work())
    assert len(entries()) == 3
    assert path_of["b"] not in entries()
    # Array and checksum go together.
    assert {path.stem for path in entries()} == {
        path.stem for path in (cache_dir() / "arrays").glob("*.sha256")
    }
    assert works["a"].done == 1


def test_newest_entry_stays_even_if_it_alone_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MAX_ARRAYS_BYTES", 10)
    work = Work()
    kept("old", Work())
    kept("key", work)
    kept("key", work)
    assert work.done == 1
    assert len(entries()) == 1


def test_failures_leave_nothing_behind() -> None:
    def fail(array: np.ndarray) -> None:
        array[0] = 1
        raise OSError("interrupted")

    with pytest.raises(OSError, match="interrupted"):
        cached_array("key", (3,), np.uint8, fail)
    assert not list((cache_dir() / "arrays").iterdir())


def test_a_full_disk_costs_the_cache_and_not_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    work = Work()
    np.testing.assert_array_equal(kept("key", work), work.array)
    assert "do not fit" in capsys.readouterr().err
    assert not list((cache_dir() / "arrays").iterdir())


def test_an_entry_of_another_shape_or_type_is_not_used() -> None:
    kept("key", Work())
    other = Work(size=500)
    np.testing.assert_array_equal(kept("key", other), other.array)
    assert other.done == 1


def test_what_is_kept_is_read_from_its_file_and_cannot_be_changed() -> None:
    kept("key", Work())
    array = kept("key", Work())
    assert isinstance(array, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 0


def test_of_two_at_once_the_second_takes_what_the_first_computes() -> None:
    """Two runs of one sweep want the same features at the same time."""
    started, go_on = threading.Event(), threading.Event()

    class Slow(Work):
        def __call__(self, array: np.ndarray) -> None:
            started.set()
            go_on.wait(PATIENCE)
            super().__call__(array)

    first, second = Slow(), Work(8)
    with ThreadPoolExecutor() as pool:
        one = pool.submit(kept, "key", first)
        started.wait(PATIENCE)
        two = pool.submit(kept, "key", second)
        time.sleep(0.2)
        go_on.set()
        np.testing.assert_array_equal(one.result(PATIENCE), first.array)
        np.testing.assert_array_equal(two.result(PATIENCE), first.array)
    assert (first.done, second.done) == (1, 0)


KILLED = """
import os, signal
import numpy as np
from skinml.cache import cached_array
def die(array):
    array[:10] = 1
    os.kill(os.getpid(), signal.SIGKILL)
cached_array("killed", (1000,), np.uint8, die)
"""


def test_what_a_killed_process_left_is_not_used_and_goes() -> None:
    code = subprocess.run([sys.executable, "-c", KILLED], check=False, timeout=PATIENCE).returncode
    assert code == -signal.SIGKILL
    assert list((cache_dir() / "arrays").glob("*.partial"))
    kept("another key", Work())
    assert not list((cache_dir() / "arrays").glob("*.partial"))
    assert not list((cache_dir() / "arrays").glob("*.lock"))
