"""What a person says of where cells train, checked before anything heavy is imported."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from skinml.base.errors import UserError


@dataclass(frozen=True)
class Placement:
    """An engine, and how much of it a cell gets; None where that is left to it."""

    engine: str = "local"
    address: str = ""
    """The address of a Ray cluster; empty: the one that this machine is part of."""
    cpus: float | None = None
    gpus: float | None = None
    slurm: dict[str, str] = field(default_factory=dict)
    """Options of sbatch."""
    executor: str = "slurm"
    """submitit's, for `engine` slurm: slurm, local or debug."""

    def __post_init__(self) -> None:
        minutes_of(self.slurm.get("time", "1"))


def minutes_of(time_limit: str) -> int:
    """Minutes of a time limit as sbatch takes it: M, M:S, H:M:S, D-H, D-H:M, D-H:M:S; rounded up.

    Source: sbatch(1), option --time.
    """
    days, dash, rest = time_limit.rpartition("-")
    try:
        numbers = [int(part) for part in rest.split(":")]
        if len(numbers) > 3 or min(numbers) < 0 or (dash and not days):
            raise ValueError
        # Without days the first number is hours only where there are three.
        if not dash and len(numbers) < 3:
            numbers.insert(0, 0)
        hours, minutes, seconds = [*numbers, 0, 0][:3]
        found = (int(days or 0) * 24 + hours) * 60 + minutes + (seconds > 0)
    except ValueError:
        found = 0
    if found <= 0:
        raise UserError(
            f"slurm='time={time_limit}': expected a time limit as sbatch takes it, such as 90 "
            "(minutes), 12:00:00 or 2-00 (days-hours)"
        )
    return found


def sbatch_options(texts: Iterable[str]) -> dict[str, str]:
    """Options of sbatch from texts of "name=value", again or with spaces between them."""
    found = {}
    for word in (word for text in texts for word in text.split()):
        name, equals, value = word.lstrip("-").partition("=")
        if not name or not equals:
            raise UserError(
                f"slurm={word!r}: expected an option of sbatch as name=value, such as partition=gpu"
            )
        if name.replace("_", "-") in ("array", "output", "error", "open-mode", "signal"):
            raise UserError(f"slurm={word!r}: set by skinml itself; leave it out")
        found[name] = value
    return found
