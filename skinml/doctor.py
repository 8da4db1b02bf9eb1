"""What was left for dead: runs, journals, processes: `python -m skinml.doctor`, `--fix` mends it.

It looks, waits for a term of the lease where something is undecided, looks again, and says. What
lives is never closed; what is closed though it lives opens itself at its next renewal. One file, so
that each kind of finding is read as a whole: what is found, why, and what helps.
"""

import argparse
import getpass
import json
import math
import os
import platform
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skinml.base.errors import UserError, first_line, run_command
from skinml.base.files import at_home, check_inside
from skinml.base.locks import is_locked
from skinml.base.processes import end_process, process_lives, process_name
from skinml.base.progress import duration, make_console
from skinml.config import Config, Parser
from skinml.store.access import ask, check_store, store_is_needed, tracking_uri
from skinml.store.lease import (
    LEASE,
    PROCESS,
    clock_stands,
    close_dead,
    is_open,
    lease_term,
    open_runs,
    shows_life,
    sign,
    watch,
)
from skinml.store.read import experiment_id, experiment_ids
from skinml.store.runs import GONE, JOURNAL
from skinml.store.sweeps import is_superseded
from skinml.sync import sync
from skinml.tracking.acknowledged import Acknowledged
from skinml.tracking.folder import JOURNAL as JOURNAL_FILE
from skinml.tracking.folder import LOCK, RUN, STATE, RunFolder
from skinml.tracking.journal import is_written, read_journal
from skinml.tracking.record import PARENT_RUN_VARIABLE, header, server_digest
from skinml.training.checkpoint import has_checkpoint

if TYPE_CHECKING:
    import psutil
    from rich.table import Table

    from skinml.store.lease import Run

# Exit code where something is wrong that was not mended.
FOUND = 1

# What may be found.
DEAD = "dead run"
STUCK = "stuck run"
NO_LEASE = "run without lease"
UNSENT = "unsent journal"
ORPHAN = "orphaned process"
CHECKPOINT = "checkpoint"
LEFT_OUT = "models left out"

# What came of one that was dead a moment ago.
LEFT = "left: it has moved, or has ended"

# Seconds that a process has to end when asked to, and that a server has to take a journal.
PATIENCE = 5.0
SEND_LIMIT = 30.0

# Parameters that only `mlflow run` of one of our entry points has noted.
_ENTRY_POINTS = ({"model", "epochs_frozen", "near_duplicates"}, {"models", "batch_sizes", "rerun"})


@dataclass
class Finding:
    """Something that was left behind: what, why it is taken for that, and what helps.

    `act` mends it and returns what was done; None where that is a person's to decide.
    """

    kind: str
    name: str
    """The id of a run or process, the path of a folder."""
    why: str
    remedy: str
    act: Callable[[], str] | None = None
    label: str = ""
    outcome: str = ""
    mended: bool = False

    @property
    def is_wrong(self) -> bool:
        """Whether it is something to mend, not just to know of."""
        return not self.mended and self.act is not None

    def as_dict(self) -> dict[str, Any]:
        names = ("kind", "name", "label", "why", "remedy", "outcome", "mended")
        return {name: getattr(self, name) for name in names}


def mend(finding: Finding) -> None:
    """Mend what was found, if that can be done; its outcome says what came of it."""
    if finding.act is None:
        return
    try:
        finding.outcome = finding.act()
        finding.mended = True
    except Exception as error:  # Whatever it is, the next one is to be mended.
        finding.outcome = f"failed: {first_line(error)[:300]}"


def run_folders(parent: Path) -> Iterator["Left"]:
    """The folders of runs with a journal, however deep below a folder."""
    for path, names, files in os.walk(parent):
        if RUN not in files:
            continue
        names.clear()
        if JOURNAL_FILE in files:
            try:
                # A pipe in its place would be waited for.
                check_inside(Path(path), JOURNAL_FILE)
                left = Left.of(RunFolder(Path(path)))
            except (OSError, UserError) as error:
                why = error.strerror if isinstance(error, OSError) else error
                print(f"skinml: warning: {path}: {why}: left out", file=sys.stderr)
                continue
            yield left


