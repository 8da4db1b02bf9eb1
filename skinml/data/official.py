"""The official files as they are published: pictures in folders or archives, and CSV tables."""

import csv
import hashlib
import io
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path, PurePosixPath

import numpy as np

from skinml.base.errors import Problems
from skinml.base.files import read_file, read_table
from skinml.data.images import ImageProblem
from skinml.data.isic2017 import (
    CSV_COLUMNS,
    FACTS,
    HOMEPAGE,
    METADATA_COLUMNS,
    OFFICIAL_PARTS,
    OfficialPart,
)
from skinml.data.layout import Layout, Source

PICTURE_ENDINGS = (
    # Windows and browsers save JPEG as .jfif and .jpe too.
    *(".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".avif", ".tif", ".tiff", ".bmp"),
    # With the extras heif and dicom; without them they are told of.
    *(".heic", ".heif", ".dcm"),
)

# The largest original has 20 MB: an entry that unpacks to more than this is no photograph.
MAX_ENTRY_BYTES = 512 * 1024**2

# What zipfile raises for a damaged, encrypted or exotic archive.
ARCHIVE_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError)


def is_picture(path: Path | PurePosixPath) -> bool:
    """Whether a name is that of an image: not a superpixel mask, nor what a system left behind."""
    return (
        path.suffix.lower() in PICTURE_ENDINGS
        and not path.stem.endswith("_superpixels")
        and not path.name.startswith(".")
    )


