"""Turn finished runs into the results table of the paper: `python -m skinml.compare`.

Reads a tracking server, a local store or a folder of predictions tables; never TensorFlow.
"""

import argparse
import csv
import dataclasses
import io
import json
import os
import shutil
import sys
import tempfile
import textwrap
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skinml.config import Parser
from skinml.data.isic2017 import NOTICE
from skinml.errors import UserError, run_command, styled
from skinml.files import file_name, write_whole

if TYPE_CHECKING:
    from mlflow.entities import Run

    from skinml.comparison.analysis import Comparison
    from skinml.comparison.document import Document
    from skinml.comparison.runs import CellName, RunRecord, Selection

SUFFIXES = {
    ".txt": "terminal",
    ".md": "markdown",
    ".tex": "latex",
    ".csv": "csv",
    ".json": "json",
    ".html": "html",
}
FORMATS = tuple(SUFFIXES.values())

# A terminal of this width shows the widest table unfolded; a pipe has no width of its own.
_WIDTH = 120


def from_tracking(
    experiment: str,
    filters: dict[str, str],
    folder: Path,
    grid: "Sequence[CellName] | None" = None,
    sweep: str = "",
) -> "Selection":
    """Choose the runs to compare among those of an experiment; their tables go to `folder`.

    `sweep` is the id of a sweep's run: its cells alone, those that it found done among them.
    Reads from the newest run backwards, until a whole page of older runs has added nothing and no
    cell that is still missing has a run that could.
    """
    from skinml.comparison.runs import IDENTITY, paper_grid, select_readable
    from skinml.tracking.read import PAGE, experiment_id, finished_runs

    grid = paper_grid() if grid is None else grid
    where = experiment_id(experiment)
    records: list[RunRecord] = []
    seen, foreign = _Seen(where, filters, sweep, grid), 0
    for number, run in enumerate(finished_runs(where, filters, sweep), 1):
        if all(name in run.data.tags for name in IDENTITY):
            try:
                record = _record(run, folder)
            except ValueError as error:
                print(f"skinml: left out run {run.info.run_id}: {error}", file=sys.stderr)
                continue
            records.append(record)
            seen.add(record)
        else:
            foreign += 1
        if number % PAGE == 0 and records and seen.enough():
            break
    if foreign:
        noun = "run" if foreign == 1 else "runs"
        print(
            f"skinml: left out {foreign} {noun} of another program (a training by skinml has "
            f"the tags {', '.join(IDENTITY)})",
            file=sys.stderr,
        )
    filters = filters | ({"sweep": sweep} if sweep else {})
    if filters and not records:
        told = ", ".join(f"{name}={value}" for name, value in filters.items())
        raise UserError(
            f"no finished run with {told} in experiment {experiment!r}; expected one at least: "
            "leave a filter out, or look for the values there are in the UI"
        )
    return select_readable(records, grid)


