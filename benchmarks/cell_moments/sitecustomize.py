"""Notes when a training has made each of its fine-tuning steps: for `benchmarks.cell`.

Python imports a module of this name by itself where it finds one. The build that is measured need
not know of it, so that an earlier one is measured as it is.
"""

import importlib.abc
import importlib.machinery
import os
import sys
import time
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

# Where the compiled steps stand today, and where they stood before the package had rooms.
_STEPS = ("skinml.training.steps", "skinml.steps")

# Names the file that receives a line for each step.
_VARIABLE = "SKINML_BENCHMARK_MOMENTS"


def _used() -> float:
    """Seconds of the processor that this process and all that it has started used so far."""
    import psutil

    own = os.times()
    spent = own.user + own.system + own.children_user + own.children_system
    for child in psutil.Process().children(recursive=True):
        try:
            times = child.cpu_times()
        except psutil.Error:
            continue
        spent += times.user + times.system + times.children_user + times.children_system
    return spent


def _noting(one: Callable[..., Any], path: str) -> Callable[..., Any]:
    """A compiled step that notes its end, by the clock that all processes share."""

    def noted(*batch: Any) -> Any:
        made = one(*batch)
        if batch[0].ndim == 4:  # Pixels; the frozen step trains on features (n, D).
            with open(path, "a") as file:  # noqa: PTH123
                file.write(f"{time.monotonic()} {_used()}\n")
        return made

    return noted


class _Loader(importlib.abc.Loader):
    """Loads the module of the compiled steps, and has them noted."""

    def __init__(self, loader: importlib.abc.Loader, path: str) -> None:
        self._loader, self._path = loader, path

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        steps: Any = module.__dict__["Steps"]
        begin = steps.__init__

        def noting(self: Any, *given: Any, **named: Any) -> None:
            begin(self, *given, **named)
            self._calls.one = _noting(self._calls.one, path)

        path = self._path
        steps.__init__ = noting


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in _STEPS:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec and spec.loader:
            spec.loader = _Loader(spec.loader, os.environ[_VARIABLE])
        return spec


if _VARIABLE in os.environ:
    sys.meta_path.insert(0, _Finder())
