"""Text of somebody else in a file that a spreadsheet or a Markdown page shows is text there."""

import pytest

from skinml.base.names import short_id
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


def test_a_run_has_a_short_name_that_tells_it_from_others() -> None:
    """Eight letters of MLflow's ids; a folder's runs, whose names begin alike, keep theirs."""
    assert short_id("0123456789abcdef" * 2) == "01234567"
    assert short_id("mobilenetv2-16-seed1") == "mobilenetv2-16-seed1"
    assert len(short_id("x" * 500)) == 24
