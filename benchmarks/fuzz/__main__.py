"""Files of somebody else, made up by atheris and hypothesis: what skinml answers to them.

    python -m benchmarks.fuzz [--minutes 10] [--only TARGET,…] [--corpus FOLDER] [--out FOLDER]

Each target (benchmarks/fuzz/targets.py) is fed for so many minutes, one after the other: half the
time with bytes that libFuzzer changes by what they reach in skinml's code, from sound files on,
half of it with structure by hypothesis, which the same coverage leads. An input must be answered
by a result or a `UserError` without a terminal's commands, within 20 s, in 300 MB above what the
process has, and touch no file outside its folder. What is not is told, once for each place, and
makes the exit code 1. `--corpus` keeps what was found of the code for the next time; `--out` adds a
line a target to sessions.jsonl and writes result.md from all of them.

Needs atheris, which is no part of the environment: `pip install atheris==3.0.0`.
"""

import argparse
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any

from skinml.base.errors import UserError, run_command
from skinml.base.progress import duration, progress_bar
from skinml.config import Parser

WAYS = ("bytes", "structure")

# What is instrumented: the code whose branches lead the fuzzer. What it is built on is not, as that
# would take a minute at each start.
_INSTRUMENTED = ["skinml", "yaml"]
_PLAIN = ("numpy", "psutil", "PIL.Image", "hypothesis.strategies", "scipy.stats", "simplejpeg")

# Findings of one target after which it is not begun again.
_ENOUGH = 10

# A line of libFuzzer's: how many inputs so far, how many branches.
_LINE = re.compile(rb"^#(\d+)\s.*?cov: (\d+) ", re.MULTILINE)

# Made by a process when it begins to feed its target.
_BEGUN = "begun"


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="python -m benchmarks.fuzz", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minutes", type=float, default=10, help="for each target")
    parser.add_argument("--only", default="", metavar="TARGET,…", help="some of the targets")
    parser.add_argument("--corpus", type=Path, help="folder that keeps what led to new code")
    parser.add_argument("--out", type=Path, help="folder that receives the results")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.child:
        name, way, seconds = options.child
        _fuzz(name, way, float(seconds), options.corpus)
    if not _has_atheris():
        raise UserError("atheris is not installed; expected it: pip install atheris==3.0.0")
    from benchmarks.fuzz.targets import TARGETS

    names = [name for name in options.only.split(",") if name] or list(TARGETS)
    if unknown := [name for name in names if name not in TARGETS]:
        raise UserError(f"--only {unknown[0]}: expected some of {', '.join(TARGETS)}")
    failed = False
    with tempfile.TemporaryDirectory(prefix="skinml-fuzz-") as scratch:
        corpus = (options.corpus or Path(scratch)).resolve()
        with progress_bar("fuzzing", len(names) * len(WAYS)) as advance:
            for name in names:
                for way in WAYS:
                    advance(0, f"{name}, {way}")
                    seconds = options.minutes * 60 / len(WAYS)
                    session = _session(name, way, seconds, corpus / f"{name}-{way}")
                    failed |= bool(session["findings"])
                    print(_told(session), flush=True)
                    if options.out:
                        _keep(options.out, session)
                    advance()
    return 1 if failed else 0


def _has_atheris() -> bool:
    return importlib.util.find_spec("atheris") is not None


# --- One target, in a process of its own ----------------------------------------------------------


def _fuzz(name: str, way: str, seconds: float, corpus: Path) -> None:
    """Feed a target until the time is over or a rule is broken; ends the process."""
    import atheris

    for module in _PLAIN:
        importlib.import_module(module)
    atheris.enabled_hooks.add("str")
    with atheris.instrument_imports(include=_INSTRUMENTED):
        from benchmarks.fuzz.targets import SECONDS, TARGETS, Violation, check

    target = TARGETS[name]
    folder = Path(tempfile.mkdtemp(prefix="skinml-fuzz-", dir=_memory_disk()))
    own = corpus / "corpus"
    own.mkdir(parents=True, exist_ok=True)

    def one(content: bytes) -> None:
        check(target, folder, content)

    for number, seed in enumerate(target.seeds()):
        with suppress(Violation):  # What is loaded at a first use is loaded now.
            one(seed)
        if way == "bytes":
            (own / f"seed-{number}").write_bytes(seed)
    if way == "structure":
        from hypothesis import HealthCheck, given, settings

        test = settings(deadline=None, database=None, suppress_health_check=list(HealthCheck))(
            given(target.shapes)(one)
        )
        one = test.hypothesis.fuzz_one_input  # type: ignore[attr-defined]
    arguments = [
        sys.argv[0],
        f"-max_total_time={int(seconds)}",
        f"-timeout={int(SECONDS * 1.5)}",
        "-rss_limit_mb=3000",
        "-print_final_stats=1",
        "-len_control=20",
        "-max_len=65536",
        f"-artifact_prefix={corpus}/",
        str(own),
    ]
    atheris.Setup(arguments, one)
    (corpus / _BEGUN).touch()
    atheris.Fuzz()


