"""Progress of long work: a bar on a terminal, and times as a person reads them."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from skinml.base.errors import shown, styled

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderResult

# Seconds until a person is told what is waited for.
WAIT_IS_TOLD = 3.0


def make_console(stream: TextIO, **options: Any) -> "Console":
    """A console of rich's on a stream: its own colours and movements, but none within a text.

    `options` are those of `rich.console.Console`.
    """
    from rich.console import Console, RenderHook
    from rich.segment import Segment

    class Visible:
        """What something looks like, with control characters in its texts made visible."""

        def __init__(self, looks: "ConsoleRenderable") -> None:
            self._looks = looks

        def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
            for segment in console.render(self._looks, options):
                own = segment.control is not None
                yield segment if own else Segment(shown(segment.text), segment.style)

    class Hook(RenderHook):
        def process_renderables(
            self, renderables: "list[ConsoleRenderable]"
        ) -> "list[ConsoleRenderable]":
            return [Visible(looks) for looks in renderables]

    console = Console(file=styled(stream), **options)
    console.push_render_hook(Hook())
    return console


def duration(seconds: float | None) -> str:
    """A time for a person: "40 s", "12 min", "1 h 05", "2 d 7 h"; empty where there is none."""
    if seconds is None:
        return ""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d}"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


class Advance(Protocol):
    """Report progress: `steps` more are done; `text`, where given, replaces the note beside."""

    def __call__(self, steps: int = 1, text: str | None = None) -> None: ...


@contextmanager
def status_line(text: str) -> Iterator[None]:
    """Show on stderr what is being done, while it is; nothing where that is no terminal."""
    if not sys.stderr.isatty():
        yield
        return

    from rich.text import Text

    with make_console(sys.stderr).status(Text(text)):
        yield


@contextmanager
def progress_bar(description: str, total: int, in_bytes: bool = False) -> Iterator[Advance]:
    """Show a bar with count, time left and a note on stderr; nothing where that is no terminal.

    With `in_bytes` a step is a byte: sizes and the rate are shown.
    """
    if not sys.stderr.isatty():

        def silent(steps: int = 1, text: str | None = None) -> None:
            """Nobody is watching."""

        yield silent
        return

    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    # Sizes and rates need room, on 80 columns, that the bar gives up.
    sizes = BarColumn(10), DownloadColumn(), TransferSpeedColumn()
    columns = (
        TextColumn("{task.description}", markup=False),
        *(sizes if in_bytes else (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}", markup=False),
    )
    # A speed estimate over ten minutes: a step's seconds vary less than its epoch's ends do.
    # A network's rate is another every minute.
    period = 60 if in_bytes else 600
    console = make_console(sys.stderr)
    with Progress(*columns, console=console, speed_estimate_period=period) as progress:
        task = progress.add_task(description, total=total, text="")

        def advance(steps: int = 1, text: str | None = None) -> None:
            progress.update(task, advance=steps)
            if text is not None:
                progress.update(task, text=text)

        yield advance
