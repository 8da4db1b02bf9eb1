"""Turn finished runs into the results table of the paper: `python -m skinml.compare`.

Reads a tracking server, a local store or a folder of predictions tables; never TensorFlow.
"""

import argparse
import csv
import io
import json
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skinml.base.errors import UserError, run_command, styled
from skinml.base.files import is_stream, write_out
from skinml.base.text import csv_cell
from skinml.compare.output import (
    FORMATS,
    SUFFIXES,
    log_comparison,
    numbers,
    write,
    write_folder,
    write_reports,
)
from skinml.config import Parser, is_true
from skinml.data.isic2017 import NOTICE

if TYPE_CHECKING:
    from skinml.compare.comparison import Comparison
    from skinml.compare.document import Document
    from skinml.compare.robust import Robustness
    from skinml.compare.runs import CellName


# Pictures of --pictures without a number, and the most of them: a page of paper has no more.
PICTURES, MOST_PICTURES = 4, 8


def _tag(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r}: expected NAME=VALUE")
    return name, value


def _parser() -> Parser:
    parser = Parser(
        prog="python -m skinml.compare",
        description="Compare finished runs: the paper's table, intervals, paired tests, a verdict.",
        epilog=NOTICE,
    )
    source = parser.add_argument_group("which runs (default: the newest complete comparable set)")
    source.add_argument("--experiment", help="experiment in MLflow (default: skinml, else Default)")
    source.add_argument("--sweep", metavar="RUN_ID", help="only the cells of this sweep run")
    source.add_argument("--protocol", choices=("paper", "challenge"))
    source.add_argument(
        "--tag", action="append", type=_tag, default=[], metavar="NAME=VALUE",
        help="only runs with this tag; may be repeated",
    )  # fmt: skip
    source.add_argument(
        "--grid", choices=("paper", "none"),
        help="the cells expected: the paper's nine, or whatever there is (default: paper; none for "
        "generated images)",
    )  # fmt: skip
    source.add_argument(
        "--from", dest="folder", type=Path, metavar="FOLDER",
        help="no server: committed predictions tables, as --out FOLDER writes them",
    )  # fmt: skip
    source.add_argument(
        "--paper", action="store_true", help="no runs: what the paper's own table can carry"
    )
    source.add_argument(
        "--published", type=Path, metavar="FILE.csv", help="the same for any table of accuracies"
    )
    source.add_argument("--n", type=int, help="test images of --paper or --published, where known")
    output = parser.add_argument_group("what comes out")
    output.add_argument("--format", choices=FORMATS, help="default: by --out's ending, or terminal")
    output.add_argument(
        "--all-pairs", action="store_true",
        help="list the pairs that are not shown to differ too (HTML and Markdown fold them)",
    )  # fmt: skip
    output.add_argument(
        "--robust", action="store_true",
        help="whether the verdict holds by other metrics, without near-duplicates among the test "
        "images, and by other rules of the kept epoch",
    )  # fmt: skip
    output.add_argument(
        "--pictures", type=int, nargs="?", const=PICTURES, metavar="COUNT",
        help="a figure of the test pictures on which the networks are most divided, with the map "
        f"of each answer (HTML or a folder; {PICTURES} if no number is given)",
    )  # fmt: skip
    output.add_argument(
        "--out", type=Path, metavar="PATH",
        help="a file (its ending names the format), or a folder for everything with the figures",
    )  # fmt: skip
    output.add_argument(
        "--log", nargs="?", const="True", default="False", metavar="True|False",
        help="store the comparison in MLflow as a run of its own",
    )  # fmt: skip
    return parser


def _without_empty(arguments: list[str]) -> list[str]:
    """Without the options whose value is empty: so MLproject says that one was not given."""
    kept: list[str] = []
    for argument in arguments:
        if argument == "" and kept and kept[-1].startswith("--"):
            kept.pop()
        else:
            kept.append(argument)
    return kept


