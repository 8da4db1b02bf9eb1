"""How long a comparison takes in a store of many runs, beside plain `mlflow.search_runs`.

    python benchmarks/compare.py [--runs 10,100,1000,10000] [--repeats 3] [--out results/compare]

The store is SQLite. Its runs carry what real ones do (about 50 parameters, 20 tags and 130 last
metrics), nine cells a sweep, each sweep of a later hour. Both sides answer the same question, in
fresh processes run alternately: the newest run of each of the nine cells, with its predictions
table. In a second store one cell was never trained, so that no page completes the grid.
`search_runs` is asked as MLflow's documentation does, for all finished runs as a table, of
which pandas keeps the newest of each cell.
"""

import argparse
import itertools
import json
import os
import platform
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np

from skinml.base.progress import progress_bar
from skinml.base.provenance import git_state
from skinml.compare.runs import CellName, paper_grid
from skinml.config import Config
from skinml.data.isic2017 import CLASSES
from skinml.evaluation.metrics import headline, metrics_of
from skinml.evaluation.predictions import Predictions, write_predictions

IMAGES = {"melanoma": 104, "nevus": 362, "seborrheic_keratosis": 84}
HOUR = 3_600_000
SIDES = ("compare", "search_runs")
GRIDS = {"complete grid": paper_grid(), "one cell missing": paper_grid()[:-1]}


def write_tables(folder: Path) -> dict[CellName, Path]:
    """A folder of artifacts for each cell: a predictions table of 550 made-up images."""
    labels = np.repeat(np.arange(3), list(IMAGES.values()))
    shared = np.random.default_rng(0).normal(size=(550, 3))
    folders = {}
    for number, cell in enumerate(paper_grid()):
        own = np.random.default_rng([1, number]).normal(size=(550, 3))
        logits = shared + own + 1.5 * np.eye(3)[labels]
        scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        folders[cell] = folder / str(cell)
        folders[cell].mkdir(parents=True)
        ids = np.array([f"ISIC_{index:07d}" for index in range(550)])
        write_predictions(
            Predictions(ids, labels, scores, CLASSES), folders[cell] / "predictions_test.csv"
        )
    return folders


def make_store(path: Path, runs: int, tables: dict[CellName, Path], cells: list[CellName]) -> None:
    """An MLflow database with so many finished runs, written by SQL: MLflow's own way takes hours.

    Run k is one of n `cells`, k mod n, of sweep k // n.
    """
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{path}")
    experiment = client.create_experiment("skinml", artifact_location=str(path.parent))
    finals = [f"{part}_{name}" for part in ("test", "val") for name in metrics_of(CLASSES)]
    finals += [f"test_{name}_ci_{end}" for name in headline(CLASSES) for end in ("low", "high")]
    finals += ["parameters_millions", "model_size_mb", "latency_ms", "training_seconds"]
    rng = np.random.default_rng(2)
    with sqlite3.connect(path) as database:
        for number in range(runs):
            sweep, member = divmod(number, len(cells))
            cell, start = cells[member], 1_700_000_000_000 + sweep * HOUR + member
            run_id = uuid.UUID(int=int(rng.integers(2**62)), version=4).hex
            config = Config(
                model=cell.model, batch_size=cell.batch_size, test_fraction=0.2, weights="none"
            )
            tags = {
                "kind": "training", "model": cell.model, "batch_size": str(cell.batch_size),
                "seed": "0", "data": "isic2017", "protocol": "paper",
                "split": "paper test=0.2 val=0.2 seed=0", "weights_kind": "none",
                "data_digest": "0" * 16, "training_digest": "1" * 16,
                **{f"mlflow.filler{index}": "x" * 20 for index in range(10)},
            }  # fmt: skip
            params = {name: str(value) for name, value in config.as_dict().items()}
            params |= {f"filler_{index}": "x" * 20 for index in range(22)}
            database.execute(
                "INSERT INTO runs VALUES (?,?,'UNKNOWN','','','bench','FINISHED',?,?,'','active',"
                "?,?,NULL)",
                (run_id, str(cell), start, start + HOUR, str(tables[cell]), experiment),
            )
            database.executemany(
                "INSERT INTO params VALUES (?,?,?)", [(k, v, run_id) for k, v in params.items()]
            )
            database.executemany(
                "INSERT INTO tags VALUES (?,?,?)", [(k, v, run_id) for k, v in tags.items()]
            )
            database.executemany(
                "INSERT INTO latest_metrics VALUES (?,?,?,0,0,?)",
                [(k, float(v), start, run_id)
                 for k, v in zip(finals, rng.random(len(finals)), strict=True)],
            )  # fmt: skip


def compare_side() -> int:
    """What `python -m skinml.compare` does before it computes; returns the tables read."""
    from skinml.compare.reading import from_tracking

    with tempfile.TemporaryDirectory() as scratch:
        selection = from_tracking("skinml", {}, Path(scratch))
        return len([run.predictions for run in selection.runs])


