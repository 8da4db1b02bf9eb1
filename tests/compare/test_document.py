"""One report, the same in every format, and nothing in it that a format takes for its own."""

import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from skinml.compare.document import (
    Cell,
    Code,
    Details,
    Document,
    Heading,
    Items,
    Picture,
    Table,
    Text,
)
from skinml.compare.formats.html import to_html
from skinml.compare.formats.latex import latex_text, to_latex
from skinml.compare.formats.markdown import to_markdown
from skinml.compare.formats.terminal import to_terminal
from skinml.data.isic2017 import NOTICE
from tests.waiting import PATIENCE

NASTY = r"a_b & 50 % of {x} <script>alert(1)</script> $\alpha$ #1 ~ ^ | “q” − ± ≥ 日"


@pytest.fixture
def document() -> Document:
    table = Table(
        f"Title {NASTY}",
        ("model", "batch", "accuracy % | sens."),
        [
            [Cell("mobile_net"), Cell("16"), Cell("80.36", "76.0–84.2", bold=True)],
            [Cell(NASTY), Cell("32"), Cell("–")],
            # As a row or an item LaTeX takes these for parts of the command before.
            [Cell("[1] Smith"), Cell("64"), Cell("–")],
            [Cell("* ours"), Cell("64"), Cell("–")],
        ],
        labels=2,
    )
    return Document(
        f"A report of {NASTY}",
        [
            Text("No winner.", strong=True),
            Heading("What & why"),
            Text(NASTY),
            Items(("one", NASTY, "[2] Jones")),
            Code(("mlflow run . -P model=mobilenet -P weights=…",)),
            table,
            Picture("roc", "ROC <curves>"),
            Details("Two & more", (Text("folded"),)),
            Details("The rest", (Text("left out"),), instead="--all lists them"),
        ],
    )


def pictures(folder: Path) -> Path:
    Image.new("RGB", (4, 3), "red").save(folder / "roc.png")
    return folder


def to_wide_terminal(document: Document) -> str:
    return to_terminal(document, width=200)


@pytest.mark.parametrize("kind", [to_markdown, to_latex, to_html, to_wide_terminal])
def test_every_format_says_everything(document: Document, kind: Callable[[Document], str]) -> None:
    text = kind(document)
    for part in ("No winner.", "80.36", "76.0", "mlflow run .", NOTICE):
        assert part in text


def test_markdown_tables_keep_their_columns(document: Document) -> None:
    rows = [line for line in to_markdown(document).splitlines() if line.startswith("|")]
    assert len(rows) == 6
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {4}
    assert "| **80.36**<br><sub>76.0–84.2</sub> |" in rows[2]


def test_figures_are_only_where_they_can_be_seen(document: Document) -> None:
    assert "roc" not in to_markdown(document).replace("ROC", "")
    assert "![ROC <curves>](figures/roc.png)" in to_markdown(document, "figures")
    assert "ROC" not in to_terminal(document)


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_the_page_is_one_file_that_runs_nothing(document: Document, tmp_path: Path) -> None:
    page = _Page()
    page.feed(to_html(document, pictures(tmp_path)))
    names = [tag for tag, _ in page.tags]
    assert "script" not in names and "link" not in names
    [image] = [attributes for tag, attributes in page.tags if tag == "img"]
    assert str(image["src"]).startswith("data:image/png;base64,") and image["alt"]
    assert names.count("td") == 12 and names.count("th") == 3
    assert names.count("details") == names.count("summary") == 2


def test_the_page_leads_to_each_section(document: Document) -> None:
    page = _Page()
    page.feed(to_html(document))
    sections = [f"#{attributes['id']}" for tag, attributes in page.tags if tag == "section"]
    assert [attributes["href"] for tag, attributes in page.tags if tag == "a"] == sections
    assert len(sections) == 1


@pytest.mark.parametrize("kind", [to_terminal, to_latex])
def test_what_cannot_be_folded_is_shown_or_named(
    document: Document, kind: Callable[[Document], str]
) -> None:
    text = kind(document)
    assert "folded" in text
    assert "left out" not in text and "The rest (-" in text


@pytest.mark.parametrize("kind", [to_markdown, to_html])
def test_what_can_be_folded_is_all_there(
    document: Document, kind: Callable[[Document], str]
) -> None:
    text = kind(document)
    assert "<details>" in text and "<summary>Two &amp; more</summary>" in text
    assert "folded" in text and "left out" in text and "--all" not in text


def test_latex_text_is_plain_ascii_without_commands_of_its_own() -> None:
    text = latex_text(NASTY)
    assert text.isascii()
    assert r"a\_b \& 50 \% of \{x\}" in text and r"\textbackslash{}alpha" in text


def test_the_latex_document_compiles(document: Document, tmp_path: Path) -> None:
    if not shutil.which("pdflatex"):
        pytest.skip("pdflatex is missing: install texlive-latex-base")
    (tmp_path / "report.tex").write_text(to_latex(document))
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "report.tex"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert result.returncode == 0, result.stdout[-2000:]
    assert (tmp_path / "report.pdf").stat().st_size > 1000


def test_a_latex_table_of_many_rows_is_split(tmp_path: Path) -> None:
    """Of a table that is higher than the page the last rows fell off it."""
    rows = [[Cell(f"network {number}."), Cell("0.5", "0.4–0.6")] for number in range(940)]
    text = to_latex(Document("Many", [Table("All pairs", ("model", "AUC"), rows, labels=1)]))
    parts = re.findall(r"\\begin{table}.*?\\end{table}", text, re.DOTALL)
    told = [re.findall(r"network (\d+)\.", part) for part in parts]
    assert [row for part in told for row in part] == [str(number) for number in range(940)]
    assert max(map(len, told)) <= 45
    assert ["continued" in part for part in parts] == [False] + [True] * (len(parts) - 1)
    if not shutil.which("pdflatex"):
        pytest.skip("pdflatex is missing: install texlive-latex-base")
    (tmp_path / "report.tex").write_text(text)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "report.tex"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert result.returncode == 0, result.stdout[-2000:]
    assert "Float too large" not in result.stdout


def test_the_terminal_shows_a_note_below_its_value(document: Document) -> None:
    lines = to_terminal(document, width=200).splitlines()
    [index] = [number for number, line in enumerate(lines) if "80.36" in line]
    assert "76.0–84.2" in lines[index + 1]
    assert "\x1b" not in "".join(lines)
    assert "\x1b" in to_terminal(document, width=200, colour=True)


@pytest.mark.parametrize("width", [34, 40, 60, 80])
def test_a_terminal_parts_a_table_evenly_and_only_between_its_figures(width: int) -> None:
    """Every interval whole, every "paper" beside its figure, and no part of one column alone."""
    columns = ("name", *(title for n in range(4) for title in (f"figure {n}", "paper")))
    cells = [Cell(f"0.5{n}", f"0.4{n}0–0.6{n}0 ±0.0{n}") for n in range(4)]
    row = [Cell("net-16"), *(cell for own in cells for cell in (own, Cell("0.70", "−0.20")))]
    lines = to_terminal(Document("T", [Table("t", columns, [row])]), width).splitlines()
    assert max(map(len, lines)) <= width
    headings = [line for line in lines if line.startswith("name")]
    assert {line.count("paper") for line in headings} == {4 // len(headings)}
    assert sum(line.count("paper") for line in headings) == 4
    words = " ".join(lines).split()
    for n in range(4):
        assert f"0.4{n}0–0.6{n}0" in words and f"±0.0{n}" in words
