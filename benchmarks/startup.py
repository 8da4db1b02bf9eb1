"""How long a person waits for a command to answer: imports, help, a comparison.

    python -m benchmarks.startup [--repeats 15] [--json] [--out FOLDER]

Each command in a process of its own, in turn with `python -c pass`. Target: under 0.3 s each, but
for the comparison, which computes the statistics of nine runs.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.harness import in_turn, parser, report, shown, spread, surroundings, table, verdict

TARGET = 0.3
RESULTS = Path(__file__).parents[1] / "results"

NOTHING = "python -c pass"
COMPARE = "python -m skinml.compare --from results/nine-runs"
COMMANDS = {
    NOTHING: ["-c", "pass"],
    'python -c "import skinml.compare"': ["-c", "import skinml.compare"],
    "python -m skinml.compare --help": ["-m", "skinml.compare", "--help"],
    "python -m skinml.run --help": ["-m", "skinml.run", "--help"],
    "python -m skinml.sweep --help": ["-m", "skinml.sweep", "--help"],
    COMPARE: ["-m", "skinml.compare", "--from", str(RESULTS / "nine-runs")],
}


def seconds(arguments: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    options = parser(__doc__, repeats=15).parse_args()
    around = surroundings()
    sides: dict[str, Callable[[], float]] = {
        name: partial(seconds, arguments) for name, arguments in COMMANDS.items()
    }
    for side in sides.values():
        side()  # The files come from the disk once.
    values = in_turn("starting", sides, options.repeats)
    found = {name: spread(own) for name, own in values.items()}
    rows = [
        [
            f"`{name}`",
            shown(own, 3),
            "" if name in (NOTHING, COMPARE) else verdict(own["median"] < TARGET),
        ]
        for name, own in found.items()
    ]
    text = table(["command", "seconds", f"target < {TARGET} s"], rows)
    report(options, {**around, "target_seconds": TARGET, "seconds": found}, text)


if __name__ == "__main__":
    main()
