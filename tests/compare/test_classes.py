"""A comparison of other classes than ISIC 2017's: two, and names with every sign."""

import csv
import io
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from skinml.base.errors import UserError
from skinml.compare.analysis import analyse
from skinml.compare.comparison import Comparison
from skinml.compare.figures import FIGURES
from skinml.compare.formats.html import to_html
from skinml.compare.formats.latex import latex_text, to_latex
from skinml.compare.formats.markdown import to_markdown
from skinml.compare.formats.terminal import to_terminal
from skinml.compare.output import numbers
from skinml.compare.reading import runs_in_folder
from skinml.compare.report import make_report
from skinml.compare.selection import select_readable
from skinml.evaluation.drawing import drawing
from skinml.evaluation.predictions import Predictions
from tests.compare.conftest import write_run

TWO = ("benign", "malignant")
ODD = ("Basalzellkarzinom, groß", 'nævus "atypical" & 100 %', "μ|melanoma", "νευρίνωμα_$x$")


def write_cells(folder: Path, classes: tuple[str, ...], models: tuple[str, ...]) -> Path:
    for number, model in enumerate(models):
        rng = np.random.default_rng(number)
        labels = np.arange(120) % len(classes)
        scores = rng.dirichlet(np.ones(len(classes)), 120) + 0.3 * np.eye(len(classes))[labels]
        scores /= scores.sum(axis=1, keepdims=True)
        table = Predictions(np.arange(120).astype(str), labels, scores, classes)
        write_run(folder, table, model=model, data="own-clinic", started=number)
    return folder


def compared(folder: Path) -> Comparison:
    return analyse(select_readable(runs_in_folder(folder)), resamples=200)


@pytest.fixture(scope="module", params=[TWO, ODD], ids=["two", "odd"])
def comparison(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Comparison:
    folder = tmp_path_factory.mktemp("own")
    return compared(write_cells(folder, request.param, ("mobilenet", "mobilenetv2")))


def test_a_report_has_columns_for_its_own_classes(comparison: Comparison) -> None:
    classes = tuple(comparison.class_counts)
    # Nothing of the paper's: neither its nine cells nor its figures, nor the challenge's.
    assert not comparison.selection.missing
    text = to_markdown(make_report(comparison))
    assert "on own-clinic" in text
    assert "paper's" not in text.partition("## Glossary")[0] and "hallenge" not in text
    told = ("malignant",) if classes == TWO else classes
    for label in told:
        heading = "sens. " + label.replace("_", " ")
        assert heading.split("|")[0].split("$")[0] in text
    assert ("sens. benign" in text) is False


def test_every_format_has_every_class(comparison: Comparison, tmp_path: Path) -> None:
    report = make_report(comparison)
    found = json.loads(numbers(comparison, "json"))
    assert list(found["test_set"]["classes"]) == list(comparison.class_counts)
    [header, *rows] = csv.reader(io.StringIO(numbers(comparison, "csv")))
    assert all(len(row) == len(header) for row in rows) and len(set(header)) == len(header)
    for text in (to_terminal(report, 300), to_markdown(report), to_html(report, None)):
        assert "own-clinic" in text
    latex = to_latex(report)
    assert latex.isascii()
    for label in comparison.class_counts:
        assert latex_text(label.replace("_", " ")) in latex
    if shutil.which("pdflatex"):
        (tmp_path / "report.tex").write_text(latex)
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "report.tex"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:]


@pytest.mark.parametrize("name", ["roc_curves", "confusion_matrices", "intervals"])
def test_every_figure_is_drawn(comparison: Comparison, name: str) -> None:
    with drawing():
        figure = FIGURES[name][0](comparison)
        figure.set_dpi(50)
        figure.canvas.draw()


def test_tables_of_other_classes_are_not_compared(tmp_path: Path) -> None:
    write_cells(tmp_path, TWO, ("mobilenet",))
    ids, labels = np.arange(120).astype(str), np.arange(120) % 2
    table = Predictions(ids, labels, np.full((120, 2), 0.5), ("benign", "melanoma"))
    write_run(tmp_path, table, model="mobilenetv2", data="own-clinic")
    with pytest.raises(UserError, match="benign, malignant and benign, melanoma; expected tables"):
        compared(tmp_path)
