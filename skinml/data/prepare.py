"""Official image files → prepared set: `python -m skinml.data.prepare`."""

import argparse
import hashlib
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from importlib.metadata import version
from pathlib import Path

import numpy as np

from skinml.cache import cache_dir
from skinml.config import AUTO, Parser
from skinml.data import demo
from skinml.data.duplicates import near_duplicate_groups, perceptual_hash
from skinml.data.fetch import missing_files, offer_download
from skinml.data.images import IMAGE_SIZE, ImageProblem, decode_image, pixel_digest
from skinml.data.isic2017 import HOMEPAGE, OFFICIAL_PARTS, PARTS
from skinml.data.journal import Journal, Row, in_order
from skinml.data.official import (
    Source,
    fingerprint,
    has_official_files,
    has_pictures,
    official_files_nearby,
    open_pictures,
    read_official,
)
from skinml.data.prepared import (
    IMAGES,
    PreparedSet,
    is_prepared,
    open_prepared,
    read_source,
    write_manifest,
    write_source,
)
from skinml.errors import Problems, UserError, run_command
from skinml.processes import exclusive, usable_cores
from skinml.progress import progress_bar
from skinml.provenance import PACKAGE, file_digest

DATA_DIR_VARIABLE = "SKINML_DATA_DIR"

# The folder in the workshop that becomes the prepared set.
_SET = "set"

_DOWNLOAD = "`python -m skinml.data.prepare --yes` downloads them (about 12 GB)"


def data_folder(data: str, data_dir: str = AUTO) -> Path:
    """Where the official files (or a prepared set) of a data set are expected."""
    if data_dir not in (AUTO, ""):
        return Path(data_dir).expanduser().resolve()
    if data == "demo":
        # Another version of the generator makes another set, in a folder of its own.
        version = hashlib.sha256(Path(demo.__file__).read_bytes()).hexdigest()[:8]
        return (cache_dir() / f"demo-{version}").resolve()
    override = os.environ.get(DATA_DIR_VARIABLE)
    return (Path(override).expanduser() if override else cache_dir() / "isic2017").resolve()


def prepared_folder(data: str, folder: Path) -> Path:
    """Where the prepared set of a folder of official files lies: in the cache, never beside it."""
    key = hashlib.sha256(str(folder).encode()).hexdigest()[:12]
    return (cache_dir() / "prepared" / f"{data}-{key}").resolve()


def open_data(
    data: str, data_dir: str = AUTO, jobs: int | None = None, yes: bool = False
) -> PreparedSet:
    """Open a data set by name, preparing (and for the demo, generating) it on first use.

    Looks for a prepared set in the data folder, then for one made from it earlier, then for the
    official files. What is missing of these it offers to download on a terminal, and does so with
    `yes`. Never falls back to other data: without any of these it is a `UserError`.
    """
    folder = data_folder(data, data_dir)
    if is_prepared(folder):
        return _checked(open_prepared(folder), data)
    out = prepared_folder(data, folder)
    if data == "demo" and not folder.exists():
        print(f"skinml: generating the demo set in {folder}", file=sys.stderr)
        demo.generate(folder)
    _clean_after(out)
    if is_prepared(out) and not has_pictures(folder):
        # The originals may be gone (12 GB): what was made from them is what counts.
        return _checked(open_prepared(out), data)
    if data == "isic2017" and not is_prepared(out):
        _require_right_folder(folder)
        offer_download(folder, yes)
    if not has_official_files(folder):
        raise UserError(
            f"data={data}: neither a prepared set nor the official ISIC 2017 files are in "
            f"{folder}; {_DOWNLOAD}; or put them there ({HOMEPAGE}) or name their folder with "
            f"data_dir (or ${DATA_DIR_VARIABLE}), `python -m skinml.data.prepare` prepares them; "
            "to try skinml without them use data=demo"
        )
    if is_prepared(out):
        _require_unchanged(folder, out)
    else:
        print(f"skinml: preparing {folder} on first use", file=sys.stderr)
        prepare(folder, out, jobs)
    return _checked(open_prepared(out), data)


def _remedy(folder: Path) -> str:
    download = f"; {_DOWNLOAD}, those that are not there" if missing_files(folder) else ""
    return (
        f"remedy: mend or replace these files (official ones: {HOMEPAGE}{download}); nothing was "
        "prepared, run the same command again afterwards"
    )


def _require_right_folder(folder: Path) -> None:
    """Raise `UserError` where the official files are a folder further in or out."""
    if right := official_files_nearby(folder):
        raise UserError(
            f"data_dir={folder}: the official ISIC 2017 files are in {right}, expected in the "
            f"folder that is named; use data_dir={right} (or ${DATA_DIR_VARIABLE})"
        )


def _require_unchanged(folder: Path, out: Path) -> None:
    """Raise `UserError` unless `out` was prepared from the files that are in `folder` now."""
    if not _is_prepared_from(out, fingerprint(folder)):
        raise UserError(
            f"the files in {folder} are not those that {out} was prepared from: they changed; run "
            "`python -m skinml.data.prepare --force` with the same data, data_dir and out to "
            "prepare them again, or bring the files back"
        )


