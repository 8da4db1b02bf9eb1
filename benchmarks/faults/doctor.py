"""Part 6: runs that live and runs that are dead, and what `skinml.doctor` makes of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.faults.campaign import Case, Outcome, Run
from benchmarks.faults.servers import URI, as_client

# Seconds that a lease stands still before its run counts as dead; ninety in service.
TERM = 6.0


@contextmanager
def visit_runs(scratch: Path) -> Iterator[Run]:
    """Cases of 44 mixed runs (benchmarks/faults/doctor_cases.py) and one visit of doctor."""
    from benchmarks.faults.doctor_cases import BATCH, REAL, batch
    from skinml.store.lease import TERM_VARIABLE

    def run(case: Case) -> Outcome:
        rows = batch(case.folder, BATCH - REAL, REAL, case.chance, TERM)
        outcome = Outcome(checked=len(rows), details={"closed": 0, "left_running": 0})
        for row in rows:
            dead = row["expected"] == "KILLED"
            outcome.fault("dead run" if dead else "live or finished run")
            outcome.details["closed"] += int(row["wrongly_closed"])
            outcome.details["left_running"] += int(row["left_running"])
            if row["wrongly_closed"] or row["status"] != row["expected"]:
                outcome.differing += 1
                outcome.problems.append(f"{row['kind']}: {row['status']}")
        return outcome

    variables = {URI: f"sqlite:///{scratch}/mlflow.db", TERM_VARIABLE: str(TERM)}
    with as_client(**variables):
        yield run