class _Seen:
    """What has been read of an experiment, newest first, and whether older runs can add to it."""

    def __init__(
        self, experiment: str, filters: dict[str, str], sweep: str, grid: "Sequence[CellName]"
    ) -> None:
        self._experiment, self._filters, self._sweep = experiment, filters, sweep
        self._grid = set(grid)
        # By test set, the newest first: its cells, and whatever tells two of its runs apart.
        self._cells: dict[tuple[str, ...], set[CellName]] = {}
        self._kinds: dict[tuple[str, ...], set[Any]] = {}
        self._before: Any = None
        self._there: dict[tuple[str, ...], bool] = {}

    def add(self, run: "RunRecord") -> None:
        self._cells.setdefault(run.test_set, set()).add(run.cell)
        kind = (run.cell, run.repetition, run.recipe)
        self._kinds.setdefault(run.test_set, set()).add(kind)

    def enough(self) -> bool:
        """Asked once a page: it added nothing to the test set chosen, and no older run can."""
        complete = [found for found, cells in self._cells.items() if self._grid <= cells]
        chosen = (complete or list(self._cells))[0]
        now = (chosen, len(self._kinds[chosen]))
        same, self._before = now == self._before, now
        if complete or not same:
            return same
        # The runs of one sweep are few, and asked for by more than tags.
        return not self._sweep and self._never_complete(chosen)

    def _never_complete(self, chosen: tuple[str, ...]) -> bool:
        """Whether no test set at all has the whole grid, nor the chosen one more of it."""
        missing = self._grid - self._cells[chosen]
        if all(self._exists(cell) for cell in missing):
            return False
        digest, protocol, *_ = chosen
        return not any(
            self._exists(cell) and self._exists(cell, data_digest=digest, protocol=protocol)
            for cell in missing
        )

    def _exists(self, cell: "CellName", **tags: str) -> bool:
        """Whether the store has a run of a cell; asked once, as each page would ask again."""
        from skinml.tracking.read import is_finished_run

        wanted = {"model": cell.model, "batch_size": str(cell.batch_size), **tags}
        key = tuple(wanted.values())
        if key not in self._there:
            # A filter of the user's for the same tag holds as well: none has both values.
            other = any(self._filters.get(name, value) != value for name, value in wanted.items())
            self._there[key] = not other and is_finished_run(
                self._experiment, self._filters | wanted
            )
        return self._there[key]


def _record(run: "Run", folder: Path) -> "RunRecord":
    from skinml.comparison.runs import make_record
    from skinml.evaluation.predictions import Predictions, read_predictions
    from skinml.tracking.read import download

    def load(run_id: str) -> Predictions:
        return read_predictions(
            download(run_id, "predictions_test.csv", folder / file_name(run_id))
        )

    return make_record(
        run.info.run_id,
        run.info.start_time,
        run.data.params,
        run.data.tags,
        run.data.metrics,
        partial(load, run.info.run_id),
    )


def as_dict(comparison: "Comparison") -> dict[str, Any]:
    """Everything that a comparison found, as JSON can hold it."""
    selection = comparison.selection
    return {
        "notice": NOTICE,
        "verdicts": {name: s.verdict for name, s in comparison.standings.items()},
        "winners": {
            name: str(s.winner) if s.winner else None for name, s in comparison.standings.items()
        },
        "test_set": {
            "images": comparison.images,
            "classes": comparison.class_counts,
            "data_digest": selection.runs[0].tags["data_digest"],
            "protocol": selection.runs[0].tags["protocol"],
            "splits": sorted({run.tags["split"] for run in selection.runs}),
        },
        "cells": [
            {
                "model": row.cell.model,
                "batch_size": row.cell.batch_size,
                "runs": [run.run_id for run in row.runs],
                "metrics": {name: dataclasses.asdict(value) for name, value in row.values.items()},
                "costs": row.costs,
                "latency": dataclasses.asdict(row.latency) if row.latency else None,
                "one_class": [found._asdict() for found in row.one_class],
                "standing": {
                    name: {
                        "probability_best": s.probability_best[row.cell],
                        "rank_low": s.rank_low[row.cell],
                        "rank_high": s.rank_high[row.cell],
                    }
                    for name, s in comparison.standings.items()
                },
            }
            for row in comparison.rows
        ],
        "missing": [str(cell) for cell in selection.missing],
        "left_out": list(selection.left_out),
        "training_code": list(selection.code),
        "settings_that_differ": {
            name: {value: [str(cell) for cell in cells] for value, cells in values.items()}
            for name, values in selection.differences.items()
        },
        "pairs": [dataclasses.asdict(test) for test in comparison.pairs],
        "planned": {
            question: [dataclasses.asdict(test) for test in tests]
            for question, tests in comparison.planned.items()
        },
        "alike": {
            name: [[str(cell) for cell in group] for group in s.alike]
            for name, s in comparison.standings.items()
        },
        "detectable_difference": {
            name: {"one_pair": s.detectable, "all_pairs": s.detectable_all}
            for name, s in comparison.standings.items()
        },
    }


