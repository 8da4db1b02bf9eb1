"""Pictures in whatever files → a prepared set, in pieces that survive a kill."""

import hashlib
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from importlib.metadata import version
from pathlib import Path

import numpy as np

from skinml.base.errors import Problems, UserError
from skinml.base.locks import exclusive
from skinml.base.processes import usable_cores
from skinml.base.progress import progress_bar
from skinml.base.provenance import PACKAGE, file_digest
from skinml.data.datasets import ISIC2017, DataSet, classes_of
from skinml.data.duplicates import near_duplicate_groups, perceptual_hash
from skinml.data.fetch import missing_files
from skinml.data.images import IMAGE_SIZE, ImageProblem, decode_image, pixel_digest
from skinml.data.layout import Source
from skinml.data.prepared import (
    GROUP,
    IMAGES,
    SUBGROUP,
    PreparedSet,
    is_prepared,
    open_prepared,
    read_source,
    source_digests,
    write_about,
    write_manifest,
    write_source,
)
from skinml.data.worklog import DoneImage, Worklog, in_order

# The folder in the workshop that becomes the prepared set.
_SET = "set"


DOWNLOAD = "`python -m skinml.data.prepare --yes` downloads them (about 12 GB)"


def remedy_for(dataset: DataSet, folder: Path) -> str:
    official = f" (official ones: {dataset.homepage})" if dataset.homepage else ""
    if dataset.downloads and missing_files(folder):
        official = f" (official ones: {dataset.homepage}; {DOWNLOAD}, those that are not there)"
    return (
        f"remedy: mend or replace these files{official}; nothing was prepared, run the same "
        "command again afterwards"
    )


def is_prepared_from(out: Path, files: str) -> bool:
    return is_prepared(out) and read_source(out).get("fingerprint") == files


def require_same_content(dataset: DataSet, folder: Path, out: Path) -> None:
    """Raise `UserError` where a picture was replaced by another of its size since `out` was made.

    Uncompressed pictures all have one size. Where the files were written anew since they were last
    looked at, as a copy's are, each is read and compared, once: what the system says of them is
    noted then. A set that nobody may write to, or that has no such note yet, is none the worse.
    """
    noted = read_source(out)
    with dataset.layout.sources(folder, Problems()) as sources:
        stamps = _stamps(sources)
        if stamps == noted.get("stamps"):
            return
        if "stamps" in noted:
            digests = source_digests(out)
            with progress_bar("comparing", len(sources)) as advance:
                for source in sources:
                    if _file_digest(source) != digests.get(source.image_id):
                        raise UserError(
                            f"{source} is not the picture that {out} was prepared from; run "
                            "`python -m skinml.data.prepare --force` with the same data, data_dir "
                            "and out to prepare them again, or bring the file back"
                        )
                    advance()
    with suppress(OSError):
        write_source(out, noted | {"stamps": stamps})


def _file_digest(source: Source) -> str:
    """The SHA-256 of a picture's file; empty where it cannot be read."""
    try:
        return hashlib.sha256(source.read()).hexdigest()
    except ImageProblem:
        return ""


def _stamps(sources: list[Source]) -> str:
    """A digest of what the system says of each picture's file: another one if it was written."""
    digest = hashlib.sha256()
    for source in sources:
        # What cannot be looked at is told of where it is read.
        with suppress(OSError):
            digest.update(f"{source.image_id} {source.stamp()}\n".encode())
    return digest.hexdigest()


def prepare(
    folder: Path, out: Path, jobs: int | None = None, dataset: DataSet = ISIC2017
) -> PreparedSet:
    """Turn the files of `folder` into a prepared set in `out`, using `jobs` threads.

    Every problem of the files is found in one pass and told in one `UserError`, which leaves
    nothing behind. The set is made in a hidden folder beside `out` and renamed when it is complete.
    Where the process was stopped or killed, the next call goes on with the images that are missing,
    to the same bytes. Of two processes the second waits, and takes what the first has made.
    """
    problems, remedy = Problems(), remedy_for(dataset, folder)
    # Before the images are read: one that is replaced meanwhile makes this set one of other files.
    files = dataset.layout.fingerprint(folder)
    with dataset.layout.sources(folder, problems) as sources:
        if not sources:
            problems.add("empty set", f"no image with a label in {folder}")
            problems.raise_if_any(str(folder), remedy)
        classes, stamps = classes_of(sources, dataset, problems), _stamps(sources)
        workshop = _make_workshop(out, len(sources) * IMAGE_SIZE * IMAGE_SIZE * 3)
        notice = f"skinml: waiting for another process, which is preparing {out}"
        with exclusive(workshop / "lock", notice) as waited:
            if waited and is_prepared_from(out, files):
                _remove(workshop)
                return open_prepared(out)
            rows = _convert_all(sources, dataset.as_stored, workshop, jobs, problems)
            if problems:
                _remove(workshop)
            problems.raise_if_any(str(folder), remedy)
            complete = workshop / _SET
            about = {"folder": str(folder), "fingerprint": files, "stamps": stamps}
            write_source(complete, about)
            write_about(complete, dataset.name, classes)
            further, columns = _further_columns(sources)
            write_manifest(
                complete, [(*r, *c) for r, c in zip(rows, columns, strict=True)], further
            )
            if out.exists():
                # Aside first: deleting takes a while, in which nothing would be found.
                _remove(workshop / "old")
                out.replace(workshop / "old")
            complete.replace(out)
            _remove(workshop)
    return open_prepared(out)


