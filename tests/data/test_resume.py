"""Killed anywhere, preparation goes on where it was, to the same bytes; two do not collide."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from skinml.base.errors import UserError
from skinml.base.locks import exclusive
from skinml.data import making as module
from skinml.data.images import decode_image
from skinml.data.prepare import open_data, prepare, prepared_folder
from skinml.data.prepared import open_prepared
from skinml.data.worklog import DoneImage, Worklog, in_order
from tests.data.conftest import TRAIN, contents, picture

DIE = """
import os, signal, sys
from pathlib import Path
from skinml.data import making as module

name, count = sys.argv[3], int(sys.argv[4])
holder = Path if name == "Path.replace" else module
name = name.rpartition(".")[2]
function = getattr(holder, name)
calls = 0

def dying(*arguments):
    global calls
    calls += 1
    if calls == count:
        os.kill(os.getpid(), signal.SIGKILL)
    return function(*arguments)

setattr(holder, name, dying)
module.prepare(Path(sys.argv[1]), Path(sys.argv[2]), jobs=1)
"""


def killed(official: Path, out: Path, name: str, count: int) -> None:
    """Prepare in a process that dies by SIGKILL at the given call."""
    arguments = [sys.executable, "-c", DIE, str(official), str(out), name, str(count)]
    done = subprocess.run(arguments, check=False, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The images that are decoded in this process."""
    seen: list[bytes] = []

    def note(content: bytes, as_stored: bool) -> np.ndarray:
        seen.append(content)
        return decode_image(content, as_stored)

    monkeypatch.setattr(module, "decode_image", note)
    return seen


@pytest.mark.parametrize(
    ("name", "count", "left"),
    [
        ("decode_image", 1, 9),
        ("decode_image", 5, 5),
        ("write_manifest", 1, 0),
        # The manifest, then the set: renamed each in its turn.
        ("Path.replace", 1, 0),
        ("Path.replace", 2, 0),
    ],
)
def test_killed_preparation_goes_on_to_the_same_bytes(
    name: str, count: int, left: int, official: Path, out: Path, decoded: list[bytes]
) -> None:
    expected = contents(prepare(official, out.with_name("whole")).folder)
    killed(official, out, name, count)
    with pytest.raises(UserError):
        open_prepared(out)
    decoded.clear()
    assert contents(prepare(official, out).folder) == expected
    assert len(decoded) == left
    assert sorted(path.name for path in out.parent.iterdir()) == ["prepared", "whole"]


def test_kill_while_a_set_is_replaced_loses_neither(
    official: Path, out: Path, decoded: list[bytes]
) -> None:
    """Between the two renames nothing is there; the next call finds all the work done."""
    prepare(official, out)
    (official / TRAIN.image_folder / "ISIC_0000000.jpg").write_bytes(picture(44))
    expected = contents(prepare(official, out.with_name("whole")).folder)
    killed(official, out, "Path.replace", 4)  # Source, manifest, old set, new set.
    assert not out.exists()
    decoded.clear()
    assert contents(prepare(official, out).folder) == expected
    assert not decoded


def test_what_a_kill_after_the_last_rename_leaves_is_removed(official: Path) -> None:
    out = prepared_folder("isic2017", official)
    killed(official, out, "_remove", 2)  # The array's folder is cleared first.
    assert len(list(out.parent.iterdir())) == 2
    assert len(open_data("isic2017", str(official))) == 9
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_ctrl_c_keeps_what_is_done(
    official: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bytes] = []

    def stop_at_the_fifth(content: bytes, as_stored: bool) -> np.ndarray:
        seen.append(content)
        if len(seen) == 5:
            raise KeyboardInterrupt
        return decode_image(content, as_stored)

    monkeypatch.setattr(module, "decode_image", stop_at_the_fifth)
    with pytest.raises(KeyboardInterrupt):
        prepare(official, out, jobs=1)
    assert not out.exists()
    prepare(official, out)
    assert len(seen) < 5 + 9
    assert [path.name for path in out.parent.iterdir()] == ["prepared"]


def workshop(out: Path) -> Path:
    return out.with_name(f".{out.name}.partial")


@pytest.fixture
def half(official: Path, out: Path, decoded: list[bytes]) -> Iterator[dict[str, bytes]]:
    """A preparation that was killed at the fifth image; the value is what a whole one makes."""
    whole = out.parent.with_name("elsewhere") / "whole"
    expected = contents(prepare(official, whole).folder)
    killed(official, out, "decode_image", 5)
    decoded.clear()
    yield expected


def test_pixels_that_the_disk_lost_are_made_again(
    official: Path, out: Path, half: dict[str, bytes], decoded: list[bytes]
) -> None:
    """After a power failure the journal may be there and the pixels not."""
    pixels = np.load(workshop(out) / "set" / "images.npy", mmap_mode="r+")
    pixels[2] = 0
    pixels.flush()
    assert contents(prepare(official, out).folder) == half
    assert len(decoded) == 6


