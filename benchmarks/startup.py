"""How long a person waits for a command to answer: imports, help, a mistake, a comparison.

    python -m benchmarks.startup [--repeats 15] [--json] [--out FOLDER]

Each command in a process of its own, in turn with `python -c pass`. Target: under 0.3 s each, under
a second where files are looked at; none for the comparison, which computes the statistics of nine
runs.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.harness import in_turn, parser, report, shown, spread, surroundings, table, verdict

TARGET = 0.3  # seconds
RESULTS = Path(__file__).parents[1] / "results"

NOTHING = "python -c pass"
COMPARE = "python -m skinml.compare --from results/nine-runs"
MISSING = "python -m skinml.predict, a missing file"
COMMANDS = {
    NOTHING: ["-c", "pass"],
    'python -c "import skinml.compare"': ["-c", "import skinml.compare"],
    "python -m skinml.compare --help": ["-m", "skinml.compare", "--help"],
    "python -m skinml.run --help": ["-m", "skinml.run", "--help"],
    "python -m skinml.sweep --help": ["-m", "skinml.sweep", "--help"],
    COMPARE: ["-m", "skinml.compare", "--from", str(RESULTS / "nine-runs")],
    MISSING: ["-m", "skinml.predict", "models:/skinml-mobilenetv2/1", "no.jpg"],
}
TARGETS = {MISSING: 1.0}
WITHOUT = (NOTHING, COMPARE)


def seconds(arguments: list[str]) -> float:
    started = time.perf_counter()
    ended = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    taken = time.perf_counter() - started
    if ended.returncode not in (0, 2):  # 2: a mistake, and told
        raise RuntimeError(f"{' '.join(arguments)}: {ended.stderr}")
    return taken


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
        [f"`{name}`", shown(own, 3), *judged(name, own["median"])] for name, own in found.items()
    ]
    text = table(["command", "seconds", "target", ""], rows)
    targets = {name: TARGETS.get(name, TARGET) for name in COMMANDS if name not in WITHOUT}
    report(options, {**around, "target_seconds": targets, "seconds": found}, text)


def judged(name: str, median: float) -> list[str]:
    """The target of a command and whether it is met; empty for what they are compared with."""
    if name in WITHOUT:
        return ["", ""]
    target = TARGETS.get(name, TARGET)
    return [f"< {target:g} s", verdict(median < target)]


if __name__ == "__main__":
    main()
