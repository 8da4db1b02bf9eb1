"""benchmarks/tracking.py: its turns hold what they say, and its interval covers what it should."""

from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import pytest

from benchmarks import tracking
from skinml.run.tracked import Tracked
from skinml.tracking import load
from skinml.training.steps import Steps


def test_records_fall_into_the_turns_with_tracking_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded: list[int] = []
    clock = iter(range(10_000))

    def epoch(steps: Any, groups: Any) -> Iterator[int]:
        yield from range(4)

    def log_epoch(tracked: Any, row: dict[str, int]) -> dict[str, int]:
        recorded.append(row["epoch"])
        return row

    monkeypatch.setattr(Steps, "epoch", epoch)
    monkeypatch.setattr(Tracked, "log_epoch", log_epoch)
    monkeypatch.setattr(tracking, "forwarders", list)
    advance = mock.Mock()
    turns = tracking.Turns(4, advance)
    with turns.watching():
        # A second for each look at the clock.
        monkeypatch.setattr(tracking.time, "perf_counter", lambda: float(next(clock)))
        for number in range(1, turns.epochs + 1):
            for _ in Steps.epoch(None, None):  # type: ignore[arg-type]
                pass
            Tracked.log_epoch(None, {"epoch": number})  # type: ignore[arg-type]
    # Ends of epochs 2 to 9 are in the eight turns: with, without, without, with, and again.
    assert recorded == [1, 2, 5, 6, 9, 10]
    assert len(turns.seconds[True]) == len(turns.seconds[False]) == advance.call_count / 2 == 4
    # Each has four steps; one with tracking has looked twice more, at the time of its record.
    assert set(turns.seconds[False]) == {5.0}
    assert set(turns.seconds[True]) == {7.0}


def test_a_thread_of_trackings_waits_for_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "forwarders", list)
    monkeypatch.setattr(load, "sample", lambda *given: {"load": 1.0})
    turns = tracking.Turns(1, mock.Mock())
    with turns.watching():
        assert load.sample(None, None)  # type: ignore[arg-type]
        monkeypatch.setattr(tracking, "PATIENCE", 0.2)
        turns._track(False)
        began = tracking.time.perf_counter()
        assert load.sample(None, None)  # type: ignore[arg-type]
        assert tracking.time.perf_counter() - began >= 0.2
    assert turns._tracked.is_set(), "left halted, a run could not end"


def test_interval_covers_the_true_ratio_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(100):
        without = random.normal(6.5, 0.3, 50)
        tracked = random.normal(6.5 * 1.01, 0.3, 50)
        low, high = tracking.interval(list(tracked), list(without))
        covered += low <= 1.01 <= high
    # Of 100 with 95 % each, fewer than 88 would be seen twice in a thousand times.
    assert covered >= 88