class PictureFolder:
    """The images of a folder and of those within: an archive may be unpacked into its own name."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.title = path.name
        self.names = sorted(
            p.relative_to(path).as_posix() for p in path.rglob("*") if is_picture(p) and p.is_file()
        )

    def read(self, name: str) -> bytes:
        """The content of an image; `ImageProblem` where it cannot be read."""
        try:
            return read_file(self._path / name, MAX_ENTRY_BYTES)
        except OSError as error:
            raise ImageProblem(f"unreadable: {error.strerror}") from None

    def stamp(self, name: str) -> str:
        """What changes when an image is replaced; cheap to know."""
        status = (self._path / name).stat()
        return f"{status.st_size}:{status.st_mtime_ns}"

    def table(self, name: str) -> bytes | None:
        """The content of a table that lies among the images; None where there is none."""
        path = next(iter(sorted(self._path.rglob(name))), None)
        return None if path is None else read_file(path, MAX_ENTRY_BYTES)

    def fingerprint(self) -> str:
        """Names and sizes, a line each."""
        return "".join(f"{name} {(self._path / name).stat().st_size}\n" for name in self.names)


class PictureArchive:
    """The images of a zip archive, read in place by any number of threads."""

    def __init__(self, archive: zipfile.ZipFile, path: Path) -> None:
        self._archive = archive
        self._size = path.stat().st_size
        self.title = path.name
        # Some programs of Windows write its own separator, which the format does not allow.
        named = ((entry.filename.replace("\\", "/"), entry) for entry in archive.infolist())
        self._entries = {
            name: entry
            for name, entry in named
            if not name.endswith("/") and is_picture(PurePosixPath(name))
        }
        self.names = sorted(self._entries)

    def read(self, name: str) -> bytes:
        """The content of an image, its CRC checked; `ImageProblem` where it cannot be read."""
        entry = self._entries[name]
        if entry.file_size > MAX_ENTRY_BYTES:
            raise ImageProblem(f"{entry.file_size:,} bytes, expected at most {MAX_ENTRY_BYTES:,}")
        try:
            return self._archive.read(entry)
        except ARCHIVE_ERRORS as error:
            raise ImageProblem(f"unreadable in the archive: {error}") from None

    def stamp(self, name: str) -> str:
        """What changes when an image is replaced; cheap to know."""
        entry = self._entries[name]
        return f"{entry.file_size}:{entry.CRC:08x}"

    def table(self, name: str) -> bytes | None:
        """The content of a table that lies among the images; None where there is none."""
        for entry in self._archive.infolist():
            if entry.filename.rpartition("/")[2] == name and entry.file_size <= MAX_ENTRY_BYTES:
                return self._archive.read(entry)
        return None

    def fingerprint(self) -> str:
        """Names, sizes and checksums of the central directory, and the archive's size.

        No time stamp: a copy of an archive is the same archive.
        """
        lines = (f"{name} {self.stamp(name)}\n" for name in self.names)
        return f"{self.title} {self._size}\n{''.join(lines)}"


Pictures = PictureFolder | PictureArchive


def open_either(
    unpacked: Path, archive: Path, stack: ExitStack, problems: Problems
) -> Pictures | None:
    """A folder of pictures, else the ZIP archive that holds it, open until `stack` closes it.

    None where neither is there, or the archive is none: that goes to `problems`.
    """
    if unpacked.is_dir():
        return PictureFolder(unpacked)
    if not archive.is_file():
        return None
    try:
        return PictureArchive(stack.enter_context(zipfile.ZipFile(archive)), archive)
    except ARCHIVE_ERRORS as error:
        problems.add("unusable archives", f"{archive.name}: {error}")
        return None


@contextmanager
def open_pictures(folder: Path, problems: Problems) -> Iterator[dict[str, Pictures]]:
    """Open the images of each official part, by its name; a part of which nothing is there lacks.

    A folder wins over an archive beside it: it is what was unpacked from it, perhaps mended since.
    An archive that is none goes to `problems`.
    """
    opened: dict[str, Pictures] = {}
    with ExitStack() as stack:
        for official in OFFICIAL_PARTS:
            unpacked, archive = folder / official.image_folder, folder / official.archive
            if found := open_either(unpacked, archive, stack, problems):
                opened[official.part] = found
        yield opened


def has_pictures(folder: Path) -> bool:
    """Whether a folder or archive of images of any official part is there."""
    return any(
        (folder / official.image_folder).is_dir() or (folder / official.archive).is_file()
        for official in OFFICIAL_PARTS
    )


def has_official_files(folder: Path) -> bool:
    """Whether anything of the official layout is in a folder, complete or not."""
    return has_pictures(folder) or any(
        (folder / official.ground_truth).exists() for official in OFFICIAL_PARTS
    )


def official_files_nearby(folder: Path) -> Path | None:
    """Where a folder has no official files: the folder in it, or around it, that has them."""
    if has_official_files(folder):
        return None

    def has_them(other: Path) -> bool:
        # A disk's lost+found, or another user's folder beside this one, is no place to look.
        with suppress(PermissionError):
            return has_official_files(other)
        return False

    return next(filter(has_them, [*sorted(folder.glob("*/")), folder.parent]), None)


def fingerprint(folder: Path) -> str:
    """A quick digest of official files: what the images are listed with, content of the CSVs."""
    digest = hashlib.sha256()
    problems = Problems()
    with open_pictures(folder, problems) as pictures:
        for official in OFFICIAL_PARTS:
            if official.part in pictures:
                digest.update(pictures[official.part].fingerprint().encode())
            if (folder / official.ground_truth).is_file():
                digest.update((folder / official.ground_truth).read_bytes())
    return "damaged archive" if problems else digest.hexdigest()


def read_official(folder: Path, pictures: dict[str, Pictures], problems: Problems) -> list[Source]:
    """List the official images, ordered by id; what is wrong goes to `problems`."""
    sources: list[Source] = []
    seen: dict[str, str] = {}
    facts = read_facts(folder, pictures, problems)
    for official in OFFICIAL_PARTS:
        labels = read_ground_truth(folder / official.ground_truth, problems)
        if official.part not in pictures:
            if not (folder / official.archive).is_file():
                problems.add("missing folders", f"{official.image_folder} or {official.archive}")
            continue
        there = pictures[official.part]
        names = names_by_id(there, problems)
        for image_id, label in labels.items():
            if image_id in seen:
                problems.add(
                    "ids in two parts", f"{image_id} in {seen[image_id]} and {official.part}"
                )
            seen[image_id] = official.part
            if image_id in names:
                own = facts.get(image_id, {})
                sources.append(
                    Source(image_id, label, official.part, there, names[image_id], subgroups=own)
                )
        compare_ids(there, names, labels, problems)
        unpacked = isinstance(there, PictureFolder) and (folder / official.archive).is_file()
        if unpacked and labels.keys() - names.keys():
            problems.add(
                "incomplete folders that hide their archive",
                f"{official.image_folder}: delete it, and {official.archive} is read instead",
            )
    return sorted(sources, key=lambda source: (source.image_id, source.part))


def names_by_id(pictures: Pictures, problems: Problems) -> dict[str, str]:
    """The name of each image by its id; an image in two files goes to `problems`."""
    names: dict[str, str] = {}
    for name in pictures.names:
        image_id = PurePosixPath(name).stem
        if image_id in names:
            problems.add("one image in two files", f"{pictures.title}/{name} and {names[image_id]}")
        names[image_id] = name
    return names


def compare_ids(
    pictures: Pictures, names: dict[str, str], labels: dict[str, str], problems: Problems
) -> None:
    """Note the ids of a table without an image, and the images without a line in it."""
    for image_id in labels:
        if image_id not in names:
            problems.add("missing images", f"{pictures.title}/{image_id}.jpg")
    if labels:
        for image_id in sorted(names.keys() - labels.keys()):
            problems.add(
                "unexpected images (no line in the ground truth)",
                f"{pictures.title}/{names[image_id]}",
            )


def read_ground_truth(path: Path, problems: Problems) -> dict[str, str]:
    """The class of each id of an official CSV; empty where the file is unusable."""
    try:
        header, *rows = [row for _, row in read_table(path)] or [[]]
    except FileNotFoundError:
        problems.add("missing ground truth", path.name)
        return {}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = error.strerror if isinstance(error, OSError) else error
        problems.add("unreadable ground truth", f"{path.name}: {why}")
        return {}
    if tuple(header) != CSV_COLUMNS:
        problems.add(
            "wrong CSV columns",
            f"{path.name}: {','.join(header) or 'empty file'}, expected {','.join(CSV_COLUMNS)}",
        )
        return {}
    labels: dict[str, str] = {}
    for line, row in enumerate(rows, start=2):
        if not row:
            continue
        where = f"{path.name}, line {line}: {','.join(row)}"
        if len(row) != len(CSV_COLUMNS) or not row[0]:
            problems.add("wrong number of CSV fields", f"{where}, expected {len(CSV_COLUMNS)}")
            continue
        if Path(row[0]).name != row[0]:
            problems.add("ids that are no file name", where)
            continue
        try:
            melanoma, keratosis = (float(value) for value in row[1:])
        except ValueError:
            melanoma = keratosis = np.nan
        if not {melanoma, keratosis} <= {0.0, 1.0}:
            problems.add("labels that are not 0 or 1", where)
        elif melanoma and keratosis:
            problems.add("labels that are both 1", where)
        if row[0] in labels:
            problems.add("duplicate ids", where)
        labels[row[0]] = (
            "melanoma" if melanoma == 1 else "seborrheic_keratosis" if keratosis == 1 else "nevus"
        )
    if not labels:
        problems.add("empty ground truth", path.name)
    return labels


def read_facts(
    folder: Path, pictures: Mapping[str, Pictures], problems: Problems
) -> dict[str, dict[str, str]]:
    """Age and sex by image id, of the parts whose metadata are there: the official test has none.

    The table lies beside the images, among them or in their archive. Empty where nothing is known.
    """
    facts: dict[str, dict[str, str]] = {}
    for official in OFFICIAL_PARTS:
        try:
            content = _metadata(folder, official, pictures.get(official.part))
            rows = list(csv.reader(io.StringIO((content or b"").decode("utf-8-sig"), newline="")))
        except (*ARCHIVE_ERRORS, csv.Error) as error:
            problems.add("unreadable metadata", f"{official.metadata}: {error}")
            continue
        if rows and tuple(rows[0]) != METADATA_COLUMNS:
            told = f"{','.join(rows[0])}, expected {','.join(METADATA_COLUMNS)}"
            problems.add("wrong CSV columns", f"{official.metadata}: {told}")
            continue
        for line, row in enumerate(rows[1:], start=2):
            if len(row) == len(METADATA_COLUMNS):
                facts[row[0]] = dict(zip(FACTS, row[1:], strict=True))
            elif row:
                where = f"{official.metadata}, line {line}: {','.join(row)}"
                problems.add(
                    "wrong number of CSV fields", f"{where}, expected {len(METADATA_COLUMNS)}"
                )
    return facts


def _metadata(folder: Path, official: OfficialPart, pictures: Pictures | None) -> bytes | None:
    beside = folder / official.metadata
    if beside.is_file():
        return read_file(beside, MAX_ENTRY_BYTES)
    return None if pictures is None else pictures.table(official.metadata)


def _facts(folder: Path, problems: Problems) -> dict[str, dict[str, str]]:
    with open_pictures(folder, problems) as pictures:
        return read_facts(folder, pictures, problems)


@contextmanager
def _sources(folder: Path, problems: Problems) -> Iterator[list[Source]]:
    with open_pictures(folder, problems) as pictures:
        yield read_official(folder, pictures, problems)


ISIC_2017 = Layout(
    expected=f"the official ISIC 2017 files: archives such as {OFFICIAL_PARTS[0].archive} (or "
    f"folders) and their ground truth, from {HOMEPAGE}",
    has_files=has_official_files,
    has_pictures=has_pictures,
    sources=_sources,
    fingerprint=fingerprint,
    facts=_facts,
)
"""The layout of ISIC 2017 part 3, which the demo set has as well."""
