"""What every part of the fault campaign shares: seeded cases, a file of results, the report."""

import json
import os
import random
import shutil
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from skinml.base.errors import UserError
from skinml.base.progress import progress_bar

RESULTS = "results.jsonl"

# Seconds between two lines of progress where nobody is at a terminal.
QUIET = 30.0


@dataclass
class Outcome:
    """What a case found.

    `faults` counts what was done by kind, `checked` the things that were looked at afterwards
    (records, points, files, runs); `lost`, `doubled` and `differing` those of them that were not
    there, more than once there, or with another value. `problems` are words: a crash, a hang, an
    error that is none for a user.
    """

    faults: dict[str, int] = field(default_factory=dict)
    checked: int = 0
    lost: int = 0
    doubled: int = 0
    differing: int = 0
    problems: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        return bool(self.lost or self.doubled or self.differing or self.problems)

    def fault(self, kind: str, count: int = 1) -> None:
        self.faults[kind] = self.faults.get(kind, 0) + count

    def add(self, other: "Outcome") -> None:
        """Count what another one found as well."""
        for kind, count in other.faults.items():
            self.fault(kind, count)
        self.checked += other.checked
        self.lost += other.lost
        self.doubled += other.doubled
        self.differing += other.differing
        self.problems += other.problems
        for key, value in other.details.items():
            adds = key in self.details and isinstance(value, int | list)
            self.details[key] = self.details[key] + value if adds else value


@dataclass(frozen=True)
class Case:
    """One case: its number within its part, an empty folder, and all the chance it may use."""

    number: int
    folder: Path
    chance: random.Random


# Does one case.
Run = Callable[[Case], Outcome]


@dataclass(frozen=True)
class Part:
    """A part of the campaign: `open` holds what its cases share (a server) while they run."""

    title: str
    cases: int
    open: Callable[[Path], AbstractContextManager[Run]]


def chance_of(seed: int, part: str, number: int) -> random.Random:
    """The random numbers of a case: the same whenever it runs, whatever ran before."""
    return random.Random(f"{seed} {part} {number}")


class Results:
    """The file of results: a line a case, on the disk before the next one begins."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / RESULTS
        self.lines: list[dict[str, Any]] = []
        if self.path.exists():
            text = self.path.read_bytes()
            whole = text.rfind(b"\n") + 1
            if whole < len(text):
                os.truncate(self.path, whole)  # Killed in the midst of a line.
            self.lines = [json.loads(line) for line in text[:whole].splitlines()]

    def check_seed(self, seed: int) -> None:
        """Refuse to mix the cases of two seeds."""
        for line in self.lines:
            if line["seed"] != seed:
                raise UserError(
                    f"--seed {seed}: {self.path} holds cases of seed {line['seed']}; expected the "
                    "same, or another folder (--out)"
                )

    def done(self, part: str) -> set[int]:
        return {line["case"] for line in self.lines if line["part"] == part}

    def append(self, line: dict[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.lines.append(line)


def run_part(
    name: str, part: Part, cases: int, seed: int, results: Results, scratch: Path, commit: str
) -> None:
    """Run the cases of a part that have no result yet."""
    left = sorted(set(range(cases)) - results.done(name))
    if not left:
        return
    place = scratch / name
    place.mkdir(mode=0o711)
    begun = told = time.monotonic()
    with part.open(place) as run, progress_bar(name, len(left)) as advance:
        for count, number in enumerate(left):
            folder = place / f"case-{number}"
            folder.mkdir()
            started = time.monotonic()
            try:
                outcome = run(Case(number, folder, chance_of(seed, name, number)))
            except UserError:
                raise
            except Exception as error:
                where = traceback.extract_tb(error.__traceback__)[-1]
                text = f"{type(error).__name__}: {error} ({Path(where.filename).name}:"
                outcome = Outcome(problems=[f"{text}{where.lineno})"])
            line = {
                "part": name,
                "case": number,
                "seed": seed,
                "commit": commit,
                "seconds": round(time.monotonic() - started, 2),
                "at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                **asdict(outcome),
            }
            results.append(line)
            advance(1, "" if not outcome.failed else f"case {number} failed")
            if outcome.failed:
                kept = results.path.parent / "failed" / folder.name.replace("case", name)
                shutil.copytree(folder, kept, dirs_exist_ok=True)
                _say(f"{name}, case {number}: {_bad(line)}; its files: {kept}")
            shutil.rmtree(folder)
            now = time.monotonic()
            if not sys.stderr.isatty() and (now - told > QUIET or count + 1 == len(left)):
                told = now
                wait = (now - begun) / (count + 1) * (len(left) - count - 1)
                _say(f"{name}: {count + 1} of {len(left)} cases; {wait:.0f} s left")


def _say(text: str) -> None:
    print(f"faults: {text}", file=sys.stderr, flush=True)


def _bad(line: dict[str, Any]) -> str:
    counts = [f"{line[key]} {key}" for key in ("lost", "doubled", "differing") if line[key]]
    return "; ".join([*counts, *line["problems"]])


def summary(lines: list[dict[str, Any]], parts: dict[str, Part]) -> list[dict[str, Any]]:
    """A row a part: its cases, faults by kind, and what they found, added up."""
    rows = []
    for name, part in parts.items():
        own = [line for line in lines if line["part"] == name]
        if not own:
            continue
        faults: Counter[str] = Counter()
        for line in own:
            faults.update(line["faults"])
        rows.append(
            {
                "part": name,
                "title": part.title,
                "cases": len(own),
                "of": part.cases,
                "faults": dict(faults),
                **{
                    key: sum(line[key] for line in own)
                    for key in ("checked", "lost", "doubled", "differing")
                },
                "problems": sum(len(line["problems"]) for line in own),
                "seconds": round(sum(line["seconds"] for line in own), 1),
            }
        )
    return rows
