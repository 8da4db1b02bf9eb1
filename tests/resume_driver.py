"""Runs of a tiny network that end themselves at chosen instants, each forked from one process.

What takes long, the imports, happens once. A line on stdin asks for a run, as JSON: its arguments,
its log, and where it gets a signal: ["module.function", the how-manieth call, "before" or "after",
signal]. The answer is its exit code, negative for a signal.
"""

import functools
import importlib
import json
import os
import signal
import sys
from typing import Any

import keras  # noqa: F401
import matplotlib.pyplot as plt  # noqa: F401
import pytest
import scipy.stats
import sklearn.metrics  # noqa: F401
import tensorflow as tf  # noqa: F401

import skinml.evaluation.figures
import skinml.evaluation.scoring
import skinml.run.end_to_end
import skinml.training.checkpoint
import skinml.training.loop
from skinml.base.errors import run_command
from skinml.run import __main__ as run


def signal_at(where: str, count: int, when: str, signum: int) -> None:
    """Have this process send itself a signal at a call of a function, or method, of skinml."""
    owner, _, name = where.rpartition(".")
    module, _, attribute = owner.partition(":")
    place: Any = importlib.import_module(module)
    place = getattr(place, attribute) if attribute else place
    original = getattr(place, name)
    calls = 0

    @functools.wraps(original)
    def watched(*given: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == count and when == "before":
            os.kill(os.getpid(), signum)
        result = original(*given, **named)
        if calls == count and when == "after":
            os.kill(os.getpid(), signum)
        return result

    setattr(place, name, watched)


def child(asked: dict[str, Any]) -> int:
    log = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    # A background job of a shell without job control would ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for instant in asked["signals"]:
        signal_at(*instant)
    return run_command(lambda: run.main(asked["arguments"]))


def main() -> None:
    spec = importlib.util.spec_from_file_location("tests_conftest", sys.argv[1])
    assert spec and spec.loader and scipy.stats
    conftest = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(conftest)
    conftest.add_tiny_backbone(pytest.MonkeyPatch())
    # One figure is enough here: all of them take longer than everything else of such a run.
    figures = skinml.evaluation.figures.FIGURES
    for name in list(figures)[1:]:
        del figures[name]
    print("ready", flush=True)
    for line in sys.stdin:
        process = os.fork()
        if process == 0:
            try:
                code = child(json.loads(line))
                sys.stdout.flush()
                sys.stderr.flush()
            except SystemExit as stopped:
                code = int(stopped.code or 0)
            except BaseException:
                import traceback

                traceback.print_exc()
                code = 1
            os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
