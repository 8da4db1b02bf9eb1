"""Time and memory of preparation and of the frozen features over the number of images.

    python -m benchmarks.scale [--sizes 275,1375,2750,11000] [--images FOLDER] [--out FOLDER]

Each size in a process of its own: a zip archive of so many pictures (those of FOLDER, or of the
demo set, repeated) to the prepared set; the frozen step's features of so many training images, one
view each, as the product computes and keeps them; and, where `--works` names them, "groups and
split": the search for near-duplicates among so many hashes and the split of their groups into
parts; "own table": a table of so many pictures of one's own, read, and a manifest of them, written
and read, without their pixels (100,000 are no matter for both); and "HAM10000": so many pictures of
600×450 in its layout to the prepared set. A size that is given several times is
measured so often. Memory is the peak of what is anonymous, that is, of no file and not to be
dropped; Python, Pillow and TensorFlow themselves are in it. Beside it stands what of the heap was
in use at most, as the C library tells it: the rest was used before, and is kept because giving it
back costs time with every step (skinml/training/backend.py). Targets: linear in time, flat in
memory.
"""

import argparse
import ctypes
import json
import math
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import material
from benchmarks.harness import parser, report, shown, spread, surroundings, table, verdict
from skinml.base.progress import progress_bar

WORKS = ("preparation", "frozen features", "groups and split", "own table", "HAM10000")

# What is told of each process.
KEYS = ("seconds", "peak_mb", "in_use_mb")

# The time of an image may grow by so much from the smallest to the largest set, and memory by so
# many MB, before it is called anything but linear and flat.
TARGET_GROWTH, TARGET_MB = 1.15, 64.0


def anonymous_mb() -> float:
    """The process's anonymous resident memory."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    raise SystemExit("benchmarks.scale needs Linux, which tells anonymous memory apart")


class _Mallinfo(ctypes.Structure):
    """What `mallinfo2` of glibc 2.33 and later returns, see mallinfo(3)."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks",
            "fordblks", "keepcost",
        )
    ]  # fmt: skip


def in_use_mb() -> float:
    """What the C library has given out of its heap and of mappings; nan where it does not tell."""
    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2
    except (OSError, AttributeError):
        return math.nan
    mallinfo2.restype = _Mallinfo
    told = mallinfo2()
    return float(told.uordblks + told.hblkhd) / 2**20


def watch(work: Callable[[], object]) -> dict[str, float]:
    """Seconds of some work; peaks in MB of its process's anonymous memory and what was in use."""
    peak, in_use, done = 0.0, 0.0, threading.Event()

    def sample() -> None:
        nonlocal peak, in_use
        while not done.wait(0.02):
            peak, in_use = max(peak, anonymous_mb()), max(in_use, in_use_mb())

    thread = threading.Thread(target=sample)
    thread.start()
    started = time.perf_counter()
    work()
    seconds = time.perf_counter() - started
    done.set()
    thread.join()
    return {"seconds": seconds, "peak_mb": peak, "in_use_mb": in_use}


def preparation(options: argparse.Namespace, size: int, place: Path) -> dict[str, float]:
    from benchmarks.prepare import write_archives
    from skinml.data.prepare import data_folder, open_data, prepare

    if options.images:
        pictures = sorted(options.images.rglob("*.jpg"))
    else:
        open_data("demo")
        pictures = sorted(data_folder("demo").rglob("*.jpg"))
    official = place / "official"
    official.mkdir()
    write_archives(official, pictures, 20)
    prepare(official, place / "first")
    write_archives(official, pictures, size)
    return watch(lambda: prepare(official, place / "out"))


def frozen_features(options: argparse.Namespace, size: int, place: Path) -> dict[str, float]:
    from skinml.models.classifier import build_classifier
    from skinml.training import backend
    from skinml.training.inputs import TrainingData, frozen_inputs
    from skinml.training.loop import PLAIN

    config = material.config(options, model=options.model, epochs_frozen=1)
    backend.configure("cpu")
    few = material.training_data(options)
    images = np.lib.format.open_memmap(
        place / "images.npy", "w+", dtype=np.uint8, shape=(size, *few.images.shape[1:])
    )
    for start in range(0, size, 100):
        rows = np.arange(start, min(start + 100, size))
        images[rows] = few.images[rows % len(few.images)]
    images.flush()
    del images
    mapped = np.load(place / "images.npy", mmap_mode="r")
    labels = np.resize(few.labels, size)
    classifier = build_classifier(config, 3)

    def work(count: int) -> None:
        data = TrainingData(
            mapped, labels, np.arange(16, count), np.arange(16), f"scale {time.time_ns()}"
        )
        frozen_inputs(classifier, config, data, 0, 1, PLAIN, lambda done, total: None)

    work(64)  # Compiles the network.
    return watch(lambda: work(size))


