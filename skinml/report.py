"""The report of a run as one HTML file: `python -m skinml.report runs/…`.

A run writes its own at its end. This writes it once more from the run's folder: of an earlier
version, of results/, or for another prevalence. The run's own is not written over.
"""

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from skinml.base.errors import UserError, run_command
from skinml.base.files import write_out, write_whole
from skinml.config import Parser

# Beside a run's own report: that one holds images which no folder has, and the journal has noted
# its SHA-256, without which MLflow never gets it.
ANEW = "report-anew.html"

if TYPE_CHECKING:
    import numpy as np

    from skinml.evaluation.predictions import Predictions
    from skinml.tracking.folder import RunFolder


def report_html(folder: Path, prevalence: float | None = None) -> str:
    """The report of the run in a folder, its figures drawn anew from the predictions tables.

    The images of the mistakes are in the one that the run itself wrote: a folder has none.
    """
    from skinml.compare.formats.html import to_html
    from skinml.evaluation.operating_point import rule_of
    from skinml.evaluation.results import evaluate_tables
    from skinml.run.report import make_report
    from skinml.tracking.folder import PICTURES, RunFolder

    run = RunFolder.open(folder)
    description = run.read_description()
    tables = read_tables(run)
    metrics = evaluate_tables(tables, rule_of(description.params))
    with tempfile.TemporaryDirectory() as scratch:
        figures = draw_from_tables(run, tables, Path(scratch), prevalence)
        document = make_report(
            description, metrics, tables, figures, prevalence, (folder / PICTURES).is_file()
        )
        return to_html(document, Path(scratch))


def draw_from_tables(
    run: "RunFolder",
    tables: "Mapping[str, Predictions]",
    folder: Path,
    prevalence: float | None = None,
) -> frozenset[str]:
    """Draw a run's figures from its tables and history alone; the names of those drawn.

    All but that of the mistakes, whose images no run's folder has. `prevalence` is that of the
    decision curve, None for the test part's.
    """
    from skinml.evaluation.figures import FIGURES, FigureData, draw_figures
    from skinml.evaluation.operating_point import rule_of
    from skinml.run.report import figures_title
    from skinml.tracking.folder import METRICS

    description = run.read_description()
    best = run.read_metrics().get("best_epoch", 0) if (run.path / METRICS).is_file() else 0
    history = run.read_history()

    def no_images(rows: "np.ndarray") -> "np.ndarray":
        raise AssertionError("a run's folder holds no images")

    title = figures_title(description)
    rule = rule_of(description.params)
    data = FigureData(
        title, tables["test"], history, int(best), no_images, tables.get("validation"), rule,
        prevalence=prevalence,
    )  # fmt: skip
    names = [name for name in FIGURES if name != "mistakes"]
    draw_figures(data, folder, names)
    return frozenset(names)


def read_tables(run: "RunFolder") -> "dict[str, Predictions]":
    """The predictions tables of a run by part: the test part's, and validation's if it is there."""
    from skinml.evaluation.predictions import read_predictions
    from skinml.evaluation.results import PREFIXES

    parts = [part for part in PREFIXES if part == "test" or run.predictions(part).exists()]
    return {part: read_predictions(run.predictions(part)) for part in parts}


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="python -m skinml.report", description="A run's report as one HTML file.")
    parser.add_argument("folder", type=Path, help="the folder of a run: runs/… or of results/")
    parser.add_argument(
        "--out", type=Path,
        help="the file to write (FOLDER/report.html; in the folder of a run with a journal, whose "
        f"own report stays as it is, FOLDER/{ANEW})",
    )  # fmt: skip
    parser.add_argument(
        "--prevalence", type=float, metavar="SHARE",
        help="share of melanomas among the patients of costs and decision curve (that of the test)",
    )  # fmt: skip
    options = parser.parse_args(argv)
    share = options.prevalence
    if share is not None and not 0 < share < 1:
        raise UserError(f"--prevalence {share}: expected a share between 0 and 1, such as 0.02")
    html = report_html(options.folder, share)
    if options.out:
        write_out(options.out, html)
        print(options.out)
        return 0
    path = _own_place(options.folder)
    # The folder may be somebody else's: a link in it is replaced, not followed.
    write_whole(path, html)
    print(path)
    return 0


def _own_place(folder: Path) -> Path:
    from skinml.tracking.folder import JOURNAL, REPORT

    return folder / (ANEW if (folder / JOURNAL).exists() else REPORT)


if __name__ == "__main__":
    sys.exit(run_command(main))
