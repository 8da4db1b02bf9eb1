"""The machine's load as metrics of a run, under the names that MLflow gives them."""

import os
import threading
import time
from typing import Any

from skinml.base.environment import seconds_in
from skinml.base.errors import UserError
from skinml.tracking.journal import Journal
from skinml.tracking.record import LOAD

# Seconds between two samples, unless MLflow's own variable says otherwise.
INTERVAL = 10.0
INTERVAL_VARIABLE = "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL"
# More often than this, the samples would be most of what a run has.
_LEAST_INTERVAL = 0.1
# Seconds that the end of a run waits for a sample: a GPU's driver may never answer.
_PATIENCE = 5.0


def sampling_interval() -> float:
    """Seconds between two samples: $MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL, else 10."""
    return seconds_in(INTERVAL_VARIABLE, INTERVAL, _LEAST_INTERVAL)


class LoadRecorder:
    """A thread that notes the machine's load in a journal every few seconds, until it is stopped.

    MLflow's own asks the server at every sample, and ends for good when it does not answer.
    """

    def __init__(self, journal: Journal, first_step: int = 0) -> None:
        self._journal = journal
        self._step = first_step
        self._interval = sampling_interval()
        self._stopped = threading.Event()
        self._noting = threading.Lock()
        self._thread = threading.Thread(target=self._record, daemon=True, name="LoadRecorder")
        self._thread.start()

    def stop(self) -> None:
        """End the thread; a sample that never ends is left behind, and never noted."""
        with self._noting:  # A sample is noted before, or not at all.
            self._stopped.set()
        self._thread.join(_PATIENCE)

    def _record(self) -> None:
        gpus, start = _Gpus(), _network()
        sample(gpus, start)  # The first use of the processor is that since the machine's start.
        while not self._stopped.wait(self._interval):
            values = {f"{LOAD}{name}": value for name, value in sample(gpus, start).items()}
            now = int(time.time() * 1000)
            with self._noting:
                if self._stopped.is_set():
                    return  # The run may have ended since, and its journal be closed.
                try:
                    self._journal.append("metrics", step=self._step, time=now, values=values)
                except UserError:
                    return  # The next epoch meets the same, where it can be told.
            self._step += 1


def sample(gpus: "_Gpus", start: tuple[float, float]) -> dict[str, float]:
    """The load now, as MLflow's system metrics have it; `start` are the network's first counts."""
    import psutil

    memory, disk = psutil.virtual_memory(), psutil.disk_usage(os.sep)
    received, sent = _network()
    values = {
        "cpu_utilization_percentage": psutil.cpu_percent(),
        "system_memory_usage_megabytes": memory.used / 1e6,
        "system_memory_usage_percentage": memory.used / memory.total * 100,
        "disk_usage_percentage": disk.percent,
        "disk_usage_megabytes": disk.used / 1e6,
        "disk_available_megabytes": disk.free / 1e6,
        "network_receive_megabytes": received - start[0],
        "network_transmit_megabytes": sent - start[1],
    }
    return {name: round(value, 1) for name, value in (values | gpus.sample()).items()}


def _network() -> tuple[float, float]:
    """Megabytes that the machine has received and sent since its start."""
    import psutil

    counts = psutil.net_io_counters()
    return counts.bytes_recv / 1e6, counts.bytes_sent / 1e6


class _Gpus:
    """NVIDIA's GPUs; none where there is no driver."""

    def __init__(self) -> None:
        self._handles: list[Any] = []
        try:
            import pynvml

            self._library = pynvml
            pynvml.nvmlInit()
            count = pynvml.nvmlDeviceGetCount()
            self._handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
        except Exception:  # No driver, no library, no package: each has an error of its own.
            return

    def sample(self) -> dict[str, float]:
        values: dict[str, float] = {}
        for index, handle in enumerate(self._handles):
            # A GPU that cannot tell one thing may well tell another.
            for read in (_gpu_memory, _gpu_use, _gpu_power):
                try:
                    found = read(self._library, handle)
                except self._library.NVMLError:
                    continue
                values |= {f"gpu_{index}_{name}": value for name, value in found.items()}
        return values


def _gpu_memory(library: Any, handle: Any) -> dict[str, float]:
    memory = library.nvmlDeviceGetMemoryInfo(handle)
    return {
        "memory_usage_percentage": memory.used / memory.total * 100,
        "memory_usage_megabytes": memory.used / 1e6,
    }


def _gpu_use(library: Any, handle: Any) -> dict[str, float]:
    return {"utilization_percentage": library.nvmlDeviceGetUtilizationRates(handle).gpu}


def _gpu_power(library: Any, handle: Any) -> dict[str, float]:
    used = library.nvmlDeviceGetPowerUsage(handle)
    limit = library.nvmlDeviceGetEnforcedPowerLimit(handle)
    return {"power_usage_watts": used / 1000, "power_usage_percentage": used / limit * 100}
