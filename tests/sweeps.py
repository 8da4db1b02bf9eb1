"""A sweep in a process of its own, as a person starts it, with trainings that take no time."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.waiting import PATIENCE, wait_for

ROOT = Path(__file__).parent.parent


class StartedSweep:
    """`sweep_driver.py` below `folder`, in a terminal group of its own; its output is in `log`."""

    def __init__(self, options: list[str], folder: Path, variables: Mapping[str, str]) -> None:
        self.log = folder / f"sweep-{time.time_ns()}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(ROOT / "tests" / "sweep_driver.py"), *options],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait(self) -> int:
        """Its exit code; no traceback may stand in its log."""
        try:
            code = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(self.log.read_text()) from None
        assert "Traceback" not in self.log.read_text(), self.log.read_text()
        return code

    def until(self, condition: Callable[[], Any], pause: float = 0.1) -> Any:
        """What a condition returns, once that is true, while the sweep runs."""
        return wait_for(condition, self.log.read_text, self.process, pause)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