def as_csv(comparison: "Comparison") -> str:
    """A row a cell: every metric with its interval and spread, then the costs.

    What cannot be computed is empty.
    """
    from skinml.comparison.analysis import COSTS, REPORTED

    out = io.StringIO()
    parts = [field.name for field in dataclasses.fields(comparison.rows[0].values["accuracy"])]
    names = [f"{name}_{part}" if part != "value" else name for name in REPORTED for part in parts]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["model", "batch_size", "runs", *names, *COSTS, "one_class", "one_class_runs"])
    for row in comparison.rows:
        figures = [getattr(row.values[name], part) for name in REPORTED for part in parts]
        costs = [row.costs.get(name, "") for name in COSTS]
        texts = ["" if value is None else value for value in map(_finite, (*figures, *costs))]
        answers = "/".join(sorted({found.label for found in row.one_class}))
        writer.writerow(
            [_cell(row.cell.model), row.cell.batch_size, len(row.runs), *texts, answers,
             len(row.one_class)]
        )  # fmt: skip
    return out.getvalue()


def _cell(value: Any) -> Any:
    """A value as a CSV file may hold it: a spreadsheet computes a text that begins like a formula.

    Such a text gets an apostrophe before it, a number none.
    """
    if not isinstance(value, str) or not value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def write(
    document: "Document", data: Callable[[str], str], kind: str, pictures: Path | None
) -> str:
    """A report in one format; `data` makes those of numbers alone, csv and json."""
    from skinml.comparison.document import Text, to_html, to_latex, to_markdown, to_terminal

    if kind in ("csv", "json"):
        return data(kind)
    if kind == "markdown":
        return to_markdown(document, pictures.name if pictures else "")
    if kind == "latex":
        return to_latex(document)
    if kind == "html":
        return to_html(document, pictures)
    width = shutil.get_terminal_size((_WIDTH, 24)).columns
    text = to_terminal(document, width, sys.stdout.isatty())
    # The top of a long report has scrolled away.
    verdicts = [block.text for block in document.blocks if isinstance(block, Text) and block.strong]
    return "\n".join([text, *(textwrap.fill(verdict, width) for verdict in verdicts), ""])


def numbers(comparison: "Comparison", kind: str) -> str:
    """A comparison as csv or json."""
    if kind == "csv":
        return as_csv(comparison)
    # NaN is no JSON: what is undefined is null.
    return json.dumps(_finite(as_dict(comparison)), indent=2) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and value - value != 0 else value


def write_folder(comparison: "Comparison", folder: Path, all_pairs: bool = False) -> None:
    """Write everything into a folder, runs included, from which `--from` rebuilds it.

    report.md, .tex, .html, .txt, table.csv, comparison.json, figures/, and runs/ with run.json,
    metrics.json and predictions_test.csv of each run.
    """
    from skinml.comparison.figures import draw_figures
    from skinml.comparison.report import make_report

    folder.mkdir(parents=True, exist_ok=True)
    figures = folder / "figures"
    draw_figures(comparison, figures)
    names = {kind: f"report{suffix}" for suffix, kind in SUFFIXES.items()}
    names |= {"csv": "table.csv", "json": "comparison.json"}
    document = make_report(comparison, all_pairs)
    _write_reports(document, partial(numbers, comparison), names, figures)
    _forget_runs(folder / "runs")
    for run in comparison.selection.runs:
        _write_run(run, folder / "runs")


def _write_reports(
    document: "Document", data: Callable[[str], str], names: dict[str, str], figures: Path
) -> None:
    """Write a report in several formats, a file each, beside the folder of its figures."""
    for kind, name in names.items():
        text = write(document, data, kind, figures)
        (figures.parent / name).write_text(text, encoding="utf-8")


_RUN_FILES = {"run.json", "metrics.json", "predictions_test.csv"}


