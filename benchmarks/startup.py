"""How long a person waits for a command to answer: imports, help, a mistake, a comparison.

    python -m benchmarks.startup [--before COMMIT] [--repeats 15] [--json] [--out FOLDER]

Each command in a process of its own, in turn with `python -c pass` and with the same command of an
earlier build (a worktree of its commit, the same Python and libraries). Target of today's: under
0.3 s each, under a second where files are looked at; none for the comparison, which computes the
statistics of nine runs.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.harness import (
    BEFORE,
    ROOT,
    earlier_build,
    in_turn,
    parser,
    report,
    shown,
    spread,
    surroundings,
    table,
    verdict,
)

TARGET = 0.3  # seconds

NOTHING = "python -c pass"
COMPARE = "python -m skinml.compare --from results/nine-runs"
MISSING = "python -m skinml.predict, a missing file"
COMMANDS = {
    NOTHING: ["-c", "pass"],
    'python -c "import skinml.compare"': ["-c", "import skinml.compare"],
    "python -m skinml.compare --help": ["-m", "skinml.compare", "--help"],
    "python -m skinml.run --help": ["-m", "skinml.run", "--help"],
    "python -m skinml.sweep --help": ["-m", "skinml.sweep", "--help"],
    COMPARE: ["-m", "skinml.compare", "--from", str(ROOT / "results/nine-runs")],
    MISSING: ["-m", "skinml.predict", "models:/skinml-mobilenetv2/1", "no.jpg"],
}
TARGETS = {MISSING: 1.0}
WITHOUT = (NOTHING, COMPARE)


def seconds(arguments: list[str], build: Path = ROOT) -> float:
    started = time.perf_counter()
    ended = subprocess.run(
        [sys.executable, *arguments], cwd=build, capture_output=True, text=True, check=False
    )
    taken = time.perf_counter() - started
    if ended.returncode not in (0, 2):  # 2: a mistake, and told
        raise RuntimeError(f"{' '.join(arguments)}: {ended.stderr}")
    return taken


def main() -> None:
    made = parser(__doc__, repeats=15)
    made.add_argument("--before", default=BEFORE, help="the earlier build (default: %(default)s)")
    options = made.parse_args()
    around = surroundings()
    with earlier_build(options.before) as earlier:
        sides: dict[str, Callable[[], float]] = {
            f"{name}, {build}": partial(seconds, arguments, folder)
            for name, arguments in COMMANDS.items()
            for build, folder in (("earlier", earlier), ("today", ROOT))
            if name != NOTHING or folder == ROOT
        }
        for side in sides.values():
            side()  # The files come from the disk once, and are compiled.
        found = {
            name: spread(own) for name, own in in_turn("starting", sides, options.repeats).items()
        }
    rows = []
    for name in COMMANDS:
        before, today = found.get(f"{name}, earlier"), found[f"{name}, today"]
        rows.append([f"`{name}`", shown(before, 3) if before else "", shown(today, 3),
                     *judged(name, today["median"])])  # fmt: skip
    text = table(["command", f"seconds, {options.before}", "today", "target", ""], rows)
    targets = {name: TARGETS.get(name, TARGET) for name in COMMANDS if name not in WITHOUT}
    results = {"before": options.before, "target_seconds": targets, "seconds": found}
    report(options, {**around, **results}, text)


def judged(name: str, median: float) -> list[str]:
    """The target of a command and whether it is met; empty for what they are compared with."""
    if name in WITHOUT:
        return ["", ""]
    target = TARGETS.get(name, TARGET)
    return [f"< {target:g} s", verdict(median < target)]


if __name__ == "__main__":
    main()
