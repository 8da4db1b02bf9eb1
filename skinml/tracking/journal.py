"""The journal of a run: an append-only file from which everything that MLflow shows can be rebuilt.

One line a record: the CRC-32 of what follows it, the record's sequence number (from 1, without a
gap), JSON. A line counts once it is there with its end, and with its checksum: whatever a killed
process, a power cut or a bad disk leaves, a reader gets records as they were written or none.
"""

import errno
import json
import os
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from skinml.base.errors import UserError
from skinml.base.files import check_regular, sync_folder
from skinml.base.locks import is_locked, take_lock

# The longest line: a reader of a damaged file never holds more. The largest record, the parameters
# of a run, has some kilobytes.
LONGEST = 4 * 2**20

# Kept free for the last words of a run that a full disk ends.
RESERVE = 64 * 2**10


class Record(NamedTuple):
    """One record: its number, its kind, what it says, and the offset in bytes at which it ends."""

    sequence: int
    kind: str
    fields: dict[str, Any]
    end: int


def read_journal(
    path: Path,
    offset: int = 0,
    last: int = 0,
    skipped: Callable[[str], None] | None = None,
    complete: bool = False,
) -> Iterator[Record]:
    """Every complete record from `offset` on, where `last` is the number of the one before.

    What is damaged is left out and told to `skipped`, a line each. What follows the last line's
    end is being written, or was when its writer died: told only with `complete`. Holds one line at
    a time.
    """
    tell = skipped or (lambda text: None)
    damaged = 0
    check_regular(path)
    with path.open("rb") as file:
        file.seek(offset)
        while line := file.readline(LONGEST):
            if not line.endswith(b"\n") and len(line) < LONGEST:
                if complete:
                    tell(f"{path}: the last {len(line)} bytes are no complete record")
                break
            start, offset = offset, offset + len(line)
            found = parse(line)
            if found is None or found[0] <= last:
                damaged += len(line)
                tell(f"{path}: {len(line)} damaged bytes at {start} skipped")
                continue
            sequence, fields = found
            if sequence != last + 1:
                missing = f"{last + 1} to {sequence - 1}" if sequence > last + 2 else f"{last + 1}"
                tell(f"{path}: record {missing} missing before byte {start}")
            last = sequence
            yield Record(sequence, fields.pop("kind"), fields, offset)


def parse(line: bytes) -> tuple[int, dict[str, Any]] | None:
    """The number and the fields of a line with its end; None where it is not as it was written."""
    checksum, body = line[:8], line[9:-1]
    if line[8:9] != b" " or line[-1:] != b"\n" or checksum != _checksum(body):
        return None
    number, _, text = body.partition(b" ")
    try:
        fields = json.loads(text)
        return (int(number), fields) if isinstance(fields["kind"], str) else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None  # A checksum that fits by itself, but nothing of ours.


def _checksum(body: bytes) -> bytes:
    return b"%08x" % zlib.crc32(body)


class Journal:
    """The writer of a journal: one process at a time, any of its threads."""

    def __init__(self, path: Path) -> None:
        """Open a journal, or make it; what a killed writer left of a last record is cut off.

        A folder that cannot be written to, or another writer, is a `UserError`.
        """
        self.path = path
        self._mutex = threading.Lock()
        self._reserve = path.with_name(f".{path.name}.reserve")
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise _cannot_write(path, error) from None
        try:
            if not _lock(self._descriptor):
                raise UserError(
                    f"{path}: another process writes it; expected one run at a time in a folder: "
                    "wait for its end, or stop it"
                )
            self._last = self._cut_tail()
            _fill(self._reserve, RESERVE)
            sync_folder(path.parent)
        except OSError as error:
            os.close(self._descriptor)
            raise _cannot_write(path, error) from None
        except BaseException:
            os.close(self._descriptor)
            raise

    def append(self, kind: str, **fields: Any) -> int:
        """Add a record, whole or not at all; returns its number.

        It outlives this process from then on, and the machine's power from the next `sync`. A disk
        that is full is a `UserError`; the journal then ends with the record before.
        """
        text = json.dumps({"kind": kind, **fields}, separators=(",", ":")).encode()
        with self._mutex:
            self._settle()
            body = b"%d %s" % (self.sequence + 1, text)
            line = b"%s %s\n" % (_checksum(body), body)
            if len(line) >= LONGEST:
                raise ValueError(f"a record of {len(line)} bytes; expected less than {LONGEST}")
            try:
                while line:
                    line = line[os.write(self._descriptor, line) :]
            except OSError as error:
                self._settle()
                raise _cannot_write(self.path, error) from None
            self._settle()
            return self.sequence

    @property
    def sequence(self) -> int:
        """The number of the last record."""
        return self._last[0]

    def _settle(self) -> None:
        """Count what has been appended; half a line is cut off: the next would be glued to it.

        A signal's exception ends a call between any two of its instructions; the next one finds
        in the file how far it was. A whole record stands: it may have been read.
        """
        sequence, end = self._last
        size = os.fstat(self._descriptor).st_size
        if size == end:
            return
        if parse(os.pread(self._descriptor, size - end, end)):
            self._last = sequence + 1, size
        else:
            os.ftruncate(self._descriptor, end)

    def sync(self) -> None:
        """Bring all that was appended onto the disk itself, before this returns."""
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise _cannot_write(self.path, error) from None

    def release(self) -> None:
        """Give back what is kept of the disk for the last words of a run: they are said."""
        self._reserve.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file, which ends the right to write it."""
        with self._mutex:
            self._settle()
            self.release()
            os.close(self._descriptor)

    def _cut_tail(self) -> tuple[int, int]:
        """Remove what follows the last line's end; the number of the last record, and the size."""
        last = 0
        for record in read_journal(self.path):
            last = record.sequence
        size = os.fstat(self._descriptor).st_size
        tail = _tail(self._descriptor, size)
        if tail:
            os.ftruncate(self._descriptor, size - tail)
        return last, size - tail


def is_written(path: Path) -> bool | None:
    """Whether a living process of this machine has a journal open for writing; None: unknown."""
    return is_locked(path)


def _tail(descriptor: int, size: int) -> int:
    """How many bytes follow the end of the last line of a file."""
    tail = 0
    while tail < size:
        step = min(2**16, size - tail)
        block = os.pread(descriptor, step, size - tail - step)
        if (found := block.rfind(b"\n")) >= 0:
            return tail + step - found - 1
        tail += step
    return tail


def _lock(descriptor: int) -> bool:
    """Take the writer's lock, which the system lifts when its holder dies; whether it was free.

    Where the system has no such locks, everyone is taken to be alone.
    """
    patience = time.monotonic() + 1
    # Whoever asks whether it is taken (`is_written`) takes it for a moment.
    while take_lock(descriptor) is False:
        if time.monotonic() > patience:
            return False
        time.sleep(0.01)
    return True


def _fill(path: Path, size: int) -> None:
    """Make a file that really occupies so much of the disk."""
    with path.open("wb") as file:
        file.write(os.urandom(size))  # Some file systems store no zeros.
        file.flush()
        os.fsync(file.fileno())


def _cannot_write(path: Path, error: OSError) -> UserError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    remedy = "free some space" if full else "expected a folder that can be written to"
    return UserError(
        f"{path}: cannot be written ({error.strerror}); {remedy}. What was noted before is complete"
    )
