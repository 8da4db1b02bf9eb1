"""The report says of a comparison what its tables hold, and no more."""

import shutil
import subprocess
from pathlib import Path

import pytest

from skinml.comparison.analysis import analyse
from skinml.comparison.document import Cell, Document, Table, Text, to_html, to_latex
from skinml.comparison.figures import draw_figures
from skinml.comparison.report import make_report
from skinml.comparison.runs import runs_in_folder, select
from tests.comparison.conftest import made_up, write_grid, write_run


def report_of(folder: Path) -> Document:
    return make_report(analyse(select(runs_in_folder(folder)), 200))


def table(document: Document, title: str) -> Table:
    return next(b for b in document.blocks if isinstance(b, Table) and b.title.startswith(title))


def row_of(found: Table, *names: str) -> dict[str, Cell]:
    """A table's row by its first cells; a heading that occurs again gets the one before it."""
    [row] = [row for row in found.rows if [cell.text for cell in row[: len(names)]] == list(names)]
    cells = {}
    for number, column in enumerate(found.columns):
        cells[column if column != "paper" else f"paper: {found.columns[number - 1]}"] = row[number]
    return cells


def test_the_table_is_the_papers_with_its_values_and_the_difference(nine: Path) -> None:
    own = row_of(table(report_of(nine), "Results"), "nasnetmobile", "16")
    assert own["paper: accuracy %"].text == "82.00" and own["paper: AUC"].text == "0.8832"
    difference = float(own["paper: accuracy %"].note.replace("−", "-"))
    assert difference == round(float(own["accuracy %"].text) - 82, 2)


def test_the_best_of_each_column_is_bold(nine: Path) -> None:
    found = table(report_of(nine), "Results")
    for number, column in enumerate(found.columns):
        if column in ("accuracy %", "precision %", "F1", "AUC"):
            values = [float(row[number].text) for row in found.rows]
            bold = [float(row[number].text) for row in found.rows if row[number].bold]
            assert set(bold) == {max(values)}


def test_averages_hold_the_papers_cells_against_the_same_of_ours(tmp_path: Path) -> None:
    write_grid(tmp_path, models=("mobilenet",), sizes=(16, 32))
    found = row_of(table(report_of(tmp_path), "By model"), "mobilenet")
    # Table III: 80.36 % and 80.73 %; its third MobileNet, 77.64 %, has no counterpart here.
    assert found["cells"].text == "2" and found["paper: accuracy %"].text == "80.55"


def test_missing_cells_are_shown_with_one_command_a_network(tmp_path: Path) -> None:
    write_grid(tmp_path, models=("mobilenet",), sizes=(16,), seeds=(1, 2))
    document = report_of(tmp_path)
    assert row_of(table(document, "Results"), "nasnetmobile", "64")["AUC"].text == "missing"
    [commands] = [block.lines for block in document.blocks if hasattr(block, "lines")]
    assert [line.split(" --test_fraction")[0] for line in commands] == [
        "python -m skinml.sweep --models mobilenet --batch_sizes 32,64 --seeds 1,2",
        "python -m skinml.sweep --models mobilenetv2 --batch_sizes 16,32,64 --seeds 1,2",
        "python -m skinml.sweep --models nasnetmobile --batch_sizes 16,32,64 --seeds 1,2",
    ]


def test_one_configuration_is_compared_with_nothing(tmp_path: Path) -> None:
    write_run(tmp_path, made_up(1, [1]))
    document = make_report(analyse(select(runs_in_folder(tmp_path), []), 200))
    words = " ".join(str(block) for block in document.blocks)
    assert "no winner" not in words and "best" not in words and "nan" not in words
    tables = [block for block in document.blocks if isinstance(block, Table)]
    assert not any(cell.bold for found in tables for row in found.rows for cell in row)


def test_generated_images_are_not_held_against_the_paper(tmp_path: Path) -> None:
    write_grid(tmp_path, sizes=(16,))
    runs = runs_in_folder(tmp_path)
    for run in runs:
        run.tags["data"] = "demo"
    document = make_report(analyse(select(runs), 200))
    assert "paper" not in table(document, "Results").columns
    [first] = document.blocks[:1]
    assert isinstance(first, Text) and first.strong and "nothing about skin lesions" in first.text


def test_a_cell_whose_runs_differ_is_named_in_part(tmp_path: Path) -> None:
    """Two seeds by other code, one of them in a cell that is all of one kind."""
    for size, seed, code in ((16, 0, "a" * 16), (16, 1, "b" * 16), (32, 0, "a" * 16)):
        table = made_up(1, [size, seed])
        write_run(tmp_path, table, batch_size=size, seed=seed, training_digest=code)
    words = " ".join(
        str(block) for block in make_report(analyse(select(runs_in_folder(tmp_path)), 200)).blocks
    )
    assert "some runs of mobilenetv2-16, mobilenetv2-32 with training_digest aaaa" in words
    assert "some runs of mobilenetv2-16 with training_digest bbbb" in words


def test_a_network_that_never_names_a_class_is_not_sure_of_it(tmp_path: Path) -> None:
    """No resample moves a sensitivity of 0; the interval is Wilson's of the class's images."""
    from statsmodels.stats.proportion import proportion_confint

    never = made_up(1, [1])
    never.scores[:, never.classes.index("melanoma")] = 0
    write_run(tmp_path, never)
    found = analyse(select(runs_in_folder(tmp_path)), 200).rows[0].values
    count = int((never.labels == never.classes.index("melanoma")).sum())
    value = found["sensitivity_melanoma"]
    expected = proportion_confint(0, count, method="wilson")
    assert (value.low, value.high) == pytest.approx(expected)
    assert value.value == 0 < value.high < 0.1
    assert found["specificity_melanoma"].low > 0.96 and found["specificity_melanoma"].high == 1


def test_the_latex_report_compiles(nine: Path, tmp_path: Path) -> None:
    if not shutil.which("pdflatex"):
        pytest.skip("pdflatex is missing: install texlive-latex-base")
    (tmp_path / "report.tex").write_text(to_latex(report_of(nine)))
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "report.tex"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout[-2000:]
    assert "Overfull" not in result.stdout


def test_the_html_report_is_one_file_with_its_figures(nine: Path, tmp_path: Path) -> None:
    comparison = analyse(select(runs_in_folder(nine)), 200)
    draw_figures(comparison, tmp_path)
    page = to_html(make_report(comparison), tmp_path)
    assert page.count('src="data:image/png;base64,') == 5
    assert "http://" not in page and "https://" not in page