def _memory_disk() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


# --- A session: its processes, and what they say --------------------------------------------------


def _session(name: str, way: str, seconds: float, corpus: Path) -> dict[str, Any]:
    """Feed a target for a time, begun again after each finding; what came of it."""
    from skinml.base.provenance import git_state

    corpus.mkdir(parents=True, exist_ok=True)
    commit, clean = git_state()
    findings: dict[str, str] = {}
    executions, branches, peak = 0, 0, 0
    spent = 0.0
    command = [sys.executable, "-m", "benchmarks.fuzz", "--corpus", str(corpus), "--child"]
    log, begun = corpus / "log", corpus / _BEGUN
    while (left := seconds - spent) >= 1 and len(findings) < _ENOUGH:
        with log.open("wb") as out:
            done = subprocess.run(
                [*command, name, way, f"{left}"], stdout=out, stderr=out, check=False
            )
        text = log.read_bytes()
        lines = list(_LINE.finditer(text))
        if not lines:
            raise UserError(f"{name}: the fuzzer did not begin: {text[-2000:].decode()}")
        spent += time.time() - begun.stat().st_mtime
        executions += int(lines[-1][1])
        branches = max(branches, *(int(line[2]) for line in lines))
        peak = max(peak, *map(int, re.findall(rb"peak_rss_mb:\s+(\d+)", text)), 0)
        if done.returncode:
            where, what = _finding(text.decode(errors="replace"))
            if where in findings:
                break  # Not mended, it would be found until the time is over.
            findings[where] = what
    return {
        "target": name, "way": way, "seconds": round(spent),
        "executions": executions, "branches": branches, "peak_mb": peak,
        "findings": [f"{what}: {where}" for where, what in findings.items()],
        "commit": commit if clean == "true" else f"{commit} with changes",
    }  # fmt: skip


def _finding(text: str) -> tuple[str, str]:
    """Where in skinml a process stopped, and with which words."""
    frames = re.findall(r'File ".*?/(skinml/\S+\.py)", line \d+, in (\S+)', text)
    where = " in ".join(reversed(frames[-1])) if frames else "outside skinml"
    raised = re.search(r"Uncaught Python exception: ===\n(.*)", text)
    ended = re.search(r"ERROR: libFuzzer: (.*)", text)
    told = raised or ended
    return where, told[1][:300] if told else "ended without a word"


def _told(session: dict[str, Any]) -> str:
    rate = session["executions"] / max(session["seconds"], 1)
    lines = [
        f"{session['target']}, {session['way']}: {session['executions']:,} inputs in "
        f"{duration(session['seconds'])} ({rate:,.0f} a second), "
        f"{len(session['findings'])} findings"
    ]
    return "\n".join([*lines, *(f"  {finding}" for finding in session["findings"])])


def _keep(folder: Path, session: dict[str, Any]) -> None:
    """Add a session to those in a folder, and write the table of all of them."""
    from benchmarks.fuzz.targets import TARGETS
    from benchmarks.harness import table

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "sessions.jsonl"
    with path.open("a") as file:
        file.write(json.dumps(session) + "\n")
    by_target: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in path.read_text().splitlines():
        by_target[json.loads(line)["target"]].append(json.loads(line))
    rows = []
    for name, target in TARGETS.items():
        own = by_target.get(name, [])
        spent = {way: sum(s["seconds"] for s in own if s["way"] == way) for way in WAYS}
        rows.append([
            target.what,
            *(f"{spent[way] / 60:.1f}" for way in WAYS),
            f"{sum(s['executions'] for s in own):,}",
            f"{max((s['branches'] for s in own), default=0):,}",
            f"{sum(len(s['findings']) for s in own)}",
            f"{len(own[-1]['findings']) + len(own[-2]['findings'])}" if len(own) > 1 else "",
        ])  # fmt: skip
    heading = ["read", *(f"min, {way}" for way in WAYS), "inputs", "branches", "findings", "last"]
    (folder / "result.md").write_text(table(heading, rows) + "\n")


if __name__ == "__main__":
    sys.exit(run_command(main))