def _is_prepared_from(out: Path, files: str) -> bool:
    return is_prepared(out) and read_source(out).get("fingerprint") == files


def _checked(prepared: PreparedSet, data: str) -> PreparedSet:
    """The set, unless it is generated data under a real name or the other way round."""
    generated = bool(np.char.startswith(prepared.image_ids, demo.ID_PREFIX).any())
    if generated != (data == "demo"):
        raise UserError(
            f"data={data}: {prepared.folder} holds "
            f"{'generated demo' if generated else 'real'} images; use "
            f"data={'demo' if generated else 'isic2017'} or another data_dir"
        )
    return prepared


def prepare(folder: Path, out: Path, jobs: int | None = None) -> PreparedSet:
    """Turn the official files of `folder` into a prepared set in `out`, using `jobs` threads.

    Every problem of the files is found in one pass and told in one `UserError`, which leaves
    nothing behind. The set is made in a hidden folder beside `out` and renamed when it is complete.
    Where the process was stopped or killed, the next call goes on with the images that are missing,
    to the same bytes. Of two processes the second waits, and takes what the first has made.
    """
    problems = Problems()
    # Before the images are read: one that is replaced meanwhile makes this set one of other files.
    files = fingerprint(folder)
    with open_pictures(folder, problems) as pictures:
        sources = read_official(folder, pictures, problems)
        if not sources:
            problems.add("empty set", f"no image with a label in {folder}")
            problems.raise_if_any(str(folder), _remedy(folder))
        workshop = _make_workshop(out, len(sources) * IMAGE_SIZE * IMAGE_SIZE * 3)
        notice = f"skinml: waiting for another process, which is preparing {out}"
        with exclusive(workshop / "lock", notice) as waited:
            if waited and _is_prepared_from(out, files):
                _remove(workshop)
                return open_prepared(out)
            rows = _convert_all(sources, workshop, jobs, problems)
            if problems:
                _remove(workshop)
            problems.raise_if_any(str(folder), _remedy(folder))
            complete = workshop / _SET
            write_source(complete, {"folder": str(folder), "fingerprint": files})
            write_manifest(complete, rows)
            if out.exists():
                # Aside first: deleting takes a while, in which nothing would be found.
                _remove(workshop / "old")
                out.replace(workshop / "old")
            complete.replace(out)
            _remove(workshop)
    return open_prepared(out)


