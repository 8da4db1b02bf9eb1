"""What the report says of where the uncertainty comes from."""

import json
from pathlib import Path

import pytest

from skinml.compare.__main__ import numbers
from skinml.compare.analysis import analyse
from skinml.compare.comparison import Comparison
from skinml.compare.document import Details, Items, Table
from skinml.compare.formats.html import to_html
from skinml.compare.formats.terminal import to_terminal
from skinml.compare.reading import runs_in_folder
from skinml.compare.report import make_report
from skinml.compare.selection import select
from skinml.compare.uncertainty import uncertainty
from tests.compare.conftest import write_grid


@pytest.fixture(scope="module")
def repeated(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """Two configurations with three seeds each."""
    folder = write_grid(
        tmp_path_factory.mktemp("repeated"), seeds=range(3), models=("mobilenet", "mobilenetv2"),
        sizes=(16,),
    )  # fmt: skip
    return analyse(select(runs_in_folder(folder), []), 40)


def test_a_sentence_says_the_shares_and_what_more_would_bring(repeated: Comparison) -> None:
    [sentences] = [block for block in uncertainty(repeated) if isinstance(block, Items)]
    for test, sentence in zip(repeated.pairs, sentences.items, strict=True):
        found = test.components
        assert found is not None
        for name, part in {"images": found.images, "seeds": found.seeds}.items():
            assert f"{name} {100 * part.variance / found.standard_error**2:.0f} %" in sentence
        assert f"standard error of {found.standard_error:.3f}" in sentence
        assert f"with one more seed of each, {found.with_more(seeds=1):.3f}" in sentence
        assert f"with 100 more test images, {found.with_more(images=100):.3f}" in sentence


def test_the_table_has_the_parts_of_every_figure(repeated: Comparison) -> None:
    [details] = [block for block in uncertainty(repeated) if isinstance(block, Details)]
    tables = [block for block in details.blocks if isinstance(block, Table)]
    assert len(tables) == 2
    for table in tables:
        assert table.columns == (
            "model", "batch", "standard error", "images", "images × seeds", "seeds",
            "one more seed", "100 more images",
        )  # fmt: skip
        assert len(table.rows) == len(repeated.rows)


def test_one_run_of_each_says_what_is_not_known(nine: Path) -> None:
    found = analyse(select(runs_in_folder(nine)), 40)
    [sentences] = [block for block in uncertainty(found) if isinstance(block, Items)]
    for sentence in sentences.items:
        assert (
            "over other images alone" in sentence and "not known without a second run" in sentence
        )
        assert "seed of each" not in sentence


def test_of_a_single_configuration_it_is_the_figure_itself(tmp_path: Path) -> None:
    folder = write_grid(tmp_path, seeds=range(3), models=("mobilenet",), sizes=(16,))
    found = analyse(select(runs_in_folder(folder), []), 40)
    [sentences] = [block for block in uncertainty(found) if isinstance(block, Items)]
    for metric, sentence in zip(found.rows[0].components, sentences.items, strict=True):
        seeds = found.rows[0].components[metric].seeds
        assert "the figure of mobilenet-16 has a standard error of" in sentence
        assert f"alone, 95 % CI {seeds.low**0.5:.3f}–{seeds.high**0.5:.3f}" in sentence


def test_the_terminal_is_short_and_the_page_full(repeated: Comparison) -> None:
    document = make_report(repeated)
    short, full = to_terminal(document, width=100), to_html(document)
    assert "Where the uncertainty comes from" in short and "Searle" not in short
    assert "Searle" in full and "one more seed" in full
    assert max(map(len, short.splitlines())) <= 100


def test_json_has_every_part_with_its_interval(repeated: Comparison) -> None:
    told = json.loads(numbers(repeated, "json"))
    for cell, row in zip(told["cells"], repeated.rows, strict=True):
        part = cell["variance"]["accuracy"]["seeds"]
        assert part["variance"] == pytest.approx(row.components["accuracy"].seeds.variance)
    for kept, test in zip(told["pairs"], repeated.pairs, strict=True):
        assert test.components is not None
        assert kept["components"]["images"]["low"] == pytest.approx(test.components.images.low)
