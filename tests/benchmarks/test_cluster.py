"""The proof of sweeps on a cluster would notice a run that is missing, doubled or differs.

Without Ray: the judges alone, on stores as MLflow makes them.
"""

import math
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cluster.figures import draw_timeline
from benchmarks.cluster.judging import (
    PREDICTIONS,
    Kept,
    Verdict,
    costs,
    count_finished,
    judge,
    read_store,
)

CURVES = {("epoch/val_loss", 1): [0.5], ("epoch/val_loss", 2): [0.25], ("test_auc", 0): [math.nan]}


def run(cell: str, status: str = "FINISHED", **changes: Any) -> Kept:
    tables = dict.fromkeys(PREDICTIONS, cell.encode())
    kept = Kept(f"run of {cell}", f"digest of {cell}", cell, status, dict(CURVES), tables)
    vars(kept).update(changes)
    return kept


REFERENCE = [run("a"), run("b")]


def test_a_sweep_that_equals_the_reference_holds() -> None:
    verdict = judge(REFERENCE, [run("b"), run("a"), run("a", "KILLED", tables={}, curves={})])
    assert verdict.holds
    assert (verdict.cells, verdict.once, verdict.values, verdict.tables) == (2, 2, 6, 4)
    assert verdict.statuses == {"FINISHED": 2, "KILLED": 1}


def less(curves: dict[Any, Any], key: Any) -> dict[Any, Any]:
    return {k: v for k, v in curves.items() if k != key}


@pytest.mark.parametrize(
    ("runs", "what"),
    [
        ([run("a")], lambda v: v.missing == ["b"]),
        ([run("a"), run("b", "KILLED")], lambda v: v.missing == ["b"]),
        ([run("a"), run("b"), run("b")], lambda v: v.doubled == ["b"]),
        ([run("a"), run("b"), run("c")], lambda v: v.unknown == 1),
        ([run("a"), run("b"), run("b", "RUNNING")], lambda v: v.running == 1),
        (
            [run("a"), run("b", curves={**CURVES, ("epoch/val_loss", 2): [0.25 + 2**-54]})],
            lambda v: len(v.differing) == 1,
        ),
        (
            [run("a"), run("b", curves={**CURVES, ("test_auc", 0): [0.5]})],
            lambda v: len(v.differing) == 1,
        ),
        (
            [run("a"), run("b", curves=less(CURVES, ("epoch/val_loss", 2)))],
            lambda v: len(v.differing) == 1,
        ),
        (
            [run("a"), run("b", curves={**CURVES, ("epoch/val_loss", 3): [0.1]})],
            lambda v: len(v.differing) == 1,
        ),
        (
            # An epoch that was told twice, at two times.
            [run("a"), run("b", curves={**CURVES, ("epoch/val_loss", 2): [0.25, 0.25]})],
            lambda v: len(v.differing) == 1,
        ),
        (
            [run("a"), run("b", tables={PREDICTIONS[0]: b"b", PREDICTIONS[1]: b"B"})],
            lambda v: len(v.differing_tables) == 1,
        ),
        ([run("a"), run("b", tables={})], lambda v: len(v.differing_tables) == 2),
    ],
)
def test_what_is_wrong_is_noticed(runs: list[Kept], what: Callable[[Verdict], bool]) -> None:
    verdict = judge(REFERENCE, runs)
    assert not verdict.holds
    assert what(verdict), verdict


def test_an_empty_reference_holds_nothing() -> None:
    assert not judge([], []).holds


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with the tables that are read, as MLflow has them."""
    database = tmp_path / "mlflow.db"
    with closing(sqlite3.connect(database)) as db, db:
        db.executescript(
            "CREATE TABLE runs (run_uuid, name, status, artifact_uri, lifecycle_stage);"
            "CREATE TABLE tags (run_uuid, key, value);"
            "CREATE TABLE metrics (run_uuid, key, step, value, is_nan, timestamp);"
        )
        for number, (kind, stage) in enumerate(
            [("training", "active"), ("sweep", "active"), ("training", "deleted")]
        ):
            db.execute(
                "INSERT INTO runs VALUES (?, 'a', 'FINISHED', ?, ?)",
                (f"r{number}", f"mlflow-artifacts:/1/r{number}/artifacts", stage),
            )
            tags = {"kind": kind, **({"config_digest": "d"} if kind == "training" else {})}
            db.executemany(
                "INSERT INTO tags VALUES (?, ?, ?)", [(f"r{number}", *tag) for tag in tags.items()]
            )
        db.executemany(
            "INSERT INTO metrics VALUES ('r0', ?, ?, ?, ?, ?)",
            [
                ("epoch/val_loss", 1, 0.5, 0, 7),
                ("epoch/val_loss", 1, 0.5, 0, 8),
                ("test_auc", 0, 0.0, 1, 7),
                ("epoch/seconds", 1, 2.5, 0, 7),
                ("system/memory", 0, 2.5, 0, 7),
            ],
        )
    folder = tmp_path / "artifacts" / "1" / "r0" / "artifacts"
    folder.mkdir(parents=True)
    (folder / PREDICTIONS[1]).write_bytes(b"table")
    return database


def test_a_store_is_read_as_it_stands(store: Path) -> None:
    """What was told twice is there twice, deleted runs and measured times are not."""
    [found] = read_store(store, store.parent / "artifacts")
    assert (found.run_id, found.digest, found.status) == ("r0", "d", "FINISHED")
    assert repr(found.curves) == "{('epoch/val_loss', 1): [0.5, 0.5], ('test_auc', 0): [nan]}"
    assert found.tables == {PREDICTIONS[1]: b"table"}
    assert count_finished(store) == 1
    assert count_finished(store.parent / "none.db") == 0


def kill(kind: str = "node", time: float = 10.0, **hit: Any) -> dict[str, Any]:
    whole = {"cell": "a", "told": [1000, 5000, 9000], "own": 2, **hit}
    return {
        "event": "kill",
        "kind": kind,
        "time": time,
        "node": "node1",
        "epochs": 4,
        "hit": [whole],
    }


@pytest.mark.parametrize(
    ("hit", "final", "again", "under_way"),
    [
        ({}, [1000, 5000, 9000, 30000], 0, True),
        ({}, [1000, 5000, 29000, 30000], 1, True),
        ({}, [27000, 28000, 29000, 30000], 3, True),
        # Killed before its first epoch, and after its last.
        ({"own": 0}, [1000, 5000, 9000, 30000], 0, False),
        ({"told": [1000, 2000, 5000, 9000]}, [1000, 2000, 5000, 9000], 0, False),
        ({"told": [], "own": 0}, [29000], 0, False),
    ],
)
def test_what_a_kill_cost(
    hit: dict[str, Any], final: list[int], again: int, under_way: bool
) -> None:
    [row] = costs([kill(**hit)], {"a": final})
    assert (row["again"], row["under_way"]) == (again, under_way)
    assert row["lost_seconds"] == (1.0 if under_way else 0.0)


def test_the_picture_shows_attempts_and_every_kind_of_kill(tmp_path: Path) -> None:
    attempt = {"event": "attempt", "time": 20.0, "cell": "a", "node": "node1"}
    kills = [kill(kind) for kind in ("training", "worker", "node", "cut", "driver")]
    nobody = {**kill(), "hit": []}
    draw_timeline(
        tmp_path / "plot.png", [{**attempt, "begin": 5.0, "end": 20.0}, *kills, nobody], "title"
    )
    assert (tmp_path / "plot.png").stat().st_size > 10_000
