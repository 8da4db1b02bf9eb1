"""Open a data set, and prepare it on first use: `python -m skinml.data.prepare` for the command.

Whoever needs a data set calls `open_data`. How a set is made stands in `skinml.data.making`.
"""

import argparse
import csv
import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from skinml.base.cache import cache_dir
from skinml.base.errors import Problems, UserError, run_command
from skinml.base.files import at_home
from skinml.base.locks import lock_file
from skinml.config import AUTO, Parser, is_path, is_true
from skinml.data import demo, demo_pictures
from skinml.data.datasets import DATASETS, DataSet, find_dataset
from skinml.data.fetch import offer_download
from skinml.data.making import (
    DOWNLOAD,
    clean_after,
    is_prepared_from,
    prepare,
    remedy_for,
    require_same_content,
)
from skinml.data.official import official_files_nearby
from skinml.data.prepared import PreparedSet, is_prepared, open_prepared, read_source, update_facts
from skinml.data.preview import left_out_warning, preview
from skinml.data.protocols import own_parts_warning

DATA_DIR_VARIABLE = "SKINML_DATA_DIR"


def data_folder(data: str, data_dir: str = AUTO) -> Path:
    """Where the official files (or a prepared set) of a data set are expected."""
    if data_dir not in (AUTO, ""):
        folder = at_home(data_dir, "data_dir=").resolve()
        # What was prepared of own pictures goes to other machines; other pictures are other data.
        if is_path(data) and folder != at_home(data, "data=").resolve() and not _is_set(folder):
            raise UserError(
                f"data={data} with data_dir={data_dir}: expected one of the two, as a path says "
                "where your pictures are; leave out data_dir, or give a prepared set with it"
            )
        return folder
    if data == "demo":
        # Another version of the generator makes another set, in a folder of its own.
        code = [Path(file).read_bytes() for file in (demo.__file__, demo_pictures.__file__)]
        return (cache_dir() / f"demo-{hashlib.sha256(b''.join(code)).hexdigest()[:8]}").resolve()
    if is_path(data):
        return at_home(data, "data=").resolve()
    override = os.environ.get(DATA_DIR_VARIABLE)
    return (
        at_home(override, f"{DATA_DIR_VARIABLE}=") if override else cache_dir() / data
    ).resolve()


def _is_set(folder: Path) -> bool:
    with suppress(PermissionError):
        return is_prepared(folder)
    return False


def prepared_folder(data: str, folder: Path) -> Path:
    """Where the prepared set of a folder of official files lies: in the cache, never beside it."""
    key = hashlib.sha256(str(folder).encode()).hexdigest()[:12]
    return (cache_dir() / "prepared" / f"{find_dataset(data).name}-{key}").resolve()


def open_data(
    data: str,
    data_dir: str = AUTO,
    jobs: int | None = None,
    yes: bool = False,
    out: str = AUTO,
    force: bool = False,
) -> PreparedSet:
    """Open a data set by name, preparing (and for the demo, generating) it on first use.

    Looks for a prepared set in the data folder, then for one made from it earlier, then for the
    official files. What is missing of these it offers to download on a terminal, and does so with
    `yes`. Never falls back to other data: without any of these it is a `UserError`. With `out`, or
    by `force`, the set is made from the files: in that folder, or anew.
    """
    with _closed_told(data):
        return _open_data(data, data_dir, jobs, yes, out, force)


@contextmanager
def _closed_told(data: str) -> Iterator[None]:
    """Make a `UserError` of a file or folder that this user may not open, wherever it is met."""
    try:
        yield
    except PermissionError as error:
        raise UserError(
            f"data={data}: {error.filename} cannot be opened ({error.strerror}); expected files "
            "and folders that you may read, and a cache that you may write to: change their "
            "rights, or name others"
        ) from None


