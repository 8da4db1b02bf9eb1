"""Which runs are compared: finished runs → the cells of one comparable set."""

import dataclasses
import re
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from skinml.code_digest import common_part, trained_by, training_digest, why_same
from skinml.config import Config
from skinml.errors import NoAnswer, UserError, first_line
from skinml.evaluation.predictions import Predictions, read_predictions
from skinml.files import read_json
from skinml.models.backbones import BACKBONES, PAPER_BACKBONES

PAPER_BATCH_SIZES = (16, 32, 64)

_FOLDERS = ("data_dir", "output_dir")

# The tags of a training by skinml that a comparison goes by.
IDENTITY = ("model", "batch_size", "seed", "split", "protocol", "data", "data_digest")

# What makes two runs of one cell repetitions of each other, and a test set its own.
_REPEATED = ("seed", "split_seed")
_CELL = ("model", "batch_size")
# What runs did of before a parameter was one.
_BEFORE = {"near_duplicates": "identical"}
_SPLIT = ("protocol", "test_fraction", "validation_fraction", "near_duplicates")


@dataclass(frozen=True, order=True)
class CellName:
    """A configuration of the grid: the network and its batch size."""

    model: str
    batch_size: int

    def __str__(self) -> str:
        return f"{self.model}-{self.batch_size}"


@dataclass(frozen=True, eq=False)
class RunRecord:
    """One finished run as it was tracked.

    `params` and `tags` are texts, `metrics` the final figures, `started` milliseconds since 1970;
    `load` reads the predictions table of its test part, which is done once.
    """

    run_id: str
    started: int
    params: dict[str, str]
    tags: dict[str, str]
    metrics: dict[str, float]
    load: Callable[[], Predictions]

    @property
    def cell(self) -> CellName:
        return CellName(self.tags["model"], int(self.tags["batch_size"]))

    @property
    def network(self) -> tuple[str, ...]:
        """What the time of an answer depends on beside the device: all that shapes the network."""
        return (self.tags["model"], self.setting("pooling"), self.setting("dense_units"))

    @property
    def device(self) -> str:
        """What the run was trained and timed on, such as "AMD EPYC (2 threads, tensorflow)"."""
        name, threads, backend = (
            self.params.get(key, "?") for key in ("device_name", "device_threads", "keras_backend")
        )
        return f"{name} ({threads} threads, {backend})"

    @property
    def repetition(self) -> tuple[str, str]:
        """Seed and split: what runs of different cells are paired by."""
        return self.tags["seed"], self.tags["split"]

    @property
    def test_set(self) -> tuple[str, ...]:
        """Data digest, protocol and fractions: what all runs of one table share."""
        return (self.tags["data_digest"], *(self.setting(name) for name in _SPLIT))

    @cached_property
    def predictions(self) -> Predictions:
        return self.load()

    def setting(self, name: str) -> str:
        """The value of a parameter as the run used it, with every `auto` filled in."""
        if name == "weights":
            return self.params.get("weights_digest", self.params.get(name, "?"))
        if name in _SPLIT[1:] and self.tags["protocol"] == "challenge":
            return "official"
        missing = _BEFORE.get(name, "?")
        return self.params.get(f"effective_{name}", self.params.get(name, missing))

    @property
    def recipe(self) -> tuple[str, ...]:
        """The settings of the run that its cell, seed and split do not name."""
        return tuple(self.setting(name) for name in RECIPE)

    @property
    def training_code(self) -> str:
        """The digest of the code that trained it, its own network's row apart.

        What counts as today's code has today's digest.
        """
        earlier = trained_by(self.tags | self.params)
        known = earlier and why_same(earlier, self.cell.model) is not None
        return common_part(training_digest(self.cell.model) if known else earlier) or "?"


# The parameters that decide a result, other than a cell's own.
RECIPE = tuple(
    option.name
    for option in fields(Config)
    if option.metadata["decides"] and option.name not in (*_REPEATED, *_CELL)
)


# The longest text of a run that a comparison goes by; MLflow's own limit for a parameter.
_LONGEST_TEXT = 6000


