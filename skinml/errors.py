"""The one exception that stands for a user's mistake, and how a command reports it."""

import os
import sys
from collections.abc import Callable


class UserError(Exception):
    """A mistake that the user can mend: its text gives the value, what was expected, the remedy."""


def run_command(command: Callable[[], int | None]) -> int:
    """Run a command-line program and turn a `UserError` into one line on stderr.

    Returns the exit code: the command's own (None counts as 0), 2 after a `UserError`,
    130 after Ctrl-C, 141 where the output's reader is gone. Any other exception is a defect of
    skinml and keeps its traceback.
    """
    try:
        status = command() or 0
        # What waits in the buffer meets a closed pipe here, not after us.
        sys.stdout.flush()
        return status
    except UserError as error:
        print(f"skinml: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("skinml: stopped by Ctrl-C", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output is gone (`skinml … | head`): nobody is left to tell,
        # and Python's own last flush needs a place that takes the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