def groups_and_split(options: argparse.Namespace, size: int, place: Path) -> dict[str, float]:
    """Of 50 classes, every fourth image a near-duplicate of another, three images a lesion."""
    from skinml.data.duplicates import near_duplicate_groups
    from skinml.data.prepared import PreparedSet
    from skinml.data.protocols import assign_parts

    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**63, size, dtype=np.uint64)
    hashes[3::4] = hashes[: len(hashes[3::4])] ^ np.uint64(5)
    texts = [f"{number:016x}" for number in hashes]
    ids = np.array([f"{number:07}" for number in range(size)])

    def work() -> None:
        near = ids[near_duplicate_groups(texts)]
        lesions = np.char.add("L", (np.arange(size) // 3).astype(str))
        data = PreparedSet(
            place, np.empty((size, 0), np.uint8), ids, np.arange(size) // 3 % 50,
            np.full(size, ""), ids, tuple(f"class {n:02}" for n in range(50)), near, lesions,
        )  # fmt: skip
        assign_parts(data, "paper")

    return watch(work)


def own_table(options: argparse.Namespace, size: int, place: Path) -> dict[str, float]:
    """Of 50 classes, three pictures a lesion, one further column; every picture a link to one."""
    from skinml.base.errors import Problems
    from skinml.data.images import IMAGE_SIZE
    from skinml.data.own import OWN
    from skinml.data.prepared import (
        GROUP,
        IMAGES,
        SUBGROUP,
        open_prepared,
        write_about,
        write_manifest,
    )

    lines = ["image,label,group,age"]
    for number in range(size):
        name = f"{number:07}.png"
        # A file of ext4 has 65,000 names at most.
        picture = place / f"{number // 50_000 * 50_000:07}.png"
        if picture.name == name:
            picture.write_bytes(b"no pixel is read")
        else:
            (place / name).hardlink_to(picture)
        lines.append(f"{name},class {number // 3 % 50:02},L{number // 3},{number % 90}")
    table = place / "pictures.csv"
    table.write_text("\n".join(lines) + "\n")
    made = place / "set"
    made.mkdir()
    # Takes no room on the disk: nothing is written to it.
    np.lib.format.open_memmap(made / IMAGES, "w+", np.uint8, (size, IMAGE_SIZE, IMAGE_SIZE, 3))

    def work() -> None:
        problems = Problems()
        with OWN.sources(table, problems) as sources:
            problems.raise_if_any(str(table), "")
            digest = "0" * 64
            rows: list[tuple[str, ...]] = [
                (s.image_id, s.label, s.part, digest, digest, s.image_id, s.group,
                 s.subgroups["age"])
                for s in sources
            ]  # fmt: skip
        write_about(made, "own-scale", sorted({s.label for s in sources}))
        write_manifest(made, rows, [GROUP, f"{SUBGROUP}age"])
        if len(open_prepared(made)) != size:
            raise SystemExit("a row is lost")

    return watch(work)


def ham10000(options: argparse.Namespace, size: int, place: Path) -> dict[str, float]:
    """Sixteen generated pictures of its size, repeated, with its table beside them."""
    from skinml.data.datasets import HAM10000
    from skinml.data.demo import draw_picture
    from skinml.data.isic2017 import CLASSES
    from skinml.data.prepare import prepare

    files = place / "files"
    folder = files / "HAM10000_images_part_1"
    folder.mkdir(parents=True)
    drawn = []
    for number in range(16):
        drawn.append(place / f"{number}.jpg")
        rng = np.random.default_rng([600, number])
        draw_picture(CLASSES[number % 3], rng, (600, 450)).save(drawn[-1], quality=90)
    lines = ["lesion_id,image_id,dx,dx_type,age,sex,localization,dataset"]
    codes = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
    for number in range(size):
        (folder / f"ISIC_{number:07}.jpg").hardlink_to(drawn[number % 16])
        lines.append(f"HAM_{number // 2},ISIC_{number:07},{codes[number // 2 % 7]},histo,50,,,")
    (files / "HAM10000_metadata.csv").write_text("\n".join(lines) + "\n")
    return watch(lambda: prepare(files, place / "out", dataset=HAM10000))


def measure_here(options: argparse.Namespace) -> None:
    """One work at one size, printed as JSON."""
    works = (preparation, frozen_features, groups_and_split, own_table, ham10000)
    measure = dict(zip(WORKS, works, strict=True))[options.work]
    with tempfile.TemporaryDirectory() as place:
        print(json.dumps(measure(options, int(options.sizes), Path(place))))


def main() -> None:
    options_parser = parser(__doc__, repeats=1)
    options_parser.add_argument("--sizes", default="275,1375,2750,11000")
    options_parser.add_argument("--images", type=Path, help="folder of JPEGs (default: the demo's)")
    options_parser.add_argument("--model", default="mobilenetv2")
    options_parser.add_argument(
        "--works", default=",".join(WORKS[:2]), help=f"with commas, of {', '.join(WORKS)}"
    )
    options_parser.add_argument("--work", choices=WORKS, help=argparse.SUPPRESS)
    material.add_options(options_parser, train=64, validation=16)
    options = options_parser.parse_args()
    if options.work:
        measure_here(options)
        return
    around = surroundings()
    sizes = [int(size) for size in options.sizes.split(",")]
    works = options.works.split(",")
    found: dict[str, dict[int, dict[str, list[float]]]] = {work: {} for work in works}
    with progress_bar("measuring", len(works) * sum(sizes)) as advance:
        for work in works:
            for size in sizes:
                advance(0, f"{work}, {size} images")
                own = found[work].setdefault(size, {key: [] for key in KEYS})
                for key, value in in_a_process(work, size).items():
                    own[key].append(value)
                advance(size)
    rows, growth = [], {}
    for work, by_size in found.items():
        few, many = min(sizes), max(sizes)
        medians = {
            size: {key: median(values) for key, values in own.items()}
            for size, own in by_size.items()
        }
        growth[work] = {
            "seconds_an_image": medians[many]["seconds"] * few / (medians[few]["seconds"] * many),
            "mb": medians[many]["peak_mb"] - medians[few]["peak_mb"],
            "in_use_mb": medians[many]["in_use_mb"] - medians[few]["in_use_mb"],
        }
        rows += [
            [work, f"{size:,}", str(len(own["seconds"])), shown(spread(own["seconds"]), 1),
             f"{1000 * medians[size]['seconds'] / size:.2f}", shown(spread(own["peak_mb"]), 0),
             shown(spread(own["in_use_mb"]), 0), ""]
            for size, own in by_size.items()
        ]  # fmt: skip
        linear, flat, used = growth[work].values()
        rows.append(
            [work, "largest beside smallest", "", "", f"{linear:.2f}×", f"{flat:+.0f}",
             f"{used:+.0f}",
             f"linear {verdict(linear <= TARGET_GROWTH)}, flat {verdict(flat <= TARGET_MB)}"]
        )  # fmt: skip
    heading = ["work", "images", "times", "seconds", "ms an image", "peak anonymous MB",
               "in use, MB", "target"]  # fmt: skip
    result: dict[str, Any] = {**around, "model": options.model, "found": found, "growth": growth}
    report(options, result, table(heading, rows), lambda path: draw(path, found))


def in_a_process(work: str, size: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.scale", *sys.argv[1:]]
    command += ["--work", work, "--sizes", str(size)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    answer: dict[str, float] = json.loads(output.splitlines()[-1])
    return answer


def draw(path: Path, found: dict[str, dict[int, dict[str, list[float]]]]) -> None:
    """Time and memory over the number of images: a mark a process, a line through medians."""
    from matplotlib.figure import Figure

    from skinml.evaluation.drawing import GREY, PAGE, drawing, save

    with drawing():
        figure = Figure(figsize=(PAGE, 2.8), layout="constrained")
        panels = figure.subplots(1, 2)
        for axes, key, label in zip(
            panels, ("seconds", "peak_mb"), ("seconds", "peak anonymous memory, MB"), strict=True
        ):
            for (work, own), style in zip(found.items(), ("o-", "s--", "^:"), strict=False):
                sizes = sorted(own)
                middle = {size: median(own[size][key]) for size in sizes}
                marker, line = style[0], style[1:]
                axes.plot(sizes, list(middle.values()), line, color="black")
                for size in sizes:
                    values = own[size][key]
                    axes.plot([size] * len(values), values, marker, color="black", markersize=4)
                axes.plot([], [], style, color="black", label=work)
                if key == "seconds":
                    last = sizes[-1]
                    axes.plot([0, last], [0, middle[last]], color=GREY, linewidth=0.7, zorder=0)
            axes.set(xlabel="images", ylabel=label, xlim=(0, None))
        panels[0].set_ylim(bottom=0)
        panels[1].set_ylim(bottom=0)
        panels[0].legend(loc="upper left", title="thin line: linear")
        save(figure, path)


if __name__ == "__main__":
    main()