def make_record(
    run_id: Any,
    started: Any,
    params: Any,
    tags: Any,
    metrics: Any,
    load: Callable[[], Predictions],
) -> RunRecord:
    """A run from what a file or a server of somebody else says of it; odd values: `ValueError`."""
    if not isinstance(run_id, str) or not isinstance(started, int):
        raise ValueError("run_id and started: expected a text and milliseconds since 1970")
    for name, values in (("params", params), ("tags", tags), ("metrics", metrics)):
        if not isinstance(values, dict):
            raise ValueError(f"{name}: expected values by name, not {_excerpt(values)}")
    used = params | {name: tags.get(name) for name in IDENTITY}
    for name, value in used.items():
        if not isinstance(value, str):
            raise ValueError(f"{name}: expected a text, not {_excerpt(value)}")
        if len(value) > _LONGEST_TEXT:
            raise ValueError(f"{name}: {len(value)} letters, expected at most {_LONGEST_TEXT}")
    for name in (*IDENTITY, *(option.name for option in fields(Config))):
        if not used.get(name, "").isprintable():
            raise ValueError(f"{name}={_excerpt(used[name])}: expected a text that can be printed")
    if tags["model"] not in BACKBONES:
        raise ValueError(f"model={_excerpt(tags['model'])}: not a network of this skinml")
    for name in ("batch_size", "seed"):
        if not re.fullmatch("[0-9]{1,9}", tags[name]):
            raise ValueError(f"{name}={_excerpt(tags[name])}: expected a whole number")
    for name, value in metrics.items():
        # An undefined one is null in a file.
        if value is not None and not isinstance(value, int | float):
            raise ValueError(f"{name}: expected a number, not {_excerpt(value)}")
    texts = {name: value for name, value in tags.items() if isinstance(value, str)}
    try:
        figures = {name: float(value) for name, value in metrics.items() if value is not None}
    except OverflowError:
        raise ValueError("metrics: a whole number that no float holds") from None
    return RunRecord(run_id, started, params, texts, figures, load)