def _forget_runs(folder: Path) -> None:
    """Remove the runs of an earlier comparison, which a rebuilt one would have in its table.

    A folder that holds anything else was not written here, and stays.
    """
    for own in folder.glob("*/run.json"):
        if {path.name for path in own.parent.iterdir()} <= _RUN_FILES:
            shutil.rmtree(own.parent)


def _write_run(run: "RunRecord", folder: Path) -> None:
    from skinml.comparison.runs import portable_params
    from skinml.evaluation.predictions import write_predictions

    seed, split = run.repetition
    split_seed = split.rpartition("seed=")[2] if "seed=" in split else "official"
    own = folder / file_name(f"{run.cell}-seed{seed}-split{split_seed}")
    own.mkdir(parents=True, exist_ok=True)
    description = {
        "run_id": run.run_id,
        "started": run.started,
        "params": portable_params(run.params),
        "tags": {k: v for k, v in sorted(run.tags.items()) if not k.startswith("mlflow.")},
    }
    (own / "run.json").write_text(json.dumps(description, indent=2) + "\n")
    metrics = {k: v for k, v in sorted(run.metrics.items()) if "/" not in k}
    (own / "metrics.json").write_text(json.dumps(_finite(metrics), indent=2) + "\n")
    write_predictions(run.predictions, own / "predictions_test.csv")


def log_comparison(comparison: "Comparison", experiment: str) -> str:
    """Store a comparison in MLflow as a run of its own; returns the run's id."""
    import mlflow

    from skinml.comparison.document import Heading, to_markdown
    from skinml.comparison.report import make_report
    from skinml.tracking.record import author

    report = make_report(comparison)
    # MLflow cuts a tag at 8,000 characters: verdict and table, the whole lies beside them.
    end = next(n for n, block in enumerate(report.blocks) if isinstance(block, Heading))
    head = dataclasses.replace(report, blocks=report.blocks[:end])
    tags = {
        **author(),
        "kind": "comparison",
        "protocol": comparison.selection.runs[0].tags["protocol"],
        "data_digest": comparison.selection.runs[0].tags["data_digest"],
        "mlflow.note.content": to_markdown(head),
        **{f"verdict_{name}": s.verdict for name, s in comparison.standings.items()},
    }
    # `mlflow run -e compare` has made the run already, in the experiment that it was given.
    made = "MLFLOW_RUN_ID" in os.environ
    if not made:
        mlflow.set_experiment(experiment)
    with tempfile.TemporaryDirectory() as scratch:
        write_folder(comparison, Path(scratch))
        with mlflow.start_run(run_name=None if made else "comparison", tags=tags) as run:
            mlflow.log_artifacts(scratch)
            for name, standing in comparison.standings.items():
                mlflow.log_metrics(
                    {
                        f"probability_best_{name}/{cell}": probability
                        for cell, probability in standing.probability_best.items()
                    }
                )
    return str(run.info.run_id)


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
        "--grid", choices=("paper", "none"), default="paper",
        help="the cells expected: the paper's nine, or whatever there is (default: paper)",
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
        "--out", type=Path, metavar="PATH",
        help="a file (its ending names the format), or a folder for everything with the figures",
    )  # fmt: skip
    output.add_argument(
        "--log", nargs="?", const="true", default="false", type=_truth, metavar="true|false",
        help="store the comparison in MLflow as a run of its own",
    )  # fmt: skip
    return parser


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r}: expected true or false")
    return text.lower() == "true"


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
        from skinml.tracking.read import experiment_to_log

        # A folder's runs may come from anywhere: the comparison goes where runs usually go.
        experiment = experiment or experiment_to_log()
    elif not options.folder and not experiment:
        from skinml.tracking.read import experiment_to_read

        experiment = experiment_to_read()
    with tempfile.TemporaryDirectory() as scratch:
        from skinml.comparison.analysis import analyse
        from skinml.comparison.runs import runs_in_folder, select_readable

        # The paper's nine cells are expected by default.
        grid: list[CellName] | None = [] if options.grid == "none" else None
        if options.folder:
            selection = select_readable(runs_in_folder(options.folder), grid)
        else:
            filters = dict(options.tag)
            filters |= {"protocol": options.protocol} if options.protocol else {}
            selection = from_tracking(experiment, filters, Path(scratch), grid, options.sweep or "")
        comparison = analyse(selection)
        _output(comparison, options)
        if options.log:
            from skinml.tracking.store import store_is_needed

            with store_is_needed():
                run_id = log_comparison(comparison, experiment)
            print(f"logged as run {run_id}", file=sys.stderr)
    return 0