@pytest.mark.parametrize("tail", [b"ISIC_0000007,12", b"\xff\xfe", b"a,b,c,d,e\n", b"\n\n"])
def test_torn_line_of_the_journal_is_ignored(
    tail: bytes, official: Path, out: Path, half: dict[str, bytes], decoded: list[bytes]
) -> None:
    with (workshop(out) / "journal.csv").open("ab") as file:
        file.write(tail)
    assert contents(prepare(official, out).folder) == half
    assert len(decoded) == 5


@pytest.mark.parametrize("size", [0, 50, 5000])
def test_torn_array_is_made_again(
    size: int, official: Path, out: Path, half: dict[str, bytes]
) -> None:
    os.truncate(workshop(out) / "set" / "images.npy", size)
    assert contents(prepare(official, out).folder) == half


def test_image_that_was_replaced_meanwhile_is_decoded_again(
    official: Path, out: Path, half: dict[str, bytes], decoded: list[bytes]
) -> None:
    """Even by one of the same size."""
    path = official / TRAIN.image_folder / "ISIC_0000000.jpg"
    content = picture(0)
    path.write_bytes(content[:-20] + b"\x55" + content[-19:])
    expected = contents(prepare(official, out.with_name("again")).folder)
    decoded.clear()
    assert contents(prepare(official, out).folder) == expected
    assert len(decoded) == 6


def test_other_code_or_other_ids_begin_anew(
    official: Path, out: Path, half: dict[str, bytes], decoded: list[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(module, "version", lambda name: "99")
    assert contents(prepare(official, out).folder) == half
    assert len(decoded) == 9


def test_second_process_waits_and_takes_what_the_first_made(
    official: Path, out: Path, decoded: list[bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    """As two runs that are started at once on a fresh machine do."""
    made = prepare(official, out.with_name("first"))
    decoded.clear()
    results = []
    thread = threading.Thread(target=lambda: results.append(prepare(official, out)))
    with exclusive(workshop(out) / "lock", "unused") as waited:
        assert not waited
        thread.start()
        while "waiting for another process" not in capfd.readouterr().err:
            time.sleep(0.01)
        shutil.copytree(made.folder, out)
        shutil.rmtree(workshop(out))
    thread.join()
    assert results[0].digest == made.digest
    assert not decoded
    assert not workshop(out).exists()


def test_lock_of_a_dead_process_is_free(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    script = """
        import os, signal, sys
        from pathlib import Path
        from skinml.base.locks import exclusive
        with exclusive(Path(sys.argv[1]), "waiting"):
            os.kill(os.getpid(), signal.SIGKILL)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script), str(path)], check=False)
    assert path.exists()
    with exclusive(path, None) as waited:
        assert not waited


def test_lock_without_a_notice_does_not_wait(tmp_path: Path) -> None:
    with exclusive(tmp_path / "lock", None) as first, exclusive(tmp_path / "lock", None) as second:
        assert (first, second) == (False, True)


def test_no_more_images_are_in_memory_than_the_window_holds() -> None:
    """`pool.map` would submit them all and keep every result until its turn."""
    alive, most = 0, 0
    lock = threading.Lock()

    def work(item: int) -> int:
        nonlocal alive, most
        with lock:
            alive += 1
            most = max(most, alive)
        time.sleep(0.001 * (item % 3))
        return item

    with ThreadPoolExecutor(4) as pool:
        for expected, result in enumerate(in_order(pool, work, range(200), ahead=8)):
            assert result == expected
            with lock:
                alive -= 1
    assert 4 <= most <= 8


def test_window_passes_a_failure_on_and_drops_the_rest() -> None:
    started = []

    def work(item: int) -> int:
        started.append(item)
        if item == 3:
            raise ValueError("three")
        return item

    with ThreadPoolExecutor(1) as pool, pytest.raises(ValueError, match="three"):
        list(in_order(pool, work, range(1000), ahead=10))
    assert len(started) <= 13


def test_rows_of_many_threads_are_all_in_the_journal(tmp_path: Path) -> None:
    journal = Worklog(tmp_path / "journal.csv", "heading")
    rows = [DoneImage(f"ISIC_{n:07}", f"{n}:0", "a" * 64, "b" * 64, "c" * 16) for n in range(500)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(journal.append, rows))
    journal.close()
    again = Worklog(tmp_path / "journal.csv", "heading")
    again.close()
    assert again.rows == {row.image_id: row for row in rows}
    other = Worklog(tmp_path / "journal.csv", "another heading")
    other.close()
    assert not other.rows
