"""What the cache of arrays promises: no work done twice, no damaged entry used, a bounded size."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from skinml import cache
from skinml.cache import cache_dir, cached_array


class Work:
    """A computation that counts how often it is done."""

    def __init__(self, value: int = 7, size: int = 1000) -> None:
        self.array = np.full(size, value, dtype=np.uint8)
        self.done = 0

    def __call__(self) -> np.ndarray:
        self.done += 1
        return self.array


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
    first, second = cached_array("key", work), cached_array("key", work)
    assert work.done == 1
    np.testing.assert_array_equal(first, work.array)
    np.testing.assert_array_equal(second, work.array)
    assert second.dtype == work.array.dtype


def test_another_key_is_another_array() -> None:
    cached_array("features of mobilenet", Work(1))
    np.testing.assert_array_equal(cached_array("features of mobilenetv2", Work(2)), Work(2).array)
    np.testing.assert_array_equal(cached_array("features of mobilenet", Work(3)), Work(1).array)


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
    cached_array("key", work)
    damage(entries()[0])
    np.testing.assert_array_equal(cached_array("key", work), work.array)
    assert work.done == 2
    np.testing.assert_array_equal(cached_array("key", work), work.array)
    assert work.done == 2


def test_oldest_entries_go_when_the_size_is_exceeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three entries fit; the least recently used goes first, the newest never."""
    monkeypatch.setattr(cache, "MAX_ARRAYS_BYTES", 3 * 1200)
    works = {key: Work() for key in ("a", "b", "c")}
    path_of = {}
    for age, (key, work) in enumerate(works.items()):
        before = set(entries())
        cached_array(key, work)
        (path_of[key],) = set(entries()) - before
        # Made long ago, "a" first.
        os.utime(path_of[key], (1_000_000 + age, 1_000_000 + age))
    cached_array("a", works["a"])  # Used now: "b" is the oldest.

    cached_array("d", Work())
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
    cached_array("old", Work())
    cached_array("key", work)
    cached_array("key", work)
    assert work.done == 1
    assert len(entries()) == 1


def test_failures_leave_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a failed computation nor a full disk leaves a file that is never dropped."""

    def fail(*_: object, **__: object) -> np.ndarray:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        cached_array("key", fail)
    with monkeypatch.context() as patched, pytest.raises(OSError, match="disk full"):
        patched.setattr(np, "save", fail)
        cached_array("key", Work())
    assert not list((cache_dir() / "arrays").iterdir())
