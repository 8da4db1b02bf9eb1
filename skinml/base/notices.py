"""What libraries say of their start-up, which buries our own lines, is left out."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# What the C++ part of TensorFlow and XLA says of its start, by the levels that it is said at.
_NOTICE = r"[{levels}]\d{{4}} .* [\w.]+:\d+\] |WARNING: All log messages before absl::Initialize"
_PASS_ON = """
import re, sys
notice = re.compile(sys.argv[1].encode())
for line in iter(sys.stdin.buffer.readline, b""):
    if not notice.match(line):
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
"""


@contextmanager
def without_notices() -> Iterator[None]:
    """Import TensorFlow in this block: its notices do not bury our own lines, errors still show.

    $TF_CPP_MIN_LOG_LEVEL (default: 2, errors alone) is what a user sets for that. TensorFlow
    applies it after its import, which writes before; so stderr goes through a process that leaves
    out what is below that level. A process of its own: were this one ended by what it imports, as
    on a processor without the instructions that TensorFlow needs, its last words are seen.
    """
    level = os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if level not in ("1", "2", "3") or "keras" in sys.modules or sys.stderr is None:
        yield
        return
    sys.stderr.flush()
    stderr = os.dup(2)
    pattern = _NOTICE.format(levels="IWE"[: int(level)])
    try:
        # In a session of its own: Ctrl-C is for this process.
        with subprocess.Popen(
            [sys.executable, "-IS", "-c", _PASS_ON, pattern],
            stdin=subprocess.PIPE, stdout=stderr, stderr=stderr, start_new_session=True,
        ) as passing:  # fmt: skip
            assert passing.stdin is not None
            os.dup2(passing.stdin.fileno(), 2)
            try:
                yield
            finally:
                sys.stderr.flush()
                os.dup2(stderr, 2)
    finally:
        os.close(stderr)


@contextmanager
def without_stderr() -> Iterator[None]:
    """Nothing reaches this process's stderr in this block.

    For a library that writes there by itself, has no switch for it, and raises its errors.
    """
    if sys.stderr is None:
        yield
        return
    sys.stderr.flush()
    stderr = os.dup(2)
    try:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
