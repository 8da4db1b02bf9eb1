"""Real runs of a tiny network, each forked from one process in which the imports are done.

    python -m benchmarks.faults.training_driver [JSON]

A line on stdin asks for a run, as JSON: `arguments` of `skinml.run`, `log` that its output goes to,
`phases` the file that says at any time what it is about. Answers with its process's id, and with
its exit code once it ended, negative for a signal. With JSON on the command line: that run alone,
in this process, imports included.
"""

import functools
import importlib
import json
import os
import sys
from typing import Any

# What a run does, as the campaign tells it: by the function that is being called, from outside
# inwards. Before the first of them it starts.
PHASES = {
    "skinml.run.end_to_end:set_up": "data",
    "skinml.training.loop:train": "training",
    "skinml.training.loop:frozen_inputs": "features",
    "skinml.training.steps:Steps.epoch": "steps",
    "skinml.run.end_to_end:save_checkpoint": "checkpoint",
    "skinml.run.end_to_end:evaluate": "evaluation",
    "skinml.evaluation.figures:draw_figures": "figures",
    "skinml.run.tracked:Tracked.log_results": "results",
    "skinml.tracking.forwarder_process:ForwarderProcess.drain": "models",
}


def tell_phases(path: str) -> None:
    """Have this process append to a file the phase that it is in, whenever that changes."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    stack = ["start"]

    def tell() -> None:
        os.write(descriptor, f"{stack[-1]}\n".encode())

    def watch(place: Any, name: str, phase: str) -> None:
        original = getattr(place, name)

        @functools.wraps(original)
        def call(*given: Any, **named: Any) -> Any:
            stack.append(phase)
            tell()
            try:
                return original(*given, **named)
            finally:
                stack.pop()
                tell()

        @functools.wraps(original)
        def steps(*given: Any, **named: Any) -> Any:
            stack.append(phase)
            tell()
            try:
                yield from original(*given, **named)
            finally:
                stack.pop()
                tell()

        setattr(place, name, steps if phase == "steps" else call)

    tell()
    for where, phase in PHASES.items():
        module, _, name = where.partition(":")
        place: Any = importlib.import_module(module)
        for part in name.split(".")[:-1]:
            place = getattr(place, part)
        watch(place, name.split(".")[-1], phase)


def one_run(asked: dict[str, Any]) -> int:
    from skinml.base.errors import run_command
    from skinml.run import __main__ as run

    log = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    tell_phases(asked["phases"])
    return run_command(lambda: run.main(asked["arguments"]))


def main() -> int:
    import pytest

    from tests.conftest import add_tiny_backbone

    if len(sys.argv) > 1:
        add_tiny_backbone(pytest.MonkeyPatch())
        return one_run(json.loads(sys.argv[1]))
    import keras  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import scipy.stats  # noqa: F401
    import sklearn.metrics  # noqa: F401
    import tensorflow  # noqa: F401

    for where in PHASES:
        importlib.import_module(where.partition(":")[0])
    add_tiny_backbone(pytest.MonkeyPatch())
    print("ready", flush=True)
    for line in sys.stdin:
        process = os.fork()
        if process == 0:
            code = 1
            try:
                code = one_run(json.loads(line))
                sys.stdout.flush()
                sys.stderr.flush()
            except BaseException:
                import traceback

                traceback.print_exc()
            os._exit(code)
        print(process, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
