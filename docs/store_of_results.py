"""Put published runs into an MLflow store: `python docs/store_of_results.py results/nine-runs`.

Each run's figures and report are drawn anew from its tables (without those that show pictures),
and all of it goes to $MLFLOW_TRACKING_URI, where the UI shows it: `make ui`, docs/screenshots.py.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from skinml.config import config_from_params
from skinml.report import draw_from_tables, read_tables
from skinml.run.note import make_note
from skinml.run.results import write_report
from skinml.sync import sync
from skinml.tracking.folder import NOTE, RUN, RunFolder


def complete(folder: RunFolder) -> None:
    """Add to a published run's tables what a run's folder has beside them, but for its network."""
    description, metrics = folder.read_description(), folder.read_metrics()
    description.dataset.setdefault("source", "")  # It is a path, which nobody publishes.
    folder.write_description(description)
    tables = read_tables(folder)
    draw_from_tables(folder, tables, folder.figures)
    write_report(folder, description, metrics, tables)
    config = config_from_params(description.params)
    folder.write_text(NOTE, make_note(config, description, metrics, tables["test"]))
    folder.finish()


def main(results: str) -> None:
    """Complete the runs of a results folder in a copy, and send them to MLflow."""
    found = sorted(path.parent for path in Path(results).rglob(RUN))
    if not found:
        raise SystemExit(f"{results}: no run in it; expected a folder of results/ that has runs")
    for run in found:
        with tempfile.TemporaryDirectory() as temporary:
            folder = RunFolder.open(shutil.copytree(run, Path(temporary) / run.name))
            complete(folder)
            print(run.name, sync(folder.path))


if __name__ == "__main__":
    main(*sys.argv[1:])
