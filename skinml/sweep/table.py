"""A sweep as a person sees it: live on a terminal, line by line in a log, as a table at the end."""

import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from skinml.base.progress import duration, make_console
from skinml.base.text import markdown_cell
from skinml.sweep.cells import AXES, CellState, sweep_left

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

_STYLES = {
    "waiting": "dim",
    "running": "bold cyan",
    "done": "green",
    "done before": "green",
    "failed": "bold red",
    "stopped": "yellow",
}

# In a sweep's line, beside those that are done.
SHOWN = ("running", "queued", "failed", "stopped")

Show = Callable[[Sequence[CellState]], None]


def stage(state: CellState) -> str:
    """What a running cell is doing, as its folder tells: the step and its epochs done of all."""
    config = state.cell.config.resolved()
    if state.queued:
        return "queued"
    if state.waits:
        return "waiting for its last process to end"
    if state.row is None:
        if not state.begun:
            return "starting"
        return "computing features" if config.epochs_frozen else "first epoch"
    epoch = int(state.row["epoch"])
    if epoch >= state.cell.epochs:
        return "testing, logging"
    # The epoch after this one, which may be the first of the other step.
    step = "frozen" if epoch < int(config.epochs_frozen) else "fine-tuning"
    return f"{step} {epoch}/{state.cell.epochs}"


def words(state: CellState) -> str:
    """The state of a cell and, where it failed, the reason."""
    if state.status == "running":
        return f"{stage(state)} on {state.host}" if state.host else stage(state)
    if state.status == "waiting" and state.losses:
        often = "once" if state.losses == 1 else f"{state.losses} times"
        return f"waiting (lost {often}: {state.reason})"
    if state.status == "waiting":
        return f"waiting (failed before: {state.reason})" if state.reason else "waiting"
    return f"{state.status}: {state.reason}" if state.reason else state.status


def summary(states: Sequence[CellState], jobs: int) -> str:
    """The whole sweep in a line: how many are done and failed, and the time left."""
    counts = Counter("queued" if state.queued else state.status for state in states)
    parts = [f"{counts['done'] + counts['done before']} of {len(states)} done"]
    if counts["done before"]:
        parts[0] += f" ({counts['done before']} before)"
    parts += [f"{counts[name]} {name}" for name in SHOWN if counts[name]]
    left = sweep_left(states, jobs)
    if left and (counts["waiting"] or counts["queued"] or counts["running"]):
        parts.append(f"about {duration(left)} left")
    return ", ".join(parts)


def varied(states: Sequence[CellState]) -> list[str]:
    """The axes that tell the cells apart: model and batch size, and seeds where there are two."""
    return [
        name
        for name in AXES
        if name in ("model", "batch_size")
        or len({getattr(state.cell.config, name) for state in states}) > 1
    ]


def in_view(states: Sequence[CellState], room: int) -> list[CellState]:
    """The cells to show where not all fit: running, then failed, next, done last; in order."""
    order = {"running": 0, "failed": 1, "stopped": 1, "waiting": 2}
    # The last ones that are done, the next ones that wait.
    ranked = sorted(
        range(len(states)),
        key=lambda i: (order.get(states[i].status, 3), -i if states[i].is_done else i),
    )
    return [states[i] for i in sorted(ranked[: max(room, 1)])]


def table(
    states: Sequence[CellState], axes: Sequence[str], width: int, live: bool = False
) -> "Table":
    """The cells as a table for rich, `width` characters wide at most.

    `live` tells of each cell how far it is in a line that is cut; else a line says it all.
    """
    from rich.table import Table
    from rich.text import Text

    gap = 1 if width < 90 else 2
    result = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="dim")
    for name in axes:
        title = {"batch_size": "batch", "split_seed": "split"}.get(name, name)
        result.add_column(title, justify="left" if name == "model" else "right", no_wrap=True)
    numbers = {"test acc": 8, "test AUC": 8, "time": 7}
    numbers = {"val AUC": 7, **numbers, "left": 7} if live else {**numbers, "run": 8}
    # What the others need is theirs: a long reason is cut (live) or folded instead.
    longest = max(len(state.cell.config.model) for state in states)
    others = longest + 5 * len(axes[1:]) + sum(numbers.values())
    room = max(18, width - others - gap * (len(axes) + len(numbers)))
    result.add_column(
        "state", no_wrap=live, overflow="ellipsis" if live else "fold", max_width=room
    )
    for title in numbers:
        result.add_column(title, justify="left" if title == "run" else "right", no_wrap=True)
    for state in states:
        running = state.status == "running"
        now = float(state.row["val_auc_macro"]) if running and state.row else None
        left = state.left if running else None
        cells = [_number(state.accuracy), _number(state.auc), duration(state.seconds or None)]
        cells = [_number(now), *cells, duration(left)] if live else [*cells, state.run_id[:8]]
        dim = "dim" if state.status in ("waiting", "done before") else ""
        result.add_row(
            *(Text(str(getattr(state.cell.config, name)), style=dim) for name in axes),
            # As text: a reason may hold what rich takes for markup.
            Text(words(state), style=_STYLES[state.status]),
            *(Text(cell, style=dim) for cell in cells),
        )
    return result


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def picture(states: Sequence[CellState], jobs: int, width: int, height: int) -> "Group":
    """The live table with the sweep's line below it, in `width` columns and `height` lines."""
    from rich.console import Group
    from rich.text import Text

    shown = in_view(states, height - 4)
    rows: list[Table | Text] = [table(shown, varied(states), width, live=True)]
    if hidden := len(states) - len(shown):
        rows.append(Text(f"… and {hidden} more cells", style="dim"))
    return Group(*rows, Text(""), Text(summary(states, jobs), style="bold"))


