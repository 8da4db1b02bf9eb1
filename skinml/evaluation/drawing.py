"""How every figure looks: sizes, colours, type, and how it is saved.

A colour always means a class (Okabe & Ito 2008, safe for the colour-blind); whatever is not of one
class is black or grey. matplotlib is imported where it is used, so that importing this is fast.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Vermillion, blue, bluish green; then the rest of the palette but its yellow, too pale for a line.
PALETTE = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
# Of more classes than colours the next have the same colours, and another line.
_LINES = ("-", "--", "-.", ":")
GREY = "#8C8C8C"

# Said beside every class activation map.
CAVEAT = "A map shows where, not why: it is no explanation of a diagnosis."

# Inches. A figure as wide as this, set in 9 point, still reads in a journal's 3.5 inch column.
COLUMN = 4.6
PAGE = 7.4

_DPI = 200

STYLE = {
    "font.size": 9,
    "axes.labelsize": 9,
    "axes.titlesize": 9,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.titlesize": 9,
    "figure.constrained_layout.w_pad": 0.07,
    "figure.constrained_layout.h_pad": 0.07,
    "legend.fontsize": 8,
    "legend.title_fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.3,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    # TrueType outlines: journals refuse matplotlib's default, Type 3.
    "pdf.fonttype": 42,
}


@contextmanager
def drawing() -> Iterator[None]:
    """Draw in this style, upon matplotlib's defaults, and leave its settings as they were.

    A user's matplotlibrc changes nothing. Saving belongs inside as well, because ticks and fonts
    take their settings only then.
    """
    from matplotlib import style

    with style.context(["default", STYLE]):
        yield


def save(figure: "Figure", path: Path, pdf: bool = True) -> None:
    """Save a figure as `path` (PNG, for screens), with `pdf` beside it as PDF too.

    The same figure gives the same bytes each time.
    """
    figure.savefig(path, dpi=_DPI, metadata={"Software": None})
    if pdf:
        figure.savefig(path.with_suffix(".pdf"), dpi=_DPI, metadata={"CreationDate": None})


def class_colours(classes: Sequence[str]) -> dict[str, str]:
    """The colour of each class, from the palette in turn."""
    return {label: PALETTE[number % len(PALETTE)] for number, label in enumerate(classes)}


def class_lines(classes: Sequence[str]) -> dict[str, str]:
    """The kind of line of each class, which tells those of one colour apart."""
    kinds = {label: number // len(PALETTE) % len(_LINES) for number, label in enumerate(classes)}
    return {label: _LINES[kind] for label, kind in kinds.items()}


def spaced(label: str) -> str:
    """A class's name as a reader writes it, its "$" no beginning of a formula."""
    return label.replace("_", " ").replace("$", r"\$")


def ink(shade: float) -> str:
    """The colour of text on a cell whose shade runs from 0 (white) to 1 (dark blue)."""
    return "white" if shade > 0.55 else "black"
