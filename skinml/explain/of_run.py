"""The maps that a run leaves at its end: of its mistakes, and on the page of its pictures."""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from skinml.base.errors import first_line
from skinml.base.files import write_whole
from skinml.base.progress import progress_bar
from skinml.evaluation.predictions import Predictions
from skinml.explain.browser import make_page
from skinml.explain.maps import Explainer
from skinml.tracking.folder import PICTURES, Description, RunFolder


def explain_run(
    folder: RunFolder,
    description: Description,
    table: Predictions,
    images: np.ndarray,
    rows: np.ndarray,
    model: Any,
) -> Callable[[np.ndarray], np.ndarray] | None:
    """Write the page of the pictures, and return what draws the map of some of its answers.

    `rows` of `images` are the pictures of `table`; the maps are of the predicted class, (n, h, w)
    uint8. A trained network is worth more than its maps: whatever fails here is a warning, the run
    goes on without them, and None is returned.
    """
    (folder.path / PICTURES).unlink(missing_ok=True)  # Of an earlier process, which was killed.
    try:
        explainer = Explainer(model)
        with progress_bar("drawing maps of the test part", len(rows)) as advance:
            maps = explainer.maps(images, rows, advance)
        page = make_page(description.name, table, images, rows, maps)
        write_whole(folder.path / PICTURES, page)
    except Exception as error:  # Whatever it is.
        print(f"skinml: warning: the run has no maps: {first_line(error)[:200]}", file=sys.stderr)
        return None
    return lambda some: maps[some, table.predicted[some]]
