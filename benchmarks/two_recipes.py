"""What another recipe changes: the same cells and seeds, trained by both, on the same test images.

    python -m benchmarks.two_recipes results/nine-runs results/real-table-ours

Two folders of runs as `skinml.compare --from` reads them. A row a cell that both have, and their
mean: each figure by the first and by the second, and the second minus the first with its 95 %
interval over the images, paired (`skinml.compare.paired`). Of several seeds the mean is shown. The
minutes are those of the trainings alone.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.harness import table
from skinml.base.errors import UserError, run_command
from skinml.compare import paired
from skinml.compare.paired import Estimate
from skinml.compare.reading import runs_in_folder
from skinml.compare.runs import RunRecord

FIGURES = {"accuracy": "accuracy", "auc_weighted": "weighted AUC", "melanoma_auc": "melanoma AUC"}

# Network, batch size, seed.
Key = tuple[str, int, str]


class Cell(NamedTuple):
    """A cell by both recipes: metric → (first, second); minutes of training, each a mean."""

    name: str
    figures: dict[str, tuple[Estimate, Estimate]]
    minutes: tuple[float, float]


def by_key(folder: Path) -> dict[Key, RunRecord]:
    found: dict[Key, RunRecord] = {}
    for run in runs_in_folder(folder):
        key = (run.cell.model, run.cell.batch_size, run.params["seed"])
        if key in found:
            raise UserError(
                f"{folder}: {found[key].run_id} and {run.run_id} are both {run.cell} with seed "
                f"{key[2]}; expected one run of each, by one recipe"
            )
        found[key] = run
    return found


def cells_of(first: Path, second: Path) -> list[Cell]:
    """The cells of which both folders have a run of the same seed, in order."""
    sides = by_key(first), by_key(second)
    shared = sorted(sides[0].keys() & sides[1].keys())
    if not shared:
        raise UserError(
            f"{first} and {second}: no cell of one seed is in both; expected at least one"
        )
    images = sides[0][shared[0]].predictions.image_ids
    cells = []
    for model, size in sorted({key[:2] for key in shared}):
        keys = [key for key in shared if key[:2] == (model, size)]
        runs = [[side[key] for key in keys] for side in sides]
        for run in (*runs[0], *runs[1]):
            if not np.array_equal(run.predictions.image_ids, images):
                raise UserError(
                    f"{run.run_id}: other test images than {sides[0][shared[0]].run_id}; expected "
                    "runs of one split"
                )
        of_run = [
            [paired.estimates(run.predictions, tuple(FIGURES)) for run in side] for side in runs
        ]
        figures = {
            name: tuple(paired.mean([found[name] for found in side]) for side in of_run)
            for name in FIGURES
        }
        minutes = [np.mean([run.metrics["training_seconds"] for run in side]) / 60 for side in runs]
        seeds = f", {len(keys)} seeds" if len(keys) > 1 else ""
        cells.append(Cell(f"{model}-{size}{seeds}", figures, tuple(minutes)))  # type: ignore[arg-type]
    return cells


def mean_of(cells: Sequence[Cell]) -> Cell:
    """All of them as one: the means of the figures, the sums of the minutes."""
    figures = {
        name: tuple(paired.mean([cell.figures[name][side] for cell in cells]) for side in (0, 1))
        for name in FIGURES
    }
    minutes = tuple(sum(cell.minutes[side] for cell in cells) for side in (0, 1))
    return Cell(f"mean of the {len(cells)}, minutes in all", figures, minutes)  # type: ignore[arg-type]


def line(cell: Cell) -> list[str]:
    shown = [cell.name]
    for first, second in cell.figures.values():
        change = paired.difference(second, first)
        low, high = change.interval()
        shown += [
            f"{first.value:.3f} → {second.value:.3f}",
            f"{change.value:+.3f} ({low:+.3f} to {high:+.3f})",
        ]
    return [*shown, " → ".join(f"{minutes:.0f}" for minutes in cell.minutes)]


def main(argv: list[str] | None = None) -> int:
    made = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    made.add_argument("first", type=Path)
    made.add_argument("second", type=Path)
    options = made.parse_args(argv)
    cells = cells_of(options.first, options.second)
    heading = ["cell"]
    for name in FIGURES.values():
        heading += [name, "difference"]
    rows = cells if len(cells) == 1 else [*cells, mean_of(cells)]
    print(table([*heading, "minutes"], [line(cell) for cell in rows]))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
