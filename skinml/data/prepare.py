"""Official image files → prepared set: `python -m skinml.data.prepare`."""

import argparse
import csv
import hashlib
import os
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from skinml.cache import cache_dir
from skinml.config import AUTO, Parser
from skinml.data import demo
from skinml.data.images import IMAGE_SIZE, ImageProblem, decode_image, pixel_digest
from skinml.data.isic2017 import CSV_COLUMNS, HOMEPAGE, OFFICIAL_PARTS, PARTS
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
from skinml.progress import progress_bar

DATA_DIR_VARIABLE = "SKINML_DATA_DIR"

_PICTURES = (".jpg", ".jpeg", ".png")

_REMEDY = (
    f"remedy: mend or replace these files (official ones: {HOMEPAGE}); nothing was prepared, run "
    "the same command again afterwards"
)


class Source(NamedTuple):
    """One official image: its id, class, official part and file."""

    image_id: str
    label: str
    part: str
    path: Path


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


def open_data(data: str, data_dir: str = AUTO, jobs: int | None = None) -> PreparedSet:
    """Open a data set by name, preparing (and for the demo, generating) it on first use.

    Looks for a prepared set in the data folder, then for one made from it earlier, then for the
    official files. Never falls back to other data: without any of these it is a `UserError`.
    """
    folder = data_folder(data, data_dir)
    if is_prepared(folder):
        return _checked(open_prepared(folder), data)
    out = prepared_folder(data, folder)
    if data == "demo" and not folder.exists():
        print(f"skinml: generating the demo set in {folder}", file=sys.stderr)
        demo.generate(folder)
    if not has_official_files(folder):
        if is_prepared(out):
            # The originals may be gone (12 GB): what was made from them is what counts.
            return _checked(open_prepared(out), data)
        raise UserError(
            f"data={data}: neither a prepared set nor the official ISIC 2017 files are in "
            f"{folder}; put them there ({HOMEPAGE}) or name their folder with data_dir (or "
            f"${DATA_DIR_VARIABLE}), `python -m skinml.data.prepare` prepares them; to try skinml "
            "without them use data=demo"
        )
    if is_prepared(out):
        _require_unchanged(folder, out)
    else:
        print(f"skinml: preparing {folder} on first use", file=sys.stderr)
        prepare(folder, out, jobs)
    return _checked(open_prepared(out), data)


def _require_unchanged(folder: Path, out: Path) -> None:
    """Raise `UserError` unless `out` was prepared from the files that are in `folder` now."""
    if read_source(out).get("fingerprint") != fingerprint(folder):
        raise UserError(
            f"the files in {folder} are not those that {out} was prepared from: they changed; run "
            "`python -m skinml.data.prepare --force` with the same data, data_dir and out to "
            "prepare them again, or bring the files back"
        )


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


def has_official_files(folder: Path) -> bool:
    """Whether anything of the official layout is in a folder, complete or not."""
    return any(
        (folder / name).exists()
        for official in OFFICIAL_PARTS
        for name in (official.image_folder, official.ground_truth)
    )


def fingerprint(folder: Path) -> str:
    """A quick digest of official files: names and sizes of the images, content of the CSVs."""
    digest = hashlib.sha256()
    for official in OFFICIAL_PARTS:
        for path in _pictures(folder / official.image_folder):
            digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        if (folder / official.ground_truth).is_file():
            digest.update((folder / official.ground_truth).read_bytes())
    return digest.hexdigest()


def _pictures(folder: Path) -> list[Path]:
    """The image files of an official folder, sorted; its superpixel masks are left out."""
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in _PICTURES
        and not path.stem.endswith("_superpixels")
        and not path.name.startswith(".")
        and path.is_file()
    )


def read_official(folder: Path, problems: Problems) -> list[Source]:
    """List the official images of a folder, ordered by id; what is wrong goes to `problems`."""
    sources: list[Source] = []
    seen: dict[str, str] = {}
    for official in OFFICIAL_PARTS:
        labels = read_ground_truth(folder / official.ground_truth, problems)
        pictures: dict[str, Path] = {}
        if not (folder / official.image_folder).is_dir():
            problems.add("missing folders", official.image_folder)
            continue
        for path in _pictures(folder / official.image_folder):
            if path.stem in pictures:
                problems.add("one image in two files", f"{path} and {pictures[path.stem].name}")
            pictures[path.stem] = path
        for image_id, label in labels.items():
            if image_id in seen:
                problems.add(
                    "ids in two parts", f"{image_id} in {seen[image_id]} and {official.part}"
                )
            seen[image_id] = official.part
            if image_id in pictures:
                sources.append(Source(image_id, label, official.part, pictures[image_id]))
            else:
                problems.add("missing images", f"{official.image_folder}/{image_id}.jpg")
        if labels:
            for image_id in sorted(pictures.keys() - labels.keys()):
                problems.add(
                    "unexpected images (no line in the ground truth)",
                    f"{official.image_folder}/{pictures[image_id].name}",
                )
    return sorted(sources)