@contextmanager
def display(jobs: int) -> Iterator[Show]:
    """Show the cells on stderr: a live table on a terminal, else a line for each new state."""
    if not sys.stderr.isatty():
        yield _lines(jobs)
        return

    from rich.live import Live

    console = make_console(sys.stderr)
    # Transient: the closing table comes in its place.
    with Live(console=console, redirect_stdout=False, transient=True) as live:
        told: set[str] = set()

        def show(states: Sequence[CellState]) -> None:
            for state in states:
                if state.status == "failed" and state.cell.name not in told:
                    # Above the table, where it stays and is not cut.
                    told.add(state.cell.name)
                    print(f"skinml: {failure(state)}", file=sys.stderr)
            live.update(picture(states, jobs, console.width, console.height))

        yield show


def failure(state: CellState) -> str:
    """What failed, why, and where to read more."""
    return f"{state.cell.name} failed: {state.reason}; its log: {state.log}"


def _lines(jobs: int) -> Show:
    known: dict[str, str] = {}

    def show(states: Sequence[CellState]) -> None:
        for state in states:
            status = "queued" if state.queued else state.status
            if status in ("queued", "waiting"):
                known.pop(state.cell.name, None)
                continue
            if status == known.get(state.cell.name) or (status == "running" and not state.log):
                continue
            known[state.cell.name] = status
            line = f"{state.cell.name} {_change(state)} [{summary(states, jobs)}]"
            print(f"skinml: {line}", file=sys.stderr, flush=True)

    return show


def _change(state: CellState) -> str:
    if state.status == "failed":
        return failure(state).removeprefix(state.cell.name + " ")
    if state.status == "running":
        place = f" on {state.host}" if state.host else ""
        return f"started{place}; its log: {state.log}"
    facts = [f"run {state.run_id}"] if state.run_id else []
    if state.is_done:
        facts += [f"test accuracy {_number(state.accuracy)}", f"macro AUC {_number(state.auc)}"]
    return "; ".join([words(state), *facts, duration(state.seconds)])


def print_closing(states: Sequence[CellState]) -> None:
    """The cells as a table on stdout, as wide as it needs where that is no terminal."""
    console = make_console(sys.stdout, width=None if sys.stdout.isatty() else 160)
    console.print(table(states, varied(states), console.width))


def markdown(states: Sequence[CellState], jobs: int, link: Callable[[str], str], limit: int) -> str:
    """The sweep as a note in MLflow, at most `limit` characters: a line and a table of cells."""
    axes = varied(states)
    columns = [name.replace("_", " ") for name in axes]
    columns += ["state", "test accuracy", "test macro AUC", "time", "run"]
    lines = [f"{summary(states, jobs)}.", "", "| " + " | ".join(columns) + " |"]
    lines.append("| " + " | ".join("---" for _ in columns) + " |")
    used = sum(len(line) + 1 for line in lines)
    for number, state in enumerate(states):
        row = [markdown_cell(str(getattr(state.cell.config, name))) for name in axes]
        # Not how far a running cell is: the page is written when a cell ends, not between.
        running = state.status == "running"
        row.append("running" if running else markdown_cell(words(state)[:200]))
        row += ["" if v is None else f"{v:.4f}" for v in (state.accuracy, state.auc)]
        row.append(duration(state.seconds or None))
        row.append(link(state.run_id) if state.run_id else "")
        line = "| " + " | ".join(row) + " |"
        used += len(line) + 1
        if used > limit - 40:
            lines += ["", f"… and {len(states) - number} more cells."]
            break
        lines.append(line)
    return "\n".join([*lines, ""])


def closing_words(
    states: Sequence[CellState], jobs: int, signum: int, run_id: str, go_on: str, compare: str
) -> list[str]:
    """What came of a sweep, what failed, and the commands that go on with it and compare it."""
    lines = [summary(states, jobs)]
    if signum:
        lines.append(f"stopped by {signal.Signals(signum).name}; the run {run_id} is closed")
    for state in states:
        if state.status == "failed":
            lines.append(failure(state))
    if not all(state.is_done for state in states):
        mend = "" if signum else "mend the cause, then "
        lines.append(f"{mend}go on {go_on}")
    if any(state.is_done for state in states):
        lines.append(f"compare the finished runs with: {compare}")
    return lines
