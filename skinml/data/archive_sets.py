"""HAM10000, ISIC 2019 and PAD-UFES-20 as they are published: pictures, and tables beside them.

Written by public descriptions of these data sets, without their files; docs/data.md has the sources
and what could not be checked.
"""

import csv
import hashlib
import io
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from skinml.base.errors import Problems
from skinml.data.layout import Layout, Source
from skinml.data.official import (
    ARCHIVE_ERRORS,
    Pictures,
    names_by_id,
    open_either,
)

# What a table may be called beside its own name: as it was downloaded, exported, or unpacked.
_ENDINGS = ("", ".csv", ".tab", ".txt")


class _Entry(NamedTuple):
    """What tables say of one picture."""

    label: str
    group: str = ""
    subgroups: Mapping[str, str] = {}


_Read = Callable[[Path, Problems], dict[str, _Entry]]
Rows = list[dict[str, str]]


class _Published(NamedTuple):
    """Where pictures may lie (folders, or archives of these names), and what reads the tables.

    `within` are archives in one of the folders, which is read itself where they are unpacked.
    """

    folders: tuple[str, ...]
    tables: tuple[str, ...]
    read: _Read
    expected: str
    within: tuple[str, ...] = ()

    def layout(self) -> Layout:
        return Layout(
            self.expected, self._has_files, self._has_pictures, self._sources, self._fingerprint
        )

    def _has_pictures(self, folder: Path) -> bool:
        return any((folder / n).is_dir() or (folder / f"{n}.zip").is_file() for n in self.folders)

    def _has_files(self, folder: Path) -> bool:
        return self._has_pictures(folder) or any(_find(folder, name) for name in self.tables)

    @contextmanager
    def _open(self, folder: Path, problems: Problems) -> Iterator[list[Pictures]]:
        opened: list[Pictures] = []
        with ExitStack() as stack:
            packed = [name for name in self.within if not (folder / name).is_dir()]
            for name in (*self.folders, *packed):
                found = open_either(folder / name, folder / f"{name}.zip", stack, problems)
                if found:
                    opened.append(found)
            yield opened

    @contextmanager
    def _sources(self, folder: Path, problems: Problems) -> Iterator[list[Source]]:
        with self._open(folder, problems) as opened:
            if not opened and not problems:
                problems.add("missing folders", f"{' or '.join(self.folders)} (or .zip)")
            entries = self.read(folder, problems)
            found: dict[str, Source] = {}
            for pictures in opened:
                for image_id, name in names_by_id(pictures, problems).items():
                    if image_id in found:
                        problems.add("one image in two files", f"{pictures.title}/{name}")
                    elif entry := entries.get(image_id):
                        found[image_id] = Source(
                            image_id, entry.label, "", pictures, name, entry.group, entry.subgroups
                        )
                    elif entries:
                        kind = "unexpected images (no line in the table)"
                        problems.add(kind, f"{pictures.title}/{name}")
            for image_id in entries if opened else ():
                if image_id not in found:
                    problems.add("missing images", image_id)
            yield sorted(found.values(), key=lambda source: source.image_id)

    def _fingerprint(self, folder: Path) -> str:
        digest = hashlib.sha256()
        problems = Problems()
        with self._open(folder, problems) as opened:
            for pictures in opened:
                digest.update(pictures.fingerprint().encode())
        for name in self.tables:
            if path := _find(folder, name):
                digest.update(path.read_bytes())
        return "damaged archive" if problems else digest.hexdigest()


def _find(folder: Path, name: str) -> Path | zipfile.Path | None:
    """A table by its name without ending: in the folder, or in one, or a zip, of that name."""
    places = [parent / f"{name}{end}" for parent in (folder, folder / name) for end in _ENDINGS]
    if found := next((path for path in places if path.is_file()), None):
        return found
    archive = folder / f"{name}.zip"
    # A damaged one is none: that its table is missing is told.
    with suppress(*ARCHIVE_ERRORS):
        for inside in (f"{name}/{name}.csv", f"{name}.csv") if archive.is_file() else ():
            if (table := zipfile.Path(archive, inside)).is_file():
                return table
    return None


