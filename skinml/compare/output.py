"""A comparison in every format, as a folder, and as a run of its own in MLflow."""

import csv
import dataclasses
import io
import json
import shutil
import sys
import tempfile
import textwrap
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skinml.base.files import file_name, read_json
from skinml.base.text import csv_cell
from skinml.data.isic2017 import NOTICE
from skinml.tracking.folder import HISTORY, RUN

if TYPE_CHECKING:
    from skinml.compare.comparison import Comparison, Points, Row, Vote
    from skinml.compare.document import Document
    from skinml.compare.robust import Robustness
    from skinml.compare.runs import RunRecord


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
        "cells": [_cell_as_dict(comparison, row) for row in comparison.rows],
        **(
            {"external": [test._asdict() for test in selection.external]}
            if selection.external
            else {}
        ),
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
        **({"operating_points": _points_as_dict(comparison.points)} if comparison.points else {}),
        "detectable_difference": {
            name: {"one_pair": s.detectable, "all_pairs": s.detectable_all}
            for name, s in comparison.standings.items()
        },
    }


def _vote_as_dict(vote: "Vote") -> dict[str, Any]:
    return {
        "networks": list(vote.networks),
        "metrics": {
            name: {"value": value.value, "low": value.low, "high": value.high}
            for name, value in vote.values.items()
        },
        "gains": {
            name: dict(zip(("value", "low", "high"), (gain.value, *gain.interval()), strict=True))
            for name, gain in vote.gains.items()
        },
    }


def _points_as_dict(points: "Points") -> dict[str, Any]:
    return {
        "class": points.label,
        "without": points.without,
        "cells": {
            str(cell): {
                name: {"sensitivity": found._asdict(), "specificity": spared._asdict()}
                for name, (found, spared) in by_rule.items()
            }
            for cell, by_rule in points.rates.items()
        },
        "tests": [dataclasses.asdict(test) for test in points.tests],
    }


def _cell_as_dict(comparison: "Comparison", row: "Row") -> dict[str, Any]:
    return {
        "model": row.cell.model,
        "batch_size": row.cell.batch_size,
        "runs": [run.run_id for run in row.runs],
        "metrics": {name: dataclasses.asdict(value) for name, value in row.values.items()},
        "costs": row.costs,
        "latency": dataclasses.asdict(row.latency) if row.latency else None,
        "variance": {name: dataclasses.asdict(c) for name, c in row.components.items()},
        "one_class": [found._asdict() for found in row.one_class],
        **({"vote": _vote_as_dict(vote)} if (vote := comparison.votes.get(row.cell)) else {}),
        "standing": {
            name: {
                "probability_best": s.probability_best[row.cell],
                "rank_low": s.rank_low[row.cell],
                "rank_high": s.rank_high[row.cell],
            }
            for name, s in comparison.standings.items()
        },
    }


def as_csv(comparison: "Comparison") -> str:
    """A row a cell: every metric with its interval and spread, then the costs.

    What cannot be computed is empty.
    """
    from skinml.compare.comparison import COSTS, EXPORTED

    out = io.StringIO()
    parts = [field.name for field in dataclasses.fields(comparison.rows[0].values["accuracy"])]
    metrics = list(comparison.rows[0].values)
    names = [f"{name}_{part}" if part != "value" else name for name in metrics for part in parts]
    exported = [name for name in EXPORTED if any(name in row.costs for row in comparison.rows)]
    known = [*COSTS, *exported]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["model", "batch_size", "runs", *names, *known, "one_class", "one_class_runs"])
    for row in comparison.rows:
        figures = [getattr(row.values[name], part) for name in metrics for part in parts]
        costs = [row.costs.get(name, "") for name in known]
        texts = ["" if value is None else value for value in map(_finite, (*figures, *costs))]
        answers = "/".join(sorted({found.label for found in row.one_class}))
        writer.writerow(
            [csv_cell(row.cell.model), row.cell.batch_size, len(row.runs), *texts, answers,
             len(row.one_class)]
        )  # fmt: skip
    return out.getvalue()


def write(
    document: "Document",
    data: Callable[[str], str],
    kind: str,
    pictures: Path | None,
    to_screen: bool = False,
) -> str:
    """A report in one format; `data` makes those of numbers alone, csv and json.

    Text has the width and the colours of a terminal where it goes `to_screen`, else always the
    same width and none.
    """
    from skinml.compare.document import Text
    from skinml.compare.formats.html import to_html
    from skinml.compare.formats.latex import to_latex
    from skinml.compare.formats.markdown import to_markdown
    from skinml.compare.formats.terminal import to_terminal

    if kind in ("csv", "json"):
        return data(kind)
    if kind == "markdown":
        return to_markdown(document, pictures.name if pictures else "")
    if kind == "latex":
        return to_latex(document)
    if kind == "html":
        return to_html(document, pictures)
    width = shutil.get_terminal_size((_WIDTH, 24)).columns if to_screen else _WIDTH
    text = to_terminal(document, width, to_screen and sys.stdout.isatty())
    # The top of a long report has scrolled away.
    verdicts = [block.text for block in document.blocks if isinstance(block, Text) and block.strong]
    return "\n".join([text, *(textwrap.fill(verdict, width) for verdict in verdicts), ""])


def numbers(comparison: "Comparison", kind: str, robust: "Robustness | None" = None) -> str:
    """A comparison as csv, or as json with what was found of its robustness."""
    if kind == "csv":
        return as_csv(comparison)
    found = as_dict(comparison)
    if robust:
        from skinml.compare.robust import as_rows

        found["robustness"] = as_rows(robust)
    # NaN is no JSON: what is undefined is null.
    return json.dumps(_finite(found), indent=2) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and value - value != 0 else value


