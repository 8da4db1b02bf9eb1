"""Rebuild a results table from committed predictions tables: `python results/summary.py FOLDER`.

A folder holds one folder a run, each with predictions_test.csv, run.json and metrics.json. Every
test figure is computed again from the predictions; nothing is copied from metrics.json but what
cannot be (training time, kept epoch).
"""

import json
import statistics
import sys
from pathlib import Path

from skinml.evaluation.metrics import point_metrics
from skinml.evaluation.predictions import read_predictions
from skinml.evaluation.statistics import bootstrap_intervals

COLUMNS = {
    "accuracy": "accuracy",
    "auc_macro": "macro AUC",
    "melanoma_auc": "melanoma AUC",
    "keratosis_auc": "keratosis AUC",
    "challenge_auc": "challenge AUC",
}


def summary(folder: Path) -> str:
    """The Markdown table of a folder's runs: values with intervals, then mean and spread."""
    lines = [
        "| seed | " + " | ".join(COLUMNS.values()) + " | kept epoch | training |",
        "| --- |" + " --- |" * (len(COLUMNS) + 2),
    ]
    values: dict[str, list[float]] = {name: [] for name in COLUMNS}
    for run in sorted(path.parent for path in folder.glob("*/predictions_test.csv")):
        predictions = read_predictions(run / "predictions_test.csv")
        description = json.loads((run / "run.json").read_text())
        metrics = json.loads((run / "metrics.json").read_text())
        points = point_metrics(predictions)
        intervals = bootstrap_intervals(predictions, tuple(COLUMNS))
        cells = []
        for name in COLUMNS:
            values[name].append(points[name])
            low, high = intervals[name]
            cells.append(f"{points[name]:.3f} ({low:.3f}–{high:.3f})")
        cells += [f"{metrics['best_epoch']:.0f}", f"{metrics['training_seconds'] / 60:.1f} min"]
        lines.append(f"| {description['tags']['seed']} | " + " | ".join(cells) + " |")
    means = [
        f"**{statistics.mean(v):.3f}** ± {statistics.stdev(v):.3f}" if len(v) > 1 else ""
        for v in values.values()
    ]
    lines.append("| mean ± sd over seeds | " + " | ".join(means) + " | | |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(summary(Path(sys.argv[1])))
