"""The journal: whatever happens to it, what is read was written, and what was written is read."""

import errno
import os
import random
import signal
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from skinml.base.errors import UserError
from skinml.tracking import journal as module
from skinml.tracking.journal import Journal, Record, is_written, read_journal

ROOT = Path(__file__).parent.parent.parent

Values = tuple[int, str, dict[str, Any]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.log"


def written(path: Path, count: int = 40) -> list[Values]:
    """A journal of records of all lengths; what stands in it."""
    journal = Journal(path)
    values: list[Values] = []
    for number in range(1, count + 1):
        fields: dict[str, Any] = {"value": number / 7, "text": "é\n" * (number % 9), "n": number}
        journal.append("metrics", **fields)
        values.append((number, "metrics", fields))
    journal.close()
    return values


def plain(records: Iterator[Record]) -> list[Values]:
    return [(record.sequence, record.kind, record.fields) for record in records]


def test_what_is_written_is_read_to_the_last_digit(path: Path) -> None:
    values = written(path)
    assert plain(read_journal(path, complete=True, skipped=pytest.fail)) == values
    journal = Journal(path)
    assert journal.sequence == 40
    assert journal.append("end", status="FINISHED") == 41
    journal.close()
    *first, (number, kind, fields) = plain(read_journal(path))
    assert (first, number, kind, fields) == (values, 41, "end", {"status": "FINISHED"})


def test_a_record_nested_too_deeply_is_none(path: Path) -> None:
    """Its checksum fits: somebody made it so."""
    values = written(path, 1)
    deep = b'2 {"kind":"run","x":%s%s}' % (b"[" * 5000, b"]" * 5000)
    with path.open("ab") as file:
        file.write(b"%08x %s\n" % (zlib.crc32(deep), deep))
    told: list[str] = []
    assert plain(read_journal(path, skipped=told.append)) == values
    assert len(told) == 1 and "damaged bytes" in told[0]


def test_reading_goes_on_where_it_was(path: Path) -> None:
    values = written(path)
    for stop, record in enumerate(list(read_journal(path)), 1):
        rest = plain(read_journal(path, record.end, record.sequence, skipped=pytest.fail))
        assert rest == values[stop:]


def test_a_number_that_is_none_reads_back(path: Path) -> None:
    journal = Journal(path)
    journal.append("metrics", values={"a": float("nan"), "b": float("inf")})
    journal.close()
    [record] = read_journal(path)
    assert str(record.fields["values"]) == "{'a': nan, 'b': inf}"


# Damage


def test_cut_at_every_byte_gives_every_complete_record_and_can_be_gone_on_with(
    path: Path, tmp_path: Path
) -> None:
    values = written(path)
    content = path.read_bytes()
    cut = tmp_path / "cut"
    for length in range(len(content) + 1):
        whole = content[:length].count(b"\n")
        cut.write_bytes(content[:length])
        told: list[str] = []
        assert plain(read_journal(cut, skipped=told.append, complete=True)) == values[:whole]
        assert bool(told) == (length > 0 and content[length - 1 : length] != b"\n")
        if length % 71:  # Opening it costs a sync of the disk.
            continue
        journal = Journal(cut)
        assert journal.append("end") == whole + 1
        journal.close()
        again = plain(read_journal(cut, skipped=pytest.fail, complete=True))
        assert again == [*values[:whole], (whole + 1, "end", {})]


def test_random_bits_turned_never_give_a_wrong_value(path: Path, tmp_path: Path) -> None:
    """2,000 times one to eight bits: every record before the first is there, none is wrong."""
    values = written(path)
    content = path.read_bytes()
    right = {number: value for number, *value in values}
    flipped = tmp_path / "flipped"
    chance = random.Random(6)
    for _ in range(2_000):
        damaged = bytearray(content)
        places = {chance.randrange(8 * len(content)) for _ in range(chance.randint(1, 8))}
        for place in places:
            damaged[place // 8] ^= 1 << place % 8
        flipped.write_bytes(damaged)
        told: list[str] = []
        found = plain(read_journal(flipped, skipped=told.append, complete=True))
        before = content[: min(places) // 8].count(b"\n")
        assert found[:before] == values[:before]
        assert all(right[number] == value for number, *value in found)
        assert told and len(found) < len(values)


def test_blocks_of_zeros_repeated_and_lost_are_told(path: Path) -> None:
    values = written(path)
    content = path.read_bytes()
    lines = content.splitlines(keepends=True)
    for damaged, expected, word in (
        (b"".join(lines[:10]) + b"".join(lines[13:]), values[:10] + values[13:], "11 to 13"),
        (b"".join(lines[:10] + lines[9:]), values, "damaged bytes"),
        (content + b"\0" * 5000, values, "no complete record"),
        (content[:400] + b"\0" * 400 + content[800:], None, "damaged bytes"),
        (b"\0" * 100 + b"\n" + content, values, "damaged bytes at 0"),
    ):
        path.write_bytes(damaged)
        told: list[str] = []
        found = plain(read_journal(path, skipped=told.append, complete=True))
        assert any(word in line for line in told), told
        assert (
            found == expected
            if expected is not None
            else set(map(str, found)) < set(map(str, values))
        )


def test_a_file_without_any_line_is_read_in_pieces(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LONGEST", 1000)
    path.write_bytes(b"x" * 10_500)
    assert list(read_journal(path)) == []


def test_damage_within_is_left_as_it_is_and_numbers_go_on(path: Path) -> None:
    values = written(path, 5)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:4], b"rubbish\n"]))
    journal = Journal(path)
    journal.append("end")
    journal.close()
    assert plain(read_journal(path)) == [*values[:4], (5, "end", {})]


