"""How soon a model answers, in how much memory, and how many pictures a second, by runtime.

    python -m benchmarks.predict MODEL_URI PICTURES [--before CHECKOUT] [--many 1000] [--json]
        [--repeats 5] [--out FOLDER]

Cold processes of `python -m skinml.predict`, in turn: the exported file in LiteRT, Keras, and with
--before the build of another checkout. Targets beside Keras, or that build: the first answer 15
times sooner, a fifth of the peak memory, twice as many pictures a second.
"""

import itertools
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

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
from skinml.data.official import is_picture

# A small process starts the command and waits for it: the peak that the kernel tells of a process
# is at least the one that its parent had until then.
_WATCH = """
import os, sys, time
taken, *command = sys.argv[1:]
started = time.perf_counter()
_, status, used = os.wait4(os.posix_spawn(command[0], command, os.environ), 0)
with open(taken, "w") as file:
    print(time.perf_counter() - started, used.ru_maxrss, file=file)
sys.exit(os.waitstatus_to_exitcode(status))
"""

TARGETS = {"first answer": 15.0, "peak memory": 5.0, "pictures a second": 2.0}


def main() -> None:
    made = parser(__doc__, repeats=5)
    made.add_argument("model", help="URI of a model with an exported file")
    made.add_argument("pictures", type=Path, help="folder of pictures")
    made.add_argument("--before", type=Path, help="checkout of an earlier build")
    made.add_argument("--many", type=int, default=1000, help="pictures at once (default: 1000)")
    options = made.parse_args()
    around = surroundings()
    pictures = sorted(path.resolve() for path in options.pictures.iterdir() if is_picture(path))
    sides = {"litert": ["--runtime", "litert"], "keras": ["--runtime", "keras"]}
    folders = dict.fromkeys(sides, Path.cwd())
    if options.before:
        sides, folders = {**sides, "before": []}, {**folders, "before": options.before}
    memory: dict[str, list[float]] = {side: [] for side in sides}

    def seconds(side: str, given: list[Path]) -> float:
        taken, peak = ask(folders[side], [options.model, *map(str, given), *sides[side]])
        memory[side].append(peak)
        return taken

    def each(given: list[Path]) -> dict[str, Callable[[], float]]:
        return {side: partial(seconds, side, given) for side in sides}

    for side in each(pictures[:1]).values():
        side()  # The files come from the disk once.
    memory = {side: [] for side in sides}
    first = in_turn("first answer", each(pictures[:1]), options.repeats)
    peaks = {side: list(values) for side, values in memory.items()}
    with tempfile.TemporaryDirectory() as name:
        many = list(itertools.islice(links(pictures, Path(name)), options.many))
        whole = in_turn(f"{options.many} pictures", each(many), max(options.repeats // 2, 1))
    rates = {
        side: [
            (options.many - 1) / (all_of_them - one)
            for all_of_them, one in zip(whole[side], first[side], strict=False)
        ]
        for side in sides
    }
    other = "before" if options.before else "keras"
    measured = {"first answer": first, "peak memory": peaks, "pictures a second": rates}
    units = {"first answer": "s", "peak memory": "MB", "pictures a second": ""}
    rows, ratios = [], {}
    for name, values in measured.items():
        better, worse = values["litert"], values[other]
        if name == "pictures a second":
            better, worse = worse, better
        ratios[name] = ratio(worse, better)
        rows.append(
            [
                f"{name}, {units[name]}".removesuffix(", "),
                *(shown(spread(values[side])) for side in sides),
                f"{shown(ratios[name], 1)}, target {TARGETS[name]:g}: "
                f"{verdict(ratios[name]['median'] >= TARGETS[name])}",
            ]
        )
    text = table(["", *sides, f"litert beside {other}"], rows)
    result = {**around, "many": options.many, "measured": measured, "ratios": ratios}
    report(options, result, text)


def ask(folder: Path, arguments: list[str]) -> tuple[float, float]:
    """Seconds and peak memory in MB of one `python -m skinml.predict`, to its end."""
    command = [sys.executable, "-m", "skinml.predict", *arguments, "--format", "csv"]
    with tempfile.TemporaryDirectory() as name:
        said, taken = Path(name, "said"), Path(name, "taken")
        with said.open("wb") as out:
            watch = [sys.executable, "-I", "-S", "-c", _WATCH, str(taken), *command]
            ended = subprocess.run(watch, cwd=folder, stdout=out, stderr=subprocess.STDOUT)
        if ended.returncode:
            raise RuntimeError(said.read_text(errors="replace"))
        seconds, kilobytes = map(float, taken.read_text().split())
    return seconds, kilobytes / 1024


def links(pictures: list[Path], folder: Path) -> Iterator[Path]:
    """Different files without end, of the pictures in turn."""
    for number, picture in enumerate(itertools.cycle(pictures)):
        link = folder / f"{number:06}{picture.suffix}"
        link.symlink_to(picture)
        yield link


if __name__ == "__main__":
    main()
