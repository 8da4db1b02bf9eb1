"""Which runs are compared: finished runs → the cells of one comparable set."""

import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from skinml.base.errors import NoAnswer, UserError
from skinml.compare.runs import _BEFORE, CELL, RECIPE, REPEATED, CellName, RunRecord, paper_grid
from skinml.compare.settings import differences_of
from skinml.config import options_given
from skinml.training.code_digest import common_part, trained_by, why_same

if TYPE_CHECKING:
    from skinml.store.external import ExternalTest


@dataclass(frozen=True)
class Selection:
    """One comparable set: the runs of each cell, the cells that are missing, and what to know.

    `cells` has the newest run of every seed and split of each cell, in the order of the grid.
    `same_test_set` are all finished runs of the test set, those of other recipes among them;
    `external` are tests of registered models on other data sets, which nothing is compared with.
    `left_out` says in words which runs of the same test set do not stand in the table, `code` what
    runs of other training code than today's are taken for, and `differences` which settings are not
    the same in all cells: setting → value → cells.
    """

    cells: dict[CellName, tuple[RunRecord, ...]]
    missing: tuple[CellName, ...]
    left_out: tuple[str, ...]
    code: tuple[str, ...]
    differences: dict[str, dict[str, tuple[CellName, ...]]]
    same_test_set: tuple[RunRecord, ...] = ()
    external: tuple["ExternalTest", ...] = ()

    @property
    def runs(self) -> list[RunRecord]:
        return [run for runs in self.cells.values() for run in runs]


def newest_of_each(runs: Iterable[RunRecord]) -> dict[CellName, list[RunRecord]]:
    """The newest run of each cell, seed and split, in one recipe a cell.

    Of several recipes that of most of the network's cells is taken, of equals that of most cells of
    all networks, of these the newest: a later trial of one cell does not take the place of a sweep,
    nor what was trained of one network alone that of a table of all.
    """
    newest_first = sorted(runs, key=lambda run: run.started, reverse=True)
    trained: dict[str, dict[tuple[str, ...], set[CellName]]] = {}
    of_all: dict[tuple[str, ...], set[CellName]] = {}
    for run in newest_first:
        recipes = trained.setdefault(run.cell.model, {})
        recipes.setdefault(run.recipe, set()).add(run.cell)
        of_all.setdefault(_alike(run.recipe), set()).add(run.cell)
    cells: dict[CellName, list[RunRecord]] = {}
    for run in newest_first:
        recipes = trained[run.cell.model]
        # `max` takes the first of equals, which is the newest.
        recipe = max(
            (recipe for recipe in recipes if run.cell in recipes[recipe]),
            key=lambda recipe: (len(recipes[recipe]), len(of_all[_alike(recipe)])),
        )
        chosen = cells.setdefault(run.cell, [])
        known = {other.repetition for other in chosen}
        if run.recipe == recipe and run.repetition not in known:
            chosen.append(run)
    return cells