# Writers


def test_one_writer_at_a_time(path: Path) -> None:
    journal = Journal(path)
    assert is_written(path)
    with pytest.raises(UserError, match="another process writes it"):
        Journal(path)
    journal.close()
    assert is_written(path) is False
    Journal(path).close()


def test_threads_take_turns(path: Path) -> None:
    journal = Journal(path)

    def write(name: int) -> None:
        for number in range(200):
            journal.append("metrics", thread=name, number=number)

    threads = [threading.Thread(target=write, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    journal.close()
    found = plain(read_journal(path, skipped=pytest.fail, complete=True))
    assert [number for number, *_ in found] == list(range(1, 801))
    for name in range(4):
        own = [fields["number"] for _, _, fields in found if fields["thread"] == name]
        assert own == list(range(200))


INTERRUPTED = """
import random, signal, sys, threading
from pathlib import Path
from skinml.tracking.journal import Journal

def stop(*_):
    raise KeyboardInterrupt

signal.signal(signal.SIGALRM, stop)
journal, chance = Journal(Path(sys.argv[1])), random.Random(1)
told = []
for _ in range(2000):
    try:
        signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-6, 2e-4))
        while True:
            journal.append("metrics", text="x" * 300)
    except KeyboardInterrupt:
        told.append(journal.sequence)
signal.setitimer(signal.ITIMER_REAL, 0)
journal.close()
print(journal.sequence)
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no such timer")
def test_a_signal_in_the_middle_of_a_record_leaves_it_whole_or_away(path: Path) -> None:
    """SIGTERM and Ctrl-C are exceptions, which come between any two instructions."""
    result = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, str(path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    found = [r.sequence for r in read_journal(path, skipped=pytest.fail, complete=True)]
    assert found == list(range(1, int(result.stdout) + 1))


# A disk that is full, a folder that is read-only

FULL = """
import sys
from pathlib import Path
from skinml.base.errors import UserError
from skinml.tracking.journal import Journal

journal = Journal(Path(sys.argv[1]) / "journal.log")
try:
    while True:
        journal.append("metrics", values={"loss": journal.sequence / 7})
        journal.sync()
except UserError as error:
    print(error)
print(journal.sequence)
try:  # Others, the machine's load among them, may not take what is kept for the last words.
    journal.append("metrics", values={"loss": 0.5, "more": "x" * 4096})
    sys.exit("there is room")
except UserError:
    journal.release()
journal.append("end", status="FAILED")
journal.sync()
journal.close()
Path(sys.argv[2]).write_bytes((Path(sys.argv[1]) / "journal.log").read_bytes())
"""


@pytest.fixture
def mounting() -> None:
    """Skips where this process may not mount a file system of its own."""
    command = ["unshare", "--mount", "mount", "-t", "tmpfs", "-o", "size=1m", "none", "/mnt"]
    if sys.platform != "linux" or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no right to mount a file system; the next test is its like")


def test_a_full_disk_is_told_and_the_last_words_still_fit(
    tmp_path: Path, path: Path, mounting: None
) -> None:
    """A real file system of 200 kB."""
    script, small = tmp_path / "full.py", tmp_path / "small"
    script.write_text(FULL)
    small.mkdir()
    mount = f"mount -t tmpfs -o size=200k none {small}"
    command = f"{mount} && {sys.executable} {script} {small} {path}"
    result = subprocess.run(
        ["unshare", "--mount", "sh", "-c", command],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    error, count = result.stdout.splitlines()
    assert "journal.log: cannot be written (No space left on device); free some space" in error
    found = plain(read_journal(path, skipped=pytest.fail, complete=True))
    assert found[-1] == (int(count) + 1, "end", {"status": "FAILED"})
    assert [f["values"]["loss"] for _, _, f in found[:-1]] == [n / 7 for n in range(int(count))]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("at_once", [0, 10])
def test_a_write_that_fails_in_the_middle_leaves_the_journal_readable(
    path: Path, monkeypatch: pytest.MonkeyPatch, number: int, at_once: int
) -> None:
    values = written(path)
    journal = Journal(path)
    write = os.write

    def fail(descriptor: int, data: bytes) -> int:
        if at_once and len(data) > 30:
            return write(descriptor, data[:at_once])
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fail)
        with pytest.raises(UserError, match=os.strerror(number)) as caught:
            journal.append("metrics", value="x" * 40)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert plain(read_journal(path, complete=True, skipped=pytest.fail)) == values
    assert journal.append("end") == 41
    journal.close()
    assert len(list(read_journal(path, complete=True, skipped=pytest.fail))) == 41


def test_a_folder_that_cannot_be_written_to_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written") as caught:
        Journal(tmp_path / "nowhere" / "journal.log")
    assert "\n" not in str(caught.value)


def test_closing_frees_the_reserve(path: Path) -> None:
    Journal(path).close()
    assert [found.name for found in path.parent.iterdir()] == ["journal.log"]
