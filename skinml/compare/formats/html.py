"""A report as one HTML page."""

import base64
from pathlib import Path

from skinml.compare.document import Document
from skinml.data.isic2017 import NOTICE


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