def _rows(path: Path | zipfile.Path, needed: tuple[str, ...], problems: Problems) -> Rows:
    """The lines of a table by its columns; empty where one of the `needed` is not there."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        sign = "\t" if "\t" in text.partition("\n")[0] else ","
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=sign)
        rows = [{k: v or "" for k, v in row.items() if k} for row in reader]
        columns = reader.fieldnames or []
    except (*ARCHIVE_ERRORS, csv.Error) as error:
        problems.add("unreadable tables", f"{path.name}: {error}")
        return []
    if lacking := [name for name in needed if name not in columns]:
        problems.add(
            "wrong CSV columns", f"{path.name}: {','.join(columns)}; expected {', '.join(lacking)}"
        )
        return []
    if not rows:
        problems.add("empty tables", path.name)
    return rows


def _by_code(codes: Mapping[str, str], value: str, where: str, problems: Problems) -> str:
    label = codes.get(value, "")
    if not label:
        problems.add("unknown classes", f"{where}: {value!r}, expected {', '.join(codes)}")
    return label


def _one_hot(
    path: Path | zipfile.Path, codes: Mapping[str, str], problems: Problems
) -> dict[str, str]:
    """The class of each image of a table with a column for each class, 1 in one of them."""
    found: dict[str, str] = {}
    for line, row in enumerate(_rows(path, ("image", *codes), problems), start=2):
        own = [label for code, label in codes.items() if row[code].strip() in ("1", "1.0")]
        zeros = sum(row[code].strip() in ("0", "0.0") for code in codes)
        where = f"{path.name}, line {line}: {row['image']}"
        if len(own) != 1 or zeros != len(codes) - 1:
            problems.add("lines that are not 1 for one class and 0 for the others", where)
        elif row["image"] in found:
            problems.add("duplicate ids", where)
        else:
            found[row["image"]] = own[0]
    return found


def _facts(row: Mapping[str, str], names: tuple[str, ...]) -> dict[str, str]:
    return {name: row[name] for name in names if name in row}


# Tschandl, Rosendahl & Kittler, Sci. Data 5, 180161 (2018), for the codes; dermatology's names of
# them where other data sets have the same class, so that these can be tested on one another.
HAM10000_CODES = {
    "akiec": "actinic_keratosis_bowen",
    "bcc": "basal_cell_carcinoma",
    "bkl": "benign_keratosis",
    "df": "dermatofibroma",
    "mel": "melanoma",
    "nv": "nevus",
    "vasc": "vascular_lesion",
}
_HAM, _ISIC_2018 = "HAM10000_metadata", "ISIC2018_Task3_Training_GroundTruth"
_LESIONS_2018 = "ISIC2018_Task3_Training_LesionGroupings"


def _read_ham10000(folder: Path, problems: Problems) -> dict[str, _Entry]:
    """The journal's metadata, or the ground truth of ISIC 2018 task 3 with its lesions."""
    entries: dict[str, _Entry] = {}
    if path := _find(folder, _HAM):
        for line, row in enumerate(_rows(path, ("lesion_id", "image_id", "dx"), problems), 2):
            where = f"{path.name}, line {line}"
            label = _by_code(HAM10000_CODES, row["dx"], where, problems)
            if row["image_id"] in entries:
                problems.add("duplicate ids", f"{where}: {row['image_id']}")
            facts = _facts(row, ("age", "sex", "localization", "dx_type"))
            entries[row["image_id"]] = _Entry(label, row["lesion_id"], facts)
        return entries
    path, lesions = _find(folder, _ISIC_2018), _find(folder, _LESIONS_2018)
    if path is None or lesions is None:
        problems.add("missing tables", f"{_HAM}, or both {_ISIC_2018} and {_LESIONS_2018}")
        return entries
    codes = {code.upper(): label for code, label in HAM10000_CODES.items()}
    rows = _rows(lesions, ("image", "lesion_id"), problems)
    groups = {row["image"]: row["lesion_id"] for row in rows}
    for image_id, label in _one_hot(path, codes, problems).items():
        if rows and image_id not in groups:
            problems.add("images without a lesion", f"{lesions.name}: {image_id}")
        entries[image_id] = _Entry(label, groups.get(image_id, ""))
    return entries