@dataclass
class Left:
    """A run's folder, as far as it says what is left of its run."""

    folder: RunFolder
    journal: str
    """The id of its journal, empty where that says none."""
    state: Acknowledged

    @classmethod
    def of(cls, folder: RunFolder) -> "Left":
        first = header(folder)
        journal = str(first.fields["journal"]) if first else ""
        return cls(folder, journal, Acknowledged.load(folder.path / STATE))

    @property
    def lives(self) -> bool:
        """Whether a process of this machine writes it."""
        written = is_written(self.folder.journal)
        if written is not None:
            return written
        runs = [record for record in read_journal(self.folder.journal) if record.kind == "run"]
        return bool(runs) and process_lives(str(runs[-1].fields.get("process"))) is not False

    @property
    def is_sent_now(self) -> bool:
        """Whether a process of this machine sends it."""
        lock = self.folder.path / LOCK
        return lock.exists() and bool(is_locked(lock))

    @property
    def unsent(self) -> int:
        """How many records no server has acknowledged."""
        state = Acknowledged.load(self.folder.path / STATE)
        return sum(1 for _ in read_journal(self.folder.journal, state.offset, state.sequence))

    @property
    def elsewhere(self) -> bool:
        """Whether it belongs to another server than the one that is looked at."""
        return self.state.server not in ("", server_digest(tracking_uri()))

    def is_open_run(self) -> bool:
        """Whether the run that it was sent to has not ended: it may go on on another machine."""
        return bool(self.state.run_id) and not self.elsewhere and is_open(self.state.run_id)

    def is_superseded(self) -> bool:
        """Whether another attempt at its cell of a sweep has taken the place of its run."""
        return bool(self.state.run_id) and not self.elsewhere and is_superseded(self.state.run_id)

    def send(self) -> str:
        return f"sent: run {sync(self.folder.path, SEND_LIMIT)}"


def examine(
    output_dir: Path,
    look: "Callable[[], Sequence[Run]]",
    older_than: float | None = None,
) -> list[Finding]:
    """All that was left behind of the open runs that `look` gives, and of folders and processes.

    It takes a term where something can be told by its lease alone, or may be about to end. Nothing
    is changed. `older_than` is in seconds: runs without a lease that are open for longer, and in
    which nothing moves for a term, may be closed.
    """
    output_dir = at_home(output_dir, "--output-dir ")
    runs = _by_id(look)
    left = list(run_folders(output_dir))
    folders = {item.journal: item for item in left if item.journal}
    here = _Here()
    gone, watched, unknown = _sorted_out(runs, folders, here, older_than or math.inf)
    orphans = {orphan.name: orphan for orphan in _orphans(output_dir.resolve())}

    def undecided() -> bool:
        """Look again: forget what moved, what ended, and what is no orphan any more."""
        now = _by_id(look)
        for group in (runs, gone, watched, unknown):
            for run_id in group.keys() - now.keys():
                del group[run_id]
        for run_id, run in list(watched.items()):
            if sign(now[run_id]) != sign(run):
                del watched[run_id]
        for name in list(orphans):
            if process_lives(name) is False:
                del orphans[name]
        return bool(orphans or watched)

    old = [run_id for run_id, run in watched.items() if not _tells(run, here)]
    if orphans or watched:
        with clock_stands() if old else nullcontext():
            watch(undecided, "looking for signs of life")
    dead = gone | {run_id: run for run_id, run in watched.items() if run_id not in old}
    findings = [orphan.finding() for orphan in orphans.values()]
    findings += [_dead_run(run, run_id in watched, folders) for run_id, run in dead.items()]
    for run_id, run in ({k: watched[k] for k in old if k in watched} | unknown).items():
        findings.append(_leaseless(run, run_id in watched))
    journals = {run_id: run.data.tags.get(JOURNAL) for run_id, run in runs.items()}
    closed = {journals[run_id] for run_id in dead}
    # The folder may be a copy, and its run go on elsewhere.
    open_ones = set(journals.values()) - closed
    held = {orphan.folder for orphan in orphans.values()}
    for item in left:
        if item.journal in open_ones or item.lives:
            continue
        if item.folder.path.resolve() in held or not item.is_sent_now:
            findings += _in_folder(item, item.journal in closed)
    return findings


