"""What the cache of arrays promises: no work done twice, no damaged entry used, a bounded size."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from skinml.base import cache
from skinml.base.cache import cache_dir, cached_array
from tests.waiting import PATIENCE


class Work:
    """A computation that counts how often it is done."""

    def __init__(self, value: int = 7, size: int = 1000) -> None:
        self.array = np.full(size, value, dtype=np.uint8)
        self.done = 0

    def __call__(self, array: np.ndarray, done: int) -> Generator[int]:
        self.done += 1
        array[:] = self.array
        yield len(array)


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


def test_a_cache_that_cannot_be_written_to_costs_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A cache folder below a file; one on a read-only file system fails at the same place."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("SKINML_CACHE_DIR", str(tmp_path / "file"))
    work = Work()
    np.testing.assert_array_equal(kept("key", work), work.array)
    told = capsys.readouterr().err
    assert told.startswith(f"skinml: warning: {tmp_path}/file/arrays: cannot be written to (Not a")
    assert "by SKINML_CACHE_DIR: 0 MB are held in memory" in told and told.count("\n") == 1


def test_what_is_kept_in_a_cache_that_is_read_only_is_used(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As one that others keep; with an interrupted entry of theirs, which cannot be locked."""
    work = Work()
    kept("key", work)
    interrupted(70)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "utime", refuse)
    monkeypatch.setattr(os, "open", refuse)
    np.testing.assert_array_equal(kept("key", work), work.array)
    assert (work.done, capsys.readouterr().err) == (1, "")
    another = Work(8)
    np.testing.assert_array_equal(kept("another key", another), another.array)
    assert "cannot be written to (Read-only file system)" in capsys.readouterr().err


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
        def __call__(self, array: np.ndarray, done: int) -> Generator[int]:
            started.set()
            go_on.wait(PATIENCE)
            yield from super().__call__(array, done)

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


# Going on where a process stopped


class Slices:
    """A computation in blocks of ten rows, which ends by an error before the given row."""

    def __init__(self, value: int = 3, size: int = 95, fails_at: int = 1000) -> None:
        self.array = np.full((size, 2), value, np.float32) + np.arange(size)[:, None]
        self.fails_at = fails_at
        self.begun_at: list[int] = []

    def __call__(self, array: np.ndarray, done: int) -> Generator[int]:
        self.begun_at.append(done)
        for first in range(done, len(array), 10):
            if first >= self.fails_at:
                array[first] = -1
                raise OSError("interrupted")
            array[first : first + 10] = self.array[first : first + 10]
            yield min(first + 10, len(array))

    def kept(self, key: str = "key") -> np.ndarray:
        return cached_array(key, self.array.shape, np.float32, self)


def files(*suffixes: str) -> list[Path]:
    folder = cache_dir() / "arrays"
    return sorted(path for path in folder.iterdir() if path.suffix in suffixes)


def interrupted(at: int) -> None:
    with pytest.raises(OSError, match="interrupted"):
        Slices(fails_at=at).kept()


def test_a_computation_goes_on_after_the_last_block_that_is_there() -> None:
    interrupted(40)
    interrupted(70)
    work = Slices()
    np.testing.assert_array_equal(work.kept(), work.array)
    assert work.begun_at == [40 + 30]
    assert not files(".partial", ".blocks", ".lock")
    np.testing.assert_array_equal(work.kept(), work.array)
    assert len(work.begun_at) == 1, "it is kept"


def damage_rows(content: bytearray) -> None:
    content[-60 * 8 - 1] ^= 1  # of row 34, of 95 with 8 bytes each