def _further_columns(sources: list[Source]) -> tuple[list[str], list[tuple[str, ...]]]:
    """The names of the manifest's columns that not every set has, and their values, a row each."""
    facts = list(dict.fromkeys(name for source in sources for name in source.subgroups))
    groups = [GROUP] if any(source.group for source in sources) else []
    values = [
        (*[s.group for _ in groups], *(s.subgroups.get(name, "") for name in facts))
        for s in sources
    ]
    return groups + [SUBGROUP + name for name in facts], values


def _convert_all(
    sources: list[Source],
    as_stored: bool,
    workshop: Path,
    jobs: int | None,
    problems: Problems,
) -> list[tuple[str, ...]]:
    """Decode every image into `images.npy`; returns the rows of the manifest.

    What a process before this one has done is taken over from its worklog, where the file is the
    same still and the pixels have the digest that was noted: the worklog may have reached the disk
    before them.
    """
    pixels, worklog = _resume(workshop, sources)

    def convert(index: int) -> DoneImage | ImageProblem:
        """Decode one image into its row: its digests, or what is wrong."""
        source = sources[index]
        try:
            stamp = source.stamp()
            known = worklog.rows.get(source.image_id)
            if known and known.stamp == stamp and known.pixels == pixel_digest(pixels[index]):
                return known
            content = source.read()
            image = decode_image(content, as_stored)
        except OSError as error:
            return ImageProblem(f"unreadable: {error.strerror}")
        except ImageProblem as problem:
            return problem
        pixels[index] = image
        digests = hashlib.sha256(content).hexdigest(), pixel_digest(image), perceptual_hash(image)
        row = DoneImage(source.image_id, stamp, *digests)
        worklog.append(row)
        return row

    done: list[tuple[Source, DoneImage]] = []
    jobs = jobs or usable_cores()
    # Threads, not processes: reading, decoding, scaling and hashing all leave Python's lock.
    with (
        closing(worklog),
        ThreadPoolExecutor(jobs) as pool,
        progress_bar("preparing", len(sources)) as advance,
    ):
        results = in_order(pool, convert, range(len(sources)), ahead=4 * jobs)
        for source, result in zip(sources, results, strict=True):
            if isinstance(result, ImageProblem):
                problems.add("unusable images", f"{source}: {result}")
            else:
                done.append((source, result))
            advance()
    pixels.flush()
    groups = near_duplicate_groups([row.perceptual for _, row in done])
    return [
        (row.image_id, source.label, source.part, row.source, row.pixels, done[first][1].image_id)
        for (source, row), first in zip(done, groups, strict=True)
    ]


def _resume(workshop: Path, sources: list[Source]) -> tuple[np.memmap, Worklog]:
    """The array and the worklog in a workshop: those of before where they are of these images."""
    shape = (len(sources), IMAGE_SIZE, IMAGE_SIZE, 3)
    # Other images, or the same decoded by other code, are another array.
    ids = "\n".join(source.image_id for source in sources)
    code = [file_digest(PACKAGE / "data" / f"{name}.py") for name in ("images", "duplicates")]
    versions = [version(name) for name in ("pillow", "simplejpeg", "imagehash")]
    heading = hashlib.sha256("\n".join([ids, *code, *versions]).encode()).hexdigest()
    worklog = Worklog(workshop / "journal.csv", heading)
    array = workshop / _SET / IMAGES
    try:
        if worklog.rows:
            pixels = np.lib.format.open_memmap(array, mode="r+")
            if pixels.shape == shape and pixels.dtype == np.uint8:
                return pixels, worklog
    except (OSError, ValueError):
        pass  # Killed before the array was there, or damaged: made anew.
    worklog.clear()
    _remove(workshop / _SET)
    array.parent.mkdir()
    return np.lib.format.open_memmap(array, mode="w+", dtype=np.uint8, shape=shape), worklog


def _make_workshop(out: Path, size: int) -> Path:
    """Make the folder that a set is made in; `UserError` where it or `size` bytes cannot be."""
    workshop = _workshop(out)
    if out.is_mount():
        raise UserError(
            f"out={out}: a disk is mounted there, and a set comes in one piece by renaming its "
            f"folder; expected a folder within it, such as {out / 'prepared'}"
        )
    try:
        workshop.mkdir(parents=True, exist_ok=True)
        # A memory-mapped file that outgrows the disk kills the process without a word.
        array = workshop / _SET / IMAGES
        there = array.stat().st_blocks * 512 if array.exists() else 0
        free = shutil.disk_usage(workshop).free
    except OSError as error:
        raise UserError(
            f"out={out}: cannot be created ({error.strerror}), expected a path in a writable "
            "folder; give another"
        ) from None
    if free < size - there:
        # What an earlier process has made stays; an empty folder goes.
        with suppress(OSError):
            workshop.rmdir()
        raise UserError(
            f"out={out}: {free / 1e6:.0f} MB are free there, expected {(size - there) / 1e6:.0f} "
            "MB for the prepared set; free some space or give another folder"
        )
    return workshop


def _workshop(out: Path) -> Path:
    # A name of its own for each set, the same each time: whoever comes after a kill finds it.
    return out.with_name(f".{out.name}.partial")


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def clean_after(out: Path) -> None:
    """Remove what a process left that was killed between the last rename and its own cleaning."""
    workshop = _workshop(out)
    if workshop.exists() and not (workshop / _SET).exists():
        with exclusive(workshop / "lock", None) as waited:
            if not waited and not (workshop / _SET).exists():
                _remove(workshop)
