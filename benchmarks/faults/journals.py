"""Parts 1 and 2: a journal whose writer is killed, that is cut, and whose bits are flipped."""

import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.faults.campaign import Case, Outcome, Run
from benchmarks.faults.journal_writer import fields_of
from benchmarks.faults.processes import environment
from skinml.tracking.journal import Journal, Record, parse, read_journal

WRITER = (sys.executable, "-m", "benchmarks.faults.journal_writer")

# Kills of a journal's writer before the journal is read, each after the one before has gone on.
KILLS = 10

# Seconds from a writer's start within which one in eight is killed, and from its first record
# within which the others are.
STARTING, WRITING = 0.12, 0.08


@contextmanager
def kill_writers(scratch: Path, writer: Sequence[str] = WRITER) -> Iterator[Run]:
    """Cases of a journal whose writer is killed ten times."""

    def run(case: Case) -> Outcome:
        outcome = Outcome(details={"torn": 0, "synced": 0, "moments": []})
        path, seed = case.folder / "journal.log", case.chance.randrange(2**32)
        told = 0
        for _ in range(KILLS):
            told = max(told, _kill_one(path, seed, case.chance, outcome, writer))
            torn = path.exists() and path.read_bytes()[-1:] not in (b"\n", b"")
            outcome.details["torn"] += torn
        outcome.add(check_journal(path, seed, told))
        return outcome

    yield run


