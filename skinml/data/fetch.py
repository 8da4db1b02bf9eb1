"""Which official files are missing, and the offer to download them from the challenge's storage."""

import shutil
import sys
from pathlib import Path

from skinml.base.address import without_user_info
from skinml.base.errors import UserError
from skinml.base.locks import exclusive
from skinml.data.download import bytes_there, download, human_size
from skinml.data.images import IMAGE_SIZE
from skinml.data.isic2017 import OFFICIAL_PARTS
from skinml.data.server import ask_server, base_url, open_session


def missing_files(folder: Path) -> list[str]:
    """The published files that a folder lacks, tables first; unpacked archives are not missing."""
    tables = [o.ground_truth for o in OFFICIAL_PARTS if not (folder / o.ground_truth).exists()]
    archives = [
        official.archive
        for official in OFFICIAL_PARTS
        if not (folder / official.archive).exists()
        and not (folder / official.image_folder).exists()
    ]
    return tables + archives


def offer_download(folder: Path, yes: bool = False) -> bool:
    """Download what a folder lacks: asks on a terminal, with `yes` does not; says whether it did.

    The total size is announced first. Without a terminal and without `yes` nothing happens.
    """
    if not missing_files(folder) or not (yes or _someone_is_there()):
        return False
    with open_session() as session:
        try:
            remotes = [ask_server(session, name) for name in missing_files(folder)]
        except UserError as error:
            if yes:
                raise
            # Nobody asked for a download: what is missing, and where to put it, is told next.
            print(f"skinml: nothing can be downloaded now: {error}", file=sys.stderr)
            return False
        left = sum(remote.size - bytes_there(folder, remote) for remote in remotes)
        begun = sum(remote.size for remote in remotes) - left
        print(
            f"skinml: {len(remotes)} files of ISIC 2017 are not in {folder}: {human_size(left)} to "
            f"download from {without_user_info(base_url())}"
            + (f" ({human_size(begun)} are here already)" * bool(begun)),
            file=sys.stderr,
        )
        if not yes and not _confirmed("Download them now? [y/N] "):
            return False
        _make_folder(folder, left)
        lock = folder / ".download.lock"
        with exclusive(lock, f"skinml: waiting for another process, which downloads to {folder}"):
            # Another process may have brought some meanwhile.
            lacking = missing_files(folder)
            try:
                download(session, [r for r in remotes if r.name in lacking], folder)
            finally:
                lock.unlink(missing_ok=True)
    return True


def _someone_is_there() -> bool:
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()


def _confirmed(question: str) -> bool:
    print(question, end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _make_folder(folder: Path, size: int) -> None:
    """Make the folder; `UserError` where that, or `size` bytes and the prepared set, cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise UserError(
            f"data_dir={folder}: cannot be created ({error.strerror}), expected a path in a "
            "writable folder; give another"
        ) from None
    images = sum(sum(official.counts) for official in OFFICIAL_PARTS)
    needed = size + images * IMAGE_SIZE * IMAGE_SIZE * 3
    if free < needed:
        raise UserError(
            f"data_dir={folder}: {human_size(free)} are free there, expected {human_size(needed)} "
            "for the download and the prepared set; free some space or give another folder"
        )
