"""A backup as a folder: database.dump (pg_dump's custom format), artifacts/ and manifest.json.

The manifest is written last, with the rows of every table as counted in the dump's own snapshot and
the SHA-256 of every file. Files that the backup before holds already are hard links to it: each
backup is whole, and costs only what is new. It has its final name once all of it was read back.
"""

import hashlib
import os
import re
import shutil
import stat
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from skinml.base.errors import UserError
from skinml.base.files import file_sha256, read_json
from skinml.service.database import check_dump

MANIFEST = "manifest.json"


# One's own, of five million files.
_LARGEST_MANIFEST = 2**30


DUMP = "database.dump"


ARTIFACTS = "artifacts"


_CHUNK = 1 << 20


_NAME = re.compile(r"\d{8}T\d{6}Z")


_FORMAT = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True)
class Entry:
    """A file of a backup, by what tells that it has not changed."""

    sha256: str
    size: int
    mtime_ns: int


def read_manifest(folder: Path) -> dict[str, Any]:
    """What a backup says of itself; a `UserError` where the folder is none."""
    try:
        manifest: dict[str, Any] = read_json(folder / MANIFEST, _LARGEST_MANIFEST)
        return manifest
    except (OSError, ValueError):
        raise UserError(
            f"{folder}: no backup, it has no readable {MANIFEST}; `make backups` lists those there "
            "are, `make backup` writes one"
        ) from None


def find(name: str, backups: Path) -> Path:
    """A backup by its path, or by its name among the backups; a `UserError` where it is none.

    It is a folder, or the dump that was written before a migration.
    """
    if not name:
        raise UserError("no backup is named; write FROM=…, a name that `make backups` lists")
    path = Path(name) if Path(name).exists() else backups / name
    if not (path.is_file() and path.suffix == ".dump"):
        read_manifest(path)
    return path


def entries_of(manifest: dict[str, Any]) -> dict[str, Entry]:
    return {name: Entry(**entry) for name, entry in manifest["artifacts"].items()}


def known_entries(folder: Path | None) -> dict[str, Entry]:
    """What the next backup may take over from one; nothing where there is none, or it is damaged.

    That one is damaged must not keep the next from being written.
    """
    if folder is None:
        return {}
    try:
        return entries_of(read_manifest(folder))
    except (UserError, KeyError, TypeError, AttributeError):
        told = f"{folder / MANIFEST}: damaged; every file is copied anew"
        print(f"skinml: {told}", file=sys.stderr, flush=True)
        return {}


def holds(path: Path, digest: str) -> bool:
    """Whether a regular file is there, can be read, and has this SHA-256."""
    try:
        return stat.S_ISREG(path.lstat().st_mode) and file_sha256(path) == digest
    except OSError:  # how a file system with checksums of its own tells of damage
        return False


def link_same(source: Path, target: Path, digest: str) -> bool | None:
    """Whether `target` is now a link to a file that has this SHA-256, which was read for it.

    Otherwise nothing is left there. False where the file is gone or another, None where no link can
    be made: storage without them (EPERM), or a file that has as many as it can (EMLINK).
    """
    try:
        os.link(source, target)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    if holds(target, digest):
        return True
    target.unlink()  # not written to: it is the other backup's file as well
    return False


def verify(folder: Path, known: Collection[str] = ()) -> int:
    """Read a backup from end to end; a `UserError` names what is damaged. Returns its bytes.

    A file that the manifest names is one that is found in the backup's own folder, without
    following links: a name that leads elsewhere is none of them. The files of the names `known`
    have just been read and found as the manifest says: they are not read again.
    """
    manifest = read_manifest(folder)
    try:
        entries = entries_of(manifest)
        digest = manifest["database"]["sha256"]
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{folder / MANIFEST}: damaged; take another backup") from None
    wrong = []
    dumped = folder / DUMP
    if not holds(dumped, digest):
        wrong.append(DUMP)
    else:
        check_dump(dumped)
    present = names_below(folder / ARTIFACTS)
    for name, entry in entries.items():
        if name in known and name in present:
            continue
        if name not in present or not holds(folder / ARTIFACTS / name, entry.sha256):
            wrong.append(name)
    wrong += sorted(present - entries.keys())
    if wrong:
        some = ", ".join(wrong[:5]) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        raise UserError(f"{folder}: damaged or not of it: {some}; take another backup")
    files = (dumped, *(folder / ARTIFACTS / name for name in entries))
    return sum(path.stat().st_size for path in files)


def whole_backups(backups: Path) -> list[Path]:
    """Every whole backup, oldest first."""
    found = [path for path in backups.glob("*") if _NAME.fullmatch(path.name)]
    return sorted(path for path in found if (path / MANIFEST).exists())


def newest_backup(backups: Path) -> Path | None:
    whole = whole_backups(backups)
    return whole[-1] if whole else None


def free_name(backups: Path) -> str:
    """The time in UTC, or else the second after the newest backup, as a name that is free.

    The names are the order in which the oldest are removed. After a clock that ran ahead was set
    right, one by the time alone would be the oldest, and the newest backup removed.
    """
    moment = datetime.now(UTC)
    newest = newest_backup(backups)
    if newest is not None:
        try:
            last = datetime.strptime(newest.name, _FORMAT).replace(tzinfo=UTC)
            moment = max(moment, last + timedelta(seconds=1))
        except (ValueError, OverflowError):
            raise UserError(
                f"{newest}: its name is no time, expected one like 20270102T023000Z; rename it"
            ) from None
    while (backups / (name := moment.strftime(_FORMAT))).exists():
        moment += timedelta(seconds=1)
    return name


def remove_backup(folder: Path) -> None:
    # First no backup any more, then gone: half a one is never taken for a whole one.
    (folder / MANIFEST).unlink()
    shutil.rmtree(folder)


def walk_files(folder: Path) -> Iterator[Path]:
    """The files below a folder; a link is neither followed nor kept, MLflow makes none.

    What is not there, or is deleted meanwhile, holds none. A folder that cannot be read is a
    `UserError`: all below it would be missing without a word.
    """
    for root, names, files in os.walk(folder, onerror=_refuse_unread, followlinks=False):
        names.sort()
        for name in sorted(files):
            path = Path(root, name)
            try:
                regular = stat.S_ISREG(path.lstat().st_mode)
            except OSError as error:
                _refuse_unread(error)
                continue
            if regular:
                yield path


def _refuse_unread(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise UserError(
            f"{error.filename}: {error.strerror}, expected to find the files there; mend the disk "
            "or the permissions, then repeat"
        ) from None


def names_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in walk_files(folder)}


def copy_file(source: Path, target: Path) -> str:
    digest = hashlib.sha256()
    with source.open("rb") as reader, target.open("wb") as writer:
        while chunk := reader.read(_CHUNK):
            digest.update(chunk)
            writer.write(chunk)
        writer.flush()
        os.fsync(writer.fileno())
    return digest.hexdigest()