def read_ground_truth(path: Path, problems: Problems) -> dict[str, str]:
    """The class of each id of an official CSV; empty where the file is unusable."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header, *rows = list(csv.reader(file)) or [[]]
    except FileNotFoundError:
        problems.add("missing ground truth", path.name)
        return {}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        problems.add("unreadable ground truth", f"{path.name}: {error}")
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


def prepare(folder: Path, out: Path, jobs: int | None = None) -> PreparedSet:
    """Turn the official files of `folder` into a prepared set in `out`, using `jobs` threads.

    Every problem of the files is found in one pass and told in one `UserError`. The set is made
    in a temporary folder beside `out` and renamed when it is complete, so that nothing
    half-written is ever found there.
    """
    problems = Problems()
    sources = read_official(folder, problems)
    if not sources:
        problems.add("empty set", f"no image with a label in {folder}")
        problems.raise_if_any(str(folder), _REMEDY)
    with _folder_beside(out, len(sources) * IMAGE_SIZE * IMAGE_SIZE * 3) as temporary:
        staging = Path(temporary) / out.name
        staging.mkdir()
        pixels = np.lib.format.open_memmap(
            staging / IMAGES,
            mode="w+",
            dtype=np.uint8,
            shape=(len(sources), IMAGE_SIZE, IMAGE_SIZE, 3),
        )

        def convert(index: int) -> tuple[str, str] | ImageProblem:
            """Decode one image into its row: digests of source and pixels, or what is wrong."""
            try:
                content = sources[index].path.read_bytes()
                image = decode_image(content)
            except OSError as error:
                return ImageProblem(f"unreadable: {error.strerror}")
            except ImageProblem as problem:
                return problem
            pixels[index] = image
            return hashlib.sha256(content).hexdigest(), pixel_digest(image)

        # Threads, not processes: decoding, scaling and hashing all leave Python's lock.
        rows = []
        with (
            ThreadPoolExecutor(jobs or os.cpu_count()) as pool,
            progress_bar("preparing", len(sources)) as advance,
        ):
            for source, result in zip(sources, pool.map(convert, range(len(sources))), strict=True):
                if isinstance(result, ImageProblem):
                    problems.add("unusable images", f"{source.path.relative_to(folder)}: {result}")
                else:
                    rows.append((source.image_id, source.label, source.part, *result))
                advance()
        problems.raise_if_any(str(folder), _REMEDY)
        pixels.flush()
        write_source(staging, {"folder": str(folder), "fingerprint": fingerprint(folder)})
        write_manifest(staging, rows)
        if out.exists():
            shutil.rmtree(out)
        staging.replace(out)
    return open_prepared(out)


def _folder_beside(out: Path, size: int) -> tempfile.TemporaryDirectory[str]:
    """Make a temporary folder beside `out`; `UserError` where that or `size` bytes cannot be."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        # A memory-mapped file that outgrows the disk kills the process without a word.
        free = shutil.disk_usage(out.parent).free
        if free < size:
            raise UserError(
                f"out={out}: {free / 1e6:.0f} MB are free there, expected {size / 1e6:.0f} MB for "
                "the prepared set; free some space or give another folder"
            )
        return tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.")
    except OSError as error:
        raise UserError(
            f"out={out}: cannot be created ({error.strerror}), expected a path in a writable "
            "folder; give another"
        ) from None


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
    return "\n".join([*lines, *duplicates_warning(prepared)])


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
        description="Turn the official ISIC 2017 files into the prepared set that training reads.",
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
    options = parser.parse_args(argv)
    if options.jobs != AUTO and not (options.jobs.isdecimal() and int(options.jobs)):
        raise UserError(f"jobs={options.jobs!r}: expected a whole number of at least 1, or auto")
    jobs = None if options.jobs == AUTO else int(options.jobs)
    print(describe(_prepare_as_asked(options, jobs)))
    return 0


def _prepare_as_asked(options: argparse.Namespace, jobs: int | None) -> PreparedSet:
    folder = data_folder(options.data, options.data_dir)
    if options.out == AUTO and not options.force:
        return open_data(options.data, options.data_dir, jobs)
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
    if is_prepared(out) and not options.force:
        _require_unchanged(folder, out)
        return _checked(open_prepared(out), options.data)
    if not has_official_files(folder):
        raise UserError(
            f"data_dir={folder}: no official ISIC 2017 files there; expected folders such as "
            f"{OFFICIAL_PARTS[0].image_folder} and their ground truth, from {HOMEPAGE}"
        )
    return _checked(prepare(folder, out, jobs), options.data)


if __name__ == "__main__":
    sys.exit(run_command(main))
