"""Variables of the environment: set for a time, and read as seconds."""

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from skinml.base.errors import UserError


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """With these variables of the environment for a time."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def seconds_in(variable: str, default: float, least: float = 0.0) -> float:
    """The seconds that a variable says, more than 0 and at least `least`; `default` without it."""
    text = os.environ.get(variable) or str(default)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (0 < value < math.inf and value >= least):
        expected = f"{least:g} or more" if least else "more than 0"
        raise UserError(
            f"{variable}={text!r}: expected seconds as a number, {expected}; leave it out for "
            f"{default:g}"
        )
    return value
