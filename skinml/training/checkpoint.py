"""Checkpoints: where a training stands after an epoch, in one file that is whole or not there.

A file is a NumPy archive (`.npz`: arrays and one text in JSON, no pickle) and, as its last 32
bytes, the SHA-256 of all before. Two generations lie in a run's folder, named by their epoch: the
older of them goes only when one more is written, read back and verified.
"""

import errno
import hashlib
import io
import json
import math
import os
import re
import sys
import zipfile
import zlib
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from skinml.base.errors import UserError
from skinml.base.files import LARGEST_JSON, check_regular, sync_folder
from skinml.training.history import Row

_NAME = re.compile(r"checkpoint-(\d{6})")
_DIGEST_SIZE = hashlib.sha256().digest_size

# The lists of arrays of a checkpoint; everything else of it is the text.
_LISTS = ("weights", "optimizer", "best_weights")


@dataclass(frozen=True)
class Checkpoint:
    """All that a training needs to go on as if it had never stopped.

    `weights` are those of the network in Keras's order, trainable or not, `best_weights` those of
    the best epoch so far of the step in progress, `optimizer` the optimizer's variables.
    """

    history: list[Row]
    """The epochs so far; the step in progress is that of the last."""
    backbone_images: int
    best_epoch: int
    best_score: float
    weights: list[np.ndarray]
    optimizer: list[np.ndarray]
    best_weights: list[np.ndarray]
    seconds: float = 0.0
    """Spent on the training, in all its processes."""
    config: dict[str, Any] = field(default_factory=dict)
    surroundings: dict[str, str] = field(default_factory=dict)
    """What else decides the result to the last bit: digests, device, threads, versions."""

    @property
    def epoch(self) -> int:
        return int(self.history[-1]["epoch"])


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint to a run's folder; it is on the disk, and verified, when this returns.

    Killed at any instant, or on a full disk (a `UserError`), the generations before stand.
    """
    path = folder / f"checkpoint-{checkpoint.epoch:06d}"
    part = folder / f".{path.name}.part"
    try:
        for left in folder.glob(".checkpoint-*.part"):
            left.unlink()  # A process was killed while it wrote it.
        with part.open("wb") as file:
            file.write(_encode(checkpoint).getbuffer())
            file.flush()
            os.fsync(file.fileno())
        if _verified(part) is None:
            raise OSError(errno.EIO, "what was written is not what is read back", str(part))
        part.replace(path)
        sync_folder(folder)
        before = max((n for n in _generations(folder) if n < checkpoint.epoch), default=0)
        for number, old in _generations(folder).items():
            if number not in (before, checkpoint.epoch):
                old.unlink()
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise UserError(
            f"{path}: the checkpoint cannot be written ({error.strerror}); "
            f"{'free some space' if full else 'expected a folder that can be written to'}. Nothing "
            "of the epochs before is lost"
        ) from None


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest checkpoint of a run's folder that is as it was written; None without any.

    Says on stderr which ones are damaged.
    """
    for _, path in sorted(_generations(folder).items(), reverse=True):
        body = _verified(path)
        if body is not None and (found := _decode(body)) is not None:
            return found
        print(
            f"skinml: warning: {path} is damaged: the checkpoint before it is taken",
            file=sys.stderr,
        )
    return None


def has_checkpoint(folder: Path) -> bool:
    """Whether a run's folder holds a checkpoint, damaged or not."""
    return bool(_generations(folder))


def remove_checkpoints(folder: Path) -> None:
    """Give the space back of a run that is finished."""
    for path in [*_generations(folder).values(), *folder.glob(".checkpoint-*.part")]:
        path.unlink(missing_ok=True)


def _generations(folder: Path) -> dict[int, Path]:
    """The checkpoints of a folder by their epoch."""
    found = ((path, _NAME.fullmatch(path.name)) for path in folder.glob("checkpoint-*"))
    return {int(match[1]): path for path, match in found if match}


