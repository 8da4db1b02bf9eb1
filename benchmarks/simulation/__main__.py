"""Check the project's statistics by simulation with known truth: `python -m benchmarks.simulation`.

Test parts are drawn again and again from a population of images and networks whose true figures
are known, and everything that a comparison says of such a part is held against that truth: that
95 % intervals cover it, that tests at 5 % err as often as they say, that power grows as theory
predicts. Formulas are compared with independent implementations besides. A failed check makes the
exit code 1. The same seed and draws give the same figures, whatever the number of jobs.
"""

import json
from pathlib import Path

from benchmarks.simulation.report import expected, report, shown, write
from benchmarks.simulation.running import CHUNK, run
from benchmarks.simulation.settings import DRAWS, SEED, Settings
from benchmarks.simulation.studies import SECTIONS
from skinml.base.errors import UserError, run_command
from skinml.base.provenance import git_state
from skinml.config import Parser


def _whole(text: str, least: int, name: str) -> int:
    value = int(text) if text.isdecimal() else -1
    if value < least:
        raise UserError(f"{name} {text}: expected a whole number of at least {least}")
    return value


def main(argv: list[str] | None = None) -> int:
    parser = Parser(
        prog="python -m benchmarks.simulation",
        description="Check the project's statistics by simulation with known truth.",
    )
    parser.add_argument("--draws", default=str(DRAWS), help="draws a study (default: %(default)s)")
    parser.add_argument("--seed", default=str(SEED), help="default: %(default)s")
    parser.add_argument("--jobs", default="1", help="processes (default: %(default)s)")
    parser.add_argument(
        "--only", action="append", choices=tuple(SECTIONS), help="a section; may be repeated"
    )
    parser.add_argument("--out", type=Path, default=Path("results/statistics"), metavar="FOLDER")
    parser.add_argument("--json", action="store_true", help="print all checks as JSON")
    options = parser.parse_args(argv)
    settings = Settings(_whole(options.draws, CHUNK, "--draws"), _whole(options.seed, 0, "--seed"))
    jobs = _whole(options.jobs, 1, "--jobs")
    # Before the run: whoever works in the tree meanwhile changes nothing that is loaded.
    state = git_state()
    checks, seconds = run(tuple(options.only or SECTIONS), settings, jobs)
    only = "".join(f" --only {name}" for name in options.only or ())
    command = (
        f"python -m benchmarks.simulation --draws {settings.draws} --seed {settings.seed} "
        f"--jobs {jobs}{only}"
    )
    write(checks, report(checks, seconds, settings, command, state), options.out)
    failed = [check for check in checks if not check.passed]
    if options.json:
        print(json.dumps([check.row() for check in checks], indent=1))
    else:
        for check in failed:
            found = f"{shown(check.observed, check.kind)}, expected {expected(check)}"
            print(f"FAIL {check.section}: {check.group}, {check.name}: {found}")
        judged = sum(check.judged for check in checks)
        print(f"{judged - len(failed)} of {judged} checks passed: {options.out / 'README.md'}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(run_command(main))
