"""The prepared set: what training reads instead of picture files.

A folder with `images.npy` (uint8, N×224×224×3, memory-mapped) and `manifest.csv`, which is written
last: its existence means that the set is complete.
"""

import csv
import hashlib
import json
import os
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from skinml.base.cache import cached_array
from skinml.base.errors import UserError
from skinml.base.files import check_regular, read_json, read_table, write_whole
from skinml.data.duplicates import NEAR_BITS, joined, near_duplicate_groups, perceptual_hash
from skinml.data.images import IMAGE_SIZE
from skinml.data.isic2017 import CLASSES, PARTS

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

# What follows these where a set has it: the lesion or patient, and further facts about an image.
GROUP = "group"
SUBGROUP = "subgroup:"

# The largest manifest that is read, in bytes and cells: one of some millions of pictures. More than
# of other tables, as what this program has written must not be too large for it.
_LARGEST_MANIFEST, _MOST_CELLS = 2**30, 100_000_000

# The name of the data set and its classes. Where it is missing, the set was made before there were
# others than ISIC 2017.
ABOUT = "dataset.json"


@dataclass(frozen=True)
class PreparedSet:
    """A complete prepared set, its images memory-mapped.

    `images` (N, 224, 224, 3) uint8; `labels` (N,) int64, indices into `classes`; `image_ids`,
    `official_parts` (empty texts where there are none), `pixels_sha256` (N,) str. Rows are ordered
    by image id. `subgroups` has further facts about each image, (N,) str by the column's name.
    """

    folder: Path
    images: np.ndarray
    image_ids: np.ndarray
    labels: np.ndarray
    official_parts: np.ndarray
    pixels_sha256: np.ndarray
    classes: tuple[str, ...]
    # (N,) str, the id of the first image of each one's near-duplicates; None where not known yet.
    near_duplicate_group: np.ndarray | None = None
    # (N,) str, the lesion or patient, empty for an image without; None where no image has one.
    named_group: np.ndarray | None = None
    subgroups: Mapping[str, np.ndarray] = field(default_factory=dict)
    # The name of the data set, empty where it is not known.
    name: str = ""

    def __len__(self) -> int:
        return len(self.image_ids)

    @cached_property
    def digest(self) -> str:
        """Content digest of ids, labels, parts, pixels and groups: 16 hexadecimal digits."""
        columns = [
            self.image_ids,
            [self.classes[label] for label in self.labels],
            self.official_parts,
            self.pixels_sha256,
        ]
        if self.named_group is not None:
            columns.append(self.named_group)
        rows = zip(*columns, strict=True)
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

    def together(self, groups: np.ndarray) -> np.ndarray:
        """(N,) int64: `groups`, joined where images are of one lesion or patient.

        Images of one group share a number, that of the first of them.
        """
        if self.named_group is None:
            return groups
        _, first, inverse = np.unique(self.named_group, return_index=True, return_inverse=True)
        own = np.where(self.named_group == "", np.arange(len(self)), first[inverse])
        return joined(groups, own)

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
        """Images of each class in each part, for `parts` (N,) str: part → class → count.

        Where images have no parts there is one without a name.
        """
        return {
            part: {
                name: int(((parts == part) & (self.labels == index)).sum())
                for index, name in enumerate(self.classes)
            }
            for part in (("",) if "" in parts else PARTS)
        }


def is_prepared(folder: Path) -> bool:
    """Whether a folder holds a complete prepared set."""
    return (folder / MANIFEST).is_file() and (folder / IMAGES).is_file()


def read_manifest(folder: Path) -> list[list[str]]:
    """The lines of a set's manifest, its heading first; errors as of `read_table`."""
    table = read_table(folder / MANIFEST, _LARGEST_MANIFEST, _MOST_CELLS)
    return [row for _, row in table]


def write_manifest(folder: Path, rows: list[tuple[str, ...]], further: Sequence[str] = ()) -> None:
    """Write the manifest, the last file of a prepared set; rows as in `COLUMNS` and `further`."""
    # Whoever goes on after a kill writes over what was left of it.
    _write_rows(folder, [(*COLUMNS, *further), *rows], folder / f".{MANIFEST}.part")


def _write_rows(folder: Path, rows: Iterable[Sequence[str]], temporary: Path) -> None:
    with temporary.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
    temporary.replace(folder / MANIFEST)


