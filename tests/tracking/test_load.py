"""The machine's load: MLflow's own names, and a thread that ends with its run."""

import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from skinml.base.errors import UserError
from skinml.tracking.journal import Journal, Record, read_journal
from skinml.tracking.load import INTERVAL_VARIABLE, LoadRecorder, sampling_interval


def _recorded(path: Path, monkeypatch: pytest.MonkeyPatch, first_step: int = 0) -> list[Record]:
    monkeypatch.setenv(INTERVAL_VARIABLE, "0.1")
    journal = Journal(path)
    recorder = LoadRecorder(journal, first_step)
    while journal.sequence < 3:
        time.sleep(0.01)
    recorder.stop()
    journal.close()
    assert not any(thread.name == "LoadRecorder" for thread in threading.enumerate())
    return list(read_journal(path))


def test_the_names_are_those_of_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    names = set()
    for monitor in (CPUMonitor(), DiskMonitor(), NetworkMonitor()):
        monitor.collect_metrics()
        names |= {f"system/{name}" for name in monitor.aggregate_metrics()}
    records = _recorded(tmp_path / "journal.log", monkeypatch, first_step=5)
    assert [record.fields["step"] for record in records[:3]] == [5, 6, 7]
    for record in records:
        assert {n for n in record.fields["values"] if "gpu" not in n} == names
        assert record.fields["values"]["system/system_memory_usage_percentage"] > 0


class _Gpu:
    """NVIDIA's library with one GPU that does not tell its power."""

    NVMLError = OSError

    class _Numbers:
        used, total, gpu = 20e9, 80e9, 87

    def __getattr__(self, name: str) -> Any:
        def answer(*_: Any) -> Any:
            if "Power" in name:
                raise OSError("not supported")
            return 1 if name == "nvmlDeviceGetCount" else self._Numbers

        return answer


def test_a_gpu_tells_what_it_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", _Gpu())
    values = _recorded(tmp_path / "journal.log", monkeypatch)[0].fields["values"]
    assert {name: value for name, value in values.items() if "gpu" in name} == {
        "system/gpu_0_memory_usage_percentage": 25.0,
        "system/gpu_0_memory_usage_megabytes": 20_000.0,
        "system/gpu_0_utilization_percentage": 87,
    }


def test_a_disk_that_is_full_ends_the_thread_quietly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(INTERVAL_VARIABLE, "0.1")
    journal = Journal(tmp_path / "journal.log")

    def fail(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fail)
        recorder = LoadRecorder(journal)
        recorder._thread.join(10)
        assert not recorder._thread.is_alive()
    recorder.stop()
    journal.close()


def test_a_driver_that_never_answers_keeps_no_run_from_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end is noted after `stop`; a sample that comes later would follow it, or a closed file.

    The first sample, whose values count for nothing, is the quick one.
    """
    asked, answers, samples = threading.Event(), threading.Event(), iter((0, 1))

    def sample(*_: Any) -> dict[str, float]:
        if next(samples):
            asked.set()
            assert answers.wait(60)
        return {"cpu_utilization_percentage": 1.0}

    monkeypatch.setenv(INTERVAL_VARIABLE, "0.1")
    monkeypatch.setattr("skinml.tracking.load.sample", sample)
    monkeypatch.setattr("skinml.tracking.load._PATIENCE", 0.1)
    journal = Journal(tmp_path / "journal.log")
    recorder = LoadRecorder(journal)
    assert asked.wait(60)
    stopping = threading.Thread(target=recorder.stop, daemon=True)
    stopping.start()
    stopping.join(30)
    waits = stopping.is_alive()
    answers.set()
    recorder._thread.join(60)
    assert not waits, "stop() waits for the driver"
    assert not recorder._thread.is_alive() and journal.sequence == 0
    journal.close()


@pytest.mark.parametrize("text", ["10s", "0", "-1", "nan", "inf", "0.01"])
def test_an_interval_that_gives_no_samples_or_a_flood_is_the_users_error(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(INTERVAL_VARIABLE, text)
    with pytest.raises(UserError, match=f"{INTERVAL_VARIABLE}='{text}': expected seconds"):
        sampling_interval()


@pytest.mark.parametrize(("text", "seconds"), [("", 10), ("0.1", 0.1), ("2", 2), ("1e1", 10)])
def test_an_interval_is_in_seconds(
    text: str, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(INTERVAL_VARIABLE, text)
    assert sampling_interval() == seconds