def _published(options: argparse.Namespace) -> int:
    """Hold a published table against arithmetic."""
    from skinml.comparison.published import (
        PAPER_TABLE,
        check_published,
        draw_intervals,
        read_published,
    )

    rows = list(PAPER_TABLE) if options.paper else read_published(options.published)
    report = check_published(rows, options.n)

    def data(kind: str) -> str:
        found = report.as_dict()
        if kind == "csv":
            text = io.StringIO()
            writer = csv.DictWriter(text, found["rows"][0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(
                {name: _cell(value) for name, value in row.items()} for row in found["rows"]
            )
            return text.getvalue()
        return json.dumps(found, indent=2) + "\n"

    out, kind = options.out, options.format
    if out and not out.suffix and not kind:
        pictures = draw_intervals(report, out / "figures" / "intervals.png").parent
        names = {"markdown": "report.md", "html": "report.html"}
        names |= {"json": "report.json", "csv": "table.csv"}
        _write_reports(report.document(), data, names, pictures)
        print(f"everything is in {out}/: report.html, report.md, figures/", file=sys.stderr)
        return 0
    _emit_report(
        report.document(),
        data,
        options,
        draw=lambda folder: draw_intervals(report, folder / "intervals.png"),
    )
    return 0


def _output(comparison: "Comparison", options: argparse.Namespace) -> None:
    from skinml.comparison.figures import draw_figures
    from skinml.comparison.report import make_report

    out, kind = options.out, options.format
    document, data = make_report(comparison, options.all_pairs), partial(numbers, comparison)
    if out and not out.suffix and not kind:
        write_folder(comparison, out, options.all_pairs)
        _emit(write(document, data, "terminal", None) + "\n", None, "terminal")
        grid = " --grid none" if options.grid == "none" else ""
        print(
            f"everything is in {out}/; rebuild: python -m skinml.compare --from {out}{grid}",
            file=sys.stderr,
        )
        return
    _emit_report(document, data, options, draw=partial(draw_figures, comparison))


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
        _emit(write(document, data, kind, pictures), options.out, kind)


def _refuse_what_has_no_effect(options: argparse.Namespace) -> None:
    """An option that would be passed over in silence is a `UserError`."""
    filters = ["sweep", "protocol", "tag"]
    if options.paper or options.published:
        source = "--paper" if options.paper else "--published"
        useless = [*filters, "experiment", "log", "all_pairs"]
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
    if options.n is not None and options.n < 1:
        raise UserError(f"n={options.n}: expected at least 1, the number of test images")


def _check_out(out: Path | None, kind: str | None) -> None:
    """Find out before a long computation that its result could not be written."""
    if out is None:
        return
    if out.suffix and not out.is_dir():
        if kind and SUFFIXES.get(out.suffix, kind) != kind:
            raise UserError(
                f"--out {out}: its ending is that of {SUFFIXES[out.suffix]}, expected {kind}'s; "
                "leave --format out, or choose another name"
            )
        if not kind:
            _kind_of(out)
        target = out.parent
    else:
        target = out
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--out {out}: cannot be written ({error.strerror}: {error.filename}); expected a "
            "folder that may be written to"
        ) from None
    if not os.access(target, os.W_OK):
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
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, text)
    print(f"wrote {out}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(run_command(main))
