"""A report as a list of blocks, and how each format writes them.

The blocks know nothing of what they say; `report.py` makes them from a comparison. Terminal,
Markdown, LaTeX and HTML each render the same blocks, so that no format can say anything else than
the others.
"""

import base64
import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from skinml.data.isic2017 import NOTICE
from skinml.progress import make_console

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text as RichText


@dataclass(frozen=True)
class Cell:
    """One cell of a table: a value, below it what is said about it, whether it is the best."""

    text: str
    note: str = ""
    bold: bool = False


@dataclass(frozen=True)
class Table:
    """A table: `columns` are headings, the first `labels` columns name the row.

    A heading that occurs more than once, such as "paper", is of what the column before it says,
    and stays with it.
    """

    title: str
    columns: tuple[str, ...]
    rows: list[list[Cell]]
    labels: int = 1


@dataclass(frozen=True)
class Heading:
    """A section's heading."""

    text: str


@dataclass(frozen=True)
class Text:
    """A paragraph; `strong` for what a hurried reader must see."""

    text: str
    strong: bool = False


@dataclass(frozen=True)
class Items:
    """A list of sentences."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Code:
    """Commands to copy."""

    lines: tuple[str, ...]


@dataclass(frozen=True)
class Picture:
    """A figure that lies beside the report: the stem of its file and what it shows."""

    name: str
    caption: str


@dataclass(frozen=True)
class Details:
    """Blocks below a summary, folded where a format can; elsewhere `instead` stands for them.

    They are always shown where `instead` is empty.
    """

    summary: str
    blocks: tuple["Block", ...]
    instead: str = ""


Block = Table | Heading | Text | Items | Code | Picture | Details


@dataclass(frozen=True)
class Document:
    """A titled list of blocks."""

    title: str
    blocks: list[Block] = field(default_factory=list)

    @property
    def sections(self) -> list[tuple[str, list[Block]]]:
        """The blocks below each heading, those before the first one below ""."""
        found: list[tuple[str, list[Block]]] = [("", [])]
        for block in self.blocks:
            if isinstance(block, Heading):
                found.append((block.text, []))
            else:
                found[-1][1].append(block)
        return found


def markdown_text(text: str) -> str:
    """Text without what Markdown takes for HTML, a link or a picture: it may be a run's own."""
    return re.sub(r"<(?=[a-zA-Z/!?])", "&lt;", text).replace("](", "]\\(")


def to_markdown(document: Document, pictures: str = "") -> str:
    """Markdown as GitHub and MLflow show it; `pictures` is the folder of the figures, if any."""
    lines = [f"# {markdown_text(document.title)}", "", *_markdown(document.blocks, pictures)]
    return "\n".join([*lines, f"> {NOTICE}", ""])


def _markdown(blocks: Sequence[Block], pictures: str) -> list[str]:
    lines: list[str] = []
    for block in blocks:
        match block:
            case Heading(text):
                lines += [f"## {markdown_text(text)}"]
            case Text(text, strong):
                plain = markdown_text(text)
                lines += [f"**{plain}**" if strong else plain]
            case Items(items):
                lines += [f"- {markdown_text(item)}" for item in items]
            case Code(commands):
                lines += ["```", *commands, "```"]
            case Picture(name, caption):
                if not pictures:
                    continue
                lines += [f"![{caption}]({pictures}/{name}.png)"]
            case Details(summary, inner):
                lines += [f"<details><summary>{html.escape(summary, quote=False)}</summary>", ""]
                lines += [*_markdown(inner, pictures), "</details>"]
            case Table(title, columns, rows, labels):
                rule = ["---"] * labels + ["---:"] * (len(columns) - labels)
                headings = [markdown_text(column) for column in columns]
                lines += [f"**{markdown_text(title)}**", "", _row(headings), _row(rule)]
                lines += [_row([_markdown_cell(cell) for cell in row]) for row in rows]
        lines.append("")
    return lines


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown_cell(cell: Cell) -> str:
    text = markdown_text(cell.text).replace("|", "\\|")
    text = f"**{text}**" if cell.bold and text else text
    note = markdown_text(cell.note)
    return f"{text}<br><sub>{note}</sub>" if cell.note else text


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--",
    "−": "$-$", "±": r"$\pm$", "×": r"$\times$", "≤": r"$\le$", "≥": r"$\ge$", "<": r"$<$",
    ">": r"$>$", "…": r"\ldots{}", "Δ": r"$\Delta$", "α": r"$\alpha$", "→": r"$\to$", "—": "---",
    '"': "''", "†": r"$\dagger$", "“": "``", "”": "''", "’": "'", "|": r"\textbar{}", "`": "'",
}  # fmt: skip