def _convert_all(
    sources: list[Source], workshop: Path, jobs: int | None, problems: Problems
) -> list[tuple[str, ...]]:
    """Decode every image into `images.npy`; returns the rows of the manifest.

    What a process before this one has done is taken over from its journal, where the file is the
    same still and the pixels have the digest that was noted: the journal may have reached the disk
    before them.
    """
    pixels, journal = _resume(workshop, sources)

    def convert(index: int) -> Row | ImageProblem:
        """Decode one image into its row: its digests, or what is wrong."""
        source = sources[index]
        try:
            stamp = source.stamp()
            known = journal.rows.get(source.image_id)
            if known and known.stamp == stamp and known.pixels == pixel_digest(pixels[index]):
                return known
            content = source.read()
            image = decode_image(content)
        except OSError as error:
            return ImageProblem(f"unreadable: {error.strerror}")
        except ImageProblem as problem:
            return problem
        pixels[index] = image
        digests = hashlib.sha256(content).hexdigest(), pixel_digest(image), perceptual_hash(image)
        row = Row(source.image_id, stamp, *digests)
        journal.append(row)
        return row

    done: list[tuple[Source, Row]] = []
    jobs = jobs or usable_cores()
    # Threads, not processes: reading, decoding, scaling and hashing all leave Python's lock.
    with (
        closing(journal),
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


def _resume(workshop: Path, sources: list[Source]) -> tuple[np.memmap, Journal]:
    """The array and the journal in a workshop: those of before where they are of these images."""
    shape = (len(sources), IMAGE_SIZE, IMAGE_SIZE, 3)
    # Other images, or the same decoded by other code, are another array.
    ids = "\n".join(source.image_id for source in sources)
    code = [file_digest(PACKAGE / "data" / f"{name}.py") for name in ("images", "duplicates")]
    versions = [version(name) for name in ("pillow", "simplejpeg", "imagehash")]
    heading = hashlib.sha256("\n".join([ids, *code, *versions]).encode()).hexdigest()
    journal = Journal(workshop / "journal.csv", heading)
    array = workshop / _SET / IMAGES
    try:
        if journal.rows:
            pixels = np.lib.format.open_memmap(array, mode="r+")
            if pixels.shape == shape and pixels.dtype == np.uint8:
                return pixels, journal
    except (OSError, ValueError):
        pass  # Killed before the array was there, or damaged: made anew.
    journal.clear()
    _remove(workshop / _SET)
    array.parent.mkdir()
    return np.lib.format.open_memmap(array, mode="w+", dtype=np.uint8, shape=shape), journal


def _make_workshop(out: Path, size: int) -> Path:
    """Make the folder that a set is made in; `UserError` where it or `size` bytes cannot be."""
    workshop = _workshop(out)
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


def _clean_after(out: Path) -> None:
    """Remove what a process left that was killed between the last rename and its own cleaning."""
    workshop = _workshop(out)
    if workshop.exists() and not (workshop / _SET).exists():
        with exclusive(workshop / "lock", None) as waited:
            if not waited and not (workshop / _SET).exists():
                _remove(workshop)


def describe(prepared: PreparedSet) -> str:
    """The counts of a prepared set and its duplicate images, for a person."""
    counts = prepared.part_counts(prepared.official_parts)
    lines = [f"{len(prepared)} images, data digest {prepared.digest}, in {prepared.folder}"]
    if folder := read_source(prepared.folder).get("folder"):
        lines.append(f"  prepared from {folder}")
    lines += [
        f"  {part:<10} " + ", ".join(f"{n} {name}" for name, n in counts[part].items())
        for part in PARTS
    ]
    lines += duplicates_warning(prepared)
    if near := prepared.near_duplicates:
        count = sum(map(len, near))
        lines.append(f"{count} images in {len(near)} groups of near-duplicates, identical or not")
    return "\n".join(lines)


def duplicates_warning(prepared: PreparedSet) -> list[str]:
    """Lines that name the ids whose images are identical; none where there are none."""
    if not prepared.duplicates:
        return []
    part_of = dict(zip(prepared.image_ids, prepared.official_parts, strict=True))
    return [
        f"warning: {len(prepared.duplicates)} groups of ids whose images are identical (the paper "
        "protocol keeps each in one part):",
        *(
            "  " + " = ".join(f"{image_id} ({part_of[image_id]})" for image_id in group)
            for group in prepared.duplicates
        ),
    ]


def main(argv: list[str] | None = None) -> int:
    parser = Parser(
        prog="python -m skinml.data.prepare",
        description="Turn the official ISIC 2017 files into the prepared set that training reads. "
        "Files that are missing are downloaded if you agree.",
    )
    parser.add_argument("--data", choices=("isic2017", "demo"), default="isic2017")
    parser.add_argument(
        "--data_dir",
        "--data-dir",
        default=AUTO,
        help=f"folder of the official files (default: ${DATA_DIR_VARIABLE}, else the cache)",
    )
    parser.add_argument("--out", default=AUTO, help="folder of the prepared set (default: cache)")
    parser.add_argument("--jobs", default=AUTO, help="threads (default: one a core)")
    parser.add_argument(
        "--force", action="store_true", help="prepare again what is already prepared"
    )
    parser.add_argument(
        "--yes",
        nargs="?",
        const="True",
        default="False",
        metavar="True|False",
        help="download official files that are missing, about 12 GB, without asking",
    )
    options = parser.parse_args(argv)
    if options.yes.lower() not in ("true", "false"):
        raise UserError(f"yes={options.yes!r}: expected true or false")
    if options.jobs != AUTO and not (options.jobs.isdecimal() and int(options.jobs)):
        raise UserError(f"jobs={options.jobs!r}: expected a whole number of at least 1, or auto")
    jobs = None if options.jobs == AUTO else int(options.jobs)
    print(describe(_prepare_as_asked(options, jobs, options.yes.lower() == "true")))
    return 0


def _prepare_as_asked(options: argparse.Namespace, jobs: int | None, yes: bool) -> PreparedSet:
    folder = data_folder(options.data, options.data_dir)
    if options.out == AUTO and not options.force:
        return open_data(options.data, options.data_dir, jobs, yes)
    out = prepared_folder(options.data, folder)
    if options.out != AUTO:
        out = Path(options.out).expanduser().resolve()
        if out.is_file() or (out.is_dir() and not is_prepared(out) and any(out.iterdir())):
            raise UserError(
                f"out={out}: not empty and not a prepared set; expected a new folder, so that "
                "nothing of yours is overwritten"
            )
    if options.data == "demo" and not folder.exists():
        demo.generate(folder)
    _clean_after(out)
    if is_prepared(out) and not options.force:
        _require_unchanged(folder, out)
        return _checked(open_prepared(out), options.data)
    if options.data == "isic2017":
        _require_right_folder(folder)
        offer_download(folder, yes)
    if not has_official_files(folder):
        raise UserError(
            f"data_dir={folder}: no official ISIC 2017 files there; expected archives such as "
            f"{OFFICIAL_PARTS[0].archive} (or folders) and their ground truth, from {HOMEPAGE}; "
            f"{_DOWNLOAD}"
        )
    return _checked(prepare(folder, out, jobs), options.data)


if __name__ == "__main__":
    sys.exit(run_command(main))
