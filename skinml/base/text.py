"""Text of whatever origin in a file that another program shows: a spreadsheet, a Markdown page."""

import re
from typing import Any


def csv_cell(value: Any) -> Any:
    """A value as a CSV file may hold it: a spreadsheet computes a text that begins like a formula.

    Such a text gets an apostrophe before it, a number none.
    """
    if not isinstance(value, str) or not value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def markdown_text(text: str) -> str:
    """Text without what Markdown takes for HTML, a link or a picture."""
    return re.sub(r"<(?=[a-zA-Z/!?])", "&lt;", text).replace("](", "]\\(")


def markdown_cell(text: str) -> str:
    """The same for a cell of a table, in one line."""
    return " ".join(markdown_text(text).replace("|", "\\|").splitlines())


def markdown_code(text: str) -> str:
    """Text as it is, in one line, in the letters of code."""
    return f"`{' '.join(text.replace('`', '').splitlines())}`"