def latex_text(text: str) -> str:
    """Text with every character that LaTeX would take for its own, or cannot set, replaced."""
    known = "".join(_LATEX.get(letter, letter) for letter in text)
    return known.encode("ascii", "replace").decode("ascii")


def to_latex(document: Document, pictures: str = "") -> str:
    """A LaTeX document of the tables and sentences, which compiles as it is, without packages.

    Its `table` environments can be copied into a paper.
    """
    lines = [
        r"\documentclass[10pt]{article}",
        r"\usepackage[a4paper,landscape,margin=15mm]{geometry}",
        r"\begin{document}",
        rf"\section*{{{latex_text(document.title)}}}",
        *_latex(document.blocks),
    ]
    return "\n".join([*lines, "", latex_text(NOTICE), r"\end{document}", ""])


def _latex(blocks: Sequence[Block]) -> list[str]:
    lines: list[str] = []
    for block in blocks:
        match block:
            case Heading(text):
                lines += [rf"\subsection*{{{latex_text(text)}}}"]
            case Text(text, strong):
                lines += [rf"\textbf{{{latex_text(text)}}}" if strong else latex_text(text), ""]
            case Items(items):
                lines += [r"\begin{itemize}", *(rf"\item {latex_text(i)}" for i in items)]
                lines += [r"\end{itemize}"]
            case Code(commands):
                # Not verbatim: a command is longer than a line.
                lines += [rf"\texttt{{{latex_text(command)}}}\\" for command in commands] + [""]
            case Picture():
                continue
            case Details():
                lines += _latex(_unfolded(block))
            case Table(title, columns, rows, labels):
                lines += _latex_table(title, columns, rows, labels)
    return lines


def _unfolded(details: Details) -> list[Block]:
    """What stands for folded blocks where nothing folds."""
    if details.instead:
        return [Text(f"{details.summary} ({details.instead}).")]
    return [Text(f"{details.summary}."), *details.blocks]


def _latex_table(
    title: str, columns: tuple[str, ...], rows: list[list[Cell]], labels: int
) -> list[str]:
    layout = "l" * labels + "r" * (len(columns) - labels)
    heading = " & ".join(rf"\textbf{{{latex_text(column)}}}" for column in columns)
    body = [" & ".join(map(_latex_cell, row)) + r" \\" for row in rows]
    return [
        r"\begin{table}[ht]",
        r"\centering\scriptsize\setlength{\tabcolsep}{3pt}",
        rf"\caption{{{latex_text(title)}}}",
        rf"\begin{{tabular}}{{{layout}}}",
        r"\hline",
        heading + r" \\",
        r"\hline",
        *body,
        r"\hline",
        r"\end{tabular}",
        r"\end{table}",
    ]


def _latex_cell(cell: Cell) -> str:
    text = latex_text(cell.text)
    text = rf"\textbf{{{text}}}" if cell.bold and text else text
    return rf"{text} {{\tiny {latex_text(cell.note)}}}" if cell.note else text


def to_html(document: Document, pictures: Path | None = None) -> str:
    """One self-contained HTML page: the figures of the folder `pictures` are inside."""
    from jinja2 import Environment, FileSystemLoader

    def picture(name: str) -> str:
        assert pictures is not None
        return base64.b64encode((pictures / f"{name}.png").read_bytes()).decode()

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.tests["kind"] = lambda block, name: type(block).__name__ == name
    return environment.get_template("report.html.j2").render(
        document=document, picture=picture, with_pictures=pictures is not None, notice=NOTICE
    )


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
            case Details():
                console.print()
                _print(_unfolded(block), console)
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
