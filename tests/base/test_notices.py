"""TensorFlow's notices of its start are left out, and whatever else is said is seen."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def said_by(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
        check=False,
    )


# As TensorFlow does, but for the last lines.
NOTICES = """
import os, sys
from skinml.base.notices import without_notices
with without_notices():
    os.write(2, b"WARNING: All log messages before absl::InitializeLog() is called are written to "
                b"STDERR\\nI0000 00:00:1795906844.297208    6600 port.cc:153] oneDNN is on\\n"
                b"W0000 00:00:1795906844.297208    6600 port.cc:154] a warning\\n"
                b"E0000 00:00:1795906844.297208    6600 port.cc:155] an error\\n"
                b"I see a line of somebody else\\n")
    sys.stderr.write("its last words")
    END
sys.stderr.write(", and what comes after them")
"""


@pytest.mark.parametrize(
    ("level", "left_out"), [("0", 0), ("1", 2), ("2", 3), ("", 0)], ids=lambda value: str(value)
)
def test_notices_of_the_start_are_left_out_and_errors_are_seen(level: str, left_out: int) -> None:
    everything = said_by(NOTICES.replace("END", "pass"), TF_CPP_MIN_LOG_LEVEL="0").stderr
    lines = everything.splitlines()
    assert len(lines) == 6 and lines[-1] == "its last words, and what comes after them"
    said = said_by(NOTICES.replace("END", "pass"), TF_CPP_MIN_LOG_LEVEL=level).stderr
    assert said.splitlines() == lines[left_out:]


def test_what_a_process_says_when_its_import_ends_it_is_seen() -> None:
    """As TensorFlow does on a processor without its instructions."""
    code = NOTICES.replace("END", "sys.stderr.flush(); os.abort()")
    ended = said_by(code, TF_CPP_MIN_LOG_LEVEL="2")
    assert ended.returncode == -signal.SIGABRT
    assert ended.stderr.endswith("an error\nI see a line of somebody else\nits last words")
