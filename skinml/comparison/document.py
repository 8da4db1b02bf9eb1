"""A report as a list of blocks, and how each format writes them.

The blocks know nothing of what they say; `report.py` makes them from a comparison. Terminal,
Markdown, LaTeX and HTML each render the same blocks, so that no format can say anything else than
the others.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from skinml.data.isic2017 import NOTICE

if TYPE_CHECKING:
    from rich.text import Text as RichText


@dataclass(frozen=True)
class Cell:
    """One cell of a table: a value, below it what is said about it, whether it is the best."""

    text: str
    note: str = ""
    bold: bool = False


@dataclass(frozen=True)
class Table:
    """A table: `columns` are headings, the first `labels` columns name the row."""

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
class Pictures:
    """A section of figures that lie beside the report: stem of the file → what it shows."""

    heading: str
    captions: dict[str, str]


Block = Table | Heading | Text | Items | Code | Pictures


@dataclass(frozen=True)
class Document:
    """A titled list of blocks."""

    title: str
    blocks: list[Block] = field(default_factory=list)


def to_markdown(document: Document, pictures: str = "") -> str:
    """Markdown as GitHub and MLflow show it; `pictures` is the folder of the figures, if any."""
    lines = [f"# {document.title}", ""]
    for block in document.blocks:
        match block:
            case Heading(text):
                lines += [f"## {text}"]
            case Text(text, strong):
                lines += [f"**{text}**" if strong else text]
            case Items(items):
                lines += [f"- {item}" for item in items]
            case Code(commands):
                lines += ["```", *commands, "```"]
            case Pictures(heading, captions):
                if pictures:
                    lines += [f"## {heading}"]
                for name, caption in captions.items() if pictures else ():
                    lines += ["", f"![{caption}]({pictures}/{name}.png)"]
            case Table(title, columns, rows, labels):
                rule = ["---"] * labels + ["---:"] * (len(columns) - labels)
                lines += [f"**{title}**", "", _row(columns), _row(rule)]
                lines += [_row([_markdown_cell(cell) for cell in row]) for row in rows]
        lines.append("")
    return "\n".join([*lines, f"> {NOTICE}", ""])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown_cell(cell: Cell) -> str:
    text = cell.text.replace("|", "\\|")
    text = f"**{text}**" if cell.bold and text else text
    return f"{text}<br><sub>{cell.note}</sub>" if cell.note else text


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--",
    "−": "$-$", "±": r"$\pm$", "×": r"$\times$", "≤": r"$\le$", "≥": r"$\ge$", "<": r"$<$",
    ">": r"$>$", "…": r"\ldots{}", "Δ": r"$\Delta$", "α": r"$\alpha$", "→": r"$\to$", "—": "---",
    '"': "''", "“": "``", "”": "''", "’": "'", "|": r"\textbar{}", "`": "'",
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
    ]
    for block in document.blocks:
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
            case Pictures():
                continue
            case Table(title, columns, rows, labels):
                lines += _latex_table(title, columns, rows, labels)
    return "\n".join([*lines, "", latex_text(NOTICE), r"\end{document}", ""])


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
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text as RichText

    out = io.StringIO()
    console = Console(
        file=out, width=width, force_terminal=bool(colour), highlight=False, soft_wrap=False
    )
    console.print(document.title, style="bold")
    for block in document.blocks:
        match block:
            case Heading(text):
                console.print()
                console.print(text, style="bold cyan")
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
            case Pictures():
                continue
            case Table(title, columns, rows, labels):
                console.print()
                console.print(RichText(title, style="italic"))
                for chosen in _columns_that_fit(block, console.width):
                    table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
                    for number in chosen:
                        side: Literal["left", "right"] = "left" if number < labels else "right"
                        table.add_column(
                            RichText(columns[number]), justify=side, no_wrap=number < labels,
                            min_width=_least_width(block, number),
                        )  # fmt: skip
                    for row in rows:
                        table.add_row(*(_terminal_cell(row[number]) for number in chosen))
                    console.print(table)
    console.print(RichText(NOTICE), style="dim")
    return out.getvalue()


def _least_width(table: Table, number: int) -> int:
    """The letters of a column's longest word, or line where it names the row: never broken."""
    texts = [part for row in table.rows for part in (row[number].text, row[number].note)]
    texts.append(table.columns[number])
    words = texts if number < table.labels else [w for text in texts for w in text.split()]
    return max(map(len, words), default=1)


def _columns_that_fit(table: Table, width: int) -> list[list[int]]:
    """The columns of a table as one or more that fit a terminal, each with the row's names."""
    names = list(range(table.labels))
    # A blank at either side of a column, and one between two.
    widths = [_least_width(table, number) + 3 for number in range(len(table.columns))]
    own = sum(widths[: table.labels]) + 1
    parts: list[list[int]] = [[]]
    room = width - own
    for number in range(table.labels, len(table.columns)):
        if parts[-1] and widths[number] > room:
            parts.append([])
            room = width - own
        parts[-1].append(number)
        room -= widths[number]
    return [names + part for part in parts]


def _terminal_cell(cell: Cell) -> "RichText":
    from rich.text import Text as Styled

    text = Styled(cell.text, style="bold green" if cell.bold else "")
    if cell.note:
        text.append(f"\n{cell.note}", style="dim not bold default")
    return text