def main(argv: list[str] | None = None) -> int:
    options = _parser().parse_args(_without_empty(sys.argv[1:] if argv is None else argv))
    options.log = is_true("log", options.log)
    # Nine bars for nine small tables would push the table that is asked for off the screen.
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    modes = [options.paper, options.published is not None, options.folder is not None]
    if sum(modes) > 1:
        raise UserError("expected one of --from, --paper and --published; they exclude each other")
    _refuse_what_has_no_effect(options)
    _check_out(options.out, options.format)
    if options.paper or options.published:
        return _published(options)
    experiment = options.experiment or ""
    if options.folder and options.log:
        from skinml.store.read import experiment_to_log

        # A folder's runs may come from anywhere: the comparison goes where runs usually go.
        experiment = experiment or experiment_to_log()
    elif not options.folder and not experiment:
        from skinml.store.read import experiment_to_read

        experiment = experiment_to_read()
    with tempfile.TemporaryDirectory() as scratch:
        from skinml.compare.analysis import analyse
        from skinml.compare.reading import from_tracking, runs_in_folder
        from skinml.compare.runs import paper_grid
        from skinml.compare.selection import select_readable

        grids: dict[str, list[CellName]] = {"paper": paper_grid(), "none": []}
        grid = grids.get(options.grid)
        if options.folder:
            selection = select_readable(runs_in_folder(options.folder), grid)
        else:
            filters = dict(options.tag)
            filters |= {"protocol": options.protocol} if options.protocol else {}
            selection = from_tracking(experiment, filters, Path(scratch), grid, options.sweep or "")
        comparison = analyse(selection)
        if options.pictures:
            from skinml.compare.pictures import same_pictures

            shown = same_pictures(comparison, options.pictures)
            comparison = replace(comparison, pictures=shown)
        robust = _output(comparison, options)
        if options.log:
            from skinml.store.access import store_is_needed

            with store_is_needed():
                run_id = log_comparison(comparison, experiment, options.all_pairs, robust)
            print(f"logged as run {run_id}", file=sys.stderr)
    return 0


def _wants_folder(options: argparse.Namespace) -> bool:
    """Whether --out names a folder of everything, not a file of one format."""
    return bool(options.out and not options.out.suffix and not options.format)


