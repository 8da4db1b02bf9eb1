"""The prepared set: what training reads instead of picture files.

A folder with `images.npy` (uint8, N×224×224×3, memory-mapped) and `manifest.csv`, which is written
last: its existence means that the set is complete.
"""

import csv
import hashlib
import json
from collections.abc import Generator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from skinml.cache import cached_array
from skinml.data.duplicates import NEAR_BITS, near_duplicate_groups, perceptual_hash
from skinml.data.images import IMAGE_SIZE
from skinml.data.isic2017 import CLASSES, PARTS
from skinml.errors import UserError

IMAGES = "images.npy"
MANIFEST = "manifest.csv"
COLUMNS = (
    "image_id",
    "label",
    "official_part",
    "source_sha256",
    "pixels_sha256",
    # The id of the first image that shows the same: its own, for most.
    "near_duplicate_group",
)

# A manifest of before there were groups: they follow from the pixels, and are found on demand.
COLUMNS_WITHOUT_GROUPS = COLUMNS[:-1]


@dataclass(frozen=True)
class PreparedSet:
    """A complete prepared set, its images memory-mapped.

    `images` (N, 224, 224, 3) uint8; `labels` (N,) int64, indices into CLASSES; `image_ids`,
    `official_parts`, `pixels_sha256` (N,) str. Rows are ordered by image id.
    """

    folder: Path
    images: np.ndarray
    image_ids: np.ndarray
    labels: np.ndarray
    official_parts: np.ndarray
    pixels_sha256: np.ndarray
    # (N,) str, the id of the first image of each one's near-duplicates; None where not known yet.
    near_duplicate_group: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.image_ids)

    @cached_property
    def digest(self) -> str:
        """Content digest of ids, labels, official parts and pixels: 16 hexadecimal digits."""
        rows = zip(
            self.image_ids,
            (CLASSES[label] for label in self.labels),
            self.official_parts,
            self.pixels_sha256,
            strict=True,
        )
        text = "\n".join(",".join(row) for row in rows)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @cached_property
    def groups(self) -> np.ndarray:
        """(N,) int64: images with identical pixels share a number, that of the first of them."""
        _, first, inverse = np.unique(self.pixels_sha256, return_index=True, return_inverse=True)
        return first[inverse]

    @cached_property
    def near_groups(self) -> np.ndarray:
        """(N,) int64: near-duplicates share a number, that of the first of them.

        They are coarser than `groups`: identical images are near-duplicates.
        """
        if self.near_duplicate_group is not None:
            row = {image_id: index for index, image_id in enumerate(self.image_ids)}
            return np.array([row[first] for first in self.near_duplicate_group])

        def fill(numbers: np.ndarray, done: int) -> Generator[int]:
            numbers[:] = near_duplicate_groups([perceptual_hash(image) for image in self.images])
            yield len(numbers)

        # Some seconds: kept from one run to the next.
        key = f"near-duplicates {NEAR_BITS} {self.digest}"
        return cached_array(key, (len(self),), np.int64, fill)

    @property
    def duplicates(self) -> list[list[str]]:
        """The ids of each group of images whose pixels are identical."""
        return self._several(self.groups)

    @property
    def near_duplicates(self) -> list[list[str]]:
        """The ids of each group of near-duplicates, identical images among them."""
        return self._several(self.near_groups)

    def _several(self, numbers: np.ndarray) -> list[list[str]]:
        order = np.argsort(numbers, kind="stable")
        groups = np.split(self.image_ids[order], np.flatnonzero(np.diff(numbers[order])) + 1)
        return [group.tolist() for group in groups if len(group) > 1]

    def part_counts(self, parts: np.ndarray) -> dict[str, dict[str, int]]:
        """Images of each class in each part, for `parts` (N,) str: part → class → count."""
        return {
            part: {
                name: int(((parts == part) & (self.labels == index)).sum())
                for index, name in enumerate(CLASSES)
            }
            for part in PARTS
        }


def is_prepared(folder: Path) -> bool:
    """Whether a folder holds a complete prepared set."""
    return (folder / MANIFEST).is_file() and (folder / IMAGES).is_file()


def write_manifest(folder: Path, rows: list[tuple[str, ...]]) -> None:
    """Write the manifest, the last file of a prepared set; rows as in `COLUMNS`."""
    temporary = folder / f".{MANIFEST}.part"
    with temporary.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows)
    temporary.replace(folder / MANIFEST)


def open_prepared(folder: Path) -> PreparedSet:
    """Open a prepared set; one that is damaged or of another format is a `UserError`."""
    remedy = "delete the folder and run `python -m skinml.data.prepare` again"
    try:
        with (folder / MANIFEST).open(newline="") as file:
            header, *rows = csv.reader(file)
        known = tuple(header) in (COLUMNS, COLUMNS_WITHOUT_GROUPS)
        if not known or any(len(row) != len(header) for row in rows):
            raise ValueError(f"its columns are {','.join(header)}, expected {','.join(COLUMNS)}")
        images = np.load(folder / IMAGES, mmap_mode="r", allow_pickle=False)
        expected = (len(rows), IMAGE_SIZE, IMAGE_SIZE, 3)
        if images.dtype != np.uint8 or images.shape != expected:
            raise ValueError(
                f"{IMAGES} is {images.dtype} {images.shape}, expected uint8 {expected}"
            )
        ids, labels, parts, _, pixels, *groups = map(np.array, zip(*rows, strict=True))
        codes = np.array([CLASSES.index(label) for label in labels], dtype=np.int64)
        if not set(parts) <= set(PARTS):
            raise ValueError(f"parts {sorted(set(parts))}, expected {', '.join(PARTS)}")
        if groups and not set(groups[0]) <= set(ids):
            raise ValueError(f"{COLUMNS[-1]} names images that are not there")
    except Exception as error:  # NumPy reports a damaged file in more ways than it documents.
        raise UserError(f"{folder}: not a usable prepared set ({error}); {remedy}") from None
    return PreparedSet(folder, images, ids, codes, parts, pixels, *groups)


def read_source(folder: Path) -> dict[str, str]:
    """What a prepared set was made from, as `write_source` stored it; empty where unknown."""
    try:
        return dict(json.loads((folder / "source.json").read_text()))
    except (OSError, ValueError):
        return {}


def write_source(folder: Path, source: dict[str, str]) -> None:
    (folder / "source.json").write_text(json.dumps(source, indent=2) + "\n")
