"""A report as one HTML page."""

import base64
import io
from pathlib import Path

from skinml.compare.document import Document
from skinml.data.isic2017 import NOTICE


def to_html(document: Document, pictures: Path | None = None) -> str:
    """One self-contained HTML page: the figures of the folder `pictures` are inside."""
    from jinja2 import Environment, FileSystemLoader

    def picture(name: str) -> str:
        assert pictures is not None
        return _data_uri(pictures / f"{name}.png")

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.tests["kind"] = lambda block, name: type(block).__name__ == name
    return environment.get_template("report.html.j2").render(
        document=document, picture=picture, with_pictures=pictures is not None, notice=NOTICE
    )


# A drawing has some 100 kB as PNG. One of photographs has megabytes, as JPEG a fifth of that.
_LARGEST_PNG = 400_000


def _data_uri(path: Path) -> str:
    """A figure as the address of an image that holds it."""
    content, kind = path.read_bytes(), "png"
    if len(content) > _LARGEST_PNG:
        from PIL import Image

        file = io.BytesIO()
        with Image.open(io.BytesIO(content)) as image:
            image.convert("RGB").save(file, "JPEG", quality=85, optimize=True)
        if len(file.getvalue()) < len(content):
            content, kind = file.getvalue(), "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