def _alike(recipe: tuple[str, ...]) -> tuple[str, ...]:
    """A recipe without its weights: a file holds those of one network."""
    named = zip(RECIPE, recipe, strict=True)
    return tuple(value for name, value in named if name != "weights")


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

    `grid` names the cells expected, by default the paper's nine, of another data set none; cells
    beyond it are kept.
    """
    if not runs:
        raise UserError(
            "no finished run to compare here; expected some of `mlflow run . -e sweep` or "
            "`mlflow run .` (--experiment, MLFLOW_TRACKING_URI)"
        )
    expected = paper_grid() if grid is None else grid
    test_set = choose_test_set(runs, expected)
    same = [run for run in runs if run.test_set == test_set]
    grid = [] if grid is None and same[0].tags["data"] != "isic2017" else list(expected)
    chosen = newest_of_each(same)
    left_out = _passed_over(runs, same, sum(map(len, chosen.values())))
    shared = _shared_splits(chosen, grid)
    for cell in list(chosen):
        if not {run.tags["split"] for run in chosen[cell]} & shared:
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
        differences_of(cells),
        tuple(same),
    )


def _passed_over(runs: Sequence[RunRecord], same: Sequence[RunRecord], kept: int) -> list[str]:
    """In words: the runs of other test sets, and those of the `same` one that are not `kept`."""
    others = Counter(
        f"{run.tags['protocol']} protocol, data {run.tags['data_digest']}"
        for run in runs
        if run.test_set != same[0].test_set
    )
    told = [f"{count} of another test set ({name})" for name, count in others.items()]
    if len(same) > kept:
        told.append(
            f"{len(same) - kept} older ones of the same cell and seed, or with settings that fewer "
            "cells have"
        )
    return told


def _shared_splits(
    chosen: Mapping[CellName, Sequence[RunRecord]], grid: Sequence[CellName]
) -> set[str]:
    """The splits that every cell of the grid has runs of; where there is none, a `UserError`."""
    splits = {cell: {run.tags["split"] for run in runs} for cell, runs in chosen.items()}
    # A cell that was not asked for has no say in the splits of those that were.
    asked = [own for cell, own in splits.items() if cell in grid] or list(splits.values())
    shared = set.intersection(*asked)
    if not shared:
        raise UserError(
            f"the cells have no split in common, but {', '.join(sorted(set.union(*asked)))}; "
            "expected runs of one split_seed: --tag split=… chooses one of these"
        )
    return shared


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
    of = f"of {len(runs)} runs" if len(runs) > 1 else "run"
    return tuple(f"{count} {of}: {text}" for text, count in told.items())


def command_for(model: str, batch_sizes: Sequence[int], patterns: Sequence[RunRecord]) -> str:
    """The command that fills missing cells of a network like the runs `patterns` of another cell.

    A sweep of them, with the seeds and splits of the others; weights of another network's file
    are left to the reader.
    """
    pattern = patterns[-1]
    options = {"models": model, "batch_sizes": ",".join(map(str, batch_sizes))}
    for axis in REPEATED:
        values = sorted({int(run.params.get(axis, 0)) for run in patterns})
        if values != [0]:
            options[f"{axis}s"] = ",".join(map(str, values))
    params = pattern.params
    if pattern.tags["protocol"] == "paper":
        params = {"near_duplicates": _BEFORE["near_duplicates"]} | params
    for name, value in options_given(params).items():
        if name not in (*CELL, *REPEATED, "output_dir"):
            options[name] = value
    if pattern.tags["model"] != model and pattern.weights_kind == "file":
        # A file holds the weights of one network.
        options["weights"] = f"WEIGHTS_OF_{model}.h5"
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    return shlex.join(["python", "-m", "skinml.sweep", *words])


def select_readable(runs: Sequence[RunRecord], grid: Sequence[CellName] | None = None) -> Selection:
    """`select` among the runs whose predictions tables can be read, and are of the same images.

    The others are named on stderr and in `left_out`. Where none can be read, that is a `UserError`;
    a store that does not answer is one at once.
    """
    unreadable: dict[str, UserError] = {}
    others: dict[str, str] = {}
    while True:
        kept = [run for run in runs if run.run_id not in unreadable.keys() | others.keys()]
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
        if len(unreadable) > before:
            continue
        found = _of_other_images(selection.runs)
        for run_id, why in found.items():
            print(f"skinml: left out run {run_id}: {why}", file=sys.stderr)
        others |= found
        if not found:
            break
    told = [f"run {run_id}, whose table cannot be read" for run_id in unreadable]
    told += [f"run {run_id}, {why}" for run_id, why in others.items()]
    return replace(selection, left_out=(*selection.left_out, *told))


def _of_other_images(runs: Sequence[RunRecord]) -> dict[str, str]:
    """The runs that were tested on other images, or labels, than most of their split, and why."""
    tested: dict[str, dict[frozenset[tuple[str, int]], list[RunRecord]]] = {}
    for run in runs:
        table = run.predictions
        images = frozenset(zip(map(str, table.image_ids), map(int, table.labels), strict=True))
        tested.setdefault(run.tags["split"], {}).setdefault(images, []).append(run)
    found: dict[str, str] = {}
    labels: dict[str, int] = {}
    for split, groups in tested.items():
        # The largest group, the newest of equals.
        most, *odd = sorted(
            groups, key=lambda images: (len(groups[images]), groups[images][0].started)
        )[::-1]
        for images in odd:
            why = (
                f"tested on other images or labels than run {groups[most][0].run_id} of the same "
                f"split {split!r} ({len(images)} and {len(most)}, {len(images & most)} the same)"
            )
            found |= {run.run_id: why for run in groups[images]}
        # An image of two splits has one label.
        if any(labels.get(image_id, label) != label for image_id, label in most):
            why = f"of split {split!r}, whose labels are not those of another split"
            found |= {run.run_id: why for run in groups[most]}
        else:
            labels |= dict(most)
    return found
