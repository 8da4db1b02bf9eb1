"""The user's cache folder, and arrays kept in it from one run to the next."""

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

CACHE_DIR_VARIABLE = "SKINML_CACHE_DIR"

# About forty times the features of one backbone over the training part.
MAX_ARRAYS_BYTES = 4 * 1024**3


def cache_dir() -> Path:
    """The user's cache folder of skinml, or $SKINML_CACHE_DIR; not created here."""
    import platformdirs

    override = os.environ.get(CACHE_DIR_VARIABLE)
    return Path(override) if override else Path(platformdirs.user_cache_dir("skinml"))


def cached_array(key: str, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """An array from the cache, else computed and kept; `key` says all that it depends on.

    What is kept is used only if its SHA-256 is the one stored beside it: a damaged or half-written
    entry is computed again. The oldest entries go when all together exceed MAX_ARRAYS_BYTES.
    """
    folder = cache_dir() / "arrays"
    path = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npy"
    checksum = path.with_suffix(".sha256")
    try:
        if _digest(path) == checksum.read_text():
            os.utime(path)  # The least recently used entry is dropped first.
            return np.load(path, allow_pickle=False)
    except (OSError, ValueError):
        pass  # Not there, or not readable: computed anew.
    array = compute()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        complete = Path(temporary) / path.name
        np.save(complete, array, allow_pickle=False)
        digest = _digest(complete)
        checksum.unlink(missing_ok=True)
        complete.replace(path)
    checksum.write_text(digest)
    _drop_oldest(folder, path)
    return array


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _drop_oldest(folder: Path, keep: Path) -> None:
    total = 0
    for path in sorted(folder.glob("*.npy"), key=_last_use, reverse=True):
        total += path.stat().st_size if path.exists() else 0
        if total > MAX_ARRAYS_BYTES and path != keep:
            path.with_suffix(".sha256").unlink(missing_ok=True)
            path.unlink(missing_ok=True)


def _last_use(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # Another process dropped it just now.
        return 0.0