def _encode(checkpoint: Checkpoint) -> io.BytesIO:
    # While the backbone is frozen nearly all of the best weights are those of now.
    kept = [
        None
        if number < len(checkpoint.weights) and _same(array, checkpoint.weights[number])
        else array
        for number, array in enumerate(checkpoint.best_weights)
    ]
    lists = {name: getattr(checkpoint, name) for name in _LISTS} | {"best_weights": kept}
    arrays = {
        f"{name}/{number:05d}": array
        for name, own in lists.items()
        for number, array in enumerate(own)
        if array is not None
    }
    facts = {name: value for name, value in vars(checkpoint).items() if name not in _LISTS}
    facts["lengths"] = {name: len(own) for name, own in lists.items()}
    text = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, facts=text, **arrays)
    digest = hashlib.sha256(buffer.getbuffer()).digest()
    buffer.write(digest)
    return buffer


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two arrays are equal to the bit: -0.0 is not 0.0, and NaN is itself."""
    alike = one.dtype == other.dtype and one.shape == other.shape
    return alike and one.tobytes() == other.tobytes()


def _verified(path: Path) -> memoryview | None:
    """What a file holds before its digest; None where it is not as it was written."""
    try:
        check_regular(path)
        content = memoryview(path.read_bytes())
    except OSError:
        return None
    body, digest = content[:-_DIGEST_SIZE], content[-_DIGEST_SIZE:]
    return body if hashlib.sha256(body).digest() == digest else None


def _decode(body: memoryview) -> Checkpoint | None:
    """What a file holds; None where somebody else wrote it, and it is no checkpoint.

    Its digest fits then, but sizes and types may be anything: nothing takes more memory than the
    file itself does.
    """
    try:
        with np.load(io.BytesIO(body), allow_pickle=False) as archive:
            _check_sizes(archive.zip, len(body))
            text = archive["facts"].tobytes()
            if len(text) > LARGEST_JSON:
                return None
            facts: dict[str, Any] = json.loads(text)
            members = set(archive.files)
            lists: dict[str, list[np.ndarray]] = {}
            for name, length in facts.pop("lengths").items():
                # Arrays that are not there are those of the weights.
                if name not in _LISTS or length > len(members):
                    return None
                keys = [f"{name}/{number:05d}" for number in range(length)]
                lists[name] = [
                    archive[key] if key in members else lists["weights"][number]
                    for number, key in enumerate(keys)
                ]
        return Checkpoint(**(facts | lists)) if _is_well_formed(facts) else None
    except (
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        OverflowError,
        RecursionError,
        EOFError,
        # A part that is encrypted, or compressed in a way that Python does not know.
        RuntimeError,
        zipfile.BadZipFile,
        zlib.error,
    ):
        return None  # fmt: skip


def _check_sizes(archive: zipfile.ZipFile, size: int) -> None:
    """A `ValueError` where the arrays of a file claim more than the `size` of the file."""
    if sum(item.file_size for item in archive.infolist()) > size:
        raise ValueError("arrays that are larger than their file")
    for item in archive.infolist():
        with archive.open(item) as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0
            if version != (1, 0):
                read = np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
        if math.prod(shape) * dtype.itemsize > item.file_size:
            raise ValueError("an array that is larger than its file")


def _is_well_formed(facts: dict[str, Any]) -> bool:
    """Whether what a file says beside its arrays has the types of a checkpoint's fields."""
    numbers = [facts[name] for name in ("backbone_images", "best_epoch", "best_score", "seconds")]
    rows = facts["history"]
    return (
        all(isinstance(value, int | float) for value in numbers)
        and all(isinstance(facts[name], dict) for name in ("config", "surroundings"))
        and isinstance(rows, list)
        and bool(rows)
        and all(isinstance(row, dict) and isinstance(row.get("epoch"), int) for row in rows)
    )
