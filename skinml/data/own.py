"""A person's own pictures: a folder with a subfolder for each class, or a CSV table.

PATH/CLASS/*.jpg                    pictures of a class, in folders below it too
PATH/train|validation|test/CLASS/*  the same with parts
PATH.csv                            image,label and, where wanted, group, part, further columns
"""

import csv
import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from skinml.base.errors import Problems, did_you_mean
from skinml.data.images import ImageProblem
from skinml.data.isic2017 import PARTS
from skinml.data.layout import Layout, Source
from skinml.data.official import is_picture

# What people call the parts → what they are called here.
_PARTS = {
    **{part: part for part in PARTS},
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "testing": "test",
}

# Folders that systems make: a network drive's thumbnails, and what a check of a disk has found.
_SYSTEM = ("@eaDir", "lost+found")

_NEEDED = ("image", "label")
_KNOWN = (*_NEEDED, "group", "part")


class _Files:
    """Picture files by their path below a folder."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.title = root.name

    def read(self, name: str) -> bytes:
        try:
            return (self._root / name).read_bytes()
        except OSError as error:
            raise ImageProblem(f"unreadable: {error.strerror}") from None

    def stamp(self, name: str) -> str:
        status = (self._root / name).stat()
        return f"{status.st_size}:{status.st_mtime_ns}"


@contextmanager
def _sources(path: Path, problems: Problems) -> Iterator[list[Source]]:
    found = _table(path, problems) if path.is_file() else _folder(path, problems)
    _check_ids(found, problems)
    _check_parts(found, problems)
    _check_groups(found, problems)
    yield sorted(found, key=lambda source: source.image_id)


def _folder(root: Path, problems: Problems) -> list[Source]:
    files = _Files(root)
    above = [p for p in _shown(root) if p.is_dir()]
    parts = {p: _PARTS[p.name.lower()] for p in above if p.name.lower() in _PARTS}
    for path in above if parts else ():
        if path not in parts:
            problems.add("folders beside those of the parts", f"{path.name}: expected within one")
    found: list[Source] = []
    for folder in parts or [root]:
        for path in _shown(folder):
            if path.is_file() and is_picture(path):
                problems.add("pictures outside the folder of a class", _below(path, root))
            elif path.is_dir():
                own = [
                    Source(_id(name), path.name, parts.get(folder, ""), files, name)
                    for p in _files_below(path)
                    if is_picture(p) and (name := _below(p, root))
                ]
                if not own:
                    problems.add("classes without a picture", _below(path, root))
                found += own
    return found


def _shown(folder: Path) -> list[Path]:
    """What is in a folder, in order, but for what is hidden or the system's own."""
    return sorted(
        p for p in folder.iterdir() if not p.name.startswith(".") and p.name not in _SYSTEM
    )


def _files_below(folder: Path) -> list[Path]:
    """The files in a folder and in those within, but for what `_shown` leaves out.

    Thumbnails in a hidden folder are copies of pictures. A folder that cannot be read is an
    `OSError`: `rglob` would pass over it, and over the pictures in it.
    """

    def refuse(error: OSError) -> None:
        raise error

    found = []
    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [n for n in folders if not n.startswith(".") and n not in _SYSTEM]
        found += [Path(place, name) for name in names if not name.startswith(".")]
    return sorted(path for path in found if path.is_file())


def _left_out(path: Path) -> dict[str, int]:
    """The files in the folders of classes that are not taken, by ending; none beside a table."""
    if not path.is_dir():
        return {}
    others = (p for p in _files_below(path) if p.parent != path and not is_picture(p))
    return dict(Counter(p.suffix.lower() or "without an ending" for p in others).most_common())


