"""The pictures of a part as one HTML file: to filter, sort and look at, each with its maps.

It needs no server and no network. Whatever is of foreign origin (names of classes and pictures,
values of subgroups) is data in it, which the page's script sets as text, never as HTML; the page's
policy runs no other script.
"""

import base64
import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from skinml.data.isic2017 import NOTICE
from skinml.evaluation.drawing import CAVEAT
from skinml.evaluation.predictions import Predictions

# Bytes of a page at most, so that a phone opens it. 600 pictures of ISIC 2017 have 6 million.
LARGEST = 25_000_000

_SOURCES = Path(__file__).parent / "web"

# At this quality of JPEG hairs and the lines of a pigment network are still to be seen.
_QUALITY = 80

# From a list of more values nobody chooses one.
_MOST_VALUES = 30

# The page without its pictures has a tenth of that.
_FRAME = 200_000


def make_page(
    title: str,
    table: Predictions,
    images: np.ndarray,
    rows: np.ndarray,
    maps: np.ndarray,
    largest: int = LARGEST,
) -> str:
    """The page of a predictions table, whose pictures are `rows` of `images`.

    `images` (N, 224, 224, 3) uint8 may be memory-mapped; `maps` (len(rows), K, h, w) uint8 are
    those of `Explainer.maps`. Where not all fit into `largest` bytes, the page has the mistakes,
    the surest first, then the others, and says how many it lacks.
    """
    from jinja2 import Environment, FileSystemLoader

    from skinml.explain.drawing import scale

    choices = _choices(table)
    entries: list[str] = []
    left = largest - _FRAME
    order = _mistakes_first(table)
    for number in order:
        entry = _entry(table, number, images[rows[number]], maps[number], choices)
        left -= len(entry) + 1
        if left < 0:
            break
        entries.append(entry)
    frame = {
        "classes": table.classes,
        "subgroups": {name: values.tolist() for name, (values, _) in choices.items()},
        "shape": maps.shape[2:],
        "colours": scale(),
    }
    lacking = len(order) - len(entries)
    environment = Environment(loader=FileSystemLoader(_SOURCES), autoescape=True)
    script = (_SOURCES / "pictures.js").read_text(encoding="utf-8")
    digest = hashlib.sha256(script.encode()).digest()
    return environment.get_template("pictures.html.j2").render(
        title=title,
        notice=NOTICE,
        caveat=CAVEAT,
        lacking=f"{lacking:,} pictures, answered rightly or with less certainty, are left out: "
        f"the page would have more than {largest / 1e6:.0f} MB."
        if lacking
        else "",
        style=(_SOURCES / "pictures.css").read_text(encoding="utf-8"),
        script=script,
        digest=base64.b64encode(digest).decode(),
        data=f'{_json(frame)[:-1]},"pictures":[{",".join(entries)}]}}',
    )


def _mistakes_first(table: Predictions) -> np.ndarray:
    """Indices into a table: the wrong answers, the surest of them first, then the right ones."""
    right = table.predicted == table.labels
    return np.lexsort((-table.scores.max(axis=1), right))


# Name of a subgroup → its values, and which of them each picture has.
_Choices = Mapping[str, tuple[np.ndarray, np.ndarray]]


def _choices(table: Predictions) -> _Choices:
    found = {name: np.unique(v, return_inverse=True) for name, v in table.subgroups.items()}
    return {name: both for name, both in found.items() if 1 < len(both[0]) <= _MOST_VALUES}


def _entry(
    table: Predictions, number: int, image: np.ndarray, maps: np.ndarray, choices: _Choices
) -> str:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=_QUALITY)
    picture = {
        "id": str(table.image_ids[number]),
        "true": int(table.labels[number]),
        "scores": [round(float(score), 4) for score in table.scores[number]],
        "subgroups": {name: int(own[number]) for name, (_, own) in choices.items()},
        "maps": base64.b64encode(maps.tobytes()).decode(),
        "jpeg": base64.b64encode(file.getvalue()).decode(),
    }
    return _json(picture)


def _json(value: Any) -> str:
    """JSON that ends no script element, whatever is in its texts."""
    return json.dumps(value, separators=(",", ":")).replace("<", r"\u003c")