HAM10000 = _Published(
    folders=(
        *("HAM10000_images_part_1", "HAM10000_images_part_2"),
        *("HAM10000_images_part1", "HAM10000_images_part2"),
        "ISIC2018_Task3_Training_Input",
    ),
    tables=(_HAM, _ISIC_2018, _LESIONS_2018),
    read=_read_ham10000,
    expected="HAM10000_images_part_1 and _2 with HAM10000_metadata, or "
    "ISIC2018_Task3_Training_Input with ISIC2018_Task3_Training_GroundTruth (.csv or .zip) and "
    "ISIC2018_Task3_Training_LesionGroupings.csv (folders, or archives as they are)",
).layout()


# The challenge's own words (https://challenge.isic-archive.com/data/#2019); UNK is the class of
# test images that are none of these: no training image has it.
ISIC2019_CODES = {
    "MEL": "melanoma",
    "NV": "nevus",
    "BCC": "basal_cell_carcinoma",
    "AK": "actinic_keratosis",
    "BKL": "benign_keratosis",
    "DF": "dermatofibroma",
    "VASC": "vascular_lesion",
    "SCC": "squamous_cell_carcinoma",
}
_ISIC_2019, _META_2019 = "ISIC_2019_Training_GroundTruth", "ISIC_2019_Training_Metadata"


def _read_isic2019(folder: Path, problems: Problems) -> dict[str, _Entry]:
    path, meta = _find(folder, _ISIC_2019), _find(folder, _META_2019)
    for name, found in ((_ISIC_2019, path), (_META_2019, meta)):
        if found is None:
            problems.add("missing tables", f"{name}.csv")
    if path is None or meta is None:
        return {}
    rows = _rows(meta, ("image", "lesion_id"), problems)
    about = {row["image"]: row for row in rows}
    names = ("age_approx", "sex", "anatom_site_general")
    entries = {}
    for image_id, label in _one_hot(path, ISIC2019_CODES, problems).items():
        if rows and image_id not in about:
            # Without its lesion it could be drawn into another part than the rest of that.
            problems.add("images without a line in the metadata", f"{meta.name}: {image_id}")
        row = about.get(image_id, {})
        # Some images have a line, and no lesion: they are known by their likeness alone.
        entries[image_id] = _Entry(label, row.get("lesion_id", ""), _facts(row, names))
    return entries


ISIC_2019 = _Published(
    folders=("ISIC_2019_Training_Input",),
    tables=(_ISIC_2019, _META_2019),
    read=_read_isic2019,
    expected="ISIC_2019_Training_Input (a folder, or the archive as it is), "
    "ISIC_2019_Training_GroundTruth.csv and ISIC_2019_Training_Metadata.csv",
).layout()


# Pacheco et al., Data in Brief 32, 106221 (2020).
PAD_UFES_20_CODES = {
    "ACK": "actinic_keratosis",
    "BCC": "basal_cell_carcinoma",
    "MEL": "melanoma",
    "NEV": "nevus",
    "SCC": "squamous_cell_carcinoma",
    "SEK": "seborrheic_keratosis",
}


def _read_pad_ufes_20(folder: Path, problems: Problems) -> dict[str, _Entry]:
    path = _find(folder, "metadata")
    if path is None:
        problems.add("missing tables", "metadata.csv")
        return {}
    entries: dict[str, _Entry] = {}
    rows = _rows(path, ("img_id", "patient_id", "diagnostic"), problems)
    for line, row in enumerate(rows, 2):
        image_id = Path(row["img_id"]).stem
        where = f"{path.name}, line {line}"
        label = _by_code(PAD_UFES_20_CODES, row["diagnostic"], where, problems)
        if image_id in entries:
            problems.add("duplicate ids", f"{where}: {image_id}")
        facts = _facts(row, ("age", "gender", "fitspatrick", "region", "biopsed"))
        # By patient, as several lesions of one may be in one picture.
        entries[image_id] = _Entry(label, row["patient_id"], facts)
    return entries


PAD_UFES_20 = _Published(
    folders=("images", "imgs_part_1", "imgs_part_2", "imgs_part_3"),
    tables=("metadata",),
    read=_read_pad_ufes_20,
    expected="imgs_part_1, imgs_part_2 and imgs_part_3 (folders, or archives as they are; or a "
    "folder images with them) and metadata.csv",
    # As the download of everything unpacks.
    within=("images/imgs_part_1", "images/imgs_part_2", "images/imgs_part_3"),
).layout()
