"""A report in LaTeX, which compiles without packages."""

import re
import unicodedata
from collections.abc import Sequence

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

_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--",
    "−": "$-$", "±": r"$\pm$", "×": r"$\times$", "≤": r"$\le$", "≥": r"$\ge$", "<": r"$<$",
    ">": r"$>$", "…": r"\ldots{}", "Δ": r"$\Delta$", "α": r"$\alpha$", "→": r"$\to$", "—": "---",
    '"': "''", "†": r"$\dagger$", "“": "``", "”": "''", "’": "'", "|": r"\textbar{}", "`": "'",
}  # fmt: skip


# LaTeX's commands for letters that have no accent to take off, and for accents.
_LATIN = {"ß": r"{\ss}", "æ": r"{\ae}", "Æ": r"{\AE}", "œ": r"{\oe}", "Œ": r"{\OE}", "ø": r"{\o}",
          "Ø": r"{\O}", "ł": r"{\l}", "Ł": r"{\L}", "ı": r"{\i}"}  # fmt: skip


_ACCENTS = dict(zip("\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u030a\u030b\u030c\u0327",
                    "`'^~=u.\"rHvc", strict=True))  # fmt: skip


# Greek capitals that look like Latin ones have no command.
_GREEK_AS_LATIN = {"Α": "A", "Β": "B", "Ε": "E", "Ζ": "Z", "Η": "H", "Ι": "I", "Κ": "K", "Μ": "M",
                   "Ν": "N", "Ο": "O", "Ρ": "P", "Τ": "T", "Χ": "X", "ο": "o"}  # fmt: skip


# A table breaks over no page: of more rows the last ones fall off a page of this size.
_MOST_ROWS = 45


def latex_text(text: str) -> str:
    """Text with every character that LaTeX would take for its own, or cannot set, replaced.

    Latin letters with accents and Greek ones become commands; what plain LaTeX has no letter for
    becomes "?".
    """
    return "".join(_LATEX.get(letter) or _latex_letter(letter) for letter in text)


def _latex_letter(letter: str) -> str:
    if letter.isascii():
        return letter
    if letter in _LATIN:
        return _LATIN[letter]
    decomposed = unicodedata.normalize("NFKD", letter)
    base, marks = decomposed[0], decomposed[1:]
    if base.isascii() and marks in _ACCENTS:
        return f"\\{_ACCENTS[marks]}{{{base}}}"
    if base in _GREEK_AS_LATIN:
        return _GREEK_AS_LATIN[base]
    name = re.fullmatch(r"GREEK (SMALL|CAPITAL) LETTER (FINAL )?(\w+)", unicodedata.name(base, ""))
    if name is None:
        return "?"
    command = name[3].lower().replace("lamda", "lambda")
    command = command.capitalize() if name[1] == "CAPITAL" else command
    return rf"\ensuremath{{\{'var' if name[2] else ''}{command}}}"


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
                lines += [r"\begin{itemize}", *(rf"\item {_first(latex_text(i))}" for i in items)]
                lines += [r"\end{itemize}"]
            case Code(commands):
                # Not verbatim: a command is longer than a line.
                lines += [rf"\texttt{{{latex_text(command)}}}\\" for command in commands] + [""]
            case Picture():
                continue
            case Link(_, text, note):
                lines += [latex_text(f"{text}: {note}."), ""]
            case Details():
                lines += _latex(unfolded(block))
            case Table(title, columns, rows, labels):
                if len(rows) <= _MOST_ROWS:
                    lines += _latex_table(title, columns, rows, labels)
                    continue
                for start in range(0, len(rows), _MOST_ROWS):
                    told = f"{title}, continued" if start else title
                    part = rows[start : start + _MOST_ROWS]
                    # Set at once: LaTeX keeps but a few floats that wait for a page.
                    lines += [*_latex_table(told, columns, part, labels), r"\clearpage"]
    return lines


def _first(text: str) -> str:
    """Text behind the end of a row or an item, which takes [ and * for parts of itself."""
    return f"{{}}{text}" if text.startswith(("[", "*")) else text


def _latex_table(
    title: str, columns: tuple[str, ...], rows: list[list[Cell]], labels: int
) -> list[str]:
    layout = "l" * labels + "r" * (len(columns) - labels)
    heading = " & ".join(rf"\textbf{{{latex_text(column)}}}" for column in columns)
    body = [_first(" & ".join(map(_latex_cell, row))) + r" \\" for row in rows]
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
