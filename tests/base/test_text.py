"""Text of somebody else in a file that a spreadsheet or a Markdown page shows is text there."""

import pytest

from skinml.base.text import csv_cell, markdown_cell, markdown_code, markdown_text


@pytest.mark.parametrize("text", ["=1+1", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1"])
def test_no_cell_is_computed(text: str) -> None:
    assert csv_cell(text) == f"'{text}"


@pytest.mark.parametrize("value", ["-1", "+0.5", "-1e-9", -1.0, None, "a=1", ""])
def test_numbers_and_plain_texts_stay(value: object) -> None:
    assert csv_cell(value) == value


@pytest.mark.parametrize("text", ["<b>x", "</p>", "<!-- x", "<?x", "[a](b)", "![a](b)"])
def test_markdown_gets_no_tags_links_or_pictures(text: str) -> None:
    for shown in (markdown_text(text), markdown_cell(text)):
        assert "<" not in shown and "](" not in shown


def test_a_cell_is_one_line_and_one_cell() -> None:
    assert markdown_cell("a|b\nc") == "a\\|b c"
    assert markdown_text("p < .05") == "p < .05"


def test_code_ends_where_it_should() -> None:
    assert markdown_code("a`<b>\nc") == "`a<b> c`"