def _sorted_out(
    runs: "dict[str, Run]", folders: dict[str, Left], here: "_Here", old: float
) -> "tuple[dict[str, Run], dict[str, Run], dict[str, Run]]":
    """Open runs by their ids: those that are gone, those to watch for a term, and the unknown.

    Those that are known to live are none of these.
    """
    gone: dict[str, Run] = {}
    watched: dict[str, Run] = {}
    unknown: dict[str, Run] = {}
    for run_id, run in runs.items():
        lives = _lives(run, folders, here)
        if lives is False:
            gone[run_id] = run
        elif lives is None:
            (watched if _tells(run, here) or _age(run) > old else unknown)[run_id] = run
    return gone, watched, unknown


def _by_id(look: "Callable[[], Sequence[Run]]") -> "dict[str, Run]":
    return {run.info.run_id: run for run in look()}


# Runs


def _lives(run: "Run", folders: dict[str, Left], here: "_Here") -> bool | None:
    """Whether a run is certainly alive, or certainly not, by what this machine shows."""
    tags = run.data.tags
    item = folders.get(tags.get(JOURNAL, ""))
    if item and is_written(item.folder.journal):
        return True
    lives = process_lives(tags.get(PROCESS, ""))
    return True if lives is None and run.info.run_id in here.run_ids else lives


def _tells(run: "Run", here: "_Here") -> bool:
    """Whether a term without a sign of life says that a run is dead."""
    return LEASE in run.data.tags or _never_began(run, here)


def _never_began(run: "Run", here: "_Here") -> bool:
    """Whether `mlflow run` made a run of ours on this machine, and is gone.

    It makes the run before the environment, and notes no host: one is sure of the machine where
    the store is a file on it, and of what runs there for one's own user.
    """
    tags = run.data.tags
    return (
        tracking_uri().startswith("sqlite:")
        and not {PROCESS, JOURNAL, LEASE} & tags.keys()
        and tags.get("mlflow.source.type") == "PROJECT"
        and any(names <= run.data.params.keys() for names in _ENTRY_POINTS)
        and tags.get("mlflow.user") == getpass.getuser()
        and not here.mlflow_runs
    )


class _Here:
    """What runs on this machine, as far as `mlflow run` has to do with it; looked up when asked."""

    @cached_property
    def run_ids(self) -> set[str]:
        """The runs that it gave to processes."""
        import psutil

        found = set()
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                found.add(process.environ().get("MLFLOW_RUN_ID", ""))
        return found

    @cached_property
    def mlflow_runs(self) -> bool:
        """Whether there is one at all: before it starts a process nothing tells of which run."""
        import psutil

        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or []
            before = words[: words.index("run")] if "run" in words else []
            if any(re.fullmatch(r"mlflow(\.exe|\.cli)?", Path(word).name) for word in before):
                return True
        return False


def _age(run: "Run") -> float:
    """Seconds since a run began, by the clocks of two machines."""
    return time.time() - (run.info.start_time or 0) / 1000


def _dead_run(run: "Run", watched: bool, folders: dict[str, Left]) -> Finding:
    kind, why = DEAD, GONE
    if watched and LEASE in run.data.tags:
        why = f"its lease did not move for {lease_term():g} s, seen from {platform.node()}"
    elif watched:
        kind, why = STUCK, "`mlflow run` made it, and is gone; no process of it ever began"
    item = folders.get(run.data.tags.get(JOURNAL, ""))

    def close() -> str:
        if item and (item.lives or shows_life(run)):
            return LEFT
        if item and not item.elsewhere and not item.is_sent_now and item.unsent:
            # What it noted of its own end comes before what we think of it.
            with suppress(UserError):
                return item.send()
        return _close(run, why)

    return Finding(kind, run.info.run_id, why, _FIX, close, run.info.run_name or "")


