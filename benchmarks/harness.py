"""What the speed benchmarks share: sides measured in turn, medians with their spread, one report.

    python -m benchmarks.NAME [--json] [--out FOLDER]

Other work on the machine slows one side as well as the other where they take turns, and shows as a
wide spread. A ratio is the median of the ratios within the turns, never of two medians.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from skinml.base.processes import usable_cores
from skinml.base.progress import progress_bar
from skinml.base.provenance import git_state
from skinml.training.backend import cpu_name

ROOT = Path(__file__).parents[1]
# The build before the statistics were made anew; SciPy and statsmodels were half of its time.
BEFORE = "217532e"


@contextmanager
def earlier_build(commit: str) -> Iterator[Path]:
    """A worktree of a commit, removed afterwards.

    Called in it, `python -m skinml.…` is that build's: Python looks there first.
    """

    def git(*arguments: str) -> None:
        subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True)

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "earlier"
        git("worktree", "add", "--detach", str(folder), commit)
        try:
            yield folder
        finally:
            git("worktree", "remove", "--force", str(folder))


def parser(description: str | None, repeats: int) -> argparse.ArgumentParser:
    """The options that every benchmark has; the first line of its docstring describes it."""
    made = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    made.add_argument("--repeats", type=int, default=repeats, help=f"turns (default: {repeats})")
    made.add_argument("--json", action="store_true", help="print the result as JSON")
    made.add_argument("--out", type=Path, help="folder that receives result.json and the plot")
    return made


def in_turn(
    name: str, sides: Mapping[str, Callable[[], float]], repeats: int
) -> dict[str, list[float]]:
    """Measure each side `repeats` times, one after the other within a turn; values as they say."""
    values: dict[str, list[float]] = {side: [] for side in sides}
    with progress_bar(name, repeats * len(sides)) as advance:
        for turn in range(repeats):
            # Every other turn backwards: no side always comes after the same one.
            order = list(sides) if turn % 2 == 0 else list(sides)[::-1]
            for side in order:
                advance(0, side)
                values[side].append(sides[side]())
                advance(1, side)
    return values


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, smallest and largest."""
    return {
        "median": float(np.median(values)),
        "low": float(np.min(values)),
        "high": float(np.max(values)),
    }


def ratio(upper: Sequence[float], lower: Sequence[float]) -> dict[str, float]:
    """How `upper` stands to `lower`, turn by turn."""
    return spread([a / b for a, b in zip(upper, lower, strict=True)])


def shown(values: dict[str, float], digits: int = 2) -> str:
    """A median with its spread, such as "2.10 (2.05 to 2.13)"."""
    median, low, high = (f"{values[key]:,.{digits}f}" for key in ("median", "low", "high"))
    return f"{median} ({low} to {high})"


def table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows as a Markdown table whose columns are aligned for a terminal as well."""
    widths = [max(map(len, column)) for column in zip(heading, *rows, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in (heading, ["-" * width for width in widths], *rows)
    ]
    return "\n".join(lines)


def verdict(met: bool) -> str:
    return "met" if met else "missed"


def surroundings() -> dict[str, Any]:
    """What a figure depends on: commit, machine, cores, versions, and what else was going on."""
    import importlib.metadata

    commit, clean = git_state()
    versions = {}
    for name in ("keras", "tensorflow-cpu", "tensorflow", "jax", "mlflow", "numpy", "pillow"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "commit": commit,
        "clean": clean,
        "command": "python -m benchmarks." + " ".join([Path(sys.argv[0]).stem, *_without_paths()]),
        "machine": cpu_name(),
        "cores": usable_cores(),
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "python": sys.version.split()[0],
        "versions": versions,
    }


def _without_paths() -> list[str]:
    """The arguments of the command, without where things lie on this machine."""
    kept = []
    for argument in sys.argv[1:]:
        path = os.sep in argument and not argument.startswith(("models:", "runs:"))
        kept.append(Path(argument).name if path else argument)
    return kept


def report(
    options: argparse.Namespace,
    result: dict[str, Any],
    text: str,
    draw: Callable[[Path], None] | None = None,
) -> None:
    """Print a result, and keep it as result.json with its plot where --out says."""
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "result.json").write_text(json.dumps(result, indent=2) + "\n")
        (options.out / "result.md").write_text(text + "\n")
        if draw:
            draw(options.out / "plot.png")
    print(json.dumps(result, indent=2) if options.json else text)