def _excerpt(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"


@dataclass(frozen=True)
class Selection:
    """One comparable set: the runs of each cell, the cells that are missing, and what to know.

    `cells` has the newest run of every seed and split of each cell, in the order of the grid.
    `left_out` says in words which runs of the same test set do not stand in the table, `code` what
    runs of other training code than today's are taken for, and `differences` which settings are not
    the same in all cells: setting → value → cells.
    """

    cells: dict[CellName, tuple[RunRecord, ...]]
    missing: tuple[CellName, ...]
    left_out: tuple[str, ...]
    code: tuple[str, ...]
    differences: dict[str, dict[str, tuple[CellName, ...]]]

    @property
    def runs(self) -> list[RunRecord]:
        return [run for runs in self.cells.values() for run in runs]


def paper_grid() -> list[CellName]:
    """The nine cells of the paper, in the order of its Table III."""
    return [CellName(model, size) for model in PAPER_BACKBONES for size in PAPER_BATCH_SIZES]


def newest_of_each(runs: Iterable[RunRecord]) -> dict[CellName, list[RunRecord]]:
    """The newest run of each cell, seed and split, in one recipe a cell.

    Of several recipes that of most of the network's cells is taken, the newest of equals: a later
    trial of one cell does not take the place of a sweep.
    """
    newest_first = sorted(runs, key=lambda run: run.started, reverse=True)
    trained: dict[str, dict[tuple[str, ...], set[CellName]]] = {}
    for run in newest_first:
        recipes = trained.setdefault(run.cell.model, {})
        recipes.setdefault(run.recipe, set()).add(run.cell)
    cells: dict[CellName, list[RunRecord]] = {}
    for run in newest_first:
        recipes = trained[run.cell.model]
        # `max` takes the first of equals, which is the newest.
        recipe = max((r for r in recipes if run.cell in recipes[r]), key=lambda r: len(recipes[r]))
        chosen = cells.setdefault(run.cell, [])
        known = {other.repetition for other in chosen}
        if run.recipe == recipe and run.repetition not in known:
            chosen.append(run)
    return cells


def choose_test_set(runs: Sequence[RunRecord], grid: Sequence[CellName]) -> tuple[str, ...]:
    """The test set with the newest run among those whose grid is complete, else the newest."""
    newest_first = sorted(runs, key=lambda run: run.started, reverse=True)
    sets = list(dict.fromkeys(run.test_set for run in newest_first))
    for test_set in sets:
        if set(grid) <= {run.cell for run in runs if run.test_set == test_set}:
            return test_set
    return sets[0]


def select(runs: Sequence[RunRecord], grid: Sequence[CellName] | None = None) -> Selection:
    """Choose one comparable set among finished runs; none at all is a `UserError`.

    `grid` names the cells expected, the paper's nine by default; cells beyond it are kept.
    """
    if not runs:
        raise UserError(
            "no finished run to compare here; expected some of `mlflow run . -e sweep` or "
            "`mlflow run .` (--experiment, MLFLOW_TRACKING_URI)"
        )
    grid = list(paper_grid() if grid is None else grid)
    test_set = choose_test_set(runs, grid)
    same = [run for run in runs if run.test_set == test_set]
    chosen = newest_of_each(same)
    left_out = []
    if len(runs) > len(same):
        others = Counter(
            f"{run.tags['protocol']} protocol, data {run.tags['data_digest']}"
            for run in runs
            if run.test_set != test_set
        )
        left_out += [f"{count} of another test set ({name})" for name, count in others.items()]
    kept = sum(map(len, chosen.values()))
    if len(same) > kept:
        left_out.append(
            f"{len(same) - kept} older ones of the same cell and seed, or with settings that fewer "
            "cells have"
        )
    splits = {cell: {run.tags["split"] for run in runs} for cell, runs in chosen.items()}
    # A cell that was not asked for has no say in the splits of those that were.
    asked = [own for cell, own in splits.items() if cell in grid] or list(splits.values())
    shared = set.intersection(*asked)
    if not shared:
        raise UserError(
            f"the cells have no split in common, but {', '.join(sorted(set.union(*asked)))}; "
            "expected runs of one split_seed: --tag split=… chooses one of these"
        )
    for cell in [cell for cell, own in splits.items() if not own & shared]:
        left_out.append(f"{cell}, of another split")
        del chosen[cell]
    alone = [run for runs in chosen.values() for run in runs if run.tags["split"] not in shared]
    if alone:
        left_out.append(f"{len(alone)} of a split that not every cell has")
    order = [*grid, *sorted(set(chosen) - set(grid))]
    cells = {
        name: tuple(
            sorted(
                (run for run in chosen[name] if run.tags["split"] in shared),
                key=lambda run: (run.tags["split"], int(run.tags["seed"])),
            )
        )
        for name in order
        if name in chosen
    }
    return Selection(
        cells,
        tuple(name for name in grid if name not in chosen),
        tuple(left_out),
        _other_code([run for runs in cells.values() for run in runs]),
        _differences(cells),
    )


def _other_code(runs: Sequence[RunRecord]) -> tuple[str, ...]:
    """What runs of other training code than today's are taken for, and why: a sentence each."""
    counts = Counter((trained_by(run.tags | run.params), run.cell.model) for run in runs)
    told: Counter[str] = Counter()
    for (earlier, model), count in counts.items():
        reason = why_same(earlier, model)
        code = common_part(earlier) or "that is not known"
        if reason:
            told[f"trained by code {code}, which counts as today's: {reason}"] += count
        elif reason is None:
            text = f"trained by other code than today's ({code}), and compared as they are: "
            text += "all figures here are computed by today's code, from their predictions tables"
            told[text] += count
    return tuple(f"{count} of {len(runs)} runs: {text}" for text, count in told.items())


def _differences(
    cells: dict[CellName, tuple[RunRecord, ...]],
) -> dict[str, dict[str, tuple[CellName, ...]]]:
    """Settings, and what else decides a result, that are not the same in every cell."""
    found = {}
    for name in (*RECIPE, "training_digest", "device_kind"):
        values: dict[str, list[CellName]] = {}
        for cell, runs in cells.items():
            for run in runs:
                value = run.training_code if name == "training_digest" else run.setting(name)
                if name == "weights":
                    kind = run.tags.get("weights_kind", "?")
                    value = f"file {value}" if kind == "file" else kind
                if cell not in values.setdefault(value, []):
                    values[value].append(cell)
        if len(values) > 1:
            found[name] = {value: tuple(names) for value, names in values.items()}
    return found


def command_for(model: str, batch_sizes: Sequence[int], patterns: Sequence[RunRecord]) -> str:
    """The command that fills missing cells of a network like the runs `patterns` of another cell.

    A sweep of them, with the seeds and splits of the others; weights of another network's file
    are left to the reader.
    """
    pattern = patterns[-1]
    options = {"models": model, "batch_sizes": ",".join(map(str, batch_sizes))}
    for axis in _REPEATED:
        values = sorted({int(run.params.get(axis, 0)) for run in patterns})
        if values != [0]:
            options[f"{axis}s"] = ",".join(map(str, values))
    defaults = {option.name: str(option.default) for option in fields(Config)}
    for option in dataclasses.fields(Config):
        value = pattern.params.get(option.name)
        if pattern.tags["protocol"] == "paper":
            value = value or _BEFORE.get(option.name)
        if option.name in (*_CELL, *_REPEATED, "output_dir"):
            continue
        if value not in (None, defaults[option.name]):
            options[option.name] = str(value)
    if pattern.tags["model"] != model and pattern.tags.get("weights_kind") == "file":
        # A file holds the weights of one network.
        options["weights"] = f"WEIGHTS_OF_{model}.h5"
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    return shlex.join(["python", "-m", "skinml.sweep", *words])


def portable_params(params: dict[str, str]) -> dict[str, str]:
    """Parameters as they may be published: without the folders of the machine that trained."""
    kept = {name: value for name, value in sorted(params.items()) if name not in _FOLDERS}
    if "weights" in kept:
        kept["weights"] = Path(kept["weights"]).name
    return kept


def _stamp(name: str) -> int:
    """When a run folder of skinml.run was made, by its name, in ms since 1970; else 0."""
    try:
        when = datetime.strptime(name[:15], "%Y%m%d-%H%M%S")
    except ValueError:
        return 0
    return int(when.replace(tzinfo=UTC).timestamp() * 1000)


def runs_in_folder(folder: Path) -> list[RunRecord]:
    """The runs whose predictions tables were committed or exported to a folder.

    Each lies in a folder of its own, anywhere below, with run.json, metrics.json and
    predictions_test.csv. A broken one is left out and named on stderr; nothing but broken ones is
    a `UserError`. Folders of skinml.run itself are left out
    where their run did not finish.
    """
    found, odd = [], []
    for path in sorted(folder.rglob("run.json")):
        own = path.parent
        try:
            description = read_json(path)
            if "run_id" not in description and not (own / "metrics.json").exists():
                continue
            found.append(
                make_record(
                    description.get("run_id", own.name),
                    description.get("started", _stamp(own.name)),
                    description["params"],
                    description["tags"],
                    read_json(own / "metrics.json"),
                    partial(read_predictions, own / "predictions_test.csv"),
                )
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            odd.append(
                f"{own}: not a run that `compare --out` or skinml.run wrote "
                f"({type(error).__name__}: {first_line(error)}); expected run.json, metrics.json "
                "and predictions_test.csv"
            )
    if odd and not found:
        raise UserError(odd[0])
    for text in odd:
        print(f"skinml: left out {text}", file=sys.stderr)
    if not found:
        raise UserError(
            f"{folder}: no run in it; expected folders with run.json, metrics.json and "
            "predictions_test.csv, as `python -m skinml.compare --out FOLDER` writes them"
        )
    return found


def select_readable(runs: Sequence[RunRecord], grid: Sequence[CellName] | None = None) -> Selection:
    """`select` among the runs whose predictions tables can be read; the others are named.

    Named on stderr and in `left_out`. Where none can be read, that is a `UserError`; a store that
    does not answer is one at once.
    """
    unreadable: dict[str, UserError] = {}
    while True:
        kept = [run for run in runs if run.run_id not in unreadable]
        if unreadable and not kept:
            raise next(iter(unreadable.values()))
        selection = select(kept, grid)
        before = len(unreadable)
        for run in selection.runs:
            try:
                run.predictions  # noqa: B018 - read once, kept in the record
            except NoAnswer:
                raise
            except UserError as error:
                unreadable[run.run_id] = error
                print(f"skinml: left out run {run.run_id}: {error}", file=sys.stderr)
        if len(unreadable) == before:
            break
    told = tuple(f"run {run_id}, whose table cannot be read" for run_id in unreadable)
    return replace(selection, left_out=(*selection.left_out, *told))