def _leaseless(run: "Run", old: bool) -> Finding:
    age = _age(run)
    host = run.data.tags.get(PROCESS, "").rsplit(" ", 2)[0]
    why = f"open for {duration(age)}, without a lease"
    if host and host != platform.node():
        why += f", on {host}"
    elif run.data.tags.get("mlflow.source.type") == "PROJECT":
        why += ", made by `mlflow run`"
    act = partial(_close, run, why) if old else None
    remedy = _FIX if old else f"{_FIX} --older-than TIME, if it is dead"
    return Finding(NO_LEASE, run.info.run_id, why, remedy, act, run.info.run_name or "")


def _close(run: "Run", why: str) -> str:
    return "closed as KILLED" if close_dead(run, why) else LEFT


# Folders


def _in_folder(item: Left, closed: bool) -> list[Finding]:
    """What is left of a folder that nobody writes; it is sent with its run where that is `closed`.

    Nothing where the run goes on elsewhere, in an experiment that is not looked at, nor where
    another has taken its place: nothing more is sent to it, and nobody goes on with it.
    """
    path, found = item.folder.path, list[Finding]()
    typed = shlex.quote(str(path))
    if not closed and item.is_open_run():
        return found
    if not closed and (count := item.unsent):
        why = f"{count} records that MLflow lacks"
        remedy = f"python -m skinml.sync {typed}"
        if item.elsewhere:
            why = f"{count} records that another server lacks than this one"
            remedy += " with its MLFLOW_TRACKING_URI"
        act = None if item.elsewhere else item.send
        found.append(Finding(UNSENT, str(path), why, remedy, act))
    elif item.state.left_out:
        # For a person to send: nothing here says that its server takes them by now.
        remedy = f"python -m skinml.sync {typed}"
        found.append(Finding(LEFT_OUT, str(path), f"not in MLflow: {item.state.left_out}", remedy))
    if not item.folder.finished and has_checkpoint(path):
        why = "not finished, and can be gone on with"
        again = f"python -m skinml.run --resume {typed}"
        found.append(Finding(CHECKPOINT, str(path), why, again))
    # Asked last: most folders have nothing left.
    return [] if found and item.is_superseded() else found


# Processes


@dataclass
class _Orphan:
    """A process whose run or sweep is gone, by its name; the folder that it sends, if any."""

    name: str
    why: str
    folder: Path | None = None

    def finding(self) -> Finding:
        return Finding(ORPHAN, self.name.rsplit(" ", 2)[1], self.why, _FIX, self.end)

    def end(self) -> str:
        end_process(self.name, PATIENCE)
        return "ended"


def _orphans(output_dir: Path) -> Iterator[_Orphan]:
    """Processes of one's own whose run or sweep is gone, below a folder; they may be about to end.

    By command line and environment, and by what they hold: a name alone is anybody's.
    """
    import psutil

    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        # Whatever runs on this machine: `bash -m` is two words.
        if words[1:2] != ["-m"] or len(words) < 3:
            continue
        with suppress(psutil.Error, OSError, ValueError):
            if hasattr(os, "getuid") and process.uids().real != os.getuid():
                continue
            name = process_name(process.pid)
            if words[2] in ("skinml.store.forwarder", "skinml.forward") and len(words) == 4:
                folder = RunFolder(Path(words[3]))
                if not folder.path.is_relative_to(output_dir):
                    continue
                if not folder.journal.exists() or not Left.of(folder).lives:
                    why = f"the forwarder of {folder.path}, whose process is gone"
                    yield _Orphan(name, why, folder.path)
            elif words[2] == "skinml.run" and "--stop-with-stdin" in words:
                values = [w.partition("=")[2] for w in words if w.startswith("--output_dir=")]
                below = Path(process.cwd(), *values[-1:]).resolve()
                if (
                    below.is_relative_to(output_dir)
                    and PARENT_RUN_VARIABLE in process.environ()
                    and not _has_starter(process)
                ):
                    yield _Orphan(name, f"a cell in {below}, whose sweep is gone")


