"""A writer that does nothing but write a journal, as fast as it can, until it is killed.

    python -m benchmarks.faults.journal_writer JOURNAL SEED

Prints "b N" when it begins after record N, "a N" once record N is appended, "s N" once it is
brought onto the disk. What record N holds follows from the seed: a reader knows it too.
"""

import os
import random
import sys
from pathlib import Path
from typing import Any

from skinml.tracking.journal import Journal

# Characters of the longest records, now and then: of many pages, so that a kill may tear them.
SIZES = (0, 0, 0, 0, 0, 0, 0, 300, 300, 5_000, 100_000)


def fields_of(seed: int, number: int) -> dict[str, Any]:
    """What the record of a number holds."""
    chance = random.Random(f"{seed} {number}")
    text = chance.randbytes(chance.choice(SIZES) // 2).hex()
    values = {"loss": chance.random(), "accuracy": chance.random() * 10 ** chance.randint(-9, 9)}
    return {"step": number, "values": values, "text": text}


def main() -> None:
    path, seed = Path(sys.argv[1]), int(sys.argv[2])
    journal = Journal(path)
    when = random.Random(f"{seed} {journal.sequence} syncs")
    _tell("b", journal.sequence)
    while True:
        number = journal.append("metrics", **fields_of(seed, journal.sequence + 1))
        _tell("a", number)
        if when.random() < 0.2:
            journal.sync()
            _tell("s", number)


def _tell(what: str, number: int) -> None:
    os.write(1, b"%s %d\n" % (what.encode(), number))


if __name__ == "__main__":
    main()