def cut_in_half(content: bytearray) -> None:
    del content[len(content) // 2 :]


@pytest.mark.parametrize(
    ("suffix", "damage", "goes_on_at"),
    [
        (".partial", damage_rows, 30),
        (".partial", cut_in_half, 30),
        (".partial", bytearray.clear, 0),
        (".blocks", cut_in_half, 30),
        (".blocks", bytearray.clear, 0),
    ],
)
def test_of_what_was_left_only_what_is_whole_is_used(
    suffix: str, damage: Callable[[bytearray], None], goes_on_at: int
) -> None:
    interrupted(70)
    [path] = files(suffix)
    content = bytearray(path.read_bytes())
    damage(content)
    path.write_bytes(content)
    work = Slices()
    np.testing.assert_array_equal(work.kept(), work.array)
    assert work.begun_at == [goes_on_at]
    # The journal that was cut can be appended to.
    np.testing.assert_array_equal(Slices().kept(), work.array)


def test_a_part_of_another_shape_is_not_gone_on_with() -> None:
    interrupted(70)
    work = Slices(size=100)
    np.testing.assert_array_equal(work.kept(), work.array)
    assert work.begun_at == [0]


def age(path: Path, days: float) -> None:
    then = time.time() - days * 24 * 3600
    os.utime(path, (then, then))


@pytest.mark.parametrize(("days", "stays"), [(6.9, True), (7.1, False)])
def test_what_nobody_goes_on_with_goes_after_a_week(days: float, stays: bool) -> None:
    interrupted(70)
    [journal] = files(".blocks")
    age(journal, days)
    Slices().kept("another key")
    assert len(files(".partial", ".blocks")) == (2 if stays else 0)
    assert not files(".lock")


def test_a_part_that_nothing_is_known_of_goes_at_once() -> None:
    """As earlier versions left them."""
    interrupted(70)
    files(".blocks")[0].unlink()
    Slices().kept("another key")
    Slices().kept("another key")
    assert not files(".partial", ".blocks", ".lock")


def test_what_is_being_computed_stays_however_old_it_looks() -> None:
    class Watching(Slices):
        def __call__(self, array: np.ndarray, done: int) -> Generator[int]:
            for rows in super().__call__(array, done):
                for path in files(".blocks"):
                    age(path, 30)
                Slices().kept(f"another key {rows}")
                yield rows

    work = Watching()
    np.testing.assert_array_equal(work.kept(), work.array)
    assert work.begun_at == [0]


def test_parts_count_as_entries_do_where_they_are_too_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    interrupted(70)
    monkeypatch.setattr(cache, "MAX_ARRAYS_BYTES", 1000)
    Slices().kept("another key")
    assert not files(".partial", ".blocks", ".lock")
    assert len(entries()) == 1


KILLED = """
import os, signal
import numpy as np
from skinml.base import cache
step = iter(range({steps}))
def die_or(function):
    def call(*given, **named):
        if next(step, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*given, **named)
    return call
# Around every change of a file.
for name in ("unlink", "replace", "write_text"):
    setattr(cache.Path, name, die_or(getattr(cache.Path, name)))
cache._sha256 = die_or(cache._sha256)
cache._reserve = die_or(cache._reserve)
cache.file_sha256 = die_or(cache.file_sha256)
def fill(array, done):
    print(done, flush=True)
    for first in range(done, 40, 10):
        array[first:first + 10] = first
        yield first + 10
array = cache.cached_array("key", (40,), np.uint8, fill)
assert array.tolist() == [row // 10 * 10 for row in range(40)]
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signal")
def test_killed_at_any_instant_it_goes_on_and_ends_the_same() -> None:
    """At each call that changes or reads a file; the next process computes what is missing."""
    gone_on_at = []
    for steps in range(100):
        first, second = (
            subprocess.run(
                [sys.executable, "-c", KILLED.format(steps=count)],
                check=False,
                timeout=PATIENCE,
                capture_output=True,
                text=True,
            )
            for count in (steps, 1000)
        )
        assert second.returncode == 0, second.stderr
        gone_on_at += [int(line) for line in second.stdout.split()]
        [path] = files(".npy")
        assert not files(".partial", ".blocks", ".lock")
        assert np.load(path).tolist() == [row // 10 * 10 for row in range(40)]
        if first.returncode == 0:
            break
        assert first.returncode == -signal.SIGKILL, first.stderr
        shutil.rmtree(cache_dir())
    assert first.returncode == 0
    assert gone_on_at == sorted(gone_on_at)
    assert set(gone_on_at) == {0, 10, 20, 30, 40}