def search_runs_side() -> int:
    """The same by MLflow and pandas alone; returns the tables read."""
    import mlflow
    import pandas as pd

    table = mlflow.search_runs(
        experiment_names=["skinml"],
        filter_string="attributes.status = 'FINISHED' and tags.kind = 'training'",
        order_by=["attributes.start_time DESC"],
    )
    newest = table.groupby(["tags.model", "tags.batch_size"], sort=False).first()
    return len([pd.read_csv(Path(uri) / "predictions_test.csv") for uri in newest.artifact_uri])


def measure_here(side: str) -> None:
    """In a process of its own: seconds without the imports, peak memory in MB, as JSON."""
    import mlflow
    import pandas  # noqa: F401  # The imports cost both sides the same, and are not measured.

    mlflow.MlflowClient().search_experiments(max_results=1)
    started = time.perf_counter()
    tables = {"compare": compare_side, "search_runs": search_runs_side}[side]()
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "peak_mb": peak, "tables": tables}))


def measure(side: str, store: Path, cells: int) -> dict[str, float]:
    """One side, in a fresh process."""
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": f"sqlite:///{store}",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    }
    result = subprocess.run(
        [sys.executable, __file__, "--side", side],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    answer: dict[str, float] = json.loads(result.stdout.splitlines()[-1])
    assert answer["tables"] == cells, f"{side} read {answer['tables']} tables, expected {cells}"
    return answer


def whole_command(store: Path) -> float:
    """Seconds of the whole command, imports and statistics included."""
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "skinml.compare", "--format", "json"],
        env={**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{store}"},
        capture_output=True, check=True,
    )  # fmt: skip
    return time.perf_counter() - started


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Plot time and memory of both sides over the number of runs."""
    from matplotlib.figure import Figure

    from skinml.evaluation.drawing import GREY, PAGE, drawing, save

    with drawing():
        figure = Figure(figsize=(PAGE, 3), layout="constrained")
        figure.suptitle("The newest run of each cell out of a store (SQLite)")
        for axes, key, title in zip(
            figure.subplots(1, 2), ("seconds", "peak_mb"), ("seconds", "peak memory, MB"),
            strict=True,
        ):  # fmt: skip
            for grid, style in zip(GRIDS, ("o-", "s--"), strict=True):
                own = [row for row in rows if row["grid"] == grid]
                for side, colour in zip(SIDES, ("black", GREY), strict=True):
                    axes.plot([row["runs"] for row in own], [row[side][key] for row in own],
                              style, color=colour, label=f"{side}, {grid}")  # fmt: skip
            axes.set(xscale="log", xlabel="runs in the store", ylabel=title)
        figure.axes[0].set_yscale("log")
        figure.axes[1].set_ylim(bottom=0)
        figure.axes[1].legend(fontsize="small")
        save(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", default="10,100,1000,10000")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path, help="folder for results.json and the plot")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        measure_here(options.side)
        return
    sizes = [int(size) for size in options.runs.split(",")]
    rows = []
    with (
        tempfile.TemporaryDirectory() as scratch,
        progress_bar("comparing", len(GRIDS) * len(sizes) * options.repeats) as advance,
    ):
        tables = write_tables(Path(scratch) / "tables")
        for (grid, cells), size in itertools.product(GRIDS.items(), sizes):
            store = Path(scratch) / f"{grid}-{size}.db"
            make_store(store, size, tables, cells)
            found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
            for _ in range(options.repeats):
                for side in SIDES:
                    found[side].append(measure(side, store, len(cells)))
                advance(text=f"{size} runs, {grid}")
            row: dict[str, Any] = {"grid": grid, "runs": size}
            for side, answers in found.items():
                row[side] = {
                    key: float(np.median([answer[key] for answer in answers]))
                    for key in ("seconds", "peak_mb")
                }
                times = [answer["seconds"] for answer in answers]
                row[side]["slowest"], row[side]["fastest"] = max(times), min(times)
            row["ratio"] = row["search_runs"]["seconds"] / row["compare"]["seconds"]
            row["command_seconds"] = whole_command(store)
            rows.append(row)
    commit, clean = git_state()
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    result = {"commit": commit, "clean": clean, "machine": machine, "rows": rows}
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "results.json").write_text(json.dumps(result, indent=2) + "\n")
        draw(rows, options.out / "growth.png")
    if options.json:
        print(json.dumps(result, indent=2))
        return
    print(f"{'grid':<17} {'runs':>6} {'compare s':>10} {'search_runs s':>14} {'ratio':>6} "
          f"{'compare MB':>11} {'search_runs MB':>15} {'whole command s':>16}")  # fmt: skip
    for row in rows:
        ours, theirs = row["compare"], row["search_runs"]
        print(f"{row['grid']:<17} {row['runs']:>6} {ours['seconds']:>10.2f} "
              f"{theirs['seconds']:>14.2f} {row['ratio']:>6.1f} {ours['peak_mb']:>11.0f} "
              f"{theirs['peak_mb']:>15.0f} {row['command_seconds']:>16.1f}")  # fmt: skip


if __name__ == "__main__":
    main()