def write_folder(
    comparison: "Comparison",
    folder: Path,
    all_pairs: bool = False,
    robust: "Robustness | None" = None,
    source: Path | None = None,
) -> None:
    """Write everything into a folder, runs included, from which `--from` rebuilds it.

    report.md, .tex, .html, .txt, table.csv, comparison.json, figures/, and runs/ with run.json,
    metrics.json, history.csv, predictions_test.csv and predictions_validation.csv of each run.
    Where the runs came from this very folder, the `source`, those that were left out stay in it.
    """
    from skinml.compare.figures import draw_figures
    from skinml.compare.report import make_report

    folder.mkdir(parents=True, exist_ok=True)
    figures = folder / "figures"
    draw_figures(comparison, figures)
    names = {kind: f"report{suffix}" for suffix, kind in SUFFIXES.items()}
    names |= {"csv": "table.csv", "json": "comparison.json"}
    document = make_report(comparison, all_pairs, robust)
    write_reports(document, partial(numbers, comparison, robust=robust), names, figures)
    # Whole, beside the runs that are there, before one of these is removed: the tables may come
    # from them.
    new, runs = folder / ".runs.part", folder / "runs"
    shutil.rmtree(new, ignore_errors=True)
    for run in comparison.selection.runs:
        _write_run(run, new)
    in_place = source is not None and source.resolve() in (folder.resolve(), runs.resolve())
    _forget_runs(runs, {run.run_id for run in comparison.selection.runs} if in_place else None)
    runs.mkdir(exist_ok=True)
    for own in sorted(new.iterdir()):
        place = runs / own.name
        while place.exists():  # Of a run that was left out, or of somebody else's.
            place = place.with_name(f"{place.name}-new")
        own.rename(place)
    new.rmdir()


def write_reports(
    document: "Document", data: Callable[[str], str], names: dict[str, str], figures: Path
) -> None:
    """Write a report in several formats, a file each, beside the folder of its figures."""
    for kind, name in names.items():
        text = write(document, data, kind, figures)
        (figures.parent / name).write_text(text, encoding="utf-8")


_RUN_FILES = {
    *(RUN, "metrics.json", HISTORY),
    *("predictions_test.csv", "predictions_validation.csv"),
}


def _forget_runs(folder: Path, of: set[str] | None) -> None:
    """Remove the runs of an earlier comparison, which a rebuilt one would have in its table.

    Those with these ids, or all. A folder that holds anything else was not written here, and stays.
    """
    for own in folder.glob("*/run.json"):
        ours = {path.name for path in own.parent.iterdir()} <= _RUN_FILES
        if ours and (of is None or _run_id(own) in of):
            shutil.rmtree(own.parent)


def _run_id(description: Path) -> str:
    """As a reader of the folder takes it: without one, a run is called by its folder."""
    try:
        return str(json.loads(description.read_text()).get("run_id", description.parent.name))
    except (OSError, ValueError, AttributeError):
        return ""


def _write_run(run: "RunRecord", folder: Path) -> None:
    from skinml.compare.runs import portable_params
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
        **_name_and_data(run),
    }
    (own / RUN).write_text(json.dumps(description, indent=2) + "\n")
    metrics = {k: v for k, v in sorted(run.metrics.items()) if "/" not in k}
    (own / "metrics.json").write_text(json.dumps(_finite(metrics), indent=2) + "\n")
    for part, table in (("test", run.predictions), ("validation", run.validation)):
        if table:
            write_predictions(table, own / f"predictions_{part}.csv")
    if history := run.find_file(HISTORY):
        shutil.copyfile(history, own / HISTORY)


def _name_and_data(run: "RunRecord") -> dict[str, Any]:
    """What a report of the run needs beside that, and its own run.json says; else nothing.

    Without the dataset's source, which may be a folder of the machine that trained.
    """
    path = run.find_file(RUN)
    try:
        told = read_json(path) if path else {}
        name, dataset = told["name"], dict(told["dataset"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {"name": str(name), "dataset": {k: v for k, v in dataset.items() if k != "source"}}


def log_comparison(
    comparison: "Comparison",
    experiment: str,
    all_pairs: bool = False,
    robust: "Robustness | None" = None,
) -> str:
    """Store a comparison in MLflow as a run of its own; returns the run's id."""
    from skinml.compare.document import Heading
    from skinml.compare.formats.markdown import to_markdown
    from skinml.compare.report import make_report
    from skinml.store.folders import log_folder

    report = make_report(comparison, all_pairs, robust)
    # MLflow cuts a tag at 8,000 characters: verdict and table, the whole lies beside them.
    end = next(n for n, block in enumerate(report.blocks) if isinstance(block, Heading))
    head = dataclasses.replace(report, blocks=report.blocks[:end])
    tags = {
        "kind": "comparison",
        "protocol": comparison.selection.runs[0].tags["protocol"],
        "data_digest": comparison.selection.runs[0].tags["data_digest"],
        "mlflow.note.content": to_markdown(head),
        **{f"verdict_{name}": s.verdict for name, s in comparison.standings.items()},
    }
    metrics = {
        f"probability_best_{name}/{cell}": probability
        for name, standing in comparison.standings.items()
        for cell, probability in standing.probability_best.items()
    }
    with tempfile.TemporaryDirectory() as scratch:
        write_folder(comparison, Path(scratch), all_pairs, robust)
        return log_folder(Path(scratch), "comparison", experiment, tags, metrics)