def _kill_one(
    path: Path, seed: int, chance: random.Random, outcome: Outcome, writer: Sequence[str]
) -> int:
    """Start a writer and kill it; the last record that it told to be written."""
    process = subprocess.Popen(
        [*writer, str(path), str(seed)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # What `readline` had read ahead, on a busy machine all that was told, `communicate` lacks.
        bufsize=0,
    )
    assert process.stdout and process.stderr
    begun = time.monotonic()
    head = b""
    if chance.random() < 1 / 8:
        time.sleep(chance.uniform(0, STARTING))
    else:
        head = process.stdout.readline()
        time.sleep(chance.uniform(0, WRITING))
    process.kill()
    rest, errors = process.communicate()
    outcome.details["moments"].append(round(time.monotonic() - begun, 4))
    if process.returncode != -9:
        outcome.problems.append(f"the writer ended by itself: {errors.decode()[-300:]}")
    outcome.fault("SIGKILL of a journal writer")
    lines = (head + rest).decode().splitlines()
    outcome.details["synced"] += sum(line.startswith("s") for line in lines)
    return max((int(line[2:]) for line in lines if line[0] in "as"), default=0)


def check_journal(path: Path, seed: int, told: int) -> Outcome:
    """Compare a journal with what its writers were to write, and told to have written."""
    skipped: list[str] = []
    records = list(read_journal(path, skipped=skipped.append, complete=True))
    there = {record.sequence for record in records}
    outcome = Outcome(checked=told)
    outcome.lost = len(set(range(1, told + 1)) - there)
    # A gap after what was told is no loss, and yet not as it should be.
    outcome.differing += len(set(range(told + 1, max(there, default=0) + 1)) - there)
    for record in records:
        outcome.differing += record.fields != fields_of(seed, record.sequence)
    lines = path.read_bytes().splitlines(keepends=True)
    numbers = [found[0] for line in lines if (found := parse(line))]
    outcome.doubled = len(numbers) - len(set(numbers))
    outcome.problems += [text for text in skipped if not text.endswith("are no complete record")]
    return outcome


# --- Damage ---------------------------------------------------------------------------------------

# How many cases share the bytes, or the flips, of a journal; each has its share of them.
CUT_CASES, FLIP_CASES, FLIPS = 100, 50, 200


def write_sample(path: Path) -> list[Record]:
    """A journal as a run makes it, the same each time; its records."""
    chance = random.Random("a journal")
    names = ("loss", "accuracy", "auc_macro")
    journal = Journal(path)
    journal.append("run", journal="0" * 32, name="mobilenetv2-16-seed0", process="host 1 2.00",
                   time=1_700_000_000_000, source={}, server="0" * 16)  # fmt: skip
    for kind in ("params", "tags"):
        values = {f"{kind}_{n}": chance.randbytes(chance.randrange(12)).hex() for n in range(40)}
        journal.append(kind, values=values)
    journal.append("dataset", name="isic2017", digest="0" * 16, source="prepared", counts={})
    for epoch in range(1, 31):
        values = {f"epoch/{p}_{n}": str(chance.random()) for p in ("train", "val") for n in names}
        numbers: dict[str, Any] = {key: float(value) for key, value in values.items()}
        if epoch == 9:
            numbers["epoch/val_loss"] = float("nan")
        journal.append("metrics", step=epoch, time=1_700_000_000_000 + epoch, values=numbers)
    for number in range(10):
        sha256 = chance.randbytes(32).hex()
        journal.append("artifact", file=f"figures/{number} é.png", sha256=sha256, path="figures")
    journal.append("end", status="FINISHED", reason="", time=1_700_000_100_000)
    journal.close()
    return list(read_journal(path))


@contextmanager
def cut_journals(scratch: Path) -> Iterator[Run]:
    """Cases of a journal that ends anywhere: each has every hundredth length."""
    records = write_sample(scratch / "sample.log")
    whole = (scratch / "sample.log").read_bytes()

    def run(case: Case) -> Outcome:
        outcome = Outcome()
        path = case.folder / "journal.log"
        for length in range(case.number % CUT_CASES, len(whole) + 1, CUT_CASES):
            path.write_bytes(whole[:length])
            outcome.fault("cut")
            kept = [record for record in records if record.end <= length]
            compare_records(outcome, kept, path, f"cut at {length}")
            go_on_with(outcome, path, kept, f"cut at {length}")
        return outcome

    yield run


@contextmanager
def flip_bits(scratch: Path) -> Iterator[Run]:
    """Cases of a journal with one flipped bit, or some, at random places."""
    records = write_sample(scratch / "sample.log")
    whole = (scratch / "sample.log").read_bytes()

    def run(case: Case) -> Outcome:
        outcome = Outcome()
        path = case.folder / "journal.log"
        flipped = 0
        while flipped < FLIPS:
            count = min(case.chance.choice((1, 1, 1, 2, 8)), FLIPS - flipped)
            damaged = bytearray(whole)
            bits = [case.chance.randrange(8 * len(whole)) for _ in range(count)]
            for bit in bits:
                damaged[bit // 8] ^= 1 << bit % 8
            path.write_bytes(damaged)
            flipped += count
            # A line whose end, or whose predecessor's end, is damaged is glued to the other.
            kept = [
                record
                for before, record in zip([0, *(r.end for r in records)], records, strict=False)
                if damaged[max(before - 1, 0) : record.end]
                == whole[max(before - 1, 0) : record.end]
            ]
            compare_records(outcome, kept, path, f"bits {bits}")
            go_on_with(outcome, path, kept, f"bits {bits}")
        outcome.fault("flipped bit", flipped)
        return outcome

    yield run


def compare_records(outcome: Outcome, kept: list[Record], path: Path, what: str) -> None:
    """Read a damaged journal: all of `kept` is there, once, and nothing else."""
    try:
        found = list(read_journal(path, skipped=lambda text: None, complete=True))
    except Exception as error:
        outcome.problems.append(f"{what}: {type(error).__name__}: {error}")
        return
    wanted = {record.sequence: repr(record[:3]) for record in kept}
    seen = [record.sequence for record in found]
    outcome.checked += len(wanted)
    outcome.lost += len(set(wanted) - set(seen))
    outcome.doubled += len(seen) - len(set(seen))
    # NaN is not equal to itself: compared as text.
    outcome.differing += sum(wanted.get(record.sequence) != repr(record[:3]) for record in found)


def go_on_with(outcome: Outcome, path: Path, kept: list[Record], what: str) -> None:
    """Open a damaged journal for writing and add a record: nothing that was there goes."""
    try:
        journal = Journal(path)
        number = journal.append("tags", values={"on": what})
        journal.close()
        found = list(read_journal(path))
    except Exception as error:
        outcome.problems.append(f"{what}, gone on with: {type(error).__name__}: {error}")
        return
    last = max((record.sequence for record in kept), default=0)
    if number != last + 1 or repr([r[:3] for r in found[:-1]]) != repr([r[:3] for r in kept]):
        outcome.differing += 1
    if not found or found[-1].fields != {"values": {"on": what}}:
        outcome.lost += 1
