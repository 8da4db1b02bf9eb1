"""A report as a list of blocks, which know nothing of what they say.

Reports are made of them (`skinml.compare.report`, `skinml.run.report`); terminal, Markdown, LaTeX
and HTML (`skinml.compare.formats`) each render the same blocks, so that no format can say anything
else than the others.
"""

from dataclasses import dataclass, field


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
class Link:
    """A link to what lies beside the document, by an address relative to it; `note` says where."""

    address: str
    text: str
    note: str


@dataclass(frozen=True)
class Details:
    """Blocks below a summary, folded where a format can; elsewhere `instead` stands for them.

    They are always shown where `instead` is empty.
    """

    summary: str
    blocks: tuple["Block", ...]
    instead: str = ""


Block = Table | Heading | Text | Items | Code | Picture | Link | Details


def unfolded(details: Details) -> list[Block]:
    """What stands for folded blocks where nothing folds."""
    if details.instead:
        return [Text(f"{details.summary} ({details.instead}).")]
    return [Text(f"{details.summary}."), *details.blocks]


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
