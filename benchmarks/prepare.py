"""Images a second from an archive to the prepared set, beside the usual loop and bare decoding.

    python -m benchmarks.prepare --images FOLDER [--count 135] [--repeats 5] [--json] [--out FOLDER]

FOLDER holds JPEGs of original size; without it pictures are generated. All sides get the same
files. *Usual loop*: open, convert, resize, as one process does it over a folder. *Decoding*: open
and decode in full, nothing else. *skinml*: the whole of `python -m skinml.data.prepare`, from a zip
archive with its checksums to the finished set with digests and near-duplicates, on one core and on
all. Targets: at least twice the usual loop on one core; within 10 % of linear in the cores.
"""

import itertools
import os
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.harness import (
    in_turn,
    parser,
    ratio,
    report,
    shown,
    spread,
    surroundings,
    table,
    verdict,
)
from skinml.base.processes import usable_cores
from skinml.data.demo import generate
from skinml.data.images import IMAGE_SIZE
from skinml.data.isic2017 import OFFICIAL_PARTS
from skinml.data.prepare import prepare

USUAL, DECODING, ONE = "usual loop", "decoding alone", "skinml, 1 core"

TARGET_RATIO, TARGET_SCALING = 2.0, 0.9


def write_pictures(folder: Path) -> list[Path]:
    """Some pictures of the size of an original, from the generator of the demo set."""
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch) / "demo")
        paths = []
        small = sorted((Path(scratch) / "demo").rglob("*.jpg"))[:16]
        for path in small:
            with Image.open(path) as image:
                paths.append(folder / path.name)
                image.resize((3008, 2000), Image.Resampling.BICUBIC).save(paths[-1], quality=95)
    return paths


def write_archives(folder: Path, pictures: list[Path], count: int) -> None:
    """An official layout of `count` pictures: those given, repeated, each under its own id."""
    numbers = itertools.count()
    shares = [count - 2 * (count // 10), count // 10, count // 10]
    for part, share in zip(OFFICIAL_PARTS, shares, strict=True):
        lines = ["image_id,melanoma,seborrheic_keratosis"]
        with zipfile.ZipFile(folder / part.archive, "w") as archive:
            for number in itertools.islice(numbers, share):
                image_id = f"ISIC_{number:07d}"
                lines.append(f"{image_id},{number % 3 == 0:.1f},{number % 3 == 1:.1f}")
                archive.write(pictures[number % len(pictures)], f"data/{image_id}.jpg")
        (folder / part.ground_truth).write_text("\n".join(lines) + "\n")


@contextmanager
def cores(count: int) -> Iterator[None]:
    """Let this process and the threads that it starts use so many cores."""
    all_of_them = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(all_of_them)[:count])
    yield
    os.sched_setaffinity(0, all_of_them)


def usual_loop(pictures: list[Path], count: int) -> None:
    array = np.empty((count, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    for number in range(count):
        with Image.open(pictures[number % len(pictures)]) as image:
            array[number] = np.asarray(image.convert("RGB").resize((IMAGE_SIZE, IMAGE_SIZE)))


def decoding(pictures: list[Path], count: int) -> None:
    for number in range(count):
        with Image.open(pictures[number % len(pictures)]) as image:
            image.load()


def skinml(official: Path, out: Path, jobs: int) -> None:
    prepare(official, out, jobs)
    shutil.rmtree(out)


def rate(count: int, on_cores: int, work: Callable[[], None]) -> float:
    """Images a second."""
    with cores(on_cores):
        started = time.perf_counter()
        work()
        return count / (time.perf_counter() - started)


def main() -> None:
    options_parser = parser(__doc__, repeats=5)
    options_parser.add_argument("--images", type=Path, help="folder of JPEGs of original size")
    options_parser.add_argument("--count", type=int, default=135, help="images a turn")
    options = options_parser.parse_args()
    around = surroundings()
    count, available = options.count, usable_cores()
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        if options.images:
            pictures = sorted(options.images.rglob("*.jpg"))
        else:
            pictures = write_pictures(place)
        official = place / "official"
        official.mkdir()
        write_archives(official, pictures, count)
        sides: dict[str, Callable[[], float]] = {
            USUAL: partial(rate, count, 1, partial(usual_loop, pictures, count)),
            DECODING: partial(rate, count, 1, partial(decoding, pictures, count)),
        }
        for jobs in sorted({1, 2, available // 2, available} - {0}):
            work = partial(skinml, official, place / "out", jobs)
            sides[f"skinml, {jobs} core{'s' * (jobs > 1)}"] = partial(rate, count, jobs, work)
        values = in_turn("preparing", sides, options.repeats)
    result: dict[str, Any] = {
        **around,
        "pictures": f"{len(pictures)} {'given' if options.images else 'generated'}",
        "images_per_second": {name: spread(own) for name, own in values.items()},
        "over_usual_loop_per_core": ratio(values[ONE], values[USUAL]),
        "over_decoding_per_core": ratio(values[ONE], values[DECODING]),
    }
    last = list(sides)[-1]
    result["scaling"] = ratio([own / available for own in values[last]], values[ONE])
    rows = [[name, shown(own, 1), "", ""] for name, own in result["images_per_second"].items()]
    twice, linear = result["over_usual_loop_per_core"], result["scaling"]
    rows += [
        ["skinml over the usual loop, 1 core", shown(twice), "≥ 2",
         verdict(twice["median"] >= TARGET_RATIO)],
        ["skinml over decoding alone, 1 core", shown(result["over_decoding_per_core"]), "", ""],
        [f"{available} cores over {available} × 1 core", shown(linear), "≥ 0.9",
         verdict(linear["median"] >= TARGET_SCALING)],
    ]  # fmt: skip
    text = table(["images a second", "median (smallest to largest)", "target", ""], rows)
    report(options, result, text)


if __name__ == "__main__":
    main()
