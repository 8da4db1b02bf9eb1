"""The same test pictures as several networks see them, from the pages that their runs left."""

import numpy as np

from skinml.base.errors import UserError
from skinml.compare.comparison import Answer, Comparison, SamePicture
from skinml.compare.runs import CellName
from skinml.explain.reading import Page, Shown, read_page
from skinml.tracking.folder import PICTURES


def same_pictures(comparison: Comparison, count: int) -> tuple[SamePicture, ...]:
    """The `count` test pictures on which the networks of a comparison are most divided.

    Most divided: as many networks are right as wrong; among those, where the score of the true
    class differs most. A cell stands there with its first run. Looked at are the pictures that
    every page has; a cell whose run has no page is left out, and fewer than two cells with a page
    are a `UserError`.
    """
    pages = {
        row.cell: read_page(path)
        for row in comparison.rows
        if (path := row.runs[0].find_file(PICTURES)) is not None
    }
    if len(pages) < 2:
        raise UserError(
            f"pictures: {len(pages)} of {len(comparison.rows)} cells have a page of pictures; "
            "expected two: a run leaves pictures.html since it draws maps, for an earlier one "
            "`python -m skinml.explain MODEL --page FILE` writes it"
        )
    first, *others = pages.values()
    if any(page.classes != first.classes for page in others):
        raise UserError("pictures: the pages have different classes; expected runs of one data set")
    shared = [name for name in first.pictures if all(name in page.pictures for page in others)]
    if not shared:
        raise UserError("pictures: no picture is on every page; expected runs of one test part")
    shared.sort(key=lambda name: _division([page.pictures[name] for page in pages.values()]))
    return tuple(_same(name, pages) for name in shared[:count])


def _division(shown: list[Shown]) -> tuple[float, float]:
    """The smaller, the more divided are the networks about a picture."""
    right = sum(int(one.scores.argmax()) == one.label for one in shown)
    own = [float(one.scores[one.label]) for one in shown]
    return abs(2 * right - len(shown)), min(own) - max(own)


def _same(name: str, pages: dict[CellName, Page]) -> SamePicture:
    found = {cell: page.pictures[name] for cell, page in pages.items()}
    classes = next(iter(pages.values())).classes
    one = next(iter(found.values()))
    return SamePicture(
        name,
        classes[one.label],
        one.pixels,
        {cell: _answer(shown, classes) for cell, shown in found.items()},
    )


def _answer(shown: Shown, classes: tuple[str, ...]) -> Answer:
    answer = int(np.argmax(shown.scores))
    return Answer(classes[answer], float(shown.scores[answer]), shown.maps[answer])
