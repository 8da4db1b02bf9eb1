"""What a server keeps of a run, compared with the run's journal: value by value, file by file."""

import math
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.faults.campaign import Outcome
from skinml.base.files import file_sha256
from skinml.tracking.folder import RunFolder
from skinml.tracking.journal import read_journal

if TYPE_CHECKING:
    from mlflow import MlflowClient


def compare_kept(client: "MlflowClient", folder: RunFolder) -> Outcome:
    """Compare the ended run of a folder with its journal: all is there, once, as it was noted."""
    outcome = Outcome()
    records = list(read_journal(folder.journal, skipped=outcome.problems.append, complete=True))
    journal = records[0].fields["journal"]
    experiments = [one.experiment_id for one in client.search_experiments()]
    runs = client.search_runs(experiments, f"tags.`skinml.journal` = '{journal}'")
    outcome.checked += 1
    if not runs:
        outcome.lost += len(records)
        return outcome
    outcome.doubled += len(runs) - 1
    run = runs[0]
    points: dict[str, set[tuple[int, int, float]]] = {}
    tags: dict[str, str] = {}
    files: dict[str, str] = {}
    images: set[str] = set()
    for kind, fields in ((record.kind, record.fields) for record in records):
        if kind == "metrics":
            for key, value in fields["values"].items():
                if math.isfinite(value):
                    points.setdefault(key, set()).add((fields["step"], fields["time"], value))
        elif kind == "params":
            _compare_texts(outcome, fields["values"], run.data.params, surplus=True)
        elif kind == "tags":
            tags |= fields["values"]
        elif kind == "artifact":
            name = Path(fields["file"]).name
            files[f"{fields['path']}/{name}" if fields["path"] else name] = fields["sha256"]
        elif kind == "image":
            # A run that was gone on with may note a picture again.
            images.add(repr(sorted(fields.items())))
    _compare_texts(outcome, tags, run.data.tags)
    outcome.doubled += len(set(run.data.metrics) - set(points))
    for key, wanted in points.items():
        _compare_points(outcome, wanted, client.get_metric_history(run.info.run_id, key))
    _compare_files(outcome, client, run.info.run_id, files, 2 * len(images))
    datasets = run.inputs.dataset_inputs if run.inputs else []
    outcome.doubled += max(0, len(datasets) - 1)
    outcome.lost += not datasets
    end = records[-1]
    if end.kind == "end":
        outcome.differing += run.info.status != end.fields["status"]
        outcome.differing += run.info.end_time != end.fields["time"]
    else:
        outcome.problems.append(f"the journal ends with a record of kind {end.kind}")
    return outcome


def _compare_points(outcome: Outcome, wanted: set[tuple[int, int, float]], found: Any) -> None:
    """The points of a curve: (step, time in ms since 1970, value)."""
    there = Counter((point.step, point.timestamp, point.value) for point in found)
    outcome.checked += len(wanted)
    outcome.lost += len(wanted - set(there))
    outcome.doubled += sum(there.values()) - len(set(there) & wanted)


def _compare_texts(
    outcome: Outcome, wanted: dict[str, str], found: dict[str, str], surplus: bool = False
) -> None:
    outcome.checked += len(wanted)
    outcome.lost += len(set(wanted) - set(found))
    outcome.differing += sum(found[key] != wanted[key] for key in set(wanted) & set(found))
    outcome.doubled += len(set(found) - set(wanted)) if surplus else 0


def _compare_files(
    outcome: Outcome, client: "MlflowClient", run_id: str, wanted: dict[str, str], images: int
) -> None:
    outcome.checked += len(wanted) + images
    with tempfile.TemporaryDirectory() as name:
        root = Path(client.download_artifacts(run_id, "", name))
        there = {p.relative_to(root).as_posix(): p for p in root.rglob("*") if p.is_file()}
        pictures = [path for path in there if path.startswith("images/")]
        outcome.lost += len(set(wanted) - set(there)) + max(0, images - len(pictures))
        outcome.doubled += len(set(there) - set(wanted) - set(pictures))
        outcome.doubled += max(0, len(pictures) - images)
        for path in set(wanted) & set(there):
            outcome.differing += file_sha256(there[path]) != wanted[path]
