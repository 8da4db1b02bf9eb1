"""`python -m skinml.sweep` with stand_in_training.py for its cells: started by `StartedSweep`."""

import sys
from pathlib import Path

from skinml.base.errors import run_command
from skinml.config import Config
from skinml.sweep.__main__ import main
from skinml.sweep.orders import cell_command

STAND_IN = Path(__file__).with_name("stand_in_training.py")


def command(config: Config) -> list[str]:
    return [sys.executable, str(STAND_IN), *cell_command(config)[3:]]


if __name__ == "__main__":
    if "--engine=slurm" in sys.argv:
        from submitit.core.core import Job

        # A job that was killed leaves no result, however long one waits for a slow disk.
        Job._results_timeout_s = 2
    code = run_command(lambda: main(sys.argv[1:], command))
    assert not {"tensorflow", "keras", "jax", "torch"} & set(sys.modules)
    sys.exit(code)
