"""The fault campaign: break what can break, many times, and count what was lost.

    python -m benchmarks.faults --out FOLDER [--only PART,…] [--cases N] [--seed S]

A case that has a result in FOLDER is not run again: stopped or killed, the same command goes on.
Writes results.jsonl (a line a case), report.md, report.json and figures; exits with 1 where
anything was lost, doubled or different. What the parts do: benchmarks/faults/README.md.
"""

import argparse
import json
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.faults import doctor, figures, journals, network, servers, surroundings, training
from benchmarks.faults.campaign import Part, Results, run_part, summary
from skinml.base.errors import UserError, run_command
from skinml.base.processes import usable_cores
from skinml.config import Parser

PARTS = {
    "journal-kills": Part(
        "a journal's writer, killed and started again", 60, journals.kill_writers
    ),
    "journal-cuts": Part("a journal cut at every byte", journals.CUT_CASES, journals.cut_journals),
    "journal-flips": Part("a journal with flipped bits", journals.FLIP_CASES, journals.flip_bits),
    "forwarder-kills": Part("forwarders, killed and started again", 10, servers.kill_forwarders),
    "server-kills": Part("servers on SQLite and PostgreSQL, killed", 10, servers.kill_servers),
    "service-kills": Part("workers and database of the service, killed", 20, servers.kill_service),
    "training-kills": Part("trainings, killed and resumed", 20, training.kill_trainings),
    "own-training-kills": Part("the same on pictures of one's own", 6, training.kill_own_trainings),
    "doctor": Part("runs, live and dead, that doctor visits", 10, doctor.visit_runs),
    "network": Part("outages of server and network", 24, network.cut_network),
    "surroundings": Part("full disk, read-only folder, clock", 20, surroundings.bad_surroundings),
}


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="python -m benchmarks.faults", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of results and report")
    parser.add_argument("--only", default="", help=f"some of {', '.join(PARTS)}")
    parser.add_argument("--cases", type=int, help="of each part (default: all of it)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    # What was started is ended on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    names = _chosen(options.only)
    results = Results(options.out)
    results.check_seed(options.seed)
    commit = _commit()
    # In a folder that PostgreSQL's user may pass through.
    with tempfile.TemporaryDirectory(prefix="skinml-faults-") as scratch:
        Path(scratch).chmod(0o711)
        for name in names:
            part = PARTS[name]
            cases = part.cases if options.cases is None else options.cases
            run_part(name, part, cases, options.seed, results, Path(scratch), commit)
    lines = [line for line in results.lines if line["part"] in PARTS]
    rows = summary(lines, PARTS)
    print(_write_report(options, rows, lines))
    failed = any(row[key] for row in rows for key in ("lost", "doubled", "differing", "problems"))
    return 1 if failed else 0


def _chosen(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()] or list(PARTS)
    for name in names:
        if name not in PARTS:
            raise UserError(f"--only {name}: expected some of {', '.join(PARTS)}")
    return names


def _commit() -> str:
    from skinml.base.provenance import git_state

    commit, clean = git_state()
    return commit if clean == "true" else f"{commit} with changes"


def _write_report(
    options: argparse.Namespace, rows: list[dict[str, Any]], lines: list[dict[str, Any]]
) -> str:
    from benchmarks.harness import spread, table
    from skinml.training.backend import cpu_name

    around = {
        "command": f"python -m benchmarks.faults --seed {options.seed}",
        "commits": sorted({line["commit"] for line in lines}),
        "machine": cpu_name(),
        "cores": usable_cores(),
        "seconds": round(sum(row["seconds"] for row in rows)),
        "written": time.strftime("%Y-%m-%d"),
    }
    ratios = {name: spread(own) for name, own in figures.ratios(lines).items()}
    report = {**around, "parts": rows, "times": ratios, "phases": figures.phases(lines)}
    (options.out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    heading = ("part", "cases", "faults", "checked", "lost", "doubled", "differing", "problems")
    cells = [
        [
            row["title"],
            f"{row['cases']} of {row['of']}" if row["cases"] < row["of"] else str(row["cases"]),
            ", ".join(f"{count:,} × {kind}" for kind, count in row["faults"].items()),
            *(f"{row[key]:,}" for key in heading[3:]),
        ]
        for row in rows
    ]
    times = figures.times_table(lines)
    bad = [
        f"- {line['part']}, case {line['case']}: {text}"
        for line in lines
        for text in line["problems"][:3]
    ]
    text = "\n".join(
        [
            table(heading, cells),
            "",
            *([times, ""] if times else []),
            f"`{around['command']}`, commit {', '.join(around['commits'])}, {around['machine']}, "
            f"{around['cores']} cores, {around['seconds'] / 60:.0f} minutes, {around['written']}.",
            *([""] if bad else []),
            *bad[:50],
        ]
    )
    figures.draw(lines, options.out)
    (options.out / "report.md").write_text(text + "\n")
    return text


if __name__ == "__main__":
    sys.exit(run_command(main))