def _below(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _id(name: str) -> str:
    """The id of a picture: its path without the ending."""
    return PurePosixPath(name).with_suffix("").as_posix()


def _table(path: Path, problems: Problems) -> list[Source]:
    files = _Files(path.parent)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            # What spreadsheets write where the comma is for decimals.
            sign = ";" if first.count(";") > first.count(",") else ","
            file.seek(0)
            header, *rows = list(csv.reader(file, delimiter=sign)) or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        problems.add("unreadable table", f"{path.name}: {error}")
        return []
    names = [name.strip() for name in header]
    names = [name.lower() if name.lower() in _KNOWN else name for name in names]
    for name in (name for name in _NEEDED if name not in names):
        near = did_you_mean(name, names)
        problems.add("missing columns", f"{name}, of {', '.join(names) or 'an empty file'}{near}")
    for name, count in Counter(names).items():
        if count > 1 or not name or not name.isprintable():
            problems.add("columns", f"{name!r}, {count} of them: expected a name, and each once")
    if problems:
        return []
    found = []
    for line, row in enumerate(rows, start=2):
        if not any(cell.strip() for cell in row):
            continue
        where = f"line {line}: {sign.join(row)}"
        if len(row) != len(names):
            problems.add("wrong number of fields", f"{where}, expected {len(names)}")
            continue
        values = dict(zip(names, (cell.strip() for cell in row), strict=True))
        image, label = values["image"], values["label"]
        part = _PARTS.get(values.get("part", "").lower(), values.get("part", ""))
        if not image or not label:
            problems.add("lines without an image or a label", where)
        elif part not in ("", *PARTS):
            problems.add("unknown parts", f"{where}: {part}, expected {', '.join(PARTS)}")
        elif why := _no_file(path.parent / image):
            problems.add(why, f"line {line}: {image}")
        else:
            further = {name: values[name] for name in names if name not in _KNOWN}
            group = values.get("group", "")
            found.append(
                Source(_id(image), label, part, files, image, group, MappingProxyType(further))
            )
    if not found and not problems:
        problems.add("empty table", path.name)
    return found


def _no_file(path: Path) -> str:
    """Why there is no file of a name that a table has; empty where there is one."""
    try:
        return "" if path.is_file() else "missing images"
    except OSError as error:  # A name of more than 255 letters, a folder that is closed.
        return f"images that cannot be looked for ({error.strerror})"


def _check_ids(found: list[Source], problems: Problems) -> None:
    names: dict[str, str] = {}
    for source in found:
        if not source.image_id.isprintable():
            problems.add("unprintable names of pictures", repr(source.name))
        if (other := names.setdefault(source.image_id, source.name)) is not source.name:
            problems.add("one image twice", f"{source.name} and {other}")


def _check_parts(found: list[Source], problems: Problems) -> None:
    without = [source for source in found if not source.part]
    if without and len(without) < len(found):
        told = f"{without[0].name} and {len(without) - 1} more of {len(found)}"
        problems.add("pictures without a part where others have one", told)


def _check_groups(found: list[Source], problems: Problems) -> None:
    parts: dict[str, set[str]] = defaultdict(set)
    for source in found:
        if source.group and source.part:
            parts[source.group].add(source.part)
    for group, own in parts.items():
        if len(own) > 1:
            problems.add("groups in more than one part", f"{group}: {', '.join(sorted(own))}")


def _fingerprint(path: Path) -> str:
    digest = hashlib.sha256(path.read_bytes() if path.is_file() else b"")
    with _sources(path, Problems()) as found:
        for source in found:
            size = source.stamp().partition(":")[0]
            digest.update(f"{source.name} {source.label} {source.part} {size}\n".encode())
    return digest.hexdigest()


def _has_files(path: Path) -> bool:
    return path.is_dir() or (path.is_file() and path.suffix.lower() == ".csv")


OWN = Layout(
    expected="a folder with a subfolder of pictures for each class (below train, validation and "
    "test, if it has parts), or a CSV table with the columns image and label (and group, part)",
    has_files=_has_files,
    has_pictures=_has_files,
    sources=_sources,
    fingerprint=_fingerprint,
    left_out=_left_out,
)
"""The layout of a person's own pictures."""
