"""What a sweep has left in its store, judged: each cell finished once, its results the reference's.

Read from the SQLite files themselves, not through what is being judged.
"""

import math
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

# What a clock measured: another run gives other values.
MEASURED = {
    "epoch/seconds", "epoch/images_per_second", "latency_ms", "latency_ms_q25", "latency_ms_q75",
    "training_seconds",
}  # fmt: skip
MEASURED_BELOW = "system/"

PREDICTIONS = ("predictions_validation.csv", "predictions_test.csv")

# (metric, step) → its values, of which there should be one.
Curves = dict[tuple[str, int], list[float]]


@dataclass
class Kept:
    """A run of a cell, as its store has it."""

    run_id: str
    digest: str
    """Of its configuration."""
    name: str
    status: str
    curves: Curves = field(default_factory=dict)
    tables: dict[str, bytes] = field(default_factory=dict)


def read_store(database: Path, artifacts: Path | None = None) -> list[Kept]:
    """The runs of cells in a store.

    `artifacts` is the folder that a server keeps them in, None where a run says it itself.
    """
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as store:
        rows = store.execute(
            "SELECT run_uuid, name, status, artifact_uri FROM runs WHERE lifecycle_stage='active'"
        ).fetchall()
        tags: dict[str, dict[str, str]] = {}
        for run_id, key, value in store.execute("SELECT run_uuid, key, value FROM tags"):
            tags.setdefault(run_id, {})[key] = value
        runs = {}
        for run_id, name, status, uri in rows:
            own = tags.get(run_id, {})
            if own.get("kind") == "training":
                kept = Kept(run_id, own["config_digest"], name, status)
                kept.tables = _tables(_folder(uri, artifacts))
                runs[run_id] = kept
        for run_id, key, step, value, is_nan in store.execute(
            "SELECT run_uuid, key, step, value, is_nan FROM metrics"
        ):
            if run_id in runs and key not in MEASURED and not key.startswith(MEASURED_BELOW):
                values = runs[run_id].curves.setdefault((key, step), [])
                values.append(math.nan if is_nan else value)
    return list(runs.values())


def _folder(uri: str, artifacts: Path | None) -> Path:
    if artifacts and uri.startswith("mlflow-artifacts:"):
        return artifacts / uri.removeprefix("mlflow-artifacts:").lstrip("/")
    return Path(unquote(urlparse(uri).path)) if uri.startswith("file:") else Path(uri)


def _tables(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in PREDICTIONS if (folder / name).is_file()}


def count_finished(database: Path) -> int:
    """How many cells have a finished run by now."""
    if not database.exists():
        return 0
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=10)) as store:
        try:
            [count] = store.execute(
                "SELECT count(DISTINCT t.value) FROM tags t JOIN runs r USING (run_uuid) "
                "WHERE t.key = 'config_digest' AND r.status = 'FINISHED'"
            ).fetchone()
        except sqlite3.OperationalError:  # Being made.
            return 0
    return int(count)


@dataclass
class Verdict:
    """What stands against a sweep: cells by the reference's names, and words."""

    cells: int = 0
    once: int = 0
    missing: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    unknown: int = 0
    """Finished runs of no cell of the reference."""
    running: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    values: int = 0
    differing: list[str] = field(default_factory=list)
    tables: int = 0
    differing_tables: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether there is nothing against it."""
        return self.cells == self.once > 0 and not (
            self.missing or self.doubled or self.unknown or self.running or self.differing
            or self.differing_tables
        )  # fmt: skip


def judge(reference: Iterable[Kept], runs: Iterable[Kept]) -> Verdict:
    """Compare the runs of a sweep with those of the reference, which has each cell finished once.

    Values are compared to the last bit, not-a-number with itself.
    """
    wanted = {run.digest: run for run in reference if run.status == "FINISHED"}
    runs = list(runs)
    verdict = Verdict(cells=len(wanted))
    verdict.statuses = dict(Counter(run.status for run in runs))
    verdict.running = sum(run.status not in ("FINISHED", "FAILED", "KILLED") for run in runs)
    finished: dict[str, list[Kept]] = {}
    for run in runs:
        if run.status == "FINISHED":
            finished.setdefault(run.digest, []).append(run)
    verdict.unknown = sum(len(own) for digest, own in finished.items() if digest not in wanted)
    for digest, expected in wanted.items():
        found = finished.get(digest, [])
        if not found:
            verdict.missing.append(expected.name)
        elif len(found) > 1:
            verdict.doubled.append(expected.name)
        else:
            verdict.once += 1
        for run in found:
            _compare(verdict, expected, run)
    return verdict


def _compare(verdict: Verdict, expected: Kept, run: Kept) -> None:
    for key in sorted(expected.curves.keys() | run.curves.keys()):
        verdict.values += 1
        one, other = expected.curves.get(key), run.curves.get(key)
        # Text tells the not-a-numbers, and a value that is there twice.
        if repr(one) != repr(other):
            verdict.differing.append(f"{expected.name} {key[0]} {key[1]}: {one} and {other}")
    for name in PREDICTIONS:
        verdict.tables += 1
        if name not in expected.tables or expected.tables[name] != run.tables.get(name):
            verdict.differing_tables.append(f"{expected.name} {name}")


# What the kills cost


def costs(
    kills: Iterable[Mapping[str, Any]], final: Mapping[str, list[int]]
) -> list[dict[str, Any]]:
    """What each kill cost the cells that it hit, a row a cell.

    A kill notes the times (ms) at which the epochs of the cells that it hit had ended, `told`; and
    those at which the attempt that it ended had trained, `own`, of them. `final` has them of the
    run that is finished in the end. What is there with the same time was not trained again; the
    epoch under way is lost, which the seconds since the last event of the attempt tell.
    """
    rows = []
    for kill in kills:
        for hit in kill["hit"]:
            told, last = hit["told"], final.get(hit["cell"], [])
            kept = 0
            for one, other in zip(told, last, strict=False):
                if one != other:
                    break
                kept += 1
            rows.append(
                {
                    "kind": kill["kind"],
                    "cell": hit["cell"],
                    "told": len(told),
                    "again": len(told) - kept,
                    # Before its first epoch an attempt has nothing to lose but its start.
                    "under_way": hit["own"] > 0 and len(told) < kill["epochs"],
                    "lost_seconds": max(0.0, kill["time"] - told[-1] / 1000)
                    if hit["own"] > 0 and len(told) < kill["epochs"]
                    else 0.0,
                }
            )
    return rows