def _open_data(
    data: str, data_dir: str, jobs: int | None, yes: bool, out: str, force: bool
) -> PreparedSet:
    dataset, folder = find_dataset(data), data_folder(data, data_dir)
    asked_for = force or out != AUTO
    if not asked_for and is_prepared(folder):
        return _checked(open_prepared(folder), dataset)
    place = prepared_folder(data, folder) if out == AUTO else _new_folder(out)
    if data == "demo" and not folder.exists():
        _generate_once(folder)
    clean_after(place)
    there = is_prepared(place) and not force
    if there and out == AUTO and not dataset.layout.has_pictures(folder):
        # The originals may be gone (12 GB): what was made from them is what counts.
        return _checked(open_prepared(place), dataset)
    if data == "isic2017" and not there:
        _require_right_folder(folder)
        offer_download(folder, yes)
    if not dataset.layout.has_files(folder):
        raise UserError(_nothing_there(dataset, folder))
    if there:
        _require_unchanged(dataset, folder, place)
        require_same_content(dataset, folder, place)
        _update_facts(dataset, folder, place)
    else:
        when = "" if asked_for else " on first use"
        print(f"skinml: preparing {folder}{when}", file=sys.stderr)
        _warn(left_out_warning(folder, dataset))
        prepare(folder, place, jobs, dataset)
    return _checked(open_prepared(place), dataset)


def _generate_once(folder: Path) -> None:
    """Generate the demo set where it is not; of two first commands at once the second waits."""
    lock = folder.with_name(f".{folder.name}.lock")
    notice = f"skinml: waiting for another process, which generates {folder}"
    held = None
    # Where no lock can be, no folder can: generating says why.
    with suppress(OSError):
        held, _ = lock_file(lock, notice)
    try:
        if not folder.exists():
            print(f"skinml: generating the demo set in {folder}", file=sys.stderr)
            demo.generate(folder)
    finally:
        if held is not None:
            lock.unlink(missing_ok=True)
            os.close(held)


def _new_folder(out: str) -> Path:
    """The folder that a person names for a set, which must not hold anything else."""
    folder = at_home(out, "out=").resolve()
    if folder.is_file() or (folder.is_dir() and not is_prepared(folder) and any(folder.iterdir())):
        raise UserError(
            f"out={folder}: not empty and not a prepared set; expected a new folder, so that "
            "nothing of yours is overwritten"
        )
    return folder


def _nothing_there(dataset: DataSet, folder: Path) -> str:
    """That a folder has neither a prepared set nor the files of one, and what helps."""
    if dataset.name.startswith("own-"):
        return f"data={folder}: expected {dataset.layout.expected}"
    download = f"; {DOWNLOAD}" if dataset.downloads else ""
    if dataset.files:
        download = f"; get these at {dataset.homepage} ({dataset.licence.partition(';')[0]})"
    return (
        f"data={dataset.name}: neither a prepared set nor its files are in {folder}; expected "
        f"{dataset.layout.expected}{download}; or name the folder that has them with data_dir (or "
        f"${DATA_DIR_VARIABLE}), `python -m skinml.data.prepare` prepares them; to try skinml "
        "without them use data=demo"
    )


def _require_right_folder(folder: Path) -> None:
    """Raise `UserError` where the official files are a folder further in or out."""
    if right := official_files_nearby(folder):
        raise UserError(
            f"data_dir={folder}: the official ISIC 2017 files are in {right}, expected in the "
            f"folder that is named; use data_dir={right} (or ${DATA_DIR_VARIABLE})"
        )


def _require_unchanged(dataset: DataSet, folder: Path, out: Path) -> None:
    """Raise `UserError` unless `out` was prepared from the files that are in `folder` now."""
    if not is_prepared_from(out, dataset.layout.fingerprint(folder)):
        raise UserError(
            f"the files in {folder} are not those that {out} was prepared from: they changed; run "
            "`python -m skinml.data.prepare --force` with the same data, data_dir and out to "
            "prepare them again, or bring the files back"
        )


