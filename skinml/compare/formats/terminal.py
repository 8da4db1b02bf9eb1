"""A report for a terminal of any width."""

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from skinml.base.progress import make_console
from skinml.compare.document import (
    Block,
    Cell,
    Code,
    Details,
    Document,
    Heading,
    Items,
    Link,
    Picture,
    Table,
    Text,
    unfolded,
)
from skinml.data.isic2017 import NOTICE

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text as RichText


def to_terminal(document: Document, width: int | None = None, colour: bool | None = None) -> str:
    """The report for a terminal of `width` columns, the real one's by default."""
    from rich.text import Text as RichText

    out = io.StringIO()
    console = make_console(
        out, width=width, force_terminal=bool(colour), highlight=False, soft_wrap=False
    )
    console.print(RichText(document.title), style="bold")
    _print(document.blocks, console)
    console.print(RichText(NOTICE), style="dim")
    return re.sub(r"\n{3,}", "\n\n", out.getvalue())


def _print(blocks: Sequence[Block], console: "Console") -> None:
    from rich.table import Table as RichTable
    from rich.text import Text as RichText

    for block in blocks:
        match block:
            case Heading(text):
                console.print()
                console.print(RichText(text), style="bold cyan")
            case Text(text, strong):
                console.print(RichText(text), style="bold" if strong else "")
            case Items(items):
                for item in items:
                    line = RichTable.grid(padding=(0, 1))
                    line.add_row("•", RichText(item))
                    console.print(line)
            case Code(commands):
                for command in commands:
                    # Not wrapped: a command is there to be copied.
                    console.print(RichText(f"  {command}"), soft_wrap=True, style="green")
            case Picture():
                continue
            case Link(_, text, note):
                console.print(RichText(f"{text}: {note}."))
            case Details():
                console.print()
                _print(unfolded(block), console)
            case Table():
                console.print()
                console.print(RichText(block.title, style="italic"))
                for chosen in _columns_that_fit(block, console.width):
                    console.print(_terminal_table(block, chosen, console.width))
                    console.print()


def _terminal_table(table: Table, chosen: list[int], width: int) -> "RichTable":
    """Some columns of a table, `_GAP` blanks apart."""
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text as RichText

    # The box puts the other blank between two columns.
    made = RichTable(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, _GAP - 1, 0, 0)
    )
    for number, room in zip(chosen, _widths(table, chosen, width), strict=True):
        side: Literal["left", "right"] = "left" if number < table.labels else "right"
        made.add_column(RichText(table.columns[number]), justify=side, width=room)
    for row in table.rows:
        made.add_row(*(_terminal_cell(row[number]) for number in chosen))
    return made


_GAP = 2


def _widths(table: Table, chosen: list[int], width: int) -> list[int]:
    """How wide columns are: what must not be broken fits, then lines of cells, then headings."""
    widths = [_least_width(table, number) for number in chosen]
    spare = width - sum(widths) - _GAP * (len(chosen) - 1)
    lines = [[part for row in table.rows for part in (row[n].text, row[n].note)] for n in chosen]
    headings = [[table.columns[n]] for n in chosen]
    for texts in (lines, headings):
        for place, own in enumerate(texts):
            more = max(map(len, own), default=0) - widths[place]
            # Less than all of it would be of no use.
            if 0 < more <= spare:
                widths[place] += more
                spare -= more
    return widths


def _least_width(table: Table, number: int) -> int:
    """The letters of a column's longest piece that must not be broken.

    That is a word of a heading or a figure; a whole line of what names the row; and of a note an
    interval, or what follows it from its ±.
    """
    cells = [row[number] for row in table.rows]
    pieces = table.columns[number].split()
    if number < table.labels:
        pieces += [part for cell in cells for part in (cell.text, cell.note)]
    else:
        pieces += [word for cell in cells for word in cell.text.split()]
        pieces += [piece for cell in cells for piece in re.split(" (?=±)", cell.note)]
    return max(map(len, pieces), default=1)


def _columns_that_fit(table: Table, width: int) -> list[list[int]]:
    """The columns of a table as one or more that fit a terminal, each with the row's names.

    Where they do not all fit, the parts are made as equal in width as their number allows.
    """
    widths = [_least_width(table, number) + _GAP for number in range(len(table.columns))]
    parts = _parts(table, widths, width + _GAP)
    for room in range(width + _GAP - 1, 0, -1):
        narrower = _parts(table, widths, room)
        if len(narrower) > len(parts):
            break
        parts = narrower
    return parts


def _parts(table: Table, widths: list[int], room: int) -> list[list[int]]:
    """Columns in parts that are at most `room` wide, or have no less to them: their numbers."""
    names, own = list(range(table.labels)), sum(widths[: table.labels])
    units: list[list[int]] = []
    for number in range(table.labels, len(widths)):
        if table.columns.count(table.columns[number]) > 1 and units:
            units[-1].append(number)
        else:
            units.append([number])
    parts: list[list[int]] = [[]]
    taken = own
    for unit in units:
        wide = sum(widths[number] for number in unit)
        if parts[-1] and taken + wide > room:
            parts.append([])
            taken = own
        parts[-1] += unit
        taken += wide
    return [names + part for part in parts]


def _terminal_cell(cell: Cell) -> "RichText":
    from rich.text import Text as Styled

    text = Styled(cell.text, style="bold green" if cell.bold else "")
    if cell.note:
        text.append(f"\n{cell.note}", style="dim not bold default")
    return text