def _has_starter(process: "psutil.Process") -> bool:
    """Whether another process holds an end of the pipe that is a process's stdin; if in doubt so.

    A cell that has lost its sweep ends by itself, unless it is stopped or hangs.
    """
    import psutil

    try:
        stdin = Path(f"/proc/{process.pid}/fd/0").readlink()
    except OSError:
        return True
    if not str(stdin).startswith("pipe:"):
        return True
    for other in psutil.process_iter():
        if other.pid == process.pid:
            continue
        with suppress(OSError):
            for path in Path(f"/proc/{other.pid}/fd").iterdir():
                with suppress(OSError):
                    if path.readlink() == stdin:
                        return True
    return False


# What a person sees

_COMMAND = "python -m skinml.doctor"
_FIX = f"{_COMMAND} --fix"

_STYLES = {DEAD: "bold red", STUCK: "bold red", ORPHAN: "yellow", UNSENT: "yellow"}


def _table(findings: Sequence[Finding]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    result = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("found", "which", "why, and what helps"):
        result.add_column(title, overflow="fold", no_wrap=title == "found")
    for found in findings:
        words = f"{found.why}: {found.outcome}" if found.outcome else found.why
        if not found.outcome and found.remedy != _FIX:
            words += f"\n{found.remedy}"
        # As text: a path or a reason may hold what rich takes for markup.
        name = Text(f"{found.name} {found.label}".strip())
        result.add_row(Text(found.kind, style=_STYLES.get(found.kind, "")), name, Text(words))
    return result


def _summary(findings: Sequence[Finding], fixed: bool) -> str:
    wrong = sum(found.is_wrong for found in findings)
    mended = sum(found.mended for found in findings)
    parts = [f"{mended} mended"] if mended else []
    if wrong:
        parts.append(f"{wrong} not mended" if fixed else f"{wrong} to mend with: {_FIX}")
    if others := len(findings) - wrong - mended:
        parts.append(f"{others} to know of")
    return ", ".join(parts) or "nothing was left behind"


def _duration_option(text: str) -> float:
    """Seconds, of "2d", "36h", "90m" or "45s"."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([dhms])", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a time such as 2d, 36h, 90m, 45s")
    return float(found[1]) * {"d": 86400, "h": 3600, "m": 60, "s": 1}[found[2]]


def parser() -> Parser:
    result = Parser(
        prog=_COMMAND,
        description="List what was left for dead: runs that no process goes on with, journals that "
        "MLflow lacks, orphaned processes, checkpoints to go on from. Where a run is another "
        "machine's, its lease is watched for a term (90 s).",
        epilog=f"exit code: 0 nothing to mend, or all of it mended; {FOUND} something to mend; 2 a "
        "mistake, or no answer from MLflow",
    )
    result.add_argument(
        "--fix",
        action="store_true",
        help="close dead runs with the reason, send journals, end orphaned processes",
    )
    result.add_argument(
        "--older-than",
        type=_duration_option,
        metavar="TIME",
        help="with --fix also close runs without a lease that are open for longer, such as 2d or "
        "36h, and in which nothing moves for a term; they may be other programs'",
    )
    result.add_argument("--experiment", metavar="NAME", help="that one alone (default: all)")
    result.add_argument(
        "--output-dir",
        type=Path,
        default=Path(Config().output_dir),
        metavar="FOLDER",
        help="where the folders of runs lie (default: %(default)s)",
    )
    result.add_argument("--json", action="store_true", help="as JSON, for machines")
    return result


def main(argv: list[str] | None = None) -> int:
    options = parser().parse_args(argv)
    lease_term()  # A mistake in it is told before anything is looked at.
    check_store(tracking_uri())
    with store_is_needed():
        experiments = (
            [experiment_id(options.experiment)] if options.experiment else experiment_ids()
        )
        look = partial(ask, partial(open_runs, experiments))
        findings = examine(options.output_dir, look, options.older_than)
    if options.fix:
        for found in findings:
            mend(found)
    if options.json:
        print(json.dumps([found.as_dict() for found in findings], indent=2))
    else:
        if findings:
            width = None if sys.stdout.isatty() else 200
            console = make_console(sys.stdout, width=width)
            console.print(_table(findings))
        print(_summary(findings, options.fix))
    return FOUND if any(found.is_wrong for found in findings) else 0


if __name__ == "__main__":
    sys.exit(run_command(main))