def _update_facts(dataset: DataSet, folder: Path, out: Path) -> None:
    """Bring the facts about the images up to the files': earlier versions did not read them."""
    if dataset.layout.facts is None:
        return
    problems = Problems()
    facts = dataset.layout.facts(folder, problems)
    problems.raise_if_any(str(folder), remedy_for(dataset, folder))
    # A set that nobody may write to is used as it is; a damaged one is told of when it is opened.
    with suppress(OSError, ValueError, csv.Error):
        update_facts(out, facts)


def _checked(prepared: PreparedSet, dataset: DataSet) -> PreparedSet:
    """The set, unless it is of another name, or generated under a real one or the other way."""
    if dataset.name.startswith("own-"):
        return prepared
    generated = bool(np.char.startswith(prepared.image_ids, demo.ID_PREFIX).any())
    real = generated == (dataset.name == "demo")
    # Sets of ISIC 2017 and of the demo have been without a name, or with each other's.
    named = prepared.name in ("", "isic2017", "demo", dataset.name)
    if not real or not named or prepared.classes != dataset.classes:
        there = prepared.name or ("demo" if generated else "isic2017")
        raise UserError(
            f"data={dataset.name}: {prepared.folder} holds "
            f"{'generated demo' if generated else 'real'} images of {there} in "
            f"{len(prepared.classes)} classes; use data={there} or another data_dir"
        )
    return prepared


def describe(prepared: PreparedSet) -> str:
    """The counts of a prepared set and its duplicate images, for a person."""
    counts = prepared.part_counts(prepared.official_parts)
    lines = [f"{len(prepared)} images, data digest {prepared.digest}, in {prepared.folder}"]
    if folder := read_source(prepared.folder).get("folder"):
        lines.append(f"  prepared from {folder}")
    lines += [
        f"  {part or 'all':<10} " + ", ".join(f"{n} {name}" for name, n in own.items())
        for part, own in counts.items()
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
        description="Turn the files of a data set, or your own pictures, into the prepared set "
        "that training reads. Files of ISIC 2017 that are missing are downloaded if you agree.",
    )
    parser.add_argument(
        "--data", default="isic2017", metavar="NAME|PATH",
        help=f"{', '.join(DATASETS)}, or your own pictures: a folder with a subfolder for each "
        "class, or a CSV table (default: isic2017)",
    )  # fmt: skip
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
        "--dry-run", action="store_true",
        help="say what pictures there are and what is wrong with them; nothing is prepared",
    )  # fmt: skip
    parser.add_argument(
        "--yes",
        nargs="?",
        const="True",
        default="False",
        metavar="True|False",
        help="download official files that are missing, about 12 GB, without asking",
    )
    options = parser.parse_args(argv)
    yes = is_true("yes", options.yes)
    if options.jobs != AUTO and not (options.jobs.isdecimal() and int(options.jobs)):
        raise UserError(f"jobs={options.jobs!r}: expected a whole number of at least 1, or auto")
    jobs = None if options.jobs == AUTO else int(options.jobs)
    if options.dry_run:
        return _dry_run(options, jobs)
    found = open_data(options.data, options.data_dir, jobs, yes, options.out, options.force)
    print(describe(found))
    _warn(own_parts_warning(options.data, found.official_parts))
    return 0


def _dry_run(options: argparse.Namespace, jobs: int | None) -> int:
    dataset = find_dataset(options.data)
    folder = data_folder(options.data, options.data_dir)
    with _closed_told(options.data):
        if not dataset.layout.has_files(folder):
            raise UserError(_nothing_there(dataset, folder))
        found = preview(folder, dataset, jobs)
    print("\n".join(found.lines))
    _warn(own_parts_warning(options.data, found.parts))
    found.problems.raise_if_any(str(folder), remedy_for(dataset, folder))
    return 0


def _warn(lines: list[str]) -> None:
    for line in lines:
        print(f"skinml: {line}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(run_command(main))
