"""A report in Markdown, as GitHub and MLflow show it."""

import html
from collections.abc import Sequence

from skinml.base.text import markdown_cell, markdown_text
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
)
from skinml.data.isic2017 import NOTICE


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
            case Link(address, text, note):
                lines += [f"[{markdown_text(text)}]({address}) ({markdown_text(note)})."]
            case Details(summary, inner):
                lines += [f"<details><summary>{html.escape(summary, quote=False)}</summary>", ""]
                lines += [*_markdown(inner, pictures), "</details>"]
            case Table(title, columns, rows, labels):
                rule = ["---"] * labels + ["---:"] * (len(columns) - labels)
                headings = [markdown_cell(column) for column in columns]
                lines += [f"**{markdown_text(title)}**", "", _row(headings), _row(rule)]
                lines += [_row([_markdown_cell(cell) for cell in row]) for row in rows]
        lines.append("")
    return lines


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown_cell(cell: Cell) -> str:
    text = markdown_cell(cell.text)
    text = f"**{text}**" if cell.bold and text else text
    note = markdown_cell(cell.note)
    return f"{text}<br><sub>{note}</sub>" if cell.note else text