def update_facts(folder: Path, facts: Mapping[str, Mapping[str, str]]) -> None:
    """Make `facts` (image id → fact → value) the manifest's; nothing is written if they are.

    The digest of a set is not of them. Facts that the manifest has stay where there are none now.
    """
    header, *rows = read_manifest(folder)
    names = list(dict.fromkeys(name for own in facts.values() for name in own))
    if not names:
        return
    kept = [number for number, name in enumerate(header) if not name.startswith(SUBGROUP)]
    if any(len(row) != len(header) for row in rows):
        raise ValueError(f"{MANIFEST}: lines of different lengths")
    told = [
        [row[number] for number in kept] + [facts.get(row[0], {}).get(name, "") for name in names]
        for row in rows
    ]
    updated = [[header[number] for number in kept] + [SUBGROUP + name for name in names], *told]
    if updated != [header, *rows]:
        # A name of its own for each process: two may bring the same set up to date.
        temporary = folder / f".{MANIFEST}.{os.getpid()}.part"
        try:
            _write_rows(folder, updated, temporary)
        finally:
            temporary.unlink(missing_ok=True)


def open_prepared(folder: Path) -> PreparedSet:
    """Open a prepared set; one that is damaged or of another format is a `UserError`."""
    remedy = "delete the folder and run `python -m skinml.data.prepare` again"
    try:
        header, *rows = read_manifest(folder)
        known = tuple(header[: len(COLUMNS)]) in (COLUMNS, COLUMNS_WITHOUT_GROUPS)
        further = header[len(COLUMNS) :]
        known &= all(name == GROUP or name.startswith(SUBGROUP) for name in further)
        if not known or any(len(row) != len(header) for row in rows):
            raise ValueError(f"its columns are {','.join(header)}, expected {','.join(COLUMNS)}")
        name, classes = _read_about(folder)
        check_regular(folder / IMAGES)
        images = np.load(folder / IMAGES, mmap_mode="r", allow_pickle=False)
        expected = (len(rows), IMAGE_SIZE, IMAGE_SIZE, 3)
        if images.dtype != np.uint8 or images.shape != expected:
            raise ValueError(
                f"{IMAGES} is {images.dtype} {images.shape}, expected uint8 {expected}"
            )
        columns = dict(zip(header, map(np.array, zip(*rows, strict=True)), strict=True))
        ids, parts, near = columns["image_id"], columns["official_part"], columns.get(COLUMNS[-1])
        codes = np.array([classes.index(label) for label in columns["label"]], dtype=np.int64)
        if not set(parts) <= {*PARTS, ""}:
            raise ValueError(f"parts {sorted(set(parts))}, expected {', '.join(PARTS)}")
        if near is not None and not set(near) <= set(ids):
            raise ValueError(f"{COLUMNS[-1]} names images that are not there")
    except Exception as error:  # NumPy reports a damaged file in more ways than it documents.
        raise UserError(f"{folder}: not a usable prepared set ({error}); {remedy}") from None
    subgroups = {
        title.removeprefix(SUBGROUP): columns[title] for title in further if title != GROUP
    }
    return PreparedSet(
        folder, images, ids, codes, parts, columns["pixels_sha256"], classes, near,
        columns.get(GROUP), subgroups, name,
    )  # fmt: skip


def write_about(folder: Path, name: str, classes: Sequence[str]) -> None:
    """Write the name of a set and its classes, in their order."""
    about = {"name": name, "classes": list(classes)}
    (folder / ABOUT).write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _read_about(folder: Path) -> tuple[str, tuple[str, ...]]:
    try:
        about = read_json(folder / ABOUT)
        return str(about["name"]), tuple(map(str, about["classes"]))
    except FileNotFoundError:
        return "", CLASSES


def read_source(folder: Path) -> dict[str, str]:
    """What a prepared set was made from, as `write_source` stored it; empty where unknown."""
    try:
        return dict(read_json(folder / "source.json"))
    except (OSError, ValueError, TypeError):
        return {}


def source_digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of each picture's file, by image id, as it was prepared."""
    _, *rows = read_manifest(folder)
    return {row[0]: row[COLUMNS.index("source_sha256")] for row in rows}


def write_source(folder: Path, source: dict[str, str]) -> None:
    write_whole(folder / "source.json", json.dumps(source, indent=2) + "\n")