def _published(options: argparse.Namespace) -> int:
    """Hold a published table against arithmetic."""
    from skinml.compare.published.check import check_published
    from skinml.compare.published.figure import draw_intervals
    from skinml.compare.published.report import make_document
    from skinml.compare.published.table import PAPER_TABLE, read_published

    rows = list(PAPER_TABLE) if options.paper else read_published(options.published)
    checked = check_published(rows, options.n)
    document = make_document(checked)

    def data(kind: str) -> str:
        found = checked.as_dict()
        if kind == "csv":
            text = io.StringIO()
            writer = csv.DictWriter(text, found["rows"][0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(
                {name: csv_cell(value) for name, value in row.items()} for row in found["rows"]
            )
            return text.getvalue()
        return json.dumps(found, indent=2) + "\n"

    out = options.out
    if out and _wants_folder(options):
        pictures = draw_intervals(checked, out / "figures" / "intervals.png").parent
        names = {"markdown": "report.md", "html": "report.html"}
        names |= {"json": "report.json", "csv": "table.csv"}
        write_reports(document, data, names, pictures)
        print(f"everything is in {out}/: report.html, report.md, figures/", file=sys.stderr)
        return 0
    _emit_report(
        document,
        data,
        options,
        draw=lambda folder: draw_intervals(checked, folder / "intervals.png"),
    )
    return 0


def _output(comparison: "Comparison", options: argparse.Namespace) -> "Robustness | None":
    """Give a comparison out as it was asked for; returns what was found of its robustness."""
    from skinml.compare.figures import draw_figures
    from skinml.compare.report import make_report

    out = options.out
    robust = None
    if options.robust:
        from skinml.compare.robust import check_robustness

        robust = check_robustness(comparison)
    document = make_report(comparison, options.all_pairs, robust)
    data = partial(numbers, comparison, robust=robust)
    if out and _wants_folder(options):
        write_folder(comparison, out, options.all_pairs, robust, options.folder)
        text = write(document, data, "terminal", None, to_screen=True)
        _emit(text + "\n", None, "terminal")
        grid = " --grid none" if options.grid == "none" else ""
        print(
            f"everything is in {out}/; rebuild: python -m skinml.compare --from {out}{grid}",
            file=sys.stderr,
        )
        return robust
    _emit_report(document, data, options, draw=partial(draw_figures, comparison, pdf=False))
    return robust


def _emit_report(
    document: "Document",
    data: Callable[[str], str],
    options: argparse.Namespace,
    draw: Callable[[Path], Any],
) -> None:
    """Give out a report in one format; only a page holds figures, which `draw` puts in a folder."""
    kind = options.format or _kind_of(options.out)
    with tempfile.TemporaryDirectory() as scratch:
        pictures = Path(scratch) if kind == "html" else None
        if pictures:
            draw(pictures)
        text = write(document, data, kind, pictures, to_screen=options.out is None)
        _emit(text, options.out, kind)


def _refuse_what_has_no_effect(options: argparse.Namespace) -> None:
    """An option that would be passed over in silence is a `UserError`."""
    filters = ["sweep", "protocol", "tag"]
    if options.paper or options.published:
        source = "--paper" if options.paper else "--published"
        useless = [*filters, "experiment", "log", "all_pairs", "robust", "pictures"]
    elif options.folder:
        source, useless = "--from", [*filters, "n"]
    else:
        source, useless = "runs in MLflow", ["n"]
    given = [
        f"--{name.replace('_', '-')}"
        for name in useless
        if getattr(options, name) not in (None, False, [])
    ]
    if given:
        raise UserError(f"{', '.join(given)}: of no effect with {source}; expected to be left out")
    kind = options.format or SUFFIXES.get(options.out.suffix if options.out else "", "")
    if options.all_pairs and kind in ("csv", "json"):
        raise UserError(
            f"--all-pairs: of no effect on {kind} (json always has them, csv never); expected to "
            "be left out"
        )
    if options.robust and kind == "csv":
        raise UserError("--robust: of no effect on csv; expected to be left out, or another format")
    if options.pictures is not None:
        if not 1 <= options.pictures <= MOST_PICTURES:
            raise UserError(f"pictures={options.pictures}: expected 1 to {MOST_PICTURES}")
        if kind != "html" and not _wants_folder(options) and not options.log:
            raise UserError(
                "--pictures: of effect on HTML and on a folder alone; expected --out FOLDER, "
                "--out FILE.html, --format html or --log"
            )
    if options.n is not None and options.n < 1:
        raise UserError(f"n={options.n}: expected at least 1, the number of test images")


def _check_out(out: Path | None, kind: str | None) -> None:
    """Find out before a long computation that its result could not be written."""
    if out is None:
        return
    if out.is_dir() and (kind or out.suffix):
        what = kind or "a report"
        raise UserError(f"--out {out}: is a folder; expected the name of a file for {what}")
    if out.suffix or kind:
        if kind and SUFFIXES.get(out.suffix, kind) != kind:
            raise UserError(
                f"--out {out}: its ending is that of {SUFFIXES[out.suffix]}, expected {kind}'s; "
                "leave --format out, or choose another name"
            )
        if not kind:
            _kind_of(out)
        target = Path(os.path.realpath(out)).parent  # A link means what it leads to.
    else:
        target = out
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--out {out}: cannot be written ({error.strerror}: {error.filename}); expected a "
            "folder that may be written to"
        ) from None
    if not os.access(out if is_stream(out) else target, os.W_OK):
        raise UserError(f"--out {out}: expected a folder that may be written to")


def _kind_of(out: Path | None) -> str:
    if out is None:
        return "terminal"
    if out.suffix not in SUFFIXES:
        raise UserError(
            f"--out {out}: expected one of the endings {', '.join(SUFFIXES)}, a folder (no "
            "ending), or --format"
        )
    return SUFFIXES[out.suffix]


def _emit(text: str, out: Path | None, kind: str) -> None:
    if out is None:
        # For a terminal it has colours, and nothing else that a terminal obeys.
        stream = styled(sys.stdout) if kind == "terminal" else sys.stdout
        print(text, end="" if text.endswith("\n") else "\n", file=stream)
        return
    write_out(out, text)
    print(f"wrote {out}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(run_command(main))
