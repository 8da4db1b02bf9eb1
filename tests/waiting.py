"""How tests wait: for what happens, not for the time that it may take."""

import subprocess
import time
from collections.abc import Callable
from typing import Any, TypeVar

# Seconds after which something is taken to hang. A test that passes waits for none of them; on a
# machine that is busy with other work a process may take minutes to start.
PATIENCE = 600.0

Found = TypeVar("Found")


def wait_for(
    condition: Callable[[], Found],
    said: Callable[[], object] = lambda: "it hangs",
    process: "subprocess.Popen[Any] | None" = None,
    pause: float = 0.05,
) -> Found:
    """What a condition returns, once that is true.

    Fails with what `said` returns where that does not come, as where it is to come from a `process`
    that has ended. It is asked every `pause` seconds.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        # Asked first: what a process did before it ended is found below.
        ended = process is not None and process.poll() is not None
        if found := condition():
            return found
        assert not ended, said()
        assert time.monotonic() < deadline, said()
        time.sleep(pause)
